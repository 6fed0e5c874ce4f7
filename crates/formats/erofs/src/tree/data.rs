//! Contents of files that are not compressed.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use iofs_source::ReadAt;

use super::{Inode, Layout, Tree, TreeError};
use crate::bytes::{le16, le32};
use crate::features::INCOMPAT_CHUNKED_FILE;

/// Bits of a chunk format: log2 of blocks a chunk, then the kind of index.
const CHUNK_BITS: u32 = 0x1f;
const CHUNK_INDEXES: u32 = 0x20;
/// A chunk that is all zeros.
const HOLE: u32 = u32::MAX;

/// Where a piece of a file is.
enum Piece {
    /// From this offset on the medium.
    At(u64),
    /// Zeros.
    Hole,
}

/// Fills `buf` from `offset` in the file.
pub(super) fn read<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), TreeError> {
    let end = offset.checked_add(buf.len() as u64);
    if end.is_none_or(|end| end > inode.size) {
        return Err(TreeError::BeyondEnd {
            nid: inode.nid,
            size: inode.size,
        });
    }
    let mut at = offset;
    let mut rest = buf;
    while !rest.is_empty() {
        let (piece, len) = locate(tree, inode, at)?;
        let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        match piece {
            Piece::At(start) => tree.source.read_at(start, now)?,
            Piece::Hole => now.fill(0),
        }
        at = at.saturating_add(take as u64);
        rest = later;
    }
    Ok(())
}

/// All of the data, which must not be longer than `limit` bytes.
pub(super) fn read_all<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    limit: u64,
) -> Result<Vec<u8>, TreeError> {
    if inode.size > limit {
        return Err(inode.corrupt("its data is too long for what it is"));
    }
    let len = usize::try_from(inode.size).map_err(|_| inode.corrupt("its data is too long"))?;
    let mut bytes = vec![0; len];
    read(tree, inode, 0, &mut bytes)?;
    Ok(bytes)
}

/// Where all of the data is, in bytes on the medium.
pub(super) fn ranges<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    ranges: &mut Vec<Range<u64>>,
) -> Result<(), TreeError> {
    let mut at = 0;
    while at < inode.size {
        let (piece, len) = locate(tree, inode, at)?;
        if let Piece::At(start) = piece {
            ranges.push(start..start.saturating_add(len));
        }
        // A piece is never empty inside the file.
        at = at.saturating_add(len.max(1));
    }
    Ok(())
}

/// Where the chunk indexes are, in bytes on the medium.
pub(super) fn index_ranges<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    ranges: &mut Vec<Range<u64>>,
) -> Result<(), TreeError> {
    let format = inode.union & 0xffff;
    let bits = u32::from(tree.superblock.block_bits) + (format & CHUNK_BITS);
    let unit = if format & CHUNK_INDEXES != 0 { 8 } else { 4 };
    let table = inode.tail_offset(tree).checked_next_multiple_of(unit);
    // Below 2^64 / 2^9 indexes of 8 bytes.
    let len = inode.size.div_ceil(1 << bits) * unit;
    match table.and_then(|start| Some(start..start.checked_add(len)?)) {
        Some(range) if range.end <= tree.superblock.size_bytes() => {
            ranges.push(range);
            Ok(())
        }
        _ => Err(inode.corrupt("its chunk indexes lie outside the image")),
    }
}

/// Where the byte at `offset` is, which the file has, and how many follow it.
fn locate<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    offset: u64,
) -> Result<(Piece, u64), TreeError> {
    match inode.layout {
        Layout::FlatPlain => flat(tree, inode, offset, inode.size),
        Layout::FlatInline => {
            // The last block, or what there is of it, is behind the inode.
            let size = u64::from(tree.superblock.block_size());
            let blocks = inode
                .size
                .div_ceil(size)
                .saturating_sub(1)
                .saturating_mul(size);
            if offset < blocks {
                flat(tree, inode, offset, blocks)
            } else {
                inline(tree, inode, offset - blocks, inode.size - blocks)
            }
        }
        Layout::ChunkBased => chunk(tree, inode, offset),
        Layout::CompressedFull | Layout::CompressedCompact => {
            Err(TreeError::Compressed { nid: inode.nid })
        }
    }
}

/// In the `end` bytes from the block that the inode names.
fn flat<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    offset: u64,
    end: u64,
) -> Result<(Piece, u64), TreeError> {
    let start = u64::from(inode.union) << tree.superblock.block_bits;
    let at = inside(tree, inode, start, end)?.saturating_add(offset);
    Ok((Piece::At(at), end - offset))
}

/// In the `len` bytes behind the inode, which share its block.
fn inline<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    offset: u64,
    len: u64,
) -> Result<(Piece, u64), TreeError> {
    let start = inode.tail_offset(tree);
    let size = u64::from(tree.superblock.block_size());
    if start % size + len > size {
        return Err(inode.corrupt("its inline data leaves the block"));
    }
    let at = inside(tree, inode, start, len)?.saturating_add(offset);
    Ok((Piece::At(at), len - offset))
}

fn chunk<S: ReadAt>(tree: &Tree<S>, inode: &Inode, offset: u64) -> Result<(Piece, u64), TreeError> {
    let superblock = &tree.superblock;
    let format = inode.union & 0xffff;
    let known = superblock.features.has_incompat(INCOMPAT_CHUNKED_FILE)
        && format & !(CHUNK_BITS | CHUNK_INDEXES) == 0;
    if !known {
        return Err(inode.corrupt("its chunk format is unknown"));
    }
    // At most 16 + 31.
    let bits = u32::from(superblock.block_bits) + (format & CHUNK_BITS);
    let indexes = format & CHUNK_INDEXES != 0;
    let unit = if indexes { 8 } else { 4 };
    let table = inode.tail_offset(tree).checked_next_multiple_of(unit);
    let index = offset >> bits;
    // Below 2^64 / 2^9 indexes of 8 bytes.
    let at = table.and_then(|table| table.checked_add(index * unit));
    let at = at.ok_or_else(|| inode.corrupt("its chunk indexes lie outside the image"))?;
    let mut entry = [0; 8];
    let block = if indexes {
        tree.source.read_at(at, &mut entry)?;
        let device = le16(&entry, 2);
        if device != 0 {
            return Err(TreeError::OtherDevice {
                nid: inode.nid,
                device,
            });
        }
        le32(&entry, 4)
    } else {
        tree.source.read_at(at, &mut entry[..4])?;
        le32(&entry, 0)
    };
    let within = offset & ((1 << bits) - 1);
    let left = ((1 << bits) - within).min(inode.size - offset);
    if block == HOLE {
        return Ok((Piece::Hole, left));
    }
    let start = (u64::from(block) << superblock.block_bits).saturating_add(within);
    Ok((Piece::At(inside(tree, inode, start, left)?), left))
}

/// `start`, if the `len` bytes from there are part of the file system.
fn inside<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    start: u64,
    len: u64,
) -> Result<u64, TreeError> {
    match start.checked_add(len) {
        Some(end) if end <= tree.superblock.size_bytes() => Ok(start),
        _ => Err(inode.corrupt("its data lies outside the image")),
    }
}
