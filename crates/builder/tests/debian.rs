//! Against a real distribution: `IOFS_TEST_MODULES_ROOT` names a root tree with
//! one kernel (Debian 13), `IOFS_TEST_INITRDS` initramfs files of it, separated
//! by `:`. Without them these tests have nothing to look at and say so; the
//! release's own tests set them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::*;
use common::*;
use iofs_plan::Role;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

struct Loud;

impl Progress for Loud {
    fn warn(&self, message: &str) {
        println!("warning: {message}");
    }
}

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("IOFS_TEST_MODULES_ROOT").map(PathBuf::from);
    if root.is_none() {
        println!("IOFS_TEST_MODULES_ROOT is not set: nothing to test");
    }
    root
}

fn request(dir: &Path, root: &Path, modules: Modules) -> MiniRequest {
    let kernel = Kernel {
        release: kernel_release(root).unwrap(),
        sysroot: root.to_owned(),
        modules_dir: None,
    };
    // Of storage-init's size, and as hard to compress.
    let init = dir.join("init");
    let mut bytes = fs::read("/proc/self/exe").unwrap();
    bytes.truncate(160 << 10);
    fs::write(&init, bytes).unwrap();
    let mut request = MiniRequest::new(dir.join("mini"), init, kernel);
    request.modules = modules;
    request.auth = Auth::Sealed(RootHash::from_bytes(&[7; 32]).unwrap());
    request.candidates = vec![Candidate {
        name: "esp".into(),
        partition: Selector::PartLabel("ESP".into()),
        file: Some("/debian-13/image.erofs".into()),
        expect: Expect {
            size: 4096,
            ..Expect::default()
        },
    }];
    request
}

fn show(name: &str, built: &BuiltMini) {
    let summary = &built.summary;
    let ms: u64 = summary.times.iter().map(|time| time.ms).sum();
    println!(
        "{name}: {} bytes of {}, {} modules, {} aliases, plan {} bytes, absent {} bytes, {ms} ms: {:?}",
        summary.bytes,
        summary.raw_bytes,
        summary.modules.len(),
        summary.aliases,
        summary.plan_bytes,
        summary.absent_bytes,
        summary.times
    );
}

#[test]
fn the_kernel_says_its_release() {
    let Some(root) = root() else { return };
    let release = kernel_release(&root).unwrap();
    let image = kernel_image(&root, &release).unwrap();
    assert_eq!(kernel_release_of_image(&image).unwrap(), release);
}

#[test]
fn one_virtio_machine() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let request = request(
        dir.path(),
        &root,
        Modules::Drivers(vec!["virtio_blk".into()]),
    );
    let built = build_mini(&request, &Loud).unwrap();
    show("virtio_blk", &built);
    assert!(
        built.summary.bytes <= 1_258_291,
        "more than 1.2 MiB: {}",
        built.summary.bytes
    );
    // The ten that the design's tables count, loop for the file, and the CPU's SHA-256.
    assert!(
        built.summary.modules.len() <= 12,
        "{:#?}",
        built.summary.modules
    );
}

#[test]
fn every_storage_driver() {
    let Some(root) = root() else { return };
    need(&["modprobe"]);
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), &root, Modules::Generic);
    let built = build_mini(&request, &Loud).unwrap();
    show("generic", &built);
    assert!(
        built.summary.bytes <= 6 << 20,
        "more than 6 MiB: {}",
        built.summary.bytes
    );
    let plan = &built.plan;
    let named = |name: &str| plan.modules.iter().find(|module| module.name == name);
    for name in [
        "virtio_blk",
        "virtio_scsi",
        "nvme",
        "ahci",
        "ata_piix",
        "sd_mod",
        "usb_storage",
        "uas",
        "xhci_pci",
        "ehci_pci",
        "sdhci_pci",
        "sdhci_acpi",
        "mmc_block",
        "megaraid_sas",
        "mpt3sas",
        "hv_storvsc",
        "xen_blkfront",
        "vmw_pvscsi",
        "vmd",
        "nd_pmem",
        "firewire_sbp2",
        "ufshcd_pci",
        "hpsa",
        "smartpqi",
        "mptspi",
        "lpfc",
    ] {
        assert_eq!(
            named(name).unwrap_or_else(|| panic!("no {name}")).role,
            Role::Bus,
            "{name}"
        );
    }
    for name in [
        "e1000",
        "drbd",
        "scsi_debug",
        "st",
        "vfat",
        "ext4",
        "nbd",
        "i915",
    ] {
        assert!(named(name).is_none(), "{name}");
    }
    // Real devices find their drivers, and only storage's.
    for (modalias, driver) in [
        ("virtio:d00000002v00001AF4", "virtio_blk"),
        ("virtio:d00000008v00001AF4", "virtio_scsi"),
        (
            "pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02",
            "nvme",
        ),
        (
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
            "ahci",
        ),
        ("scsi:t-0x00", "sd_mod"),
        (
            "usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00",
            "usb_storage",
        ),
        (
            "pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30",
            "xhci_pci",
        ),
        ("mmc:block", "mmc_block"),
        ("acpi:80860F14:PNP0D40:", "sdhci_acpi"),
        ("xen:vbd", "xen_blkfront"),
        ("vmbus:d96361baa104294db60572e2ffb1dc7f", "hv_storvsc"),
    ] {
        let found: BTreeSet<&str> = plan
            .modules_for(modalias)
            .map(|index| plan.modules[usize::from(index)].name.as_str())
            .collect();
        assert!(found.contains(driver), "{modalias}: {found:?}");
    }
    assert_eq!(
        plan.modules_for("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00")
            .count(),
        0
    );
    check_order(&root, &built);
}

/// Each module stands after everything that modprobe would load before it.
fn check_order(root: &Path, built: &BuiltMini) {
    let plan = &built.plan;
    let script = format!(
        "for m in {}; do echo \"= $m\"; modprobe -C /dev/null -d {} -S {} --show-depends $m; done",
        plan.modules
            .iter()
            .map(|m| m.name.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        root.display(),
        plan.kernel_release
    );
    let said = sh(Path::new("/"), &script);
    let name_of = |line: &str| {
        let path = line.split_whitespace().nth(1).unwrap();
        let file = path.rsplit('/').next().unwrap();
        file.split('.').next().unwrap().replace('-', "_")
    };
    for block in said.split("= ").skip(1) {
        let module = block.lines().next().unwrap();
        let index = plan.modules.iter().position(|m| m.name == module).unwrap();
        // Everything that the plan loads before it, directly or not.
        let mut before = BTreeSet::new();
        let mut todo = vec![index];
        while let Some(at) = todo.pop() {
            for &need in &plan.modules[at].needs {
                if before.insert(plan.modules[usize::from(need)].name.clone()) {
                    todo.push(usize::from(need));
                }
            }
        }
        let oracle: BTreeSet<String> = block
            .lines()
            .filter(|line| line.starts_with("insmod"))
            .map(name_of)
            .filter(|name| name != module)
            .collect();
        let missing: Vec<&String> = oracle.difference(&before).collect();
        assert!(
            missing.is_empty(),
            "{module}: modprobe loads {missing:?} before it"
        );
    }
}

#[test]
fn this_machine() {
    let Some(root) = root() else { return };
    let sysfs = Path::new("/sys");
    let devices = boot_disks(sysfs).unwrap();
    println!("boots from {devices:?}");
    let dir = tempfile::tempdir().unwrap();
    let modules = Modules::Host(HostDisks {
        sysfs: sysfs.to_owned(),
        devices,
    });
    let built = build_mini(&request(dir.path(), &root, modules), &Loud).unwrap();
    show("host", &built);
    assert!(
        built
            .plan
            .modules
            .iter()
            .any(|module| module.role == Role::Disk)
    );
}

#[test]
fn real_initramfs_files() {
    need(&["mkfs.erofs", "mount", "modprobe"]);
    let Some(root) = root() else { return };
    let release = kernel_release(&root).unwrap();
    for initrd in std::env::var("IOFS_TEST_INITRDS")
        .unwrap_or_default()
        .split(':')
    {
        if initrd.is_empty() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut request = common::plain(Source::Initrd(initrd.into()), dir.path().join("image"));
        request.run_init = Some("/bin/true".into());
        let built = build_image(&request, &Loud).unwrap();
        println!("{}", serde_json::to_string_pretty(&built.summary).unwrap());
        assert!(
            built.summary.warnings.is_empty(),
            "{:#?}",
            built.summary.warnings
        );
        let mounted = Mounted::new(&request.output);
        assert!(mounted.path.join("init").symlink_metadata().is_ok());
        let shown = sh(
            dir.path(),
            &format!(
                "modprobe -C /dev/null -d {} -S {release} --show-depends ext4",
                mounted.path.display()
            ),
        );
        for line in shown.lines().filter(|line| line.starts_with("insmod")) {
            let path = line.split_whitespace().nth(1).unwrap();
            assert!(Path::new(path).is_file() && path.ends_with(".ko"), "{line}");
        }
    }
}
