//! One walk over the log: which blocks have which newest committed copy.
//!
//! `do_one_pass` in fs/jbd2/recovery.c reads the log three times: to find its
//! end, to collect revocations, to copy. Here one pass keeps the tags and the
//! revocations of the transaction at hand apart until its commit block is
//! seen, and forgets them if it is not. Data blocks are skipped; their own
//! checksums are verified when one is read. The log ends at the first block
//! that does not continue it.

use alloc::vec;
use alloc::vec::Vec;

use crc::{Crc, NoTable};
use iofs_source::{FileMap, ReadAt};

use super::superblock::{Checksums, MAGIC, Settings};
use super::{JournalError, Replacement, TagChecksum, read_block};
use crate::bytes::{be16, be32, be64, le16, le32, part};
use crate::checksum::crc32c;
use crate::error::Result;

const TYPE_DESCRIPTOR: u32 = 1;
const TYPE_COMMIT: u32 = 2;
const TYPE_REVOKE: u32 = 5;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Length of a block header, and of a revoke block's, in bytes.
const HEADER: usize = 12;
const REVOKE_HEADER: usize = 16;
/// Most copies, and most revocations, that are kept track of: a journal of
/// 1 GiB, the largest that mke2fs makes by itself.
const MAX_RECORDS: usize = 1 << 18;
/// `EXT4_FC_TAG_HEAD`.
const FAST_COMMIT_HEAD: u16 = 9;

/// `crc32_be`, which commit blocks of the first checksum version hold. Without
/// a table, since hardly any journal has that.
static CRC32_BE: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&crc::CRC_32_MPEG_2);

/// A block that must not be replayed from a transaction or from those before.
#[derive(Debug, Clone, Copy)]
struct Revocation {
    block: u64,
    /// Counted from the log's first transaction, since the ids wrap.
    age: u32,
}

/// The copies to read instead of blocks, sorted by block.
pub(super) fn replacements(
    source: &impl ReadAt,
    file: &FileMap,
    settings: &Settings,
) -> Result<Vec<Replacement>> {
    if settings.start == 0 {
        return Ok(Vec::new());
    }
    let mut scan = Scan {
        source,
        file,
        settings,
        block: vec![0; settings.block_size as usize],
        at: settings.start,
        walked: 0,
        transaction: settings.sequence,
        copies: Vec::new(),
        committed_copies: 0,
        revocations: Vec::new(),
        committed_revocations: 0,
        doubted: None,
        sum: u32::MAX,
        last_commit_time: 0,
    };
    while scan.step()? {}
    scan.refuse_fast_commits()?;
    Ok(scan.finish())
}

struct Scan<'a, S> {
    source: &'a S,
    file: &'a FileMap,
    settings: &'a Settings,
    block: Vec<u8>,
    /// The next block of the journal, and how many the walk has passed.
    at: u32,
    walked: u32,
    transaction: u32,
    copies: Vec<Replacement>,
    committed_copies: usize,
    revocations: Vec<Revocation>,
    committed_revocations: usize,
    /// A descriptor or revoke block of this transaction whose checksum is wrong.
    doubted: Option<u32>,
    /// Running checksum of the transaction (version 1).
    sum: u32,
    last_commit_time: u64,
}

impl<S: ReadAt> Scan<'_, S> {
    /// Takes one descriptor, revoke or commit block; false at the log's end.
    fn step(&mut self) -> Result<bool> {
        if self.walked >= self.settings.end - self.settings.first {
            return Ok(false);
        }
        let at = self.at;
        read_block(self.source, self.file, at, &mut self.block)?;
        self.skip(1);
        if be32(&self.block, 0) != MAGIC || be32(&self.block, 8) != self.transaction {
            return Ok(false);
        }
        match be32(&self.block, 4) {
            TYPE_DESCRIPTOR => self.descriptor(at)?,
            TYPE_REVOKE => self.revoke(at)?,
            TYPE_COMMIT => return self.commit(at),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn skip(&mut self, count: u32) {
        self.walked = self.walked.saturating_add(count);
        self.at = self.settings.advance(self.at, count);
    }

    fn descriptor(&mut self, at: u32) -> Result<()> {
        self.doubt_tail(at);
        let whole = self.settings.checksums == Checksums::Transaction;
        if whole {
            self.add_to_sum();
        }
        let first_copy = self.copies.len();
        let tag_len = self.settings.tag_len();
        let end = self.block.len() - self.settings.tail_len();
        let mut offset = HEADER;
        while offset + tag_len <= end {
            let tag = Tag::parse(part(&self.block, offset, offset + tag_len), self.settings);
            if self.copies.len() == MAX_RECORDS {
                return Err(JournalError::TooManyBlocks { limit: MAX_RECORDS }.into());
            }
            self.copies.push(Replacement {
                block: tag.block,
                at: self.at,
                transaction: self.transaction,
                checksum: tag.checksum,
                escaped: tag.flags & TAG_ESCAPED != 0,
            });
            self.skip(1);
            offset += tag_len;
            if tag.flags & TAG_SAME_UUID == 0 {
                offset += 16;
            }
            if tag.flags & TAG_LAST != 0 {
                break;
            }
        }
        if whole {
            for index in first_copy..self.copies.len() {
                if let Some(copy) = self.copies.get(index) {
                    read_block(self.source, self.file, copy.at, &mut self.block)?;
                    self.add_to_sum();
                }
            }
        }
        Ok(())
    }

    fn add_to_sum(&mut self) {
        let mut digest = CRC32_BE.digest_with_initial(self.sum);
        digest.update(&self.block);
        self.sum = digest.finalize();
    }

    fn revoke(&mut self, at: u32) -> Result<()> {
        self.doubt_tail(at);
        let used = be32(&self.block, HEADER) as usize;
        if used > self.block.len() - self.settings.tail_len() {
            // Decided at the commit block: it may be a leftover.
            self.doubted = self.doubted.or(Some(at));
            return Ok(());
        }
        let width = if self.settings.wide { 8 } else { 4 };
        let age = self.age(self.transaction);
        for record in part(&self.block, REVOKE_HEADER, used).chunks_exact(width) {
            if self.revocations.len() == MAX_RECORDS {
                return Err(JournalError::TooManyBlocks { limit: MAX_RECORDS }.into());
            }
            let block = if self.settings.wide {
                be64(record, 0)
            } else {
                u64::from(be32(record, 0))
            };
            self.revocations.push(Revocation { block, age });
        }
        Ok(())
    }

    fn age(&self, transaction: u32) -> u32 {
        transaction.wrapping_sub(self.settings.sequence)
    }

    /// Remembers a descriptor or revoke block with a wrong checksum.
    fn doubt_tail(&mut self, at: u32) {
        let tail = self.settings.tail_len();
        if tail == 0 {
            return;
        }
        let end = self.block.len() - tail;
        let sum = crc32c(
            crc32c(self.settings.seed, part(&self.block, 0, end)),
            &[0; 4],
        );
        if sum != be32(&self.block, end) {
            self.doubted = self.doubted.or(Some(at));
        }
    }

    /// Keeps what the transaction recorded, if its commit block is right.
    ///
    /// A wrong checksum is damage if the commit is not older than the one
    /// before it, else the block is a leftover from the ring's last turn and
    /// the log ends before it. With asynchronous commits the commit block can
    /// be on the disk before the rest, and the log ends there too.
    fn commit(&mut self, at: u32) -> Result<bool> {
        let time = be64(&self.block, 0x30);
        let stale = time < self.last_commit_time;
        let transaction = self.transaction;
        if let Some(block) = self.doubted {
            if stale {
                return Ok(false);
            }
            return Err(JournalError::Checksum { block, transaction }.into());
        }
        if !self.commit_checksum_matches() {
            if stale || self.settings.async_commit {
                return Ok(false);
            }
            return Err(JournalError::Checksum {
                block: at,
                transaction,
            }
            .into());
        }
        self.last_commit_time = time;
        self.committed_copies = self.copies.len();
        self.committed_revocations = self.revocations.len();
        self.sum = u32::MAX;
        self.transaction = self.transaction.wrapping_add(1);
        Ok(true)
    }

    fn commit_checksum_matches(&self) -> bool {
        let found = be32(&self.block, 0x10);
        match self.settings.checksums {
            Checksums::None => true,
            Checksums::Transaction => {
                // Type 1 is CRC-32, 4 bytes long; nothing set means no checksum.
                let kind = (part(&self.block, 0xc, 0xe), found);
                kind == (&[0, 0], 0) || kind == (&[1, 4], self.sum)
            }
            Checksums::V2 | Checksums::V3 => {
                let mut sum = crc32c(self.settings.seed, part(&self.block, 0, 0x10));
                sum = crc32c(sum, &[0; 4]);
                sum = crc32c(sum, part(&self.block, 0x14, self.block.len()));
                sum == found
            }
        }
    }

    /// Fast commits describe changes, not blocks; replaying them would mean a
    /// second implementation of ext4. They count if they continue the last
    /// full commit.
    fn refuse_fast_commits(&mut self) -> Result<()> {
        let Some(at) = self.settings.fast_commits else {
            return Ok(());
        };
        read_block(self.source, self.file, at, &mut self.block)?;
        // Little-endian, unlike the rest: tag, length, features, transaction.
        if le16(&self.block, 0) == FAST_COMMIT_HEAD && le32(&self.block, 8) == self.transaction {
            return Err(JournalError::FastCommits.into());
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<Replacement> {
        self.copies.truncate(self.committed_copies);
        self.revocations.truncate(self.committed_revocations);
        iofs_source::sort_compactly(&mut self.revocations, |a, b| {
            (a.block, a.age) < (b.block, b.age)
        });
        let revocations = self.revocations;
        let sequence = self.settings.sequence;
        let mut copies = self.copies;
        copies.retain(|copy| {
            let end = revocations.partition_point(|r| r.block <= copy.block);
            let newest = end.checked_sub(1).and_then(|index| revocations.get(index));
            newest.is_none_or(|r| {
                r.block != copy.block || r.age < copy.transaction.wrapping_sub(sequence)
            })
        });
        // By block, and the copies of a block in log order: the last one counts.
        let mut order: Vec<(u64, usize)> = copies
            .iter()
            .enumerate()
            .map(|(index, copy)| (copy.block, index))
            .collect();
        iofs_source::sort_compactly(&mut order, |a, b| a < b);
        order
            .iter()
            .enumerate()
            .filter(|&(at, (block, _))| order.get(at + 1).is_none_or(|next| next.0 != *block))
            .filter_map(|(_, &(_, index))| copies.get(index).copied())
            .collect()
    }
}

struct Tag {
    block: u64,
    flags: u32,
    checksum: Option<TagChecksum>,
}

impl Tag {
    /// `journal_block_tag3_t` or `journal_block_tag_t`.
    fn parse(bytes: &[u8], settings: &Settings) -> Self {
        let low = u64::from(be32(bytes, 0));
        let high = if settings.wide {
            u64::from(be32(bytes, 8)) << 32
        } else {
            0
        };
        let (flags, checksum) = match settings.checksums {
            Checksums::V3 => (be32(bytes, 4), Some(TagChecksum::Whole(be32(bytes, 12)))),
            Checksums::V2 => (
                u32::from(be16(bytes, 6)),
                Some(TagChecksum::Half(be16(bytes, 4))),
            ),
            _ => (u32::from(be16(bytes, 6)), None),
        };
        Self {
            block: high | low,
            flags,
            checksum,
        }
    }
}
