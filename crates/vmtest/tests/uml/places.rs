//! Where an image may lie, and that it is found and read right there.

use std::path::Path;

use builder::{Candidate, Selector};
use iofs_gpt::types;
use libtest_mimic::Failed;
use vmtest::disk::Partition;

use crate::Test;
use crate::support::{Boot, FIRST, Ground, SECOND, Seen, TYPE, file_on, on_esp, partition_at};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("partition_by_type_guid", |ground| {
        partition(ground, Selector::TypeGuid(TYPE))
    }),
    Test::new("partition_by_partuuid", |ground| {
        partition(ground, Selector::PartUuid(SECOND))
    }),
    Test::new("partition_by_partlabel", |ground| {
        partition(ground, Selector::PartLabel("bild-ä".to_owned()))
    }),
    Test::new("file_on_fat12", |ground| small_fat(ground, 12)),
    Test::new("file_on_fat16", |ground| small_fat(ground, 16)),
    Test::new("file_on_fat32", |ground| whole_file(ground, volumes::fat32)),
    Test::new("file_on_fat32_in_pieces", |ground| {
        file_in_pieces(ground, volumes::fat32_fragmented)
    }),
    Test::new("file_on_ext4", |ground| whole_file(ground, volumes::ext4)),
    Test::new("file_on_ext4_with_block_maps", |ground| {
        file_of_any_shape(ground, volumes::ext4_block_maps)
    }),
    Test::new("file_on_ext3", |ground| {
        file_of_any_shape(ground, volumes::ext3)
    }),
    Test::new("file_on_ext4_with_a_dirty_journal", |ground| {
        whole_file(ground, volumes::ext4_dirty)
    }),
    Test::new("file_on_ext4_in_pieces", |ground| {
        file_in_pieces(ground, volumes::ext4_fragmented)
    }),
    Test::new("file_in_a_folder_of_long_names", long_names),
    Test::new("file_in_pieces_beyond_the_basic_plane_on_fat12", |ground| {
        far_name(ground, 12)
    }),
    Test::new("file_in_pieces_beyond_the_basic_plane_on_fat16", |ground| {
        far_name(ground, 16)
    }),
    Test::new("second_candidate_when_the_first_is_absent", fallback),
    Test::new(
        "second_candidate_when_the_first_is_damaged",
        fallback_at_once,
    ),
    Test::new("command_line_chooses_the_candidate", chosen),
    Test::new("second_disk", second_disk),
];

/// A disk whose second partition is the image.
fn disk_with_image(boot: &mut Boot<'_>, ground: &Ground) {
    boot.disk(&[
        Partition {
            type_guid: types::LINUX_GENERIC,
            guid: FIRST,
            label: "other".to_owned(),
            size: 1 << 20,
            content: None,
        },
        Partition::of(TYPE, SECOND, "bild-ä", &ground.image().path).unwrap(),
    ]);
}

fn partition(ground: &Ground, selector: Selector) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[partition_at("partition", selector)]);
    disk_with_image(&mut boot, ground);
    let seen = boot.words("testinit.sum=/data testinit.stacked").succeeds();
    seen.expects("[stage image] /dev/ubda2");
    seen.data_is_intact();
    assert!(seen.facts("stacked").concat().is_empty());
    // A plan without files has no use for them.
    seen.rejects("loop: module loaded");
    Ok(())
}

/// What must be so of the loop device: cached once, gone with its last user,
/// never written to.
const LOOP: [&str; 3] = [
    "/sys/block/loop0/loop/dio",
    "/sys/block/loop0/loop/autoclear",
    "/sys/block/loop0/ro",
];

fn boot_file(ground: &Ground, make: fn(&Path, &Path), candidate: Candidate) -> Seen {
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(make);
    boot.words("testinit.sum=/data testinit.stacked testinit.cat=/proc/modules");
    for file in LOOP {
        boot.words(&format!("testinit.cat={file}"));
    }
    let seen = boot.succeeds();
    seen.data_is_intact();
    seen
}

/// In one piece: a loop device and no device mapper.
fn whole_file(ground: &Ground, make: fn(&Path, &Path)) -> Result<(), Failed> {
    let seen = boot_file(ground, make, on_esp());
    seen.expects("KiB in 1 extent");
    seen.expects("[stage image] /dev/loop0 (loop, direct I/O)");
    for file in LOOP {
        assert_eq!(seen.fact(file), "1", "{file}");
    }
    assert_eq!(seen.fact("stacked"), "loop0");
    let modules = seen.facts("/proc/modules").join("\n");
    assert!(!modules.contains("dm_mod"), "{modules}");
    assert!(!modules.contains("fat"), "{modules}");
    Ok(())
}

/// In several: the device mapper puts them together.
fn file_in_pieces(ground: &Ground, make: fn(&Path, &Path)) -> Result<(), Failed> {
    let seen = boot_file(ground, make, on_esp());
    seen.expects("[stage image] /dev/dm-0 (dm-linear over /dev/loop0)");
    assert_eq!(seen.fact("stacked"), "dm-0 loop0");
    Ok(())
}

/// As the file system has it.
fn file_of_any_shape(ground: &Ground, make: fn(&Path, &Path)) -> Result<(), Failed> {
    boot_file(ground, make, on_esp()).expects("[stage image] /dev/");
    Ok(())
}

fn small_fat(ground: &Ground, bits: u8) -> Result<(), Failed> {
    let mut candidate = on_esp();
    candidate.file = Some("/boot/image.img".to_owned());
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(|volume, image| volumes::small_fat(volume, image, bits, "BOOT/IMAGE.IMG"));
    boot.words("testinit.sum=/data").succeeds().data_is_intact();
    Ok(())
}

/// Names that FAT writes in UTF-16, in another case than they are asked for.
fn long_names(ground: &Ground) -> Result<(), Failed> {
    let mut candidate = on_esp();
    candidate.file = Some("/EFI/Überlanger Ordnername/Système d’amorçage №1.IMG".to_owned());
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(|volume, image| {
        let to = "EFI/Überlanger Ordnername/système d’amorçage №1.img";
        volumes::small_fat(volume, image, 16, to);
    });
    boot.words("testinit.sum=/data").succeeds().data_is_intact();
    Ok(())
}

/// A long name with a surrogate pair, and a file in pieces.
fn far_name(ground: &Ground, bits: u8) -> Result<(), Failed> {
    let mut candidate = on_esp();
    candidate.file = Some("/boot/\u{1f600} tiếng việt, größer als 8.3.IMG".to_owned());
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(|volume, image| {
        let to = "BOOT/QQ tiếng việt, größer als 8.3.img";
        volumes::small_fat_fragmented(volume, image, bits, to);
        volumes::smile(volume);
    });
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    seen.expects("[stage image] /dev/dm-0 (dm-linear over /dev/loop0)");
    Ok(())
}

/// The better candidate may still appear: the other is taken after the grace,
/// not at the limit.
fn fallback(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(
        ground,
        &[
            file_on("xbootldr", Selector::TypeGuid(types::XBOOTLDR)),
            partition_at("partition", Selector::PartUuid(SECOND)),
        ],
    );
    disk_with_image(&mut boot, ground);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    let took = seen.expects("[stage device]") - seen.expects("[stage plan]");
    assert!((2.9..6.0).contains(&took), "{took} s");
    Ok(())
}

/// A candidate that was looked at is not waited for.
fn fallback_at_once(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(
        ground,
        &[
            partition_at("first", Selector::PartUuid(FIRST)),
            partition_at("second", Selector::PartUuid(SECOND)),
        ],
    );
    disk_with_image(&mut boot, ground);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    seen.expects("no image on /dev/ubda1: the partition is not an EROFS image");
    let took = seen.expects("[stage device]") - seen.expects("[stage plan]");
    assert!(took < 2.5, "{took} s");
    Ok(())
}

fn chosen(ground: &Ground) -> Result<(), Failed> {
    let places = [
        partition_at("good", Selector::PartUuid(SECOND)),
        partition_at("other", Selector::PartUuid(FIRST)),
    ];
    let mut boot = Boot::new(ground, &places);
    disk_with_image(&mut boot, ground);
    boot.words("initoverlayfs.image=good").succeeds();
    let mut boot = Boot::new(ground, &places);
    disk_with_image(&mut boot, ground);
    boot.words("initoverlayfs.image=other").fails(
        "the init image was not found",
        &["awaited: the image PARTUUID=1f0f5a7e-0000-4000-8000-000000000001 (other)"],
    );
    let mut boot = Boot::new(ground, &places);
    disk_with_image(&mut boot, ground);
    boot.words("initoverlayfs.image=nonsense").fails(
        "initoverlayfs.image=nonsense names none of the plan's candidates",
        &["seen: candidates in the plan: good, other"],
    );
    Ok(())
}

fn second_disk(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.raw_disk(4 << 20);
    boot.esp(volumes::fat32);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.expects("on /dev/ubdb1");
    seen.data_is_intact();
    Ok(())
}
