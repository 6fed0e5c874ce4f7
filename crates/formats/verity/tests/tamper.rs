//! Every changed byte is found and named.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;

use common::{Sample, UUID, params, sample};
use iofs_verity::build::HashTree;
use iofs_verity::{
    Algorithm, Device, Fault, RootHash, SUPERBLOCK_LEN, Superblock, SuperblockError, Unfit,
    Verifier,
};
use proptest::prelude::*;

/// What a boot or an offline check would see first.
#[derive(Debug, PartialEq)]
enum Found {
    Superblock(SuperblockError),
    Uuid,
    Unfit(Unfit),
    Fault(Fault),
}

fn check(data: &[u8], hashes: &[u8], root: RootHash) -> Result<(), Found> {
    let superblock = Superblock::read(hashes).map_err(Found::Superblock)?;
    let params = &superblock.params;
    let verifier =
        Verifier::new(params, root, params.tree_start(), data, hashes).map_err(Found::Unfit)?;
    verifier
        .verify(0..params.data_blocks(), |_| {})
        .map_err(Found::Fault)?;
    if superblock.uuid == UUID {
        Ok(())
    } else {
        Err(Found::Uuid)
    }
}

/// Three levels over 65 blocks of 512 bytes: small enough to change each byte.
fn small() -> Sample {
    sample(params(Algorithm::Sha512, (512, 512), 65, &[1, 2, 3]))
}

#[test]
fn every_byte_of_the_superblock() {
    let good = small();
    assert_eq!(check(&good.data, &good.hashes, good.tree.root), Ok(()));
    for at in 0..SUPERBLOCK_LEN {
        for mask in [1u8, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut hashes = good.hashes.clone();
            hashes[at] ^= mask;
            let found = check(&good.data, &hashes, good.tree.root)
                .expect_err(&format!("byte {at} changed by {mask:#04x}"));
            match at {
                0..8 => assert_eq!(found, Found::Superblock(SuperblockError::NoMagic)),
                16..32 => assert_eq!(found, Found::Uuid),
                82..88 | 91..512 => assert_eq!(
                    found,
                    Found::Superblock(SuperblockError::Padding { offset: at })
                ),
                // The salt: what is hashed first does not match.
                88..91 => {
                    let Found::Fault(Fault::Hash { level, levels, .. }) = found else {
                        panic!("{at}: {found:?}");
                    };
                    assert_eq!((level, levels), (2, 3));
                }
                _ => {}
            }
        }
    }
}

/// Any other number of data blocks is seen, those with the same tree too.
#[test]
fn every_number_of_data_blocks() {
    for (blocks, others) in [(65, 1..140), (64, 1..140), (1, 2..20)] {
        let good = sample(params(Algorithm::Sha512, (512, 512), blocks, &[9]));
        // A device is seldom exactly as long as what lies on it.
        let mut data = good.data.clone();
        data.resize(data.len() + 512 * 80, 0);
        let mut hashes = good.hashes.clone();
        hashes.resize(hashes.len() + 512 * 80, 0);
        for other in others.filter(|&other| other != blocks) {
            hashes[72..80].copy_from_slice(&u64::to_le_bytes(other));
            let found = check(&data, &hashes, good.tree.root);
            assert!(
                matches!(found, Err(Found::Fault(_))),
                "{other} for {blocks}: {found:?}"
            );
        }
    }
}

#[test]
fn every_byte_of_the_tree() {
    let mut tampered = small();
    let geometry = tampered.params.geometry(1).unwrap();
    assert_eq!(geometry.levels().len(), 3);
    assert_eq!(geometry.end(), tampered.hashes.len() as u64);
    for (number, level) in geometry.levels().iter().enumerate() {
        for index in 0..level.blocks {
            let start = (level.start + index) * 512;
            for at in start..start + 512 {
                let at = usize::try_from(at).unwrap();
                tampered.hashes[at] ^= 0x10;
                let found = check(&tampered.data, &tampered.hashes, tampered.tree.root);
                let expected = Fault::Hash {
                    level: number,
                    levels: 3,
                    block: index,
                    bytes: start..start + 512,
                };
                assert_eq!(found, Err(Found::Fault(expected)));
                tampered.hashes[at] ^= 0x10;
            }
        }
    }
}

#[test]
fn every_byte_of_the_data() {
    for blocks in [1, 9] {
        let mut tampered = sample(params(Algorithm::Sha256, (512, 512), blocks, &[]));
        for at in 0..tampered.data.len() {
            tampered.data[at] ^= 1;
            let block = at as u64 / 512;
            let found = check(&tampered.data, &tampered.hashes, tampered.tree.root);
            let bytes = block * 512..(block + 1) * 512;
            assert_eq!(found, Err(Found::Fault(Fault::Data { block, bytes })));
            tampered.data[at] ^= 1;
        }
    }
}

#[test]
fn every_byte_of_the_root_hash() {
    let good = small();
    for at in 0..64 {
        let mut root = good.tree.root.as_bytes().to_vec();
        root[at] ^= 0x80;
        let found = check(
            &good.data,
            &good.hashes,
            RootHash::from_bytes(&root).unwrap(),
        );
        let Err(Found::Fault(fault @ Fault::Hash { level: 2, .. })) = found else {
            panic!("{at}: {found:?}");
        };
        assert!(fault.to_string().contains("root hash"), "{fault}");
    }
    let short = RootHash::from_bytes(&[0; 32]).unwrap();
    assert_eq!(
        check(&good.data, &good.hashes, short),
        Err(Found::Unfit(Unfit::RootHash {
            root: short,
            algorithm: Algorithm::Sha512
        }))
    );
}

#[test]
fn truncated_devices_are_named() {
    let good = small();
    let (data, hashes, root) = (&good.data, &good.hashes, good.tree.root);
    let unfit = |device, size, needed| {
        Err(Found::Unfit(Unfit::Truncated {
            device,
            size,
            needed,
        }))
    };
    assert_eq!(
        check(&data[1..], hashes, root),
        unfit(Device::Data, 33279, 33280)
    );
    let len = hashes.len() as u64;
    assert_eq!(
        check(data, &hashes[..hashes.len() - 1], root),
        unfit(Device::Hash, len - 1, len)
    );
    let error = HashTree::build(&good.params, &data[1..], |_| {}).unwrap_err();
    assert_eq!((error.offset, error.len), (0, 33280));
}

/// A tree over more data whose surplus digests are proven is still no tree of
/// these data.
#[test]
fn digests_that_nothing_belongs_to_are_named() {
    let good = sample(params(Algorithm::Sha256, (512, 512), 28, &[]));
    let fewer = params(Algorithm::Sha256, (512, 512), 27, &[]);
    let verifier = Verifier::new(&fewer, good.tree.root, 1, &good.data, &good.hashes).unwrap();
    // The first leaf is full, with 16 digests; the second would have 11.
    assert_eq!(verifier.verify(0..16, |_| {}), Ok(()));
    assert_eq!(
        verifier.verify(0..27, |_| {}),
        Err(Fault::Surplus {
            level: 0,
            block: 1,
            bytes: 1888..2048
        })
    );
}

#[test]
fn all_processors_name_the_same_first_fault() {
    let mut tampered = sample(params(Algorithm::Sha256, (512, 512), 20_000, &[7]));
    let verify = |tampered: &Sample| {
        let (params, root) = (&tampered.params, tampered.tree.root);
        let verifier = Verifier::new(params, root, 1, &tampered.data, &tampered.hashes).unwrap();
        let done = std::sync::atomic::AtomicU64::new(0);
        let all = verifier.verify_all(|n| {
            done.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        });
        let one = verifier.verify(0..u64::MAX, |_| {});
        assert_eq!(all, one);
        (all, done.into_inner())
    };
    assert_eq!(verify(&tampered), (Ok(()), 20_000));
    for block in [19_999, 12_345, 4096, 4095] {
        tampered.data[block * 512] ^= 1;
        let block = block as u64;
        let bytes = block * 512..(block + 1) * 512;
        assert_eq!(verify(&tampered).0, Err(Fault::Data { block, bytes }));
    }
}

/// Where the bytes of data and tree lie that are read to prove a data block.
fn path(sample: &Sample, block: u64) -> Vec<Range<u64>> {
    let bits = sample.params.hash_block_size().trailing_zeros() - 5;
    let levels = sample.params.geometry(1).unwrap();
    let node = |(level, place): (usize, &iofs_verity::Level)| {
        let index = place.start + (block >> (bits * (u32::try_from(level).unwrap() + 1)));
        index * 512..(index + 1) * 512
    };
    levels.levels().iter().enumerate().map(node).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One block is proven by its own path: a byte elsewhere does not matter.
    #[test]
    fn a_block_is_proven_by_its_path(
        blocks in 1..200u64,
        block in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        mask in 1..=255u8,
    ) {
        let mut sample = sample(params(Algorithm::Sha256, (512, 512), blocks, &[3; 32]));
        let block = block.index(usize::try_from(blocks).unwrap()) as u64;
        if sample.hashes.len() == SUPERBLOCK_LEN {
            return Ok(());
        }
        let at = SUPERBLOCK_LEN + byte.index(sample.hashes.len() - SUPERBLOCK_LEN);
        sample.hashes[at] ^= mask;
        let verifier =
            Verifier::new(&sample.params, sample.tree.root, 1, &sample.data, &sample.hashes)
                .unwrap();
        let on_path = path(&sample, block).iter().any(|bytes| bytes.contains(&(at as u64)));
        prop_assert_eq!(verifier.verify(block..block + 1, |_| {}).is_err(), on_path);
    }

    /// Hostile superblocks over a medium of any size: no panic, no great memory.
    #[test]
    fn no_superblock_panics(
        fields in prop::collection::vec((64..SUPERBLOCK_LEN, any::<u8>()), 0..12),
        shifts in (0..40u32, 0..40u32, 0..64u32),
        salt in 0..300u16,
        size in 0..4096usize,
    ) {
        let mut bytes = Superblock {
            uuid: UUID,
            params: params(Algorithm::Sha256, (512, 512), 5, &[]),
        }
        .encode();
        bytes[64..68].copy_from_slice(&1u32.checked_shl(shifts.0).unwrap_or(0).to_le_bytes());
        bytes[68..72].copy_from_slice(&1u32.checked_shl(shifts.1).unwrap_or(0).to_le_bytes());
        bytes[72..80].copy_from_slice(&(1u64 << shifts.2).to_le_bytes());
        bytes[80..82].copy_from_slice(&salt.to_le_bytes());
        for (at, byte) in fields {
            bytes[at] = byte;
        }
        if let Ok(superblock) = Superblock::parse(&bytes) {
            prop_assert_eq!(superblock.encode(), bytes);
            let mut hashes = bytes.to_vec();
            hashes.resize(SUPERBLOCK_LEN + size, 0);
            let root = RootHash::from_bytes(&[0; 32]).unwrap();
            let data = vec![0; size];
            if let Ok(verifier) = Verifier::new(&superblock.params, root, 1, &data, &hashes) {
                let verified = verifier.verify(0..u64::MAX, |_| {});
                prop_assert!(verified.is_err());
            }
        }
    }
}
