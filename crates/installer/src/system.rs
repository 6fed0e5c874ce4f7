//! What the running system knows about mounts and partitions.
//!
//! Sources: proc_pid_mountinfo(5); Documentation/ABI/testing/sysfs-block and
//! `part_attrs` in block/partitions/core.c for `/sys/dev/block/MAJ:MIN`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use iofs_gpt::Table;
use iofs_plan::{Selector, Uuid};
use iofs_source::{ReadAt, ReadError, ReadErrorKind};

/// A mount table of a machine with thousands of containers fits.
const MAX_MOUNTINFO: u64 = 16 << 20;

/// Where the system's own files are; tests put others in their place.
#[derive(Debug, Clone)]
pub struct System {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// `/run`.
    pub run: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            run: "/run".into(),
        }
    }
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `MAJ:MIN`; major 0 where the file system has no block device of its own.
    pub(crate) device: String,
    /// The mounted folder inside the file system.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Type: `vfat`.
    pub(crate) fstype: String,
    /// What was mounted, as its user named it: `/dev/sda2`.
    pub(crate) source: PathBuf,
}

/// How a GPT names a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionIdentity {
    pub(crate) type_guid: Uuid,
    pub(crate) unique: Uuid,
    pub(crate) label: String,
}

impl PartitionIdentity {
    pub(crate) fn matches(&self, selector: &Selector) -> bool {
        match selector {
            Selector::TypeGuid(guid) => *guid == self.type_guid,
            Selector::PartUuid(guid) => *guid == self.unique,
            Selector::PartLabel(label) => *label == self.label,
            Selector::Pmem { .. } | Selector::Embedded => false,
        }
    }
}

impl System {
    /// The mount table; of several mounts on one point the last is the visible one.
    pub(crate) fn mounts(&self) -> io::Result<Vec<Mount>> {
        let mut text = Vec::new();
        File::open(self.proc.join("self/mountinfo"))?
            .take(MAX_MOUNTINFO)
            .read_to_end(&mut text)?;
        Ok(parse_mountinfo(&text))
    }

    /// The partition with this device number, as the GPT of its disk names it.
    ///
    /// The table itself is read, not udev's database: the same bytes decide what
    /// `storage-init` finds at boot.
    pub(crate) fn partition(&self, device: &str) -> Result<PartitionIdentity, String> {
        let dir = self.sys.join("dev/block").join(device);
        let number = fs::read_to_string(dir.join("partition"))
            .map_err(|_| format!("the block device {device} is not a partition"))?;
        let number: u32 = number
            .trim()
            .parse()
            .map_err(|_| format!("the kernel gives the partition number {number:?}"))?;
        let real =
            fs::canonicalize(&dir).map_err(|e| format!("cannot follow {}: {e}", dir.display()))?;
        let disk = real
            .parent()
            .ok_or_else(|| format!("{} has no disk above it", real.display()))?;
        let name = disk.file_name().unwrap_or_default();
        let block = fs::read_to_string(disk.join("queue/logical_block_size"))
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .unwrap_or(512);
        let node = self.dev.join(name);
        let source =
            FileSource::open(&node).map_err(|e| format!("cannot read {}: {e}", node.display()))?;
        find_partition(&source, block, number)
            .map_err(|why| format!("the partition table of {}: {why}", node.display()))
    }
}

/// A file or block device as a source of positioned reads.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// Opens it for reading.
    ///
    /// # Errors
    /// As open(2) and lseek(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(path)?;
        // A block device has no length; its end can be sought.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size })
    }

    /// Drops clean pages, so that the reads that follow reach the medium. Advice
    /// only: where it is not taken, a comparison is weaker.
    pub(crate) fn forget_cached(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

impl ReadAt for FileSource {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let error = |kind| ReadError {
            offset,
            len: buf.len() as u64,
            kind,
        };
        let fits = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.size);
        if !fits {
            return Err(error(ReadErrorKind::OutOfBounds { size: self.size }));
        }
        let failed = |e: &io::Error| ReadErrorKind::Io {
            errno: e.raw_os_error().unwrap_or(0),
        };
        let result = self.file.read_exact_at(buf, offset);
        result.map_err(|e| ReadError {
            offset,
            len: buf.len() as u64,
            kind: failed(&e),
        })
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Partition `number` (from 1) of a GPT disk whose blocks have `block` bytes.
fn find_partition(
    source: &FileSource,
    block: u32,
    number: u32,
) -> Result<PartitionIdentity, String> {
    let table = Table::read(source, block).map_err(|e| e.to_string())?;
    let found = table.partitions.iter().find(|p| p.number == number);
    let found = found.ok_or_else(|| format!("it has no partition {number}"))?;
    Ok(PartitionIdentity {
        type_guid: found.type_guid,
        unique: found.part_guid,
        label: found.name.clone(),
    })
}

fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|&b| b == b'\n')
        .filter_map(parse_mount)
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = fields.nth(2)?;
    let root = fields.next()?;
    let point = fields.next()?;
    // Optional fields end at a lone hyphen.
    let mut fields = fields.skip_while(|&f| f != b"-").skip(1);
    let fstype = fields.next()?;
    let source = fields.next()?;
    Some(Mount {
        device: String::from_utf8(device.to_vec()).ok()?,
        root: unescape(root),
        point: unescape(point),
        fstype: String::from_utf8(fstype.to_vec()).ok()?,
        source: unescape(source),
    })
}

/// `mangle` in fs/seq_file.c writes space, tab, newline and backslash in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or(&[]);
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_optional_fields_and_escapes() {
        let text = b"25 1 254:2 / / rw,relatime shared:1 - ext4 /dev/vda2 rw\n\
            60 25 254:1 / /efi\\040one rw shared:30 master:2 - vfat /dev/vda1 rw\n\
            61 25 0:40 /@boot /boot rw - btrfs /dev/vda3 rw\nbroken line\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].point, Path::new("/efi one"));
        assert_eq!(mounts[1].fstype, "vfat");
        assert_eq!(mounts[1].device, "254:1");
        assert_eq!(mounts[2].root, Path::new("/@boot"));
    }

    #[test]
    fn the_hosts_own_table_is_read() {
        let mounts = System::default().mounts().unwrap();
        assert!(mounts.iter().any(|m| m.point == Path::new("/proc")));
    }
}
