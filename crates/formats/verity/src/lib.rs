//! dm-verity: the superblock, the hash tree, the root hash and its signature.
//!
//! Specifications: cryptsetup's docs/on-disk-format-verity (superblock and
//! tree), the kernel's Documentation/admin-guide/device-mapper/verity.rst
//! (tree and table), the Discoverable Partitions Specification (PARTUUIDs and
//! the signature partition). The superblock is little-endian, its UUID in RFC
//! 4122 order. Sizes and offsets are bytes unless a name says blocks; data
//! blocks and hash blocks are counted in their own sizes.
//!
//! Supported: version 1, hash type 1 (the salt before the block), SHA-256 and
//! SHA-512, data and hash blocks of a power of two from 512 bytes to 64 KiB,
//! salts of at most 256 bytes, signature objects of at most
//! [`signature::MAX_LEN`] bytes. Everything else is refused, and so are bytes
//! that are not zero where the format has padding. Forward error correction is
//! out of scope.
//!
//! # What the root hash proves
//! The superblock is not under it. A superblock that was changed can make the
//! tree fail, or it can change what the kernel presents in one way only: with
//! another number of data blocks, so that the device is shorter or that hash
//! blocks stand where data is expected. Salt and hash block size cannot be
//! changed for a given root hash, short of a collision: what is hashed at the
//! top is both together, and since salts are shorter than the least block, its
//! length gives both. So a reader that needs the length compares
//! [`Params::data_blocks`] with a length that it knows from elsewhere (the file
//! system's own superblock, under the tree). The UUID is proven by nothing.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "build"))]
extern crate std;

mod algorithm;
#[cfg(feature = "build")]
pub mod build;
mod json;
mod params;
mod root;
pub mod signature;
mod superblock;
mod target;
mod verify;

pub use algorithm::Algorithm;
pub use params::{Geometry, Level, MAX_SALT, Params, ParamsError};
pub use root::{RootHash, RootHashError};
pub use signature::{Signature, SignatureError};
pub use superblock::{SUPERBLOCK_LEN, Superblock, SuperblockError};
pub use target::{OnCorruption, Target, TargetError};
pub use uuid::Uuid;
pub use verify::{Device, Fault, Unfit, Verifier};
