//! Reads EROFS: the superblock for PID 1, the tree for inspection and tests.
//!
//! # Format
//! Specification: the kernel's fs/erofs/erofs_fs.h and
//! Documentation/filesystems/erofs.rst. Little-endian. Offsets and sizes are
//! bytes, block addresses count blocks of 512 bytes to 64 KiB. The superblock
//! is at offset 1024, 128 bytes long.
//!
//! [`Superblock::read`] checks what is needed to tell a stale, foreign or
//! truncated image from the right one before the kernel mounts it.
//!
//! With the cargo feature `tree`, `tree::Tree` reads inodes of both forms,
//! directories, attributes, and the contents of files that are not compressed
//! (flat, inline, chunks on one device). Compressed contents are out of scope:
//! `fsck.erofs --extract` reads them. Rejected are the features `48bit` and
//! `metabox`, unknown incompatible ones, and whatever contradicts itself.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod features;
mod superblock;
#[cfg(feature = "tree")]
pub mod tree;

pub use features::{Algorithm, Features};
pub use superblock::{ErofsError, Superblock};
pub use uuid::Uuid;
