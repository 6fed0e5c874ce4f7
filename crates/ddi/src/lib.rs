//! Discoverable disk images (DDI): the init image's container.
//!
//! Specifications: the UAPI group's Discoverable Disk Image and Discoverable
//! Partitions Specifications. A GPT with three partitions: the root file
//! system (EROFS), its dm-verity superblock and tree, and the signature of the
//! root hash. The first 128 bits of the root hash are the PARTUUID of the
//! first, the last 128 of the second. Sizes and offsets are bytes.
//!
//! # Reading
//! [`Ddi::read`] finds the partitions of one architecture; [`Ddi::verify`]
//! proves every byte of them, as the kernel would at each read. Partitions of
//! other types, and those that the specification says to leave alone (no-auto,
//! bit 63), are passed over. Refused: an image without root or verity
//! partition, with two of a type, or whose primary partition table is damaged:
//! a disk may have a use for the backup, an image file that was changed has
//! not. Nothing that is read here is trusted before [`Ddi::verify`] or the
//! kernel has proven it against a root hash from elsewhere.
//!
//! # Writing
//! With the cargo feature `write`, `write::Image` makes them. Whatever is not given
//! follows from the file system and the root hash: the same file system gives
//! the same image.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "write"))]
extern crate std;

mod arch;
mod derive;
mod error;
mod read;
#[cfg(feature = "write")]
pub mod write;

pub use arch::{Arch, Role};
pub use derive::{disk_guid, signature_part_uuid};
pub use error::DdiError;
pub use iofs_verity::{RootHash, Signature};
pub use read::{Ddi, Part, Trees};
pub use uuid::Uuid;
