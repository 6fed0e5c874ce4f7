//! Two disks with an ESP each, the same labels, the same path, and an image that
//! is trusted on both: the one that the firmware booted from has to win.
//!
//! The images are signed, of one product and of two versions; the boot takes
//! both, so which it was can be told by the version in the image. The newer one
//! is on the first disk: neither order nor version explain it if the second's is
//! used.

use std::fs;
use std::path::{Path, PathBuf};

use iofs_gpt::Uuid;
use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk, FirmwareKind};
use vmtest::disk::{self, Entry, Partition, fat};
use vmtest::matrix::{Reached, Row};
use vmtest::set::Set;
use vmtest::tools::Tools;

use crate::Test;
use crate::support::{CONSOLE, Ground, Key, Small, expect, fail, reports};

pub(crate) const TESTS: &[Test] = &[
    Test::new("the_esp_of_the_stub_wins", |ground| {
        twins(ground, "the_esp_of_the_stub_wins", Start::Stub, 1)
    }),
    Test::new("the_esp_of_the_loader_wins", |ground| {
        twins(ground, "the_esp_of_the_loader_wins", Start::Loader, 1)
    }),
    Test::slow("the_first_esp_wins_if_booted", |ground| {
        twins(ground, "the_first_esp_wins_if_booted", Start::Stub, 0)
    }),
];

/// What the firmware starts, and which variable tells of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// A UKI by itself: `StubDevicePartUUID`.
    Stub,
    /// systemd-boot, which starts a kernel that has no stub:
    /// `LoaderDevicePartUUID`.
    Loader,
}

/// The versions of the images on the first and the second disk.
const VERSIONS: [&str; 2] = ["2", "1"];

/// Partitions of the two disks. They differ as they do on every two disks.
const ESPS: [Uuid; 2] = [
    Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0e51),
    Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0e52),
];

const RELEASE: &str = "/usr/lib/initoverlayfs/image-release";
const RECORD: &str = "/run/initoverlayfs/boot.json";
const PLACE: &str = "twins/image.raw";

fn twins(ground: &Ground, test: &str, start: Start, booted: usize) -> Result<(), Failed> {
    let key = ground.key(test, "p256")?;
    let dir = ground.dir().join(test);
    let words = format!("testinit.cat={RELEASE} testinit.cat={RECORD}");
    let mut sets = Vec::new();
    for version in VERSIONS {
        sets.push(build(ground, &dir.join(version), version, &key, &words)?);
    }
    let mut disks = Vec::new();
    for (at, (set, guid)) in sets.iter().zip(ESPS).enumerate() {
        let mut entries = vec![Entry::new(PLACE, &set.image)];
        if at == booted {
            entries.extend(starter(start, set, &words)?);
        }
        let path = dir.join(format!("disk{at}.img"));
        esp_disk(&path, guid, &entries)?;
        disks.push(Disk::scratch(path, Bus::VirtioBlk));
    }
    let firmware = ground.firmware(FirmwareKind::Plain, &dir)?;
    let outcome = ground.machine(firmware, &disks, None)?;
    fs::remove_dir_all(&dir)?;
    expect(&outcome, "TESTINIT stage: first")?;
    let version = VERSIONS.get(booted).copied().unwrap_or_default();
    let line = format!("IMAGE_VERSION={version}");
    if !reports(&outcome, RELEASE)
        .iter()
        .any(|text| text.replace('"', "") == line)
    {
        return Err(fail(&outcome, &format!("{line} did not boot")));
    }
    let guid = ESPS.get(booted).map(Uuid::to_string).unwrap_or_default();
    if !reports(&outcome, RECORD).concat().contains(&guid) {
        return Err(fail(&outcome, &format!("{RECORD} does not name {guid}")));
    }
    Row {
        bus: match booted {
            0 => "virtio-blk, first of two ESPs".to_owned(),
            _ => "virtio-blk, second of two ESPs".to_owned(),
        },
        kernel: ground.kernel_name(),
        stage: "-".to_owned(),
        root: "-".to_owned(),
        reached: Reached::ImageInit,
        test: test.to_owned(),
    }
    .record()?;
    Ok(())
}

/// A set that takes the images of both.
fn build(
    ground: &Ground,
    dir: &Path,
    version: &str,
    key: &Key,
    words: &str,
) -> Result<Set, Failed> {
    let place = format!("/{PLACE}");
    fs::create_dir_all(dir.parent().unwrap_or(dir))?;
    Small {
        words,
        uki: Some(key),
        signer: Some(key),
        modules: "generic",
        options: &[
            "--product",
            "twins",
            "--version",
            version,
            "--min-version",
            "1",
            "--image-path",
            &place,
        ],
        ..Small::of(ground)
    }
    .build(ground, dir)
}

/// The files that make a disk bootable.
fn starter(start: Start, set: &Set, words: &str) -> Result<Vec<Entry>, Failed> {
    let program = "EFI/BOOT/BOOTX64.EFI";
    match start {
        Start::Stub => {
            let uki = set.uki.as_deref().ok_or("no UKI was built")?;
            Ok(vec![Entry::new(program, uki)])
        }
        Start::Loader => {
            let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
            let entry = set.dir.join("entry.conf");
            fs::write(
                &entry,
                format!(
                    "title test\nlinux /vmlinuz\ninitrd /mini.img\noptions {CONSOLE} {words}\n"
                ),
            )?;
            Ok(vec![
                Entry::new(program, tools.systemd_boot()),
                Entry::new("loader/entries/test.conf", entry),
                Entry::new("vmlinuz", kernel(set)),
                Entry::new("mini.img", set.mini_initramfs()),
            ])
        }
    }
}

fn kernel(set: &Set) -> PathBuf {
    set.dir.join("vmlinuz")
}

/// Volumes and partitions of the same names, of the size that the larger needs.
fn esp_disk(path: &Path, guid: Uuid, entries: &[Entry]) -> Result<(), Failed> {
    const SIZE: u64 = 96 << 20;
    let esp = path.with_extension("esp");
    fat::make(&esp, fat::Format::new(SIZE), entries)?;
    let disk_guid = Uuid::from_u128(guid.as_u128() ^ 0xd000);
    disk::make(path, 512, disk_guid, &[Partition::esp(guid, &esp)?])?;
    fs::remove_file(&esp)?;
    Ok(())
}
