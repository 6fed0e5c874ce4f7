//! Inodes: the compact form of 32 bytes and the extended one of 64.

use iofs_source::ReadAt;

use super::{Tree, TreeError};
use crate::bytes::{le16, le32, le64};

const COMPACT: usize = 32;
const EXTENDED: usize = 64;
/// Node ids count slots of this size from the inode area's start.
const SLOT: u64 = 32;
/// Bits of `i_format` that are in use: version, then three of layout.
const FORMAT_BITS: u16 = 0xf;

/// How an inode's data is stored (`EROFS_INODE_*` data layouts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Whole blocks, one after the other.
    FlatPlain,
    /// Compressed, indexed by full 8-byte entries (`-Elegacy-compress`).
    CompressedFull,
    /// As [`Layout::FlatPlain`], with the end of the data behind the inode.
    FlatInline,
    /// Compressed, indexed by packed entries.
    CompressedCompact,
    /// Chunks, each anywhere on this or another device.
    ChunkBased,
}

impl Layout {
    fn from_raw(layout: u16) -> Option<Self> {
        Some(match layout {
            0 => Self::FlatPlain,
            1 => Self::CompressedFull,
            2 => Self::FlatInline,
            3 => Self::CompressedCompact,
            4 => Self::ChunkBased,
            _ => return None,
        })
    }

    /// Whether the contents are compressed.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        matches!(self, Self::CompressedFull | Self::CompressedCompact)
    }
}

/// What an inode is, by its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode >> 12 {
            0o10 => Self::Regular,
            0o4 => Self::Directory,
            0o2 => Self::CharDevice,
            0o6 => Self::BlockDevice,
            0o1 => Self::Fifo,
            0o14 => Self::Socket,
            0o12 => Self::Symlink,
            _ => return None,
        })
    }

    /// From a directory entry's `file_type` (`FT_*` in include/linux/fs_types.h).
    pub(super) fn from_entry(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Node id: where it is, in units of 32 bytes from the inode area's start.
    pub nid: u64,
    /// The number that `stat` shows.
    pub ino: u32,
    /// Whether it has the form of 64 bytes.
    pub extended: bool,
    /// How the data is stored.
    pub layout: Layout,
    /// What it is.
    pub kind: FileType,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Size of the data, in bytes; the target's length for a symbolic link.
    pub size: u64,
    /// Time of the last change, seconds since 1970 and nanoseconds. Compact
    /// inodes have the image's build time.
    pub mtime: (u64, u32),
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Blocks that the data takes, if it is compressed.
    pub compressed_blocks: Option<u32>,
    /// `i_u`: block address, chunk format, or one of the two above.
    pub(super) union: u32,
    /// Length of the extended attributes behind it, in bytes.
    pub(super) xattr_len: u64,
}

impl Inode {
    /// Where the inode is on the medium, in bytes.
    pub(super) fn offset<S>(&self, tree: &Tree<S>) -> u64 {
        offset(tree, self.nid)
    }

    /// Where its extended attributes are.
    pub(super) fn xattr_offset<S>(&self, tree: &Tree<S>) -> u64 {
        let len = if self.extended { EXTENDED } else { COMPACT };
        self.offset(tree).saturating_add(len as u64)
    }

    /// Where what follows the attributes is: the end of the data, or indexes.
    pub(super) fn tail_offset<S>(&self, tree: &Tree<S>) -> u64 {
        self.xattr_offset(tree).saturating_add(self.xattr_len)
    }

    pub(super) fn corrupt(&self, what: &'static str) -> TreeError {
        TreeError::Corrupt {
            nid: self.nid,
            what,
        }
    }
}

/// Saturates at a place that no medium has.
fn offset<S>(tree: &Tree<S>, nid: u64) -> u64 {
    let area = u64::from(tree.superblock.meta_block) << tree.superblock.block_bits;
    nid.checked_mul(SLOT)
        .and_then(|within| within.checked_add(area))
        .unwrap_or(u64::MAX)
}

pub(super) fn read<S: ReadAt>(tree: &Tree<S>, nid: u64) -> Result<Inode, TreeError> {
    let at = offset(tree, nid);
    let outside = |_| TreeError::Corrupt {
        nid,
        what: "it lies outside the image",
    };
    let mut raw = [0; EXTENDED];
    // A compact inode may be the last thing of an image.
    let (head, rest) = raw.split_at_mut(COMPACT);
    tree.source.read_at(at, head).map_err(outside)?;
    let extended = le16(head, 0) & 1 != 0;
    if extended {
        tree.source
            .read_at(at.saturating_add(COMPACT as u64), rest)
            .map_err(outside)?;
    }
    parse(tree, nid, &raw, extended)
}

fn parse<S>(tree: &Tree<S>, nid: u64, raw: &[u8], extended: bool) -> Result<Inode, TreeError> {
    let corrupt = |what| TreeError::Corrupt { nid, what };
    let format = le16(raw, 0);
    if format & !FORMAT_BITS != 0 {
        return Err(corrupt("its format is unknown"));
    }
    let layout =
        Layout::from_raw(format >> 1).ok_or_else(|| corrupt("its data layout is unknown"))?;
    let mode = le16(raw, 4);
    let kind = FileType::from_mode(mode).ok_or_else(|| corrupt("its mode has no type"))?;
    let union = le32(raw, 16);
    let is_device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
    let short = |at| u32::from(le16(raw, at));
    let (uid, gid, nlink) = if extended {
        (le32(raw, 24), le32(raw, 28), le32(raw, 44))
    } else {
        (short(24), short(26), short(6))
    };
    let (size, mtime) = if extended {
        (le64(raw, 8), (le64(raw, 32), le32(raw, 40)))
    } else {
        (u64::from(le32(raw, 8)), tree.superblock.build_time)
    };
    if mtime.1 >= 1_000_000_000 {
        return Err(corrupt("its time has more than 999,999,999 nanoseconds"));
    }
    let xattr_words = u64::from(le16(raw, 2));
    Ok(Inode {
        nid,
        ino: le32(raw, 20),
        extended,
        layout,
        kind,
        mode,
        uid,
        gid,
        nlink,
        size,
        mtime,
        device: is_device.then_some(decode_device(union)),
        compressed_blocks: layout.is_compressed().then_some(union),
        union,
        // One header of 12 bytes that counts as the first word.
        xattr_len: xattr_words.checked_sub(1).map_or(0, |words| 12 + 4 * words),
    })
}

/// `new_decode_dev` (include/linux/kdev_t.h).
fn decode_device(raw: u32) -> (u32, u32) {
    ((raw & 0xf_ff00) >> 8, (raw & 0xff) | (raw >> 12 & 0xf_ff00))
}
