//! Damaged and hostile images: errors are fine; panics, endless work and
//! memory beyond the image's own size are bugs.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::OnceLock;

use iofs_erofs::Superblock;
use iofs_erofs::tree::{FileType, Tree, TreeError};
use iofs_source::Limited;
use proptest::prelude::*;
use support::{Image, noise};

/// Small images without a checksum, so that damage gets past it.
fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        symlink("a/b", root.path().join("link")).unwrap();
        fs::write(root.path().join("a/file"), noise(10_000, 1)).unwrap();
        fs::write(root.path().join("a/b/text"), "text ".repeat(9000)).unwrap();
        for index in 0..300 {
            let name = format!("a/b/c/{index:03}-with-a-long-name");
            fs::write(root.path().join(name), [0; 10]).unwrap();
        }
        for name in ["a/file", "a/b", "a"] {
            let (path, flags) = (root.path().join(name), rustix::fs::XattrFlags::empty());
            rustix::fs::lsetxattr(&path, "user.one", b"own", flags).unwrap();
            rustix::fs::lsetxattr(&path, "user.two", name.as_bytes(), flags).unwrap();
        }
        [
            &["-Enosbcrc"][..],
            &["-Enosbcrc,legacy-compress", "-zlz4hc", "-x1"],
            &["-Enosbcrc,force-chunk-indexes", "--chunksize=4096", "-T1"],
        ]
        .iter()
        .map(|options| Image::make(options, root.path()).bytes())
        .collect()
    })
}

/// Does all that there is to do. Reads are bounded by the image's size times
/// what every inode may take.
fn exhaust(bytes: &[u8]) -> Result<usize, TreeError> {
    let tree = Tree::open(Limited::new(bytes, 64 << 20))?;
    let mut count = 0;
    let mut buf = [0; 5000];
    for node in tree.walk() {
        let inode = node?.inode;
        count += 1;
        assert!(count <= bytes.len() / 12, "more names than bytes for them");
        let _ = tree.xattrs(&inode);
        match inode.kind {
            FileType::Symlink => drop(tree.link_target(&inode)),
            FileType::Regular => {
                let _ = tree.read(&inode, 0, &mut buf);
                let end = inode.size.saturating_sub(5000);
                let _ = tree.read(&inode, end, &mut buf);
            }
            _ => {}
        }
    }
    Ok(count)
}

#[test]
fn undamaged_images_are_read_whole() {
    for bytes in images() {
        assert_eq!(exhaust(bytes).unwrap(), 307);
    }
}

/// Offset of the entry for `name` in the image: where another node id changes
/// what the directory says.
fn entry_offset(bytes: &[u8], directory: &str, name: &str) -> usize {
    let nid_of = |bytes: &[u8]| {
        let tree = Tree::open(bytes).unwrap();
        let entries = tree.entries(&tree.lookup(directory).ok()?).ok()?;
        let entry = entries.iter().find(|e| e.name == name.as_bytes())?;
        Some(entry.nid)
    };
    let nid = nid_of(bytes).unwrap();
    (0..bytes.len() - 12)
        .filter(|&at| bytes[at..at + 8] == nid.to_le_bytes())
        .find(|&at| {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            nid_of(&changed) == Some(nid ^ 1)
        })
        .unwrap()
}

fn corrupt(bytes: &[u8]) -> &'static str {
    match exhaust(bytes) {
        Err(TreeError::Corrupt { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_inside_itself() {
    let mut bytes = images()[0].clone();
    let at = entry_offset(&bytes, "a/b", "c");
    let nid = Tree::open(&bytes[..]).unwrap().lookup("a").unwrap().nid;
    bytes[at..at + 8].copy_from_slice(&nid.to_le_bytes());
    let what = corrupt(&bytes);
    assert_eq!(what, "the directory is in two places, or in itself");
}

#[test]
fn an_entry_outside_the_image_or_of_another_type() {
    let bytes = images()[0].clone();
    let at = entry_offset(&bytes, "a/b", "c");
    let mut wrong = bytes.clone();
    wrong[at..at + 8].copy_from_slice(&(1u64 << 59).to_le_bytes());
    assert_eq!(corrupt(&wrong), "it lies outside the image");
    let mut wrong = bytes.clone();
    wrong[at + 10] = 1;
    assert_eq!(
        corrupt(&wrong),
        "its directory says that it is something else"
    );
    let mut wrong = bytes.clone();
    wrong[at + 10] = 9;
    assert_eq!(corrupt(&wrong), "a directory entry has an unknown type");
    let mut wrong = bytes.clone();
    wrong[at + 8] = 0;
    assert_eq!(
        corrupt(&wrong),
        "the names of a directory block are out of order"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn damaged_metadata(
        image in 0usize..3,
        damage in prop::collection::vec((0usize..40_000, any::<u8>()), 1..6),
    ) {
        let mut bytes = images()[image].clone();
        for (at, value) in damage {
            // Metadata is at the start; its bytes are worth more than data's.
            let at = 1024 + at % (bytes.len() - 1024);
            bytes[at] = value;
        }
        let _ = exhaust(&bytes);
    }

    #[test]
    fn damaged_superblocks(
        damage in prop::collection::vec((0usize..128, any::<u8>()), 1..8),
        cut in 0usize..6000,
    ) {
        let mut bytes = images()[0].clone();
        for (at, value) in damage {
            bytes[1024 + at] = value;
        }
        let _ = Superblock::read(&bytes[..]);
        let _ = exhaust(&bytes);
        let _ = Superblock::read(&bytes[..cut.min(bytes.len())]);
    }

    #[test]
    fn noise_behind_a_superblock(seed: u64) {
        let mut bytes = noise(16_384, seed);
        bytes[..1152].copy_from_slice(&images()[0][..1152]);
        // Four blocks.
        bytes[1024 + 36..1024 + 40].copy_from_slice(&[4, 0, 0, 0]);
        let _ = exhaust(&bytes);
    }
}
