//! Images on boot partitions that only the kernel can read: XFS and btrfs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use builder::{Candidate, Selector};
use libtest_mimic::Failed;
use vmtest::disk::Partition;

use crate::Test;
use crate::handover::{next_root, write_beside_image};
use crate::support::{
    Boot, FILE, FILE_ON_VOLUME, FIRST, Ground, SECOND, Seen, file_on, partition_at, sum,
};
use crate::volumes::{self, mtool};

pub(crate) const TESTS: &[Test] = &[
    Test::new("kernel_mount_xfs_can_be_mounted_and_written", xfs_in_use),
    Test::new(
        "kernel_mount_btrfs_can_be_mounted_and_written",
        btrfs_in_use,
    ),
    Test::new("kernel_mount_xfs_is_let_go", |ground| let_go(ground, &XFS)),
    Test::new("kernel_mount_btrfs_is_let_go", |ground| {
        let_go(ground, &BTRFS)
    }),
    Test::new("kernel_mount_xfs_forbidden", |ground| {
        forbidden(ground, &XFS, &BTRFS)
    }),
    Test::new("kernel_mount_btrfs_forbidden", |ground| {
        forbidden(ground, &BTRFS, &XFS)
    }),
    Test::new("kernel_mount_xfs_sealed", |ground| sealed(ground, &XFS)),
    Test::new("kernel_mount_btrfs_sealed", |ground| sealed(ground, &BTRFS)),
    Test::new("kernel_mount_xfs_in_pieces", |ground| {
        scattered(ground, &XFS, "allocsize=4k")
    }),
    Test::new("kernel_mount_btrfs_compressed", |ground| {
        scattered(ground, &BTRFS, "compress-force=zlib")
    }),
    Test::new("kernel_mount_xfs_without_the_file", |ground| {
        missing(ground, &XFS)
    }),
    Test::new("kernel_mount_btrfs_without_the_file", |ground| {
        missing(ground, &BTRFS)
    }),
    Test::new("kernel_mount_xfs_damaged", |ground| damaged(ground, &XFS)),
    Test::new("kernel_mount_btrfs_damaged", |ground| {
        damaged(ground, &BTRFS)
    }),
    Test::new(
        "kernel_mount_not_of_fat_with_a_magic_in_a_file",
        fat_with_magic,
    ),
];

/// A file system that only the kernel reads.
struct Kind {
    name: &'static str,
    make: fn(&Path, &Path),
    /// Where its superblock is on the volume, and the magic number in that.
    superblock: std::ops::Range<usize>,
    magic: std::ops::Range<usize>,
    /// A part that nothing on the volume can be found without.
    behind: std::ops::Range<usize>,
    /// What the kernel says when it mounts the first partition.
    mounts: &'static str,
}

const XFS: Kind = Kind {
    name: "xfs",
    make: volumes::xfs,
    superblock: 0..512,
    magic: 0..4,
    // Headers, B+ trees and inodes of the first allocation group.
    behind: 512..1 << 20,
    mounts: "XFS (ubda1): Mounting V5",
};

const BTRFS: Kind = Kind {
    name: "btrfs",
    make: volumes::btrfs,
    superblock: 0x1_0000..0x1_1000,
    magic: 0x1_0040..0x1_0048,
    // All of it: trees have a second copy, from which the kernel would boot.
    behind: 1 << 20..128 << 20,
    mounts: "BTRFS info (device ubda1): using free space tree",
};

const NOT_FOUND: &str = "the init image was not found";

/// How often the kernel mounted the file system anew.
fn mounts(seen: &Seen, kind: &Kind) -> usize {
    let lines = seen.outcome.lines.iter();
    lines.filter(|line| line.text.contains(kind.mounts)).count()
}

fn place() -> Candidate {
    file_on("boot", Selector::PartUuid(FIRST))
}

fn allow(boot: &mut Boot<'_>, kind: &str) {
    boot.mini.kernel_mounts = vec![kind.to_owned()];
}

/// The usual image on such a partition, with a plan that allows the mount.
fn boot_on<'g>(ground: &'g Ground, kind: &Kind) -> Boot<'g> {
    let mut boot = Boot::new(ground, &[place()]);
    boot.esp(kind.make);
    allow(&mut boot, kind.name);
    boot
}

fn in_use(ground: &Ground, kind: &Kind) -> Seen {
    let mut boot = boot_on(ground, kind);
    boot.words(&format!("testinit.mount={},/dev/ubda1,/mnt,rw", kind.name));
    write_beside_image(&mut boot)
}

/// XFS says where the file lies, and is gone before the image is mounted.
fn xfs_in_use(ground: &Ground) -> Result<(), Failed> {
    let seen = in_use(ground, &XFS);
    seen.expects_in_order(&[
        XFS.mounts,
        "XFS (ubda1): Unmounting Filesystem",
        "[stage image]",
        "TESTINIT stage: first",
        XFS.mounts,
        "XFS (ubda1): Unmounting Filesystem",
        XFS.mounts,
    ]);
    Ok(())
}

/// btrfs is in use, read-only and mounted nowhere, as long as the image is. Who
/// mounts it then gets the same one, which the kernel makes writable.
fn btrfs_in_use(ground: &Ground) -> Result<(), Failed> {
    let seen = in_use(ground, &BTRFS);
    assert_eq!(mounts(&seen, &BTRFS), 1, "\n{}", seen.outcome.text());
    Ok(())
}

/// Once the next root is reached nothing keeps the boot partition.
fn let_go(ground: &Ground, kind: &Kind) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[place()]);
    let volume = boot.path("volume");
    (kind.make)(&volume, boot.image());
    let root = next_root(&boot, ground);
    boot.disk(&[Partition::esp(FIRST, &volume)?, root]);
    allow(&mut boot, kind.name);
    boot.words("testinit.cat=/proc/self/mountinfo testinit.stacked");
    boot.words("testinit.switch=/dev/ubda2 testinit2.freed");
    let mount = format!("testinit2.mount={},/dev/ubda1,/sys,rw", kind.name);
    boot.words(&mount);
    boot.words(&format!("testinit2.sum=/sys{FILE}"));
    boot.words("testinit2.write=/sys/new testinit2.umount=/sys");
    let seen = boot.succeeds();
    assert_eq!(seen.facts("stage"), ["first", "second"]);
    assert_eq!(seen.fact("stacked"), "loop0");
    let freed = seen.fact("freed");
    assert!(freed.starts_with("all after"), "{freed}");
    // Nobody sees the mount, even where it lasts.
    let points = seen.facts("/proc/self/mountinfo").join("\n");
    assert!(!points.contains("ubda1"), "{points}");
    assert_eq!(mounts(&seen, kind), 2, "\n{}", seen.outcome.text());
    let file = seen.fact(&format!("/sys{FILE}"));
    assert_eq!(file, sum(&fs::read(boot.image())?));
    Ok(())
}

/// Not even another's permission lets the kernel have a look.
fn forbidden(ground: &Ground, kind: &Kind, other: &Kind) -> Result<(), Failed> {
    for allowed in [None, Some(other.name)] {
        let mut boot = Boot::new(ground, &[place()]);
        boot.esp(kind.make);
        if let Some(allowed) = allowed {
            allow(&mut boot, allowed);
        }
        let name = kind.name;
        let seen = boot.fails(
            NOT_FOUND,
            &[&format!(
                "seen: /dev/ubda1: it has {name}, which only the kernel can read, and the boot \
                 plan does not allow that; put the image on FAT or ext4, or build with \
                 --kernel-mount {name}"
            )],
        );
        seen.rejects("(ubda1)");
        seen.rejects("(device ubda1)");
    }
    Ok(())
}

fn sealed(ground: &Ground, kind: &Kind) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[place()]);
    boot.esp_with(&image.path, kind.make);
    allow(&mut boot, kind.name);
    let seen = boot.words("testinit.sum=/data testinit.stacked").succeeds();
    seen.data_is_intact();
    seen.expects("[stage proof]");
    seen.expects("[stage image] /dev/dm-0 (dm-verity over /dev/loop0");
    assert_eq!(seen.fact("stacked"), "dm-0 loop0");
    Ok(())
}

/// An image as the kernel itself writes it: a boot from a partition puts it onto
/// the file system, with blocks behind its end, and the next boot has it there.
fn scattered(ground: &Ground, kind: &Kind, option: &str) -> Result<(), Failed> {
    for image in [ground.image(), ground.proven()] {
        let mut first = Boot::new(
            ground,
            &[partition_at("partition", Selector::PartUuid(SECOND))],
        );
        let volume = first.path("volume");
        (kind.make)(&volume, &image.path);
        first.disk(&[
            Partition::esp(FIRST, &volume)?,
            Partition::root(SECOND, &ground.image().path)?,
        ]);
        let name = kind.name;
        first.words(&format!(
            "testinit.mount={name},/dev/ubda1,/mnt,rw,{option}"
        ));
        first.words(&format!("testinit.scatter=/mnt{FILE},/mnt/scattered"));
        first.words("testinit.umount=/mnt");
        first.succeeds();
        let mut place = place();
        place.file = Some("/scattered".to_owned());
        let mut second = match image.root_hash {
            None => Boot::new(ground, &[place]),
            Some(_) => Boot::trusting(ground, image, image.sealed(), &[place]),
        };
        fs::copy(first.unplug(), second.raw_disk(0))?;
        allow(&mut second, name);
        let seen = second.words("testinit.sum=/data").succeeds();
        seen.data_is_intact();
        if name == XFS.name {
            let found = seen.outcome.find("/scattered on /dev/ubda1, ").unwrap();
            let extents = found.text.rsplit_once(" in ").unwrap().1;
            let count: usize = extents.split(' ').next().unwrap().parse()?;
            // More than the kernel is asked for at once.
            assert!(count > 64, "{}", found.text);
        }
    }
    Ok(())
}

fn missing(ground: &Ground, kind: &Kind) -> Result<(), Failed> {
    let mut candidate = place();
    candidate.file = Some("/EFI/other.img".to_owned());
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(kind.make);
    allow(&mut boot, kind.name);
    let name = kind.name;
    boot.fails(
        NOT_FOUND,
        &[&format!(
            "seen: /dev/ubda1: {name}: /EFI/other.img: no such file"
        )],
    );
    Ok(())
}

/// Garbage around the magic number, and in the place of what the superblock
/// leads to: the mount fails, and that is said.
fn damaged(ground: &Ground, kind: &Kind) -> Result<(), Failed> {
    let superblock = [
        kind.superblock.start..kind.magic.start,
        kind.magic.end..kind.superblock.end,
    ];
    for ranges in [superblock.as_slice(), std::slice::from_ref(&kind.behind)] {
        let mut boot = Boot::new(ground, &[place()]);
        let start = boot.esp(kind.make)[0].start;
        allow(&mut boot, kind.name);
        for range in ranges {
            boot.damage(0, start + range.start as u64, &vec![0xa5; range.len()]);
        }
        let name = kind.name;
        let why = format!("seen: /dev/ubda1: {name}: mounting /initoverlayfs/boot: ");
        boot.fails(NOT_FOUND, &[&why]);
    }
    Ok(())
}

/// A file on FAT16 brings the magic number to its place: it is FAT all the same.
fn fat_with_magic(ground: &Ground) -> Result<(), Failed> {
    let make = |volume: &Path, image: &Path| {
        volumes::empty_fat(volume, 16);
        let file = volume.with_extension("magic");
        fs::write(&file, b"_BHRfS_M".repeat(16 << 10)).unwrap();
        mtool(volume, "mcopy", &[file.to_str().unwrap(), "::/MAGIC"]);
        for folder in ["::/EFI", "::/EFI/initoverlayfs"] {
            mtool(volume, "mmd", &[folder]);
        }
        let to = format!("::/{FILE_ON_VOLUME}");
        mtool(volume, "mcopy", &[image.to_str().unwrap(), &to]);
        let mut magic = [0; 8];
        let opened = fs::File::open(volume).unwrap();
        opened.read_exact_at(&mut magic, 0x1_0040).unwrap();
        assert_eq!(&magic, b"_BHRfS_M");
    };
    let mut boot = Boot::new(ground, &[place()]);
    boot.esp(make);
    allow(&mut boot, BTRFS.name);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    seen.rejects("(device ubda1)");
    // Nor is the kernel asked when the file is not there.
    let mut candidate = place();
    candidate.file = Some("/EFI/other.img".to_owned());
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(make);
    allow(&mut boot, BTRFS.name);
    let seen = boot.fails(NOT_FOUND, &["seen: /dev/ubda1: FAT: "]);
    seen.rejects("(device ubda1)");
    Ok(())
}
