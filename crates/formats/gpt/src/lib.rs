//! GUID partition tables (GPT), read and written.
//!
//! Specification: UEFI 2.10, chapter 5.3 (and 5.2.3 for the protective MBR);
//! partition types: the Discoverable Partitions Specification ([`types`]).
//! All fields are little-endian; GUIDs are in the mixed-endian order of UEFI.
//! On disk positions are logical block addresses (LBA); everything that this
//! crate hands out is in bytes.
//!
//! # Reading
//! [`Table::read`] takes two reads where the primary table is good: MBR and
//! header, then the entry array. Where the primary is bad, the backup in the
//! last block is taken and the reason kept ([`Table::primary_error`]).
//!
//! Refused: block sizes other than a power of two from 512 to 4096, headers
//! of another revision, smaller than 92 bytes or larger than a block, that
//! are not where they say they are or whose checksums do not match; entries
//! that are not 128 bytes times a power of two, up to 1024; more than
//! [`MAX_ENTRIES`] of them; an entry array or a usable range outside the
//! disk, or the one inside the other; partitions outside the usable range or
//! that overlap. A disk whose MBR describes partitions without a protective
//! one is [`GptError::Mbr`] even if a GPT lies behind it, as the kernel takes
//! it too (`is_gpt_valid` and `is_pmbr_valid` in `block/partitions/efi.c`):
//! the GPT is then a leftover. A hybrid MBR (a protective entry and others)
//! is noted in [`Table::mbr`] and the GPT is used, as the kernel does.
//! A missing or damaged MBR is no reason to refuse.
//!
//! Not checked: whether the primary's pointer to the backup is right (images
//! that were written to a larger disk are common).
//!
//! # Writing
//! [`Layout`] places partitions and yields the bytes of both tables. The same
//! calls give the same bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod header;
mod layout;
mod mbr;
mod read;
pub mod types;

pub use error::{Copy, GptError, HeaderError, PartitionError};
pub use layout::{ALIGNMENT, Layout, LayoutError, NewPartition};
pub use mbr::{MbrKind, disk_signature};
pub use read::{Partition, Table};
pub use uuid::Uuid;

/// The most entries that an entry array may have. 128 is what every tool
/// writes; the memory for reading is at most this times 1024 bytes.
pub const MAX_ENTRIES: u32 = 1024;

/// Whether this crate works with blocks of that many bytes.
pub(crate) fn is_block_size(block_size: u32) -> bool {
    block_size.is_power_of_two() && (512..=4096).contains(&block_size)
}
