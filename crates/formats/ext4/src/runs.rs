//! Where an inode's blocks are: extent trees and block maps, as runs.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use iofs_source::ReadAt;

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::error::{Checked, Ext4Error, Result};
use crate::volume::{FLAG_EXTENTS, Inode, Volume};

/// Adjacent blocks of a file that are adjacent on the volume, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) len: u64,
    /// False where blocks are allocated and read as zeros all the same.
    pub(crate) written: bool,
}

/// Most tree nodes or pointer blocks read for one file. At 4 KiB blocks they
/// map 5.5 million extents or 64 GiB of an ext3 file.
const MAX_NODES: u32 = 16_384;
/// Deepest legal extent tree (`EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;
const NODE_MAGIC: u16 = 0xf30a;
/// Longest initialised extent; longer ones are unwritten (`EXT_INIT_MAX_LEN`).
const MAX_WRITTEN: u16 = 32_768;
/// Length of an extent header, index and leaf entry alike.
const ENTRY: usize = 12;
const DIRECT: usize = 12;

pub(crate) type Visit<'a> = dyn FnMut(Run) -> Result<ControlFlow<()>> + 'a;

/// Calls `visit` with the runs of the first `blocks` blocks of `inode`, in
/// file order, holes left out, until it breaks off.
pub(crate) fn visit_runs<S: ReadAt>(
    volume: &Volume<S>,
    inode: &Inode,
    blocks: u64,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut walk = Walk {
        volume,
        inode,
        end: blocks,
        next: 0,
        nodes: 0,
        pending: None,
        visit,
    };
    let _ended_early = if inode.has(FLAG_EXTENTS) {
        walk.extent_node(inode.block_area(), None, u64::from(u32::MAX) + 1)?
    } else {
        walk.block_map()?
    };
    // If `visit` broke off, nothing is pending.
    let _no_matter = walk.flush()?;
    Ok(())
}

struct Walk<'a, 'v, S> {
    volume: &'a Volume<S>,
    inode: &'a Inode,
    /// Logical block at which to stop.
    end: u64,
    /// Logical block from which the next run may start.
    next: u64,
    nodes: u32,
    pending: Option<Run>,
    visit: &'a mut Visit<'v>,
}

impl<S: ReadAt> Walk<'_, '_, S> {
    /// Takes a run, joins it to the one before it if they touch, and hands on
    /// that one if not.
    fn emit(&mut self, mut run: Run) -> Result<ControlFlow<()>> {
        if run.logical < self.next {
            return Err(self
                .inode
                .corrupt("its blocks are mapped twice or out of order"));
        }
        if run.logical >= self.end {
            return Ok(ControlFlow::Break(()));
        }
        if !self.volume.superblock.holds(run.physical, run.len) {
            return Err(self.inode.corrupt("it has blocks outside the volume"));
        }
        run.len = run.len.min(self.end - run.logical);
        self.next = run.logical + run.len;
        let touches = |last: &&mut Run| {
            last.written == run.written
                && last.logical + last.len == run.logical
                && last.physical + last.len == run.physical
        };
        if let Some(last) = self.pending.as_mut().filter(touches) {
            last.len += run.len;
            return Ok(ControlFlow::Continue(()));
        }
        let flow = self.flush()?;
        if flow.is_continue() {
            self.pending = Some(run);
        }
        Ok(flow)
    }

    fn flush(&mut self) -> Result<ControlFlow<()>> {
        match self.pending.take() {
            Some(run) => (self.visit)(run),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// Reads a node or pointer block, as long as the allowance lasts.
    fn node_block(&mut self, block: u64) -> Result<Vec<u8>> {
        if self.nodes == MAX_NODES {
            return Err(Ext4Error::TooLarge {
                inode: self.inode.number,
                what: "the map of its blocks",
            }
            .into());
        }
        self.nodes += 1;
        if !self.volume.superblock.holds(block, 1) {
            return Err(self.inode.corrupt("its block map leaves the volume"));
        }
        let mut bytes = vec![0; self.volume.block_len()];
        self.volume.read_part(block, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Walks the node in `bytes`, whose depth must be `depth` unless it is the
    /// root, and whose extents must end before `limit` (logical blocks).
    fn extent_node(
        &mut self,
        bytes: &[u8],
        depth: Option<u16>,
        limit: u64,
    ) -> Result<ControlFlow<()>> {
        let (entries, found) = self.check_header(bytes, depth)?;
        for index in 0..entries {
            let at = ENTRY * (1 + index);
            let entry = part(bytes, at, at + ENTRY);
            let logical = u64::from(le32(entry, 0));
            if logical >= limit || logical < self.next {
                return Err(self.inode.corrupt("its extents are not in order"));
            }
            if logical >= self.end {
                return Ok(ControlFlow::Break(()));
            }
            let flow = if found == 0 {
                self.leaf_entry(entry, limit)?
            } else {
                let next_at = ENTRY * (2 + index);
                let below = if index + 1 < entries {
                    u64::from(le32(bytes, next_at)).min(limit)
                } else {
                    limit
                };
                self.index_entry(entry, found, below)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The number of entries and the depth of a node that is well formed.
    fn check_header(&self, bytes: &[u8], depth: Option<u16>) -> Result<(usize, u16)> {
        if le16(bytes, 0) != NODE_MAGIC {
            return Err(self.inode.corrupt("an extent tree node has no magic"));
        }
        let entries = usize::from(le16(bytes, 2));
        let most = usize::from(le16(bytes, 4));
        let found = le16(bytes, 6);
        let is_root = depth.is_none();
        if entries > most || (most + 1) * ENTRY > bytes.len() || (!is_root && entries == 0) {
            return Err(self
                .inode
                .corrupt("an extent tree node has too many or no entries"));
        }
        if found > MAX_DEPTH || depth.is_some_and(|depth| depth != found) {
            return Err(self.inode.corrupt("an extent tree node has a wrong depth"));
        }
        Ok((entries, found))
    }

    fn leaf_entry(&mut self, entry: &[u8], limit: u64) -> Result<ControlFlow<()>> {
        let logical = u64::from(le32(entry, 0));
        let raw_len = le16(entry, 4);
        let written = raw_len <= MAX_WRITTEN;
        let len = u64::from(if written {
            raw_len
        } else {
            raw_len - MAX_WRITTEN
        });
        if len == 0 || logical + len > limit {
            return Err(self
                .inode
                .corrupt("an extent is empty or overlaps the next"));
        }
        self.emit(Run {
            logical,
            physical: u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8)),
            len,
            written,
        })
    }

    fn index_entry(&mut self, entry: &[u8], depth: u16, limit: u64) -> Result<ControlFlow<()>> {
        let block = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
        let bytes = self.node_block(block)?;
        if let Some(seed) = self.inode.seed {
            let tail = ENTRY * (1 + usize::from(le16(&bytes, 4)));
            if tail + 4 > bytes.len() || crc32c(seed, part(&bytes, 0, tail)) != le32(&bytes, tail) {
                return Err(Ext4Error::Checksum(Checked::ExtentNode(block)).into());
            }
        }
        self.extent_node(&bytes, depth.checked_sub(1), limit)
    }

    /// The classic map of ext2 and ext3: 12 blocks, then one block of
    /// pointers, then two and three levels of them.
    fn block_map(&mut self) -> Result<ControlFlow<()>> {
        let inode = self.inode;
        let pointers = part(inode.block_area(), 0, DIRECT * 4);
        let mut flow = self.pointers(pointers, 0, 0)?;
        let per_block = self.volume.block_len() as u64 / 4;
        let mut logical = DIRECT as u64;
        let mut covered = 1u64;
        for level in 1..=3u8 {
            if flow.is_break() {
                break;
            }
            let at = 4 * (DIRECT + usize::from(level) - 1);
            // At most 2^14 to the third power.
            covered *= per_block;
            flow = self.pointers(part(inode.block_area(), at, at + 4), level, logical)?;
            logical += covered;
        }
        Ok(flow)
    }

    /// Follows `pointers`, each of which maps `per_block ^ level` blocks, the
    /// first of them from block `logical` on.
    fn pointers(&mut self, pointers: &[u8], level: u8, logical: u64) -> Result<ControlFlow<()>> {
        let per_block = self.volume.block_len() as u64 / 4;
        let span = per_block.pow(u32::from(level));
        let mut logical = logical;
        for pointer in pointers.chunks_exact(4) {
            if logical >= self.end {
                return Ok(ControlFlow::Break(()));
            }
            let physical = u64::from(le32(pointer, 0));
            if physical != 0 {
                let flow = if level == 0 {
                    self.emit(Run {
                        logical,
                        physical,
                        len: 1,
                        written: true,
                    })?
                } else {
                    let bytes = self.node_block(physical)?;
                    self.pointers(&bytes, level - 1, logical)?
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            logical += span;
        }
        Ok(ControlFlow::Continue(()))
    }
}
