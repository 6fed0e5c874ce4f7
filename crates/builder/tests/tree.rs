//! Images of root trees: every attribute survives, and the same tree gives the
//! same bytes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{ErrorKind, ImageCompression, Silent, Source, build_image};
use common::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A tree with what cpio cannot carry, too.
fn rich_tree(dir: &Path) -> std::path::PathBuf {
    let tree = sample_tree(dir);
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(
            tree.join(path),
            name,
            value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap_or_else(|e| panic!("the folder for temporary files lacks {name}: {e}"));
    };
    fs::copy("/bin/true", tree.join("usr/bin/ping")).unwrap();
    sh(&tree, "setcap cap_net_raw+ep usr/bin/ping");
    set("etc/os-release", "user.note", b"a value\0with a NUL");
    set("etc/os-release", "trusted.overlay.opaque", b"y");
    set("usr/lib/numbers", "user.long", &[b'v'; 900]);
    set("run/private", "user.on-a-folder", b"1");
    set("dangling", "trusted.on-a-link", b"2");
    let _socket = UnixListener::bind(tree.join("run/socket")).unwrap();
    tree
}

#[test]
fn a_root_tree_survives_whole() {
    need(&["setcap", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = rich_tree(dir.path());
    let before = listing(&tree);
    for compression in [
        ImageCompression::None,
        ImageCompression::default(),
        ImageCompression::Lz4hc {
            level: 1,
            cluster: 4096,
        },
    ] {
        let mut request = common::plain(Source::Root(tree.clone()), dir.path().join("image"));
        request.compression = compression;
        build_image(&request, &Silent).unwrap();
        let mounted = Mounted::new(&request.output);
        assert_eq!(listing_of_image(&mounted.path, &before), before);
        assert!(before["usr/bin/ping"].contains("security.capability"));
    }
    assert_eq!(listing(&tree), before, "the tree itself is not touched");
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    need(&["setcap", "mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = rich_tree(dir.path());
    let build = |tree: &Path, name: &str| {
        let request = common::plain(Source::Root(tree.to_owned()), dir.path().join(name));
        let built = build_image(&request, &Silent).unwrap();
        (built.expect.uuid, fs::read(&request.output).unwrap())
    };
    let first = build(&tree, "first");
    assert!(first == build(&tree, "again"));

    // Another copy: other inode numbers, other times, made in another order.
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    sh(
        &copy,
        "cd ../tree; find . -type d | sort -r | while read -r d; do mkdir -p \"../copy/$d\"; done
         find . -depth ! -type d | sort -r | cpio --quiet -pdm ../copy
         find . -type d | while read -r d; do chmod --reference=\"$d\" \"../copy/$d\"; done
         touch -d @99 ../copy/etc/os-release; touch ../copy",
    );
    for (path, attributes) in [
        (
            "etc/os-release",
            &["user.note", "trusted.overlay.opaque"][..],
        ),
        ("usr/lib/numbers", &["user.long"]),
        ("run/private", &["user.on-a-folder"]),
        ("dangling", &["trusted.on-a-link"]),
        ("usr/bin/ping", &["security.capability"]),
    ] {
        for name in attributes {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(tree.join(path), *name, &mut value[..]).unwrap();
            rustix::fs::lsetxattr(
                copy.join(path),
                *name,
                &value[..len],
                rustix::fs::XattrFlags::empty(),
            )
            .unwrap();
        }
    }
    assert_eq!(listing(&copy), listing(&tree), "the copy is one");
    let other = build(&copy, "copy.image");
    assert_eq!(other.0, first.0);
    assert!(other.1 == first.1, "the bytes differ");

    // Any change that an image keeps changes the UUID.
    for change in [
        "chmod 700 etc",
        "chown 5:5 usr/lib/random",
        "printf x >> etc/empty",
        "ln -sf /elsewhere dangling",
        "rm run/pipe",
        "setfattr_missing=1; rm usr/bin/tool-again; cp -p usr/bin/tool usr/bin/tool-again",
    ] {
        sh(&copy, change);
        let changed = build(&copy, "changed.image").0;
        assert_ne!(changed, first.0, "{change}");
    }
}

#[test]
fn other_file_systems_and_the_output_stay_out() {
    need(&["mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("mnt")).unwrap();
    fs::create_dir_all(tree.join("var/tmp")).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    sh(&tree, "mount -t tmpfs tmpfs mnt; touch mnt/secret");
    let mut request = common::plain(Source::Root(tree.clone()), tree.join("image"));
    // Even a stage inside the tree does not go into it.
    request.work_dir = Some(tree.join("var/tmp"));
    let built = build_image(&request, &Silent);
    sh(&tree, "umount mnt");
    let built = built.unwrap();
    assert!(
        built.summary.warnings.iter().any(|w| w.contains("mnt")),
        "{:?}",
        built.summary.warnings
    );
    let mounted = Mounted::new(&request.output);
    let names: Vec<String> = listing_of_image(&mounted.path, &BTreeMap::new())
        .into_keys()
        .collect();
    assert_eq!(names, ["", "file", "mnt", "var", "var/tmp"]);
}

#[test]
fn limits_and_wrong_orders() {
    need(&["mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    let mut request = common::plain(Source::Root(tree.clone()), dir.path().join("image"));
    request.limits.unpacked_bytes = 100_000;
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Limit
    );
    request.limits = builder::Limits {
        entries: 3,
        ..Default::default()
    };
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Limit
    );
    request.limits = Default::default();
    for compression in [
        ImageCompression::Lz4hc {
            level: 0,
            cluster: 65536,
        },
        ImageCompression::Lz4hc {
            level: 9,
            cluster: 5000,
        },
        ImageCompression::Lz4hc {
            level: 9,
            cluster: 2 << 20,
        },
    ] {
        request.compression = compression;
        assert_eq!(
            build_image(&request, &Silent).unwrap_err().kind(),
            ErrorKind::Usage
        );
    }
    request.compression = ImageCompression::default();
    request.source = Source::Root(tree.join("etc/os-release"));
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Usage
    );
    // The old image stays where the new one cannot be built.
    fs::write(&request.output, "old").unwrap();
    request.source = Source::Root(dir.path().join("nothing"));
    build_image(&request, &Silent).unwrap_err();
    assert_eq!(fs::read(&request.output).unwrap(), b"old");
}

#[test]
fn the_ordered_uuid_and_time_are_in_the_image() {
    need(&["mkfs.erofs", "dump.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    let mut request = common::plain(Source::Root(tree), dir.path().join("image"));
    let uuid: builder::Uuid = "c1b9d5a2-f162-11cf-9ece-0020afc76f16".parse().unwrap();
    request.uuid = Some(uuid);
    request.timestamp = 1_700_000_000;
    let built = build_image(&request, &Silent).unwrap();
    assert_eq!(built.expect.uuid, uuid);
    let said = sh(
        dir.path(),
        "dump.erofs -s image; TZ=UTC dump.erofs --path=/etc/os-release image",
    );
    assert!(
        said.contains("c1b9d5a2-f162-11cf-9ece-0020afc76f16"),
        "{said}"
    );
    assert!(said.contains("2023-11-14 22:13:20"), "{said}");
}

#[test]
fn what_does_not_compress_is_stored_plain_whatever_its_name() {
    need(&["mkfs.erofs", "dump.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let odd = [
        "plain",
        "0 1 spaces\tand tabs",
        "br[a-z]ck.ts(*)+?{2}|^$",
        "back\\slash",
        "gr\u{fc}n",
        "new\nline",
    ];
    for name in odd {
        fs::create_dir(tree.join(name)).unwrap();
        sh(
            &tree.join(name),
            "head -c 200000 /dev/urandom > random; seq 1 40000 > numbers",
        );
    }
    // Half of it compresses well: worth it.
    sh(&tree, "cat plain/random plain/numbers > half");
    let expected = listing(&tree);
    let request = common::plain(Source::Root(tree), dir.path().join("image"));
    let built = build_image(&request, &Silent).unwrap();
    assert_eq!(built.summary.plain_files, 6);
    assert_eq!(built.summary.plain_bytes, 6 * 200_000);
    let mounted = Mounted::new(&request.output);
    assert_eq!(listing_of_image(&mounted.path, &expected), expected);
    let layout = |path: &str| {
        let output = std::process::Command::new("dump.erofs")
            .arg(format!("--path=/{path}"))
            .arg(&request.output)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let layout = said
            .split("Layout: ")
            .nth(1)
            .unwrap_or_else(|| panic!("{path}: {said}"));
        layout.chars().next().unwrap()
    };
    for name in odd {
        // 0 and 2 are plain, 1 and 3 compressed (erofs_fs.h).
        assert!("02".contains(layout(&format!("{name}/random"))), "{name}");
        assert!("13".contains(layout(&format!("{name}/numbers"))), "{name}");
    }
    assert!("13".contains(layout("half")));
}
