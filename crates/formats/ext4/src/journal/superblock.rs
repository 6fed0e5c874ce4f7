//! The journal's superblock (`journal_superblock_s` in include/linux/jbd2.h).

use iofs_source::{FileMap, Mapped, ReadAt};

use super::JournalError;
use crate::bytes::{be32, part};
use crate::checksum::{START, crc32c};
use crate::error::Result;

pub(super) const MAGIC: u32 = 0xc03b_3998;
const LEN: usize = 1024;
const TYPE_V1: u32 = 3;
const TYPE_V2: u32 = 4;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_SUPPORTED: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// Blocks set aside for fast commits where the superblock names no number.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
/// Blocks that must be left without them (`JBD2_MIN_JOURNAL_BLOCKS`).
const MIN_BLOCKS: u32 = 1024;

/// How blocks of the log are checksummed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    /// Not at all.
    None,
    /// A CRC-32 over the whole transaction in its commit block.
    Transaction,
    /// CRC-32C of each block, 16 bits of it for data.
    V2,
    /// CRC-32C of each block.
    V3,
}

/// What the log must be read by. Block numbers count from the journal's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) block_size: u32,
    /// First block of the log, and the one after its last.
    pub(super) first: u32,
    pub(super) end: u32,
    /// The first of the blocks for fast commits, if there are any.
    pub(super) fast_commits: Option<u32>,
    /// Where the log starts and the transaction expected there; `start` is 0
    /// in a journal with nothing to replay.
    pub(super) start: u32,
    pub(super) sequence: u32,
    pub(super) wide: bool,
    pub(super) async_commit: bool,
    pub(super) checksums: Checksums,
    pub(super) seed: u32,
}

impl Settings {
    pub(super) fn read(source: &impl ReadAt, file: &FileMap, block_size: u32) -> Result<Self> {
        let mut bytes = [0; LEN];
        Mapped::new(source, file)
            .read_at(0, &mut bytes)
            .map_err(|_| JournalError::NoSuperblock)?;
        Ok(Self::parse(&bytes, file.size, block_size)?)
    }

    fn parse(bytes: &[u8; LEN], file_size: u64, block_size: u32) -> Result<Self, JournalError> {
        let kind = be32(bytes, 4);
        if be32(bytes, 0) != MAGIC || (kind != TYPE_V1 && kind != TYPE_V2) {
            return Err(JournalError::NoSuperblock);
        }
        let (compat, incompat) = if kind == TYPE_V2 {
            (be32(bytes, 0x24), be32(bytes, 0x28))
        } else {
            (0, 0)
        };
        let unknown = incompat & !INCOMPAT_SUPPORTED;
        if unknown != 0 {
            return Err(JournalError::Unsupported { bits: unknown });
        }
        let checksums = checksums(compat, incompat)?;
        if matches!(checksums, Checksums::V2 | Checksums::V3) {
            let mut sum = crc32c(START, part(bytes, 0, 0xfc));
            sum = crc32c(sum, &[0; 4]);
            sum = crc32c(sum, part(bytes, 0x100, LEN));
            if sum != be32(bytes, 0xfc) {
                return Err(JournalError::Checksum {
                    block: 0,
                    transaction: 0,
                });
            }
        }
        let blocks = be32(bytes, 0x10);
        let fast = if incompat & INCOMPAT_FAST_COMMIT == 0 {
            None
        } else {
            let fast = match be32(bytes, 0x54) {
                0 => DEFAULT_FAST_COMMIT_BLOCKS,
                blocks => blocks,
            };
            blocks.checked_sub(fast).filter(|&rest| rest >= MIN_BLOCKS)
        };
        let settings = Self {
            block_size,
            first: be32(bytes, 0x14),
            end: fast.unwrap_or(blocks),
            // `j_fc_first`: one block is skipped.
            fast_commits: fast.and_then(|end| end.checked_add(1)),
            start: be32(bytes, 0x1c),
            sequence: be32(bytes, 0x18),
            wide: incompat & INCOMPAT_64BIT != 0,
            async_commit: incompat & INCOMPAT_ASYNC_COMMIT != 0,
            checksums,
            seed: crc32c(START, part(bytes, 0x30, 0x40)),
        };
        settings.check(be32(bytes, 0xc), blocks, file_size)?;
        Ok(settings)
    }

    fn check(&self, recorded: u32, blocks: u32, file_size: u64) -> Result<(), JournalError> {
        let wrong = |field, value| Err(JournalError::Superblock { field, value });
        if recorded != self.block_size {
            return wrong("blocksize", recorded);
        }
        if u64::from(blocks) * u64::from(self.block_size) > file_size {
            return wrong("maxlen", blocks);
        }
        if self.first == 0 || self.first >= self.end {
            return wrong("first", self.first);
        }
        if self.start != 0 && !(self.first..self.end).contains(&self.start) {
            return wrong("start", self.start);
        }
        Ok(())
    }

    /// Length of a tag without UUID, in bytes (`journal_tag_bytes`).
    pub(super) fn tag_len(&self) -> usize {
        let narrow = match self.checksums {
            Checksums::V3 => return 16,
            // The kernel counts the checksum twice here, and so it stays.
            Checksums::V2 => 10,
            _ => 8,
        };
        if self.wide { narrow + 4 } else { narrow }
    }

    /// Bytes at the end of a descriptor or revoke block that hold its checksum.
    pub(super) fn tail_len(&self) -> usize {
        match self.checksums {
            Checksums::V2 | Checksums::V3 => 4,
            _ => 0,
        }
    }

    /// The block `count` after `at`; the log is a ring.
    pub(super) fn advance(&self, at: u32, count: u32) -> u32 {
        let ring = u64::from(self.end - self.first);
        let from_first = u64::from(at.saturating_sub(self.first)) + u64::from(count);
        // Below `end`, so it fits.
        u32::try_from(from_first % ring).map_or(self.first, |index| self.first + index)
    }
}

fn checksums(compat: u32, incompat: u32) -> Result<Checksums, JournalError> {
    let v2 = incompat & INCOMPAT_CSUM_V2 != 0;
    let v3 = incompat & INCOMPAT_CSUM_V3 != 0;
    let whole = compat & COMPAT_CHECKSUM != 0;
    match (whole, v2, v3) {
        (false, false, false) => Ok(Checksums::None),
        (true, false, false) => Ok(Checksums::Transaction),
        (false, true, false) => Ok(Checksums::V2),
        (false, false, true) => Ok(Checksums::V3),
        // The kernel refuses these combinations too.
        _ => Err(JournalError::Superblock {
            field: "feature_incompat",
            value: incompat,
        }),
    }
}
