//! modules.dep.bin, which is what libkmod reads.
//!
//! Source: the comment "Index abstract data type" and the reader in
//! libkmod-index.c. Big-endian. A header of three numbers of 4 bytes: magic,
//! version, and where the root of a radix tree lies. A node is, as the flags in
//! the upper four bits of whatever points at it say: a NUL-terminated prefix;
//! the first and last byte that children begin with (a byte each) and a pointer
//! for each byte between (0: no child); a count of values, and each value's
//! priority and NUL-terminated text. Keys are module names, values the lines of
//! modules.dep.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::text;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
const CHILDREN: u32 = 0x2000_0000;
const OFFSET_MASK: u32 = 0x0fff_ffff;

/// The greatest length of a module's name, in bytes; the kernel's is 55.
const MAX_NAME_LEN: usize = 128;

/// A modules.dep that the format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BinaryError {
    /// The name or the paths are not ASCII or hold a NUL.
    NotAscii {
        /// The module's name.
        module: String,
    },
    /// The name is empty or has more than 128 bytes.
    BadName {
        /// The module's name.
        module: String,
    },
    /// More than 256 MiB.
    TooLarge,
}

impl fmt::Display for BinaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAscii { module } => write!(
                f,
                "the kernel module \"{}\" or its path is not ASCII",
                module.escape_debug()
            ),
            Self::BadName { module } => write!(
                f,
                "\"{}\" cannot be a kernel module's name",
                module.escape_debug()
            ),
            Self::TooLarge => write!(f, "modules.dep.bin would have more than 256 MiB"),
        }
    }
}

impl core::error::Error for BinaryError {}

/// modules.dep.bin for a modules.dep, as depmod makes it: libkmod (modprobe,
/// udev) reads this file and not the text.
///
/// # Errors
/// What [`BinaryError`] names.
pub fn dep_index(dep: &str) -> Result<Vec<u8>, BinaryError> {
    let mut entries = Vec::new();
    for (priority, line) in text::lines(dep)
        .filter(|line| line.contains(':'))
        .enumerate()
    {
        let path = line.split(':').next().unwrap_or("");
        let module = text::module_name(path);
        if !line.is_ascii() || line.contains('\0') {
            return Err(BinaryError::NotAscii { module });
        }
        if module.is_empty() || module.len() > MAX_NAME_LEN {
            return Err(BinaryError::BadName { module });
        }
        let priority = u32::try_from(priority).map_err(|_| BinaryError::TooLarge)?;
        entries.push(Entry {
            key: module,
            priority,
            value: line,
        });
    }
    // By name; the sort is stable, so that those of one name stay in order.
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let root = write_node(&mut out, &entries, 0, true)?;
    put_at(&mut out, 8, root);
    Ok(out)
}

struct Entry<'a> {
    key: String,
    priority: u32,
    value: &'a str,
}

impl Entry<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.key.as_bytes().get(at).copied()
    }
}

/// Writes the node for `entries`, whose keys agree in their first `depth`
/// bytes, and what is below it; returns what points at it. It calls itself at
/// most once for each byte of a key.
fn write_node(
    out: &mut Vec<u8>,
    entries: &[Entry<'_>],
    depth: usize,
    is_root: bool,
) -> Result<u32, BinaryError> {
    let offset = u32::try_from(out.len())
        .ok()
        .filter(|offset| *offset <= OFFSET_MASK)
        .ok_or(BinaryError::TooLarge)?;
    let mut flags = 0;
    // libkmod's root has no prefix.
    let prefix = if is_root {
        0
    } else {
        common_prefix(entries, depth)
    };
    let end = depth + prefix;
    if let Some(bytes) = entries
        .first()
        .and_then(|first| first.key.as_bytes().get(depth..end))
        .filter(|bytes| !bytes.is_empty())
    {
        flags |= PREFIX;
        out.extend_from_slice(bytes);
        out.push(0);
    }
    let (here, below) = entries.split_at(entries.partition_point(|e| e.key.len() <= end));
    let mut pointers = None;
    let range = below.first().zip(below.last());
    if let Some((first, last)) = range.and_then(|(a, b)| a.byte(end).zip(b.byte(end))) {
        flags |= CHILDREN;
        out.extend_from_slice(&[first, last]);
        pointers = Some((out.len(), first));
        out.resize(out.len() + 4 * (usize::from(last - first) + 1), 0);
    }
    if !here.is_empty() {
        flags |= VALUES;
        let count = u32::try_from(here.len()).map_err(|_| BinaryError::TooLarge)?;
        out.extend_from_slice(&count.to_be_bytes());
        for entry in here {
            out.extend_from_slice(&entry.priority.to_be_bytes());
            out.extend_from_slice(entry.value.as_bytes());
            out.push(0);
        }
    }
    if let Some((table, first)) = pointers {
        for child in below.chunk_by(|a, b| a.byte(end) == b.byte(end)) {
            let byte = child.first().and_then(|entry| entry.byte(end));
            let slot = usize::from(byte.unwrap_or(first) - first);
            let pointer = write_node(out, child, end + 1, false)?;
            put_at(out, table + 4 * slot, pointer);
        }
    }
    Ok(offset | flags)
}

/// How many bytes after the first `depth` all keys agree in: sorted, what the
/// first and the last agree in, all do.
fn common_prefix(entries: &[Entry<'_>], depth: usize) -> usize {
    let Some((first, last)) = entries.first().zip(entries.last()) else {
        return 0;
    };
    let pairs = first.key.bytes().zip(last.key.bytes());
    pairs.skip(depth).take_while(|(a, b)| a == b).count()
}

fn put_at(out: &mut [u8], at: usize, number: u32) {
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&number.to_be_bytes());
    }
}
