//! Why an image cannot be read or added to.

use core::fmt;

use crate::read::Name;
use iofs_source::ReadError;

/// Why bytes are no usable PE/COFF image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeError {
    /// The file does not begin with `MZ`, or is shorter than a DOS header.
    NoDosHeader,
    /// There is no `PE\0\0` where the DOS header points.
    NoPeHeader {
        /// Where it points, in bytes.
        offset: u64,
    },
    /// The optional header's magic is neither PE32's (0x10b) nor PE32+'s (0x20b).
    Magic {
        /// Offset of the optional header.
        offset: u64,
        /// What is there.
        found: u16,
    },
    /// The optional header is too small for its fixed part and its data
    /// directories, or larger than [`crate::MAX_OPTIONAL_HEADER`].
    OptionalHeader {
        /// Offset of the optional header.
        offset: u64,
        /// Its size by the COFF header, in bytes.
        size: u16,
    },
    /// More than 16 data directories.
    Directories {
        /// How many.
        count: u32,
    },
    /// More sections than [`crate::MAX_SECTIONS`].
    Sections {
        /// How many.
        count: u16,
    },
    /// Section or file alignment is no power of two, or the latter more than
    /// [`crate::MAX_FILE_ALIGNMENT`].
    Alignment {
        /// Alignment in memory.
        section: u32,
        /// Alignment in the file.
        file: u32,
    },
    /// The headers end beyond the file, or the section table ends beyond the headers.
    Headers {
        /// `SizeOfHeaders`.
        size: u32,
    },
    /// A section's bytes are not in the file.
    SectionData {
        /// Its name.
        name: Name,
        /// Offset of its bytes in the file.
        offset: u32,
        /// How many.
        size: u32,
    },
    /// A section ends beyond 4 GiB in memory.
    SectionMemory {
        /// Its name.
        name: Name,
    },
    /// The certificate table is not in the file.
    Certificates {
        /// Offset of the table.
        offset: u32,
        /// Its size.
        size: u32,
    },
    /// The medium failed, or the file ends within a header.
    Read(ReadError),
}

impl fmt::Display for PeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDosHeader => f.write_str("this is no PE image: it does not begin with MZ"),
            Self::NoPeHeader { offset } => {
                write!(f, "this is no PE image: no PE signature at offset {offset}")
            }
            Self::Magic { offset, found } => write!(
                f,
                "the optional header at offset {offset} is neither PE32 nor PE32+ (magic {found:#x})"
            ),
            Self::OptionalHeader { offset, size } => write!(
                f,
                "the optional header at offset {offset} cannot have {size} bytes"
            ),
            Self::Directories { count } => {
                write!(
                    f,
                    "the image has {count} data directories, of 16 that exist"
                )
            }
            Self::Sections { count } => write!(
                f,
                "the image has {count} sections; at most {} are supported",
                crate::MAX_SECTIONS
            ),
            Self::Alignment { section, file } => write!(
                f,
                "the alignments of sections ({section}) and of the file ({file}) have to be powers of two, the latter at most 65536"
            ),
            Self::Headers { size } => write!(
                f,
                "the headers (SizeOfHeaders is {size}) do not hold the section table, or end beyond the file"
            ),
            Self::SectionData { name, offset, size } => write!(
                f,
                "the {size} bytes of section {name} at offset {offset} are not all in the file"
            ),
            Self::SectionMemory { name } => {
                write!(f, "section {name} ends beyond 4 GiB in memory")
            }
            Self::Certificates { offset, size } => write!(
                f,
                "the certificate table of {size} bytes at offset {offset} is not all in the file"
            ),
            Self::Read(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PeError {}

impl From<ReadError> for PeError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Why sections cannot be added to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendError {
    /// The image cannot be read.
    Image(PeError),
    /// The image is signed: a section more would break its signature.
    Signed,
    /// The image has no sections.
    Empty,
    /// Its sections are not in ascending order in memory, overlap there, or begin
    /// within the headers.
    Order {
        /// The first that is out of order.
        name: Name,
    },
    /// A section's bytes do not lie at multiples of the file alignment.
    Unaligned {
        /// Its name.
        name: Name,
    },
    /// It has a symbol table that is not at its end.
    SymbolTable {
        /// Offset of the table.
        offset: u32,
    },
    /// No section header fits behind the last one.
    NoHeaderRoom {
        /// The section to be added.
        name: Name,
        /// Offset that the headers may not go beyond.
        limit: u64,
    },
    /// A section's name is not 1 to 8 printable ASCII characters.
    Name,
    /// A section of this name is there.
    Duplicate {
        /// The name.
        name: Name,
    },
    /// There is no section of this name to replace.
    Missing {
        /// The name.
        name: Name,
    },
    /// A section to be added has no bytes.
    NoBytes {
        /// Its name.
        name: Name,
    },
    /// A section's place is too small for its new bytes.
    NoRoom {
        /// Its name.
        name: Name,
        /// How many bytes it would have.
        size: u64,
        /// How many there is room for.
        room: u64,
    },
    /// The image would grow beyond 4 GiB.
    TooLarge {
        /// The section that did not fit.
        name: Name,
    },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Signed => f.write_str(
                "the image is signed, and no section can be added to a signed one; take an unsigned stub",
            ),
            Self::Empty => f.write_str("the image has no sections"),
            Self::Order { name } => write!(
                f,
                "section {name} begins in memory before the one in front of it ends"
            ),
            Self::Unaligned { name } => write!(
                f,
                "the bytes of section {name} are not aligned as the header says; the image was stripped with an old tool, take the distribution's"
            ),
            Self::SymbolTable { offset } => write!(
                f,
                "the image has a symbol table at offset {offset} that is not at its end; strip it first"
            ),
            Self::NoHeaderRoom { name, limit } => write!(
                f,
                "there is no room for the header of section {name}: headers end at offset {limit}"
            ),
            Self::Name => f.write_str(
                "a section's name has to be 1 to 8 printable ASCII characters without spaces",
            ),
            Self::Duplicate { name } => write!(f, "the image has a section {name} already"),
            Self::Missing { name } => write!(f, "the image has no section {name}"),
            Self::NoBytes { name } => write!(f, "section {name} would be empty"),
            Self::NoRoom { name, size, room } => write!(
                f,
                "section {name} would have {size} bytes, and there is room for {room}"
            ),
            Self::TooLarge { name } => {
                write!(f, "with section {name} the image would exceed 4 GiB")
            }
        }
    }
}

impl core::error::Error for AppendError {}

impl From<PeError> for AppendError {
    fn from(error: PeError) -> Self {
        Self::Image(error)
    }
}
