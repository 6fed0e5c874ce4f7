//! Kernel modules inside images: decompressed, and modprobe still finds them.
//! The modules are those of Debian's user-mode-linux.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{ErrorKind, Silent, Source, build_image};
use common::*;
use std::fs;
use std::path::{Path, PathBuf};

const UML: &str = "/usr/lib/uml/modules";

fn uml_release() -> String {
    let mut names: Vec<_> = fs::read_dir(UML)
        .expect("this test needs the package user-mode-linux")
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.pop().expect("a kernel")
}

/// A root with part of UML's modules, compressed by `command` to `suffix`, and
/// metadata as a depmod that knows the format writes it.
fn tree(dir: &Path, command: &str, suffix: &str) -> (PathBuf, String) {
    let release = uml_release();
    let tree = dir.join(format!("tree{suffix}"));
    let modules = tree.join("usr/lib/modules").join(&release);
    fs::create_dir_all(&modules).unwrap();
    sh(
        &tree,
        &format!(
            "ln -s usr/lib lib
             cd usr/lib/modules/{release}
             for d in fs/overlayfs fs/erofs fs/btrfs drivers/md crypto lib arch; do
               [ -d {UML}/{release}/kernel/$d ] || continue
               mkdir -p kernel/$d; cp -r {UML}/{release}/kernel/$d/. kernel/$d/
             done
             cp {UML}/{release}/modules.order {UML}/{release}/modules.builtin* .
             depmod -b ../../../.. {release}
             chown 3:4 kernel/fs/erofs/erofs.ko; chmod 640 kernel/fs/erofs/erofs.ko
             mkdir -p weak-updates; ln -s ../kernel/fs/erofs/erofs.ko{suffix} weak-updates/erofs.ko{suffix}
             find kernel -name '*.ko' -exec {command} {{}} +
             sed -i 's/\\.ko\\b/.ko{suffix}/g' modules.dep
             echo stale > modules.dep.bin"
        ),
    );
    (tree, release)
}

#[test]
fn modprobe_finds_decompressed_modules() {
    need(&[
        "xz",
        "zstd",
        "gzip",
        "depmod",
        "modprobe",
        "mkfs.erofs",
        "mount",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for (command, suffix) in [
        ("xz --check=crc32 -0", ".xz"),
        ("zstd -q --rm -1", ".zst"),
        ("gzip -1", ".gz"),
    ] {
        let (tree, release) = tree(dir.path(), command, suffix);
        let request = common::plain(Source::Root(tree), dir.path().join("image"));
        let built = build_image(&request, &Silent).unwrap();
        assert!(built.summary.decompressed_modules > 40);
        let mounted = Mounted::new(&request.output);
        let root = mounted.path.to_str().unwrap();
        let lines = listing(&mounted.path);
        assert!(!lines.keys().any(|name| name.ends_with(suffix)), "{suffix}");
        let erofs = &lines[&format!("usr/lib/modules/{release}/kernel/fs/erofs/erofs.ko")];
        assert!(erofs.contains(" 640 3:4 "), "{erofs}");
        assert!(
            lines[&format!("usr/lib/modules/{release}/weak-updates/erofs.ko")]
                .starts_with("link to ../kernel/fs/erofs/erofs.ko "),
        );

        // The oracle: a depmod over the same modules, never compressed.
        let oracle = dir.path().join(format!("oracle{suffix}"));
        fs::create_dir(&oracle).unwrap();
        sh(
            &oracle,
            &format!(
                "cp -a {root}/. .; rm -r usr/lib/modules/{release}/weak-updates; depmod -b . {release}"
            ),
        );
        for module in [
            "btrfs",
            "overlay",
            "erofs",
            "dm-raid",
            "dm-verity",
            "dm-thin-pool",
        ] {
            let show = |base: &str| {
                sh(
                    dir.path(),
                    &format!(
                        "modprobe -C /dev/null -d {base} -S {release} --show-depends {module}"
                    ),
                )
                .replace(base, "")
            };
            let ours = show(root);
            assert_eq!(ours, show(oracle.to_str().unwrap()), "{module}");
            for line in ours.lines().filter(|line| line.starts_with("insmod")) {
                let path = line.split_whitespace().nth(1).unwrap();
                assert!(Path::new(&format!("{root}{path}")).is_file(), "{line}");
            }
        }
        images.push(fs::read(&request.output).unwrap());
    }
    // How the modules were compressed leaves no trace.
    assert!(images.iter().all(|image| *image == images[0]));
}

#[test]
fn links_of_the_image_do_not_lead_to_the_hosts_modules() {
    need(&["gzip", "mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside/6.0");
    fs::create_dir_all(&outside).unwrap();
    let victim = outside.join("victim.ko.gz");
    fs::write(&victim, pipe("gzip", b"\x7fELF victim")).unwrap();
    fs::write(outside.join("modules.dep"), "victim.ko.gz:\n").unwrap();
    let before = listing(dir.path().join("outside").as_path());

    let absolute = dir.path().join("outside").to_str().unwrap().to_owned();
    let tree = dir.path().join("tree");
    for (target, inner) in [
        (absolute.clone(), "usr/lib/modules"),
        (format!("../../../../../..{absolute}"), "lib/modules"),
    ] {
        let _ = fs::remove_dir_all(&tree);
        let link = tree.join(inner);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let request = common::plain(Source::Root(tree.clone()), dir.path().join("image"));
        let built = build_image(&request, &Silent).unwrap();
        assert_eq!(built.summary.decompressed_modules, 0);
    }
    assert_eq!(listing(dir.path().join("outside").as_path()), before);

    // modules.dep itself as a link.
    let _ = fs::remove_dir_all(&tree);
    let modules = tree.join("usr/lib/modules/6.0");
    fs::create_dir_all(&modules).unwrap();
    std::os::unix::fs::symlink(outside.join("modules.dep"), modules.join("modules.dep")).unwrap();
    fs::write(modules.join("own.ko.gz"), pipe("gzip", b"\x7fELF own")).unwrap();
    let request = common::plain(Source::Root(tree), dir.path().join("image"));
    assert_eq!(
        build_image(&request, &Silent)
            .unwrap()
            .summary
            .decompressed_modules,
        1
    );
    assert_eq!(listing(dir.path().join("outside").as_path()), before);
}

#[test]
fn modules_with_several_names_or_shorter_than_their_files_are_whole() {
    need(&["gzip", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let modules = tree.join("usr/lib/modules/6.0");
    fs::create_dir_all(&modules).unwrap();
    let short = b"\x7fELF short".to_vec();
    let long = [b"\x7fELF".as_slice(), &[7; 90_000]].concat();
    // A name of each is no module's, and keeps what it had.
    for (name, bytes) in [("short", &short), ("long", &long)] {
        let packed = modules.join(format!("{name}.ko.gz"));
        fs::write(&packed, pipe("gzip -1", bytes)).unwrap();
        fs::hard_link(&packed, modules.join(format!("{name}-linked.ko.gz"))).unwrap();
        fs::hard_link(&packed, modules.join(format!("{name}.kept"))).unwrap();
        fs::copy(&packed, modules.join(format!("{name}-alone.ko.gz"))).unwrap();
    }
    let request = common::plain(Source::Root(tree.clone()), dir.path().join("image"));
    let built = build_image(&request, &Silent).unwrap();
    assert_eq!(built.summary.decompressed_modules, 6);
    let mounted = Mounted::new(&request.output);
    for (name, bytes) in [("short", short), ("long", long)] {
        let inside = mounted.path.join("usr/lib/modules/6.0");
        for end in ["", "-linked", "-alone"] {
            let module = fs::read(inside.join(format!("{name}{end}.ko"))).unwrap();
            assert_eq!(module, bytes, "{name}{end}");
        }
        let kept = fs::read(inside.join(format!("{name}.kept"))).unwrap();
        assert_eq!(
            kept,
            fs::read(modules.join(format!("{name}.ko.gz"))).unwrap()
        );
    }
}

#[test]
fn a_damaged_module_is_named() {
    need(&["xz", "mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let modules = tree.join("lib/modules/6.0");
    fs::create_dir_all(&modules).unwrap();
    let good = pipe("xz", &[b"\x7fELF".as_slice(), &[7; 90_000]].concat());
    let request = common::plain(Source::Root(tree.clone()), dir.path().join("image"));
    for bad in [
        good[..good.len() / 2].to_vec(),
        pipe("xz", b"no module"),
        [good.as_slice(), &good].concat(),
        b"\x89LZO\x00\x0d\x0a\x1a\x0a".to_vec(),
    ] {
        fs::write(modules.join("broken.ko.xz"), bad).unwrap();
        let error = build_image(&request, &Silent).unwrap_err();
        assert!(error.to_string().contains("broken.ko.xz"), "{error}");
    }
    // Zeros without end.
    fs::write(
        modules.join("broken.ko.xz"),
        pipe("head -c 40000000 /dev/zero | xz -0", b""),
    )
    .unwrap();
    let mut small = request.clone();
    small.limits.module_bytes = 1 << 20;
    assert_eq!(
        build_image(&small, &Silent).unwrap_err().kind(),
        ErrorKind::Limit
    );
}
