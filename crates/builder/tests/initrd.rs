//! Images of initramfs files that the real tools made, mounted by the kernel
//! and compared with what went in.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{ErrorKind, Silent, Source, build_image};
use common::*;
use std::fs;
use std::path::Path;

fn image_of(dir: &Path, bytes: &[u8]) -> (builder::BuiltImage, Mounted) {
    let request = initrd_request(dir, bytes);
    let built = build_image(&request, &Silent).unwrap();
    let mounted = Mounted::new(&request.output);
    (built, mounted)
}

#[test]
fn every_compression_gives_the_same_tree() {
    need(&[
        "cpio",
        "gzip",
        "zstd",
        "xz",
        "lz4",
        "bzip2",
        "mkfs.erofs",
        "mount",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    let archive = cpio(&tree);
    let expected = listing(&tree);
    let mut uuid = None;
    for command in [
        "cat",
        "gzip",
        "zstd -19",
        "zstd --ultra -22 --long=27",
        "xz --check=crc32",
        "xz --check=crc64",
        "xz --format=lzma",
        "bzip2",
        "lz4 -l",
        "lz4 -9",
    ] {
        let (built, mounted) = image_of(dir.path(), &pipe(command, &archive));
        assert_eq!(
            listing_of_image(&mounted.path, &expected),
            expected,
            "{command}"
        );
        // The UUID says what is inside, not how it came.
        assert_eq!(
            *uuid.get_or_insert(built.expect.uuid),
            built.expect.uuid,
            "{command}"
        );
        assert_eq!(built.summary.product, "test-1");
        assert_eq!(built.summary.plain_files, 1, "usr/lib/random");
        assert_eq!(
            built.expect,
            builder::expect_of(&built.summary.path).unwrap()
        );
    }
}

#[test]
fn later_segments_overlay_earlier_ones() {
    need(&["cpio", "gzip", "zstd", "xz", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, script: &str| {
        let tree = dir.path().join(name);
        fs::create_dir(&tree).unwrap();
        sh(&tree, script);
        cpio(&tree)
    };
    let mut bytes = make(
        "a",
        "mkdir -p usr/lib etc; ln -s usr/lib lib; echo first > etc/file; echo kept > etc/kept; \
         mkdir etc/becomes-file; echo x > etc/becomes-dir; ln etc/file etc/hard",
    );
    // As initramfs-tools makes it: plain, then compressed, unaligned.
    bytes.extend(pipe(
        "zstd",
        &make("b", "mkdir etc; chmod 700 etc; echo second, longer > etc/file; echo f > etc/becomes-file; mkdir etc/becomes-dir"),
    ));
    bytes.extend([0; 7]);
    bytes.extend(pipe(
        "gzip",
        &make("c", "mkdir lib; echo replaced > lib/through-dir"),
    ));
    bytes.extend(pipe("xz --check=crc32", &raw_through_link()));
    let (_, mounted) = image_of(dir.path(), &bytes);
    let read = |path: &str| fs::read_to_string(mounted.path.join(path)).unwrap();
    assert_eq!(read("etc/file"), "second, longer\n");
    // The kernel writes over the file itself: its other name sees it.
    assert_eq!(read("etc/hard"), "second, longer\n");
    assert_eq!(read("etc/kept"), "kept\n");
    assert_eq!(read("etc/becomes-file"), "f\n");
    assert!(mounted.path.join("etc/becomes-dir").is_dir());
    // A folder replaces a link of the same name.
    assert_eq!(read("lib/through-dir"), "replaced\n");
    assert!(!mounted.path.join("lib").is_symlink());
    assert_eq!(read("usr/other/through-link"), "inside");
    let lines = listing(&mounted.path);
    assert!(lines["etc"].starts_with("dir 700 "), "{}", lines["etc"]);
}

/// An archive that writes through an absolute link that it made before.
fn raw_through_link() -> Vec<u8> {
    [
        raw_dir("usr"),
        raw_dir("usr/other"),
        raw_link("alias", "/usr/other"),
        raw_file("alias/through-link", b"inside"),
        trailer(),
    ]
    .concat()
}

#[test]
fn several_archives_in_one_compressed_segment() {
    need(&["zstd", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    // The same inode number in both: not a hard link across a trailer.
    let mut inner = [raw_file("one", b"1"), trailer()].concat();
    inner.resize(inner.len() + 512, 0);
    // A file of several chunks, so that one lies across a border of the reader.
    inner.extend(
        [
            raw_file("two", &vec![b'2'; 5 << 20]),
            raw_file("odd", b"12345"),
        ]
        .concat(),
    );
    inner.extend(trailer());
    let (built, mounted) = image_of(dir.path(), &pipe("zstd", &inner));
    assert_eq!(
        fs::read(mounted.path.join("two")).unwrap(),
        vec![b'2'; 5 << 20]
    );
    assert_eq!(fs::read(mounted.path.join("one")).unwrap(), b"1");
    // Four, and what it says of itself with three folders.
    assert_eq!(built.summary.files, 8);
}

#[test]
fn data_that_ends_at_a_border_of_the_reader() {
    need(&["zstd", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    // Files of every length modulo 4 whose data end where the reader's first
    // chunk (1 MiB) does.
    for end in 0..6 {
        let header = raw_file("big", b"").len();
        let data = vec![b'x'; (1 << 20) - header + 3 - end];
        let inner = [
            raw_file("big", &data),
            raw_file("after", b"here"),
            trailer(),
        ]
        .concat();
        let (_, mounted) = image_of(dir.path(), &pipe("zstd", &inner));
        assert_eq!(fs::read(mounted.path.join("big")).unwrap(), data);
        assert_eq!(
            fs::read(mounted.path.join("after")).unwrap(),
            b"here",
            "{end}"
        );
    }
}

#[test]
fn early_segments_are_kept_apart_as_they_are() {
    need(&["cpio", "zstd", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let microcode = dir.path().join("microcode");
    fs::create_dir(&microcode).unwrap();
    sh(
        &microcode,
        "mkdir -p kernel/x86/microcode; echo 1 > early_cpio; \
         head -c 5000 /dev/urandom > kernel/x86/microcode/GenuineIntel.bin",
    );
    let tables = dir.path().join("tables");
    fs::create_dir(&tables).unwrap();
    sh(
        &tables,
        "mkdir -p kernel/firmware/acpi; echo t > kernel/firmware/acpi/dsdt.aml",
    );
    let mut early = cpio(&microcode);
    early.extend(cpio(&tables));
    let main = sample_tree(dir.path());
    let mut bytes = early.clone();
    bytes.extend(pipe("zstd", &cpio(&main)));
    let (built, mounted) = image_of(dir.path(), &bytes);
    assert_eq!(built.early, early);
    let main = listing(&main);
    assert_eq!(listing_of_image(&mounted.path, &main), main);

    // The first archive of initramfs-tools is plain too, but no early one.
    let modules = [raw_dir("usr"), raw_file("usr/x", b"y"), trailer()].concat();
    let (built, mounted) = image_of(dir.path(), &modules);
    assert!(built.early.is_empty());
    assert!(mounted.path.join("usr/x").is_file());

    // Only early segments: that is no initramfs.
    let request = initrd_request(dir.path(), &early);
    let error = build_image(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("no initramfs"), "{error}");
}

fn refused(bytes: &[u8]) -> builder::Error {
    let dir = tempfile::tempdir().unwrap();
    let request = initrd_request(dir.path(), bytes);
    let error = build_image(&request, &Silent).unwrap_err();
    assert!(!request.output.exists(), "a failed build leaves nothing");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["initrd"], "a failed build leaves nothing");
    error
}

#[test]
fn hostile_names_cannot_leave_the_stage() {
    need(&["mkfs.erofs", "mount"]);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let error = refused(&[raw_file("../../escape", b"x"), trailer()].concat());
    assert_eq!(error.kind(), ErrorKind::Input);
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains(".."), "{why}");

    // An absolute name, and links that lead out, stay inside; a link itself is
    // replaced and never written through.
    let dir = tempfile::tempdir().unwrap();
    let absolute = text(&target);
    let bytes = [
        raw_file(&absolute, b"x"),
        raw_link("out", &text(outside.path())),
        raw_file("out/through", b"x"),
        raw_link("up", "../../../../../../.."),
        raw_file("up/tmp-from-above", b"x"),
        raw_link("file", &text(&target)),
        raw_file("file", b"own"),
        raw_link("loop-a", "loop-b"),
        raw_link("loop-b", "loop-a"),
        raw_file("loop-a/x", b"x"),
        raw_file(&"n".repeat(300), b"x"),
        raw_file("missing/parent", b"x"),
        raw_dir("."),
        trailer(),
    ]
    .concat();
    let (built, mounted) = image_of(dir.path(), &bytes);
    assert!(!target.exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!Path::new("/tmp-from-above").exists());
    assert_eq!(fs::read(mounted.path.join("file")).unwrap(), b"own");
    assert_eq!(fs::read(mounted.path.join("tmp-from-above")).unwrap(), b"x");
    // What the kernel would pass over is named: the absolute name's folder, the
    // folder behind `out`, the loop, the long name, the missing folder.
    assert_eq!(
        built.summary.warnings.len(),
        5,
        "{:#?}",
        built.summary.warnings
    );
}

#[test]
fn damage_and_bombs_are_refused() {
    need(&["zstd", "xz", "gzip", "mkfs.erofs"]);
    // A file that says it is larger than what is there.
    let error = refused(&raw_entry("big", 0o100_644, (0, 0), 0xffff_fff0, b"few"));
    assert_eq!(error.kind(), ErrorKind::Input);
    let error = refused(&pipe(
        "zstd",
        &raw_entry("big", 0o100_644, (0, 0), 0xffff_fff0, b"few"),
    ));
    assert_eq!(error.kind(), ErrorKind::Input);
    // Cut off in the middle of each format.
    let archive = [
        raw_file(
            "a",
            &(0..200_000).map(|n| (n % 251) as u8).collect::<Vec<_>>(),
        ),
        trailer(),
    ]
    .concat();
    for command in [
        "zstd",
        "xz --check=crc32",
        "gzip",
        "lz4 -l",
        "lz4",
        "bzip2",
        "xz --format=lzma",
    ] {
        let packed = pipe(command, &archive);
        let error = refused(&packed[..packed.len() / 2]);
        assert_eq!(error.kind(), ErrorKind::Input, "{command}: {error}");
    }
    // Junk behind.
    assert_eq!(
        refused(&[archive.as_slice(), b"junk"].concat()).kind(),
        ErrorKind::Input
    );
    let inner = pipe("zstd", &[archive.as_slice(), b"junk"].concat());
    assert_eq!(refused(&inner).kind(), ErrorKind::Input);
    // By name.
    let error = refused(b"\x89LZO\x00\x0d\x0a\x1a\x0arest of it");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("lzop"), "{error}");
    assert!(error.advice().is_some());

    // Zeros without end, in few bytes.
    let dir = tempfile::tempdir().unwrap();
    let mut bomb = raw_entry("zeros", 0o100_644, (0, 0), 64 << 20, &[]);
    bomb.resize(bomb.len() + (64 << 20), 0);
    let packed = pipe("zstd -1", &bomb);
    let mut request = initrd_request(dir.path(), &packed);
    request.limits.unpacked_bytes = 16 << 20;
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Limit
    );
    request.limits.unpacked_bytes = 65 << 20;
    request.limits.entries = 0;
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Limit
    );
    request.limits.entries = 1;
    build_image(&request, &Silent).unwrap();
}

#[test]
fn run_init_is_replaced_and_kept() {
    need(&["cpio", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    sh(
        &tree,
        "mkdir -p usr/bin usr/lib/klibc/bin scripts/init-top conf; touch conf/initramfs.conf
         ln -s usr/bin bin; cp /bin/true usr/bin/busybox
         ln usr/bin/busybox usr/bin/switch_root; ln -s /bin/busybox usr/bin/run-init
         cp /bin/false usr/lib/klibc/bin/run-init
         printf '#!/bin/sh\\nexec run-init /root /sbin/init\\n' > init; chmod 755 init",
    );
    let ours = dir.path().join("our-run-init");
    fs::copy("/bin/sh", &ours).unwrap();
    let mut request = initrd_request(dir.path(), &cpio(&tree));
    let error = build_image(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("run-init"), "{error}");

    request.run_init = Some(ours.clone());
    let built = build_image(&request, &Silent).unwrap();
    assert_eq!(
        built.summary.adjustments.len(),
        3,
        "{:#?}",
        built.summary.adjustments
    );
    let mounted = Mounted::new(&request.output);
    let bytes = fs::read(&ours).unwrap();
    for name in [
        "usr/bin/run-init",
        "usr/bin/switch_root",
        "usr/lib/klibc/bin/run-init",
    ] {
        let path = mounted.path.join(name);
        assert!(!path.is_symlink());
        assert!(fs::read(&path).unwrap() == bytes, "{name}");
        assert!(
            mounted
                .path
                .join(format!("{name}.distribution"))
                .symlink_metadata()
                .is_ok()
        );
    }
    // busybox's other names are still busybox.
    assert!(
        fs::read(mounted.path.join("usr/bin/busybox")).unwrap() == fs::read("/bin/true").unwrap()
    );

    // With systemd, switch_root is of no concern.
    sh(
        &tree,
        "mkdir -p usr/lib/systemd; touch usr/lib/systemd/systemd; rm usr/bin/run-init usr/lib/klibc/bin/run-init",
    );
    let mut request = initrd_request(dir.path(), &cpio(&tree));
    request.run_init = None;
    let built = build_image(&request, &Silent).unwrap();
    assert!(built.summary.adjustments.is_empty());
    assert!(
        built
            .summary
            .warnings
            .iter()
            .any(|w| w.contains("initrd-release"))
    );
}

#[test]
fn a_missing_input_is_named() {
    need(&["mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let request = common::plain(
        Source::Initrd("/does/not/exist".into()),
        dir.path().join("image"),
    );
    let error = build_image(&request, &Silent).unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
