//! One set for any machine, unchanged, from every storage bus to the init on
//! the root.
//!
//! QEMU 7.2 has no eMMC device; its SD card goes through the same drivers but
//! for the card's own commands.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::{Boot, Bus, Cdrom, Crowd, Disk, Idle, Machine, Outcome, RunOptions, Vm};
use vmtest::guest;
use vmtest::matrix::{Reached, Row};

use crate::Test;
use crate::support::{Ground, LIMIT, expect, facts, fail, run};

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_missing_driver_is_named", missing_driver),
    Test::new("boots_from_virtio_blk", |ground| {
        bus(ground, "boots_from_virtio_blk", Bus::VirtioBlk, 512)
    }),
    Test::slow("boots_from_virtio_blk_4096", |ground| {
        bus(ground, "boots_from_virtio_blk_4096", Bus::VirtioBlk, 4096)
    }),
    Test::new("boots_from_virtio_scsi", |ground| {
        bus(ground, "boots_from_virtio_scsi", Bus::VirtioScsi, 512)
    }),
    Test::slow("boots_from_nvme", |ground| {
        bus(ground, "boots_from_nvme", Bus::Nvme, 512)
    }),
    Test::new("boots_from_nvme_4096", |ground| {
        bus(ground, "boots_from_nvme_4096", Bus::Nvme, 4096)
    }),
    Test::new("boots_from_ahci", |ground| {
        bus(ground, "boots_from_ahci", Bus::Ahci, 512)
    }),
    Test::slow("boots_from_lsi_53c895a", |ground| {
        bus(ground, "boots_from_lsi_53c895a", Bus::Lsi, 512)
    }),
    Test::slow("boots_from_lsi_sas1068", |ground| {
        bus(ground, "boots_from_lsi_sas1068", Bus::MptSas, 512)
    }),
    Test::new("boots_from_megaraid", |ground| {
        bus(ground, "boots_from_megaraid", Bus::MegaSas, 512)
    }),
    Test::slow("boots_from_megaraid_gen2", |ground| {
        bus(ground, "boots_from_megaraid_gen2", Bus::MegaSas2, 512)
    }),
    Test::slow("boots_from_pvscsi", |ground| {
        bus(ground, "boots_from_pvscsi", Bus::PvScsi, 512)
    }),
    Test::new("boots_from_usb_storage", |ground| {
        bus(ground, "boots_from_usb_storage", Bus::Usb, 512)
    }),
    Test::new("boots_from_uas", |ground| {
        bus(ground, "boots_from_uas", Bus::Uas, 512)
    }),
    Test::new("boots_from_sd_card", |ground| {
        bus(ground, "boots_from_sd_card", Bus::Sd, 512)
    }),
    Test::slow("boots_on_machine_pc", pc),
    Test::new("boots_on_microvm", microvm),
    Test::new("usb_stick_15_seconds_late", |ground| {
        late(ground, "usb_stick_15_seconds_late", Bus::Usb)
    }),
    Test::slow("uas_disk_15_seconds_late", |ground| {
        late(ground, "uas_disk_15_seconds_late", Bus::Uas)
    }),
    Test::new("cdrom_is_ignored", cdrom),
    Test::new("boots_among_40_virtio_scsi", |ground| {
        crowd(ground, "boots_among_40_virtio_scsi", Bus::VirtioScsi)
    }),
    Test::slow("boots_among_40_virtio_blk", |ground| {
        crowd(ground, "boots_among_40_virtio_blk", Bus::VirtioBlk)
    }),
    Test::slow("boots_among_40_nvme", |ground| {
        crowd(ground, "boots_among_40_nvme", Bus::Nvme)
    }),
];

/// storage-init's last line.
const EXEC: &str = "storage-init: [stage exec]";

/// The size of a crowd's disk in `/proc/partitions`, 64 MiB.
const EMPTY_KIB: &str = " 65536 ";

/// A mini-initramfs for virtio disks on a machine whose disk is another: what is
/// there and what would drive it is said.
fn missing_driver(ground: &Ground) -> Result<(), Failed> {
    let set = ground.dracut()?;
    let path = ground.dir().join("disk.img");
    set.disk(&path, &ground.guest, 512)?;
    let disk = Disk::scratch(&path, Bus::Nvme);
    let append = "initoverlayfs.timeout=2 initoverlayfs.failure_wait=0 \
                  initoverlayfs.on_failure=poweroff";
    let outcome = ground.boot(&set.mini_initramfs(), disk, append)?;
    fs::remove_file(&path)?;
    expect(
        &outcome,
        "BOOT FAILED: the init image was not found within 2 s",
    )?;
    expect(&outcome, "seen: PCI device 1b36:0010 (class NVMe) at ")?;
    expect(
        &outcome,
        " has no driver in this image; module nvme of this kernel would serve",
    )?;
    expect(&outcome, "seen: no disk at all")
}

/// The disk of the generic set; the tests run one at a time, and each throws
/// its writes away.
fn disk(ground: &Ground, block_size: u32) -> Result<PathBuf, Failed> {
    let path = ground.dir().join(format!("generic-{block_size}.img"));
    if !path.is_file() {
        let set = ground.generic()?;
        set.disk(&path, &ground.guest, block_size)?;
    }
    Ok(path)
}

/// A machine without disks that boots the generic set to the root's init.
fn machine(ground: &Ground) -> Result<Machine, Failed> {
    let append = format!("init={} iofs-test.facts", guest::MARK);
    let mini = ground.generic()?.mini_initramfs();
    Ok(ground.direct(&mini, &append))
}

fn bus(ground: &Ground, test: &str, bus: Bus, block_size: u32) -> Result<(), Failed> {
    let mut machine = machine(ground)?;
    let path = disk(ground, block_size)?;
    machine.disks.push(Disk {
        block_size,
        ..Disk::scratch(path, bus)
    });
    sound(&run(&machine)?)?;
    match block_size {
        512 => record(ground, test, bus.name()),
        _ => record(ground, test, &format!("{}, {block_size}", bus.name())),
    }
}

/// The machine with PCI but without PCI Express, and with IDE.
fn pc(ground: &Ground) -> Result<(), Failed> {
    let mut machine = machine(ground)?;
    machine.machine = Some("pc".to_owned());
    let path = disk(ground, 512)?;
    machine.disks.push(Disk::scratch(path, Bus::Ide));
    sound(&run(&machine)?)?;
    record(ground, "boots_on_machine_pc", "ide, pc")
}

/// The machine without PCI, whose devices are in ACPI's tables. Without these
/// they would be on the kernel's command line, and Debian's virtio_mmio is built
/// to ignore that. It has no clock but the processor's, which QEMU lets run at
/// 1 GHz when it counts instructions, and the kernel must be told so.
fn microvm(ground: &Ground) -> Result<(), Failed> {
    let mut machine = machine(ground)?;
    machine.machine = Some("microvm,acpi=on".to_owned());
    machine.icount = Some(Idle::Jump);
    if let Boot::Direct { append, .. } = &mut machine.boot {
        append.push_str(" tsc_early_khz=1000000");
    }
    let path = disk(ground, 512)?;
    machine.disks.push(Disk::scratch(path, Bus::VirtioMmio));
    let outcome = run(&machine)?;
    sound(&outcome)?;
    if outcome.find("PCI: System does not support PCI").is_none() {
        return Err(fail(&outcome, "the machine has PCI"));
    }
    record(ground, "boots_on_microvm", "virtio-mmio, microvm")
}

fn record(ground: &Ground, test: &str, bus: &str) -> Result<(), Failed> {
    let row = Row {
        bus: bus.to_owned(),
        kernel: ground.kernel_name(),
        stage: "dracut".to_owned(),
        root: "ext4".to_owned(),
        reached: Reached::RootInit,
        test: test.to_owned(),
    };
    Ok(row.record()?)
}

/// The root's init was reached through the image, and no unauthenticated file
/// system was mounted to get there.
fn sound(outcome: &Outcome) -> Result<(), Failed> {
    expect(outcome, EXEC)?;
    expect(outcome, guest::MARKED)?;
    let modules = facts(outcome, "module");
    if modules.is_empty() {
        return Err(fail(outcome, "no module is listed"));
    }
    let fat = |line: &&&str| {
        ["fat ", "vfat ", "msdos "]
            .iter()
            .any(|m| line.starts_with(m))
    };
    match modules.iter().find(fat) {
        Some(module) => Err(fail(outcome, &format!("loaded: {module}"))),
        None => Ok(()),
    }
}

/// Nothing is there but the port. Then the stick with image and root is plugged
/// in. How long that takes is printed; the bound is `cargo xtask bench reach`'s.
fn late(ground: &Ground, test: &str, bus: Bus) -> Result<(), Failed> {
    const LATE: Duration = Duration::from_secs(15);
    let mut machine = machine(ground)?;
    machine.sockets.push(bus);
    let stick = Disk::scratch(disk(ground, 512)?, bus);
    let mut vm = Vm::start(&machine, RunOptions::default())?;
    let start = "storage-init: [stage start]";
    vm.wait_for(start, LIMIT, |line| line.text.contains(start))?;
    thread::sleep(LATE);
    let plugged = vm.plug(0, &stick)?;
    let outcome = vm.finish(LIMIT)?;
    sound(&outcome)?;
    // The order of events, each by its line on the console.
    let mut lines = outcome.lines.iter();
    for part in [start, "[sda] Attached SCSI", "[stage device]", EXEC] {
        if !lines.any(|line| line.text.contains(part)) {
            return Err(fail(&outcome, &format!("{part:?} did not come, in order")));
        }
    }
    let attached = outcome
        .find("[sda] Attached SCSI")
        .filter(|line| line.at >= plugged);
    if attached.is_none() {
        return Err(fail(
            &outcome,
            "the stick was there before it was plugged in",
        ));
    }
    let time = |text| outcome.time_of(text).unwrap_or_default();
    eprintln!(
        "{test}: exec {:.3} s after the kernel has attached the disk, {:.3} s of wall time after \
         it was plugged in",
        time(EXEC)
            .saturating_sub(time("[sda] Attached SCSI"))
            .as_secs_f64(),
        outcome
            .find(EXEC)
            .map_or(Duration::ZERO, |line| line.at.saturating_sub(plugged))
            .as_secs_f64(),
    );
    record(ground, test, &format!("{}, 15 s late", bus.name()))
}

/// One drive is empty, the other holds a disc with the set's own image, on a
/// file system that nobody looks at.
fn cdrom(ground: &Ground) -> Result<(), Failed> {
    let mut machine = machine(ground)?;
    let image = ground.dir().join("disc.iso");
    fs::copy(&ground.generic()?.image, &image)?;
    machine.cdroms.push(Cdrom::default());
    machine.cdroms.push(Cdrom { image: Some(image) });
    let path = disk(ground, 512)?;
    machine.disks.push(Disk::scratch(path, Bus::Ahci));
    let outcome = run(&machine)?;
    sound(&outcome)?;
    // The kernel has seen both, and storage-init has loaded no driver for them.
    let seen = |line: &&qemu_driver::ConsoleLine| line.text.contains("ATAPI: QEMU DVD-ROM");
    if outcome.lines.iter().filter(seen).count() != 2 {
        return Err(fail(&outcome, "the kernel has not seen two CD-ROM drives"));
    }
    let before_exec = outcome
        .lines
        .iter()
        .take_while(|line| !line.text.contains(EXEC));
    for line in before_exec {
        if line.text.contains("sr 0:") || line.text.contains("cdrom:") {
            return Err(fail(&outcome, "the CD-ROM's driver was loaded"));
        }
    }
    record(ground, "cdrom_is_ignored", "ahci, CD-ROMs beside it")
}

/// The boot disk is the last of 41. What it costs against one disk is printed;
/// the bound is `cargo xtask bench reach`'s.
fn crowd(ground: &Ground, test: &str, bus: Bus) -> Result<(), Failed> {
    const OTHERS: usize = 40;
    let mut alone = machine(ground)?;
    alone.icount = Some(Idle::Jump);
    alone.disks.push(Disk::scratch(disk(ground, 512)?, bus));
    let mut among = alone.clone();
    among.crowds.push(Crowd {
        bus,
        count: OTHERS,
        content: None,
    });
    let outcome = run(&among)?;
    sound(&outcome)?;
    let seen = facts(&outcome, "partition")
        .iter()
        .filter(|line| line.contains(EMPTY_KIB))
        .count();
    if seen != OTHERS {
        return Err(fail(&outcome, &format!("{seen} empty disks are there")));
    }
    let many = outcome.time_of(EXEC).unwrap_or_default().as_secs_f64();
    let mut vm = Vm::start(&alone, RunOptions::default())?;
    vm.wait_for(EXEC, LIMIT, |line| line.text.contains(EXEC))?;
    let one = vm.stop()?.time_of(EXEC).unwrap_or_default().as_secs_f64();
    eprintln!(
        "{test}: exec at {many:.3} s, with the boot disk alone at {one:.3} s: {:.2} times",
        many / one
    );
    record(ground, test, &format!("{}, 41 disks", bus.name()))
}
