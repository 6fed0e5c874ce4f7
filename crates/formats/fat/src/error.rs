//! Why a volume or a file on it cannot be read.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use iofs_source::{FileMapError, ReadError};

use crate::FatKind;

/// The result of this crate's own functions. The error is boxed so that it is
/// passed on in a register: five words would be copied at every `?`.
pub(crate) type Result<T, E = Box<FatError>> = core::result::Result<T, E>;

/// Why a volume or a file on it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatError {
    /// The medium failed or is too small.
    Read(ReadError),
    /// This is no FAT volume.
    NotFat {
        /// What it is instead, if its boot sector says so.
        found: Option<&'static str>,
    },
    /// The boot sector contradicts itself or its medium.
    BootSector(BootSectorError),
    /// A path component does not exist.
    NotFound {
        /// The path up to the missing component.
        path: String,
    },
    /// A path component is a file, but a directory is needed.
    NotADirectory {
        /// The path up to that component.
        path: String,
    },
    /// The path is a directory, but a file is needed.
    IsADirectory {
        /// The path.
        path: String,
    },
    /// The path leads upwards or is too deep.
    Path {
        /// The path.
        path: String,
    },
    /// A file or directory starts at a cluster that does not exist.
    StartCluster {
        /// The cluster.
        cluster: u32,
        /// The highest cluster that exists.
        last: u32,
    },
    /// A chain leads to a cluster that is marked as free.
    FreeCluster {
        /// The cluster whose FAT entry says "free".
        cluster: u32,
    },
    /// A chain leads to a cluster that is marked as bad.
    BadCluster {
        /// The cluster whose FAT entry says "bad".
        cluster: u32,
    },
    /// A FAT entry points at a cluster that does not exist or is reserved.
    Link {
        /// The cluster whose FAT entry it is.
        cluster: u32,
        /// Where it points.
        next: u32,
        /// The highest cluster that exists.
        last: u32,
    },
    /// A chain leads back into itself.
    Loop {
        /// A cluster that occurs more than once in it.
        cluster: u32,
    },
    /// A file's chain ends before its size is reached.
    ChainTooShort {
        /// The last cluster, 0 if there is none.
        cluster: u32,
        /// The file's size, in bytes.
        size: u64,
        /// What the clusters hold, in bytes.
        found: u64,
    },
    /// A file's chain goes on behind its size.
    ChainTooLong {
        /// The first superfluous cluster.
        cluster: u32,
        /// The file's size, in bytes.
        size: u64,
    },
    /// A directory is larger than the specification allows.
    DirectoryTooLarge {
        /// Its first cluster.
        cluster: u32,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file's extents make no usable map.
    Map(FileMapError),
}

impl fmt::Display for FatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::NotFat { found: Some(found) } => write!(f, "this is {found}, not FAT"),
            Self::NotFat { found: None } => {
                f.write_str("this is not FAT (its first sector is no boot sector)")
            }
            Self::BootSector(error) => write!(f, "the FAT boot sector is wrong: {error}"),
            Self::NotFound { path } => write!(f, "{path} does not exist"),
            Self::NotADirectory { path } => write!(f, "{path} is not a directory"),
            Self::IsADirectory { path } => write!(f, "{path} is a directory, not a file"),
            Self::Path { path } => write!(
                f,
                "the path {path} contains \"..\" or has more than {} components",
                crate::MAX_DEPTH
            ),
            Self::StartCluster { cluster, last } => write!(
                f,
                "a directory entry points at cluster {cluster}, but clusters are numbered \
                 2 to {last}; run fsck.vfat"
            ),
            Self::FreeCluster { cluster } => write!(
                f,
                "a chain leads to cluster {cluster}, which is marked free; run fsck.vfat"
            ),
            Self::BadCluster { cluster } => write!(
                f,
                "a chain leads to cluster {cluster}, which is marked bad; run fsck.vfat"
            ),
            Self::Link {
                cluster,
                next,
                last,
            } => write!(
                f,
                "cluster {cluster} is followed by {next}, but clusters are numbered \
                 2 to {last}; run fsck.vfat"
            ),
            Self::Loop { cluster } => {
                write!(f, "a chain comes back to cluster {cluster}; run fsck.vfat")
            }
            Self::ChainTooShort {
                cluster,
                size,
                found,
            } => write!(
                f,
                "the chain ends at cluster {cluster} after {found} bytes, but the file has \
                 {size} bytes; copy it anew"
            ),
            Self::ChainTooLong { cluster, size } => write!(
                f,
                "the chain goes on at cluster {cluster}, behind the file's {size} bytes; \
                 run fsck.vfat"
            ),
            Self::DirectoryTooLarge { cluster, limit } => write!(
                f,
                "the directory at cluster {cluster} is larger than {limit} bytes"
            ),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FatError {}

impl From<ReadError> for Box<FatError> {
    #[cold]
    fn from(error: ReadError) -> Self {
        Self::new(FatError::Read(error))
    }
}

impl From<FileMapError> for Box<FatError> {
    #[cold]
    fn from(error: FileMapError) -> Self {
        Self::new(FatError::Map(error))
    }
}

/// What is wrong with a boot sector. Offsets are those of the fields in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootSectorError {
    /// Offset 11: not a power of two from 512 to 4096.
    SectorSize {
        /// Bytes a sector.
        found: u16,
    },
    /// Offset 13: not a power of two from 1 to 128.
    SectorsPerCluster {
        /// Sectors a cluster.
        found: u8,
    },
    /// Offset 14: no sector is reserved, not even the boot sector.
    ReservedSectors,
    /// Offset 16: there is no FAT.
    NoFats,
    /// Offsets 22 and 36: the FAT has no sectors.
    FatSize,
    /// Offset 17: a FAT32 volume has root entries, or they fill no whole
    /// sectors on the others.
    RootEntries {
        /// The number of entries.
        found: u16,
    },
    /// Offsets 19 and 32: the volume does not hold its own metadata.
    TotalSectors {
        /// Sectors in the volume.
        found: u32,
        /// Sectors of the metadata.
        metadata: u64,
    },
    /// The volume says that it is larger than its medium.
    Medium {
        /// Size of the volume, in bytes.
        volume: u64,
        /// Size of the medium, in bytes.
        medium: u64,
    },
    /// More clusters than this kind of FAT can number.
    TooManyClusters {
        /// The kind.
        kind: FatKind,
        /// The number of clusters.
        found: u64,
    },
    /// The FAT has fewer entries than there are clusters.
    FatTooShort {
        /// What a FAT holds, in bytes.
        len: u64,
        /// What it would have to hold, in bytes.
        needed: u64,
    },
    /// Offset 40: the active FAT does not exist.
    ActiveFat {
        /// Its index.
        found: u8,
        /// The number of FATs.
        fats: u8,
    },
    /// Offset 42: FAT32 of another version than 0.0.
    Version {
        /// The version, major in the high byte.
        found: u16,
    },
    /// Offset 44: the root directory starts at a cluster that does not exist.
    RootCluster {
        /// The cluster.
        found: u32,
        /// The highest cluster that exists.
        last: u32,
    },
}

impl fmt::Display for BootSectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SectorSize { found } => write!(
                f,
                "a sector of {found} bytes (offset 11) is not a power of two from 512 to 4096"
            ),
            Self::SectorsPerCluster { found } => write!(
                f,
                "a cluster of {found} sectors (offset 13) is not a power of two from 1 to 128"
            ),
            Self::ReservedSectors => f.write_str("no reserved sectors (offset 14)"),
            Self::NoFats => f.write_str("no FAT (offset 16)"),
            Self::FatSize => f.write_str("a FAT of no sectors (offsets 22 and 36)"),
            Self::RootEntries { found } => {
                write!(f, "{found} root entries (offset 17) cannot be")
            }
            Self::TotalSectors { found, metadata } => write!(
                f,
                "a volume of {found} sectors (offsets 19 and 32) does not hold the \
                 {metadata} sectors of its metadata and a cluster"
            ),
            Self::Medium { volume, medium } => write!(
                f,
                "the volume has {volume} bytes, but its partition only {medium}; was it \
                 truncated?"
            ),
            Self::TooManyClusters { kind, found } => {
                write!(f, "{found} clusters are too many for {kind}")
            }
            Self::FatTooShort { len, needed } => write!(
                f,
                "a FAT of {len} bytes is too short for the clusters, which need {needed}"
            ),
            Self::ActiveFat { found, fats } => write!(
                f,
                "FAT {found} is said to be active (offset 40), but there are {fats}"
            ),
            Self::Version { found } => write!(
                f,
                "FAT32 version {}.{} (offset 42) is unknown",
                found >> 8,
                found & 0xff
            ),
            Self::RootCluster { found, last } => write!(
                f,
                "the root directory starts at cluster {found} (offset 44), but clusters are \
                 numbered 2 to {last}"
            ),
        }
    }
}

impl core::error::Error for BootSectorError {}
