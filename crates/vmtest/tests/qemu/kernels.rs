//! Kernels of four kinds, each with the drivers for any machine, from the buses
//! that it has to the init in the image; and modules in every compression.

use std::fs;
use std::path::PathBuf;

use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk};
use vmtest::kernels::{Compression, Kernel, Release, recompress};
use vmtest::matrix::{Reached, Row};

use crate::Test;
use crate::support::{Ground, Small, expect, fail};
use crate::trust::{direct, with_image};

pub(crate) const TESTS: &[Test] = &[
    Test::new("debian_12_boots", |ground| {
        released(ground, "debian_12_boots", Release::Debian12, USUAL)
    }),
    Test::slow("debian_12_boots_from_more", |ground| {
        let test = "debian_12_boots_from_more";
        released(ground, test, Release::Debian12, MORE)
    }),
    Test::new("debian_13_cloud_boots", |ground| {
        released(
            ground,
            "debian_13_cloud_boots",
            Release::Debian13Cloud,
            CLOUD,
        )
    }),
    Test::new("forky_boots", |ground| {
        released(ground, "forky_boots", Release::Forky, USUAL)
    }),
    Test::slow("forky_boots_from_more", |ground| {
        released(ground, "forky_boots_from_more", Release::Forky, MORE)
    }),
    Test::new("modules_as_zst_boot", |ground| {
        compressed(ground, "modules_as_zst_boot", Compression::Zstd)
    }),
    Test::slow("modules_as_gz_boot", |ground| {
        compressed(ground, "modules_as_gz_boot", Compression::Gzip)
    }),
    Test::slow("plain_modules_boot", |ground| {
        compressed(ground, "plain_modules_boot", Compression::None)
    }),
];

const USUAL: &[Bus] = &[Bus::VirtioBlk, Bus::Nvme, Bus::Usb];

const MORE: &[Bus] = &[
    Bus::VirtioScsi,
    Bus::Ahci,
    Bus::MptSas,
    Bus::MegaSas,
    Bus::PvScsi,
    Bus::Uas,
    Bus::Sd,
];

/// What clouds have.
const CLOUD: &[Bus] = &[Bus::VirtioBlk, Bus::VirtioScsi, Bus::Nvme, Bus::Ahci];

/// A kernel with its modules.
struct Subject<'a> {
    test: &'a str,
    /// For the matrix.
    name: String,
    kernel: PathBuf,
    /// The root with its modules.
    sysroot: PathBuf,
}

fn released(ground: &Ground, test: &str, release: Release, buses: &[Bus]) -> Result<(), Failed> {
    let kernel = Kernel::ensure(release, &mut |line| eprintln!("{line}"))?;
    let subject = Subject {
        test,
        name: format!("{}, {}", release.name(), kernel.kernel_release()),
        kernel: kernel.kernel(),
        sysroot: kernel.modules_root(),
    };
    boots(ground, &subject, buses)
}

/// The guest's modules, which come as `.ko.xz`, in another compression.
fn compressed(ground: &Ground, test: &str, how: Compression) -> Result<(), Failed> {
    let root = ground.dir().join(format!("{test}-modules"));
    recompress(&ground.guest.modules(), how, &root)?;
    let end = match how {
        Compression::None => ".ko",
        Compression::Gzip => ".ko.gz",
        Compression::Zstd => ".ko.zst",
    };
    let subject = Subject {
        test,
        name: format!("{}, modules as {end}", ground.kernel_name()),
        kernel: ground.guest.kernel(),
        sysroot: root.clone(),
    };
    let release = ground.guest.kernel_release();
    let dep = root.join(format!("usr/lib/modules/{release}/modules.dep"));
    let erofs = format!("kernel/fs/erofs/erofs{end}:");
    if !fs::read_to_string(dep)?.contains(&erofs) {
        return Err(format!("modules.dep has no {erofs}").into());
    }
    boots(ground, &subject, &[Bus::VirtioBlk, Bus::Nvme])?;
    fs::remove_dir_all(root)?;
    Ok(())
}

/// One set, from each of these buses to testinit in its image.
fn boots(ground: &Ground, subject: &Subject<'_>, buses: &[Bus]) -> Result<(), Failed> {
    let dir = ground.dir().join(subject.test);
    let set = Small {
        sysroot: subject.sysroot.clone(),
        kernel: subject.kernel.clone(),
        modules: "generic",
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let path = dir.join("disk.img");
    let disk = ground.esp_disk(&path, &with_image(&set, "", None)?)?;
    let size = fs::metadata(&path)?.len();
    // QEMU's SD cards have a power of two.
    let card = dir.join("card.img");
    fs::copy(&path, &card)?;
    let file = fs::File::options().write(true).open(&card)?;
    file.set_len(size.next_power_of_two())?;
    for &bus in buses {
        let path = if bus == Bus::Sd { &card } else { &disk.path };
        let disks = [Disk::scratch(path, bus)];
        let boot = direct(&subject.kernel, &set, "testinit.stacked");
        let outcome = ground.machine(boot, &disks, None)?;
        expect(&outcome, "TESTINIT stage: first").map_err(|error| with_bus(bus, &error))?;
        // The image's proof stands below what was reached.
        if outcome.find("TESTINIT stacked: dm-0 loop0").is_none() {
            let what = format!("{}: not through dm-verity", bus.name());
            return Err(fail(&outcome, &what));
        }
        Row {
            bus: bus.name().to_owned(),
            kernel: subject.name.clone(),
            stage: "-".to_owned(),
            root: "-".to_owned(),
            reached: Reached::ImageInit,
            test: subject.test.to_owned(),
        }
        .record()?;
    }
    fs::remove_dir_all(dir)?;
    Ok(())
}

fn with_bus(bus: Bus, error: &Failed) -> Failed {
    let text = error.message().unwrap_or_default();
    format!("{}: {text}", bus.name()).into()
}
