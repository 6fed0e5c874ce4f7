//! The superblock: geometry, features, checksum seed.

use alloc::string::String;

use iofs_source::ReadAt;
use uuid::Uuid;

use crate::bytes::{bytes16, le16, le32, part};
use crate::checksum::{START, crc32c};
use crate::error::{Checked, Ext4Error, Result};
use crate::features::{
    COMPAT_SPARSE_SUPER2, Features, INCOMPAT_64BIT, INCOMPAT_CSUM_SEED, INCOMPAT_META_BG,
    INCOMPAT_SUPPORTED, RO_BIGALLOC, RO_METADATA_CSUM, RO_SPARSE_SUPER,
};

/// Offset of the primary superblock on every volume, in bytes.
pub(crate) const OFFSET: u64 = 1024;
/// Length of a superblock, in bytes.
pub(crate) const LEN: usize = 1024;

const MAGIC: u16 = 0xef53;
/// The only `s_checksum_type`: CRC-32C.
const CHECKSUM_CRC32C: u8 = 1;

/// What the reader needs to know of the superblock. Blocks are counted in
/// units of `block_size` bytes from the start of the volume.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    pub(crate) inodes: u32,
    pub(crate) first_data_block: u32,
    blocks_per_group: u32,
    inodes_per_group: u32,
    pub(crate) inode_size: u16,
    pub(crate) descriptor_size: u16,
    first_meta_bg: u32,
    backup_groups: [u32; 2],
    pub(crate) features: Features,
    pub(crate) uuid: Uuid,
    pub(crate) label: String,
    pub(crate) journal_inode: u32,
    pub(crate) journal_device: u32,
    /// `Some` where metadata carries checksums.
    pub(crate) seed: Option<u32>,
}

impl Superblock {
    /// Parses the [`LEN`] bytes at [`OFFSET`] and checks them against a medium
    /// of `medium` bytes.
    pub(crate) fn parse(bytes: &[u8; LEN], medium: u64) -> Result<Self> {
        let magic = le16(bytes, 0x38);
        if magic != MAGIC {
            return Err(Ext4Error::NoSuperblock { magic }.into());
        }
        let dynamic = le32(bytes, 0x4c) >= 1;
        let features = if dynamic {
            Features {
                compat: le32(bytes, 0x5c),
                incompat: le32(bytes, 0x60),
                ro_compat: le32(bytes, 0x64),
            }
        } else {
            Features::default()
        };
        let seed = checksum_seed(bytes, features)?;
        let unknown = features.incompat & !INCOMPAT_SUPPORTED;
        if unknown != 0 {
            return Err(Ext4Error::Unsupported {
                features: Features {
                    incompat: unknown,
                    ..Features::default()
                },
            }
            .into());
        }
        let wide = features.has_incompat(INCOMPAT_64BIT);
        let blocks_high = if wide { le32(bytes, 0x150) } else { 0 };
        let superblock = Self {
            block_size: block_size(bytes)?,
            blocks: u64::from(blocks_high) << 32 | u64::from(le32(bytes, 0x4)),
            inodes: le32(bytes, 0),
            first_data_block: le32(bytes, 0x14),
            blocks_per_group: le32(bytes, 0x20),
            inodes_per_group: le32(bytes, 0x28),
            inode_size: if dynamic { le16(bytes, 0x58) } else { 128 },
            descriptor_size: if wide { le16(bytes, 0xfe) } else { 32 },
            first_meta_bg: le32(bytes, 0x104),
            backup_groups: [le32(bytes, 0x24c), le32(bytes, 0x250)],
            features,
            uuid: Uuid::from_bytes(bytes16(bytes, 0x68)),
            label: label(part(bytes, 0x78, 0x88)),
            journal_inode: le32(bytes, 0xe0),
            journal_device: le32(bytes, 0xe4),
            seed,
        };
        superblock.check(medium)?;
        Ok(superblock)
    }

    fn check(&self, medium: u64) -> Result<()> {
        let wrong = |field, value| Err(Ext4Error::Superblock { field, value }.into());
        let size = self.block_size;
        let first = self.first_data_block;
        let bigalloc = self.features.has_ro(RO_BIGALLOC);
        if first != u32::from(size == 1024) && !(bigalloc && first == 0) {
            return wrong("first_data_block", u64::from(first));
        }
        if self.blocks <= u64::from(first) {
            return wrong("blocks_count", self.blocks);
        }
        let per_group = self.blocks_per_group;
        // A bitmap block has 8 bits a byte; with bigalloc they count clusters.
        if per_group == 0 || (!bigalloc && per_group > 8 * size) {
            return wrong("blocks_per_group", u64::from(per_group));
        }
        if self.inodes_per_group == 0 || self.inodes_per_group > 8 * size {
            return wrong("inodes_per_group", u64::from(self.inodes_per_group));
        }
        let inode_size = self.inode_size;
        if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > size {
            return wrong("inode_size", u64::from(inode_size));
        }
        let descriptor = self.descriptor_size;
        let least = if self.features.has_incompat(INCOMPAT_64BIT) {
            64
        } else {
            32
        };
        if descriptor < least || !descriptor.is_power_of_two() || u32::from(descriptor) > size {
            return wrong("desc_size", u64::from(descriptor));
        }
        match self.size_bytes() {
            None => wrong("blocks_count", self.blocks),
            Some(expected) if expected > medium => Err(Ext4Error::Truncated {
                expected,
                actual: medium,
            }
            .into()),
            Some(_) => Ok(()),
        }
    }

    /// Size of the file system in bytes; `None` if no u64 holds it.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.blocks.checked_mul(u64::from(self.block_size))
    }

    /// Whether the `len` blocks from `first` can hold data or metadata.
    pub(crate) fn holds(&self, first: u64, len: u64) -> bool {
        first >= u64::from(self.first_data_block)
            && first.checked_add(len).is_some_and(|end| end <= self.blocks)
    }

    /// Number of block groups.
    fn groups(&self) -> u64 {
        (self.blocks - u64::from(self.first_data_block)).div_ceil(u64::from(self.blocks_per_group))
    }

    /// Where inode `number` is: its group and its index there. `None` if there
    /// is no such inode.
    pub(crate) fn inode_position(&self, number: u32) -> Option<(u64, u32)> {
        let index = number.checked_sub(1)?;
        let group = u64::from(index / self.inodes_per_group);
        (number <= self.inodes && group < self.groups())
            .then_some((group, index % self.inodes_per_group))
    }

    /// Where the descriptor of `group` is: its block and the offset in it, in
    /// bytes (`descriptor_loc` in fs/ext4/super.c).
    pub(crate) fn descriptor_position(&self, group: u64) -> (u64, u32) {
        let per_block = u64::from(self.block_size / u32::from(self.descriptor_size));
        let table_block = group / per_block;
        // Below the block size, since `group % per_block` descriptors fit before it.
        let within =
            u32::try_from(group % per_block).unwrap_or(0) * u32::from(self.descriptor_size);
        let superblock_block = OFFSET / u64::from(self.block_size);
        let spread = self.features.has_incompat(INCOMPAT_META_BG)
            && table_block >= u64::from(self.first_meta_bg);
        if !spread {
            return (superblock_block.saturating_add(table_block + 1), within);
        }
        let leader = table_block * per_block;
        let mut block = leader
            .saturating_mul(u64::from(self.blocks_per_group))
            .saturating_add(u64::from(self.first_data_block));
        if self.has_backup_superblock(leader) {
            block = block.saturating_add(1);
        }
        if self.block_size == 1024 && table_block == 0 && self.first_data_block == 0 {
            block = block.saturating_add(1);
        }
        (block, within)
    }

    /// `ext4_bg_has_super` in fs/ext4/balloc.c.
    fn has_backup_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.has_compat(COMPAT_SPARSE_SUPER2) {
            return self.backup_groups.iter().any(|&g| u64::from(g) == group);
        }
        if group == 1 || !self.features.has_ro(RO_SPARSE_SUPER) {
            return true;
        }
        [3, 5, 7].into_iter().any(|base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        })
    }
}

/// Reads the raw superblock from the medium.
pub(crate) fn read_raw(source: &impl ReadAt) -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    source.read_at(OFFSET, &mut bytes)?;
    Ok(bytes)
}

fn block_size(bytes: &[u8]) -> Result<u32> {
    match le32(bytes, 0x18) {
        shift @ 0..=6 => Ok(1024 << shift),
        shift => Err(Ext4Error::Superblock {
            field: "log_block_size",
            value: u64::from(shift),
        }
        .into()),
    }
}

fn checksum_seed(bytes: &[u8; LEN], features: Features) -> Result<Option<u32>> {
    if !features.has_ro(RO_METADATA_CSUM) {
        return Ok(None);
    }
    let kind = bytes[0x175];
    if kind != CHECKSUM_CRC32C {
        return Err(Ext4Error::Superblock {
            field: "checksum_type",
            value: u64::from(kind),
        }
        .into());
    }
    if crc32c(START, part(bytes, 0, 0x3fc)) != le32(bytes, 0x3fc) {
        return Err(Ext4Error::Checksum(Checked::Superblock).into());
    }
    Ok(Some(if features.has_incompat(INCOMPAT_CSUM_SEED) {
        le32(bytes, 0x270)
    } else {
        crc32c(START, part(bytes, 0x68, 0x78))
    }))
}

fn label(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(part(bytes, 0, end)).into_owned()
}
