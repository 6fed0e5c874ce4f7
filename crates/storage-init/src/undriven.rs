//! Devices that could carry the image's disk and that nothing drives, for the
//! report of a boot that has failed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_plan::{Absent, BootPlan, MAX_ABSENT};
use kernel_abi::file;

use crate::modules::is_storage;
use crate::pack;
use crate::paths::Paths;
use crate::report::join;

/// How many are listed: the report has to fit on a screen.
const MAX_LISTED: usize = 8;

/// One line for each device without a driver that is storage or that a storage
/// driver of this kernel would serve.
#[must_use]
pub fn describe(plan: &BootPlan, paths: &Paths) -> Vec<String> {
    let absent = read_absent(paths);
    let mut lines = Vec::new();
    let buses = file::join(&paths.sys, "bus");
    for (bus, _) in file::list(&buses).unwrap_or_default() {
        let devices = format!("{buses}/{bus}/devices");
        for (device, _) in file::list(&devices).unwrap_or_default() {
            let folder = format!("{devices}/{device}");
            if file::exists(&file::join(&folder, "driver")) {
                continue;
            }
            let Ok(modalias) = file::read_line(&file::join(&folder, "modalias")) else {
                continue;
            };
            let here = names(plan.modules_for(&modalias), plan);
            let elsewhere: Vec<String> = absent
                .modules_for(&modalias)
                .into_iter()
                .map(ToOwned::to_owned)
                .collect();
            if here.is_empty() && elsewhere.is_empty() && !is_storage(&modalias) {
                continue;
            }
            let what = device_name(&bus, &device, &modalias);
            lines.push(match (here.is_empty(), elsewhere.is_empty()) {
                (false, _) => format!(
                    "{what} has no driver: {} of this image did not take it",
                    join(&mut here.into_iter(), ", ")
                ),
                (true, false) => format!(
                    "{what} has no driver in this image; module {} of this kernel would serve",
                    join(&mut elsewhere.into_iter(), " or ")
                ),
                (true, true) => format!("{what} has no driver in this image or kernel"),
            });
        }
    }
    if let Some(more) = lines.len().checked_sub(MAX_LISTED).filter(|&more| more > 0) {
        lines.truncate(MAX_LISTED);
        lines.push(format!("{more} further devices without a driver"));
    }
    lines
}

/// The drivers that this image lacks; none where the builder left out the list.
fn read_absent(paths: &Paths) -> Absent {
    file::read(&paths.absent, MAX_ABSENT)
        .ok()
        .and_then(|frame| pack::decompress_at_most(&frame, MAX_ABSENT))
        .and_then(|content| Absent::decode(&content).ok())
        .unwrap_or_default()
}

fn names(modules: impl IntoIterator<Item = u16>, plan: &BootPlan) -> Vec<String> {
    modules
        .into_iter()
        .filter_map(|index| plan.modules.get(usize::from(index)))
        .map(|module| module.name.clone())
        .collect()
}

/// `PCI device 8086:2922 (SATA) at 0000:00:1f.2`.
fn device_name(bus: &str, device: &str, modalias: &str) -> String {
    let name = match bus {
        "pci" => "PCI",
        "usb" => "USB",
        other => other,
    };
    let id = match bus {
        "pci" => pair(modalias, ["v", "d"], 8),
        "usb" => pair(modalias, ["v", "p"], 4),
        "virtio" => pair(modalias, ["v", "d"], 8),
        _ => None,
    };
    let id = id.map_or_else(String::new, |id| format!(" {id}"));
    let class = class_name(modalias).map_or_else(String::new, |class| format!(" (class {class})"));
    format!("{name} device{id}{class} at {device}")
}

/// Vendor and device of a modalias such as `pci:v00008086d00002922sv...`, of
/// which each has `digits` hexadecimal digits: `8086:2922`.
fn pair(modalias: &str, keys: [&str; 2], digits: usize) -> Option<String> {
    let (_, fields) = modalias.split_once(':')?;
    let number = |key: &str| {
        let (_, rest) = fields.split_once(key)?;
        u32::from_str_radix(rest.get(..digits)?, 16).ok()
    };
    let [vendor, device] = keys.map(number);
    Some(format!("{:04x}:{:04x}", vendor?, device?))
}

/// What a device says that it is: PCI class codes (PCI Code and ID Assignment),
/// USB interface classes, virtio device types.
fn class_name(modalias: &str) -> Option<&'static str> {
    const CLASSES: [(&str, &str); 14] = [
        ("bc01sc00", "SCSI"),
        ("bc01sc01", "IDE"),
        ("bc01sc04", "RAID"),
        ("bc01sc06", "SATA"),
        ("bc01sc07", "SAS"),
        ("bc01sc08", "NVMe"),
        ("bc01", "storage"),
        ("bc0Csc00", "FireWire"),
        ("bc0Csc03", "USB host"),
        ("bc08sc05", "SD host"),
        ("ic08", "USB storage"),
        ("virtio:d00000002", "virtio block"),
        ("virtio:d00000008", "virtio SCSI"),
        ("bc06sc04", "PCI bridge"),
    ];
    CLASSES
        .iter()
        .find(|(code, _)| modalias.contains(code))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::{Alias, AliasTable, Module, Role};
    use std::string::ToString;
    use std::vec;

    #[test]
    fn devices_are_named_as_lspci_and_lsusb_do() {
        let nvme = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
        assert_eq!(
            device_name("pci", "0000:00:04.0", nvme),
            "PCI device 1b36:0010 (class NVMe) at 0000:00:04.0"
        );
        let stick = "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00";
        assert_eq!(
            device_name("usb", "1-1:1.0", stick),
            "USB device 46f4:0001 (class USB storage) at 1-1:1.0"
        );
        assert_eq!(
            device_name("acpi", "PNP0A03:00", "acpi:PNP0A03:"),
            "acpi device at PNP0A03:00"
        );
        for hostile in ["pci:v", "pci:", "pci:vXYZd", "pci:vé00000000d"] {
            assert!(pair(hostile, ["v", "d"], 8).is_none(), "{hostile}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let device = |name: &str, modalias: &str, driven: bool| {
            let folder = root.join("sys/bus/pci/devices").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("modalias"), format!("{modalias}\n")).unwrap();
            if driven {
                std::fs::create_dir(folder.join("driver")).unwrap();
            }
        };
        device("a", "pci:v00000001d00000001bc01sc08i02", true);
        device("b", "pci:v00000002d00000002bc01sc08i02", false);
        device("c", "pci:v00000003d00000003bc01sc06i01", false);
        device("d", "pci:v00000004d00000004bc01sc07i00", false);
        device("e", "pci:v00000005d00000005bc03sc00i00", false);
        let table = |pattern: &str| {
            AliasTable::build(&[Alias {
                pattern: pattern.into(),
                module: 0,
            }])
            .unwrap()
        };
        let absent = Absent {
            modules: vec!["nvme".into()],
            aliases: table("pci:v00000002d*"),
        };
        let frame = zstd::bulk::compress(&absent.encode().unwrap(), 3).unwrap();
        std::fs::write(root.join("absent"), frame).unwrap();
        let plan = BootPlan {
            modules: vec![Module {
                name: "ahci".into(),
                file: "ahci.ko".into(),
                packed: None,
                params: String::new(),
                role: Role::Bus,
                needs: Vec::new(),
                required: true,
                fallback_for: Vec::new(),
            }],
            aliases: table("pci:v*d*bc01sc06i01"),
            ..BootPlan::default()
        };
        let paths = Paths {
            sys: root.join("sys").to_str().unwrap().to_string(),
            absent: root.join("absent").to_str().unwrap().to_string(),
            embedded: root.join("image.raw").to_str().unwrap().to_string(),
            ..Paths::kernel()
        };
        assert_eq!(
            describe(&plan, &paths),
            [
                "PCI device 0002:0002 (class NVMe) at b has no driver in this image; module nvme \
                 of this kernel would serve",
                "PCI device 0003:0003 (class SATA) at c has no driver: ahci of this image did not \
                 take it",
                "PCI device 0004:0004 (class SAS) at d has no driver in this image or kernel",
            ]
        );
    }
}
