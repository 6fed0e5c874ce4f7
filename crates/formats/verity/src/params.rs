//! What a tree is made with, and where its blocks lie.

use alloc::vec::Vec;
use core::fmt;

use crate::Algorithm;

/// The longest salt, in bytes: what the superblock has room for.
pub const MAX_SALT: usize = 256;

/// The block sizes that are taken, in bytes: from a sector to the largest page.
const BLOCK_SIZES: core::ops::RangeInclusive<u32> = 512..=65536;

/// The largest device of the kernel, in bytes.
const MAX_DEVICE: u64 = i64::MAX as u64;

/// Why there can be no tree like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamsError {
    /// A block size is not a power of two from 512 to 65536.
    BlockSize {
        /// `data` or `hash`.
        of: &'static str,
        /// The size, in bytes.
        size: u32,
    },
    /// No data blocks, or more than a device can have.
    DataBlocks {
        /// Their number.
        blocks: u64,
        /// Their size, in bytes.
        size: u32,
    },
    /// The salt is longer than [`MAX_SALT`].
    Salt {
        /// Its length, in bytes.
        len: usize,
    },
    /// The tree would end behind the largest device.
    TreeStart {
        /// Where it would start, in hash blocks.
        start: u64,
    },
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlockSize { of, size } => write!(
                f,
                "a {of} block size of {size} bytes is not a power of two from {} to {}",
                BLOCK_SIZES.start(),
                BLOCK_SIZES.end()
            ),
            Self::DataBlocks { blocks, size } => write!(
                f,
                "{blocks} data blocks of {size} bytes are none, or more than a device can have"
            ),
            Self::Salt { len } => {
                write!(f, "a salt of {len} bytes is longer than {MAX_SALT}")
            }
            Self::TreeStart { start } => write!(
                f,
                "a hash tree at hash block {start} would end behind the largest device"
            ),
        }
    }
}

impl core::error::Error for ParamsError {}

/// What a hash tree is made with. Values of this type can be a tree's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    algorithm: Algorithm,
    data_block_size: u32,
    hash_block_size: u32,
    data_blocks: u64,
    salt: Vec<u8>,
}

impl Params {
    /// A tree over `data_blocks` blocks of `data_block_size` bytes.
    ///
    /// # Errors
    /// If a block size is not a power of two from 512 bytes to 64 KiB, the
    /// salt longer than [`MAX_SALT`], the data empty or larger than a device
    /// can be.
    pub fn new(
        algorithm: Algorithm,
        data_block_size: u32,
        hash_block_size: u32,
        data_blocks: u64,
        salt: Vec<u8>,
    ) -> Result<Self, ParamsError> {
        for (of, size) in [("data", data_block_size), ("hash", hash_block_size)] {
            if !size.is_power_of_two() || !BLOCK_SIZES.contains(&size) {
                return Err(ParamsError::BlockSize { of, size });
            }
        }
        if salt.len() > MAX_SALT {
            return Err(ParamsError::Salt { len: salt.len() });
        }
        match data_blocks.checked_mul(data_block_size.into()) {
            Some(len) if (1..=MAX_DEVICE).contains(&len) => Ok(Self {
                algorithm,
                data_block_size,
                hash_block_size,
                data_blocks,
                salt,
            }),
            _ => Err(ParamsError::DataBlocks {
                blocks: data_blocks,
                size: data_block_size,
            }),
        }
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Size of a data block, in bytes.
    #[must_use]
    pub fn data_block_size(&self) -> u32 {
        self.data_block_size
    }

    /// Size of a hash block, in bytes.
    #[must_use]
    pub fn hash_block_size(&self) -> u32 {
        self.hash_block_size
    }

    /// Number of data blocks, never 0.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// The salt, at most [`MAX_SALT`] bytes.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Length of the data, in bytes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        // `new` has seen that it fits.
        self.data_blocks.saturating_mul(self.data_block_size.into())
    }

    /// Base-2 logarithm of the number of digests in a hash block.
    pub(crate) fn per_block_bits(&self) -> u32 {
        // Both are powers of two, and the least block holds eight of the
        // longest digests.
        self.hash_block_size.trailing_zeros() - self.algorithm.digest_len().trailing_zeros()
    }

    /// Where a superblock at the start of the hash device puts the tree, in
    /// hash blocks: behind itself.
    #[must_use]
    pub fn tree_start(&self) -> u64 {
        // No hash block is smaller than the superblock.
        1
    }

    /// Where the tree's blocks lie if it starts at hash block `start` of the
    /// hash device.
    ///
    /// # Errors
    /// [`ParamsError::TreeStart`].
    pub fn geometry(&self, start: u64) -> Result<Geometry, ParamsError> {
        let bits = self.per_block_bits();
        let mut levels = Vec::new();
        let mut below = self.data_blocks;
        while below > 1 {
            let blocks = below.div_ceil(1 << bits);
            levels.push(Level { start: 0, blocks });
            below = blocks;
        }
        let outside = ParamsError::TreeStart { start };
        let mut end = start;
        for level in levels.iter_mut().rev() {
            level.start = end;
            end = end.checked_add(level.blocks).ok_or(outside)?;
        }
        match end.checked_mul(self.hash_block_size.into()) {
            Some(bytes) if bytes <= MAX_DEVICE => Ok(Geometry {
                levels,
                start,
                end,
                block_size: self.hash_block_size,
            }),
            _ => Err(outside),
        }
    }
}

/// A level of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its first hash block on the hash device.
    pub start: u64,
    /// Its number of hash blocks, never 0.
    pub blocks: u64,
}

/// Where the blocks of a tree lie on the hash device: the top level first,
/// the one over the data last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    levels: Vec<Level>,
    start: u64,
    end: u64,
    block_size: u32,
}

impl Geometry {
    /// The levels by number, as the kernel counts them: 0 holds the digests of
    /// data blocks, the last is the single block that the root hash is of.
    /// There are none over a single data block, whose digest is the root hash.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Number of hash blocks in the tree.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.end - self.start
    }

    /// Length of the tree, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        // `Params::geometry` has seen that the larger product with the start fits.
        self.blocks() * u64::from(self.block_size)
    }

    /// Whether there is no tree, over a single data block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The first byte of the hash device behind the tree.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end * u64::from(self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn params(algorithm: Algorithm, hash_block: u32, blocks: u64) -> Params {
        Params::new(algorithm, 4096, hash_block, blocks, vec![]).unwrap()
    }

    /// The kernel's loop over levels (`verity_ctr`), with the shifts that it
    /// counts in, as another way to the same numbers.
    fn kernel(bits: u32, data_blocks: u64, start: u64) -> Vec<Level> {
        let mut count = 0;
        while bits * count < 64 && (data_blocks - 1) >> (bits * count) != 0 {
            count += 1;
        }
        let mut position = start;
        let mut levels = vec![];
        for level in (0..count).rev() {
            let shift = (level + 1) * bits;
            let last = if shift < 64 {
                (data_blocks - 1) >> shift
            } else {
                0
            };
            levels.push(Level {
                start: position,
                blocks: last + 1,
            });
            position += last + 1;
        }
        levels.reverse();
        levels
    }

    #[test]
    fn levels_are_the_kernels() {
        let counts = [
            1,
            2,
            7,
            8,
            9,
            127,
            128,
            129,
            16384,
            16385,
            1 << 21,
            (1 << 21) + 1,
            (1 << 51) - 1,
        ];
        for blocks in counts {
            for (algorithm, hash_block, bits) in [
                (Algorithm::Sha256, 4096, 7),
                (Algorithm::Sha512, 4096, 6),
                (Algorithm::Sha512, 512, 3),
                (Algorithm::Sha256, 65536, 11),
            ] {
                let geometry = params(algorithm, hash_block, blocks).geometry(3).unwrap();
                assert_eq!(
                    geometry.levels(),
                    kernel(bits, blocks, 3),
                    "{blocks} {algorithm}"
                );
                let count: u64 = geometry.levels().iter().map(|level| level.blocks).sum();
                assert_eq!(geometry.blocks(), count);
                assert_eq!(geometry.end(), (count + 3) * u64::from(hash_block));
            }
        }
    }

    #[test]
    fn what_no_device_can_hold_is_refused() {
        let new = |data, hash, blocks, salt| {
            Params::new(Algorithm::Sha256, data, hash, blocks, vec![0; salt])
        };
        for size in [0, 256, 513, 131_072, u32::MAX] {
            assert_eq!(
                new(size, 4096, 1, 0),
                Err(ParamsError::BlockSize { of: "data", size })
            );
            assert_eq!(
                new(4096, size, 1, 0),
                Err(ParamsError::BlockSize { of: "hash", size })
            );
        }
        for blocks in [0, 1 << 51, 1 << 52, u64::MAX] {
            let error = ParamsError::DataBlocks { blocks, size: 4096 };
            assert_eq!(new(4096, 4096, blocks, 0), Err(error));
        }
        assert_eq!(new(4096, 4096, 1, 257), Err(ParamsError::Salt { len: 257 }));
        let largest = new(512, 65536, (1 << 54) - 1, 256).unwrap();
        assert!(largest.geometry(1).is_ok());
        for start in [1 << 47, u64::MAX] {
            assert_eq!(
                largest.geometry(start),
                Err(ParamsError::TreeStart { start })
            );
        }
    }
}
