//! What can be wrong with a volume, a path or a file.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use iofs_source::{FileMapError, ReadError};

use crate::features::Features;
use crate::journal::JournalError;

/// The result of this crate's own functions. The error is boxed so that it is
/// passed on in a register: six words would be copied at every `?`.
pub(crate) type Result<T, E = Box<Ext4Error>> = core::result::Result<T, E>;

/// A structure that carries a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// The superblock.
    Superblock,
    /// The descriptor of this block group.
    GroupDescriptor(u64),
    /// This inode.
    Inode(u32),
    /// The extent tree node in this block.
    ExtentNode(u64),
    /// The directory block with this number on the volume.
    DirectoryBlock(u64),
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => write!(f, "the superblock"),
            Self::GroupDescriptor(group) => write!(f, "the descriptor of block group {group}"),
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::ExtentNode(block) => write!(f, "the extent tree node in block {block}"),
            Self::DirectoryBlock(block) => write!(f, "the directory block {block}"),
        }
    }
}

/// Why a volume cannot be read or a file cannot be located.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ext4Error {
    /// The medium failed, ended early, or the caller's limit was reached.
    Read(ReadError),
    /// There is no ext2, ext3 or ext4 superblock.
    NoSuperblock {
        /// What stands in place of the magic 0xef53.
        magic: u16,
    },
    /// A field of the superblock has a value that no file system can have.
    Superblock {
        /// Its name in `struct ext4_super_block`, without the `s_`.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// The medium is smaller than the file system on it.
    Truncated {
        /// Size of the file system, in bytes.
        expected: u64,
        /// Size of the medium, in bytes.
        actual: u64,
    },
    /// The volume uses incompatible features that this reader does not know.
    Unsupported {
        /// Those features alone.
        features: Features,
    },
    /// A checksum does not match what it covers.
    Checksum(Checked),
    /// A structure contradicts itself or the rest.
    Corrupt {
        /// The inode that it belongs to.
        inode: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The journal must be replayed and cannot be.
    Journal(JournalError),
    /// A name on the path does not exist.
    NotFound {
        /// The path up to and with that name.
        path: String,
    },
    /// A name on the path is no directory, but the path goes on.
    NotADirectory {
        /// The path up to and with that name.
        path: String,
    },
    /// The path leads to something that has no data, such as a directory.
    NotAFile {
        /// The path.
        path: String,
    },
    /// The path leads through more than 8 symbolic links, or through links
    /// and names without end.
    TooManyLinks {
        /// The path.
        path: String,
    },
    /// A file or a directory on the path is encrypted (fscrypt).
    Encrypted {
        /// The path.
        path: String,
    },
    /// The file is compressed (e2compr).
    Compressed {
        /// The path.
        path: String,
    },
    /// The file is so small that it lies inside its inode, not in blocks.
    Inline {
        /// The path.
        path: String,
    },
    /// A part of the file is allocated but was never written.
    Unwritten {
        /// Offset in the file, in bytes.
        at: u64,
    },
    /// A part of the file's data is in the journal alone (`data=journal`).
    OnlyInJournal {
        /// Offset in the file, in bytes.
        at: u64,
    },
    /// The extents do not describe a file without holes inside the volume.
    Map(FileMapError),
    /// A directory or an extent tree is larger than this reader follows.
    TooLarge {
        /// The inode that it belongs to.
        inode: u32,
        /// What is too large.
        what: &'static str,
    },
}

impl fmt::Display for Ext4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "{error}"),
            Self::NoSuperblock { magic } => write!(
                f,
                "no ext2, ext3 or ext4 file system (magic {magic:#06x} instead of 0xef53)"
            ),
            Self::Superblock { field, value } => {
                write!(f, "the ext4 superblock has an impossible {field}: {value}")
            }
            Self::Truncated { expected, actual } => write!(
                f,
                "the ext4 file system of {expected} bytes is cut off: the medium has {actual} bytes"
            ),
            Self::Unsupported { features } => write!(
                f,
                "the ext4 file system uses features that cannot be read here: {features}"
            ),
            Self::Checksum(what) => write!(f, "the checksum of {what} is wrong; run e2fsck"),
            Self::Corrupt { inode, what } => {
                write!(f, "inode {inode} is damaged: {what}; run e2fsck")
            }
            Self::Journal(error) => write!(
                f,
                "the journal must be replayed and cannot be: {error}; run e2fsck or mount the volume once"
            ),
            Self::NotFound { path } => write!(f, "{path} does not exist"),
            Self::NotADirectory { path } => write!(f, "{path} is not a directory"),
            Self::NotAFile { path } => write!(f, "{path} is not a regular file"),
            Self::TooManyLinks { path } => {
                write!(f, "{path} leads through too many symbolic links or names")
            }
            Self::Encrypted { path } => {
                write!(
                    f,
                    "{path} is encrypted; keep it in a folder without fscrypt"
                )
            }
            Self::Compressed { path } => write!(f, "{path} is compressed by e2compr"),
            Self::Inline { path } => {
                write!(
                    f,
                    "{path} lies inside its inode and has no blocks of its own"
                )
            }
            Self::Unwritten { at } => write!(
                f,
                "the file is allocated but not written at offset {at}; copy it anew"
            ),
            Self::OnlyInJournal { at } => write!(
                f,
                "the data at offset {at} is in the journal only; mount the volume once"
            ),
            Self::Map(error) => write!(f, "{error}"),
            Self::TooLarge { inode, what } => write!(f, "inode {inode}: {what} is too large"),
        }
    }
}

impl core::error::Error for Ext4Error {}

/// What contradicts itself in what belongs to `inode`.
#[cold]
#[inline(never)]
pub(crate) fn corrupt(inode: u32, what: &'static str) -> Box<Ext4Error> {
    Box::new(Ext4Error::Corrupt { inode, what })
}

impl From<ReadError> for Box<Ext4Error> {
    #[cold]
    fn from(error: ReadError) -> Self {
        Self::new(Ext4Error::Read(error))
    }
}

impl From<FileMapError> for Box<Ext4Error> {
    #[cold]
    fn from(error: FileMapError) -> Self {
        Self::new(Ext4Error::Map(error))
    }
}

impl From<JournalError> for Box<Ext4Error> {
    #[cold]
    fn from(error: JournalError) -> Self {
        Self::new(Ext4Error::Journal(error))
    }
}
