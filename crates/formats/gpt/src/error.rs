//! Why there is no usable partition table.

use core::fmt;

use iofs_source::ReadError;

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one behind the MBR, header in block 1.
    Primary,
    /// The one at the end, header in the last block.
    Backup,
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

/// Why a disk has no usable GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GptError {
    /// The caller's block size is none that a disk has.
    BlockSize {
        /// The size, in bytes.
        block_size: u32,
    },
    /// Not even an empty table would fit.
    TooSmall {
        /// Size of the disk, in bytes.
        size: u64,
    },
    /// The disk is partitioned with an MBR.
    Mbr,
    /// There is no partition table that this crate knows of.
    NotPartitioned,
    /// There is a table, but for blocks of another size.
    OtherBlockSize {
        /// What the disk has, in bytes.
        block_size: u32,
        /// What the table was written for, in bytes.
        table: u32,
    },
    /// Both tables are bad.
    Damaged {
        /// What is wrong with the primary.
        primary: HeaderError,
        /// What is wrong with the backup.
        backup: HeaderError,
    },
    /// A table is intact and describes something that cannot be.
    Partition {
        /// The table.
        copy: Copy,
        /// The partition's number, from 1.
        number: u32,
        /// What is wrong with it.
        problem: PartitionError,
    },
}

impl fmt::Display for GptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize { block_size } => write!(
                f,
                "a block size of {block_size} bytes is not a power of two from 512 to 4096"
            ),
            Self::TooSmall { size } => {
                write!(
                    f,
                    "a disk of {size} bytes has no room for a partition table"
                )
            }
            Self::Mbr => f.write_str(
                "this is an MBR partition table, not GPT; convert it (sgdisk -g) or use the \
                 partition by its device name",
            ),
            Self::NotPartitioned => f.write_str("there is no GPT (no EFI PART in block 1)"),
            Self::OtherBlockSize { block_size, table } => write!(
                f,
                "the GPT is for blocks of {table} bytes, but the disk has blocks of \
                 {block_size}; write the table anew for this disk"
            ),
            Self::Damaged { primary, backup } => {
                write!(
                    f,
                    "both GPTs are damaged: primary: {primary}; backup: {backup}"
                )
            }
            Self::Partition {
                copy,
                number,
                problem,
            } => write!(f, "partition {number} in the {copy} GPT {problem}"),
        }
    }
}

impl core::error::Error for GptError {}

/// Why one of the two tables cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// It could not be read.
    Read(ReadError),
    /// It does not begin with `EFI PART`.
    Signature {
        /// The block.
        lba: u64,
    },
    /// It is not of revision 1.0.
    Revision {
        /// The revision, major in the high half.
        found: u32,
    },
    /// The header's size is not from 92 bytes to a block.
    HeaderSize {
        /// The size, in bytes.
        found: u32,
    },
    /// The header's checksum does not match.
    HeaderChecksum {
        /// The block.
        lba: u64,
    },
    /// The header says that it lies elsewhere.
    Misplaced {
        /// Where it says that it is.
        stated: u64,
        /// Where it was found.
        lba: u64,
    },
    /// The usable range is empty or leaves the disk.
    UsableRange {
        /// First block.
        first: u64,
        /// Last block.
        last: u64,
    },
    /// Entries are not 128 bytes times a power of two, or larger than 1024.
    EntrySize {
        /// The size, in bytes.
        found: u32,
    },
    /// There are no entries, or more than [`crate::MAX_ENTRIES`].
    EntryCount {
        /// The number.
        found: u32,
    },
    /// The entry array leaves the disk, or lies over header or partitions.
    EntriesMisplaced {
        /// Its first block.
        lba: u64,
    },
    /// The entry array's checksum does not match.
    EntriesChecksum {
        /// Its first block.
        lba: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Read(error) => error.fmt(f),
            Self::Signature { lba } => write!(f, "no EFI PART in block {lba}"),
            Self::Revision { found } => {
                write!(f, "revision {}.{} is unknown", found >> 16, found & 0xffff)
            }
            Self::HeaderSize { found } => {
                write!(
                    f,
                    "a header of {found} bytes is not from 92 to a block's size"
                )
            }
            Self::HeaderChecksum { lba } => {
                write!(
                    f,
                    "the checksum of the header in block {lba} does not match"
                )
            }
            Self::Misplaced { stated, lba } => write!(
                f,
                "the header in block {lba} says that it lies in block {stated}"
            ),
            Self::UsableRange { first, last } => write!(
                f,
                "the usable blocks {first} to {last} do not lie inside the disk; \
                 was it made smaller?"
            ),
            Self::EntrySize { found } => write!(
                f,
                "entries of {found} bytes are not 128 times a power of two, up to 1024"
            ),
            Self::EntryCount { found } => write!(
                f,
                "{found} entries are not from 1 to {}",
                crate::MAX_ENTRIES
            ),
            Self::EntriesMisplaced { lba } => write!(
                f,
                "the entry array at block {lba} leaves the disk or overlaps header or partitions"
            ),
            Self::EntriesChecksum { lba } => {
                write!(
                    f,
                    "the checksum of the entry array at block {lba} does not match"
                )
            }
        }
    }
}

impl core::error::Error for HeaderError {}

/// What is wrong with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionError {
    /// It ends before it starts, or leaves the usable blocks.
    Range {
        /// First block.
        first: u64,
        /// Last block.
        last: u64,
    },
    /// It shares blocks with another.
    Overlap {
        /// The other one's number, from 1.
        with: u32,
    },
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Range { first, last } => {
                write!(f, "(blocks {first} to {last}) leaves the usable blocks")
            }
            Self::Overlap { with } => write!(f, "overlaps partition {with}"),
        }
    }
}

impl core::error::Error for PartitionError {}
