//! Directories.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use iofs_source::{FileMap, Mapped, ReadAt};

use crate::error::Result;
use crate::name::{self, SHORT_LEN};

/// The greatest size of a directory, in bytes: 65536 entries of 32 bytes.
pub const MAX_DIRECTORY: u64 = 2 << 20;

/// A directory is read in pieces of this many bytes, as most lookups need only
/// the first.
const PIECE: u64 = 16 << 10;

const ENTRY_LEN: usize = 32;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
const ATTRIBUTE_MASK: u8 = 0x3f;
const DELETED: u8 = 0xe5;
const END: u8 = 0;

/// A long-name entry holds this many UTF-16 units, and a name 20 entries.
const UNITS: usize = 13;
const UNIT_OFFSETS: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const MAX_LONG_ENTRIES: u8 = 20;
const LAST_LONG_ENTRY: u8 = 0x40;

/// What a directory lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The long name; the short one where there is no valid long one. What is
    /// not valid UTF-16 has become U+FFFD. Never empty, `.` or `..`; without
    /// separators and control characters.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Size of the file in bytes, 0 for a directory.
    pub size: u64,
}

/// A short entry with the long name that belongs to it.
pub(crate) struct Slot<'a> {
    raw: &'a [u8; ENTRY_LEN],
    long: &'a [u16],
}

impl Slot<'_> {
    fn short_raw(&self) -> &[u8; SHORT_LEN] {
        // The first eleven of 32 bytes.
        self.raw.first_chunk().unwrap_or(&[0; SHORT_LEN])
    }

    fn short_name(&self) -> name::Short {
        name::Short::new(self.short_raw(), self.raw[12])
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.raw[at], self.raw[at + 1]])
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.raw[11] & ATTRIBUTE_DIRECTORY != 0
    }

    /// The first cluster; 0 for an empty file. The upper half is something
    /// else on FAT12 and FAT16.
    pub(crate) fn cluster(&self, fat32: bool) -> u32 {
        let low = u32::from(self.u16_at(26));
        if fat32 {
            low | u32::from(self.u16_at(20) & 0x0fff) << 16
        } else {
            low
        }
    }

    pub(crate) fn size(&self) -> u32 {
        u32::from(self.u16_at(28)) | u32::from(self.u16_at(30)) << 16
    }

    /// Whether `wanted`, folded, is the long or the short name.
    pub(crate) fn is_named(&self, wanted: &[u16]) -> bool {
        let long = self.long.iter().map(|&unit| name::fold(unit));
        (!self.long.is_empty() && long.eq(wanted.iter().copied())) || self.short_name().is(wanted)
    }

    pub(crate) fn entry(&self) -> Entry {
        let name = if self.long.is_empty() {
            self.short_name().chars().iter().collect()
        } else {
            char::decode_utf16(self.long.iter().copied())
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        };
        Entry {
            name,
            is_dir: self.is_dir(),
            size: if self.is_dir() { 0 } else { self.size().into() },
        }
    }
}

/// Collects the long name in front of a short entry. Long-name entries come
/// last part first, numbered down to 1, all with the short name's checksum.
struct LongName {
    units: [u16; UNITS * MAX_LONG_ENTRIES as usize],
    /// The number that the next part must have; 0 when all are there.
    awaited: Option<u8>,
    parts: u8,
    checksum: u8,
}

impl LongName {
    fn new() -> Self {
        Self {
            units: [0; UNITS * MAX_LONG_ENTRIES as usize],
            awaited: None,
            parts: 0,
            checksum: 0,
        }
    }

    fn reset(&mut self) {
        self.awaited = None;
    }

    fn part(&mut self, raw: &[u8; ENTRY_LEN]) {
        let number = raw[0] & !LAST_LONG_ENTRY;
        if raw[0] & LAST_LONG_ENTRY != 0 {
            self.awaited = Some(number);
            self.parts = number;
            self.checksum = raw[13];
        }
        let in_order = self.awaited == Some(number) && self.checksum == raw[13];
        if !in_order || number == 0 || number > MAX_LONG_ENTRIES {
            self.reset();
            return;
        }
        let first = usize::from(number - 1) * UNITS;
        for (unit, at) in self.units[first..first + UNITS]
            .iter_mut()
            .zip(UNIT_OFFSETS)
        {
            *unit = u16::from_le_bytes([raw[at], raw[at + 1]]);
        }
        self.awaited = Some(number - 1);
    }

    /// The long name of `short`, empty if there is none that is whole and
    /// belongs to it.
    fn of(&self, short: &[u8; SHORT_LEN]) -> &[u16] {
        if self.awaited != Some(0) || self.checksum != name::checksum(short) {
            return &[];
        }
        let all = &self.units[..usize::from(self.parts) * UNITS];
        let len = all.iter().position(|&unit| unit == 0).unwrap_or(all.len());
        let units = &all[..len];
        if name::is_long_name(units) {
            units
        } else {
            &[]
        }
    }
}

/// What to do after a slot.
pub(crate) enum Go {
    On,
    Stop,
}

/// What a slot is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Files,
    Label,
}

/// Hands each file and subdirectory of the directory that `map` describes to
/// `visit` (or, wanted so, each volume label), until it says stop.
pub(crate) fn scan<S: ReadAt>(
    source: &S,
    map: &FileMap,
    wanted: Wanted,
    mut visit: impl FnMut(&Slot<'_>) -> Go,
) -> Result<()> {
    let mut long = LongName::new();
    let mut at = 0;
    let mut piece = Vec::new();
    while at < map.size {
        let len = PIECE.min(map.size - at);
        // At most PIECE.
        piece.resize(usize::try_from(len).unwrap_or(0), 0);
        Mapped::new(source, map).read_at(at, &mut piece)?;
        at += len;
        for raw in piece.chunks_exact(ENTRY_LEN) {
            let Some(raw) = raw.first_chunk::<ENTRY_LEN>() else {
                continue;
            };
            let attributes = raw[11] & ATTRIBUTE_MASK;
            match raw[0] {
                END => return Ok(()),
                DELETED => {
                    long.reset();
                    continue;
                }
                _ if attributes == ATTRIBUTE_LONG_NAME => {
                    long.part(raw);
                    continue;
                }
                _ => {}
            }
            let is_label = attributes & ATTRIBUTE_VOLUME != 0;
            let short = raw.first_chunk().unwrap_or(&[0; SHORT_LEN]);
            let is_wanted = match wanted {
                Wanted::Label => is_label,
                Wanted::Files => !is_label && name::is_short_name(short),
            };
            if is_wanted {
                let slot = Slot {
                    raw,
                    long: long.of(short),
                };
                if let Go::Stop = visit(&slot) {
                    return Ok(());
                }
            }
            long.reset();
        }
    }
    Ok(())
}

/// The volume label in the root directory that `map` describes.
pub(crate) fn label<S: ReadAt>(source: &S, map: &FileMap) -> Result<Option<String>> {
    let mut label = None;
    scan(source, map, Wanted::Label, |slot| {
        label = name::label(slot.short_raw());
        Go::Stop
    })?;
    Ok(label)
}

/// Shows `visit` the files and subdirectories of the directory that `map`
/// describes, until it breaks off.
pub(crate) fn visit<S: ReadAt>(
    source: &S,
    map: &FileMap,
    visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<()> {
    scan(source, map, Wanted::Files, |slot| {
        match visit(slot.entry()) {
            ControlFlow::Continue(()) => Go::On,
            ControlFlow::Break(()) => Go::Stop,
        }
    })
}
