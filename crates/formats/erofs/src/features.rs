//! Feature bits and compression algorithms (fs/erofs/erofs_fs.h).

use core::fmt;

pub(crate) const COMPAT_SB_CHKSUM: u32 = 0x1;

pub(crate) const INCOMPAT_COMPR_CFGS: u32 = 0x2;
/// Shared with `dedupe`: `packed_nid` tells.
pub(crate) const INCOMPAT_FRAGMENTS: u32 = 0x20;
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
pub(crate) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
pub(crate) const INCOMPAT_XATTR_PREFIXES: u32 = 0x40;
pub(crate) const INCOMPAT_48BIT: u32 = 0x80;
pub(crate) const INCOMPAT_METABOX: u32 = 0x100;

const COMPAT_NAMES: &[(u32, &str)] = &[
    (COMPAT_SB_CHKSUM, "sb_csum"),
    (0x2, "mtime"),
    (0x4, "xattr_filter"),
    (0x8, "shared_ea_in_metabox"),
    (0x10, "plain_xattr_pfx"),
    (0x20, "ishare_xattrs"),
];

/// Some bits have two names, since they came in one kernel release.
const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "0padding"),
    (INCOMPAT_COMPR_CFGS, "compr_cfgs/big_pcluster"),
    (INCOMPAT_CHUNKED_FILE, "chunked_file"),
    (INCOMPAT_DEVICE_TABLE, "device_table/compr_head2"),
    (0x10, "ztailpacking"),
    (INCOMPAT_FRAGMENTS, "fragments/dedupe"),
    (INCOMPAT_XATTR_PREFIXES, "xattr_prefixes"),
    (INCOMPAT_48BIT, "48bit"),
    (INCOMPAT_METABOX, "metabox"),
];

/// The two feature sets of a superblock, as they are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// May be ignored by whoever does not know them.
    pub compat: u32,
    /// Must be known to read the file system.
    pub incompat: u32,
}

impl Features {
    /// The incompatible features that this crate has no name for: a kernel of
    /// its age refuses to mount such an image.
    #[must_use]
    pub fn unknown_incompat(self) -> u32 {
        INCOMPAT_NAMES
            .iter()
            .fold(self.incompat, |rest, &(bit, _)| rest & !bit)
    }

    pub(crate) fn has_compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(crate) fn has_incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }
}

/// The names, separated by spaces; a bit without a name is shown in hex after
/// the set that it is in (`incompat:0x80000000`).
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (set, bits, names) in [
            ("compat", self.compat, COMPAT_NAMES),
            ("incompat", self.incompat, INCOMPAT_NAMES),
        ] {
            let mut rest = bits;
            for &(bit, name) in names {
                if bits & bit != 0 {
                    write!(f, "{gap}{name}")?;
                    gap = " ";
                    rest &= !bit;
                }
            }
            if rest != 0 {
                write!(f, "{gap}{set}:{rest:#x}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

/// A compression algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// LZ4, by whichever of its compressors.
    Lz4,
    /// MicroLZMA.
    Lzma,
    /// Raw deflate.
    Deflate,
    /// Zstandard.
    Zstd,
}

impl Algorithm {
    /// All of them, in the order of their numbers (`Z_EROFS_COMPRESSION_*`).
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    /// The name that mkfs.erofs uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}
