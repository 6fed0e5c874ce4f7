//! The partitions that take an image: which the user means, and whether they may
//! be overwritten.
//!
//! Partitions are found as `storage-init` finds them: by the table of their disk,
//! not by udev's links, which are of the time before the last installation.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ddi::{Arch, Role};
use iofs_gpt::{Partition, Table, types};
use iofs_plan::Uuid;

use crate::booted::Booted;
use crate::error::{ErrorKind, InstallError};
use crate::system::{FileSource, System};
use crate::vfs::Vfs;

/// The unit of `start` and `size` in sysfs, whatever the disk's blocks are.
const SECTOR: u64 = 512;

/// How the user names a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionName {
    /// By its device node: `/dev/vda3`.
    Node(PathBuf),
    /// By its GPT name.
    PartLabel(String),
    /// By its unique GUID.
    PartUuid(Uuid),
}

impl FromStr for PartitionName {
    type Err = String;

    /// Reads `/dev/NODE`, `PARTLABEL=NAME` or `PARTUUID=GUID`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("PARTLABEL", name)) if !name.is_empty() => Ok(Self::PartLabel(name.into())),
            Some(("PARTUUID", guid)) => Uuid::parse_str(guid)
                .map(Self::PartUuid)
                .map_err(|e| format!("{guid:?} is no GUID: {e}")),
            _ if text.starts_with('/') => Ok(Self::Node(text.into())),
            _ => Err(format!(
                "{text:?} is no partition; use a device node (/dev/vda3), PARTLABEL=NAME or \
                 PARTUUID=GUID"
            )),
        }
    }
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(path) => write!(f, "{}", path.display()),
            Self::PartLabel(name) => write!(f, "PARTLABEL={name}"),
            Self::PartUuid(guid) => write!(f, "PARTUUID={guid}"),
        }
    }
}

/// A partition of a disk, as the kernel and the disk's table agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its device node.
    pub node: PathBuf,
    /// Its device number, `MAJ:MIN`.
    pub device: String,
    /// Its disk's device node.
    pub disk: PathBuf,
    /// The disk's logical blocks, in bytes.
    pub block: u32,
    /// Its number, from 1.
    pub number: u32,
    /// Offset on the disk, in bytes.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A change of a partition's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Of its type.
    Type(Uuid),
    /// Of its attribute bits.
    Attributes(u64),
    /// Of its unique GUID.
    PartUuid(Uuid),
}

impl Slot {
    /// The partition table of its disk, from the medium.
    pub(crate) fn table(&self) -> Result<Table, InstallError> {
        read_table(&self.disk, self.block).map_err(|why| {
            InstallError::new(
                ErrorKind::Io,
                format!(
                    "cannot read the partition table of {}: {why}",
                    self.disk.display()
                ),
            )
        })
    }

    /// Its entry in that table.
    pub(crate) fn entry(&self) -> Result<Partition, InstallError> {
        let entry = self.table()?.partitions.into_iter();
        let mut entry = entry.filter(|entry| entry.number == self.number);
        entry.next().ok_or_else(|| {
            InstallError::new(
                ErrorKind::Invalid,
                format!(
                    "the GPT of {} has no partition {}",
                    self.disk.display(),
                    self.number
                ),
            )
        })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node.display())
    }
}

fn read_table(disk: &Path, block: u32) -> Result<Table, String> {
    let source = FileSource::open(disk).map_err(|e| e.to_string())?;
    source.forget_cached();
    Table::read(&source, block).map_err(|e| e.to_string())
}

/// The partition of that name.
pub(crate) fn find(system: &System, name: &PartitionName) -> Result<Slot, InstallError> {
    let wanted: Box<dyn Fn(&Partition) -> bool> = match name {
        PartitionName::Node(path) => return by_node(system, path),
        PartitionName::PartLabel(label) => Box::new(move |p| p.name == *label),
        PartitionName::PartUuid(guid) => Box::new(move |p| p.part_guid == *guid),
    };
    let mut found = Vec::new();
    for disk in disks(system)? {
        let Ok(table) = read_table(&disk.node, disk.block) else {
            continue;
        };
        for entry in table.partitions.iter().filter(|entry| wanted(entry)) {
            found.push((disk.clone(), entry.number));
        }
    }
    match found.as_slice() {
        [(disk, number)] => by_number(system, disk, *number),
        [] => Err(InstallError::new(
            ErrorKind::NoTarget,
            format!("no disk of this machine has a partition {name}"),
        )
        .with_hint("lsblk -o NAME,PARTLABEL,PARTUUID shows those that there are")),
        several => {
            let several: Vec<String> = several
                .iter()
                .map(|(disk, number)| format!("number {number} of {}", disk.node.display()))
                .collect();
            Err(InstallError::new(
                ErrorKind::Invalid,
                format!("{name} is the name of several: {}", several.join(", ")),
            )
            .with_hint("name the partition by its device node"))
        }
    }
}

/// A whole disk.
#[derive(Debug, Clone)]
struct Disk {
    dir: PathBuf,
    node: PathBuf,
    block: u32,
}

impl Disk {
    fn new(system: &System, dir: &Path) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let block = fs::read_to_string(dir.join("queue/logical_block_size")).ok();
        let block = block.and_then(|text| text.trim().parse().ok());
        Self {
            // Names with a slash have an exclamation mark in sysfs.
            node: system.dev.join(name.replace('!', "/")),
            dir: dir.into(),
            block: block.unwrap_or(512),
        }
    }
}

fn disks(system: &System) -> Result<Vec<Disk>, InstallError> {
    let class = system.sys.join("class/block");
    let listed = fs::read_dir(&class).map_err(|e| InstallError::io("list", &class, e))?;
    let mut found: Vec<Disk> = listed
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .filter(|dir| !dir.join("partition").exists())
        .filter(|dir| number(dir, "size").is_some_and(|size| size > 0))
        .map(|dir| Disk::new(system, &dir))
        .collect();
    found.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(found)
}

fn by_node(system: &System, path: &Path) -> Result<Slot, InstallError> {
    let node = fs::canonicalize(path).map_err(|e| InstallError::io("find", path, e))?;
    let name = node.strip_prefix(&system.dev).unwrap_or(&node);
    let name = name.to_string_lossy().replace('/', "!");
    let class = system.sys.join("class/block").join(&name);
    let not_one = || {
        InstallError::new(
            ErrorKind::Invalid,
            format!("{} is not a partition of a disk", path.display()),
        )
        .with_hint("name a partition, such as /dev/vda3; lsblk shows those that there are")
    };
    let dir = fs::canonicalize(&class).map_err(|_| not_one())?;
    if !dir.join("partition").exists() {
        return Err(not_one());
    }
    let disk = Disk::new(system, dir.parent().ok_or_else(not_one)?);
    slot(&disk, &dir, node)
}

fn by_number(system: &System, disk: &Disk, wanted: u32) -> Result<Slot, InstallError> {
    let listed = fs::read_dir(&disk.dir).map_err(|e| InstallError::io("list", &disk.dir, e))?;
    let dir = listed
        .flatten()
        .map(|entry| entry.path())
        .find(|dir| number(dir, "partition") == Some(wanted.into()));
    let dir = dir.ok_or_else(|| stale(&disk.node, wanted))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let node = system.dev.join(name.replace('!', "/"));
    slot(disk, &dir, node)
}

/// The partition whose folder in sysfs is `dir`.
fn slot(disk: &Disk, dir: &Path, node: PathBuf) -> Result<Slot, InstallError> {
    let field = |name| {
        number(dir, name).ok_or_else(|| {
            InstallError::new(
                ErrorKind::Io,
                format!("cannot read {}", dir.join(name).display()),
            )
        })
    };
    let device = dir.join("dev");
    let device = fs::read_to_string(&device).map_err(|e| InstallError::io("read", &device, e))?;
    let slot = Slot {
        node,
        device: device.trim().into(),
        disk: disk.node.clone(),
        block: disk.block,
        number: u32::try_from(field("partition")?).unwrap_or_default(),
        start: field("start")?.saturating_mul(SECTOR),
        len: field("size")?.saturating_mul(SECTOR),
    };
    let entry = slot.entry()?;
    if (entry.start, entry.len) != (slot.start, slot.len) {
        return Err(stale(&slot.disk, slot.number));
    }
    Ok(slot)
}

fn stale(disk: &Path, number: u32) -> InstallError {
    InstallError::new(
        ErrorKind::Invalid,
        format!(
            "the kernel has another partition {number} of {} than the disk's partition table",
            disk.display()
        ),
    )
    .with_hint("let the kernel read the table again: partprobe, or restart the machine")
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// Whether `slot`, whose entry that is, may be overwritten.
pub(crate) fn check_free(
    system: &System,
    vfs: &dyn Vfs,
    slot: &Slot,
    entry: &Partition,
    also: Option<Uuid>,
) -> Result<(), InstallError> {
    let spare = "name a partition that is spare; nothing that boots now may be overwritten";
    let refuse = |why: String| {
        InstallError::new(ErrorKind::Conflict, format!("{slot} {why}")).with_hint(spare)
    };
    let fit = Role::ALL.map(|role| Arch::NATIVE.type_guid(role));
    let known = fit.contains(&entry.type_guid) || entry.type_guid == types::LINUX_GENERIC;
    if !known && also != Some(entry.type_guid) {
        let name = types::name(entry.type_guid).map_or(String::new(), |name| format!(" ({name})"));
        return Err(refuse(format!(
            "has the partition type {}{name}, which is not one for an image",
            entry.type_guid
        ))
        .with_hint(format!(
            "name another, or if it is spare: sfdisk --part-type {} {} {}",
            slot.disk.display(),
            slot.number,
            types::LINUX_GENERIC
        )));
    }
    if let Some(why) = Booted::read(system)?.and_then(|booted| booted.uses(entry.part_guid)) {
        return Err(refuse(format!(
            "is what the running system booted from: {why}"
        )));
    }
    let mounts = system
        .mounts()
        .map_err(|e| InstallError::io("read", &system.proc.join("self/mountinfo"), e))?;
    if let Some(mount) = mounts.iter().find(|mount| mount.device == slot.device) {
        return Err(refuse(format!("is mounted on {}", mount.point.display())));
    }
    match vfs.claim(slot) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
            let users = holders(system, slot);
            let users = match users.as_slice() {
                [] => "swap, a file system or another program".into(),
                users => users.join(", "),
            };
            Err(refuse(format!("is in use by {users}")))
        }
        Err(e) => Err(InstallError::io("open for writing", &slot.node, e)),
    }
}

/// The block devices that stand on it: those of device-mapper and RAID.
fn holders(system: &System, slot: &Slot) -> Vec<String> {
    let dir = system.sys.join("dev/block").join(&slot.device);
    let listed = fs::read_dir(dir.join("holders"));
    let names = listed.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(
            "/dev/vda3".parse(),
            Ok(PartitionName::Node("/dev/vda3".into()))
        );
        assert_eq!(
            "PARTLABEL=init-b".parse(),
            Ok(PartitionName::PartLabel("init-b".into()))
        );
        let guid = "0fc63daf-8483-4772-8e79-3d69d8477de4";
        assert_eq!(
            format!("PARTUUID={guid}").parse(),
            Ok(PartitionName::PartUuid(types::LINUX_GENERIC))
        );
        for bad in ["", "vda3", "PARTLABEL=", "PARTUUID=1", "UUID=1"] {
            assert!(bad.parse::<PartitionName>().is_err(), "{bad:?}");
        }
    }
}
