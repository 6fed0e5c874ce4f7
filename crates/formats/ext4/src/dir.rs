//! Directories: linear blocks, hash-indexed ones read linearly, inline ones.
//!
//! An htree's index blocks look like one unused entry over the whole block, so
//! a scan of every block finds every name without the hash. Boot folders are
//! small; that is cheaper than the hash functions and their salts.

use alloc::vec;
use core::ops::ControlFlow;

use iofs_source::ReadAt;

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::error::{Checked, Ext4Error, Result};
use crate::features::INCOMPAT_FILETYPE;
use crate::inline;
use crate::runs::visit_runs;
use crate::volume::{FLAG_INDEX, FLAG_INLINE_DATA, Inode, Volume};

/// Largest directory that is searched, in bytes: some 400,000 names.
const MAX_BYTES: u64 = 16 << 20;
/// Directory blocks are read up to so many bytes at once.
const CHUNK: usize = 32 << 10;
/// Length of an entry's header, and of the checksum entry at a block's end.
const HEADER: usize = 8;
const TAIL: usize = 12;
const TAIL_KIND: u8 = 0xde;

/// An entry of a directory that is in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEntry<'a> {
    pub(crate) inode: u32,
    /// `EXT4_FT_*`; 0 where the volume does not record it.
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
}

pub(crate) type VisitEntry<'a> = dyn FnMut(RawEntry<'_>) -> ControlFlow<()> + 'a;

/// The inode of `name` in `directory`.
pub(crate) fn lookup<S: ReadAt>(
    volume: &Volume<S>,
    directory: &Inode,
    name: &[u8],
) -> Result<Option<u32>> {
    let mut found = None;
    visit_entries(volume, directory, &mut |entry| {
        if entry.name == name {
            found = Some(entry.inode);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Calls `visit` with every entry in use, `.` and `..` included where they are
/// recorded (inline directories have none), until it breaks off.
pub(crate) fn visit_entries<S: ReadAt>(
    volume: &Volume<S>,
    directory: &Inode,
    visit: &mut VisitEntry<'_>,
) -> Result<()> {
    if directory.size > MAX_BYTES {
        return Err(Ext4Error::TooLarge {
            inode: directory.number,
            what: "the directory",
        }
        .into());
    }
    let filetype = volume.superblock.features.has_incompat(INCOMPAT_FILETYPE);
    if directory.has(FLAG_INLINE_DATA) {
        for area in inline::directory_areas(directory)? {
            if scan(directory, area, filetype, visit)?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    let size = volume.block_len();
    let blocks = directory.size.div_ceil(size as u64);
    let mut expected = 0;
    visit_runs(volume, directory, blocks, &mut |run| {
        if run.logical != expected || !run.written {
            return Err(directory.corrupt("the directory has a hole"));
        }
        expected = run.logical + run.len;
        let mut buf = vec![0; CHUNK.max(size)];
        let mut done = 0;
        while done < run.len {
            // The run is at most 16 MiB long, so this fits.
            let left = usize::try_from(run.len - done).unwrap_or(usize::MAX);
            let count = left.min(buf.len() / size);
            let chunk = buf.get_mut(..count * size).unwrap_or(&mut []);
            volume.read_blocks(run.physical + done, chunk)?;
            for (index, block) in chunk.chunks_exact(size).enumerate() {
                let nth = run.logical + done + index as u64;
                let at = run.physical + done + index as u64;
                check_block(directory, block, nth, at)?;
                let flow = scan(directory, block, filetype, visit)?;
                if flow.is_break() {
                    expected = blocks;
                    return Ok(flow);
                }
            }
            done += count as u64;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if expected != blocks {
        return Err(directory.corrupt("the directory has a hole"));
    }
    Ok(())
}

/// Walks the entries of one block or inline area.
fn scan(
    directory: &Inode,
    area: &[u8],
    filetype: bool,
    visit: &mut VisitEntry<'_>,
) -> Result<ControlFlow<()>> {
    let mut at = 0;
    while at < area.len() {
        let entry = part(area, at, area.len());
        let len = record_len(entry, area.len());
        // Without `filetype` the byte is the high half of a 16-bit length that
        // never exceeds 255.
        let name_len = usize::from(part(entry, 6, 7).first().copied().unwrap_or(0));
        let kind = part(entry, 7, HEADER).first().copied().unwrap_or(0);
        if len < TAIL || len % 4 != 0 || len > entry.len() || HEADER + name_len > len {
            return Err(directory.corrupt("a directory entry is malformed"));
        }
        let inode = le32(entry, 0);
        if inode != 0 {
            let name = part(entry, HEADER, HEADER + name_len);
            if name.is_empty() || name.iter().any(|&b| b == 0 || b == b'/') {
                return Err(directory.corrupt("a directory entry has an impossible name"));
            }
            let kind = if filetype { kind } else { 0 };
            let flow = visit(RawEntry { inode, kind, name });
            if flow.is_break() {
                return Ok(flow);
            }
        }
        at += len;
    }
    Ok(ControlFlow::Continue(()))
}

/// `ext4_rec_len_from_disk`: 16 bits cannot say 65536.
fn record_len(entry: &[u8], block: usize) -> usize {
    match le16(entry, 4) {
        0 | u16::MAX if block == 1 << 16 => block,
        len => usize::from(len),
    }
}

/// Verifies the checksum of the directory's `nth` block, which is at block
/// `at` of the volume, if the volume has checksums.
fn check_block(directory: &Inode, block: &[u8], nth: u64, at: u64) -> Result<()> {
    let Some(seed) = directory.seed else {
        return Ok(());
    };
    let covers_block = record_len(block, block.len()) == block.len();
    let right = if directory.has(FLAG_INDEX) && (nth == 0 || covers_block) {
        index_checksum_matches(seed, block, covers_block)
    } else {
        leaf_checksum_matches(seed, block)
    };
    if right {
        Ok(())
    } else {
        Err(Ext4Error::Checksum(Checked::DirectoryBlock(at)).into())
    }
}

/// `ext4_dirblock_csum_verify`: the last entry is unused and holds the sum.
fn leaf_checksum_matches(seed: u32, block: &[u8]) -> bool {
    let end = block.len().saturating_sub(TAIL);
    let tail = part(block, end, block.len());
    le32(tail, 0) == 0
        && le16(tail, 4) == 12
        && tail.get(6..8) == Some(&[0, TAIL_KIND])
        && crc32c(seed, part(block, 0, end)) == le32(tail, 8)
}

/// `ext4_dx_csum_verify`: covers the used index entries and the tail behind
/// the last possible one.
fn index_checksum_matches(seed: u32, block: &[u8], is_node: bool) -> bool {
    // After one covering entry, or after `.`, `..` and the root's information.
    let at: usize = if is_node { 8 } else { 32 };
    let limit = usize::from(le16(block, at));
    let count = usize::from(le16(block, at + 2));
    let tail = at + 8 * limit;
    if count > limit || tail + 8 > block.len() {
        return false;
    }
    let mut sum = crc32c(seed, part(block, 0, at + 8 * count));
    sum = crc32c(sum, part(block, tail, tail + 4));
    sum = crc32c(sum, &[0; 4]);
    sum == le32(block, tail + 4)
}

/// Shows `visit` all entries but `.` and `..`, until it breaks off.
pub(crate) fn visit<S: ReadAt>(
    volume: &Volume<S>,
    directory: &Inode,
    visit: &mut dyn FnMut(crate::Entry) -> ControlFlow<()>,
) -> Result<()> {
    visit_entries(volume, directory, &mut |entry| {
        if entry.name == b"." || entry.name == b".." {
            return ControlFlow::Continue(());
        }
        visit(crate::Entry {
            name: entry.name.to_vec(),
            inode: entry.inode,
            kind: crate::EntryKind::from_raw(entry.kind),
        })
    })
}
