//! What can be wrong with a tree.

use alloc::string::String;
use core::fmt;

use iofs_source::ReadError;

use crate::{ErofsError, Features};

/// Why a tree cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeError {
    /// The superblock is wrong.
    Superblock(ErofsError),
    /// The medium failed, ended early, or the caller's limit was reached.
    Read(ReadError),
    /// The image is shorter than its superblock says.
    Truncated {
        /// Size of the file system, in bytes.
        expected: u64,
        /// Size of the medium, in bytes.
        actual: u64,
    },
    /// The image uses features that change where inodes are.
    Unsupported {
        /// Those features alone.
        features: Features,
    },
    /// An inode, or what belongs to it, contradicts itself or the rest.
    Corrupt {
        /// The inode's node id.
        nid: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The contents are compressed; `fsck.erofs --extract` reads them.
    Compressed {
        /// The inode's node id.
        nid: u64,
    },
    /// The contents are on another device.
    OtherDevice {
        /// The inode's node id.
        nid: u64,
        /// The device's number in the device table, from 1.
        device: u16,
    },
    /// A read goes beyond the end of the file.
    BeyondEnd {
        /// The inode's node id.
        nid: u64,
        /// Size of the file, in bytes.
        size: u64,
    },
    /// There is no such path.
    NotFound {
        /// The path up to and with the name that is missing.
        path: String,
    },
    /// A name on the path is no directory, but the path goes on.
    NotADirectory {
        /// The path up to and with that name.
        path: String,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock(error) => write!(f, "{error}"),
            Self::Read(error) => write!(f, "{error}"),
            Self::Truncated { expected, actual } => write!(
                f,
                "the EROFS image of {expected} bytes is cut off after {actual} bytes; build or copy it anew"
            ),
            Self::Unsupported { features } => {
                write!(
                    f,
                    "the EROFS image uses features that cannot be read here: {features}"
                )
            }
            Self::Corrupt { nid, what } => write!(f, "node {nid} is damaged: {what}"),
            Self::Compressed { nid } => write!(
                f,
                "the contents of node {nid} are compressed; extract them with fsck.erofs"
            ),
            Self::OtherDevice { nid, device } => {
                write!(f, "the contents of node {nid} are on extra device {device}")
            }
            Self::BeyondEnd { nid, size } => {
                write!(f, "node {nid} ends after {size} bytes")
            }
            Self::NotFound { path } => write!(f, "{path} does not exist"),
            Self::NotADirectory { path } => write!(f, "{path} is not a directory"),
        }
    }
}

impl core::error::Error for TreeError {}

impl From<ErofsError> for TreeError {
    fn from(error: ErofsError) -> Self {
        Self::Superblock(error)
    }
}

impl From<ReadError> for TreeError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
