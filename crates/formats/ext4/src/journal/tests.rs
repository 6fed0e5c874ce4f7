//! What debugfs does not write: rings that wrap, ids that wrap, version 1
//! checksums, leftovers of the last turn, fast commits.

use alloc::vec;
use alloc::vec::Vec;

use iofs_source::{Extent, FileMap};

use super::superblock::{Checksums, MAGIC, Settings};
use super::{JournalError, Replacement, log};
use crate::checksum::crc32c;
use crate::error::Ext4Error;

const BLOCK: usize = 1024;
const BLOCKS: u32 = 32;

/// A log of 31 blocks behind the superblock, and where it is written next.
struct Log {
    settings: Settings,
    bytes: Vec<u8>,
    at: u32,
    transaction: u32,
    time: u64,
    sum: u32,
}

impl Log {
    fn new(checksums: Checksums, start: u32, transaction: u32) -> Self {
        Self {
            settings: Settings {
                block_size: 1024,
                first: 1,
                end: BLOCKS,
                fast_commits: None,
                start,
                sequence: transaction,
                wide: false,
                async_commit: false,
                checksums,
                seed: 77,
            },
            bytes: vec![0; BLOCK * BLOCKS as usize],
            at: start,
            transaction,
            time: 1000,
            sum: u32::MAX,
        }
    }

    fn block(&mut self, at: u32) -> &mut [u8] {
        &mut self.bytes[at as usize * BLOCK..][..BLOCK]
    }

    fn put(&mut self, block: &[u8]) -> u32 {
        let at = self.at;
        self.block(at).copy_from_slice(block);
        self.at = self.settings.advance(at, 1);
        at
    }

    fn head(&self, kind: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        for (at, value) in [(0, MAGIC), (4, kind), (8, self.transaction)] {
            block[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        block
    }

    fn seal(&self, block: &mut [u8], at: usize) {
        if matches!(self.settings.checksums, Checksums::V2 | Checksums::V3) {
            let sum = crc32c(self.settings.seed, block);
            block[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Descriptor and data; the journal blocks of the data.
    fn write(&mut self, blocks: &[u32]) -> Vec<u32> {
        let mut descriptor = self.head(1);
        let mut at = 12;
        for (index, block) in blocks.iter().enumerate() {
            let last = index + 1 == blocks.len();
            // The first tag alone carries a UUID.
            let flags = u16::from(index != 0) * 2 + u16::from(last) * 8;
            descriptor[at..at + 4].copy_from_slice(&block.to_be_bytes());
            descriptor[at + 6..at + 8].copy_from_slice(&flags.to_be_bytes());
            at += self.settings.tag_len() + if index == 0 { 16 } else { 0 };
        }
        self.seal(&mut descriptor, BLOCK - 4);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_MPEG_2);
        let mut digest = crc.digest_with_initial(self.sum);
        digest.update(&descriptor);
        self.put(&descriptor);
        let mut places = Vec::new();
        for block in blocks {
            let data = vec![block.to_le_bytes()[0]; BLOCK];
            digest.update(&data);
            places.push(self.put(&data));
        }
        self.sum = digest.finalize();
        places
    }

    fn revoke(&mut self, blocks: &[u32]) {
        let mut record = self.head(5);
        let used = 16 + 4 * u32::try_from(blocks.len()).unwrap();
        record[12..16].copy_from_slice(&used.to_be_bytes());
        for (index, block) in blocks.iter().enumerate() {
            record[16 + 4 * index..20 + 4 * index].copy_from_slice(&block.to_be_bytes());
        }
        self.seal(&mut record, BLOCK - 4);
        self.put(&record);
    }

    /// The commit block's place.
    fn commit(&mut self) -> u32 {
        self.time += 5;
        let mut block = self.head(2);
        block[0x30..0x38].copy_from_slice(&self.time.to_be_bytes());
        if self.settings.checksums == Checksums::Transaction {
            block[0xc..0xe].copy_from_slice(&[1, 4]);
            block[0x10..0x14].copy_from_slice(&self.sum.to_be_bytes());
        }
        self.seal(&mut block, 0x10);
        self.sum = u32::MAX;
        self.transaction = self.transaction.wrapping_add(1);
        self.put(&block)
    }

    fn replay(&self) -> Result<Vec<Replacement>, Ext4Error> {
        let file = FileMap {
            size: self.bytes.len() as u64,
            extents: vec![Extent {
                logical: 0,
                physical: 0,
                len: self.bytes.len() as u64,
            }],
        };
        log::replacements(&self.bytes, &file, &self.settings).map_err(|error| *error)
    }

    /// (block, journal block) of what is replayed.
    fn pairs(&self) -> Vec<(u64, u32)> {
        let replayed = self.replay().unwrap();
        replayed.iter().map(|copy| (copy.block, copy.at)).collect()
    }
}

const ALL: [Checksums; 4] = [
    Checksums::None,
    Checksums::Transaction,
    Checksums::V2,
    Checksums::V3,
];

#[test]
fn the_ring_and_the_ids_wrap() {
    for checksums in ALL {
        let mut log = Log::new(checksums, 28, u32::MAX);
        let first = log.write(&[500, 501]);
        log.commit();
        assert_eq!((first, log.transaction, log.at), (vec![29, 30], 0, 1));
        let second = log.write(&[501, 502]);
        log.commit();
        log.revoke(&[500]);
        log.commit();
        let third = log.write(&[503]);
        log.commit();
        assert_eq!(
            log.pairs(),
            [(501, second[0]), (502, second[1]), (503, third[0])],
            "{checksums:?}"
        );
    }
}

/// The revocation of id 0 is newer than the copy of id `u32::MAX`, and older
/// than the copy of id 1.
#[test]
fn a_block_written_after_its_revocation_counts() {
    let mut log = Log::new(Checksums::V3, 1, u32::MAX);
    log.write(&[500]);
    log.commit();
    log.revoke(&[500]);
    log.commit();
    assert_eq!(log.pairs(), []);
    let place = log.write(&[500]);
    log.commit();
    assert_eq!(log.pairs(), [(500, place[0])]);
}

/// Records of one transaction all around the ring: nothing but the ring's
/// length ends the walk.
#[test]
fn a_log_without_end_ends() {
    let mut log = Log::new(Checksums::None, 5, 9);
    for _ in 1..BLOCKS {
        log.revoke(&[1]);
    }
    assert_eq!(log.pairs(), []);
    let mut log = Log::new(Checksums::None, 5, 9);
    for _ in 1..BLOCKS {
        log.write(&[1]);
        log.at = log.settings.advance(log.at, BLOCKS - 2);
    }
    assert_eq!(log.pairs(), []);
}

#[test]
fn leftovers_of_the_last_turn_end_the_log() {
    for checksums in [Checksums::Transaction, Checksums::V2, Checksums::V3] {
        let mut log = Log::new(checksums, 1, 9);
        let kept = log.write(&[1]);
        log.commit();
        // The next id by chance, damaged, and committed before the one above.
        log.time -= 500;
        let stale = log.write(&[2]);
        let commit = log.commit();
        let place = if checksums == Checksums::Transaction {
            stale[0]
        } else {
            stale[0] - 1
        };
        log.block(place)[600] ^= 1;
        assert_eq!(log.pairs(), [(1, kept[0])], "{checksums:?}");
        // The same with a commit block that is newer: damage.
        log.block(commit)[0x30..0x38].copy_from_slice(&9999u64.to_be_bytes());
        let error = log.replay().unwrap_err();
        assert!(
            matches!(
                error,
                Ext4Error::Journal(JournalError::Checksum {
                    transaction: 10,
                    ..
                })
            ),
            "{checksums:?}: {error}"
        );
    }
}

/// The commit block is on the disk, the data before it is not.
#[test]
fn asynchronous_commits_may_be_torn() {
    let mut log = Log::new(Checksums::Transaction, 1, 9);
    let kept = log.write(&[1]);
    log.commit();
    let torn = log.write(&[2, 3]);
    log.commit();
    log.block(torn[1])[5] ^= 1;
    assert!(log.replay().is_err());
    log.settings.async_commit = true;
    assert_eq!(log.pairs(), [(1, kept[0])]);
}

#[test]
fn fast_commits_are_refused_if_they_follow_the_log() {
    let mut log = Log::new(Checksums::V3, 1, 9);
    log.settings.end = 20;
    log.settings.fast_commits = Some(21);
    let kept = log.write(&[1]);
    log.commit();
    let mut head = vec![9, 0, 8, 0, 0, 0, 0, 0];
    head.extend_from_slice(&9u32.to_le_bytes());
    log.block(21)[..12].copy_from_slice(&head);
    // Those of a transaction that is committed whole count no more.
    assert_eq!(log.pairs(), [(1, kept[0])]);
    log.block(21)[8] = 10;
    assert_eq!(
        log.replay(),
        Err(Ext4Error::Journal(JournalError::FastCommits))
    );
}

/// A revocation block that claims more than it holds.
#[test]
fn an_impossible_revocation_is_damage() {
    let mut log = Log::new(Checksums::None, 1, 9);
    log.revoke(&[1]);
    log.block(1)[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    log.commit();
    assert!(log.replay().is_err());
}
