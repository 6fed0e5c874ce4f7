//! The mini-initramfs: which modules, in which order, and what the bytes are.
//! The oracles are GNU cpio, the compressors and modprobe.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{
    Appended, Auth, BootPlan, BuiltMini, Candidate, Compression, ErrorKind, Expect, HostDisks,
    Kernel, MiniAhead, MiniRequest, Modules, Selector, Silent, build_mini,
};
use common::*;
use iofs_plan::{Absent, Role};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A root with metadata and modules (which are all but empty) of a made-up
/// kernel with the shapes that real ones have.
struct FakeKernel {
    dir: tempfile::TempDir,
}

const DEP: &str = "\
kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/block/loop.ko:
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko
kernel/lib/reed_solomon/reed_solomon.ko:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/lib/reed_solomon/reed_solomon.ko kernel/drivers/md/dm-mod.ko
kernel/crypto/sha256_generic.ko:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/scsi/scsi_common.ko:
kernel/drivers/scsi/scsi_mod.ko: kernel/drivers/scsi/scsi_common.ko
kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/ata/libata.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/ata/libahci.ko: kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/nvme/host/nvme-core.ko:
kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko
kernel/drivers/nvme/target/nvmet.ko: kernel/drivers/nvme/host/nvme-core.ko
kernel/drivers/usb/host/xhci-pci.ko:
kernel/drivers/usb/host/uhci-hcd.ko:
kernel/drivers/usb/host/ehci-pci.ko:
kernel/drivers/usb/storage/usb-storage.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/net/e1000.ko:
kernel/drivers/scsi/qla2xxx/qla2xxx.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/scsi/sr_mod.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/misc/odd.ko:
kernel/fs/efivarfs/efivarfs.ko:
kernel/drivers/pci/hotplug/shpchp.ko:
kernel/drivers/scsi/scsi_debug.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
";

const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias fs-erofs erofs
alias crc32c crc32c_generic
alias crypto-crc32c crc32c_generic
alias crypto-crc32c-generic crc32c_generic
alias crc32c crc32c_intel
alias crypto-crc32c crc32c_intel
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c_intel
alias virtio:d00000002v* virtio_blk
alias scsi:t-0x00* sd_mod
alias scsi:t-0x07* sd_mod
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00008086d00002922sv*sd*bc*sc*i* ahci
alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci
alias pci:v*d*sv*sd*bc0Csc03i00* uhci_hcd
alias pci:v*d*sv*sd*bc0Csc03i20* ehci_pci
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias pci:v*d*sv*sd*bc06sc04i00* shpchp
alias scsi:debug* scsi_debug
alias pci:v00001077d00002432sv*sd*bc*sc*i* qla2xxx
alias scsi:t-0x05* sr_mod
alias pci:v00009999d*sv*sd*bc01sc80i00* odd
";

const SOFTDEP: &str = "softdep libcrc32c pre: crc32c\nsoftdep uhci_hcd pre: ehci_pci\n";

impl FakeKernel {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("usr/lib/modules/6.0");
        for line in DEP.lines() {
            let path = modules.join(line.split(':').next().unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("\x7fELF {line}")).unwrap();
        }
        fs::write(modules.join("modules.dep"), DEP).unwrap();
        fs::write(modules.join("modules.alias"), ALIAS).unwrap();
        fs::write(modules.join("modules.softdep"), SOFTDEP).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        fs::create_dir_all(dir.path().join("etc/modprobe.d")).unwrap();
        fs::create_dir_all(dir.path().join("out")).unwrap();
        fs::copy("/bin/true", dir.path().join("init")).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn modprobe_d(&self, text: &str) {
        fs::write(self.path().join("etc/modprobe.d/local.conf"), text).unwrap();
    }

    fn request(&self, modules: Modules) -> MiniRequest {
        let kernel = Kernel {
            release: "6.0".into(),
            sysroot: self.path().to_owned(),
            modules_dir: None,
        };
        request(self.path(), kernel, modules)
    }

    fn build(&self, modules: Modules) -> BuiltMini {
        build_mini(&self.request(modules), &Silent).unwrap()
    }
}

fn request(dir: &Path, kernel: Kernel, modules: Modules) -> MiniRequest {
    let mut request = MiniRequest::new(dir.join("out/mini"), dir.join("init"), kernel);
    request.modules = modules;
    request.auth = Auth::None;
    request.product = "test-1".into();
    request.candidates = vec![Candidate {
        name: "esp".into(),
        partition: Selector::PartLabel("ESP".into()),
        file: Some("/initoverlayfs/image".into()),
        expect: Expect {
            size: 4096,
            ..Expect::default()
        },
    }];
    request
}

fn names(built: &BuiltMini) -> Vec<&str> {
    built.plan.modules.iter().map(|m| m.name.as_str()).collect()
}

/// The module of that name, and the names of what it needs.
fn module<'p>(plan: &'p BootPlan, name: &str) -> (&'p iofs_plan::Module, Vec<&'p str>) {
    let module = plan
        .modules
        .iter()
        .find(|m| m.name == name)
        .unwrap_or_else(|| panic!("{name} is not in the plan"));
    let needs = module
        .needs
        .iter()
        .map(|&n| plan.modules[usize::from(n)].name.as_str());
    (module, needs.collect())
}

#[test]
fn work_ahead_changes_nothing() {
    let kernel = FakeKernel::new();
    let request = kernel.request(Modules::Generic);
    let at_once = build_mini(&request, &Silent).unwrap();
    let bytes = fs::read(&request.output).unwrap();
    let other = kernel.request(Modules::Drivers(vec!["virtio-blk".into()]));
    let mut broken = request.clone();
    broken.kernel.release = "0.0".into();
    // As it is, for other modules, otherwise compressed, and in vain.
    let compressed = MiniRequest {
        compression: Compression::ZstdLevel(3),
        ..request.clone()
    };
    for outline in [request.clone(), other, compressed, broken] {
        fs::remove_file(&request.output).unwrap();
        let ahead = MiniAhead::start(outline).build(&request, &Silent).unwrap();
        assert!(fs::read(&request.output).unwrap() == bytes);
        assert_eq!(ahead.plan, at_once.plan);
        // Each step once, whoever did it.
        assert_eq!(ahead.summary.times.len(), at_once.summary.times.len());
    }
    // What is wrong is said as without.
    let mut wrong = request.clone();
    wrong.kernel.release = "0.0".into();
    let error = MiniAhead::start(wrong.clone()).build(&wrong, &Silent);
    assert_eq!(
        error.unwrap_err().to_string(),
        build_mini(&wrong, &Silent).unwrap_err().to_string()
    );
}

#[test]
fn named_drivers_with_all_that_they_need() {
    let kernel = FakeKernel::new();
    let built = kernel.build(Modules::Drivers(vec!["virtio-blk".into()]));
    let plan = &built.plan;
    assert_eq!(
        names(&built),
        [
            "crc32c_intel",
            "virtio_ring",
            "virtio_blk",
            "crc32c_generic",
            "libcrc32c",
            "erofs",
            "overlay",
            "loop",
            "dm_mod"
        ]
    );
    let (virtio_blk, needs) = module(plan, "virtio_blk");
    assert_eq!((virtio_blk.role, needs), (Role::Disk, vec!["virtio_ring"]));
    assert_eq!(module(plan, "virtio_ring").0.role, Role::Dependency);
    assert_eq!(module(plan, "erofs").0.role, Role::Image);
    assert_eq!(module(plan, "dm_mod").0.role, Role::Mapping);
    // One edge, though modules.dep and softdeps name what lies behind it too.
    assert_eq!(module(plan, "erofs").1, ["libcrc32c"]);
    assert_eq!(
        module(plan, "libcrc32c").1,
        ["crc32c_intel", "crc32c_generic"]
    );
    // Either will do, and the CPU's own is tried first.
    let fallback = &module(plan, "crc32c_generic").0.fallback_for;
    let better = fallback
        .iter()
        .map(|&n| plan.modules[usize::from(n)].name.as_str());
    assert_eq!(better.collect::<Vec<_>>(), ["crc32c_intel"]);
    let mut others = plan.modules.iter().filter(|m| m.name != "crc32c_generic");
    assert!(others.all(|m| m.fallback_for.is_empty()));
    let soft: Vec<&str> = plan
        .modules
        .iter()
        .filter(|m| !m.required)
        .map(|m| m.name.as_str())
        .collect();
    assert_eq!(soft, ["crc32c_intel", "crc32c_generic"]);
    assert_eq!(plan.aliases.len(), 1);
    assert_eq!(plan.modules_for("virtio:d00000002v00001AF4").count(), 1);
    let reason = |name: &str| {
        built
            .summary
            .modules
            .iter()
            .find(|m| m.name == name)
            .unwrap()
            .reason
            .clone()
    };
    assert_eq!(reason("virtio_blk"), "named by the user");
    assert_eq!(reason("virtio_ring"), "needed by virtio_blk");
    assert_eq!(reason("crc32c_intel"), "wanted by libcrc32c");
    assert_eq!(
        reason("crc32c_generic"),
        "wanted by libcrc32c where crc32c_intel cannot be loaded"
    );

    // A host adapter does not depend on what drives its disks.
    let built = kernel.build(Modules::Drivers(vec!["ahci".into()]));
    assert_eq!(module(&built.plan, "sd_mod").0.role, Role::Disk);
    // An alias names a driver too.
    let alias = "pci:v00008086d00002922sv00000000sd00000000bc01sc06i01";
    let built = kernel.build(Modules::Drivers(vec![alias.into()]));
    assert_eq!(module(&built.plan, "ahci").0.role, Role::Disk);
    // A dash stays a dash: devices announce themselves by it.
    assert_eq!(built.plan.modules_for("scsi:t-0x00").count(), 1);
}

#[test]
fn an_image_in_a_partition_needs_no_mapping() {
    let kernel = FakeKernel::new();
    let mut request = kernel.request(Modules::Drivers(vec!["virtio_blk".into()]));
    request.candidates[0].file = None;
    let built = build_mini(&request, &Silent).unwrap();
    assert!(!names(&built).contains(&"loop") && !names(&built).contains(&"dm_mod"));
}

#[test]
fn the_firmwares_variables_where_a_partition_is_known_by_its_type() {
    let kernel = FakeKernel::new();
    let mut request = kernel.request(Modules::Drivers(vec!["virtio_blk".into()]));
    let built = build_mini(&request, &Silent).unwrap();
    assert!(!names(&built).contains(&"efivarfs"));
    request.candidates[0].partition = Selector::TypeGuid(builder::Uuid::from_u128(1));
    let built = build_mini(&request, &Silent).unwrap();
    let (efivarfs, _) = module(&built.plan, "efivarfs");
    // Nothing asks for it but PID 1 itself.
    assert_eq!(efivarfs.role, Role::Dependency);
    assert!(efivarfs.packed.is_some() && !efivarfs.required);
    assert_eq!(built.plan.packs[0].file, "efi.zst");
    let reason = built.summary.modules.iter().find(|m| m.name == "efivarfs");
    assert!(reason.unwrap().reason.contains("booted from"));
}

#[test]
fn dm_verity_comes_where_something_is_to_be_proven() {
    need(&["objcopy"]);
    let kernel = FakeKernel::new();
    let mut request = kernel.request(Modules::Drivers(vec!["virtio_blk".into()]));
    request.candidates[0].file = None;
    let plain = build_mini(&request, &Silent).unwrap();
    assert!(!names(&plain).contains(&"dm_verity"));

    request.auth = Auth::Sealed(builder::RootHash::from_bytes(&[7; 32]).unwrap());
    let built = build_mini(&request, &Silent).unwrap();
    assert_eq!(built.plan.auth, request.auth);
    let (verity, needs) = module(&built.plan, "dm_verity");
    assert_eq!(verity.role, Role::Image);
    assert_eq!(verity.params, "");
    assert_eq!(needs, ["reed_solomon", "dm_bufio"]);
    // The modules of this kernel have no SHA-256 inside the kernel.
    for name in [
        "dm_verity",
        "dm_bufio",
        "reed_solomon",
        "dm_mod",
        "sha256_generic",
    ] {
        assert!(module(&built.plan, name).0.required, "{name}");
    }

    // The parameter is given where the module knows it and the plan signs.
    let modules = kernel.path().join("usr/lib/modules/6.0");
    sh(
        kernel.path(),
        &format!(
            "printf 'name=dm_verity\\0parm=keyring_unsealed:Leave it open\\0' > modinfo
             objcopy --add-section .modinfo=modinfo /bin/true '{}'",
            modules.join("kernel/drivers/md/dm-verity.ko").display()
        ),
    );
    let built = build_mini(&request, &Silent).unwrap();
    assert_eq!(module(&built.plan, "dm_verity").0.params, "");
    let certificate = fs::read(own_certificate(kernel.path())).unwrap();
    request.auth = Auth::Signed(builder::Signed {
        certificates: vec![certificate],
        ..builder::Signed::default()
    });
    kernel.modprobe_d("options dm_verity prefetch_cluster=0\n");
    let built = build_mini(&request, &Silent).unwrap();
    assert_eq!(
        module(&built.plan, "dm_verity").0.params,
        "prefetch_cluster=0 keyring_unsealed=1"
    );

    // Inside the kernel there is nothing to load.
    let dep = DEP
        .lines()
        .filter(|line| !line.starts_with("kernel/drivers/md/dm-") && !line.contains("sha256"))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/drivers/md/dm-mod.ko\nkernel/drivers/md/dm-verity.ko\nkernel/crypto/sha256_generic.ko\n",
    )
    .unwrap();
    let built = build_mini(&request, &Silent).unwrap();
    assert!(
        !names(&built)
            .iter()
            .any(|name| name.contains("dm_") || name.contains("sha256"))
    );
    // A kernel without it cannot prove anything.
    fs::write(modules.join("modules.builtin"), "").unwrap();
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Modules);
    assert!(error.advice().unwrap().contains("dm-verity"));
}

/// A certificate in DER.
fn own_certificate(dir: &Path) -> PathBuf {
    let request = builder::KeygenRequest {
        key: dir.join("k.key"),
        certificate: dir.join("k.crt"),
        certificate_der: dir.join("k.der"),
        key_type: builder::KeyType::P256,
        common_name: "Test".into(),
        force: false,
    };
    builder::keygen(&request).unwrap();
    request.certificate_der
}

#[test]
fn every_storage_driver_and_nothing_else() {
    let kernel = FakeKernel::new();
    let built = kernel.build(Modules::Generic);
    let plan = &built.plan;
    for name in [
        "virtio_blk",
        "sd_mod",
        "ahci",
        "nvme",
        "xhci_pci",
        "uhci_hcd",
        "usb_storage",
    ] {
        assert_eq!(module(plan, name).0.role, Role::Bus, "{name}");
    }
    for name in ["e1000", "nvmet", "scsi_debug", "shpchp"] {
        assert!(!names(&built).contains(&name), "{name}");
    }
    assert_eq!(module(plan, "uhci_hcd").1, ["ehci_pci"], "its softdep");
    for (index, module) in plan.modules.iter().enumerate() {
        assert!(module.needs.iter().all(|&need| usize::from(need) < index));
    }
    // What is looked up by the aliases of the plan is what modprobe would load.
    assert!(
        !plan
            .aliases
            .aliases()
            .iter()
            .any(|alias| alias.pattern.starts_with("cpu:"))
    );
    let ahci: Vec<&str> = plan
        .modules_for("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01")
        .map(|m| plan.modules[usize::from(m)].name.as_str())
        .collect();
    assert_eq!(ahci, ["ahci", "ahci"]);
}

/// What PID 1 reads of the mini-initramfs when a boot has failed.
fn absent(built: &BuiltMini) -> Option<Absent> {
    let bytes = fs::read(&built.summary.path).unwrap();
    let archive = zstd::decode_all(segments(&bytes).0).unwrap();
    let reader = iofs_cpio::Reader::at(&archive, 0).map(Result::unwrap);
    let mut found = None;
    for entry in reader {
        if entry.path().unwrap() == iofs_plan::ABSENT.trim_start_matches('/').as_bytes() {
            assert_eq!(built.summary.absent_bytes, entry.data.len() as u64);
            let content = zstd::decode_all(entry.data).unwrap();
            found = Some(Absent::decode(&content).unwrap());
        }
    }
    found
}

#[test]
fn drivers_that_are_absent_are_known_by_name() {
    let kernel = FakeKernel::new();
    let (ahci, nvme) = (
        "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
        "pci:v00008086d00005845sv00001AF4sd00001100bc01sc08i02",
    );
    let (fibre, odd) = (
        "pci:v00001077d00002432sv00001AF4sd00001100bc0Csc04i00",
        "pci:v00009999d00000001sv00001AF4sd00001100bc01sc80i00",
    );
    let network = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
    let built = kernel.build(Modules::Drivers(vec!["ahci".into()]));
    let one = absent(&built).unwrap();
    assert_eq!(one.modules_for(nvme), ["nvme"]);
    assert!(one.modules_for(ahci).is_empty(), "it is there");
    assert_eq!(one.modules_for(fibre), ["qla2xxx"]);

    let every = absent(&kernel.build(Modules::Generic)).unwrap();
    assert!(every.modules_for(nvme).is_empty());
    // Left out of the catalogue, outside of its folders.
    assert_eq!(every.modules_for(fibre), ["qla2xxx"]);
    assert_eq!(every.modules_for(odd), ["odd"]);
    // Neither networks nor CD-ROMs are missed.
    assert!(every.modules_for(network).is_empty() && every.modules_for("scsi:t-0x05").is_empty());
    kernel.modprobe_d("blacklist qla2xxx\nblacklist odd\n");
    assert!(absent(&kernel.build(Modules::Generic)).is_none());
}

#[test]
fn no_modules_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::copy("/bin/true", dir.path().join("init")).unwrap();
    let kernel = Kernel {
        release: "6.0-builtin".into(),
        sysroot: dir.path().to_owned(),
        modules_dir: None,
    };
    // Nothing is looked for in the sysroot.
    let built = build_mini(&request(dir.path(), kernel, Modules::None), &Silent).unwrap();
    assert!(built.plan.modules.is_empty());
    assert_eq!(built.plan.kernel_release, "6.0-builtin");
}

/// A sysfs with the devices of a machine; `devices` are (path, modalias,
/// driver's module).
fn fake_sysfs(dir: &Path, devices: &[(&str, &str, &str)]) -> PathBuf {
    let sys = dir.join("sys");
    for (path, modalias, module) in devices {
        let device = sys.join("devices").join(path);
        fs::create_dir_all(&device).unwrap();
        if !modalias.is_empty() {
            fs::write(device.join("modalias"), format!("{modalias}\n")).unwrap();
        }
        if !module.is_empty() {
            let target = sys.join("module").join(module);
            fs::create_dir_all(&target).unwrap();
            fs::create_dir(device.join("driver")).unwrap();
            symlink(target, device.join("driver/module")).unwrap();
        }
    }
    fs::create_dir_all(sys.join("class/block")).unwrap();
    sys
}

fn block(sys: &Path, name: &str, path: &str) {
    let folder = sys.join("devices").join(path);
    fs::create_dir_all(&folder).unwrap();
    symlink(folder, sys.join("class/block").join(name)).unwrap();
}

#[test]
fn the_hosts_own_disks() {
    let kernel = FakeKernel::new();
    let sys = fake_sysfs(
        kernel.path(),
        &[
            ("pci0", "", ""),
            // A bridge: its alias also finds a hotplug driver, which is no storage.
            ("pci0/bridge", "pci:v0d0sv0sd0bc06sc04i00", ""),
            (
                "pci0/bridge/ahci",
                "pci:v00008086d00002922sv0sd0bc01sc06i01",
                "ahci",
            ),
            (
                "pci0/bridge/ahci/ata1/host0/target0/0:0:0:0",
                "scsi:t-0x00",
                "sd_mod",
            ),
            ("pci0/nvme", "pci:v0d0sv0sd0bc01sc08i02", ""),
            ("pci0/nvme/nvme/nvme0", "", ""),
            ("virtual/nvme-subsystem/nvme-subsys0", "", ""),
            ("pci0/virtio", "virtio:d00000002v00001AF4", ""),
        ],
    );
    let sda = "pci0/bridge/ahci/ata1/host0/target0/0:0:0:0/block/sda";
    block(&sys, "sda", sda);
    block(&sys, "sda1", &format!("{sda}/sda1"));
    // With native multipath, an NVMe disk belongs to the subsystem.
    block(
        &sys,
        "nvme0n1",
        "virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
    );
    symlink(
        sys.join("devices/pci0/nvme/nvme/nvme0"),
        sys.join("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0"),
    )
    .unwrap();
    block(&sys, "dm-0", "virtual/block/dm-0");
    fs::create_dir(sys.join("devices/virtual/block/dm-0/slaves")).unwrap();
    for name in ["sda1", "nvme0n1"] {
        symlink(
            sys.join("class/block").join(name).canonicalize().unwrap(),
            sys.join("devices/virtual/block/dm-0/slaves").join(name),
        )
        .unwrap();
    }
    let disks = |device: &str| {
        let built = kernel.build(Modules::Host(HostDisks {
            sysfs: sys.clone(),
            devices: vec![device.into()],
        }));
        let names: BTreeSet<String> = built
            .plan
            .modules
            .iter()
            .filter(|m| m.role == Role::Disk)
            .map(|m| m.name.clone())
            .collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(disks("sda1"), "ahci sd_mod");
    assert_eq!(disks("nvme0n1"), "nvme");
    assert_eq!(disks("dm-0"), "ahci nvme sd_mod");
    let wrong = |device: &str| {
        let modules = Modules::Host(HostDisks {
            sysfs: sys.clone(),
            devices: vec![device.into()],
        });
        build_mini(&kernel.request(modules), &Silent).unwrap_err()
    };
    assert_eq!(wrong("sdz").kind(), ErrorKind::Usage);
    assert_eq!(wrong("../../etc").kind(), ErrorKind::Usage);
}

#[test]
fn modprobe_d_is_obeyed() {
    let kernel = FakeKernel::new();
    kernel.modprobe_d(
        "options virtio_blk num_request_queues=2\noptions virtio-blk queue_depth=8\n\
         blacklist nvme\ninstall usb-storage /bin/false\n",
    );
    let built = kernel.build(Modules::Generic);
    let (virtio_blk, _) = module(&built.plan, "virtio_blk");
    assert_eq!(virtio_blk.params, "num_request_queues=2 queue_depth=8");
    assert!(!names(&built).contains(&"nvme"));
    assert!(!names(&built).contains(&"usb_storage"));
    let warned = |what: &str| built.summary.warnings.iter().any(|w| w.contains(what));
    assert!(
        warned("nvme") && warned("local.conf"),
        "{:#?}",
        built.summary.warnings
    );
    // By name a blacklisted module is still there, but devices cannot ask for it.
    let built = kernel.build(Modules::Drivers(vec!["nvme".into()]));
    assert_eq!(module(&built.plan, "nvme").0.role, Role::Disk);
    assert!(built.plan.aliases.is_empty());
    // A command in the place of what was asked for is refused, with its file.
    let modules = Modules::Drivers(vec!["usb_storage".into()]);
    let error = build_mini(&kernel.request(modules), &Silent).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        why.contains("etc/modprobe.d/local.conf") && why.contains("/bin/false"),
        "{why}"
    );
}

#[test]
fn what_is_of_use_is_loaded_before() {
    let kernel = FakeKernel::new();
    kernel.modprobe_d("weakdep virtio_blk odd no-such-module\nweakdep virtio_ring virtio_blk\n");
    let built = kernel.build(Modules::Drivers(vec!["virtio_blk".into()]));
    let (odd, _) = module(&built.plan, "odd");
    assert_eq!((odd.role, odd.required), (Role::Dependency, false));
    assert_eq!(module(&built.plan, "virtio_blk").1, ["odd", "virtio_ring"]);
    // What needs it cannot come before it, whatever it is of use to.
    assert!(module(&built.plan, "virtio_ring").1.is_empty());
    let summary = built.summary.modules.iter().find(|m| m.name == "odd");
    assert_eq!(summary.unwrap().reason, "of use to virtio_blk");
    // modules.weakdep says the same.
    kernel.modprobe_d("");
    let weakdep = kernel.path().join("usr/lib/modules/6.0/modules.weakdep");
    fs::write(weakdep, "weakdep virtio_blk odd\n").unwrap();
    let again = kernel.build(Modules::Drivers(vec!["virtio_blk".into()]));
    assert_eq!(names(&again), names(&built));
}

#[test]
fn commands_in_the_place_of_loading_are_refused_or_keep_a_module_out() {
    let kernel = FakeKernel::new();
    // libata is needed by ahci alone.
    kernel.modprobe_d("install libata /bin/true\nremove virtio_blk /bin/x\n");
    let built = kernel.build(Modules::Generic);
    assert!(!names(&built).contains(&"ahci"));
    let warning = |words: [&str; 2]| {
        let mut warnings = built.summary.warnings.iter();
        assert!(
            warnings.any(|warning| words.iter().all(|word| warning.contains(word))),
            "{words:?}: {:#?}",
            built.summary.warnings
        );
    };
    warning(["ahci is left out", "local.conf line 1 keeps libata"]);
    warning(["local.conf line 2", "virtio_blk"]);
    // What another command would do cannot be known.
    let line = "install libata /sbin/modprobe -i libata; /sbin/x\n";
    kernel.modprobe_d(line);
    let error = build_mini(&kernel.request(Modules::Generic), &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Modules);
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        why.contains("local.conf line 1") && why.contains("libata"),
        "{why}"
    );
    // That of a module that is not taken along is none of ours.
    kernel.modprobe_d("install e1000 /sbin/x\n");
    kernel.build(Modules::Generic);
}

#[test]
fn a_kernel_with_everything_built_in() {
    let kernel = FakeKernel::new();
    let modules = kernel.path().join("usr/lib/modules/6.0");
    let builtin = |names: &[&str]| {
        let lines: String = names
            .iter()
            .map(|name| format!("kernel/{name}.ko\n"))
            .collect();
        fs::write(modules.join("modules.builtin"), lines).unwrap();
    };
    builtin(&["fs/overlayfs/overlay", "drivers/md/dm-mod"]);
    let mut request = kernel.request(Modules::Builtin);
    request.auth = Auth::Sealed(builder::RootHash::from_bytes(&[7; 32]).unwrap());
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Modules);
    assert_eq!(
        error.to_string(),
        "not built into this kernel: erofs, dm-verity, loop"
    );
    builtin(&[
        "fs/overlayfs/overlay",
        "drivers/md/dm-mod",
        "drivers/md/dm-verity",
        "fs/erofs/erofs",
        "drivers/block/loop",
    ]);
    let built = build_mini(&request, &Silent).unwrap();
    assert!(built.plan.modules.is_empty() && built.plan.packs.is_empty());
    assert!(
        built
            .summary
            .warnings
            .iter()
            .any(|w| w.contains("no storage driver"))
    );
    // Such a kernel may have no modules at all.
    fs::remove_file(modules.join("modules.dep")).unwrap();
    fs::write(
        modules.join("modules.builtin"),
        format!(
            "{}kernel/drivers/nvme/host/nvme.ko\n",
            fs::read_to_string(modules.join("modules.builtin")).unwrap()
        ),
    )
    .unwrap();
    let built = build_mini(&request, &Silent).unwrap();
    assert_eq!(built.summary.warnings, [""; 0]);
    fs::remove_file(modules.join("modules.builtin")).unwrap();
    assert!(build_mini(&request, &Silent).is_err());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let kernel = FakeKernel::new();
    let fails = |request: &MiniRequest| build_mini(request, &Silent).unwrap_err();
    let why = |error: &builder::Error| {
        std::error::Error::source(error).map_or(String::new(), ToString::to_string)
    };

    let error = fails(&kernel.request(Modules::Drivers(vec!["nonesuch".into()])));
    assert_eq!(error.kind(), ErrorKind::Modules);
    assert!(why(&error).contains("nonesuch"), "{error}");

    let mut request = kernel.request(Modules::Generic);
    request.kernel.release = "../../etc".into();
    assert_eq!(fails(&request).kind(), ErrorKind::Usage);
    request.kernel.release = "6.1".into();
    assert!(fails(&request).to_string().contains("6.1"));

    let mut request = kernel.request(Modules::Generic);
    request.candidates.clear();
    assert_eq!(fails(&request).kind(), ErrorKind::Usage);
    let mut request = kernel.request(Modules::Generic);
    request.candidates[0].file = Some("relative".into());
    assert_eq!(fails(&request).kind(), ErrorKind::Usage);
    let mut request = kernel.request(Modules::Generic);
    request.storage_init = kernel.path().join("usr/lib/modules/6.0/modules.dep");
    assert_eq!(fails(&request).kind(), ErrorKind::Usage);
    let mut request = kernel.request(Modules::Generic);
    request.compression = Compression::ZstdLevel(0);
    assert_eq!(fails(&request).kind(), ErrorKind::Usage);

    let modules = kernel.path().join("usr/lib/modules/6.0");
    fs::write(modules.join("kernel/fs/erofs/erofs.ko"), "text").unwrap();
    let error = fails(&kernel.request(Modules::Generic));
    assert!(error.to_string().contains("erofs.ko"), "{error}");
    fs::remove_file(modules.join("kernel/fs/erofs/erofs.ko")).unwrap();
    let error = fails(&kernel.request(Modules::Generic));
    assert!(error.to_string().contains("erofs.ko"), "{error}");
    // A kernel without EROFS.
    let dep: String = DEP
        .lines()
        .filter(|l| !l.contains("erofs"))
        .map(|l| format!("{l}\n"))
        .collect();
    fs::write(modules.join("modules.dep"), dep).unwrap();
    let error = fails(&kernel.request(Modules::Generic));
    assert!(
        error.advice().unwrap().contains("erofs"),
        "{:?}",
        error.advice()
    );
    assert_eq!(fs::read_dir(kernel.path().join("out")).unwrap().count(), 0);
    // With EROFS built in.
    fs::write(
        modules.join("modules.builtin"),
        "kernel/fs/erofs/erofs.ko\n",
    )
    .unwrap();
    let built = build_mini(&kernel.request(Modules::Generic), &Silent).unwrap();
    assert!(!names(&built).contains(&"erofs"));
}

#[test]
fn the_archive_is_what_cpio_reads() {
    need(&["cpio", "zstd", "lz4"]);
    let kernel = FakeKernel::new();
    for (compression, command) in [
        (Compression::None, "cat"),
        (Compression::Zstd, "zstd -dc"),
        (Compression::ZstdLevel(19), "zstd -dc"),
        (Compression::Lz4, "lz4 -dc"),
    ] {
        let mut request = kernel.request(Modules::Generic);
        request.compression = compression;
        let built = build_mini(&request, &Silent).unwrap();
        let bytes = fs::read(&request.output).unwrap();
        assert_eq!(built.summary.bytes, bytes.len() as u64);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        // What the kernel does with it: one archive after the other.
        let (first, second) = segments(&bytes);
        let archive = pipe(command, first);
        assert_eq!(
            built.summary.raw_bytes,
            (archive.len() + second.len()) as u64
        );
        for (name, archive) in [("first", &archive[..]), ("second", second)] {
            fs::write(dir.path().join(name), archive).unwrap();
            if !archive.is_empty() {
                sh(&root, &format!("cpio --quiet -idm < ../{name}"));
            }
        }
        let lines = listing(&root);
        assert!(
            lines["dev/console"].starts_with("char 501 600 0:0"),
            "{}",
            lines["dev/console"]
        );
        for folder in [
            "dev",
            "proc",
            "sys",
            "run",
            "initoverlayfs",
            "initoverlayfs/modules",
        ] {
            assert!(lines[folder].starts_with("dir 755 0:0"), "{folder}");
        }
        assert!(lines["init"].contains(" 755 0:0 "));
        assert!(fs::read(root.join("init")).unwrap() == fs::read("/bin/true").unwrap());
        let plan = BootPlan::decode(&fs::read(root.join("initoverlayfs/plan")).unwrap()).unwrap();
        assert_eq!(plan, built.plan);
        let mut plain = 0;
        for module in &plan.modules {
            let bytes = match module.packed {
                None => {
                    plain += 1;
                    fs::read(root.join("initoverlayfs/modules").join(&module.file)).unwrap()
                }
                Some(packed) => unpacked(&root, &plan, packed.pack)[packed.range()].to_vec(),
            };
            let dep = DEP
                .lines()
                .find(|line| bytes == format!("\x7fELF {line}").into_bytes());
            let path = dep.unwrap().split(':').next().unwrap();
            assert_eq!(iofs_kmod::module_name(path), module.name);
        }
        assert!(!plan.packs.is_empty() && plain > 5, "{plain}");
        // Folders; console and init; plan and absent drivers.
        assert_eq!(lines.len(), 8 + 2 + 2 + plain + plan.packs.len());
        let mtime = std::os::unix::fs::MetadataExt::mtime(&root.join("init").metadata().unwrap());
        assert_eq!(mtime, 0);
    }
}

/// The first archive, compressed or not, and the plain one that follows a zstd
/// frame.
fn segments(bytes: &[u8]) -> (&[u8], &[u8]) {
    if !bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        return (bytes, &[]);
    }
    let end = zstd::zstd_safe::find_frame_compressed_size(bytes).unwrap();
    if end == bytes.len() {
        return (bytes, &[]);
    }
    let start = end.next_multiple_of(4);
    assert!(bytes[end..start].iter().all(|&byte| byte == 0));
    assert!(bytes[start..].starts_with(b"070701"));
    (&bytes[..end], &bytes[start..])
}

/// The content of a pack.
fn unpacked(root: &Path, plan: &BootPlan, pack: u16) -> Vec<u8> {
    let pack = &plan.packs[usize::from(pack)];
    let frame = fs::read(root.join("initoverlayfs/packs").join(&pack.file)).unwrap();
    // What PID 1 relies on: one frame that says its size, and a checksum.
    assert_eq!(
        zstd::zstd_safe::find_frame_compressed_size(&frame),
        Ok(frame.len())
    );
    assert_eq!(
        zstd::zstd_safe::get_frame_content_size(&frame).unwrap(),
        Some(pack.size.into())
    );
    assert_ne!(frame[4] & 4, 0, "no checksum");
    let content = zstd::decode_all(&frame[..]).unwrap();
    assert_eq!(content.len(), pack.size as usize);
    content
}

#[test]
fn early_segments_come_first_and_the_bytes_repeat() {
    need(&["cpio"]);
    let kernel = FakeKernel::new();
    let microcode = kernel.path().join("early");
    fs::create_dir_all(&microcode).unwrap();
    sh(
        &microcode,
        "mkdir -p kernel/x86/microcode; head -c 999 /dev/urandom > kernel/x86/microcode/AuthenticAMD.bin",
    );
    let mut request = kernel.request(Modules::Generic);
    request.early = cpio(&microcode);
    // Not a multiple of 4: padding has to follow, or the kernel sees junk.
    request.early.truncate(request.early.len() - 1);
    for compression in [Compression::Zstd, Compression::None] {
        request.compression = compression;
        let built = build_mini(&request, &Silent).unwrap();
        let first = fs::read(&request.output).unwrap();
        assert!(first.starts_with(&request.early));
        let main = &first[request.early.len().next_multiple_of(4)..];
        assert!(main.starts_with(if compression == Compression::None {
            b"0707"
        } else {
            b"\x28\xb5\x2f\xfd"
        }));
        assert_eq!(built.summary.bytes, first.len() as u64);
        build_mini(&request, &Silent).unwrap();
        assert!(first == fs::read(&request.output).unwrap());
    }
}

/// UML's kernel: real modules, compressed in every way, give the same bytes, and
/// modprobe gives the same modules.
#[test]
fn real_modules_as_modprobe_loads_them() {
    need(&["depmod", "modprobe", "xz", "zstd", "gzip"]);
    let uml = Path::new("/usr/lib/uml/modules");
    let release = fs::read_dir(uml)
        .expect("this test needs the package user-mode-linux")
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .next()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::copy("/bin/true", dir.path().join("init")).unwrap();
    let mut minis = Vec::new();
    for (suffix, command) in [
        ("", "true"),
        (".xz", "xz --check=crc32 -0"),
        (".zst", "zstd -q --rm -1"),
        (".gz", "gzip -1"),
    ] {
        let root = dir.path().join(format!("root{suffix}"));
        fs::create_dir_all(root.join("lib/modules")).unwrap();
        sh(
            &root,
            &format!(
                "mkdir lib/modules/{release}; cd lib/modules/{release}
                 for d in fs/overlayfs fs/erofs drivers/md crypto lib arch drivers/block; do
                   [ -d {uml}/{release}/kernel/$d ] || continue
                   mkdir -p kernel/$d; cp -r {uml}/{release}/kernel/$d/. kernel/$d/
                 done
                 cp {uml}/{release}/modules.order {uml}/{release}/modules.builtin* .
                 depmod -b ../../.. {release}
                 find kernel -name '*.ko' -exec {command} {{}} +
                 sed -i 's/\\.ko\\b/.ko{suffix}/g' modules.dep",
                uml = uml.display()
            ),
        );
        let kernel = Kernel {
            release: release.clone(),
            sysroot: root.clone(),
            modules_dir: None,
        };
        let modules = Modules::Drivers(vec!["dm-verity".into()]);
        let request = request(dir.path(), kernel, modules);
        let built = build_mini(&request, &Silent).unwrap();
        minis.push(fs::read(&request.output).unwrap());
        if suffix.is_empty() {
            let shown = sh(
                dir.path(),
                &format!(
                    "for m in dm-verity erofs overlay loop dm-mod; do \
                     modprobe -C /dev/null -d {} -S {release} --show-depends $m; done",
                    root.display()
                ),
            );
            let oracle: BTreeSet<String> = shown
                .lines()
                .filter(|line| line.starts_with("insmod"))
                .map(|line| {
                    let file = Path::new(line.split_whitespace().nth(1).unwrap());
                    file.file_stem()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .replace('-', "_")
                })
                .collect();
            let ours: BTreeSet<String> = names(&built).into_iter().map(String::from).collect();
            assert_eq!(ours, oracle);
        }
    }
    assert!(minis.iter().all(|mini| *mini == minis[0]));
}

#[test]
fn what_the_kernel_may_mount_comes_along() {
    let kernel = FakeKernel::new();
    let modules = kernel.path().join("usr/lib/modules/6.0");
    let mut request = kernel.request(Modules::Generic);
    request.kernel_mounts = vec!["xfs".into()];
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Modules);

    let xfs = modules.join("kernel/fs/xfs/xfs.ko");
    fs::create_dir_all(xfs.parent().unwrap()).unwrap();
    fs::write(&xfs, "\x7fELF xfs").unwrap();
    fs::write(
        modules.join("modules.dep"),
        format!("{DEP}kernel/fs/xfs/xfs.ko:\n"),
    )
    .unwrap();
    let built = build_mini(&request, &Silent).unwrap();
    assert_eq!(built.plan.kernel_mounts, ["xfs"]);
    let (module, _) = module(&built.plan, "xfs");
    assert_eq!((module.role, module.packed), (Role::Mapping, None));

    request.kernel_mounts = vec!["ntfs3".into()];
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.advice().unwrap().contains("xfs and btrfs"));
}

#[test]
fn what_is_carried_over_follows_from_what_is_proven() {
    let kernel = FakeKernel::new();
    let mut request = kernel.request(Modules::None);
    let root = iofs_plan::RootHash::from_bytes(&[1; 32]).unwrap();
    for (auth, asked, expected) in [
        (Auth::None, None, Appended::All),
        (Auth::None, Some(Appended::Extra), Appended::Extra),
        (Auth::Sealed(root), None, Appended::Extra),
        (Auth::Sealed(root), Some(Appended::All), Appended::All),
    ] {
        request.auth = auth;
        request.appended = asked;
        let built = build_mini(&request, &Silent).unwrap();
        assert_eq!(built.plan.appended, expected);
    }
}

/// A request with the image packed too, of `len` bytes that are no others.
fn with_image(kernel: &FakeKernel, len: usize) -> (MiniRequest, Vec<u8>) {
    let image: Vec<u8> = (0..=250).cycle().take(len).collect();
    let path = kernel.path().join("image.raw");
    fs::write(&path, &image).unwrap();
    let mut request = kernel.request(Modules::Generic);
    request.embed = Some(path);
    request.candidates[0].partition = Selector::Embedded;
    request.candidates[0].file = None;
    (request, image)
}

#[test]
fn an_embedded_image_lies_at_a_page_whatever_is_before_it() {
    let kernel = FakeKernel::new();
    for compression in [Compression::Zstd, Compression::Lz4, Compression::None] {
        let (mut request, image) = with_image(&kernel, 10_001);
        request.compression = compression;
        request.early = vec![0; 1028];
        let built = build_mini(&request, &Silent).unwrap();
        assert_eq!(built.summary.embedded_bytes, 10_001);
        let bytes = fs::read(&request.output).unwrap();
        assert_eq!(bytes.len() as u64, built.summary.bytes);
        let found = bytes.windows(image.len()).position(|part| part == image);
        assert_eq!(found.unwrap() % 4096, 0, "{compression:?}");
        // The archive holds it, and the folder that it lies in.
        let header = bytes[..found.unwrap()]
            .windows(6)
            .rposition(|part| part == b"070701");
        let entry = iofs_cpio::Reader::at(&bytes, header.unwrap())
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(entry.path().unwrap(), b"initoverlayfs/image.raw");
        assert_eq!(entry.data, image);
        let again = build_mini(&request, &Silent).unwrap();
        assert_eq!(again.summary.bytes, built.summary.bytes);
        assert!(fs::read(&request.output).unwrap() == bytes);
    }
}

#[test]
fn a_boot_from_memory_alone_takes_no_disk_driver_along() {
    let kernel = FakeKernel::new();
    let (request, _) = with_image(&kernel, 4096);
    let built = build_mini(&request, &Silent).unwrap();
    let taken = names(&built);
    for module in ["loop", "dm_mod", "erofs", "overlay"] {
        assert!(taken.contains(&module), "{taken:?}");
    }
    assert!(!taken.contains(&"virtio_blk"), "{taken:?}");
    assert!(built.plan.aliases.is_empty());
    // With a disk to be tried first they are all there.
    let (mut request, _) = with_image(&kernel, 4096);
    let disk = kernel.request(Modules::Generic).candidates[0].clone();
    request.candidates.insert(0, disk);
    let built = build_mini(&request, &Silent).unwrap();
    assert!(names(&built).contains(&"virtio_blk"), "{:?}", names(&built));
}

#[test]
fn an_embedded_image_and_its_candidate_go_together() {
    let kernel = FakeKernel::new();
    let (mut request, _) = with_image(&kernel, 4096);
    request.embed = None;
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let mut request = kernel.request(Modules::Generic);
    request.embed = Some(kernel.path().join("init"));
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn an_image_of_4_gib_cannot_be_embedded() {
    let kernel = FakeKernel::new();
    let (request, _) = with_image(&kernel, 0);
    let file = fs::File::create(request.embed.as_ref().unwrap()).unwrap();
    file.set_len(1 << 32).unwrap();
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("4294967296 bytes"), "{error}");
    assert!(!request.output.exists());
}

#[test]
fn memory_that_the_loader_fills_needs_its_drivers() {
    let kernel = FakeKernel::new();
    let mut request = kernel.request(Modules::Generic);
    request.candidates[0].partition = Selector::Pmem { dax: false };
    request.candidates[0].file = None;
    // This kernel has none.
    let error = build_mini(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Modules);
    assert!(error.advice().unwrap().contains("PMEM"), "{error:?}");
}
