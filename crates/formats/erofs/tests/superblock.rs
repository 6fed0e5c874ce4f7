//! The superblock, against dump.erofs and blkid, and what must be refused.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use iofs_erofs::{Algorithm, ErofsError, Superblock};
use support::{Image, field, plant, tool};

const UUID: &str = "6f0e4b1c-8a6d-4f60-9b4d-0f1b8f6a2a11";

fn small(options: &[&str]) -> Image {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), "contents ".repeat(5000)).unwrap();
    Image::make(options, tree.path())
}

#[test]
fn it_agrees_with_dump_erofs_and_blkid() {
    let tree = tempfile::tempdir().unwrap();
    plant(tree.path());
    for options in [
        &["-U", UUID, "-T", "1700000000"][..],
        &["-U", UUID, "-T", "1700000000", "-zlz4hc,9", "-C65536"],
        &[
            "-U",
            UUID,
            "-T",
            "1700000000",
            "-zlz4hc",
            "-Elegacy-compress",
        ],
        &["-U", UUID, "-T", "1700000000", "-Enosbcrc"],
    ] {
        let image = Image::make(options, tree.path());
        let bytes = image.bytes();
        let superblock = Superblock::read(&bytes[..]).unwrap();
        let text = image.dump(&["-s"]);
        let number = |name: &str| field(&text, name).parse::<u64>().unwrap();
        assert_eq!(superblock.uuid.to_string(), UUID);
        assert_eq!(superblock.root_nid, number("Filesystem root nid"));
        assert_eq!(superblock.inodes, number("Filesystem inode count"));
        assert_eq!(superblock.blocks, number("Filesystem blocks"));
        assert_eq!(
            u64::from(superblock.meta_block),
            number("Filesystem inode metadata start block")
        );
        assert_eq!(
            u64::from(superblock.xattr_block),
            number("Filesystem shared xattr metadata start block")
        );
        assert_eq!(superblock.build_time.0, 1_700_000_000);
        assert_eq!(superblock.block_size(), 4096);
        assert_eq!(superblock.size_bytes(), bytes.len() as u64);
        assert_eq!(superblock.features.unknown_incompat(), 0);
        let ours = superblock.features.to_string();
        for name in field(&text, "Filesystem features").split_whitespace() {
            assert!(ours.contains(name), "{name} is not in {ours}");
        }
        let blkid = tool(
            "blkid",
            &["-p", "-o", "export", image.path.to_str().unwrap()],
        );
        let blkid = String::from_utf8(blkid.stdout).unwrap();
        assert!(blkid.contains(&format!("UUID={UUID}\n")), "{blkid}");
        assert!(blkid.contains("TYPE=erofs\n"), "{blkid}");
        let algorithms: Vec<_> = superblock.algorithms().collect();
        assert_eq!(algorithms, [Algorithm::Lz4]);
    }
}

/// Every bit that the checksum covers counts, those of the checksum too.
#[test]
fn a_flipped_bit_is_seen() {
    let mut bytes = small(&[]).bytes();
    for at in (1024..1024 + 128).chain([2000, 4095]) {
        bytes[at] ^= 4;
        assert!(Superblock::read(&bytes[..]).is_err(), "byte {at}");
        bytes[at] ^= 4;
    }
    bytes[4096] ^= 4;
    Superblock::read(&bytes[..]).unwrap();
    bytes[1024 + 50] ^= 4;
    assert!(matches!(
        Superblock::read(&bytes[..]),
        Err(ErofsError::Checksum { .. })
    ));
}

#[test]
fn what_is_no_image_is_refused() {
    assert!(matches!(
        Superblock::read(&[0u8; 4096][..]),
        Err(ErofsError::NoMagic { magic: 0 })
    ));
    assert!(matches!(
        Superblock::read(&[0u8; 1100][..]),
        Err(ErofsError::Read(_))
    ));
    let bytes = small(&[]).bytes();
    // The superblock is whole but its block is not.
    assert!(matches!(
        Superblock::read(&bytes[..2048]),
        Err(ErofsError::Read(_))
    ));
}

/// Without a checksum the fields themselves must be possible.
#[test]
fn impossible_fields_are_named() {
    let bytes = small(&["-Enosbcrc"]).bytes();
    for (at, value, name) in [
        (12, &[8][..], "blkszbits"),
        (12, &[17], "blkszbits"),
        (36, &[0; 4], "blocks"),
        (40, &[0xff; 4], "meta_blkaddr"),
        (32, &[0xff; 4], "fixed_nsec"),
    ] {
        let mut wrong = bytes.clone();
        wrong[1024 + at..1024 + at + value.len()].copy_from_slice(value);
        match Superblock::read(&wrong[..]) {
            Err(ErofsError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut newer = bytes;
    newer[1024 + 83] = 0x80;
    let superblock = Superblock::read(&newer[..]).unwrap();
    assert_eq!(superblock.features.unknown_incompat(), 0x8000_0000);
    let names = superblock.features.to_string();
    assert!(names.contains("incompat:0x80000000"), "{names}");
}
