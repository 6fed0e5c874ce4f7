//! Initramfs archives: cpio in the `newc` and `crc` formats.
//!
//! Sources: cpio(5) "New ASCII Format", Documentation/driver-api/
//! early-userspace/buffer-format.rst and init/initramfs.c of the kernel, whose
//! reading of the format holds where they differ.
//!
//! # Format
//! An entry is a header of 110 ASCII bytes (magic `070701` or `070702`, 13
//! numbers of 8 hexadecimal digits), the NUL-terminated name, NULs up to a
//! multiple of 4 from the start of the archive, the data, NULs up to a
//! multiple of 4. `070702` differs by a checksum of a regular file's data: the
//! sum of its bytes, modulo 2^32. The name `TRAILER!!!` ends an archive.
//!
//! An initramfs is any sequence of archives, compressed archives and NUL
//! bytes; [`next_segment`] walks it. The trailer may be missing, NULs may stand
//! between entries, and a header must lie at a multiple of 4.
//!
//! # Limits
//! Names have 1 to 4095 bytes and data less than 4 GiB. Numbers are exactly
//! eight hexadecimal digits (older kernels take less strict ones). Refused with
//! the offset: what ends inside a header, name or data; a name without its
//! NUL, a wrong checksum; the older formats (`070707` and binary).
//!
//! Offsets and lengths are bytes, from the start of what the reader was given.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod links;
mod reader;
mod segment;
mod writer;

pub use error::{CpioError, CpioErrorKind};
pub use links::{Link, resolve_links};
pub use reader::{Entry, FileType, Reader};
pub use segment::{Compression, Segment, SegmentKind, next_segment};
pub use writer::{Format, NewEntry, WriteError, Writer};

/// Length of the fixed part of a header, in bytes.
const HEADER_LEN: usize = 110;

/// The greatest length of a name with its NUL, in bytes: the kernel's PATH_MAX.
const MAX_NAME_LEN: usize = 4096;

/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";

const MAGIC_NEWC: &[u8; 6] = b"070701";
const MAGIC_CRC: &[u8; 6] = b"070702";

/// The bits of a mode that hold the file type, S_IFMT.
const TYPE_MASK: u32 = 0o170_000;

/// The checksum of the `crc` format.
fn checksum(data: &[u8]) -> u32 {
    data.iter()
        .fold(0, |sum: u32, &byte| sum.wrapping_add(u32::from(byte)))
}

#[cfg(test)]
mod tests;
