//! Names on FAT volumes: the kernel's driver is the oracle.

use std::fs;

use iofs_fat::Fat;
use libtest_mimic::Failed;

use crate::Test;
use crate::handover::partition_boot;
use crate::support::{FAT_MODULES, Ground};
use crate::volumes::{empty_fat, mtool, replace_once, smile};

pub(crate) const TESTS: &[Test] = &[Test::new(
    "names_on_fat_are_what_the_kernel_says",
    same_names,
)];

/// Files that the kernel makes: long and short, in one case and in both, of
/// other scripts, with surrogate pairs, with the most units that there can be.
const MADE: [&str; 12] = [
    "UPPER.IMG",
    "lower.img",
    "Mixed.Img",
    "base.IMG",
    "no-extension",
    "two.dots.img",
    "größer ÄÖÜ.img",
    "ἀρχή и начало.img",
    "tiếng việt.img",
    "初めの画像.img",
    "\u{1f600}\u{1f680} rocket.img",
    "ÀÉÎÕÜ.IMG",
];

/// Read by both, names are the same and lead to the same files.
fn same_names(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    let volume = boot.raw_disk(0);
    empty_fat(&volume, 16);
    let from = boot.path("content");
    fs::write(&from, "written by mtools\n")?;
    // Deleted entries begin with 0xe5, so a name that does has 0x05 there.
    for name in ["XA.IMG", "plain.efi", "QQ by mtools.img"] {
        mtool(
            &volume,
            "mcopy",
            &[from.to_str().unwrap(), &format!("::/{name}")],
        );
    }
    replace_once(&volume, 0, b"XA      IMG", b"\x05A      IMG");
    smile(&volume);
    for module in FAT_MODULES {
        boot.words(&format!("testinit.load=/modules/{module}.ko"));
    }
    boot.words("testinit.mount=vfat,/dev/ubdb,/mnt,rw,utf8=1");
    let longest = "ñ".repeat(251) + ".img";
    let made: Vec<&str> = MADE.into_iter().chain([longest.as_str()]).collect();
    for name in &made {
        boot.words(&format!("testinit.write=\"/mnt/{name}\""));
    }
    boot.words("testinit.list=/mnt testinit.umount=/mnt");
    let seen = boot.succeeds();

    let bytes = fs::read(&volume)?;
    let fat = Fat::open(&bytes[..])?;
    let mut ours: Vec<String> = fat.entries("/")?.into_iter().map(|e| e.name).collect();
    ours.sort();
    let mut theirs = seen.facts("/mnt");
    theirs.sort();
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), made.len() + 3);
    for name in theirs {
        let map = fat.locate(&format!("/{name}"))?;
        let at = usize::try_from(map.extents[0].physical)?;
        let len = usize::try_from(map.size)?;
        let text = String::from_utf8_lossy(&bytes[at..at + len]);
        let by = if made.contains(&name.as_str()) {
            "testinit"
        } else {
            "mtools"
        };
        assert_eq!(text, format!("written by {by}\n"), "{name}");
    }
    // Any case leads there, as in firmware and kernel.
    for name in [
        "/Größer äöü.IMG",
        "/ἀρχή И НАЧАЛО.img",
        "/àéîõü.img",
        "/σa.img",
    ] {
        fat.locate(name)?;
    }
    Ok(())
}
