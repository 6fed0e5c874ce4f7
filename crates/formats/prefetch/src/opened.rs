//! What a recorded boot opened and has in memory of it, as text: the record of kernels
//! that cannot trace ([`crate::trace`]).
//!
//! One line a file, in the order in which they were first opened: its pages, and its
//! path relative to the image's root. What the record is without comes next, and the
//! word that it is whole last:
//!
//! ```text
//! 0+12,40+3 usr/bin/udevadm
//! lost 4
//! end
//! ```

use alloc::vec::Vec;
use core::fmt;

use crate::{MAX_PATH, MAX_RANGES, Range};

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// A file.
    File {
        /// Its path.
        path: &'a str,
        /// Its pages, in ascending order, apart from one another.
        ranges: Vec<Range>,
    },
    /// So often more a file was opened that is perhaps not in the record, as far as is
    /// known.
    Lost(u64),
    /// Nothing is missing at the end.
    End,
}

/// Whether a file of this path can be in a record.
#[must_use]
pub fn can_name(path: &str) -> bool {
    (1..=MAX_PATH).contains(&path.len()) && !path.chars().any(char::is_control)
}

impl<'a> Line<'a> {
    /// Reads a line; `None` for what none should be like.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        if line == "end" {
            return Some(Self::End);
        }
        let (first, rest) = line.split_once(' ')?;
        if first == "lost" {
            return Some(Self::Lost(rest.parse().ok()?));
        }
        let mut ranges: Vec<Range> = Vec::new();
        for text in first.split(',') {
            let (start, len) = text.split_once('+')?;
            let range = Range {
                start: start.parse().ok()?,
                len: len.parse().ok()?,
            };
            range.start.checked_add(range.len)?;
            let follows = ranges.last().is_none_or(|last| last.end() < range.start);
            if range.len == 0 || !follows || ranges.len() == MAX_RANGES {
                return None;
            }
            ranges.push(range);
        }
        can_name(rest).then_some(Self::File { path: rest, ranges })
    }
}

/// Without the line's end.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, ranges } => {
                for (index, Range { start, len }) in ranges.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{start}+{len}")?;
                }
                write!(f, " {path}")
            }
            Self::Lost(files) => write!(f, "lost {files}"),
            Self::End => f.write_str("end"),
        }
    }
}
