//! Images of ours as portable services and as containers: systemd's own tools attach
//! and start what `build` wrote, and refuse what was changed or is by a stranger. And one
//! extension for both: what storage-init has merged in the initrd, the system's
//! systemd-sysext takes from the same file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::guest::ROOT_LABEL;
use vmtest::set::Set;
use vmtest::tools::Tools;

use crate::support::{Ground, Key, expect, facts, fail};
use crate::{Test, look};

pub(crate) const TESTS: &[Test] = &[Test::new(
    "portable_services_and_containers_start_from_an_image",
    portable,
)];

/// What is in the extension.
const SHARED: &str = "once on the disk";

/// What the service and the containers say.
const SAID: &str = "hello from the image of this test";

/// What of the tools the guest does not have: systemd-container, the library by which
/// systemd sets up dm-verity, and the rules by which udev tells that library that it is
/// done: without them it waits for ever.
const CONTAINER: &[&str] = &[
    "usr/bin/portablectl",
    "usr/bin/systemd-nspawn",
    "usr/lib/udev/rules.d/55-dm.rules",
    "usr/lib/udev/rules.d/60-persistent-storage-dm.rules",
    "usr/lib/udev/rules.d/95-dm-notify.rules",
    "usr/sbin/dmsetup",
    "usr/lib/systemd/portable",
    "usr/lib/systemd/systemd-portabled",
    "usr/lib/systemd/system/dbus-org.freedesktop.portable1.service",
    "usr/lib/systemd/system/systemd-portabled.service",
    "usr/share/dbus-1/system-services/org.freedesktop.portable1.service",
    "usr/share/dbus-1/system.d/org.freedesktop.portable1.conf",
    "usr/lib/x86_64-linux-gnu/libcryptsetup.so.12",
    "usr/lib/x86_64-linux-gnu/libcryptsetup.so.12.10.0",
    "usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1",
    "usr/lib/x86_64-linux-gnu/libjson-c.so.5",
    "usr/lib/x86_64-linux-gnu/libjson-c.so.5.4.0",
];

/// Runs at multi-user.
const LOOK: &str = r#"
tar -C / -xf /efi/container.tar 2>&1 | fact tar
ldconfig
mkdir -p /etc/verity.d
cp /efi/hello.crt /etc/verity.d/
cp /efi/hello.raw /efi/changed.raw /root/
udevadm control --reload
systemctl daemon-reload
systemctl reload dbus
portablectl attach --runtime --profile=trusted /root/hello.raw 2>&1 | fact attach
portablectl list 2>&1 | fact list
timeout 60 systemctl start hello.service 2>&1 | fact start
journalctl -u hello.service -o cat 2>&1 | fact portable
portablectl detach --runtime /root/hello.raw 2>&1 | fact detach
# Where nobody vouches for the image, systemd 257 was not done after 100 s.
mkdir -p /var/lib/extensions
ln -s "$(ls /efi/*/*/extensions/shared.raw)" /var/lib/extensions/
cat /usr/share/shared 2>/dev/null | fact before
timeout 60 systemd-sysext --image-policy=root=signed refresh 2>&1 | fact refresh
cat /usr/share/shared 2>&1 | fact shared
losetup --list --noheadings --output BACK-FILE | fact loops
container() {
    timeout 40 systemd-nspawn --quiet --register=no --keep-unit --read-only --console=pipe \
        --timezone=off --resolv-conf=off --image-policy=root=signed \
        --image="/root/$1.raw" \
        /bin/busybox cat /usr/share/hello </dev/null >/root/said 2>&1
    echo " (status $?)" >>/root/said
    fact "$2" </root/said
}
container hello container
container changed changed
rm /etc/verity.d/hello.crt
container hello stranger
"#;

/// A root with one program and one service.
fn tree(ground: &Ground, dir: &Path) -> Result<PathBuf, Failed> {
    let tree = dir.join("hello");
    let from = ground.guest.tree();
    for folder in ["dev", "etc", "proc", "run", "sys", "tmp", "var/tmp"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    for (name, text) in [
        ("etc/machine-id", ""),
        ("etc/resolv.conf", ""),
        (
            "usr/lib/os-release",
            "ID=hello\nVERSION_ID=1\nPRETTY_NAME=Hello\nPORTABLE_PREFIXES=hello\n",
        ),
        (
            "usr/lib/systemd/system/hello.service",
            "[Unit]\nDescription=Says hello\n[Service]\nType=oneshot\n\
             ExecStart=/bin/busybox cat /usr/share/hello\n",
        ),
        ("usr/share/hello", SAID),
    ] {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().ok_or("a file has a folder")?)?;
        fs::write(path, text)?;
    }
    for name in [
        "usr/bin/busybox",
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/libresolv.so.2",
    ] {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().ok_or("a file has a folder")?)?;
        fs::copy(from.join(name), path)?;
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), tree.join(name))?;
    }
    Ok(tree)
}

/// A copy in which one byte of what is said is another.
fn changed(image: &Path, to: &Path) -> Result<(), Failed> {
    let mut bytes = fs::read(image)?;
    let at = bytes
        .windows(SAID.len())
        .position(|window| window == SAID.as_bytes())
        .ok_or("the image does not hold its text as it is")?;
    bytes[at] ^= 1;
    Ok(fs::write(to, bytes)?)
}

/// A signed extension with one file, for initrds and systems.
fn extension(ground: &Ground, dir: &Path, key: &Key) -> Result<PathBuf, Failed> {
    let tree = dir.join("shared");
    fs::create_dir_all(tree.join("usr/share"))?;
    fs::write(tree.join("usr/share/shared"), format!("{SHARED}\n"))?;
    let file = dir.join("shared.raw");
    command::output(
        Command::new(ground.dist.join("initoverlayfs"))
            .args(["build-extension", "--name", "shared", "--kind", "sysext"])
            .args(["--id", "_any", "--scope", "initrd,system", "--root"])
            .arg(&tree)
            .arg("--key")
            .arg(&key.key)
            .arg("--certificate")
            .arg(&key.certificate)
            .arg("--output")
            .arg(&file),
    )?;
    Ok(file)
}

fn portable(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("portable");
    fs::create_dir_all(&dir)?;
    let key = ground.key("hello", "p256")?;
    let built = dir.join("built");
    command::output(
        Command::new(ground.dist.join("initoverlayfs"))
            .args([
                "build",
                "--modules",
                "virtio-blk",
                "--image-compress",
                "none",
            ])
            .arg("--root")
            .arg(tree(ground, &dir)?)
            .arg("--sysroot")
            .arg(ground.guest.tree())
            .arg("--kernel")
            .arg(ground.guest.kernel())
            .arg("--key")
            .arg(&key.key)
            .arg("--certificate")
            .arg(&key.certificate)
            .arg("--output")
            .arg(&built),
    )?;
    let set = Set::open(&built)?;
    let (other, archive) = (dir.join("changed.raw"), dir.join("container.tar"));
    changed(&set.image, &other)?;
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    command::output(
        Command::new("tar")
            .arg("-C")
            .arg(tools.tree())
            .arg("-cf")
            .arg(&archive)
            .args(CONTAINER),
    )?;
    let entries = vec![
        Entry::new("hello.raw", &set.image),
        Entry::new("changed.raw", &other),
        Entry::new("hello.crt", &key.certificate),
        Entry::new("container.tar", &archive),
        Entry::new(
            &format!(
                "debian-13/{}/extensions/shared.raw",
                ground.guest.kernel_release()
            ),
            extension(ground, &dir, &key)?,
        ),
    ];
    let label = format!("root=LABEL={ROOT_LABEL}");
    let certificate = key.certificate.display().to_string();
    let options = ["--extension-certificate", &certificate];
    let outcome = look::boot_with(ground, &dir.join("boot"), LOOK, &label, &options, entries)?;

    let fact = |name: &str| facts(&outcome, name).join("\n");
    expect(
        &outcome,
        "[stage extensions] 1 of 1 merged into /usr; sysext shared, signed by ",
    )?;
    if !fact("before").is_empty() {
        return Err(fail(&outcome, "the initrd's extension is in the system"));
    }
    for (name, text) in [
        ("shared", SHARED),
        ("loops", "/extensions/shared.raw"),
        ("list", "hello"),
        ("portable", SAID),
        ("container", SAID),
        // What that keeps from being mounted, or read, is the changed block's affair.
        ("changed", "Failed"),
        ("stranger", "Required key not available"),
    ] {
        if !fact(name).contains(text) {
            return Err(fail(&outcome, &format!("{name}: {}", fact(name))));
        }
    }
    for name in ["changed", "stranger"] {
        if fact(name).contains("hello from") {
            return Err(fail(&outcome, &format!("{name}: {}", fact(name))));
        }
    }
    Ok(())
}
