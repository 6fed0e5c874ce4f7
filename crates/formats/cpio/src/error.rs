//! What can be wrong with an archive.

use core::fmt;

/// An archive that cannot be read: where, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpioError {
    /// Offset of the header (or segment) in question, in bytes.
    pub offset: usize,
    /// What is wrong with it.
    pub kind: CpioErrorKind,
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpioErrorKind {
    /// The archive ends inside a header.
    TruncatedHeader,
    /// The archive ends inside an entry's name.
    TruncatedName {
        /// Length of the name that the header states, in bytes.
        len: u32,
    },
    /// The archive ends inside an entry's data.
    TruncatedData {
        /// Length of the data that the header states, in bytes.
        len: u32,
        /// How many bytes there are.
        present: usize,
    },
    /// No archive and no compressed archive that is known begins here.
    BadMagic {
        /// The first bytes that were found, NUL where there are none.
        found: [u8; 6],
    },
    /// An archive in the old portable format.
    OldFormat,
    /// A header that does not lie at a multiple of 4.
    Unaligned,
    /// A number in the header is not eight hexadecimal digits.
    BadNumber {
        /// The field's name in cpio(5).
        field: &'static str,
    },
    /// The name's length is 0 or more than 4096 bytes.
    BadNameLength {
        /// The length that the header states, in bytes.
        len: u32,
    },
    /// The name does not end with a NUL, or is empty.
    BadName,
    /// The name has `..` as a component.
    DotDot,
    /// The data do not have the checksum that the header states.
    Checksum {
        /// The checksum in the header.
        stated: u32,
        /// The sum of the data's bytes.
        computed: u32,
    },
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpio archive at offset {}: ", self.offset)?;
        match self.kind {
            CpioErrorKind::TruncatedHeader => write!(f, "it ends inside a header"),
            CpioErrorKind::TruncatedName { len } => {
                write!(f, "it ends inside a name of {len} bytes")
            }
            CpioErrorKind::TruncatedData { len, present } => write!(
                f,
                "it ends inside a file's data, {present} of {len} bytes are there"
            ),
            CpioErrorKind::BadMagic { found } => write!(
                f,
                "neither cpio nor a known compression begins with \"{}\"",
                found.escape_ascii()
            ),
            CpioErrorKind::OldFormat => write!(
                f,
                "the old portable format (070707) is not for an initramfs; make it with \
                 cpio -H newc"
            ),
            CpioErrorKind::Unaligned => {
                write!(f, "a header does not lie at a multiple of 4 bytes")
            }
            CpioErrorKind::BadNumber { field } => {
                write!(f, "{field} is not a number of 8 hexadecimal digits")
            }
            CpioErrorKind::BadNameLength { len } => {
                write!(f, "a name of {len} bytes; 1 to 4096 are allowed")
            }
            CpioErrorKind::BadName => write!(f, "a name is empty or lacks its NUL"),
            CpioErrorKind::DotDot => write!(f, "a name leaves the archive's root by \"..\""),
            CpioErrorKind::Checksum { stated, computed } => write!(
                f,
                "the data's checksum is {computed:08x}, the header says {stated:08x}"
            ),
        }
    }
}

impl core::error::Error for CpioError {}
