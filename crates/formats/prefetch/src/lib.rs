//! The prefetch list: what a boot is going to read of its image.
//!
//! The builder knows it from a recorded boot, or guesses it from the image's
//! files. storage-init asks the kernel for it while the next init starts, so that
//! the disk works while the processor does.
//!
//! The list lies behind the EROFS file system, inside what dm-verity covers: it
//! is as authentic as the image, and belongs to no other root hash. Where nothing
//! is authenticated it can be anybody's. It can ask for pages and nothing else;
//! whoever obeys it bounds how many.
//!
//! # Format
//! Little-endian, at the first multiple of [`PAGE`] behind the file system. A
//! header of [`HEADER_LEN`] bytes:
//!
//! | offset | | |
//! |---|---|---|
//! | 0 | 8 | magic `IOFSPREF` |
//! | 8 | 2 | version, [`VERSION`] |
//! | 10 | 2 | 0 |
//! | 12 | 4 | length of the list in bytes, header and checksum included |
//! | 16 | 16 | UUID of the file system |
//! | 32 | 8 | size of the file system in bytes |
//! | 40 | 4 | number of metadata ranges |
//! | 44 | 4 | number of files |
//! | 48 | 16 | 0 |
//!
//! Then numbers as LEB128 (seven bits a byte, the lowest first, at most five
//! bytes). The metadata ranges: each the gap since the end of the one before, and
//! its length, in [`PAGE`]s of the block device. The files, in the order in which
//! they lie on the disk: how many bytes of the path are the previous one's, how
//! many follow, these; the number of ranges; each as above, in pages of the file.
//! Paths are UTF-8, relative to the image's root. The last four bytes are the
//! CRC-32 (IEEE) of all before them.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod opened;
pub mod trace;
mod wire;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use iofs_source::{ReadAt, ReadError};
pub use uuid::Uuid;

/// The unit of every range, in bytes: a page of memory on most machines.
pub const PAGE: u64 = 4096;

/// Version of the format that this crate reads and writes.
pub const VERSION: u16 = 1;

/// Size of the header, in bytes.
pub const HEADER_LEN: usize = 64;

/// The greatest size of a list, in bytes. A whole systemd initrd's takes 20 KB.
pub const MAX_LEN: usize = 256 << 10;

/// The most files in a list.
pub const MAX_FILES: usize = 8192;

/// The most ranges in a list, of metadata and of all files.
pub const MAX_RANGES: usize = 32_768;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 1024;

/// Some pages in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first page.
    pub start: u32,
    /// How many, at least one.
    pub len: u32,
}

impl Range {
    /// The page behind the last one.
    #[must_use]
    pub fn end(self) -> u32 {
        self.start.saturating_add(self.len)
    }

    /// Where it starts, in bytes.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.start) * PAGE
    }

    /// Its length, in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.len) * PAGE
    }
}

/// What is wanted of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRanges {
    /// Its path, relative to the image's root.
    pub path: String,
    /// Its pages, in ascending order, apart from one another.
    pub ranges: Vec<Range>,
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrefetchList {
    /// UUID of the file system that it is of.
    pub uuid: Uuid,
    /// Size of that file system, in bytes.
    pub size: u64,
    /// Pages of the block device with inodes, folders and indices, in ascending
    /// order, apart from one another.
    pub metadata: Vec<Range>,
    /// Files, as they lie on the disk.
    pub files: Vec<FileRanges>,
}

/// Why bytes are not a list for this file system, or a list cannot become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefetchError {
    /// The medium cannot be read.
    Read(ReadError),
    /// It is of another version of the format.
    Version {
        /// The version that was found.
        found: u16,
    },
    /// It is of another file system: another UUID or size.
    Foreign,
    /// It ends early, has bytes left over or is longer than [`MAX_LEN`].
    Length,
    /// The checksum does not match.
    Checksum,
    /// A field has no valid value.
    Value {
        /// Name of the field.
        field: &'static str,
    },
}

impl fmt::Display for PrefetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Version { found } => write!(
                f,
                "the prefetch list has format version {found}, this program reads {VERSION}"
            ),
            Self::Foreign => f.write_str("the prefetch list is of another file system"),
            Self::Length => f.write_str("the prefetch list does not have the length that it says"),
            Self::Checksum => f.write_str("the prefetch list's checksum does not match"),
            Self::Value { field } => write!(f, "the prefetch list's {field} has no valid value"),
        }
    }
}

impl core::error::Error for PrefetchError {}

impl From<ReadError> for PrefetchError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl PrefetchList {
    /// Where the list of a file system of this size is, in bytes from its start;
    /// `None` where there is no such place.
    #[must_use]
    pub fn place(size: u64) -> Option<u64> {
        size.checked_next_multiple_of(PAGE)
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`PrefetchError::Value`] for ranges that are not in order or not inside
    /// the file system, and for paths that could not be opened below a folder;
    /// [`PrefetchError::Length`] for more of anything than a list may have.
    pub fn encode(&self) -> Result<Vec<u8>, PrefetchError> {
        wire::encode(self)
    }

    /// The bytes as [`Self::encode`] makes them, read back for the file system of
    /// this UUID and size.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn decode(bytes: &[u8], uuid: Uuid, size: u64) -> Result<Self, PrefetchError> {
        wire::decode(bytes, uuid, size)
    }

    /// Reads the list behind the file system that begins where `medium` does.
    /// `None` if there is none.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read<S: ReadAt + ?Sized>(
        medium: &S,
        uuid: Uuid,
        size: u64,
    ) -> Result<Option<Self>, PrefetchError> {
        let Some(start) = Self::place(size) else {
            return Ok(None);
        };
        let behind = medium.size().saturating_sub(start);
        if behind < HEADER_LEN as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN];
        medium.read_at(start, &mut header)?;
        let Some(len) = wire::stated_len(&header)? else {
            return Ok(None);
        };
        if len as u64 > behind {
            return Err(PrefetchError::Length);
        }
        let mut bytes = alloc::vec![0; len];
        medium.read_at(start, &mut bytes)?;
        Self::decode(&bytes, uuid, size).map(Some)
    }

    /// Whether a path could stand in a list: relative, of UTF-8 without empty, `.`
    /// and `..` parts and NUL bytes, and not longer than [`MAX_PATH`].
    #[must_use]
    pub fn is_path(path: &str) -> bool {
        wire::is_path(path)
    }

    /// How many bytes of metadata and of files are wanted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().flat_map(|file| &file.ranges);
        self.metadata
            .iter()
            .chain(files)
            .fold(0, |sum, range| sum.saturating_add(range.bytes()))
    }
}

/// Sorted ranges that cover these pages, which may come in any order and often;
/// gaps of up to `gap` pages are covered too.
#[must_use]
pub fn ranges_of(mut pages: Vec<u32>, gap: u32) -> Vec<Range> {
    iofs_source::sort_compactly(&mut pages, |a, b| a < b);
    close_gaps(pages.iter().map(|&start| Range { start, len: 1 }), gap)
}

/// These ranges, whose starts ascend, with those in one that have no more than
/// `gap` pages between them.
#[must_use]
pub fn close_gaps(ranges: impl IntoIterator<Item = Range>, gap: u32) -> Vec<Range> {
    let mut joined: Vec<Range> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start.saturating_sub(last.end()) <= gap => {
                let len = range
                    .start
                    .saturating_sub(last.start)
                    .saturating_add(range.len);
                last.len = last.len.max(len);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
