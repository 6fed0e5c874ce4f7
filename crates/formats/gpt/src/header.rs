//! The header block, UEFI 2.10 table 5.5.

use iofs_source::crc32;
use uuid::Uuid;

use crate::{HeaderError, MAX_ENTRIES};

pub(crate) const SIGNATURE: &[u8; 8] = b"EFI PART";
pub(crate) const HEADER_LEN: usize = 92;
pub(crate) const ENTRY_LEN: u32 = 128;
const MAX_ENTRY_LEN: u32 = 1024;
const REVISION: u32 = 0x0001_0000;
const CHECKSUM_AT: core::ops::Range<usize> = 16..20;

/// A header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) my_lba: u64,
    pub(crate) alternate_lba: u64,
    pub(crate) first_usable: u64,
    pub(crate) last_usable: u64,
    pub(crate) disk_guid: Uuid,
    pub(crate) entries_lba: u64,
    pub(crate) entry_count: u32,
    pub(crate) entry_len: u32,
    pub(crate) entries_checksum: u32,
}

/// `N` bytes at `at`; callers keep within the block that they have measured.
fn field<const N: usize>(block: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

impl Header {
    /// Reads the header in `block`, which lies at `lba` of a disk whose last
    /// block is `last_lba`.
    pub(crate) fn parse(block: &[u8], lba: u64, last_lba: u64) -> Result<Self, HeaderError> {
        let fixed: &[u8; HEADER_LEN] = block
            .first_chunk()
            .filter(|fixed| fixed.starts_with(SIGNATURE))
            .ok_or(HeaderError::Signature { lba })?;
        let u32_at = |at| u32::from_le_bytes(field(fixed, at));
        let u64_at = |at| u64::from_le_bytes(field(fixed, at));

        let revision = u32_at(8);
        if revision != REVISION {
            return Err(HeaderError::Revision { found: revision });
        }
        let header_len = u32_at(12);
        let covered = usize::try_from(header_len)
            .ok()
            .filter(|&len| len >= HEADER_LEN)
            .and_then(|len| block.get(..len))
            .ok_or(HeaderError::HeaderSize { found: header_len })?;
        let before = crc32(0, &covered[..CHECKSUM_AT.start]);
        let checksum = crc32(crc32(before, &[0; 4]), &covered[CHECKSUM_AT.end..]);
        if checksum != u32_at(CHECKSUM_AT.start) {
            return Err(HeaderError::HeaderChecksum { lba });
        }

        let header = Self {
            my_lba: u64_at(24),
            alternate_lba: u64_at(32),
            first_usable: u64_at(40),
            last_usable: u64_at(48),
            disk_guid: Uuid::from_bytes_le(field(fixed, 56)),
            entries_lba: u64_at(72),
            entry_count: u32_at(80),
            entry_len: u32_at(84),
            entries_checksum: u32_at(88),
        };
        header.check(block.len() as u64, lba, last_lba)?;
        Ok(header)
    }

    fn check(&self, block_size: u64, lba: u64, last_lba: u64) -> Result<(), HeaderError> {
        if self.my_lba != lba {
            return Err(HeaderError::Misplaced {
                stated: self.my_lba,
                lba,
            });
        }
        // Block 0 is the MBR's, block 1 and the last are the headers'.
        if self.first_usable < 2
            || self.first_usable > self.last_usable
            || self.last_usable >= last_lba
        {
            return Err(HeaderError::UsableRange {
                first: self.first_usable,
                last: self.last_usable,
            });
        }
        if self.entry_len < ENTRY_LEN
            || self.entry_len > MAX_ENTRY_LEN
            || !self.entry_len.is_power_of_two()
        {
            return Err(HeaderError::EntrySize {
                found: self.entry_len,
            });
        }
        if self.entry_count == 0 || self.entry_count > MAX_ENTRIES {
            return Err(HeaderError::EntryCount {
                found: self.entry_count,
            });
        }
        let misplaced = HeaderError::EntriesMisplaced {
            lba: self.entries_lba,
        };
        let blocks = u64::from(self.entries_len()).div_ceil(block_size);
        let end = self.entries_lba.checked_add(blocks).ok_or(misplaced)?;
        let before = end <= self.first_usable;
        let behind = self.entries_lba > self.last_usable && end <= last_lba;
        if self.entries_lba < 2 || !(before || behind) {
            return Err(misplaced);
        }
        Ok(())
    }

    /// Length of the entry array, in bytes; at most a mebibyte once checked.
    pub(crate) fn entries_len(&self) -> u32 {
        self.entry_count.saturating_mul(self.entry_len)
    }

    /// The header's bytes, sealed.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, SIGNATURE);
        put(8, &REVISION.to_le_bytes());
        put(12, &92u32.to_le_bytes());
        put(24, &self.my_lba.to_le_bytes());
        put(32, &self.alternate_lba.to_le_bytes());
        put(40, &self.first_usable.to_le_bytes());
        put(48, &self.last_usable.to_le_bytes());
        put(56, &self.disk_guid.to_bytes_le());
        put(72, &self.entries_lba.to_le_bytes());
        put(80, &self.entry_count.to_le_bytes());
        put(84, &self.entry_len.to_le_bytes());
        put(88, &self.entries_checksum.to_le_bytes());
        let checksum = crc32(0, &out);
        out[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}
