//! Offline verification: every block from the root hash down, and the first
//! that does not match by name.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use iofs_source::{ReadAt, ReadError};

use crate::algorithm::Salted;
use crate::{Geometry, Params, ParamsError, RootHash};

/// Which of the two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The one with the data.
    Data,
    /// The one with superblock and tree.
    Hash,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data device",
            Self::Hash => "hash device",
        })
    }
}

/// Why devices, parameters and root hash cannot belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The root hash is of another hash function.
    RootHash {
        /// The root hash.
        root: RootHash,
        /// The hash function of the tree.
        algorithm: crate::Algorithm,
    },
    /// The tree cannot start there.
    Params(ParamsError),
    /// A device ends before the data or the tree does.
    Truncated {
        /// Which device.
        device: Device,
        /// Its size, in bytes.
        size: u64,
        /// What it would have to have, in bytes.
        needed: u64,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RootHash { root, algorithm } => write!(
                f,
                "the root hash {root} is none of {algorithm}, which the verity superblock names"
            ),
            Self::Params(error) => error.fmt(f),
            Self::Truncated {
                device,
                size,
                needed,
            } => write!(
                f,
                "the {device} has {size} bytes, but by the verity superblock it takes {needed}; \
                 it is truncated, or the superblock was changed"
            ),
        }
    }
}

impl core::error::Error for Unfit {}

/// The first thing that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A device could not be read.
    Read {
        /// Which device.
        device: Device,
        /// Why not.
        error: ReadError,
    },
    /// A hash block does not have the digest that stands above it.
    Hash {
        /// Its level; 0 holds the digests of data blocks.
        level: usize,
        /// Number of levels in the tree.
        levels: usize,
        /// Its number in the level.
        block: u64,
        /// Its bytes on the hash device.
        bytes: Range<u64>,
    },
    /// There is something behind the last digest of a hash block that has
    /// been proven: the tree was made over more blocks than are described.
    Surplus {
        /// The block's level; 0 holds the digests of data blocks.
        level: usize,
        /// The block's number in the level.
        block: u64,
        /// The bytes on the hash device that should be zeros.
        bytes: Range<u64>,
    },
    /// A data block does not have the digest that stands above it.
    Data {
        /// Its number.
        block: u64,
        /// Its bytes on the data device.
        bytes: Range<u64>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { device, error } => write!(f, "the {device} failed: {error}"),
            Self::Hash {
                level,
                levels,
                block,
                bytes,
            } => {
                let (from, to) = (bytes.start, bytes.end);
                write!(
                    f,
                    "block {block} of level {level} of the hash tree (bytes {from} to {to} of the \
                     hash device) "
                )?;
                if level + 1 == *levels {
                    f.write_str(
                        "does not have the root hash: this block, the superblock's salt or the \
                         root hash was changed",
                    )
                } else {
                    write!(f, "does not have the digest in level {}", level + 1)
                }
            }
            Self::Surplus {
                level,
                block,
                bytes,
            } => write!(
                f,
                "block {block} of level {level} of the hash tree holds digests at bytes {} to {} \
                 of the hash device that nothing belongs to: the superblock's number of data \
                 blocks was changed",
                bytes.start, bytes.end
            ),
            Self::Data { block, bytes } => write!(
                f,
                "data block {block} (bytes {} to {} of the data device) does not have the digest \
                 in the hash tree",
                bytes.start, bytes.end
            ),
        }
    }
}

impl core::error::Error for Fault {}

/// A verity device as the kernel would set it up, to be read whole.
#[derive(Debug)]
pub struct Verifier<'a, D, H> {
    params: &'a Params,
    geometry: Geometry,
    root: RootHash,
    salted: Salted,
    data: D,
    hashes: H,
}

impl<'a, D: ReadAt, H: ReadAt> Verifier<'a, D, H> {
    /// The device with this root hash over `data`, whose tree starts at hash
    /// block `hash_start` of `hashes` ([`Params::tree_start`]).
    ///
    /// # Errors
    /// If the root hash is of another hash function, or a device too small.
    pub fn new(
        params: &'a Params,
        root: RootHash,
        hash_start: u64,
        data: D,
        hashes: H,
    ) -> Result<Self, Unfit> {
        if root.algorithm() != params.algorithm() {
            return Err(Unfit::RootHash {
                root,
                algorithm: params.algorithm(),
            });
        }
        let geometry = params.geometry(hash_start).map_err(Unfit::Params)?;
        for (device, size, needed) in [
            (Device::Data, data.size(), params.data_len()),
            (Device::Hash, hashes.size(), geometry.end()),
        ] {
            if size < needed {
                return Err(Unfit::Truncated {
                    device,
                    size,
                    needed,
                });
            }
        }
        Ok(Self {
            params,
            geometry,
            root,
            salted: Salted::new(params.algorithm(), params.salt()),
            data,
            hashes,
        })
    }

    /// Where the tree's blocks lie.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Verifies these data blocks in order, and before each the hash blocks
    /// over it, each only once. Reports the number of blocks done after each
    /// leaf of the tree.
    ///
    /// Memory: a block a level, and a data block.
    ///
    /// # Errors
    /// The first block that does not match or cannot be read. Blocks behind
    /// the device's end are left out.
    pub fn verify(&self, blocks: Range<u64>, mut done: impl FnMut(u64)) -> Result<(), Fault> {
        let blocks = blocks.start..blocks.end.min(self.params.data_blocks());
        let mut path = Path::default();
        let mut data = vec![0; to_usize(self.params.data_block_size())];
        let leaf = 1u64 << self.params.per_block_bits();
        for block in blocks.clone() {
            self.descend(block, &mut path)?;
            let bytes = self.bytes(block, self.params.data_block_size());
            self.data
                .read_at(bytes.start, &mut data)
                .map_err(|error| Fault::Read {
                    device: Device::Data,
                    error,
                })?;
            if !self.salted.matches(&data, self.expected(&path, 0, block)) {
                return Err(Fault::Data { block, bytes });
            }
            if (block + 1) % leaf == 0 || block + 1 == blocks.end {
                done(block + 1 - blocks.start);
            }
        }
        Ok(())
    }

    /// Brings the hash blocks over data block `block` into `path`, proven from
    /// the top.
    fn descend(&self, block: u64, path: &mut Path) -> Result<(), Fault> {
        let levels = self.geometry.levels().len();
        path.nodes.resize_with(levels, Node::default);
        for level in (0..levels).rev() {
            let index = self.index(level + 1, block);
            if path.nodes[level].index == Some(index) {
                continue;
            }
            let mut node = self.read_node(level, index)?;
            if !self
                .salted
                .matches(&node, self.expected(path, level + 1, index))
            {
                return Err(Fault::Hash {
                    level,
                    levels,
                    block: index,
                    bytes: self.node_bytes(level, index),
                });
            }
            self.refuse_surplus(level, index, &node)?;
            let slot = &mut path.nodes[level];
            slot.index = Some(index);
            core::mem::swap(&mut slot.bytes, &mut node);
        }
        Ok(())
    }

    /// The digest that item `index` must have: a data block where `level` is
    /// 0, else a block of the level below.
    fn expected<'p>(&'p self, path: &'p Path, level: usize, index: u64) -> &'p [u8] {
        let Some(node) = path.nodes.get(level) else {
            return self.root.as_bytes();
        };
        let len = self.params.algorithm().digest_len();
        let slot = to_usize_masked(index, self.params.per_block_bits());
        // An empty digest matches nothing.
        node.bytes.get(slot * len..(slot + 1) * len).unwrap_or(&[])
    }

    fn read_node(&self, level: usize, index: u64) -> Result<Vec<u8>, Fault> {
        let mut node = vec![0; to_usize(self.params.hash_block_size())];
        self.hashes
            .read_at(self.node_bytes(level, index).start, &mut node)
            .map_err(|error| Fault::Read {
                device: Device::Hash,
                error,
            })?;
        Ok(node)
    }

    /// The tree's maker fills the last block of a level with zeros.
    fn refuse_surplus(&self, level: usize, index: u64, node: &[u8]) -> Result<(), Fault> {
        let below = match level.checked_sub(1) {
            Some(below) => self.geometry.levels()[below].blocks,
            None => self.params.data_blocks(),
        };
        let bits = self.params.per_block_bits();
        let used = below
            .saturating_sub(index << bits)
            .min(1 << bits)
            .saturating_mul(self.params.algorithm().digest_len() as u64);
        let rest = usize::try_from(used)
            .ok()
            .and_then(|used| node.get(used..))
            .unwrap_or(&[]);
        if rest.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        let bytes = self.node_bytes(level, index);
        Err(Fault::Surplus {
            level,
            block: index,
            bytes: bytes.start + used..bytes.end,
        })
    }

    /// Which item over data block `block` it is, `up` levels above the data.
    fn index(&self, up: usize, block: u64) -> u64 {
        let shift = u32::try_from(up)
            .unwrap_or(u32::MAX)
            .saturating_mul(self.params.per_block_bits());
        block.checked_shr(shift).unwrap_or(0)
    }

    fn node_bytes(&self, level: usize, index: u64) -> Range<u64> {
        self.bytes(
            self.geometry.levels()[level].start + index,
            self.params.hash_block_size(),
        )
    }

    /// The bytes of a block; `new` has seen that the last one's fit.
    fn bytes(&self, block: u64, size: u32) -> Range<u64> {
        block * u64::from(size)..(block + 1) * u64::from(size)
    }
}

#[cfg(feature = "build")]
impl<D: ReadAt + Sync, H: ReadAt + Sync> Verifier<'_, D, H> {
    /// [`Self::verify`] over the whole device, on all processors of the
    /// current rayon pool. `done` gets numbers of blocks to be added up.
    ///
    /// # Errors
    /// The first block that does not match or cannot be read, the same that
    /// one processor would find.
    pub fn verify_all(&self, done: impl Fn(u64) + Sync) -> Result<(), Fault> {
        use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

        /// Data blocks a task: enough that the hash blocks over them, which
        /// each task proves anew, do not count.
        const TASK: u64 = 4096;
        let tasks = self.params.data_blocks().div_ceil(TASK);
        let fault = (0..tasks).into_par_iter().find_map_first(|task| {
            let mut before = 0;
            self.verify(task * TASK..(task + 1) * TASK, |now| {
                done(now - before);
                before = now;
            })
            .err()
        });
        fault.map_or(Ok(()), Err)
    }
}

/// The proven hash blocks over a data block, by level.
#[derive(Debug, Default)]
struct Path {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    index: Option<u64>,
    bytes: Vec<u8>,
}

/// Block sizes are at most 64 KiB.
fn to_usize(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The low `bits` bits of `index`, of which there are at most 11.
fn to_usize_masked(index: u64, bits: u32) -> usize {
    usize::try_from(index & ((1 << bits) - 1)).unwrap_or(usize::MAX)
}
