//! Boot Loader Specification entries of type 1: the text files in
//! /loader/entries of the ESP, XBOOTLDR or /boot.
//!
//! Sources: UAPI.1 Boot Loader Specification (entry keys, boot counting,
//! sorting) and UAPI.10 Version Format Specification; where these leave a case
//! open, systemd-boot.
//!
//! An [`Entry`] is UTF-8 lines of a key, spaces and a value. Comments, empty
//! lines and carriage returns before line feeds are passed over; keys that are
//! not known are kept; of a key that counts once the last holds. A file of more
//! than 64 KiB, or with a path that has `..` or a backslash, is refused: its
//! author is not known, and boot loaders turn `/` into `\`.
//!
//! What is written is stricter than what is read: paths are absolute and
//! normalised, values are one line, names are of the characters that the
//! specification allows.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod entry;
mod name;
mod sort;
mod version;

pub use entry::{Entry, EntryError, MAX_LEN};
pub use name::{Counter, EntryName, NameError};
pub use sort::compare_entries;
pub use version::compare_versions;

#[cfg(test)]
mod tests;
