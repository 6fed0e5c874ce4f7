use super::*;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Length of the trailer's entry, in bytes.
const TRAILER_LEN: usize = 124;

fn sample(format: Format) -> Vec<u8> {
    let mut writer = Writer::new(format);
    writer.append(&NewEntry::directory(".", 0o755)).unwrap();
    writer
        .append(&NewEntry::file("init", 0o755, b"#!/bin/sh\n"))
        .unwrap();
    writer
        .append(&NewEntry::symlink("sbin", "usr/sbin"))
        .unwrap();
    writer.finish()
}

fn read_all(bytes: &[u8]) -> Result<Vec<Entry<'_>>, CpioError> {
    Reader::new(bytes).collect()
}

fn kind_of(bytes: &[u8]) -> CpioErrorKind {
    read_all(bytes).unwrap_err().kind
}

#[test]
fn an_archive_has_these_very_bytes() {
    let mut writer = Writer::new(Format::Crc);
    writer
        .append(&NewEntry {
            name: b"ab",
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            mtime: 3,
            rdev: (0, 0),
            data: b"xyz",
        })
        .unwrap();
    let expected = [
        "070702",
        "00000001000081A40000000100000002000000010000000300000003",
        "00000000000000000000000000000000000000030000016B",
        // 110 + 3 bytes are padded to 116.
        "ab\0\0\0\0xyz\0",
        "070702",
        "00000000000000000000000000000000000000010000000000000000",
        "00000000000000000000000000000000",
        "0000000B00000000",
        "TRAILER!!!\0\0\0\0",
    ]
    .concat();
    assert_eq!(String::from_utf8(writer.finish()).unwrap(), expected);
}

#[test]
fn segments_are_told_apart() {
    for (magic, compression) in [
        (&[0x1f, 0x8b, 8][..], Compression::Gzip),
        (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        (&[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], Compression::Xz),
        (&[0x5d, 0, 0, 0x80, 0], Compression::Lzma),
        (b"BZh9", Compression::Bzip2),
        (&[2, 0x21, 0x4c, 0x18], Compression::Lz4Legacy),
        (&[4, 0x22, 0x4d, 0x18], Compression::Lz4Frame),
        (&[0x89, 0x4c, 0x5a, 0x4f], Compression::Lzop),
    ] {
        // A compressed archive may begin anywhere, unlike a plain one.
        let bytes = [&[0; 5], magic].concat();
        assert_eq!(
            next_segment(&bytes, 0),
            Ok(Segment {
                kind: SegmentKind::Compressed(compression),
                start: 5,
                padding: 5
            })
        );
        assert!(next_segment(&bytes, 7).is_err());
    }
    assert_eq!(next_segment(&[], 0).unwrap().kind, SegmentKind::End);
    assert_eq!(
        next_segment(&[0; 9], 4).unwrap(),
        Segment {
            kind: SegmentKind::End,
            start: 9,
            padding: 5
        }
    );
    assert_eq!(next_segment(&[1], 7).unwrap().kind, SegmentKind::End);
    let old = next_segment(b"070707 and more", 0).unwrap_err();
    assert_eq!(old.kind, CpioErrorKind::OldFormat);
    let junk = next_segment(b"\0\0MZ", 0).unwrap_err();
    assert_eq!(
        junk.to_string(),
        "cpio archive at offset 2: neither cpio nor a known compression begins with \
         \"MZ\\x00\\x00\\x00\\x00\""
    );
    let unaligned = [&[0; 2], &sample(Format::Newc)[..]].concat();
    assert_eq!(
        next_segment(&unaligned, 0).unwrap_err(),
        CpioError {
            offset: 2,
            kind: CpioErrorKind::Unaligned
        }
    );
}

#[test]
fn concatenated_archives_are_walked() {
    let mut bytes = sample(Format::Newc);
    let first_len = bytes.len();
    bytes.resize(first_len.next_multiple_of(512) + 512, 0);
    let second = bytes.len();
    let mut writer = Writer::after(bytes, Format::Crc);
    writer
        .append(&NewEntry::file("second", 0o644, b"2"))
        .unwrap();
    let mut bytes = writer.finish();
    bytes.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]);

    let segment = next_segment(&bytes, 0).unwrap();
    let mut reader = Reader::at(&bytes, segment.start);
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 3);
    assert!(reader.saw_trailer());
    assert_eq!(reader.position(), first_len);
    assert!(reader.next().is_none());

    let segment = next_segment(&bytes, reader.position()).unwrap();
    assert_eq!((segment.kind, segment.start), (SegmentKind::Cpio, second));
    let mut reader = Reader::at(&bytes, segment.start);
    assert_eq!(reader.next().unwrap().unwrap().name, b"second");
    assert!(reader.next().is_none());
    let segment = next_segment(&bytes, reader.position()).unwrap();
    assert_eq!(segment.kind, SegmentKind::Compressed(Compression::Zstd));
}

#[test]
fn the_trailer_may_be_missing_and_padding_may_stand_between_entries() {
    let file = |name, before| {
        let mut writer = Writer::after(before, Format::Newc);
        writer.append(&NewEntry::file(name, 0o644, b"1")).unwrap();
        let mut bytes = writer.finish();
        bytes.truncate(bytes.len() - TRAILER_LEN);
        bytes
    };
    let mut bytes = file("a", vec![]);
    bytes.resize(bytes.len() + 64, 0);
    let mut bytes = file("b", bytes);
    let end = bytes.len();
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 2);
    assert!(!reader.saw_trailer());
    assert_eq!(reader.position(), end);

    // Nor does the padding after the last data matter.
    let mut reader = Reader::new(&bytes[..end - 3]);
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 2);
    assert_eq!(reader.position(), end - 3);

    // Compressed data may follow at once.
    bytes.extend_from_slice(b"BZh9");
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 2);
    assert_eq!(reader.position(), end);
}

#[test]
fn every_truncation_is_an_error_with_its_offset() {
    let bytes = sample(Format::Newc);
    let entries = read_all(&bytes).unwrap();
    let starts: Vec<_> = entries.iter().map(|entry| entry.offset).collect();
    for len in 1..bytes.len() - 3 {
        let cut = &bytes[..len];
        match read_all(cut) {
            Ok(read) => {
                let last = read.last().unwrap();
                let end = last.data_offset + last.data.len();
                assert!((end..=end.next_multiple_of(4)).contains(&len), "{len}");
            }
            Err(error) => {
                let trailer = bytes.len() - TRAILER_LEN;
                let start = starts.iter().chain([&trailer]).rev().find(|at| **at < len);
                assert_eq!(error.offset, *start.unwrap(), "{len}");
            }
        }
    }
    assert_eq!(kind_of(&bytes[..50]), CpioErrorKind::TruncatedHeader);
    assert_eq!(
        kind_of(&bytes[..111]),
        CpioErrorKind::TruncatedName { len: 2 }
    );
    let init = entries[1];
    assert_eq!(
        kind_of(&bytes[..init.data_offset + 4]),
        CpioErrorKind::TruncatedData {
            len: 10,
            present: 4
        }
    );
}

#[test]
fn hostile_headers_are_named() {
    let good = sample(Format::Crc);
    let with = |at: usize, patch: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        kind_of(&bytes)
    };
    assert_eq!(with(0, b"070707"), CpioErrorKind::OldFormat);
    assert!(matches!(with(0, b"070703"), CpioErrorKind::BadMagic { .. }));
    assert_eq!(
        with(6, b"0x000001"),
        CpioErrorKind::BadNumber { field: "c_ino" }
    );
    assert_eq!(
        with(102, b"+0000000"),
        CpioErrorKind::BadNumber { field: "c_check" }
    );
    assert_eq!(
        with(94, b"00000000"),
        CpioErrorKind::BadNameLength { len: 0 }
    );
    assert_eq!(
        with(94, b"00001001"),
        CpioErrorKind::BadNameLength { len: 4097 }
    );
    assert_eq!(
        with(94, b"FFFFFFFF"),
        CpioErrorKind::BadNameLength { len: u32::MAX }
    );
    assert_eq!(with(110, b"\0"), CpioErrorKind::BadName);
    assert_eq!(with(111, b"x"), CpioErrorKind::BadName);
    assert!(matches!(
        with(54, b"FFFFFFFF"),
        CpioErrorKind::TruncatedData { len: u32::MAX, .. }
    ));
    let init = read_all(&good).unwrap()[1].data_offset;
    assert!(matches!(with(init, b"?"), CpioErrorKind::Checksum { .. }));
}

#[test]
fn links_resolve_whoever_has_the_data() {
    let entry = |name: &'static str, ino, nlink, data: &'static [u8]| Entry {
        name: name.as_bytes(),
        ino,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        nlink,
        mtime: 0,
        dev: (8, 1),
        rdev: (0, 0),
        data,
        offset: 0,
        data_offset: 0,
    };
    let entries = [
        entry("last-1", 1, 2, b""),
        entry("alone", 2, 1, b"alone"),
        entry("first-1", 3, 3, b"first"),
        entry("last-2", 1, 2, b"last"),
        entry("first-2", 3, 3, b""),
        // The same number, but no other name: another file (cpio -o of two
        // devices with the same inode numbers, renumbered badly).
        entry("other", 1, 1, b"other"),
        Entry {
            mode: 0o040_755,
            ..entry("dir", 3, 2, b"")
        },
        Entry {
            dev: (8, 2),
            ..entry("elsewhere", 3, 2, b"elsewhere")
        },
        entry("first-3", 3, 3, b""),
    ];
    let links = resolve_links(&entries);
    let of = |index: usize| {
        let link = links[index];
        (link.first, link.last, link.data)
    };
    assert_eq!(of(0), (0, 3, &b"last"[..]));
    assert_eq!(of(3), of(0));
    assert_eq!(of(1), (1, 1, &b"alone"[..]));
    assert_eq!(of(2), (2, 8, &b"first"[..]));
    assert_eq!(of(4), of(2));
    assert_eq!(of(8), of(2));
    assert_eq!(of(5), (5, 5, &b"other"[..]));
    assert_eq!(of(6), (6, 6, &b""[..]));
    assert_eq!(of(7), (7, 7, &b"elsewhere"[..]));
}

#[test]
fn paths_cannot_leave_the_archive() {
    let path = |name: &str| {
        let mut writer = Writer::default();
        writer.append(&NewEntry::directory(name, 0o755)).unwrap();
        let bytes = writer.finish();
        let entry = read_all(&bytes).unwrap()[0];
        entry.path().map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(path("."), Ok(String::new()));
    assert_eq!(path("./usr//lib/./x/"), Ok("usr/lib/x".into()));
    assert_eq!(path("/etc/passwd"), Ok("etc/passwd".into()));
    assert_eq!(path("..."), Ok("...".into()));
    for name in ["..", "../x", "a/../../b", "a/.."] {
        assert_eq!(path(name).unwrap_err().kind, CpioErrorKind::DotDot);
    }
}

#[test]
fn data_can_be_aligned_to_pages() {
    let mut writer = Writer::default();
    writer.align_data(4096);
    let mut offsets = vec![];
    for size in [1, 4096, 5000, 0, 3] {
        let data = vec![7; size];
        let name = format!("file{size}");
        offsets.push((
            size,
            writer.append(&NewEntry::file(&name, 0o644, &data)).unwrap(),
        ));
    }
    let bytes = writer.finish();
    let entries = read_all(&bytes).unwrap();
    for (entry, (size, offset)) in entries.iter().zip(offsets) {
        assert_eq!(entry.name, format!("file{size}").as_bytes());
        assert_eq!(entry.data_offset, offset);
        assert_eq!(entry.data, vec![7; size]);
        assert!(size == 0 || offset % 4096 == 0, "{size} at {offset}");
    }
    // An empty file costs no page.
    assert!(entries[4].offset - entries[3].offset < 200);
}

#[test]
fn what_the_kernel_would_pass_over_is_not_written() {
    let mut writer = Writer::default();
    let long = "x".repeat(4096);
    let refuse = |writer: &mut Writer, entry: NewEntry<'_>| writer.append(&entry).unwrap_err();
    for name in ["", "a\0b", "TRAILER!!!", &long] {
        let error = refuse(&mut writer, NewEntry::directory(name, 0o755));
        assert!(matches!(error, WriteError::Name { .. }));
    }
    for target in ["", "a\0b", &long] {
        let error = refuse(&mut writer, NewEntry::symlink("a", target));
        assert!(matches!(error, WriteError::Target { .. }));
    }
    let mut fifo = NewEntry::file("a", 0, b"data");
    fifo.mode = 0o010_644;
    let error = refuse(&mut writer, fifo);
    assert!(matches!(error, WriteError::UnexpectedData { .. }));
    let directory = NewEntry::directory("a", 0o755);
    assert_eq!(
        writer.append_links(&[b"a", b"b"], &directory),
        Err(WriteError::Links)
    );
    let file = NewEntry::file("", 0o644, b"");
    assert_eq!(writer.append_links(&[], &file), Err(WriteError::Links));
    assert_eq!(writer.position(), 0);
    writer
        .append(&NewEntry::file(&long[1..], 0o644, b"1"))
        .unwrap();
    let bytes = writer.finish();
    assert_eq!(read_all(&bytes).unwrap()[0].name.len(), 4095);
}

#[test]
fn padding_to_a_block_is_all_that_finish_padded_adds() {
    let mut writer = Writer::default();
    writer.append(&NewEntry::file("a", 0o644, b"1")).unwrap();
    let plain = writer.clone().finish();
    let padded = writer.finish_padded(512);
    assert_eq!(padded.len() % 512, 0);
    assert_eq!(padded[..plain.len()], plain);
    assert!(padded[plain.len()..].iter().all(|&byte| byte == 0));
}

prop_compose! {
    fn entry()(
        name in "[a-z./]{1,20}".prop_filter("root", |name| name != "TRAILER!!!"),
        kind in 0usize..6,
        permissions in 0u32..0o7777,
        ids in any::<(u32, u32, u32)>(),
        rdev in any::<(u32, u32)>(),
        data in prop::collection::vec(1u8.., 1..40),
    ) -> (String, u32, (u32, u32, u32), (u32, u32), Vec<u8>) {
        let file_type = [0o100_000, 0o040_000, 0o120_000, 0o060_000, 0o020_000, 0o010_000][kind];
        let data = if kind == 0 || kind == 2 { data } else { vec![] };
        (name, file_type | permissions, ids, rdev, data)
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        entries in prop::collection::vec(entry(), 0..12),
        crc in any::<bool>(),
        align in 0usize..5000,
    ) {
        let mut writer = Writer::new(if crc { Format::Crc } else { Format::Newc });
        writer.align_data(align);
        for (name, mode, (uid, gid, mtime), rdev, data) in &entries {
            writer.append(&NewEntry {
                name: name.as_bytes(), mode: *mode, uid: *uid, gid: *gid, mtime: *mtime,
                rdev: *rdev, data,
            }).unwrap();
        }
        let bytes = writer.clone().finish();
        prop_assert_eq!(&bytes, &writer.finish());
        let read = read_all(&bytes).unwrap();
        prop_assert_eq!(read.len(), entries.len());
        for ((index, got), (name, mode, ids, rdev, data)) in read.iter().enumerate().zip(&entries) {
            prop_assert_eq!(got.name, name.as_bytes());
            prop_assert_eq!(got.ino as usize, index + 1);
            prop_assert_eq!(got.mode, *mode);
            prop_assert_eq!((got.uid, got.gid, got.mtime), *ids);
            prop_assert_eq!(got.rdev, *rdev);
            prop_assert_eq!(got.data, &data[..]);
        }
    }

    /// Errors are fine, panics are bugs; and what is read lies in the bytes.
    #[test]
    fn mutated_archives_do_not_panic(
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample(Format::Crc);
        for (at, byte) in patches {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut at = 0;
        while let Ok(segment) = next_segment(&bytes, at) {
            if segment.kind != SegmentKind::Cpio {
                break;
            }
            let mut reader = Reader::at(&bytes, segment.start);
            let mut entries = vec![];
            let mut failed = false;
            for entry in reader.by_ref() {
                match entry {
                    Ok(entry) => {
                        prop_assert!(entry.data_offset + entry.data.len() <= bytes.len());
                        let _ = entry.path();
                        entries.push(entry);
                    }
                    Err(_) => failed = true,
                }
            }
            prop_assert_eq!(resolve_links(&entries).len(), entries.len());
            if failed {
                break;
            }
            prop_assert!(reader.position() > at);
            at = reader.position();
        }
    }
}

#[test]
fn a_header_can_be_written_without_its_data() {
    let mut whole = Writer::after(vec![0; 8], Format::Newc);
    whole.align_data(4096);
    let at = whole.append(&NewEntry::file("a", 0o644, b"12345")).unwrap();
    let mut apart = Writer::after(vec![0; 8], Format::Newc);
    apart.align_data(4096);
    let header = NewEntry::file("a", 0o644, b"");
    assert_eq!(apart.append_header(&header, 5).unwrap(), at);
    let folder = NewEntry::directory("b", 0o755);
    assert!(apart.append_header(&folder, 5).is_err());
    let mut bytes = apart.into_bytes();
    assert_eq!((bytes.len(), at), (4096, 4096));
    bytes.extend_from_slice(b"12345\0\0\0");
    assert!(bytes == whole.into_bytes());
}
