//! Images that are the operating system: what is refused, and what of the tree is
//! changed for it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{ErrorKind, ImageRequest, PersistentVar, Silent, Source, System, build_image};
use common::*;
use std::fs;
use std::path::{Path, PathBuf};

/// The least tree that passes, with an fstab of an installed machine.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for folder in [
        "etc",
        "boot",
        "usr/bin",
        "usr/sbin",
        "usr/lib/systemd/system",
        "run",
        "proc",
    ] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::os::unix::fs::symlink("usr/sbin", tree.join("sbin")).unwrap();
    for (file, text) in [
        ("usr/sbin/init", "#!/bin/sh\n"),
        ("usr/lib/systemd/systemd", "systemd"),
        ("usr/lib/os-release", "ID=test\nVERSION_ID=1\n"),
        ("etc/machine-id", "9a3c6f2d1c0e4d149a3c6f2d1c0e0a02\n"),
        (
            "etc/fstab",
            "# by hand\nUUID=1 / ext4 errors=remount-ro 0 1\nUUID=2 /home ext4 defaults 0 2\n\
             UUID=3 /var xfs defaults 0 2\n",
        ),
        ("usr/lib/systemd/system/systemd-sysext.service", "[Unit]\n"),
        ("usr/bin/systemd-sysext", "x --image-policy= x"),
        ("usr/lib/systemd/system/systemd-confext.service", "[Unit]\n"),
        ("usr/bin/systemd-confext", "of systemd 252"),
    ] {
        fs::write(tree.join(file), text).unwrap();
    }
    tree
}

fn order(dir: &Path, tree: &Path, var: Option<PersistentVar>) -> ImageRequest {
    ImageRequest {
        system: Some(System { var }),
        ..common::plain(Source::Root(tree.to_owned()), dir.join("image"))
    }
}

fn var(source: &str, encrypted: bool) -> Option<PersistentVar> {
    Some(PersistentVar {
        source: source.into(),
        encrypted,
    })
}

#[test]
fn trees_that_are_no_system_are_refused() {
    need(&["mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let refused = |what: &str, var| {
        let error = build_image(&order(dir.path(), &tree, var), &Silent).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(!dir.path().join("image").exists());
        error.kind()
    };
    let release = tree.join("etc/initrd-release");
    fs::write(&release, "ID=dracut\n").unwrap();
    assert_eq!(refused("it is an initrd", None), ErrorKind::Input);
    fs::remove_file(release).unwrap();
    assert_eq!(
        refused("no systemd-cryptsetup", var("LABEL=v", true)),
        ErrorKind::Input
    );
    assert_eq!(
        refused("names no partition", var("/dev/vda3", false)),
        ErrorKind::Usage
    );
    fs::remove_file(tree.join("usr/lib/os-release")).unwrap();
    assert_eq!(refused("no os-release", None), ErrorKind::Input);
    for init in ["usr/sbin/init", "usr/lib/systemd/systemd"] {
        fs::remove_file(tree.join(init)).unwrap();
    }
    assert_eq!(refused("has no init", None), ErrorKind::Input);
}

#[test]
fn what_would_fail_below_an_overlay_is_changed() {
    need(&["mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let before = listing(&tree);
    fs::write(tree.join("usr/lib/systemd/systemd-cryptsetup"), "x").unwrap();
    let request = order(dir.path(), &tree, var("PARTLABEL=var", true));
    let built = build_image(&request, &Silent).unwrap();
    fs::remove_file(tree.join("usr/lib/systemd/systemd-cryptsetup")).unwrap();
    assert_eq!(listing(&tree), before, "the tree itself is not touched");

    let image = Mounted::new(&request.output);
    let read = |path: &str| fs::read_to_string(image.path.join(path)).unwrap();
    assert_eq!(
        read("etc/fstab"),
        "# by hand\n# initoverlayfs: the root is the image\n\
         #UUID=1 / ext4 errors=remount-ro 0 1\nUUID=2 /home ext4 defaults 0 2\n\
         # initoverlayfs: another /var was asked for\n#UUID=3 /var xfs defaults 0 2\n\
         /dev/mapper/var /var auto defaults 0 2\n"
    );
    assert_eq!(
        read("etc/crypttab"),
        "var PARTLABEL=var none luks,tpm2-device=auto\n"
    );
    assert_eq!(read("etc/machine-id"), "");
    for folder in ["dev", "sys", "efi", "var"] {
        assert!(image.path.join(folder).is_dir(), "{folder}");
    }
    let units = "usr/lib/systemd/system";
    let drop_in = |unit: &str| read(&format!("{units}/{unit}.d/10-initoverlayfs.conf"));
    assert!(drop_in("systemd-sysext.service").contains(
        "\nExecStart=systemd-sysext --image-policy=root=signed+absent:usr=signed+absent refresh\n"
    ));
    assert!(drop_in("systemd-confext.service").contains("ConditionPathExists=!/"));
    assert!(drop_in("boot-efi.mount").contains("Upholds=initoverlayfs-hold@boot-efi.service"));
    assert!(read(&format!("{units}/initoverlayfs-hold@.service")).contains("--bind -o ro"));
    let told = built.summary.adjustments.join("\n");
    for part in ["/etc/fstab: the line of /", "machine-id", "/sys is made"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}
