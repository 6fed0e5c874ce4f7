//! FAT12, FAT16 and FAT32, read-only: which bytes of a boot partition a file
//! has.
//!
//! Specification: Microsoft FAT File System Specification (1.03, as UEFI 2.10
//! chapter 13.3 refers to it); where practice differs, `fs/fat/inode.c` of
//! Linux. Fields are little-endian. Offsets and sizes that this crate hands out
//! are bytes from the start of the volume.
//!
//! # What it accepts
//! Sectors and clusters as the boot sector has them: sectors of 512 to 4096
//! bytes, clusters of 1 to 128 sectors, both powers of two. FAT32 is what has
//! no 16-bit FAT size, however few clusters there are, as Linux (and
//! `mkfs.vfat -F 32` on a small partition) has it; FAT12 and FAT16 are told
//! apart by the cluster count. Of several FATs the active one is read.
//! Names match without regard to case (see [`Fat::locate`]).
//!
//! # What it refuses
//! Each with its own [`FatError`] that names the sector, cluster or offset: a
//! boot sector that contradicts itself or its medium, a FAT too short for the
//! clusters, chains that loop, that reach free, reserved, bad or missing
//! clusters or end before or go on behind the file's size, directories beyond
//! the 2 MiB of the specification, more than 65536 extents. Directory entries
//! without a name, or whose name holds separators or control characters, are
//! passed over; a long name of that kind, or one that does not belong to its
//! short name, gives way to the short name.
//!
//! # Costs
//! A lookup reads each directory on the path up to the entry, in pieces of up
//! to 16 KiB, and the part of the FAT that the chain uses, in pieces that grow
//! from 4 to 64 KiB while they follow one another: a contiguous file of
//! 300 MiB in clusters of 4 KiB takes 8 reads of the FAT. A hostile chain
//! costs at most 65536 reads of 4 KiB beside one pass over the FAT; hand in an
//! [`iofs_source::Limited`] to bound that further.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod boot;
mod chain;
mod dir;
mod error;
mod name;
mod volume;

pub use boot::{FatKind, Info};
pub use dir::{Entry, MAX_DIRECTORY};
pub use error::{BootSectorError, FatError};
pub use volume::{Fat, MAX_DEPTH};
