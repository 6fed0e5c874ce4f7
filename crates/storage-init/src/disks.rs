//! The disks that are there, and what their partition tables say.
//!
//! Partitions are found by reading the GPT here, not by asking the kernel:
//! uevents carry PARTUUID only since Linux 7, and never the partition's type.
//! The kernel's own view is compared with it, so that the device that is opened
//! is the partition that was meant.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_gpt::{Partition, Table};
use iofs_plan::{Selector, Uuid};
use iofs_source::ReadAt;
use kernel_abi::block::Device;
use kernel_abi::dm::SECTOR;
use kernel_abi::file;

use crate::memory;
use crate::paths::Paths;
use crate::report::join;

/// Block devices that stand on others or on memory, and drives that take
/// seconds to answer (floppies, CD-ROM): no boot image is looked for there.
const IGNORED: [&str; 9] = [
    "loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr", "mtdblock",
];

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The kernel's name: `vda`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its logical block size in bytes.
    pub block_size: u32,
    /// Its partitions, or why there are none to be had.
    pub partitions: Result<Vec<Partition>, String>,
    /// The signature of an MBR that has partitions, where there is no GPT.
    pub mbr: Option<u32>,
}

/// A partition that the kernel shows and the table describes; or memory that stands
/// for one ([`memory`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The kernel's name: `vda1`.
    pub name: String,
    /// The kernel's name of its disk: `vda`.
    pub disk: String,
    /// The logical block size of its disk, in bytes.
    pub block_size: u32,
    /// What the table says of it.
    pub entry: Partition,
}

impl Part {
    /// Its device for messages, or what stands for one.
    #[must_use]
    pub fn device(&self) -> String {
        match self.is_embedded() {
            true => format!("{}", Selector::Embedded),
            false => format!("/dev/{}", self.name),
        }
    }

    /// Where something on it is, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        let preposition = if self.is_embedded() { "in" } else { "on" };
        format!("{preposition} {}", self.device())
    }

    /// Whether it is a file in the mini-initramfs.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.disk.is_empty()
    }
}

/// All disks, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The disks seen so far.
    pub disks: Vec<Disk>,
}

impl Inventory {
    /// Looks for disks that came or went; the table of one that stayed is not
    /// read again.
    pub fn refresh(&mut self, paths: &Paths) {
        let mut present = present(paths);
        present.retain(|name| !is_partition(name, paths));
        self.disks.retain(|disk| present.contains(&disk.name));
        for name in present {
            if self.disks.iter().all(|disk| disk.name != name) {
                self.disks.extend(read_disk(&name, paths));
            }
        }
    }

    /// Reads the table of the disk at this sysfs path anew next time: a medium
    /// was changed, or a disk came back under its old name.
    pub fn forget(&mut self, devpath: &str) {
        let name = file::base_name(devpath);
        self.disks.retain(|disk| disk.name != name);
    }

    /// The partitions that `selector` means and the kernel shows.
    #[must_use]
    pub fn matching(&self, selector: &Selector, paths: &Paths) -> Vec<Part> {
        match selector {
            Selector::Pmem { .. } => memory::devices(self),
            Selector::Embedded => alloc::vec![memory::embedded(paths)],
            _ => self.shown(paths, &|_, entry| selects(selector, entry)),
        }
    }

    /// The partitions of a type on the disk `disk` that the kernel shows.
    #[must_use]
    pub fn of_type(&self, disk: &str, type_guid: Uuid, paths: &Paths) -> Vec<Part> {
        self.shown(paths, &|found, entry| {
            found.name == disk && entry.type_guid == type_guid
        })
    }

    /// The disk that has the partition of this GUID, by the kernel's name.
    #[must_use]
    pub fn disk_of(&self, part_guid: Uuid) -> Option<&str> {
        let has = |disk: &&Disk| {
            let mut entries = disk.partitions.iter().flatten();
            entries.any(|entry| entry.part_guid == part_guid)
        };
        self.disks.iter().find(has).map(|disk| disk.name.as_str())
    }

    /// The partitions of this number that the kernel shows on disks whose MBR has this
    /// signature, by the kernel's names.
    #[must_use]
    pub fn of_mbr(&self, signature: u32, number: u32, paths: &Paths) -> Vec<String> {
        let disks = self.disks.iter();
        let disks = disks.filter(|disk| disk.mbr == Some(signature));
        disks
            .map(|disk| partition_name(&disk.name, number))
            .filter(|name| attribute(name, "partition", paths) == Some(number.into()))
            .collect()
    }

    fn shown(&self, paths: &Paths, wanted: &dyn Fn(&Disk, &Partition) -> bool) -> Vec<Part> {
        let mut parts = Vec::new();
        for disk in &self.disks {
            for entry in disk.partitions.iter().flatten() {
                if !wanted(disk, entry) {
                    continue;
                }
                let name = partition_name(&disk.name, entry.number);
                if kernel_agrees(&name, entry, paths) {
                    parts.push(Part {
                        name,
                        disk: disk.name.clone(),
                        block_size: disk.block_size,
                        entry: entry.clone(),
                    });
                }
            }
        }
        parts
    }

    /// Whether a table has a partition that `selector` means and that the kernel
    /// does not show: it goes by the backup of a damaged table only if it is told
    /// to.
    #[must_use]
    pub fn hides(&self, selector: &Selector, paths: &Paths) -> bool {
        self.disks.iter().any(|disk| {
            disk.partitions.iter().flatten().any(|entry| {
                selects(selector, entry)
                    && !kernel_agrees(&partition_name(&disk.name, entry.number), entry, paths)
            })
        })
    }

    /// One line a disk, for the failure report.
    #[must_use]
    pub fn describe(&self, paths: &Paths) -> Vec<String> {
        self.disks
            .iter()
            .map(|disk| {
                let (name, size) = (&disk.name, disk.size >> 20);
                match &disk.partitions {
                    Err(why) => format!("disk {name}, {size} MiB: {why}"),
                    Ok(partitions) => {
                        let mut list = partitions
                            .iter()
                            .map(|entry| describe_partition(name, entry, paths));
                        format!("disk {name}, {size} MiB, GPT: {}", join(&mut list, "; "))
                    }
                }
            })
            .collect()
    }
}

/// The disks and partitions that the kernel shows, in order.
#[must_use]
pub fn present(paths: &Paths) -> Vec<String> {
    let class = format!("{}/class/block", paths.sys);
    let names = file::list(&class).unwrap_or_default().into_iter();
    let mut names: Vec<String> = names.map(|(name, _)| name).collect();
    names.retain(|name| !IGNORED.iter().any(|prefix| is_of_kind(name, prefix)));
    iofs_source::sort_compactly(&mut names, |a, b| a < b);
    names
}

fn is_partition(name: &str, paths: &Paths) -> bool {
    file::exists(&format!("{}/class/block/{name}/partition", paths.sys))
}

fn describe_partition(disk: &str, entry: &Partition, paths: &Paths) -> String {
    let name = partition_name(disk, entry.number);
    let hidden = match kernel_agrees(&name, entry, paths) {
        true => "",
        false => ", not shown by the kernel",
    };
    let kind = match iofs_gpt::types::name(entry.type_guid) {
        Some(name) => name.into(),
        None => format!("type {}", entry.type_guid),
    };
    format!(
        "{name} \"{}\" ({kind}, PARTUUID={}{hidden})",
        entry.name, entry.part_guid
    )
}

/// Whether `name` is `prefix` and a number, or begins with a `prefix` that ends
/// in a dash: `md0` is of kind `md`, a driver's `mdfoo0` is not.
fn is_of_kind(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn read_disk(name: &str, paths: &Paths) -> Option<Disk> {
    let size = attribute(name, "size", paths)?.checked_mul(SECTOR)?;
    // A drive without a medium; a "change" uevent will tell of one.
    if size == 0 {
        return None;
    }
    let block_size = attribute(name, "queue/logical_block_size", paths)
        .and_then(|size| u32::try_from(size).ok())
        .unwrap_or(512);
    let mut mbr = None;
    let partitions = match Device::open(&format!("{}/{name}", paths.dev)) {
        Err(error) => Err(format!("{error}")),
        Ok(device) => match Table::read(&device, block_size) {
            Ok(table) => Ok(table.partitions),
            Err(error) => {
                let mut block = [0; 512];
                let read = device.read_at(0, &mut block);
                mbr = read.ok().and_then(|()| iofs_gpt::disk_signature(&block));
                Err(format!("{error}"))
            }
        },
    };
    Some(Disk {
        name: name.into(),
        size,
        block_size,
        partitions,
        mbr,
    })
}

fn selects(selector: &Selector, entry: &Partition) -> bool {
    match selector {
        Selector::TypeGuid(guid) => entry.type_guid == *guid,
        Selector::PartUuid(guid) => entry.part_guid == *guid,
        Selector::PartLabel(label) => entry.name == *label,
        Selector::Pmem { .. } | Selector::Embedded => false,
    }
}

/// The kernel's name of partition `number` (kernel: block/partitions/core.c):
/// a `p` goes between where the disk's name ends in a digit.
fn partition_name(disk: &str, number: u32) -> String {
    if disk.ends_with(|c: char| c.is_ascii_digit()) {
        format!("{disk}p{number}")
    } else {
        format!("{disk}{number}")
    }
}

/// Whether the kernel's partition of that name is the one in the table. It is
/// not there yet while the kernel scans a new disk, and differs where somebody
/// has changed the table since.
fn kernel_agrees(name: &str, entry: &Partition, paths: &Paths) -> bool {
    // Sectors are whole, so comparing in them loses nothing.
    attribute(name, "start", paths) == Some(entry.start / SECTOR)
        && attribute(name, "size", paths) == Some(entry.len / SECTOR)
}

/// A number that sysfs shows for the block device `name`.
fn attribute(name: &str, attribute: &str, paths: &Paths) -> Option<u64> {
    let path = format!("{}/class/block/{name}/{attribute}", paths.sys);
    file::read_line(&path).ok()?.parse().ok()
}

/// Opens a partition.
///
/// # Errors
/// The kernel's, or if it is not as long as the table says.
pub fn open_partition(part: &Part, paths: &Paths) -> Result<Device, String> {
    let path = match part.is_embedded() {
        true => part.name.clone(),
        false => format!("{}/{}", paths.dev, part.name),
    };
    let device = Device::open(&path).map_err(|error| format!("{error}"))?;
    if device.size() == part.entry.len {
        Ok(device)
    } else {
        Err(format!(
            "it has {} bytes, but the partition table says {}",
            device.size(),
            part.entry.len
        ))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use iofs_gpt::{Layout, NewPartition};
    use std::path::Path;
    use std::string::ToString;

    pub(crate) const TYPE: Uuid = Uuid::from_u128(0x1111);
    pub(crate) const UNIQUE: Uuid = Uuid::from_u128(0x2222);

    /// A system with one disk of one partition, whose content is `content`.
    pub(crate) fn fake_system(root: &Path, disk: &str, content: &[u8]) -> Paths {
        let len = (content.len() as u64)
            .next_multiple_of(1 << 20)
            .max(1 << 20);
        let size = Layout::disk_size_for([len], 512);
        let mut layout = Layout::new(size, 512, Uuid::from_u128(9)).unwrap();
        let entry = layout
            .add(&NewPartition {
                type_guid: TYPE,
                part_guid: UNIQUE,
                size: len,
                attributes: 0,
                name: "image",
            })
            .unwrap()
            .clone();
        let mut bytes = std::vec![0; usize::try_from(size).unwrap()];
        for (offset, run) in layout.runs() {
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + run.len()].copy_from_slice(&run);
        }
        let mut part = content.to_vec();
        part.resize(usize::try_from(len).unwrap(), 0);
        let name = partition_name(disk, 1);
        let class = root.join("sys/class/block");
        for (name, fields) in [
            (disk, std::vec![("size", size / 512)]),
            (
                &*name,
                std::vec![
                    ("partition", 1),
                    ("start", entry.start / 512),
                    ("size", entry.len / 512)
                ],
            ),
        ] {
            std::fs::create_dir_all(class.join(name)).unwrap();
            for (field, value) in fields {
                std::fs::write(class.join(name).join(field), format!("{value}\n")).unwrap();
            }
        }
        std::fs::create_dir_all(root.join("dev")).unwrap();
        std::fs::write(root.join("dev").join(disk), bytes).unwrap();
        std::fs::write(root.join("dev").join(name), part).unwrap();
        let path = |name: &str| root.join(name).to_str().unwrap().to_string();
        Paths {
            sys: path("sys"),
            dev: path("dev"),
            ..Paths::kernel()
        }
    }

    #[test]
    fn partitions_are_found_by_each_selector() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "nvme0n1", b"");
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        for selector in [
            Selector::TypeGuid(TYPE),
            Selector::PartUuid(UNIQUE),
            Selector::PartLabel("image".into()),
        ] {
            let parts = inventory.matching(&selector, &paths);
            assert_eq!(parts.len(), 1, "{selector}");
            assert_eq!(parts[0].name, "nvme0n1p1");
            open_partition(&parts[0], &paths).unwrap();
        }
        for selector in [
            Selector::TypeGuid(UNIQUE),
            Selector::PartUuid(TYPE),
            Selector::PartLabel("Image".into()),
        ] {
            assert!(inventory.matching(&selector, &paths).is_empty());
        }
        assert!(inventory.describe(&paths)[0].contains("nvme0n1p1 \"image\""));
    }

    #[test]
    fn a_partition_that_the_kernel_sees_elsewhere_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", b"");
        std::fs::write(dir.path().join("sys/class/block/sda1/start"), "34\n").unwrap();
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        let selector = Selector::TypeGuid(TYPE);
        assert!(inventory.matching(&selector, &paths).is_empty());
        assert!(inventory.hides(&selector, &paths));
        assert!(!inventory.hides(&Selector::TypeGuid(UNIQUE), &paths));
        let lines = inventory.describe(&paths);
        assert!(lines[0].contains("not shown by the kernel"), "{lines:?}");
    }

    #[test]
    fn disks_without_a_table_are_described_and_others_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", b"");
        std::fs::write(dir.path().join("dev/sda"), std::vec![0; 1 << 20]).unwrap();
        for name in ["loop0", "sr0", "fd0", "dm-0"] {
            let folder = dir.path().join("sys/class/block").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("size"), "8\n").unwrap();
        }
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        let lines = inventory.describe(&paths);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("disk sda"), "{lines:?}");
    }

    #[test]
    fn a_changed_disk_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", b"");
        let table = std::fs::read(dir.path().join("dev/sda")).unwrap();
        std::fs::write(dir.path().join("dev/sda"), std::vec![0; table.len()]).unwrap();
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        assert!(inventory.disks[0].partitions.is_err());
        std::fs::write(dir.path().join("dev/sda"), table).unwrap();
        inventory.forget("/devices/pci0000:00/ata1/block/sda");
        inventory.refresh(&paths);
        assert!(inventory.disks[0].partitions.is_ok());
    }

    #[test]
    fn kinds_are_told_by_their_number() {
        assert!(is_of_kind("md127", "md"));
        assert!(is_of_kind("dm-0", "dm-"));
        assert!(!is_of_kind("mdisk0", "md"));
        assert!(!is_of_kind("sda", "sr"));
    }
}
