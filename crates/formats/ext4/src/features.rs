//! Feature bits, with the names that `dumpe2fs` and `tune2fs -O` use.

use core::fmt;

pub(crate) const COMPAT_HAS_JOURNAL: u32 = 0x4;
pub(crate) const COMPAT_SPARSE_SUPER2: u32 = 0x200;

pub(crate) const INCOMPAT_FILETYPE: u32 = 0x2;
pub(crate) const INCOMPAT_RECOVER: u32 = 0x4;
pub(crate) const INCOMPAT_META_BG: u32 = 0x10;
pub(crate) const INCOMPAT_EXTENTS: u32 = 0x40;
pub(crate) const INCOMPAT_64BIT: u32 = 0x80;
pub(crate) const INCOMPAT_MMP: u32 = 0x100;
pub(crate) const INCOMPAT_FLEX_BG: u32 = 0x200;
pub(crate) const INCOMPAT_EA_INODE: u32 = 0x400;
pub(crate) const INCOMPAT_CSUM_SEED: u32 = 0x2000;
pub(crate) const INCOMPAT_LARGEDIR: u32 = 0x4000;
pub(crate) const INCOMPAT_INLINE_DATA: u32 = 0x8000;
pub(crate) const INCOMPAT_ENCRYPT: u32 = 0x1_0000;
pub(crate) const INCOMPAT_CASEFOLD: u32 = 0x2_0000;

pub(crate) const RO_SPARSE_SUPER: u32 = 0x1;
pub(crate) const RO_BIGALLOC: u32 = 0x200;
pub(crate) const RO_METADATA_CSUM: u32 = 0x400;

/// What this reader gives the right meaning. `journal_dev`, `compression` and
/// `dirdata` are not among them; files of an `encrypt` volume that are not
/// encrypted are plain; `casefold` directories are matched byte by byte.
pub(crate) const INCOMPAT_SUPPORTED: u32 = INCOMPAT_FILETYPE
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | INCOMPAT_MMP
    | INCOMPAT_FLEX_BG
    | INCOMPAT_EA_INODE
    | INCOMPAT_CSUM_SEED
    | INCOMPAT_LARGEDIR
    | INCOMPAT_INLINE_DATA
    | INCOMPAT_ENCRYPT
    | INCOMPAT_CASEFOLD;

const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (COMPAT_HAS_JOURNAL, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (COMPAT_SPARSE_SUPER2, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "compression"),
    (INCOMPAT_FILETYPE, "filetype"),
    (INCOMPAT_RECOVER, "needs_recovery"),
    (0x8, "journal_dev"),
    (INCOMPAT_META_BG, "meta_bg"),
    (INCOMPAT_EXTENTS, "extent"),
    (INCOMPAT_64BIT, "64bit"),
    (INCOMPAT_MMP, "mmp"),
    (INCOMPAT_FLEX_BG, "flex_bg"),
    (INCOMPAT_EA_INODE, "ea_inode"),
    (0x1000, "dirdata"),
    (INCOMPAT_CSUM_SEED, "metadata_csum_seed"),
    (INCOMPAT_LARGEDIR, "large_dir"),
    (INCOMPAT_INLINE_DATA, "inline_data"),
    (INCOMPAT_ENCRYPT, "encrypt"),
    (INCOMPAT_CASEFOLD, "casefold"),
];

const RO_NAMES: &[(u32, &str)] = &[
    (RO_SPARSE_SUPER, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x100, "quota"),
    (RO_BIGALLOC, "bigalloc"),
    (RO_METADATA_CSUM, "metadata_csum"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// The three feature sets of a superblock, as they are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// May be ignored by whoever does not know them.
    pub compat: u32,
    /// Must be known to read the volume.
    pub incompat: u32,
    /// Must be known to write the volume.
    pub ro_compat: u32,
}

impl Features {
    pub(crate) fn has_compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(crate) fn has_incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(crate) fn has_ro(self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }
}

/// The names, separated by spaces; a bit without a name is shown in hex after
/// the set that it is in (`incompat:0x80000000`).
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = [
            ("compat", self.compat, COMPAT_NAMES),
            ("incompat", self.incompat, INCOMPAT_NAMES),
            ("ro_compat", self.ro_compat, RO_NAMES),
        ];
        let mut gap = "";
        for (set, bits, names) in sets {
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
