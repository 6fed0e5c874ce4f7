//! Building hash trees, on all processors of the current rayon pool.

use alloc::vec;
use alloc::vec::Vec;

use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::{ParallelSlice as _, ParallelSliceMut as _};
use uuid::Uuid;

use crate::algorithm::Salted;
use crate::{Params, RootHash, Superblock};

/// How much data a task reads at once, in bytes: what stays in a processor's
/// cache until it is hashed.
const READ: usize = 128 << 10;

/// A hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// The root hash.
    pub root: RootHash,
    /// The tree's blocks as they lie on the hash device, top level first;
    /// empty over a single data block.
    pub blocks: Vec<u8>,
}

impl HashTree {
    /// Builds the tree over the first [`Params::data_len`] bytes of `data`.
    /// Reports data blocks hashed, to be added up; calls come from any thread.
    ///
    /// Memory: the tree (for SHA-256 and blocks of 4096 bytes, 1/127 of the
    /// data) and 128 KiB a thread.
    ///
    /// # Errors
    /// If `data` cannot be read or is shorter.
    pub fn build<S: ReadAt + Sync + ?Sized>(
        params: &Params,
        data: &S,
        done: impl Fn(u64) + Sync,
    ) -> Result<Self, ReadError> {
        // Before the memory for a tree over data that are not there is taken.
        if data.size() < params.data_len() {
            return Err(ReadError {
                offset: 0,
                len: params.data_len(),
                kind: ReadErrorKind::OutOfBounds { size: data.size() },
            });
        }
        let salted = Salted::new(params.algorithm(), params.salt());
        let digest_len = params.algorithm().digest_len();
        let mut root = vec![0; digest_len];
        if params.data_blocks() == 1 {
            let mut block = vec![0; to_usize(params.data_block_size())];
            data.read_at(0, &mut block)?;
            done(1);
            salted.digest(&block, &mut root);
            return Ok(Self::new(&root, Vec::new()));
        }

        let hash_block = to_usize(params.hash_block_size());
        let mut leaves = vec![0; level_len(params.data_blocks(), digest_len, hash_block)];
        hash_data(params, &salted, data, &mut leaves, &done)?;
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > hash_block) {
            let count = below.len() / hash_block;
            let mut level = vec![0; level_len(count as u64, digest_len, hash_block)];
            // Digests per block times digest length is the block size, so the
            // digests of a level are contiguous.
            level
                .par_chunks_mut(digest_len)
                .zip(below.par_chunks(hash_block))
                .for_each(|(digest, block)| salted.digest(block, digest));
            levels.push(level);
        }
        salted.digest(levels.last().map_or(&[], Vec::as_slice), &mut root);
        levels.reverse();
        Ok(Self::new(&root, levels.concat()))
    }

    fn new(root: &[u8], blocks: Vec<u8>) -> Self {
        Self {
            root: RootHash::from_bytes(root).expect("the digest has its function's length"),
            blocks,
        }
    }

    /// The bytes of a hash device with this tree: superblock, filled up to a
    /// hash block, and tree.
    #[must_use]
    pub fn hash_device(&self, params: &Params, uuid: Uuid) -> Vec<u8> {
        let superblock = Superblock {
            uuid,
            params: params.clone(),
        };
        let start = to_usize(params.hash_block_size());
        let mut out = Vec::with_capacity(start + self.blocks.len());
        out.extend_from_slice(&superblock.encode());
        out.resize(start, 0);
        out.extend_from_slice(&self.blocks);
        out
    }
}

/// Writes the digests of all data blocks to `leaves`.
fn hash_data<S: ReadAt + Sync + ?Sized>(
    params: &Params,
    salted: &Salted,
    data: &S,
    leaves: &mut [u8],
    done: &(impl Fn(u64) + Sync),
) -> Result<(), ReadError> {
    let digest_len = params.algorithm().digest_len();
    let block_len = to_usize(params.data_block_size());
    let per_task = READ / block_len;
    leaves
        .par_chunks_mut(per_task * digest_len)
        .enumerate()
        .try_for_each_init(
            || vec![0; READ],
            |buffer, (task, digests)| {
                let first = (task * per_task) as u64;
                // The last leaf has room for more blocks than there are.
                let count = params
                    .data_blocks()
                    .saturating_sub(first)
                    .min(per_task as u64)
                    .min((digests.len() / digest_len) as u64);
                let buffer = &mut buffer[..usize::try_from(count).unwrap_or(0) * block_len];
                if buffer.is_empty() {
                    return Ok(());
                }
                data.read_at(first * block_len as u64, buffer)?;
                let blocks = buffer.chunks_exact(block_len);
                for (digest, block) in digests.chunks_exact_mut(digest_len).zip(blocks) {
                    salted.digest(block, digest);
                }
                done(count);
                Ok(())
            },
        )
}

/// Length of a level over `items` blocks, in bytes. Data that fit an address
/// space have a tree that does.
fn level_len(items: u64, digest_len: usize, hash_block: usize) -> usize {
    usize::try_from(items)
        .unwrap_or(usize::MAX)
        .saturating_mul(digest_len)
        .next_multiple_of(hash_block)
}

/// Block sizes are at most 64 KiB.
fn to_usize(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
