//! Where a file lies: the metadata that whoever opens and reads it touches, and
//! its blocks.
//!
//! Of compressed files only the header of the index and its first entry are read
//! (fs/erofs/zmap.c): how long the index is follows from the file's size.

use alloc::vec::Vec;
use core::ops::Range;

use iofs_source::ReadAt;

use super::{FileType, Inode, Layout, Tree, TreeError, data, xattr};
use crate::bytes::{byte, le16, le32};

/// Length of `struct z_erofs_map_header`, in bytes.
const MAP_HEADER: u64 = 8;
/// Bytes between it and the first of the full index's entries.
const FULL_PADDING: u64 = 8;
/// Length of an entry of the full index (`struct z_erofs_lcluster_index`).
const FULL_ENTRY: u64 = 8;

/// Some of the packed index's entries take two bytes.
const ADVISE_COMPACTED_2B: u16 = 0x1;
/// A physical cluster may have several blocks.
const ADVISE_BIG_PCLUSTER: u16 = 0x2;
/// The end of the file lies behind the index.
const ADVISE_INLINE_PCLUSTER: u16 = 0x8;
/// In `h_clusterbits`: the whole file is a fragment of the packed inode.
const FRAGMENT_INODE: u8 = 0x80;

/// The index of a compressed file.
struct Index {
    /// Where its header is, in bytes, and where what belongs to it ends.
    range: Range<u64>,
    /// Where the first entry's block address is, and what is to be added to it;
    /// none if no block is the file's own.
    first: Option<(u64, u32)>,
}

/// The ranges of the medium, in bytes, that opening this inode, its attributes
/// and finding its data takes; the contents too of what is read to get on
/// (directories, symbolic links).
pub(super) fn metadata<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
) -> Result<Vec<Range<u64>>, TreeError> {
    let start = inode.offset(tree);
    let mut ranges = Vec::new();
    ranges.push(start..inode.tail_offset(tree));
    xattr::shared_ranges(tree, inode, &mut ranges)?;
    match inode.layout {
        Layout::CompressedFull | Layout::CompressedCompact => {
            ranges.push(index(tree, inode)?.range);
        }
        Layout::ChunkBased => data::index_ranges(tree, inode, &mut ranges)?,
        // The end of the data shares the inode's block.
        Layout::FlatInline | Layout::FlatPlain => {}
    }
    if matches!(inode.kind, FileType::Directory | FileType::Symlink) {
        if inode.size > tree.superblock.size_bytes() {
            return Err(inode.corrupt("its data is longer than the image"));
        }
        data::ranges(tree, inode, &mut ranges)?;
    }
    Ok(ranges)
}

/// The blocks that hold the data, first and number; none if there are no such
/// blocks in a row: of chunks, of what lies behind the inode or in others' blocks.
pub(super) fn blocks<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
) -> Result<Option<Range<u64>>, TreeError> {
    let size = u64::from(tree.superblock.block_size());
    let (start, count) = match inode.layout {
        Layout::FlatPlain => (u64::from(inode.union), inode.size.div_ceil(size)),
        Layout::FlatInline => (
            u64::from(inode.union),
            inode.size.div_ceil(size).saturating_sub(1),
        ),
        Layout::ChunkBased => return Ok(None),
        Layout::CompressedFull | Layout::CompressedCompact => {
            let Some((at, add)) = index(tree, inode)?.first else {
                return Ok(None);
            };
            let mut raw = [0; 4];
            tree.source.read_at(at, &mut raw)?;
            let start = u64::from(le32(&raw, 0).wrapping_add(add));
            (start, u64::from(inode.union))
        }
    };
    if count == 0 {
        return Ok(None);
    }
    // Below 2^32 and 2^55.
    let end = start + count;
    if end > tree.superblock.size_bytes() >> tree.superblock.block_bits {
        return Err(inode.corrupt("its data lies outside the image"));
    }
    Ok(Some(start..end))
}

fn index<S: ReadAt>(tree: &Tree<S>, inode: &Inode) -> Result<Index, TreeError> {
    let outside = || inode.corrupt("its index lies outside the image");
    let header = inode
        .tail_offset(tree)
        .checked_next_multiple_of(MAP_HEADER)
        .ok_or_else(outside)?;
    let mut raw = [0; 8];
    tree.source
        .read_at(header, &mut raw)
        .map_err(|_| outside())?;
    let (advise, bits) = (le16(&raw, 4), byte(&raw, 7));
    // What the source has read at `header` ends below 2^64.
    let start = header + MAP_HEADER;
    if bits & FRAGMENT_INODE != 0 {
        return Ok(Index {
            range: header..start,
            first: None,
        });
    }
    let cluster = u32::from(tree.superblock.block_bits) + u32::from(bits & 7);
    let entries = inode.size.div_ceil(1 << cluster);
    let big = advise & ADVISE_BIG_PCLUSTER != 0;
    let (first, len) = if inode.layout == Layout::CompressedFull {
        let start = start.saturating_add(FULL_PADDING);
        let len = FULL_PADDING.saturating_add(entries.saturating_mul(FULL_ENTRY));
        // Advice and offset in the cluster are before the address.
        ((start.saturating_add(4), 0), len)
    } else {
        let (pack, len) = packs(start, entries, advise & ADVISE_COMPACTED_2B != 0);
        // A pack ends with the address of its first block, or the one before.
        let at = start.saturating_add(pack - 4);
        ((at, u32::from(!big)), len)
    };
    let tail = match advise & ADVISE_INLINE_PCLUSTER {
        0 => 0,
        _ => u64::from(le16(&raw, 2)),
    };
    let end = start.checked_add(len).and_then(|end| end.checked_add(tail));
    match end {
        Some(end) if end <= tree.superblock.size_bytes() => Ok(Index {
            range: header..end,
            first: (inode.union != 0 && entries != 0).then_some(first),
        }),
        _ => Err(outside()),
    }
}

/// Length in bytes of the first pack of a packed index that starts at `start`,
/// and of the whole.
///
/// Entries of four bytes come in packs of two. Those of two bytes come in packs of
/// 16 that begin at multiples of 32: before them as many of the others as are
/// missing to that, behind them what is left.
fn packs(start: u64, entries: u64, two_bytes: bool) -> (u64, u64) {
    let initial = ((32 - start % 32) / 4) & 7;
    let short = match two_bytes && initial < entries {
        true => (entries - initial) / 16 * 16,
        false => 0,
    };
    let long = (entries - short).saturating_mul(4);
    // The last pack may be half full.
    let len = (long.checked_next_multiple_of(8).unwrap_or(u64::MAX)).saturating_add(short * 2);
    let first = if short > 0 && initial == 0 { 32 } else { 8 };
    (first, len)
}
