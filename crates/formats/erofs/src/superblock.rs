//! The superblock (`struct erofs_super_block`).

use alloc::string::String;
use alloc::vec;
use core::fmt;

use iofs_source::{ReadAt, ReadError, crc32c};
use uuid::Uuid;

use crate::bytes::{array16, byte, le16, le32, le64};
use crate::features::{
    Algorithm, COMPAT_SB_CHKSUM, Features, INCOMPAT_48BIT, INCOMPAT_COMPR_CFGS,
    INCOMPAT_DEVICE_TABLE, INCOMPAT_METABOX,
};

/// Offset of the superblock, in bytes.
const OFFSET: u64 = 1024;
/// Length of the superblock without its extension slots, in bytes.
const LEN: usize = 128;
/// Length of an extension slot, in bytes.
const SLOT: u32 = 16;
/// What the superblock begins with.
const MAGIC: u32 = 0xe0f5_e1e2;

/// Why there is no valid EROFS superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErofsError {
    /// The medium failed, ended early, or the caller's limit was reached.
    Read(ReadError),
    /// This is no EROFS image.
    NoMagic {
        /// What stands in place of the magic 0xe0f5e1e2.
        magic: u32,
    },
    /// The checksum of the superblock's block is wrong.
    Checksum {
        /// The checksum in the superblock.
        stored: u32,
        /// That of what the medium holds.
        computed: u32,
    },
    /// A field has a value that no file system can have.
    Field {
        /// Its name in `struct erofs_super_block`.
        field: &'static str,
        /// The value.
        value: u64,
    },
}

impl fmt::Display for ErofsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Read(ref error) => write!(f, "{error}"),
            Self::NoMagic { magic } => write!(
                f,
                "no EROFS file system (magic {magic:#010x} instead of {MAGIC:#010x})"
            ),
            Self::Checksum { stored, computed } => write!(
                f,
                "the checksum of the EROFS superblock is wrong ({stored:#010x}, computed {computed:#010x})"
            ),
            Self::Field { field, value } => {
                write!(f, "the EROFS superblock has an impossible {field}: {value}")
            }
        }
    }
}

impl core::error::Error for ErofsError {}

impl From<ReadError> for ErofsError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// An EROFS superblock. Block addresses and counts are in units of
/// `1 << block_bits` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The UUID; [`Uuid::nil`] if it has none.
    pub uuid: Uuid,
    /// The volume's name; bytes that are not UTF-8 are replaced.
    pub volume_name: String,
    /// The features.
    pub features: Features,
    /// Base-2 logarithm of the block size in bytes, 9 to 16.
    pub block_bits: u8,
    /// Blocks of the whole file system.
    pub blocks: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Node id of the root directory.
    pub root_nid: u64,
    /// First block of the inode area.
    pub meta_block: u32,
    /// First block of the shared extended attributes.
    pub xattr_block: u32,
    /// Base time of the inodes, in seconds since 1970, and nanoseconds.
    pub build_time: (u64, u32),
    /// Algorithms that the files may use, bit n for number n of
    /// [`Algorithm::ALL`]; see [`Superblock::algorithms`].
    pub algorithm_bits: u16,
    /// Devices besides the first that hold data.
    pub extra_devices: u16,
    /// Size of the superblock with its extension slots, in bytes.
    pub len: u32,
    /// Number of long prefixes of extended attributes' names.
    pub xattr_prefixes: u8,
    /// Where they are, in units of 4 bytes.
    pub xattr_prefix_start: u32,
    /// Node id of the inode that packs fragments, 0 if there is none.
    pub packed_nid: u64,
}

impl Superblock {
    /// Reads and checks the superblock of the file system that begins
    /// `source`. Incompatible features that are not known here are no error:
    /// see [`Features::unknown_incompat`].
    ///
    /// # Errors
    /// [`ErofsError::NoMagic`] if this is another file system; else what is
    /// wrong with the superblock.
    pub fn read(source: &(impl ReadAt + ?Sized)) -> Result<Self, ErofsError> {
        let mut bytes = [0; LEN];
        source.read_at(OFFSET, &mut bytes)?;
        let magic = le32(&bytes, 0);
        if magic != MAGIC {
            return Err(ErofsError::NoMagic { magic });
        }
        let block_bits = bytes[12];
        if !(9..=16).contains(&block_bits) {
            return Err(ErofsError::Field {
                field: "blkszbits",
                value: u64::from(block_bits),
            });
        }
        let features = Features {
            compat: le32(&bytes, 8),
            incompat: le32(&bytes, 80),
        };
        if features.has_compat(COMPAT_SB_CHKSUM) {
            verify(source, block_bits, le32(&bytes, 4))?;
        }
        let superblock = Self::parse(&bytes, block_bits, features);
        superblock.check()?;
        Ok(superblock)
    }

    fn parse(bytes: &[u8; LEN], block_bits: u8, features: Features) -> Self {
        let wide = features.has_incompat(INCOMPAT_48BIT);
        let blocks_low = u64::from(le32(bytes, 36));
        // With `48bit` the root's old place holds the high bits of `blocks`.
        let (root_nid, blocks_high) = if wide {
            (le64(bytes, 112), u64::from(le16(bytes, 14)) << 32)
        } else {
            (u64::from(le16(bytes, 14)), 0)
        };
        let algorithm_bits = if features.has_incompat(INCOMPAT_COMPR_CFGS) {
            le16(bytes, 84)
        } else {
            // The field is LZ4's window there; LZ4 is the only algorithm.
            1
        };
        Self {
            uuid: Uuid::from_bytes(array16(bytes, 48)),
            volume_name: name(&array16(bytes, 64)),
            features,
            block_bits,
            blocks: blocks_high | blocks_low,
            inodes: le64(bytes, 16),
            root_nid,
            meta_block: le32(bytes, 40),
            xattr_block: le32(bytes, 44),
            build_time: (le64(bytes, 24), le32(bytes, 32)),
            algorithm_bits,
            extra_devices: if features.has_incompat(INCOMPAT_DEVICE_TABLE) {
                le16(bytes, 86)
            } else {
                0
            },
            // At most 128 + 255 * 16.
            len: 128 + u32::from(byte(bytes, 13)) * SLOT,
            xattr_prefixes: byte(bytes, 91),
            xattr_prefix_start: le32(bytes, 92),
            packed_nid: le64(bytes, 96),
        }
    }

    fn check(&self) -> Result<(), ErofsError> {
        let wrong = |field, value| Err(ErofsError::Field { field, value });
        if self.blocks == 0 || self.size_bytes() < OFFSET + u64::from(self.len) {
            return wrong("blocks", self.blocks);
        }
        // In a metadata box node ids do not say where inodes are.
        let box_free = !self.features.has_incompat(INCOMPAT_METABOX);
        if box_free && u64::from(self.meta_block) >= self.blocks {
            return wrong("meta_blkaddr", u64::from(self.meta_block));
        }
        if self.build_time.1 >= 1_000_000_000 {
            return wrong("fixed_nsec", u64::from(self.build_time.1));
        }
        Ok(())
    }

    /// Size of a block, in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        1 << self.block_bits.min(16)
    }

    /// Size of the file system on its first device, in bytes. A medium that
    /// is smaller is truncated; what follows on a larger one is not part of it.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // Below 2^48 blocks of 2^16 bytes.
        self.blocks.saturating_mul(u64::from(self.block_size()))
    }

    /// The compression algorithms that the kernel must have.
    ///
    /// Images without the feature `compr_cfgs` show LZ4 whether or not a file
    /// is compressed: they do not say.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let bits = self.algorithm_bits;
        Algorithm::ALL
            .into_iter()
            .enumerate()
            .filter(move |&(number, _)| bits >> number & 1 != 0)
            .map(|(_, algorithm)| algorithm)
    }
}

/// Checks the checksum over the rest of the superblock's block
/// (`erofs_superblock_csum_verify`); its own field counts as zero.
fn verify(source: &(impl ReadAt + ?Sized), block_bits: u8, stored: u32) -> Result<(), ErofsError> {
    let block = 1usize << block_bits;
    // Below 64 KiB. Blocks up to 1 KiB hold no superblock; one block's worth is covered.
    let covered = match block.checked_sub(1024) {
        None | Some(0) => block,
        Some(rest) => rest,
    };
    let mut bytes = vec![0; covered];
    source.read_at(OFFSET, &mut bytes)?;
    if let Some(field) = bytes.get_mut(4..8) {
        field.fill(0);
    }
    let computed = crc32c(u32::MAX, &bytes);
    if computed == stored {
        Ok(())
    } else {
        Err(ErofsError::Checksum { stored, computed })
    }
}

fn name(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}
