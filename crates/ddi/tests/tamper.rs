//! Images that were changed, and partition tables that mislead.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::LazyLock;

use common::{erofs, image};
use ddi::{Arch, Ddi, DdiError, Role, RootHash, Uuid};
use iofs_gpt::{Layout, NewPartition, types};
use iofs_verity::{Fault, Signature, SuperblockError};
use proptest::prelude::*;

static IMAGE: LazyLock<(Vec<u8>, RootHash)> = LazyLock::new(|| image(&erofs(), Arch::X86_64));

fn check(bytes: &[u8], root: &RootHash) -> Result<Option<Signature>, DdiError> {
    let found = Ddi::read(bytes, Arch::X86_64)?;
    found.verify(bytes, root, |_| {})?;
    found.signature(bytes)
}

/// What is found when the byte at `at` is changed.
fn changed(bytes: &mut [u8], at: usize) -> Result<Option<Signature>, DdiError> {
    bytes[at] ^= 0x20;
    let found = check(bytes, &IMAGE.1);
    bytes[at] ^= 0x20;
    found
}

fn start(part: &ddi::Part) -> usize {
    usize::try_from(part.start).unwrap()
}

#[test]
fn the_partition_table() {
    let (mut bytes, root) = IMAGE.clone();
    assert!(check(&bytes, &root).unwrap().is_some());
    // The header, and an entry array of 128 times 128 bytes.
    for at in (512..512 + 92).chain((1024..1024 + 384).chain((1408..17408).step_by(13))) {
        let found = changed(&mut bytes, at);
        assert!(
            matches!(found, Err(DdiError::PrimaryDamaged(_))),
            "{at}: {found:?}"
        );
    }
}

#[test]
fn the_superblock() {
    let (mut bytes, _) = IMAGE.clone();
    let found = Ddi::read(&bytes, Arch::X86_64).unwrap();
    let from = start(&found.verity);
    for at in from..from + 512 {
        let error = changed(&mut bytes, at).unwrap_err();
        let range = from as u64..from as u64 + 512;
        match at - from {
            16..32 => assert!(
                matches!(&error, DdiError::SuperblockUuid { bytes, .. } if *bytes == range),
                "{at}: {error}"
            ),
            offset @ (82..88 | 120..512) => assert_eq!(
                error,
                DdiError::Superblock {
                    bytes: range,
                    error: SuperblockError::Padding { offset }
                }
            ),
            _ => {}
        }
    }
}

/// Each range names the bytes of the image that were changed.
#[test]
fn tree_and_data() {
    let (mut bytes, _) = IMAGE.clone();
    let found = Ddi::read(&bytes, Arch::X86_64).unwrap();
    let (tree, data) = (start(&found.verity) + 4096, start(&found.root));
    let tree = tree..tree + 3 * 4096;
    let superblock = data + 1024..data + 1024 + 128;
    let rest = (data..data + 560 * 1024).step_by(4001);
    for at in tree.clone().step_by(61).chain(superblock).chain(rest) {
        let error = changed(&mut bytes, at).unwrap_err();
        let DdiError::Fault {
            bytes: Some(range),
            fault,
        } = error
        else {
            panic!("{at}: {error}");
        };
        assert!(range.contains(&(at as u64)), "{at}: {fault}");
        assert_eq!(range.end - range.start, 4096);
        let hash = matches!(fault, Fault::Hash { .. });
        assert_eq!(hash, tree.contains(&at), "{at}: {fault}");
    }
}

/// A changed signature either is none, or is another one, which whoever checks
/// it will see.
#[test]
fn the_signature() {
    let (mut bytes, root) = IMAGE.clone();
    let original = check(&bytes, &root).unwrap();
    let found = Ddi::read(&bytes, Arch::X86_64).unwrap().signature.unwrap();
    let from = start(&found);
    for at in from..from + 16384 {
        if let Ok(other) = changed(&mut bytes, at) {
            // Upper-case digits are the same number.
            let digit = bytes[at].is_ascii_lowercase() && (bytes[at] ^ 0x20).is_ascii_hexdigit();
            // So is an object with a space behind it the same object.
            let space = bytes[at - 1..=at] == *b"}\0";
            assert!(digit || space || other != original, "{at}");
        }
    }
}

#[test]
fn another_image_and_other_architectures() {
    let (bytes, root) = &*IMAGE;
    let mut other = root.as_bytes().to_vec();
    for (at, role) in [(0, Role::Root), (31, Role::Verity)] {
        other[at] ^= 1;
        let error = check(bytes, &RootHash::from_bytes(&other).unwrap()).unwrap_err();
        assert!(
            matches!(error, DdiError::PartUuid { role: found, .. } if found == role),
            "{error}"
        );
        other[at] ^= 1;
    }
    assert_eq!(
        Ddi::read(bytes, Arch::Arm64),
        Err(DdiError::Missing {
            role: Role::Root,
            arch: Arch::Arm64
        })
    );
}

#[test]
fn truncated_images() {
    let (bytes, root) = &*IMAGE;
    // The last one has lost the backup table and a block before it. Less than
    // the backup table is no loss: it is never read.
    for len in [0, 511, 512, 1024, 17408, 1 << 20, bytes.len() - 34 * 512] {
        let found = check(&bytes[..len], root);
        assert!(
            matches!(found, Err(DdiError::Gpt(_) | DdiError::PrimaryDamaged(_))),
            "{len}: {found:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any set of partitions: found are those that are there once and not to
    /// be left alone.
    #[test]
    fn partitions_are_found_by_type(
        entries in prop::collection::vec((0..5usize, any::<bool>()), 0..6),
    ) {
        let kinds = [
            types::ROOT_X86_64,
            types::ROOT_X86_64_VERITY,
            types::ROOT_X86_64_VERITY_SIG,
            types::ROOT_ARM64,
            types::ESP,
        ];
        let size = Layout::disk_size_for(entries.iter().map(|_| 512), 512);
        let mut layout = Layout::new(size, 512, Uuid::from_u128(1)).unwrap();
        for (number, &(kind, no_auto)) in (2u128..).zip(&entries) {
            layout.add(&NewPartition {
                type_guid: kinds[kind],
                part_guid: Uuid::from_u128(number),
                name: "",
                size: 512,
                attributes: u64::from(no_auto) << 63,
            }).unwrap();
        }
        let mut disk = vec![0; usize::try_from(size).unwrap()];
        for (at, run) in layout.runs() {
            let at = usize::try_from(at).unwrap();
            disk[at..at + run.len()].copy_from_slice(&run);
        }
        let numbers = |kind: usize| -> Vec<u32> {
            let all = (1u32..).zip(&entries);
            all.filter(|(_, entry)| **entry == (kind, false)).map(|(number, _)| number).collect()
        };
        let counts = [0, 1, 2].map(|kind| numbers(kind).len());
        match Ddi::read(&disk, Arch::X86_64) {
            Ok(found) => {
                prop_assert_eq!(vec![found.root.number], numbers(0));
                prop_assert_eq!(vec![found.verity.number], numbers(1));
                let signature: Vec<u32> = found.signature.iter().map(|p| p.number).collect();
                prop_assert_eq!(signature, numbers(2));
                // There is nothing in them.
                let root = RootHash::from_bytes(&[0; 32]).unwrap();
                prop_assert!(found.trees(&disk, &root).is_err());
            }
            Err(DdiError::Missing { role, .. }) => {
                prop_assert_eq!(counts[role as usize], 0);
            }
            Err(DdiError::Twice { role, numbers: [one, two] }) => {
                prop_assert_eq!(&numbers(role as usize)[..2], &[one, two]);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    /// Bytes changed anywhere in the image: errors are fine, panics are bugs,
    /// and what is accepted has the original data.
    #[test]
    fn no_changes_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut bytes, root) = IMAGE.clone();
        let original = Ddi::read(&bytes, Arch::X86_64).unwrap().root;
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if check(&bytes, &root).is_ok() {
            let range = start(&original)..start(&original) + usize::try_from(original.len).unwrap();
            prop_assert!(bytes[range.clone()] == IMAGE.0[range]);
        }
    }
}
