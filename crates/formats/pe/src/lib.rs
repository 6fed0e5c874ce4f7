//! PE/COFF images as UEFI has them: read, and made into Unified Kernel Images.
//!
//! Specifications: Microsoft's PE format; UEFI 2.10, 2.1.1 and 32.2 (where the
//! certificate table is); the UAPI group's Unified Kernel Image specification
//! (section names); shim's SBAT.md ([`sbat`]). All fields are little-endian.
//! Offsets and sizes are bytes; addresses are relative to where the image is
//! loaded (RVA), which is not the same as an offset in the file.
//!
//! # Reading
//! [`Image::read`] takes four small reads whatever the image's size: DOS header,
//! COFF header, optional header, section table. It hands out where each section
//! lies in the file, not its bytes. PE32 and PE32+ for every machine.
//!
//! Refused: an optional header without its fixed part or larger than
//! [`MAX_OPTIONAL_HEADER`]; more than 16 data directories, or more than the
//! optional header holds; more than [`MAX_SECTIONS`] sections; alignments that
//! are no powers of two, or beyond [`MAX_FILE_ALIGNMENT`] in the file; headers, section data or a certificate table outside the
//! file; a section whose memory ends beyond 4 GiB. Section names are bytes: the
//! references `/123` into a string table, which images do not have, are not
//! followed.
//!
//! Not checked: whether sections overlap, checksum and signatures. Nothing is
//! decoded of what is in a section.
//!
//! # Writing
//! [`Appender`] adds sections behind those of an image, as systemd's ukify does:
//! byte for byte the same for the same input, where both accept it. Nothing that
//! is there moves, so there is no relocation to redo; headers for the new
//! sections go into the space between the section table and the first section's
//! bytes, and an image that has too little of it is refused. The same calls give
//! the same bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod append;
mod error;
mod read;
pub mod sbat;

pub use append::{Appender, Content};
pub use error::{AppendError, PeError};
pub use read::{Characteristics, Image, Machine, Name, Section};

/// The most sections that an image may have: Windows' loader takes no more, and a
/// UKI has some twenty.
pub const MAX_SECTIONS: u16 = 96;

/// The greatest size of an optional header, in bytes. 240 is what every linker
/// writes for PE32+.
pub const MAX_OPTIONAL_HEADER: u16 = 1024;

/// The greatest alignment of sections in the file, in bytes, as the PE format has
/// it. It bounds what padding adds to an image.
pub const MAX_FILE_ALIGNMENT: u32 = 64 << 10;
