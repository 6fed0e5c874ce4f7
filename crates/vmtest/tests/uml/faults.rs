//! What can be wrong. Each ends in a report that names what was awaited and
//! what was seen, and then as the command line says: never in a panic, never in
//! a hang.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use builder::{Candidate, Expect, Selector, Uuid};
use iofs_gpt::types;
use libtest_mimic::Failed;
use vmtest::disk::Partition;
use vmtest::uml::UmlExit;

use crate::Test;
use crate::support::{Boot, FILE, FIRST, Ground, SECOND, TYPE, on_esp, partition_at};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("fault_no_disk", no_disk),
    Test::new("fault_no_image_on_the_esp", no_image),
    Test::new("fault_wrong_partuuid", wrong_partuuid),
    Test::new("fault_truncated_image", truncated),
    Test::new("fault_image_of_another_build", other_build),
    Test::new("fault_file_with_a_hole", hole),
    Test::new("fault_folder_in_place_of_the_file", folder),
    Test::new("fault_fat_chain_that_loops", fat_loop),
    Test::new("fault_fat_without_its_boot_sector", fat_no_boot_sector),
    Test::new("fault_gpt_destroyed", gpt_destroyed),
    Test::new("fault_label_that_would_forge_the_log", forged_label),
    Test::new("primary_gpt_destroyed", gpt_primary_destroyed),
    Test::new("fault_no_plan", no_plan),
    Test::new("fault_no_plan_and_no_words", usual_end),
    Test::new("fault_plan_with_a_flipped_bit", flipped_plan),
    Test::new("fault_modules_of_another_kernel", other_kernel),
    Test::new("fault_module_is_garbage", garbage_module),
    Test::new("fault_module_is_missing", missing_module),
    Test::new("fault_loop_module_is_missing", missing_loop),
    Test::new("fault_image_damaged_inside", damaged_image),
    Test::new("fault_image_without_init", no_init),
    Test::new("fault_init_is_not_executable", not_executable),
    Test::new("fault_init_without_its_loader", no_loader),
    Test::new("on_failure_reboot", reboot),
    Test::new("on_failure_halt", halt),
    Test::new("the_limit_is_kept", limit),
    Test::new("the_report_stays_for_a_while", failure_wait),
];

const NOT_FOUND: &str = "the init image was not found";

fn on_esp_of(ground: &Ground, make: fn(&Path, &Path)) -> Boot<'_> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.esp(make);
    boot.words("initoverlayfs.timeout=1");
    boot
}

/// The image as the only partition.
fn on_partition(ground: &Ground) -> Boot<'_> {
    let mut boot = Boot::new(
        ground,
        &[partition_at("partition", Selector::PartUuid(FIRST))],
    );
    boot.disk(&[Partition::root(FIRST, &ground.image().path).unwrap()]);
    boot.words("initoverlayfs.timeout=1");
    boot
}

fn no_disk(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.words("initoverlayfs.timeout=1").fails(
        NOT_FOUND,
        &[
            &format!(
                "awaited: the image {FILE} on partition type {} (esp)",
                types::ESP
            ),
            "seen: no disk at all",
            "what to do: no storage driver in this mini-initramfs found its device",
        ],
    );
    Ok(())
}

fn no_image(ground: &Ground) -> Result<(), Failed> {
    on_esp_of(ground, volumes::without_image).fails(
        NOT_FOUND,
        &[
            FILE,
            "seen: disk ubda, ",
            &format!("ubda1 \"esp\" (esp, PARTUUID={FIRST})"),
            "seen: /dev/ubda1: FAT: ",
            "debian.img",
        ],
    );
    Ok(())
}

fn wrong_partuuid(ground: &Ground) -> Result<(), Failed> {
    let candidate = partition_at("partition", Selector::PartUuid(SECOND));
    let mut boot = Boot::new(ground, &[candidate]);
    boot.disk(&[Partition::root(FIRST, &ground.image().path).unwrap()]);
    boot.words("initoverlayfs.timeout=1").fails(
        "the init image was not found within 1 s",
        &[
            &format!("awaited: the image PARTUUID={SECOND} (partition)"),
            &format!("ubda1 \"root\" (root-x86-64, PARTUUID={FIRST})"),
            "what to do: no partition is the one that was awaited",
        ],
    );
    Ok(())
}

fn truncated(ground: &Ground) -> Result<(), Failed> {
    on_esp_of(ground, volumes::truncated).fails(
        NOT_FOUND,
        &[&format!(
            "seen: /dev/ubda1: {FILE} is truncated: its file system has {} bytes, but only ",
            ground.image().expect.size
        )],
    );
    Ok(())
}

fn other_build(ground: &Ground) -> Result<(), Failed> {
    let expected = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_dead);
    let candidate = Candidate {
        expect: Expect {
            uuid: expected,
            size: 0,
        },
        ..on_esp()
    };
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(volumes::fat32);
    boot.words("initoverlayfs.timeout=1").fails(
        NOT_FOUND,
        &[
            "is not the image that this boot plan was built with",
            &format!("UUID {} instead of {expected}", ground.image().expect.uuid),
            "install both from one build",
        ],
    );
    Ok(())
}

fn hole(ground: &Ground) -> Result<(), Failed> {
    let candidate = crate::support::file_on("boot", Selector::PartUuid(FIRST));
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(volumes::ext4_with_hole);
    boot.fails(NOT_FOUND, &["seen: /dev/ubda1: ext4: ", "hole"]);
    Ok(())
}

fn folder(ground: &Ground) -> Result<(), Failed> {
    on_esp_of(ground, |volume, image| {
        volumes::without_image(volume, image);
        volumes::mtool(volume, "mmd", &[&format!("::{FILE}")]);
    })
    .fails(
        NOT_FOUND,
        &["seen: /dev/ubda1: FAT: ", "is a directory, not a file"],
    );
    let candidate = crate::support::file_on("boot", Selector::PartUuid(FIRST));
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(|volume, image| {
        volumes::ext4_with(volume, image, &[]);
        volumes::replace_by_folder(volume);
    });
    boot.fails(
        NOT_FOUND,
        &["seen: /dev/ubda1: ext4: ", "is not a regular file"],
    );
    Ok(())
}

fn fat_loop(ground: &Ground) -> Result<(), Failed> {
    on_esp_of(ground, |volume, image| {
        volumes::fat32(volume, image);
        volumes::loop_chain(volume);
    })
    .fails(NOT_FOUND, &["seen: /dev/ubda1: FAT: ", "chain"]);
    Ok(())
}

fn fat_no_boot_sector(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    let start = boot.esp(volumes::fat32)[0].start;
    boot.damage(0, start, &[0xa5; 512]);
    boot.words("initoverlayfs.timeout=1")
        .fails(NOT_FOUND, &["seen: /dev/ubda1: FAT: "]);
    Ok(())
}

fn gpt_destroyed(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.damage(0, 512, &[0; 512]);
    let end = boot.disk_len(0);
    boot.damage(0, end - 512, &[0; 512]);
    boot.fails(
        NOT_FOUND,
        &["awaited: the image PARTUUID=", "seen: disk ubda, ", "GPT"],
    );
    Ok(())
}

/// A label is anybody's: it must not become lines or colours of the report.
fn forged_label(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.disk(&[Partition {
        type_guid: TYPE,
        guid: FIRST,
        label: "\u{1b}[2J\nstorage-init: all is well".to_owned(),
        size: 1 << 20,
        content: None,
    }]);
    let seen = boot
        .words("initoverlayfs.timeout=1")
        .fails(NOT_FOUND, &["storage-init: all is well\" (type "]);
    let lines = &seen.outcome.lines;
    assert!(
        !lines
            .iter()
            .any(|line| line.message().starts_with("storage-init: all is well"))
    );
    Ok(())
}

/// The backup is read; but the kernel goes by it only if it is told to, and has
/// no partitions otherwise.
fn gpt_primary_destroyed(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.damage(0, 512, &[0; 512]);
    let seen = boot.words("gpt testinit.sum=/data").succeeds();
    seen.data_is_intact();
    let mut boot = on_partition(ground);
    boot.damage(0, 512, &[0; 512]);
    boot.fails(
        NOT_FOUND,
        &[
            "awaited: the image PARTUUID=",
            "ubda1",
            "not shown by the kernel",
        ],
    );
    Ok(())
}

fn no_plan(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.words(END_AT_ONCE).remove_file("initoverlayfs/plan");
    fails_without_plan(&mut boot, "/initoverlayfs/plan: ");
    Ok(())
}

fn flipped_plan(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.words(END_AT_ONCE);
    boot.edit_file("initoverlayfs/plan", |plan| plan[40] ^= 4);
    fails_without_plan(&mut boot, "checksum");
    Ok(())
}

fn fails_without_plan(boot: &mut Boot<'_>, why: &str) {
    boot.fails(
        "there is no boot plan",
        &[why, "what to do: this mini-initramfs is damaged"],
    );
}

/// Without a plan and without a word the machine restarts, so that boot counting
/// can choose another entry: after 30 s, which are not waited for.
fn usual_end(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.remove_file("initoverlayfs/plan");
    let outcome = boot
        .prepare()
        .run_until("the report's end", Duration::from_secs(30), |line| {
            line.text.contains("  now: reboot in 30 s")
        })
        .unwrap();
    assert_eq!(outcome.exit, UmlExit::Stopped, "{}", outcome.text());
    Ok(())
}

/// Words that end a failed boot at once, for a plan that cannot say so.
const END_AT_ONCE: &str = "initoverlayfs.on_failure=poweroff initoverlayfs.failure_wait=0";

fn other_kernel(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.mini.kernel.release = "6.2.0-other".to_owned();
    boot.edit_file("initoverlayfs/modules/erofs.ko", |module| {
        let magic = b"vermagic=6.";
        let at = module.windows(magic.len()).position(|w| w == magic);
        module[at.unwrap() + magic.len()] = b'9';
    });
    boot.fails(
        "the image on /dev/ubda1 cannot be mounted",
        &[
            "earlier: this mini-initramfs has modules for kernel 6.2.0-other, but 6.",
            "earlier: module erofs: it is not a module of this kernel (ENOEXEC)",
            "ENODEV",
        ],
    );
    Ok(())
}

fn garbage_module(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.edit_file("initoverlayfs/modules/erofs.ko", |module| module.fill(0x5a));
    boot.fails(
        "the image on /dev/ubda1 cannot be mounted",
        &["earlier: module erofs: it is not a module of this kernel (ENOEXEC)"],
    );
    Ok(())
}

fn missing_module(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_partition(ground);
    boot.remove_file("initoverlayfs/modules/erofs.ko");
    boot.fails(
        "the image on /dev/ubda1 cannot be mounted",
        &["earlier: module erofs: its file is missing"],
    );
    let mut boot = on_partition(ground);
    boot.remove_file("initoverlayfs/modules/overlay.ko");
    boot.fails(
        "mounting /initoverlayfs/root",
        &["earlier: module overlay: its file is missing"],
    );
    Ok(())
}

fn missing_loop(ground: &Ground) -> Result<(), Failed> {
    on_esp_of(ground, volumes::fat32)
        .remove_file("initoverlayfs/modules/loop.ko")
        .fails(
            "/dev/loop-control",
            &["earlier: module loop: its file is missing"],
        );
    on_esp_of(ground, volumes::fat32_fragmented)
        .remove_file("initoverlayfs/modules/dm_mod.ko")
        .fails(
            "/dev/mapper/control",
            &["earlier: module dm_mod: its file is missing"],
        );
    Ok(())
}

/// The superblock is right, what it points at is not.
fn damaged_image(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(
        ground,
        &[partition_at("partition", Selector::PartUuid(FIRST))],
    );
    let start = boot.disk(&[Partition::root(FIRST, &ground.image().path).unwrap()])[0].start;
    let len = ground.image().expect.size;
    // The superblock's checksum covers the first block.
    let noise = crate::support::noise(usize::try_from(len).unwrap() - 4096, 9);
    boot.damage(0, start + 4096, &noise);
    let advice = "what to do: the image or the disk is damaged";
    boot.fails("executing /init: input/output error (EIO)", &[advice])
        .expects("erofs: (device ubda1)");
    Ok(())
}

/// An image as the only partition, for which `change` changes the tree.
fn with_other_image<'g>(ground: &'g Ground, name: &str, change: &dyn Fn(&Path)) -> Boot<'g> {
    let image = ground.build_image(name, change);
    let candidate = Candidate {
        expect: image.expect,
        ..partition_at("partition", Selector::PartUuid(FIRST))
    };
    let mut boot = Boot::new(ground, &[candidate]);
    boot.disk(&[Partition::root(FIRST, &image.path).unwrap()]);
    boot
}

fn no_init(ground: &Ground) -> Result<(), Failed> {
    with_other_image(ground, "no-init", &|tree| {
        fs::remove_file(tree.join("init")).unwrap();
    })
    .fails(
        "the image has no init",
        &[
            "awaited: /init in the image",
            "awaited: /sbin/init in the image",
        ],
    );
    Ok(())
}

fn not_executable(ground: &Ground) -> Result<(), Failed> {
    with_other_image(ground, "not-executable", &|tree| {
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o644)).unwrap();
    })
    .fails("executing /init", &["EACCES"]);
    Ok(())
}

fn no_loader(ground: &Ground) -> Result<(), Failed> {
    with_other_image(ground, "no-loader", &|tree| {
        // Any program of this machine: its loader is not in the image.
        fs::copy("/bin/true", tree.join("init")).unwrap();
    })
    .fails(
        "executing /init",
        &[
            "ENOENT",
            "what to do: the init or its dynamic loader is missing",
        ],
    );
    Ok(())
}

/// User-mode-linux restarts by executing itself.
fn reboot(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.words("initoverlayfs.timeout=1 initoverlayfs.on_failure=reboot");
    let mut starts = 0;
    let outcome = boot
        .prepare()
        .run_until("a second start", Duration::from_secs(30), |line| {
            starts += usize::from(line.text.contains("Linux version"));
            starts == 2
        })
        .unwrap();
    assert_eq!(outcome.exit, UmlExit::Stopped, "{}", outcome.text());
    for text in ["  now: reboot in 0 s", "reboot: Restarting system"] {
        assert!(outcome.find(text).is_some(), "{text}:\n{}", outcome.text());
    }
    Ok(())
}

fn halt(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.words("initoverlayfs.timeout=1 initoverlayfs.on_failure=halt");
    let seen = boot.run();
    assert!(seen.report().contains(&"  now: halt in 0 s (change with initoverlayfs.on_failure= and initoverlayfs.failure_wait= on the kernel command line)"));
    seen.expects("reboot: System halted");
    Ok(())
}

/// Not before it, and not much after it.
fn limit(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    let seen = boot
        .words("initoverlayfs.timeout=3")
        .fails("the init image was not found within 3 s", &[]);
    let took = seen.expects("BOOT FAILED") - seen.expects("[stage plan]");
    assert!((2.95..6.0).contains(&took), "{took} s");
    seen.expects("still no image; loading 0 further modules on suspicion");
    Ok(())
}

fn failure_wait(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    let seen = boot
        .words("initoverlayfs.timeout=1 initoverlayfs.failure_wait=2")
        .fails(NOT_FOUND, &["  now: poweroff in 2 s"]);
    let took = seen.expects("reboot: ") - seen.expects("BOOT FAILED");
    assert!((1.95..5.0).contains(&took), "{took} s");
    Ok(())
}
