//! The kernel's trace of pages that came into the page cache, as text.
//!
//! One line an event, of `filemap:mm_filemap_add_to_page_cache`
//! (include/trace/events/filemap.h):
//!
//! ```text
//! systemd-1 [000] ..... 3.141: mm_filemap_add_to_page_cache: dev 254:0 ino 1a2b pfn=0x12 ofs=4096 order=0
//! ```
//!
//! `dev` is decimal, `ino` hexadecimal with or without `0x`, `ofs` bytes. Kernels
//! before 5.18 have `page=` too, and no `order`, which is that of a folio: two to
//! its power pages.

use crate::PAGE;

/// The event's name.
const EVENT: &str = "mm_filemap_add_to_page_cache:";

/// The greatest order of a folio that is believed: 2^18 pages are 1 GiB.
const MAX_ORDER: u32 = 18;

/// Pages that came into the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Major and minor number of the file system's device.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// The first page, counted from the file's start.
    pub page: u64,
    /// How many.
    pub pages: u64,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Pages that came in.
    Event(Event),
    /// So many events were lost here, since the buffer was full.
    Lost(u64),
    /// Something else: a comment, another event, an event cut off.
    Other,
}

impl Line {
    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        if let Some(event) = event(line) {
            return Self::Event(event);
        }
        lost(line).map_or(Self::Other, Self::Lost)
    }
}

fn event(line: &str) -> Option<Event> {
    let (_, fields) = line.split_once(EVENT)?;
    let (mut dev, mut ino, mut ofs, mut order) = (None, None, None, 0);
    let mut words = fields.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("ofs", value)) => ofs = Some(value.parse::<u64>().ok()?),
            Some(("order", value)) => order = value.parse().ok()?,
            Some(_) => {}
            None if word == "dev" => {
                let (major, minor) = words.next()?.split_once(':')?;
                dev = Some((major.parse().ok()?, minor.parse().ok()?));
            }
            None if word == "ino" => {
                let digits = words.next()?;
                let digits = digits.strip_prefix("0x").unwrap_or(digits);
                ino = Some(u64::from_str_radix(digits, 16).ok()?);
            }
            None => {}
        }
    }
    if order > MAX_ORDER {
        return None;
    }
    Some(Event {
        dev: dev?,
        ino: ino?,
        page: ofs? / PAGE,
        pages: 1 << order,
    })
}

/// `CPU:0 [LOST 123 EVENTS]`.
fn lost(line: &str) -> Option<u64> {
    let (_, rest) = line.trim().strip_prefix("CPU:")?.split_once("[LOST ")?;
    rest.strip_suffix(" EVENTS]")?.parse().ok()
}
