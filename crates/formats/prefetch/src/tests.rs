// The test media are small.
#![allow(clippy::cast_possible_truncation)]

use super::*;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

const UUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0d13_4d14_9a3c_6f2d_1c0e_0a01);
const SIZE: u64 = 1 << 20;

fn range(start: u32, len: u32) -> Range {
    Range { start, len }
}

fn file(path: &str, ranges: &[Range]) -> FileRanges {
    FileRanges {
        path: path.to_string(),
        ranges: ranges.to_vec(),
    }
}

fn list() -> PrefetchList {
    PrefetchList {
        uuid: UUID,
        size: SIZE,
        metadata: vec![range(0, 1), range(200, 56)],
        files: vec![
            file("usr/lib/systemd/systemd", &[range(0, 3), range(128, 1)]),
            file("usr/lib/systemd/libsystemd-shared.so", &[range(7, 300)]),
            file("etc/nsswitch.conf", &[]),
        ],
    }
}

fn decode(bytes: &[u8]) -> Result<PrefetchList, PrefetchError> {
    PrefetchList::decode(bytes, UUID, SIZE)
}

/// A list with a byte changed and the checksum made right again.
fn changed(at: usize, value: u8) -> Vec<u8> {
    let mut bytes = list().encode().unwrap();
    bytes[at] = value;
    let body = bytes.len() - 4;
    let sum = iofs_source::crc32(0, &bytes[..body]);
    bytes[body..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn a_list_comes_back() {
    let bytes = list().encode().unwrap();
    assert_eq!(decode(&bytes).unwrap(), list());
    // Shared beginnings are stored once.
    assert_eq!(
        bytes.len(),
        64 + 5 + (2 + 23 + 1 + 4) + (2 + 20 + 1 + 3) + (2 + 17 + 1) + 4
    );
    assert_eq!(list().bytes(), (1 + 56 + 4 + 300) * PAGE);
}

#[test]
fn it_is_read_behind_the_file_system() {
    let mut medium = vec![0x55; SIZE as usize - 100];
    let size = medium.len() as u64;
    let read = |medium: &[u8]| PrefetchList::read(medium, UUID, size);
    assert_eq!(read(&medium), Ok(None));
    medium.resize(SIZE as usize, 0);
    assert_eq!(read(&medium), Ok(None));
    let whole = PrefetchList { size, ..list() };
    let bytes = whole.encode().unwrap();
    medium.extend_from_slice(&bytes);
    assert_eq!(read(&medium), Ok(Some(whole)));
    medium.pop();
    assert_eq!(read(&medium), Err(PrefetchError::Length));
    medium.truncate(SIZE as usize + 63);
    assert_eq!(read(&medium), Ok(None));
    assert_eq!(PrefetchList::read(&medium[..], UUID, u64::MAX), Ok(None));
}

#[test]
fn another_file_systems_list_is_none() {
    let bytes = list().encode().unwrap();
    let other = PrefetchList::decode(&bytes, Uuid::nil(), SIZE);
    assert_eq!(other, Err(PrefetchError::Foreign));
    let other = PrefetchList::decode(&bytes, UUID, SIZE - 1);
    assert_eq!(other, Err(PrefetchError::Foreign));
}

#[test]
fn each_field_is_checked() {
    let error = |at, value| decode(&changed(at, value)).unwrap_err().to_string();
    assert_eq!(
        error(0, b'X'),
        "the prefetch list's magic has no valid value"
    );
    assert_eq!(
        error(8, 2),
        "the prefetch list has format version 2, this program reads 1"
    );
    assert_eq!(
        error(10, 1),
        "the prefetch list's padding has no valid value"
    );
    assert_eq!(
        error(50, 1),
        "the prefetch list's padding has no valid value"
    );
    let length = "the prefetch list does not have the length that it says";
    assert_eq!(error(12, 0), length);
    assert_eq!(error(15, 1), length);
    assert_eq!(error(42, 9), length);
    assert_eq!(error(45, 0xff), length);
    // A range of nothing, one that touches the one before, one over the end.
    assert_eq!(error(65, 0), "the prefetch list's range has no valid value");
    assert_eq!(
        error(68, 0x39),
        "the prefetch list's metadata range has no valid value"
    );
    // The first path shares more than there is.
    assert_eq!(error(69, 1), "the prefetch list's path has no valid value");
    let mut damaged = list().encode().unwrap();
    damaged[70] ^= 1;
    assert_eq!(decode(&damaged), Err(PrefetchError::Checksum));
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let with = |ranges: &[Range]| {
        PrefetchList {
            metadata: ranges.to_vec(),
            ..list()
        }
        .encode()
    };
    let bad = Err(PrefetchError::Value { field: "range" });
    assert_eq!(with(&[range(3, 0)]), bad);
    assert_eq!(with(&[range(3, 1), range(4, 1)]), bad);
    assert_eq!(with(&[range(9, 1), range(3, 1)]), bad);
    assert_eq!(with(&[range(u32::MAX, 1)]), bad);
    let bad = Err(PrefetchError::Value {
        field: "metadata range",
    });
    assert_eq!(with(&[range(255, 2)]), bad);
    for path in ["", "/bin/sh", "a//b", "../etc", "a/./b", "a/", "a\0b"] {
        let list = PrefetchList {
            files: vec![file(path, &[])],
            ..list()
        };
        let error = list.encode().unwrap_err();
        assert_eq!(error, PrefetchError::Value { field: "path" }, "{path:?}");
    }
    let list = PrefetchList {
        files: (0..=MAX_FILES)
            .map(|n| file(&format!("{n}"), &[]))
            .collect(),
        ..list()
    };
    assert_eq!(list.encode(), Err(PrefetchError::Length));
}

#[test]
fn paths_are_cut_between_characters() {
    // The first bytes of the two letters are the same.
    let list = PrefetchList {
        files: vec![file("a/\u{e4}", &[]), file("a/\u{e5}", &[])],
        ..list()
    };
    assert_eq!(decode(&list.encode().unwrap()).unwrap(), list);
}

#[test]
fn pages_become_ranges() {
    let ranges = |pages: &[u32], gap| ranges_of(pages.to_vec(), gap);
    assert_eq!(ranges(&[], 0), []);
    assert_eq!(ranges(&[5, 3, 4, 4, 9], 0), [range(3, 3), range(9, 1)]);
    assert_eq!(ranges(&[3, 5, 9], 1), [range(3, 3), range(9, 1)]);
    assert_eq!(ranges(&[u32::MAX, 0], 0), [range(0, 1), range(u32::MAX, 1)]);
}

#[test]
fn trace_lines_of_several_kernels() {
    use trace::{Event, Line};
    let is = |page, pages| {
        Line::Event(Event {
            dev: (254, 0),
            ino: 0x1a2b,
            page,
            pages,
        })
    };
    let head = "  systemd-1  [000] .....  3.141: mm_filemap_add_to_page_cache: ";
    for (fields, line) in [
        (
            "dev 254:0 ino 0x1a2b pfn=0x12345 ofs=4096 order=0",
            is(1, 1),
        ),
        (
            "dev 254:0 ino 1a2b pfn=0x12345 ofs=65536 order=4",
            is(16, 16),
        ),
        (
            "dev 254:0 ino 1a2b page=00000000ad2 pfn=4711 ofs=0",
            is(0, 1),
        ),
        ("dev 254:0 ino 1a2b pfn=0x1 ofs=0 order=19", Line::Other),
        ("dev 254 ino 1a2b pfn=0x1 ofs=0", Line::Other),
        ("dev 254:0 ino 1a2b pfn=0x1", Line::Other),
        ("dev 254:0 ino", Line::Other),
        ("dev 254:0 ino 1g ofs=0", Line::Other),
    ] {
        assert_eq!(Line::parse(&format!("{head}{fields}")), line, "{fields}");
    }
    assert_eq!(Line::parse("CPU:1 [LOST 37 EVENTS]"), Line::Lost(37));
    assert_eq!(
        Line::parse("# entries-in-buffer/entries-written: 1/1"),
        Line::Other
    );
    let other =
        "x-1 [000] ..... 3.1: mm_filemap_delete_from_page_cache: dev 254:0 ino 1 pfn=0x1 ofs=0";
    assert_eq!(Line::parse(other), Line::Other);
}

#[test]
fn gaps_are_closed() {
    let ranges = [range(0, 1), range(3, 2), range(9, 1)];
    assert_eq!(close_gaps(ranges, 0), ranges);
    assert_eq!(close_gaps(ranges, 2), [range(0, 5), range(9, 1)]);
    assert_eq!(close_gaps(ranges, 4), [range(0, 10)]);
    assert_eq!(close_gaps([], 4), []);
    // One inside another, and at the end of numbers.
    assert_eq!(close_gaps([range(0, 9), range(3, 2)], 0), [range(0, 9)]);
    let last = range(u32::MAX, 1);
    assert_eq!(close_gaps([last, last], 0), [last]);
}

proptest! {
    #[test]
    fn any_pages_come_back(
        metadata in proptest::collection::vec(0..256_u32, 0..100),
        files in proptest::collection::btree_map(
            "[a-c\u{e4}]{1,3}(/[a-c]{1,3}){0,3}",
            proptest::collection::vec(0..100_000_u32, 0..40),
            0..30,
        ),
    ) {
        let list = PrefetchList {
            metadata: ranges_of(metadata, 0),
            files: files
                .into_iter()
                .map(|(path, pages)| FileRanges { path, ranges: ranges_of(pages, 0) })
                .collect(),
            ..list()
        };
        prop_assert_eq!(decode(&list.encode().unwrap()).unwrap(), list);
    }

    #[test]
    fn any_bytes_are_refused_or_read(
        at in 0..100_usize,
        value: u8,
        cut in 0..200_usize,
    ) {
        let mut bytes = list().encode().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut.max(1));
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(read.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn opened_files_are_written_and_read() {
    use opened::Line;
    let lines = [
        Line::File {
            path: "usr/bin/a file",
            ranges: vec![range(0, 12), range(40, 3)],
        },
        Line::Lost(4),
        Line::End,
    ];
    let texts = ["0+12,40+3 usr/bin/a file", "lost 4", "end"];
    for (line, text) in lines.iter().zip(texts) {
        assert_eq!(format!("{line}"), text);
        assert_eq!(Line::parse(text).as_ref(), Some(line));
    }
    for bad in [
        "",
        " x",
        "0+1",
        "0+1 ",
        "0+0 x",
        "1+-1 x",
        "0+1,1+1 x",
        "5+1,0+1 x",
        "4294967295+1 x",
        "0+1, x",
        "0+1 a\tb",
        "lost",
        "lost x",
        "end ",
        "whole x",
    ] {
        assert_eq!(Line::parse(bad), None, "{bad:?}");
    }
    assert!(!opened::can_name("a\nb") && !opened::can_name(""));
    assert!(opened::can_name(&"x".repeat(MAX_PATH)));
    assert!(!opened::can_name(&"x".repeat(MAX_PATH + 1)));
}
