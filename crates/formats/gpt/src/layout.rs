//! Writing a table.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use uuid::Uuid;

use crate::header::{ENTRY_LEN, Header};
use crate::{Partition, is_block_size, mbr};

/// What partitions are aligned to, in bytes: what every partitioning tool
/// uses, a multiple of any flash erase block or RAID stripe that matters.
pub const ALIGNMENT: u64 = 1 << 20;

const ENTRY_COUNT: u32 = 128;
const ENTRIES_LEN: u64 = ENTRY_COUNT as u64 * ENTRY_LEN as u64;
const NAME_UNITS: usize = 36;

/// Why a partition or a disk cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutError {
    /// The block size is not a power of two from 512 to 4096.
    BlockSize {
        /// The size, in bytes.
        block_size: u32,
    },
    /// The disk has no room for both tables and a partition.
    DiskTooSmall {
        /// Size of the disk, in bytes.
        size: u64,
        /// The least that would do, in bytes.
        least: u64,
    },
    /// The partition does not fit behind the ones before it.
    NoRoom {
        /// The partition's name.
        name: String,
        /// What it needs, in bytes.
        wanted: u64,
        /// What is left, in bytes.
        left: u64,
    },
    /// A partition of no bytes.
    Empty {
        /// The partition's name.
        name: String,
    },
    /// The name has more than 36 UTF-16 code units, or a NUL.
    Name {
        /// The name.
        name: String,
    },
    /// A nil GUID, or one that another partition has already.
    Guid {
        /// The partition's name.
        name: String,
        /// The GUID.
        guid: Uuid,
    },
    /// There are 128 partitions already.
    TooMany,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize { block_size } => write!(
                f,
                "a block size of {block_size} bytes is not a power of two from 512 to 4096"
            ),
            Self::DiskTooSmall { size, least } => write!(
                f,
                "a disk of {size} bytes has no room for a GPT and a partition; \
                 it takes at least {least} bytes"
            ),
            Self::NoRoom { name, wanted, left } => write!(
                f,
                "partition {name} needs {wanted} bytes, but {left} are left on the disk"
            ),
            Self::Empty { name } => write!(f, "partition {name} has a size of 0 bytes"),
            Self::Name { name } => write!(
                f,
                "the partition name {name:?} has a NUL or more than {NAME_UNITS} UTF-16 units"
            ),
            Self::Guid { name, guid } => write!(
                f,
                "partition {name}: the GUID {guid} is nil or another partition's"
            ),
            Self::TooMany => write!(f, "a GPT has room for {ENTRY_COUNT} partitions"),
        }
    }
}

impl core::error::Error for LayoutError {}

/// A partition to lay out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPartition<'a> {
    /// Its type; [`crate::types`] has constants.
    pub type_guid: Uuid,
    /// Its own GUID, not nil, unlike any other's on the disk.
    pub part_guid: Uuid,
    /// Its name, at most 36 UTF-16 code units.
    pub name: &'a str,
    /// Its size in bytes, rounded up to whole blocks.
    pub size: u64,
    /// Its attribute bits.
    pub attributes: u64,
}

/// Lays partitions out one behind the other, each aligned to [`ALIGNMENT`].
///
/// GUIDs, sizes and order are the caller's, so the same calls give the same
/// bytes on every machine.
#[derive(Debug, Clone)]
pub struct Layout {
    block_size: u32,
    last_lba: u64,
    disk_guid: Uuid,
    partitions: Vec<Partition>,
}

impl Layout {
    /// An empty table for a disk of `disk_size` bytes (a last fraction of a
    /// block is left alone) with logical blocks of `block_size` bytes.
    ///
    /// # Errors
    /// [`LayoutError::BlockSize`] and [`LayoutError::DiskTooSmall`].
    pub fn new(disk_size: u64, block_size: u32, disk_guid: Uuid) -> Result<Self, LayoutError> {
        if !is_block_size(block_size) {
            return Err(LayoutError::BlockSize { block_size });
        }
        let block = u64::from(block_size);
        let least = Self::disk_size_for([block], block_size);
        if disk_size < least {
            return Err(LayoutError::DiskTooSmall {
                size: disk_size,
                least,
            });
        }
        Ok(Self {
            block_size,
            last_lba: disk_size / block - 1,
            disk_guid,
            partitions: Vec::new(),
        })
    }

    /// The least disk that takes partitions of these sizes, in bytes, a
    /// multiple of [`ALIGNMENT`]. `u64::MAX` if there is none.
    pub fn disk_size_for(sizes: impl IntoIterator<Item = u64>, block_size: u32) -> u64 {
        let block = u64::from(block_size);
        // The backup table: entries and header.
        let tail = ENTRIES_LEN
            .div_ceil(block)
            .saturating_add(1)
            .saturating_mul(block);
        let end = sizes.into_iter().fold(ALIGNMENT, |end, size| {
            align_up(end, ALIGNMENT).saturating_add(align_up(size, block))
        });
        align_up(end.saturating_add(tail), ALIGNMENT)
    }

    /// Adds a partition behind those added before and says where it lies.
    ///
    /// # Errors
    /// If it has no room, no size, or a name or GUID that cannot be.
    pub fn add(&mut self, new: &NewPartition<'_>) -> Result<&Partition, LayoutError> {
        let name = || new.name.to_string();
        if new.size == 0 {
            return Err(LayoutError::Empty { name: name() });
        }
        if new.name.contains('\0') || new.name.encode_utf16().count() > NAME_UNITS {
            return Err(LayoutError::Name { name: name() });
        }
        if new.type_guid.is_nil() {
            return Err(LayoutError::Guid {
                name: name(),
                guid: new.type_guid,
            });
        }
        let taken = |other: &Partition| other.part_guid == new.part_guid;
        if new.part_guid.is_nil() || self.partitions.iter().any(taken) {
            return Err(LayoutError::Guid {
                name: name(),
                guid: new.part_guid,
            });
        }
        let number = u32::try_from(self.partitions.len())
            .ok()
            .filter(|&before| before < ENTRY_COUNT)
            .ok_or(LayoutError::TooMany)?
            + 1;
        let left = self.left();
        let len = align_up(new.size, self.block_size.into());
        if len > left {
            return Err(LayoutError::NoRoom {
                name: name(),
                wanted: len,
                left,
            });
        }
        let at = self.partitions.len();
        self.partitions.push(Partition {
            number,
            type_guid: new.type_guid,
            part_guid: new.part_guid,
            start: self.next_start(),
            len,
            attributes: new.attributes,
            name: name(),
        });
        Ok(&self.partitions[at])
    }

    /// The largest partition that can still be added, in bytes; as the size of
    /// the last partition it fills the disk.
    #[must_use]
    pub fn left(&self) -> u64 {
        let end = (self.last_usable() + 1) * u64::from(self.block_size);
        end.saturating_sub(self.next_start())
    }

    /// The partitions so far.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// What to write where: offset on the disk in bytes, and the bytes.
    /// Protective MBR, primary header and entries first, then the backup's
    /// entries and header. Partitions are not touched.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let block = u64::from(self.block_size);
        let entries = self.entries();
        let primary = Header {
            my_lba: 1,
            alternate_lba: self.last_lba,
            first_usable: 2 + self.entry_blocks(),
            last_usable: self.last_usable(),
            disk_guid: self.disk_guid,
            entries_lba: 2,
            entry_count: ENTRY_COUNT,
            entry_len: ENTRY_LEN,
            entries_checksum: iofs_source::crc32(0, &entries),
        };
        let backup = Header {
            my_lba: self.last_lba,
            alternate_lba: 1,
            entries_lba: self.last_usable() + 1,
            ..primary
        };

        let mut front = self.padded(&mbr::protective(self.last_lba));
        front.extend(self.padded(&primary.encode()));
        front.extend(self.padded(&entries));
        let mut back = self.padded(&entries);
        back.extend(self.padded(&backup.encode()));
        vec![(0, front), (backup.entries_lba * block, back)]
    }

    fn entries(&self) -> Vec<u8> {
        let block = u64::from(self.block_size);
        let mut entries = Vec::new();
        for partition in &self.partitions {
            let mut entry = [0; ENTRY_LEN as usize];
            entry[..16].copy_from_slice(&partition.type_guid.to_bytes_le());
            entry[16..32].copy_from_slice(&partition.part_guid.to_bytes_le());
            let first = partition.start / block;
            let last = first + partition.len / block - 1;
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
            let units = partition.name.encode_utf16();
            for (field, unit) in entry[56..].chunks_exact_mut(2).zip(units) {
                field.copy_from_slice(&unit.to_le_bytes());
            }
            entries.extend_from_slice(&entry);
        }
        entries.resize(ENTRY_COUNT as usize * ENTRY_LEN as usize, 0);
        entries
    }

    /// `bytes`, filled up with zeros to whole blocks.
    fn padded(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        out.resize(bytes.len().next_multiple_of(self.block_size as usize), 0);
        out
    }

    fn entry_blocks(&self) -> u64 {
        ENTRIES_LEN.div_ceil(self.block_size.into())
    }

    fn last_usable(&self) -> u64 {
        // `new` has made sure that the disk holds both tables.
        self.last_lba - self.entry_blocks() - 1
    }

    fn next_start(&self) -> u64 {
        let end = self.partitions.last().map_or(0, Partition::end);
        align_up(end.max(ALIGNMENT), ALIGNMENT)
    }
}

/// `value` rounded up to a multiple of `to`, or `u64::MAX`.
fn align_up(value: u64, to: u64) -> u64 {
    value.checked_next_multiple_of(to).unwrap_or(u64::MAX)
}
