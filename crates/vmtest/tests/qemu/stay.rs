//! Debian as the image itself: one systemd, /var on LUKS that the TPM opens, an ESP
//! that is mounted and cannot lose the image, and what lies there unproven without
//! effect.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_gpt::Uuid;
use libtest_mimic::Failed;
use qemu_driver::{Answer, Arch, Bus, Disk, FirmwareKind, Machine, Outcome, RunOptions, Tpm};
use serde_json::Value;
use vmtest::command;
use vmtest::disk::{self, Entry, Partition};
use vmtest::set::{ESP_GUID, Set};
use vmtest::stack::Stack;
use vmtest::storage::{PASSPHRASE, Storage};
use vmtest::tools::Tools;

use crate::Test;
use crate::direct::inits;
use crate::roots::{PROMPT, Roots};
use crate::support::{CONSOLE, Ground, LIMIT, expect, facts, fail, make_esp, run_with};
use crate::trust::with_image;

pub(crate) const TESTS: &[Test] = &[Test::new(
    "an_image_that_stays_has_one_init_and_keeps_var",
    stays,
)];

/// Type of partition: Linux data, which nothing mounts by itself.
const DATA_TYPE: Uuid = Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);
const VAR_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_00ae);
const DISK_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_00af);

/// What of the tree the image does without: half of its size, and units whose work
/// takes an emulated processor longer than all else.
const LEFT_OUT: &[&str] = &[
    "boot/System.map*",
    "usr/lib/python3*",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "usr/share/zoneinfo",
    "usr/lib/modules/*/kernel/drivers/gpu",
    "usr/lib/modules/*/kernel/drivers/media",
    "usr/lib/modules/*/kernel/drivers/net",
    "usr/lib/modules/*/kernel/sound",
    "var/cache/apt",
    "etc/systemd/system/multi-user.target.wants/initoverlayfs-*.service",
    "etc/systemd/system/sysinit.target.wants/*iscsi*",
];
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_reap.service",
    "lvm2-monitor.service",
];

/// Runs when multi-user is reached. What it does to the ESP and to /var is there at
/// the next boot.
const LOOK: &str = r#"fact() {
    name=$1
    while IFS= read -r line; do
        echo "INITOVERLAYFS-FACT $name: $line" >/dev/console
    done
}
take() {
    systemd-run --quiet --wait --pipe -p "ImportCredential=$1" \
        sh -c 'cat "$CREDENTIALS_DIRECTORY/$0" 2>/dev/null || echo none' "$1" 2>&1 | fact "$1"
}
kill -55 1
dmesg -n 3
findmnt -no FSTYPE / | fact root
findmnt -no SOURCE,FSTYPE /var | fact var
findmnt -no SOURCE,FSTYPE /efi | fact esp
systemctl show -p InitRDTimestampMonotonic --value | fact initrd
readlink /run/systemd/volatile-root | fact volatile-root
cat /sys/class/block/vda1/dev | fact esp-number
cat /run/initoverlayfs/boot.json | fact boot-json
systemctl --failed --no-legend --plain | fact failed
ls -d /.extra /etc/initrd-release 2>/dev/null | fact initrds-own
cat /var/kept 2>/dev/null | fact var-kept
cat /etc/kept 2>/dev/null | fact etc-kept
echo kept | tee /var/kept >/etc/kept
ls /usr/bin/iofs-evil 2>/dev/null | fact evil
take plain
take sealed

for _ in $(seq 60); do
    systemctl is-active --quiet initoverlayfs-hold@efi.service && break
    sleep 1
done
. /run/initoverlayfs/image.env
image=/efi$IMAGE_FILE
rm "$image" 2>&1 | fact rm
mv "$image" /efi/away 2>&1 | fact mv
(echo >"$image") 2>&1 | fact write
mv /efi/over "$image" 2>&1 | fact over
echo other >/efi/written && cat /efi/written | fact esp-written
ls "$image" | fact image

if ! cryptsetup luksDump /dev/disk/by-partlabel/var | grep -q systemd-tpm2; then
    PASSWORD='PASSPHRASE' systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=7 \
        /dev/disk/by-partlabel/var 2>&1 | fact enrol
    mkdir -p /efi/loader/credentials /var/lib/extensions
    echo good | systemd-creds encrypt --with-key=tpm2 --name=sealed - \
        /efi/loader/credentials/sealed.cred 2>&1 | fact encrypt
    cp /efi/evil.raw /var/lib/extensions/iofs-evil.raw
else
    systemctl show -p Result --value systemd-sysext.service | fact sysext
    # The image is one that is merged where nobody asks who made it.
    systemd-sysext --image-policy='*' refresh >/dev/null 2>&1
    ls /usr/bin/iofs-evil | fact control
fi
sync
echo '<2>INITOVERLAYFS-TEST looked' >/dev/kmsg
systemctl poweroff
"#;

const UNIT: &str = "[Unit]\nAfter=multi-user.target\nRequiresMountsFor=/efi\n\
    [Service]\nExecStart=/bin/sh /usr/libexec/look\n";

fn stays(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("stay");
    fs::create_dir_all(&dir)?;
    let set = build(ground, &dir)?;
    let mut machine = Machine::new(
        Arch::X86_64,
        ground.accel(),
        ground.firmware(FirmwareKind::Plain, &dir)?,
    );
    machine.disks = vec![the_disk(ground, &set, &dir)?];
    machine.tpm = Some(Tpm {
        state: Some(dir.join("tpm")),
        ..Tpm::new()
    });

    // The look takes long on busy processors: a TPM that seals, a dozen programs.
    let first = run_with(&machine, LIMIT * 2, || RunOptions {
        answers: vec![Answer::new(PROMPT, PASSPHRASE)],
        ..RunOptions::default()
    })?;
    is_the_system(&first)?;
    is(&first, "failed", &[])?;
    is(&first, "var-kept", &[])?;
    is(&first, "sealed", &["none"])?;
    if !facts(&first, "enrol").concat().contains("New TPM2 token") {
        return Err(fail(&first, "the TPM was not enrolled"));
    }

    // Nobody types anything.
    let second = run_with(&machine, LIMIT * 2, RunOptions::default)?;
    is_the_system(&second)?;
    is(&second, "var-kept", &["kept"])?;
    is(&second, "sealed", &["good"])?;
    is(&second, "control", &["/usr/bin/iofs-evil"])?;
    expect(
        &second,
        "took the encrypted credential /.extra/global_credentials/sealed.cred",
    )?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// One systemd, nothing of an initrd, the image held, what is unproven without effect.
fn is_the_system(outcome: &Outcome) -> Result<(), Failed> {
    expect(outcome, "[stage exec] /sbin/init")?;
    expect(outcome, "INITOVERLAYFS-TEST looked")?;
    if inits(outcome) != 1 {
        let what = format!("{} inits came up instead of one", inits(outcome));
        return Err(fail(outcome, &what));
    }
    is(outcome, "root", &["overlay"])?;
    is(outcome, "var", &["/dev/mapper/var ext4"])?;
    is(outcome, "initrd", &["0"])?;
    is(outcome, "initrds-own", &[])?;
    is(outcome, "etc-kept", &[])?;
    is(outcome, "evil", &[])?;
    is(outcome, "plain", &["none"])?;
    is(outcome, "esp-written", &["other"])?;
    if !facts(outcome, "esp")
        .iter()
        .any(|esp| esp.starts_with("/dev/vda1 vfat"))
    {
        return Err(fail(outcome, "the ESP is not mounted"));
    }
    let number = facts(outcome, "esp-number").concat();
    is(outcome, "volatile-root", &[&format!("/dev/block/{number}")])?;
    for (name, why) in [
        ("rm", "Device or resource busy"),
        ("mv", "Device or resource busy"),
        ("write", "Read-only file system"),
        ("over", "Device or resource busy"),
    ] {
        if !facts(outcome, name).concat().contains(why) {
            return Err(fail(outcome, &format!("the image is not held ({name})")));
        }
    }
    if facts(outcome, "image").is_empty() {
        return Err(fail(outcome, "the image is gone"));
    }
    expect(
        outcome,
        "left out the credential /.extra/credentials/plain.cred",
    )?;
    let record: Value = serde_json::from_str(&facts(outcome, "boot-json").join("\n"))?;
    match record.pointer("/mode") == Some(&Value::from("stay")) {
        true => Ok(()),
        false => Err(fail(outcome, "boot.json does not say that the image stays")),
    }
}

fn is(outcome: &Outcome, name: &str, lines: &[&str]) -> Result<(), Failed> {
    let found = facts(outcome, name);
    match found == lines {
        true => Ok(()),
        false => Err(fail(outcome, &format!("{name}: {found:?}, not {lines:?}"))),
    }
}

/// The guest with every storage tool, as the image itself.
fn build(ground: &Ground, dir: &Path) -> Result<Set, Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let tree = tree(ground, dir)?;
    let output = dir.join("set");
    command::output(
        Command::new(ground.dist.join("initoverlayfs"))
            .args(["build", "--json", "--mode", "stay", "--root"])
            .arg(&tree)
            .args(["--persist-var", "PARTLABEL=var", "--persist-encrypted"])
            .args(["--modules", "virtio-blk,virtio-pci", "--sysroot"])
            .arg(ground.guest.tree())
            .args(["--uki", "--cmdline", CONSOLE, "--stub"])
            .arg(tools.stub())
            .arg("--output")
            .arg(&output),
    )?;
    fs::remove_dir_all(&tree)?;
    Ok(Set::open(&output)?)
}

fn tree(ground: &Ground, dir: &Path) -> Result<PathBuf, Failed> {
    let storage = Storage::ensure(&ground.guest, &mut |line| eprintln!("{line}"))?;
    let tree = dir.join("tree");
    fs::create_dir(&tree)?;
    let from = storage.tree();
    let excludes = LEFT_OUT.iter().map(|path| format!("--exclude=./{path}"));
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&from).args(excludes).args(["-cf"]);
    let archive = dir.join("tree.tar");
    command::output(pack.arg(&archive).arg("."))?;
    command::output(
        Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-xpf")
            .arg(&archive),
    )?;
    fs::remove_file(&archive)?;
    let units = tree.join("etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    fs::write(
        tree.join("usr/libexec/look"),
        LOOK.replace("PASSPHRASE", PASSPHRASE),
    )?;
    fs::write(units.join("look.service"), UNIT)?;
    symlink(
        "../look.service",
        units.join("multi-user.target.wants/look.service"),
    )?;
    // What an installed Debian has there; to remount it would fail.
    fs::write(
        tree.join("etc/fstab"),
        "UUID=1f0f5a7e-0000-4000-8000-00000000dead / ext4 errors=remount-ro 0 1\n",
    )?;
    Ok(tree)
}

/// An ESP with UKI, image and what somebody put beside them, and a LUKS volume.
fn the_disk(ground: &Ground, set: &Set, dir: &Path) -> Result<Disk, Failed> {
    let evil = evil_extension(dir)?;
    let plain = dir.join("plain.cred");
    fs::write(&plain, "written by somebody\n")?;
    let uki = "EFI/BOOT/BOOTX64.EFI";
    let mut entries = with_image(set, uki, set.uki.as_deref())?;
    entries.push(Entry::new(&format!("{uki}.extra.d/plain.cred"), &plain));
    entries.push(Entry::new(
        &format!("{uki}.extra.d/iofs-evil.sysext.raw"),
        &evil,
    ));
    entries.push(Entry::new("evil.raw", &evil));
    entries.push(Entry::new("over", &plain));
    let esp = dir.join("esp");
    make_esp(&esp, &entries)?;

    // Whatever is in it: a volume that a passphrase opens, with ext4.
    let parts = Roots::of(ground)?.stack(ground, Stack::Luks)?;
    let var = parts.first().ok_or("the stack has no disk")?;
    let path = dir.join("disk.img");
    disk::make(
        &path,
        512,
        DISK_GUID,
        &[
            Partition::esp(ESP_GUID, &esp)?,
            Partition::of(DATA_TYPE, VAR_GUID, "var", var)?,
        ],
    )?;
    let mut disk = Disk::scratch(path, Bus::VirtioBlk);
    disk.snapshot = false;
    Ok(disk)
}

/// A system extension of nobody's, without dm-verity.
fn evil_extension(dir: &Path) -> Result<PathBuf, Failed> {
    let tree = dir.join("evil");
    let release = tree.join("usr/lib/extension-release.d");
    fs::create_dir_all(&release)?;
    fs::create_dir_all(tree.join("usr/bin"))?;
    fs::write(release.join("extension-release.iofs-evil"), "ID=_any\n")?;
    fs::write(tree.join("usr/bin/iofs-evil"), "#!/bin/sh\n")?;
    let image = dir.join("evil.raw");
    fs::File::create(&image)?.set_len(4 << 20)?;
    command::output(
        Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .args([&tree, &image]),
    )?;
    Ok(image)
}
