//! Damaged and contradictory tables: each with its own message, none panics.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use common::{guid, image, reseal, reseal_header, sample};
use iofs_gpt::{
    Copy, GptError, HeaderError, Layout, LayoutError, MAX_ENTRIES, NewPartition, PartitionError,
    Table, Uuid, types,
};
use iofs_source::{Limited, ReadAt, ReadError, ReadErrorKind};
use proptest::prelude::*;

const SIZE: u64 = 16 << 20;
const LAST: u64 = SIZE / 512 - 1;
const HEADER: usize = 512;
const ENTRIES: usize = 1024;

fn good() -> Vec<u8> {
    image(SIZE, &sample(SIZE, 512))
}

/// The primary's error after `change`, the header being sealed again.
fn primary_error(change: impl FnOnce(&mut [u8])) -> HeaderError {
    let mut image = good();
    change(&mut image[HEADER..HEADER + 512]);
    reseal_header(&mut image, HEADER);
    let table = Table::read(&image, 512).unwrap();
    assert_eq!(table.copy, Copy::Backup);
    table.primary_error.unwrap()
}

fn put64(at: usize, value: u64) -> impl FnOnce(&mut [u8]) {
    move |header| header[at..at + 8].copy_from_slice(&value.to_le_bytes())
}

fn put32(at: usize, value: u32) -> impl FnOnce(&mut [u8]) {
    move |header| header[at..at + 4].copy_from_slice(&value.to_le_bytes())
}

#[test]
fn each_damage_to_a_header_has_its_name() {
    assert_eq!(
        primary_error(|h| h[0] = 0),
        HeaderError::Signature { lba: 1 }
    );
    assert_eq!(
        primary_error(put32(8, 0x0002_0000)),
        HeaderError::Revision { found: 0x0002_0000 }
    );
    for size in [0, 91, 513, u32::MAX] {
        let expected = HeaderError::HeaderSize { found: size };
        assert_eq!(primary_error(put32(12, size)), expected);
    }
    assert_eq!(
        primary_error(put64(24, 7)),
        HeaderError::Misplaced { stated: 7, lba: 1 }
    );
    for (first, last) in [
        (1, 100),
        (200, 100),
        (34, LAST),
        (34, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let error = primary_error(|h| {
            put64(40, first)(h);
            put64(48, last)(h);
        });
        assert_eq!(error, HeaderError::UsableRange { first, last });
    }
    for found in [0, 64, 127, 384, 2048, u32::MAX] {
        let expected = HeaderError::EntrySize { found };
        assert_eq!(primary_error(put32(84, found)), expected);
    }
    for found in [0, MAX_ENTRIES + 1, u32::MAX] {
        let expected = HeaderError::EntryCount { found };
        assert_eq!(primary_error(put32(80, found)), expected);
    }
    for lba in [0, 1, 3, 40, LAST - 31, LAST, u64::MAX - 3, u64::MAX] {
        let expected = HeaderError::EntriesMisplaced { lba };
        assert_eq!(primary_error(put64(72, lba)), expected);
    }
}

#[test]
fn every_flipped_bit_of_the_primary_is_seen() {
    let good = good();
    let expected = Table::read(&good, 512).unwrap();
    for at in HEADER..HEADER + 92 {
        for bit in 0..8 {
            let mut image = good.clone();
            image[at] ^= 1 << bit;
            let table = Table::read(&image, 512).unwrap();
            assert_eq!(table.copy, Copy::Backup, "bit {bit} of byte {at}");
            assert_eq!(table.partitions, expected.partitions);
        }
    }
    for at in (ENTRIES..ENTRIES + 128 * 128).step_by(61) {
        let mut image = good.clone();
        image[at] ^= 0x10;
        let table = Table::read(&image, 512).unwrap();
        assert_eq!(
            table.primary_error,
            Some(HeaderError::EntriesChecksum { lba: 2 })
        );
    }
}

#[test]
fn a_bad_sector_leads_to_the_backup() {
    struct Bad(Vec<u8>, u64);
    impl ReadAt for Bad {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            let len = buf.len() as u64;
            if (offset..offset + len).contains(&self.1) {
                let kind = ReadErrorKind::Io { errno: 5 };
                return Err(ReadError { offset, len, kind });
            }
            self.0.read_at(offset, buf)
        }
        fn size(&self) -> u64 {
            self.0.size()
        }
    }
    for at in [0, 512, 1024] {
        let table = Table::read(&Bad(good(), at), 512).unwrap();
        assert_eq!(table.copy, Copy::Backup);
        let error = table.primary_error.unwrap().to_string();
        assert!(error.contains("errno 5"), "{error}");
    }
}

#[test]
fn both_damaged_says_both() {
    let mut image = good();
    let len = image.len();
    image[HEADER + 60] ^= 1;
    image[len - 512 + 24] ^= 1;
    let error = Table::read(&image, 512).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "both GPTs are damaged: primary: the checksum of the header in block 1 does not \
             match; backup: the checksum of the header in block {LAST} does not match"
        )
    );
}

/// Changes an entry's first and last block and reads the table.
fn with_blocks(number: usize, first: u64, last: u64) -> Result<Table, GptError> {
    let mut image = good();
    reseal(&mut image, HEADER, ENTRIES, |image| {
        let at = ENTRIES + (number - 1) * 128;
        put64(at + 32, first)(image);
        put64(at + 40, last)(image);
    });
    Table::read(&image, 512)
}

#[test]
fn partitions_that_cannot_be_are_refused() {
    let last_usable = LAST - 33;
    assert!(with_blocks(3, 30_000, last_usable).is_ok());
    for (first, last) in [
        (30_000, 29_999),
        (0, 40),
        (33, 40),
        (30_000, last_usable + 1),
        (30_000, u64::MAX),
        (u64::MAX, u64::MAX),
        (u64::MAX, 0),
    ] {
        assert_eq!(
            with_blocks(3, first, last).unwrap_err(),
            GptError::Partition {
                copy: Copy::Primary,
                number: 3,
                problem: PartitionError::Range { first, last }
            }
        );
    }
    // Blocks 2048 to 12287 are partition 1's.
    assert!(with_blocks(3, 34, 2047).is_ok());
    for (first, last) in [
        (34, 2048),
        (3000, 3000),
        (12_287, 12_287),
        (34, last_usable),
    ] {
        assert_eq!(
            with_blocks(3, first, last).unwrap_err(),
            GptError::Partition {
                copy: Copy::Primary,
                number: 3,
                problem: PartitionError::Overlap { with: 1 }
            }
        );
    }
}

/// The greatest number that a header can state, with entries of every size:
/// the entries are not read, nor is there memory for them.
#[test]
fn tables_with_2_to_the_32_entries_are_refused_unread() {
    for size in [128, 256, 4096, 1 << 31, u32::MAX] {
        for count in [u32::MAX, 1 << 31, MAX_ENTRIES + 1] {
            let mut image = good();
            let backup = image.len() - 512;
            for header in [HEADER, backup] {
                put32(80, count)(&mut image[header..]);
                put32(84, size)(&mut image[header..]);
                reseal_header(&mut image, header);
            }
            let error = Table::read(&Limited::new(&image, 4096), 512).unwrap_err();
            let GptError::Damaged { primary, backup } = error else {
                panic!("{count} entries of {size} bytes: {error}");
            };
            for error in [primary, backup] {
                assert!(matches!(
                    error,
                    HeaderError::EntryCount { .. } | HeaderError::EntrySize { .. }
                ));
            }
        }
    }
}

/// A disk as large as a number of bytes can be, and places on it at which
/// blocks times bytes go beyond.
#[test]
fn sizes_that_overflow_64_bits_are_refused() {
    struct Endless(Vec<u8>);
    impl ReadAt for Endless {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            buf.fill(0);
            let here = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
            for (to, from) in buf.iter_mut().zip(here.unwrap_or(&[])) {
                *to = *from;
            }
            Ok(())
        }
        fn size(&self) -> u64 {
            u64::MAX
        }
    }
    let blocks = u64::MAX / 512;
    let read = |usable: u64, first: u64, last: u64| {
        let mut image = good();
        reseal(&mut image, HEADER, ENTRIES, |image| {
            put64(48, usable)(&mut image[HEADER..]);
            let at = ENTRIES + 2 * 128;
            put64(at + 32, first)(image);
            put64(at + 40, last)(image);
        });
        Table::read(&Endless(image), 512)
    };
    // As far as the disk goes, all is well.
    let table = read(blocks - 34, 1 << 40, blocks - 34).unwrap();
    let far = table.partitions.iter().find(|p| p.number == 3).unwrap();
    assert_eq!((far.start, far.end()), (1 << 49, (blocks - 33) * 512));
    for usable in [blocks, blocks + 1, 1 << 55, 1 << 63, u64::MAX] {
        let error = read(usable, 1 << 40, 1 << 41).unwrap_err();
        assert!(
            matches!(error, GptError::Damaged { .. }),
            "{usable}: {error}"
        );
    }
    for (first, last) in [
        (1 << 40, blocks),
        (1 << 40, u64::MAX),
        (1 << 55, (1 << 55) + 1),
        (1 << 63, u64::MAX - 1),
        // Multiplied by 512, a small place.
        ((1 << 55) + 20_000, (1 << 55) + 30_000),
    ] {
        let problem = PartitionError::Range { first, last };
        let error = read(blocks - 34, first, last).unwrap_err();
        assert!(
            matches!(&error, GptError::Partition { problem: found, .. } if *found == problem),
            "{first} to {last}: {error}"
        );
    }
}

#[test]
fn what_is_no_gpt_is_named() {
    let read = |image: Vec<u8>, block_size| Table::read(&image, block_size).unwrap_err();
    assert_eq!(read(vec![0; 1 << 20], 512), GptError::NotPartitioned);
    assert_eq!(read(vec![], 512), GptError::TooSmall { size: 0 });
    assert_eq!(read(vec![0; 4000], 4096), GptError::TooSmall { size: 4000 });
    for block_size in [0, 1, 256, 513, 8192, u32::MAX] {
        let expected = GptError::BlockSize { block_size };
        assert_eq!(read(vec![0; 1 << 20], block_size), expected);
    }
    assert_eq!(
        read(good(), 4096),
        GptError::OtherBlockSize {
            block_size: 4096,
            table: 512
        }
    );
    let mut image = image(SIZE, &sample(SIZE, 4096));
    assert!(Table::read(&image, 4096).is_ok());
    // Without the protective MBR too.
    image[..512].fill(0);
    assert_eq!(
        read(image, 512),
        GptError::OtherBlockSize {
            block_size: 512,
            table: 4096
        }
    );
}

#[test]
fn names_that_are_not_utf16_do_not_hide_a_partition() {
    let mut image = good();
    reseal(&mut image, HEADER, ENTRIES, |image| {
        image[ENTRIES + 56..ENTRIES + 60].copy_from_slice(&[0x00, 0xd8, 0x41, 0x00]);
    });
    let table = Table::read(&image, 512).unwrap();
    assert!(table.partitions[0].name.starts_with("\u{fffd}AI"));
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let mut layout = Layout::new(SIZE, 512, guid(0)).unwrap();
    let new = NewPartition {
        type_guid: types::ESP,
        part_guid: guid(1),
        name: "esp",
        size: 1 << 20,
        attributes: 0,
    };
    layout.add(&new).unwrap();
    let mut error = |new: NewPartition<'_>| layout.add(&new).unwrap_err();
    assert!(matches!(error(new), LayoutError::Guid { .. }));
    let next = NewPartition {
        part_guid: guid(2),
        ..new
    };
    for wrong in [
        NewPartition {
            part_guid: Uuid::nil(),
            ..next
        },
        NewPartition {
            type_guid: Uuid::nil(),
            ..next
        },
    ] {
        assert!(matches!(error(wrong), LayoutError::Guid { .. }));
    }
    let name = &"x".repeat(37);
    for name in [name, "𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞", "a\0b"]
    {
        let wrong = NewPartition { name, ..next };
        assert!(matches!(error(wrong), LayoutError::Name { .. }));
    }
    let empty = NewPartition { size: 0, ..next };
    assert!(matches!(error(empty), LayoutError::Empty { .. }));
    let left = SIZE - (2 << 20) - 33 * 512;
    for size in [left + 1, u64::MAX] {
        match error(NewPartition { size, ..next }) {
            LayoutError::NoRoom { left: found, .. } => assert_eq!(found, left),
            other => panic!("{other}"),
        }
    }
    layout.add(&NewPartition { size: left, ..next }).unwrap();
    assert_eq!(layout.left(), 0);

    for size in [0, 511, 34 * 512, (1 << 20) + 512] {
        let error = Layout::new(size, 512, guid(0)).unwrap_err();
        assert!(matches!(error, LayoutError::DiskTooSmall { .. }));
    }
    assert!(Layout::new(SIZE, 8192, guid(0)).is_err());
}

#[test]
fn a_layout_takes_128_partitions() {
    let sizes = [1 << 20; 128];
    for block_size in [512, 4096] {
        let size = Layout::disk_size_for(sizes, block_size);
        let mut layout = Layout::new(size, block_size, guid(0)).unwrap();
        let new = |number| NewPartition {
            type_guid: types::LINUX_GENERIC,
            part_guid: guid(number),
            name: "",
            size: 1 << 20,
            attributes: 0,
        };
        for number in 1..=128 {
            layout.add(&new(number)).unwrap();
        }
        assert_eq!(layout.add(&new(129)).unwrap_err(), LayoutError::TooMany);
        let table = Table::read(&image(size, &layout), block_size).unwrap();
        assert_eq!(table.partitions, layout.partitions());
    }
}

fn visit(image: &Vec<u8>, block_size: u32) {
    // Two headers and two arrays of the largest size that is accepted.
    let limit = 2 * (2 * 4096 + 1024 * 1024) + 64;
    match Table::read(&Limited::new(image, limit), block_size) {
        Ok(table) => {
            for partition in &table.partitions {
                assert!(partition.len > 0 && partition.start >= table.usable.start);
                assert!(partition.end() <= table.usable.end);
                assert!(table.usable.end <= image.size());
            }
        }
        Err(error) => assert!(!error.to_string().contains("of metadata would have")),
    }
}

proptest! {
    #[test]
    fn resealed_garbage_never_panics(
        fields in prop::collection::vec((0usize..92, any::<u8>()), 0..4),
        entries in prop::collection::vec((0usize..512, any::<u8>()), 0..6),
        edge in prop::option::of((5usize..11, prop_oneof![Just(u64::MAX), 0..40u64, Just(LAST)])),
    ) {
        let mut image = good();
        reseal(&mut image, HEADER, ENTRIES, |image| {
            for (at, byte) in entries {
                image[ENTRIES + at] = byte;
            }
        });
        for (at, byte) in fields {
            image[HEADER + at] = byte;
        }
        if let Some((field, value)) = edge {
            put64(HEADER + field * 8, value)(&mut image);
        }
        reseal_header(&mut image, HEADER);
        visit(&image, 512);
        // The backup must not save it.
        let len = image.len();
        image[len - 512..].fill(0);
        visit(&image, 512);
        visit(&image, 4096);
    }

    #[test]
    fn layouts_survive_the_round_trip(
        sizes in prop::collection::vec(1u64..(5 << 20), 1..20),
        power in 9u32..13,
        attributes: u64,
        name in "[a-z ☂]{0,36}",
    ) {
        let block_size = 1 << power;
        let size = Layout::disk_size_for(sizes.iter().copied(), block_size);
        let mut layout = Layout::new(size, block_size, guid(0)).unwrap();
        for (number, &size) in (1..).zip(&sizes) {
            let placed = layout.add(&NewPartition {
                type_guid: types::HOME,
                part_guid: guid(number),
                name: &name,
                size,
                attributes,
            }).unwrap();
            prop_assert_eq!(placed.start % (1 << 20), 0);
            prop_assert!(placed.len >= size && placed.len - size < u64::from(block_size));
        }
        prop_assert_eq!(layout.runs(), layout.clone().runs());
        let table = Table::read(&image(size, &layout), block_size).unwrap();
        prop_assert_eq!(&table.partitions[..], layout.partitions());
        // No smaller disk would do.
        let smaller = Layout::new(size - (1 << 20), block_size, guid(0)).map(|mut layout| {
            (1..).zip(&sizes).all(|(number, &size)| layout.add(&NewPartition {
                type_guid: types::HOME, part_guid: guid(number), name: "", size, attributes: 0,
            }).is_ok())
        });
        prop_assert_ne!(smaller, Ok(true));
    }
}
