//! Journals that a real kernel left behind: user-mode-linux writes to a volume
//! and is switched off before the journal is written out. e2fsck's replay of a
//! copy is the oracle.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use iofs_ext4::{Ext4Error, JournalError};
use support::{Image, contents, noise, run};

/// PID 1 of the guest, whose root is this machine's, read-only. The last
/// but one command switches it off without a sync.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t tmpfs none /mnt
mkdir /mnt/volume
mount -t ext4 -o "$OPTIONS" /dev/ubda /mnt/volume || echo o > /proc/sysrq-trigger
cd /mnt/volume
mkdir -p boot/new sub
for i in $(seq 1 300); do echo $i > sub/file-$i; done
for i in $(seq 1 40); do cat "$PAYLOAD" > boot/new/x$i; done
sync -f boot
rm -rf boot/new/x? sub
mv old.img boot/moved.img
ln -s new/init.img boot/link
cat "$PAYLOAD" "$PAYLOAD" > boot/new/init.img
for i in $(seq 1 50); do echo $i > boot/new/small-$i; done
sync boot/new/small-50 boot/new/init.img boot/new boot
echo last > boot/new/last
sync boot/new/last
echo o > /proc/sysrq-trigger
sleep 60
"#;

fn payload() -> Vec<u8> {
    noise(300_000, 8)
}

/// A volume in the state in which the kernel left it.
fn crash(mkfs: &[&str], options: &str) -> Image {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("boot")).unwrap();
    fs::write(tree.path().join("old.img"), noise(200_000, 5)).unwrap();
    let image = Image::make(mkfs, "64M", Some(tree.path()));
    let path = |name: &str| image.dir.path().join(name);
    fs::write(path("payload"), payload()).unwrap();
    let script = INIT
        .replace("$OPTIONS", options)
        .replace("$PAYLOAD", path("payload").to_str().unwrap());
    fs::write(path("init"), script).unwrap();
    run("chmod", &["+x", path("init").to_str().unwrap()]);
    let console = boot(&image.path, &path("init"));
    let header = run("dumpe2fs", &["-h", image.path.to_str().unwrap()]).stdout;
    let header = String::from_utf8_lossy(&header).into_owned();
    assert!(header.contains("needs_recovery"), "{header}\n{console}");
    image
}

fn boot(volume: &Path, init: &Path) -> String {
    // The console must be a pipe: a file cannot be waited for with epoll.
    let output = Command::new("timeout")
        .args([
            "-s",
            "KILL",
            // Takes five seconds; a machine that compiles meanwhile needs more.
            "300",
            "linux.uml",
            "mem=256M",
            "root=/dev/root",
        ])
        .args([
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "con=null",
            "con0=null,fd:1",
        ])
        .arg(format!("init={}", init.display()))
        .arg(format!("ubda={}", volume.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    // 127 is timeout's word for a program that it does not find.
    assert_ne!(
        output.status.code(),
        Some(127),
        "linux.uml is needed (Debian: user-mode-linux)"
    );
    assert!(output.status.success(), "{}: {console}", output.status);
    console
}

fn check(image: &Image) {
    let ext4 = image.open().unwrap();
    let info = ext4.info();
    assert!(info.needs_recovery && info.replayed_blocks > 10, "{info:?}");
    assert!(contents(image, &ext4, "boot/link") == [payload(), payload()].concat());
    assert!(contents(image, &ext4, "boot/moved.img") == noise(200_000, 5));
    assert!(matches!(
        ext4.entries("sub"),
        Err(Ext4Error::NotFound { .. })
    ));

    let fixed = image.copy();
    let fsck = run("e2fsck", &["-fy", fixed.path.to_str().unwrap()]);
    assert!(matches!(fsck.status.code(), Some(0 | 1)), "{fsck:?}");
    let after = fixed.open().unwrap();
    for path in ["", "boot", "boot/new"] {
        assert_eq!(ext4.entries(path).unwrap(), after.entries(path).unwrap());
    }
    for entry in ext4.entries("boot/new").unwrap() {
        let path = format!("boot/new/{}", String::from_utf8(entry.name).unwrap());
        assert_eq!(ext4.locate(&path), after.locate(&path), "{path}");
        assert!(contents(image, &ext4, &path) == fixed.dump(&path), "{path}");
    }
}

#[test]
fn ordered_mode() {
    check(&crash(&["-t", "ext4", "-b", "1024"], "data=ordered"));
    check(&crash(&["-t", "ext4", "-b", "4096"], "data=ordered"));
    check(&crash(&["-t", "ext3", "-b", "4096"], "data=ordered"));
}

/// Version 1 checksums, and commit blocks that do not wait for the rest.
#[test]
fn asynchronous_commits() {
    let options = "data=writeback,journal_async_commit";
    check(&crash(&["-t", "ext3", "-b", "1024"], options));
    check(&crash(&["-t", "ext4", "-b", "4096"], options));
}

#[test]
fn journalled_data_is_not_on_the_volume() {
    let image = crash(&["-t", "ext4", "-b", "4096"], "data=journal");
    let ext4 = image.open().unwrap();
    assert!(matches!(
        ext4.locate("boot/link"),
        Err(Ext4Error::OnlyInJournal { .. })
    ));
    assert!(contents(&image, &ext4, "boot/moved.img") == noise(200_000, 5));
}

#[test]
fn fast_commits_are_refused() {
    let image = crash(
        &["-t", "ext4", "-b", "4096", "-O", "fast_commit"],
        "data=ordered",
    );
    let error = image.open().unwrap_err();
    assert_eq!(error, Ext4Error::Journal(JournalError::FastCommits));
    // As the message says, mounting or checking the volume once helps.
    run("e2fsck", &["-fy", image.path.to_str().unwrap()]);
    let ext4 = image.open().unwrap();
    assert!(contents(&image, &ext4, "boot/link") == [payload(), payload()].concat());
}
