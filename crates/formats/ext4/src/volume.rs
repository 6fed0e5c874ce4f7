//! Blocks, group descriptors and inodes, as the replayed journal leaves them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use iofs_source::ReadAt;

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::error::{Checked, Ext4Error, Result, corrupt};
use crate::features::{INCOMPAT_LARGEDIR, INCOMPAT_RECOVER};
use crate::journal::{self, Overlay};
use crate::superblock::{self, LEN, Superblock};

pub(crate) const FLAG_COMPRESSED: u32 = 0x4;
pub(crate) const FLAG_ENCRYPTED: u32 = 0x800;
pub(crate) const FLAG_INDEX: u32 = 0x1000;
pub(crate) const FLAG_EXTENTS: u32 = 0x8_0000;
pub(crate) const FLAG_INLINE_DATA: u32 = 0x1000_0000;

const MODE_TYPE: u16 = 0xf000;
const MODE_DIRECTORY: u16 = 0x4000;
const MODE_REGULAR: u16 = 0x8000;
const MODE_SYMLINK: u16 = 0xa000;

/// An inode whose checksum, if it has one, is right.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) flags: u32,
    /// Size of the data in bytes.
    pub(crate) size: u64,
    /// Seed of the checksums of its extent nodes and directory blocks.
    pub(crate) seed: Option<u32>,
    /// The whole inode as it is on the disk, at least 128 bytes.
    pub(crate) raw: Vec<u8>,
    mode: u16,
}

impl Inode {
    pub(crate) fn is_directory(&self) -> bool {
        self.mode & MODE_TYPE == MODE_DIRECTORY
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.mode & MODE_TYPE == MODE_REGULAR
    }

    pub(crate) fn is_symlink(&self) -> bool {
        self.mode & MODE_TYPE == MODE_SYMLINK
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// `i_block`: extent tree root, block map or inline data; 60 bytes.
    pub(crate) fn block_area(&self) -> &[u8] {
        part(&self.raw, 0x28, 0x64)
    }

    pub(crate) fn corrupt(&self, what: &'static str) -> Box<Ext4Error> {
        corrupt(self.number, what)
    }
}

/// A volume: the medium, with the committed blocks of the journal over it.
#[derive(Debug)]
pub(crate) struct Volume<S> {
    pub(crate) source: S,
    pub(crate) superblock: Superblock,
    pub(crate) overlay: Option<Overlay>,
    /// The block group looked up last and the first block of its inode table:
    /// the inodes on a path are mostly in one group.
    last_group: Cell<Option<(u64, u64)>>,
}

impl<S: ReadAt> Volume<S> {
    pub(crate) fn open(source: S) -> Result<Self> {
        let raw = superblock::read_raw(&source)?;
        let superblock = Superblock::parse(&raw, source.size())?;
        let mut volume = Self {
            source,
            superblock,
            overlay: None,
            last_group: Cell::new(None),
        };
        if volume.superblock.features.has_incompat(INCOMPAT_RECOVER) {
            volume.overlay = Some(journal::load(&volume)?);
            volume.last_group.set(None);
            volume.reread_superblock()?;
        }
        Ok(volume)
    }

    /// Geometry and features may be newer in the journal (online resize).
    fn reread_superblock(&mut self) -> Result<()> {
        let size = u64::from(self.superblock.block_size);
        let mut raw = [0; LEN];
        self.read_part(
            superblock::OFFSET / size,
            superblock::OFFSET % size,
            &mut raw,
        )?;
        let newer = Superblock::parse(&raw, self.source.size())?;
        if newer.block_size != self.superblock.block_size {
            return Err(Ext4Error::Superblock {
                field: "log_block_size",
                value: u64::from(newer.block_size),
            }
            .into());
        }
        self.superblock = newer;
        Ok(())
    }

    /// Fills `buf` from offset `within` of `block`; both stay inside the block.
    pub(crate) fn read_part(&self, block: u64, within: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(overlay) = &self.overlay {
            if let Some(copy) = overlay.find(block) {
                let whole = overlay.read(&self.source, copy)?;
                let from = usize::try_from(within).unwrap_or(usize::MAX);
                // Shorter than `buf` only if the caller left the block.
                let slice = part(&whole, from, from.saturating_add(buf.len()));
                if slice.len() == buf.len() {
                    buf.copy_from_slice(slice);
                    return Ok(());
                }
            }
        }
        let offset = block
            .checked_mul(u64::from(self.superblock.block_size))
            .and_then(|start| start.checked_add(within))
            .unwrap_or(u64::MAX);
        self.source.read_at(offset, buf)?;
        Ok(())
    }

    /// Fills `buf`, a whole number of blocks, from block `first` on, in one
    /// read where no block of it is newer in the journal.
    pub(crate) fn read_blocks(&self, first: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.block_len();
        let count = (buf.len() / size) as u64;
        let patched = self
            .overlay
            .as_ref()
            .is_some_and(|overlay| overlay.first_in(first, count).is_some());
        if !patched {
            return self.read_part(first, 0, buf);
        }
        let mut block = first;
        for chunk in buf.chunks_mut(size) {
            self.read_part(block, 0, chunk)?;
            block = block.saturating_add(1);
        }
        Ok(())
    }

    /// The block size as a buffer length.
    pub(crate) fn block_len(&self) -> usize {
        // At most 65536.
        self.superblock.block_size as usize
    }

    /// Reads inode `number`; `parent` is blamed if there is no such inode.
    pub(crate) fn inode(&self, number: u32, parent: u32) -> Result<Inode> {
        let dangling = || corrupt(parent, "it refers to an inode that does not exist");
        let (group, index) = self
            .superblock
            .inode_position(number)
            .ok_or_else(dangling)?;
        let table = self.inode_table(group)?;
        let inode_size = u64::from(self.superblock.inode_size);
        let block_size = u64::from(self.superblock.block_size);
        // Below 2^35, since an inode has at most 2^16 bytes and a group 2^19 inodes.
        let offset = u64::from(index) * inode_size;
        let block = table.saturating_add(offset / block_size);
        if !self.superblock.holds(block, 1) {
            return Err(dangling());
        }
        let mut raw = vec![0; usize::from(self.superblock.inode_size)];
        self.read_part(block, offset % block_size, &mut raw)?;
        self.parse_inode(number, raw)
    }

    fn parse_inode(&self, number: u32, raw: Vec<u8>) -> Result<Inode> {
        let seed = self
            .superblock
            .seed
            .map(|seed| inode_seed(seed, number, &raw));
        if seed.is_some_and(|seed| !inode_checksum_matches(seed, &raw)) {
            return Err(Ext4Error::Checksum(Checked::Inode(number)).into());
        }
        let mode = le16(&raw, 0);
        let wide = mode & MODE_TYPE == MODE_REGULAR
            || self.superblock.features.has_incompat(INCOMPAT_LARGEDIR);
        let high = if wide { le32(&raw, 0x6c) } else { 0 };
        Ok(Inode {
            number,
            flags: le32(&raw, 0x20),
            size: u64::from(high) << 32 | u64::from(le32(&raw, 0x4)),
            seed,
            raw,
            mode,
        })
    }

    /// First block of the inode table of `group`.
    fn inode_table(&self, group: u64) -> Result<u64> {
        match self.last_group.get() {
            Some((last, table)) if last == group => return Ok(table),
            _ => {}
        }
        let (block, within) = self.superblock.descriptor_position(group);
        let mut raw = vec![0; usize::from(self.superblock.descriptor_size)];
        self.read_part(block, u64::from(within), &mut raw)?;
        let seed = self.superblock.seed;
        if seed.is_some_and(|seed| !descriptor_checksum_matches(seed, group, &raw)) {
            return Err(Ext4Error::Checksum(Checked::GroupDescriptor(group)).into());
        }
        // Beyond a 32-byte descriptor the high half reads as 0.
        let table = u64::from(le32(&raw, 0x28)) << 32 | u64::from(le32(&raw, 0x8));
        self.last_group.set(Some((group, table)));
        Ok(table)
    }
}

fn inode_seed(seed: u32, number: u32, raw: &[u8]) -> u32 {
    crc32c(
        crc32c(seed, &number.to_le_bytes()),
        part(raw, 0x64, 0x68), // i_generation
    )
}

/// `ext4_inode_csum_verify`: the two halves of the checksum count as zero.
fn inode_checksum_matches(seed: u32, raw: &[u8]) -> bool {
    let mut sum = crc32c(seed, part(raw, 0, 0x7c));
    sum = crc32c(sum, &[0; 2]);
    sum = crc32c(sum, part(raw, 0x7e, 0x80));
    let low = u32::from(le16(raw, 0x7c));
    if raw.len() <= 0x80 {
        return sum & 0xffff == low;
    }
    let has_high = le16(raw, 0x80) >= 4;
    sum = crc32c(sum, part(raw, 0x80, 0x82));
    if !has_high {
        sum = crc32c(sum, part(raw, 0x82, raw.len()));
        return sum & 0xffff == low;
    }
    sum = crc32c(sum, &[0; 2]);
    sum = crc32c(sum, part(raw, 0x84, raw.len()));
    sum == u32::from(le16(raw, 0x82)) << 16 | low
}

/// `ext4_group_desc_csum` with `metadata_csum`. The older CRC-16 of `uninit_bg`
/// is not checked: inodes have no checksums there either.
fn descriptor_checksum_matches(seed: u32, group: u64, raw: &[u8]) -> bool {
    // Group numbers are 32 bits wide in the checksum.
    let number = u32::try_from(group).unwrap_or(u32::MAX);
    let mut sum = crc32c(seed, &number.to_le_bytes());
    sum = crc32c(sum, part(raw, 0, 0x1e));
    sum = crc32c(sum, &[0; 2]);
    sum = crc32c(sum, part(raw, 0x20, raw.len()));
    sum & 0xffff == u32::from(le16(raw, 0x1e))
}
