//! Raw GPT disks, put together without root, loop devices or mounts.
//!
//! A disk is a list of partitions with their contents; file systems are made
//! by their own tools in files ([`fat`], [`ext4`]) and copied in, holes left
//! out. Same input, same bytes, as far as the tools allow it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use iofs_gpt::{Layout, NewPartition, Uuid, types};
use rustix::fs::SeekFrom as Where;

use crate::Error;

pub mod ext4;
pub mod fat;

/// A partition and what lies on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its type; `iofs_gpt::types` has constants.
    pub type_guid: Uuid,
    /// Its unique GUID, as in `PARTUUID=`.
    pub guid: Uuid,
    /// Its name, as in `PARTLABEL=`.
    pub label: String,
    /// Its size in bytes; the content's if that is more.
    pub size: u64,
    /// A file with its first bytes; `None` leaves it all zeros.
    pub content: Option<PathBuf>,
}

impl Partition {
    /// A partition of exactly the content's size.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be examined.
    pub fn of(
        type_guid: Uuid,
        guid: Uuid,
        label: &str,
        content: impl Into<PathBuf>,
    ) -> Result<Self, Error> {
        let content = content.into();
        Ok(Self {
            type_guid,
            guid,
            label: label.to_owned(),
            size: file_size(&content)?,
            content: Some(content),
        })
    }

    /// An EFI system partition with this content.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn esp(guid: Uuid, content: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::of(types::ESP, guid, "esp", content)
    }

    /// An x86-64 root partition with this content.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn root(guid: Uuid, content: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::of(types::ROOT_X86_64, guid, "root", content)
    }
}

/// Makes the disk `path` with logical blocks of `block_size` bytes and returns
/// the table's own view of the partitions (offsets in bytes).
///
/// # Errors
/// [`Error::Layout`] if the partitions cannot be laid out, [`Error::Io`].
pub fn make(
    path: &Path,
    block_size: u32,
    disk_guid: Uuid,
    partitions: &[Partition],
) -> Result<Vec<iofs_gpt::Partition>, Error> {
    let mut sizes = Vec::new();
    for partition in partitions {
        let content = partition.content.as_deref().map_or(Ok(0), file_size)?;
        sizes.push(partition.size.max(content));
    }
    let disk_size = Layout::disk_size_for(sizes.iter().copied(), block_size);
    let mut layout = Layout::new(disk_size, block_size, disk_guid)?;
    for (partition, &size) in partitions.iter().zip(&sizes) {
        layout.add(&NewPartition {
            type_guid: partition.type_guid,
            part_guid: partition.guid,
            name: &partition.label,
            size,
            attributes: 0,
        })?;
    }
    let what = || format!("writing {}", path.display());
    let disk = File::create(path).map_err(Error::io(what()))?;
    disk.set_len(disk_size).map_err(Error::io(what()))?;
    for (offset, bytes) in layout.runs() {
        disk.write_all_at(&bytes, offset)
            .map_err(Error::io(what()))?;
    }
    for (partition, placed) in partitions.iter().zip(layout.partitions()) {
        if let Some(content) = &partition.content {
            copy_into(content, &disk, placed.start).map_err(Error::io(format!(
                "{} from {}",
                what(),
                content.display()
            )))?;
        }
    }
    Ok(layout.partitions().to_vec())
}

/// Copies the file `from` to `offset` in `to`, holes left out.
fn copy_into(from: &Path, to: &File, offset: u64) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let begin = match rustix::fs::seek(&from, Where::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&from, Where::Hole(begin))?;
        from.seek(SeekFrom::Start(begin))?;
        at = begin;
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let part = buffer.get_mut(..want).unwrap_or(&mut []);
            from.read_exact(part)?;
            to.write_all_at(part, offset + at)?;
            at += want as u64;
        }
    }
}

pub(crate) fn file_size(path: &Path) -> Result<u64, Error> {
    std::fs::metadata(path)
        .map(|meta| meta.len())
        .map_err(Error::io(format!("examining {}", path.display())))
}

/// Makes a sparse file of `size` bytes.
pub(crate) fn sparse(path: &Path, size: u64) -> Result<(), Error> {
    File::create(path)
        .and_then(|file| file.set_len(size))
        .map_err(Error::io(format!("making {}", path.display())))
}

/// How a file system's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// As the tool does it: in one piece on an empty volume.
    #[default]
    Whole,
    /// In pieces of at most 64 KiB, each apart from the next.
    Fragmented,
}

/// The length of a piece in [`Spread::Fragmented`], in bytes.
pub const PIECE: u64 = 64 << 10;

/// A file to put on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes: `EFI/Linux/x.efi`, without a leading slash.
    pub to: String,
    /// What it is.
    pub from: PathBuf,
    /// How it lies.
    pub spread: Spread,
}

impl Entry {
    /// A file in one piece.
    #[must_use]
    pub fn new(to: &str, from: impl Into<PathBuf>) -> Self {
        Self {
            to: to.to_owned(),
            from: from.into(),
            spread: Spread::Whole,
        }
    }

    /// A file in pieces.
    #[must_use]
    pub fn fragmented(to: &str, from: impl Into<PathBuf>) -> Self {
        Self {
            spread: Spread::Fragmented,
            ..Self::new(to, from)
        }
    }

    /// The folders that lead to it, outermost first.
    fn folders(&self) -> impl Iterator<Item = &str> {
        self.to
            .match_indices('/')
            .filter_map(|(at, _)| self.to.get(..at))
    }
}

/// Makes `count` files of one piece's length in a folder; their names.
fn make_fillers(folder: &Path, count: u64) -> Result<Vec<String>, Error> {
    // Not zeros, of which the tools would make holes.
    let piece = vec![0xf5_u8; usize::try_from(PIECE).unwrap_or(usize::MAX)];
    let mut names = Vec::new();
    for index in 0..count {
        let name = format!("F{index:06}");
        std::fs::write(folder.join(&name), &piece)
            .map_err(Error::io(format!("writing in {}", folder.display())))?;
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::command::output;

    const A: Uuid = Uuid::from_u128(0xa);
    const B: Uuid = Uuid::from_u128(0xb);
    const D: Uuid = Uuid::from_u128(0xd);

    #[test]
    fn sfdisk_sees_what_was_laid_out() {
        let dir = tempfile::tempdir().unwrap();
        let content = dir.path().join("content");
        std::fs::write(&content, b"hello").unwrap();
        let file = File::options().write(true).open(&content).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"end", (3 << 20) - 3).unwrap();
        let disk = dir.path().join("disk");
        let partitions = [
            Partition::esp(A, &content).unwrap(),
            Partition {
                size: 2 << 20,
                content: None,
                ..Partition::root(B, &content).unwrap()
            },
        ];
        let placed = make(&disk, 512, D, &partitions).unwrap();
        let mut bytes = [0; 5];
        let image = File::open(&disk).unwrap();
        image.read_exact_at(&mut bytes, placed[0].start).unwrap();
        assert_eq!(&bytes, b"hello");
        image
            .read_exact_at(&mut bytes[..3], placed[0].start + (3 << 20) - 3)
            .unwrap();
        assert_eq!(&bytes[..3], b"end");

        let json = output(Command::new("sfdisk").arg("--json").arg(&disk)).unwrap();
        let table: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let table = &table["partitiontable"];
        assert_eq!(table["label"], "gpt");
        let list = table["partitions"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["start"].as_u64().unwrap() * 512, placed[0].start);
        assert_eq!(list[0]["type"], "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(list[1]["size"].as_u64().unwrap() * 512, 2 << 20);
        output(Command::new("sgdisk").arg("--verify").arg(&disk)).unwrap();
    }

    #[test]
    fn a_file_of_holes_is_copied_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        sparse(&empty, 1 << 30).unwrap();
        let disk = dir.path().join("disk");
        make(&disk, 4096, D, &[Partition::root(A, &empty).unwrap()]).unwrap();
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(&disk).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks}");
    }
}
