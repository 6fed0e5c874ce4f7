//! The JBD2 journal, replayed in memory.
//!
//! After a power cut the newest copy of a metadata block may be in the journal
//! alone. Nothing is written: the log is walked once, and reads of a block go
//! to its newest committed copy instead.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use iofs_source::{FileMap, Mapped, ReadAt, ReadError};

use crate::checksum::crc32c;
use crate::error::Result;
use crate::features::COMPAT_HAS_JOURNAL;
use crate::runs::visit_runs;
use crate::volume::Volume;

mod log;
mod superblock;
#[cfg(test)]
mod tests;

use superblock::{MAGIC, Settings};

/// Why a journal cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalError {
    /// The volume needs recovery but has no journal.
    Missing,
    /// The journal is on another device.
    External,
    /// The journal's inode is not a file with all its blocks.
    NotMapped,
    /// There is no journal superblock where it must be.
    NoSuperblock,
    /// A field of the journal's superblock has a value that cannot be.
    Superblock {
        /// Its name in `struct journal_superblock_s`, without the `s_`.
        field: &'static str,
        /// The value.
        value: u32,
    },
    /// The journal uses incompatible features that this reader does not know.
    Unsupported {
        /// Their bits in `s_feature_incompat`.
        bits: u32,
    },
    /// Fast commits were made since the last full one.
    FastCommits,
    /// A block of the journal does not match its checksum.
    Checksum {
        /// Number of the block in the journal.
        block: u32,
        /// The transaction that it belongs to.
        transaction: u32,
    },
    /// A transaction that was committed is damaged.
    Corrupt {
        /// Number of the block in the journal.
        block: u32,
        /// The transaction that it belongs to.
        transaction: u32,
    },
    /// More blocks would have to be replayed than this reader keeps track of.
    TooManyBlocks {
        /// The limit.
        limit: usize,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "there is none"),
            Self::External => write!(f, "it is on another device"),
            Self::NotMapped => write!(f, "its inode is damaged"),
            Self::NoSuperblock => write!(f, "it has no superblock"),
            Self::Superblock { field, value } => {
                write!(f, "its superblock has an impossible {field}: {value}")
            }
            Self::Unsupported { bits } => write!(f, "it uses unknown features ({bits:#x})"),
            Self::FastCommits => write!(f, "it ends in fast commits"),
            Self::Checksum { block, transaction } => write!(
                f,
                "the checksum of its block {block}, transaction {transaction}, is wrong"
            ),
            Self::Corrupt { block, transaction } => {
                write!(
                    f,
                    "its block {block}, transaction {transaction}, is damaged"
                )
            }
            Self::TooManyBlocks { limit } => write!(f, "it holds more than {limit} blocks"),
        }
    }
}

impl core::error::Error for JournalError {}

/// The newest committed copy of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// The block of the volume that it replaces.
    block: u64,
    /// The block of the journal that it is in.
    at: u32,
    /// The transaction that wrote it.
    transaction: u32,
    checksum: Option<TagChecksum>,
    /// The copy began with the journal's own magic, which was blanked out.
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagChecksum {
    /// Version 2: the low half.
    Half(u16),
    /// Version 3.
    Whole(u32),
}

/// The blocks that the journal has newer copies of.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Sorted by block, each block once.
    replacements: Vec<Replacement>,
    file: FileMap,
    block_size: u32,
    seed: u32,
}

impl Overlay {
    pub(crate) fn len(&self) -> usize {
        self.replacements.len()
    }

    pub(crate) fn find(&self, block: u64) -> Option<&Replacement> {
        let index = self
            .replacements
            .binary_search_by_key(&block, |r| r.block)
            .ok()?;
        self.replacements.get(index)
    }

    /// The first replaced block among the `count` blocks from `first`.
    pub(crate) fn first_in(&self, first: u64, count: u64) -> Option<u64> {
        let index = self.replacements.partition_point(|r| r.block < first);
        let found = self.replacements.get(index)?.block;
        (found - first < count).then_some(found)
    }

    /// Reads the whole copy and verifies it.
    pub(crate) fn read(&self, source: &impl ReadAt, copy: &Replacement) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.block_size as usize];
        read_block(source, &self.file, copy.at, &mut bytes)?;
        let sum = || crc32c(crc32c(self.seed, &copy.transaction.to_be_bytes()), &bytes);
        let right = match copy.checksum {
            None => true,
            Some(TagChecksum::Half(half)) => sum() & 0xffff == u32::from(half),
            Some(TagChecksum::Whole(whole)) => sum() == whole,
        };
        if !right {
            return Err(JournalError::Checksum {
                block: copy.at,
                transaction: copy.transaction,
            }
            .into());
        }
        if copy.escaped {
            // A block has at least 1024 bytes.
            if let Some(start) = bytes.get_mut(..4) {
                start.copy_from_slice(&MAGIC.to_be_bytes());
            }
        }
        Ok(bytes)
    }
}

/// Fills `buf`, one block long, from block `at` of the journal.
fn read_block(
    source: &impl ReadAt,
    file: &FileMap,
    at: u32,
    buf: &mut [u8],
) -> Result<(), ReadError> {
    // At most 2^32 blocks of 2^16 bytes.
    Mapped::new(source, file).read_at(u64::from(at) * buf.len() as u64, buf)
}

/// Walks the journal of a volume that needs recovery.
pub(crate) fn load<S: ReadAt>(volume: &Volume<S>) -> Result<Overlay> {
    let file = map_journal(volume)?;
    let settings = Settings::read(&volume.source, &file, volume.superblock.block_size)?;
    let replacements = log::replacements(&volume.source, &file, &settings)?;
    Ok(Overlay {
        replacements,
        file,
        block_size: settings.block_size,
        seed: settings.seed,
    })
}

/// Where the journal's own blocks are. Its inode is never in the journal.
fn map_journal<S: ReadAt>(volume: &Volume<S>) -> Result<FileMap> {
    let superblock = &volume.superblock;
    if superblock.journal_inode == 0 {
        let external = superblock.journal_device != 0;
        return Err(if external {
            JournalError::External.into()
        } else {
            JournalError::Missing.into()
        });
    }
    if !superblock.features.has_compat(COMPAT_HAS_JOURNAL) {
        return Err(JournalError::Missing.into());
    }
    let inode = volume.inode(superblock.journal_inode, superblock.journal_inode)?;
    if !inode.is_regular() {
        return Err(JournalError::NotMapped.into());
    }
    let block_size = u64::from(superblock.block_size);
    let mut file = FileMap {
        size: inode.size,
        extents: Vec::new(),
    };
    let mut next = 0;
    visit_runs(
        volume,
        &inode,
        inode.size.div_ceil(block_size),
        &mut |run| {
            if run.logical != next || !run.written {
                return Err(JournalError::NotMapped.into());
            }
            file.push(run.physical * block_size, run.len * block_size)?;
            next = run.logical + run.len;
            Ok(core::ops::ControlFlow::Continue(()))
        },
    )?;
    file.check(volume.source.size(), 512)
        .map_err(|_| JournalError::NotMapped)?;
    Ok(file)
}
