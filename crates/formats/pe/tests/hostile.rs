//! Damaged and contradictory images: each with its own message, none panics.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use common::{COFF, HEADERS, OPTIONAL, SBAT, SECURITY, TABLE, image, put16, put32, stub};
use iofs_pe::{AppendError, Appender, Content, Image, MAX_SECTIONS, PeError};
use iofs_source::{Limited, ReadErrorKind};
use proptest::prelude::*;

fn broken(change: impl FnOnce(&mut Vec<u8>)) -> PeError {
    let mut image = stub();
    change(&mut image);
    let error = Image::read(&image).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

#[test]
fn each_damage_to_a_header_has_its_name() {
    assert_eq!(broken(|i| i[0] = b'X'), PeError::NoDosHeader);
    assert_eq!(broken(|i| i.truncate(63)), PeError::NoDosHeader);
    for offset in [0x84, 0xffff_fff0, u32::MAX] {
        assert_eq!(
            broken(|i| put32(i, 0x3c, offset)),
            PeError::NoPeHeader {
                offset: offset.into()
            }
        );
    }
    let offset = OPTIONAL as u64;
    assert_eq!(
        broken(|i| put16(i, OPTIONAL, 0x107)),
        PeError::Magic {
            offset,
            found: 0x107
        }
    );
    for size in [0, 1, 2, 111, 239, 1025, u16::MAX] {
        assert_eq!(
            broken(|i| put16(i, COFF + 20, size)),
            PeError::OptionalHeader { offset, size }
        );
    }
    assert_eq!(
        broken(|i| i.truncate(OPTIONAL + 100)),
        PeError::OptionalHeader { offset, size: 240 }
    );
    assert_eq!(
        broken(|i| put32(i, OPTIONAL + 108, 17)),
        PeError::Directories { count: 17 }
    );
    assert_eq!(
        broken(|i| put16(i, COFF + 6, 97)),
        PeError::Sections { count: 97 }
    );
    for (section, file) in [(0, 512), (4096, 0), (3, 512), (4096, 513), (4096, 1 << 17)] {
        let error = broken(|i| {
            put32(i, OPTIONAL + 32, section);
            put32(i, OPTIONAL + 36, file);
        });
        assert_eq!(error, PeError::Alignment { section, file });
    }
    for size in [0, TABLE as u32 + 119, 1 << 30] {
        assert_eq!(
            broken(|i| put32(i, OPTIONAL + 60, size)),
            PeError::Headers { size }
        );
    }
}

#[test]
fn nothing_points_out_of_the_file() {
    let size = stub().len() as u32;
    for (offset, len) in [(size, 512), (512, size), (u32::MAX, u32::MAX)] {
        let error = broken(|i| {
            put32(i, TABLE + 16, len);
            put32(i, TABLE + 20, offset);
        });
        assert!(
            matches!(error, PeError::SectionData { name, .. } if name == ".text"),
            "{error}"
        );
    }
    let error = broken(|i| put32(i, TABLE + 40 + 8, u32::MAX));
    assert!(matches!(error, PeError::SectionMemory { name } if name == ".sbat"));
    for (offset, len) in [(size - 7, 8), (0, size + 1), (u32::MAX, u32::MAX)] {
        let error = broken(|i| {
            put32(i, SECURITY, offset);
            put32(i, SECURITY + 4, len);
        });
        assert_eq!(error, PeError::Certificates { offset, size: len });
    }
    let error = Image::read(&Limited::new(stub(), 100)).unwrap_err();
    let PeError::Read(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.kind, ReadErrorKind::LimitReached { limit: 100 });
}

#[test]
fn sections_without_bytes_may_point_anywhere() {
    let mut image = stub();
    put32(&mut image, TABLE + 16, 0);
    put32(&mut image, TABLE + 20, u32::MAX);
    let section = Image::read(&image).unwrap().sections[0];
    assert_eq!(section.data(), 0..0);
}

fn refused(change: impl FnOnce(&mut Vec<u8>)) -> AppendError {
    let mut image = stub();
    change(&mut image);
    let error = Appender::new(&image).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

#[test]
fn stubs_that_cannot_be_added_to_are_refused() {
    assert_eq!(refused(|i| put32(i, SECURITY, 512)), AppendError::Signed);
    assert_eq!(refused(|i| put16(i, COFF + 6, 0)), AppendError::Empty);
    // Overlapping in memory; within the headers in memory, in the file.
    for (at, value) in [(52, 0x1002), (12, 0x3ff), (20, 0x200)] {
        let error = refused(|i| put32(i, TABLE + at, value));
        assert!(matches!(error, AppendError::Order { .. }), "{error}");
    }
    let error = refused(|i| put32(i, TABLE + 16, 0x1f0));
    assert!(matches!(error, AppendError::Unaligned { .. }), "{error}");
    assert_eq!(
        refused(|i| put32(i, COFF + 12, 0x600)),
        AppendError::SymbolTable { offset: 0x600 }
    );
    assert_eq!(
        refused(|i| put32(i, COFF + 12, u32::MAX)),
        AppendError::SymbolTable { offset: u32::MAX }
    );
}

#[test]
fn a_symbol_table_at_the_end_goes() {
    let mut with = stub();
    let start = with.len() as u32;
    put32(&mut with, COFF + 12, start);
    put32(&mut with, COFF + 16, 2);
    with.resize(with.len() + 2 * 18, 7);
    with.extend_from_slice(&[6, 0, 0, 0, b'a', 0]);
    let mut plain = stub();
    let build = |stub: &[u8]| {
        let mut appender = Appender::new(stub).unwrap();
        appender.append(".x", b"x", Content::Data).unwrap();
        appender.finish().unwrap()
    };
    // IMAGE_FILE_LOCAL_SYMS_STRIPPED is set in the plain one already.
    assert_eq!(build(&with), build(&plain));
    plain[COFF + 22] &= !8;
    put32(&mut plain, COFF + 12, 0);
    assert_ne!(build(&with), build(&plain));
}

#[test]
fn bad_sections_are_refused_and_leave_no_trace() {
    let mut appender = Appender::new(&stub()).unwrap();
    let before = appender.clone().finish().unwrap();
    let mut add = |name, data| appender.append(name, data, Content::Data).unwrap_err();
    for name in ["", ".toolongx", ".a b", ".\u{e4}", ".a\0"] {
        assert_eq!(add(name, b"x"), AppendError::Name);
    }
    assert!(matches!(add(".sbat", b"x"), AppendError::Duplicate { .. }));
    assert!(matches!(add(".empty", b""), AppendError::NoBytes { .. }));
    assert!(matches!(
        appender.replace(".none", b"x"),
        Err(AppendError::Missing { .. })
    ));
    let error = appender.replace(".sbat", &[b'x'; 513]).unwrap_err();
    assert!(matches!(
        error,
        AppendError::NoRoom {
            size: 513,
            room: 512,
            ..
        }
    ));
    assert_eq!(appender.finish().unwrap(), before);
}

#[test]
fn what_is_replaced_stays_out_of_the_next_section_in_memory() {
    // As Debian 12's stub: .sdmagic 256 bytes behind .sbat, both 512 in the file.
    let mut image = image(&[
        (".text", 0x6000_0020, &[0xc3]),
        (".sbat", 0x4000_0040, SBAT),
        (".sdmagic", 0x4000_0040, b"####"),
    ]);
    put32(&mut image, OPTIONAL + 32, 0x200);
    put32(&mut image, TABLE + 80 + 12, 0x2100);
    let mut appender = Appender::new(&image).unwrap();
    let error = appender.replace(".sbat", &[b'x'; 257]).unwrap_err();
    assert!(matches!(error, AppendError::NoRoom { room: 256, .. }));
    appender.replace(".sbat", &[b'x'; 256]).unwrap();
}

#[test]
fn headers_end_where_the_first_section_begins() {
    let mut appender = Appender::new(&stub()).unwrap();
    let room = (HEADERS as usize - TABLE) / 40 - 3;
    for index in 0..room {
        let name = format!(".s{index}");
        appender.append(&name, b"x", Content::Data).unwrap();
    }
    let error = appender.append(".more", b"x", Content::Data).unwrap_err();
    let AppendError::NoHeaderRoom { name, limit } = error else {
        panic!("{error}");
    };
    assert!(name == ".more" && limit == u64::from(HEADERS));
    let image = Image::read(&appender.finish().unwrap()).unwrap();
    assert_eq!(image.sections.len(), 3 + room);
    assert!(image.sections.len() < usize::from(MAX_SECTIONS));

    // Something else lies where the next header would go.
    let mut taken = stub();
    taken[TABLE + 4 * 40 - 1] = 1;
    let mut appender = Appender::new(&taken).unwrap();
    let error = appender.append(".more", b"x", Content::Data).unwrap_err();
    assert!(matches!(error, AppendError::NoHeaderRoom { .. }));
}

/// Reads, adds and reads again: errors are fine, panics are bugs; every range is
/// inside the file, and what was added is there.
fn digest(bytes: &[u8]) {
    let Ok(image) = Image::read(bytes) else {
        assert!(Appender::new(bytes).is_err());
        return;
    };
    for section in &image.sections {
        let _ = (section.name.to_string(), section.memory_end_in_file(bytes));
    }
    let Ok(mut appender) = Appender::new(bytes) else {
        return;
    };
    let _ = appender.replace(".sbat", &[b's'; 300]);
    if appender
        .append(".linux", &[b'l'; 700], Content::Code)
        .is_err()
    {
        return;
    }
    let built = appender.finish().unwrap();
    let read = Image::read(&built).unwrap();
    let added = read.section(".linux").unwrap().data();
    let added = &built[added.start as usize..added.end as usize];
    assert_eq!(added, [b'l'; 700]);
    assert_eq!(read.sections.len(), image.sections.len() + 1);
}

trait InFile {
    fn memory_end_in_file(&self, bytes: &[u8]) -> u64;
}

impl InFile for iofs_pe::Section {
    fn memory_end_in_file(&self, bytes: &[u8]) -> u64 {
        let data = self.data();
        assert!(data.start <= data.end && data.end <= bytes.len() as u64);
        data.end
    }
}

/// Where a changed byte means something.
fn interesting() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0x3c_usize), COFF..TABLE + 4 * 40, 0..64_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn mutated_images_do_no_harm(
        changes in prop::collection::vec((interesting(), any::<u8>()), 1..6),
        words in prop::collection::vec(
            (COFF..TABLE + 120, prop::sample::select(vec![0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX])),
            0..2,
        ),
        len in prop::option::of(0_usize..0xa00),
    ) {
        let mut image = stub();
        for (at, value) in changes {
            image[at] = value;
        }
        for (at, value) in words {
            put32(&mut image, at, value);
        }
        image.truncate(len.unwrap_or(usize::MAX));
        digest(&image);
    }

    #[test]
    fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        digest(&bytes);
    }
}
