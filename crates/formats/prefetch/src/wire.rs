//! Encoding and decoding.

use alloc::string::String;
use alloc::vec::Vec;

use iofs_source::crc32;

use crate::{
    FileRanges, HEADER_LEN, MAX_FILES, MAX_LEN, MAX_PATH, MAX_RANGES, PAGE, PrefetchError,
    PrefetchList, Range, Uuid, VERSION,
};

const MAGIC: &[u8; 8] = b"IOFSPREF";
const CHECKSUM_LEN: usize = 4;

pub(crate) fn encode(list: &PrefetchList) -> Result<Vec<u8>, PrefetchError> {
    check(list)?;
    let count = |len: usize| u32::try_from(len).map_err(|_| PrefetchError::Length);
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    // Two that are zero and the length, which is known at the end.
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(list.uuid.as_bytes());
    out.extend_from_slice(&list.size.to_le_bytes());
    out.extend_from_slice(&count(list.metadata.len())?.to_le_bytes());
    out.extend_from_slice(&count(list.files.len())?.to_le_bytes());
    out.resize(HEADER_LEN, 0);
    put_ranges(&mut out, &list.metadata);
    let mut previous = "";
    for file in &list.files {
        let shared = common(previous, &file.path);
        let rest = file.path.as_bytes().get(shared..).unwrap_or(&[]);
        put(&mut out, count(shared)?);
        put(&mut out, count(rest.len())?);
        out.extend_from_slice(rest);
        put(&mut out, count(file.ranges.len())?);
        put_ranges(&mut out, &file.ranges);
        previous = &file.path;
    }
    let total = out.len() + CHECKSUM_LEN;
    if total > MAX_LEN {
        return Err(PrefetchError::Length);
    }
    if let Some(field) = out.get_mut(12..16) {
        field.copy_from_slice(&count(total)?.to_le_bytes());
    }
    let sum = crc32(0, &out);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

/// The length that a header states; `None` if it is no header.
pub(crate) fn stated_len(header: &[u8; HEADER_LEN]) -> Result<Option<usize>, PrefetchError> {
    if !header.starts_with(MAGIC) {
        return Ok(None);
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(PrefetchError::Version { found: version });
    }
    let len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    usize::try_from(len)
        .ok()
        .filter(|len| (HEADER_LEN + CHECKSUM_LEN..=MAX_LEN).contains(len))
        .map(Some)
        .ok_or(PrefetchError::Length)
}

pub(crate) fn decode(bytes: &[u8], uuid: Uuid, size: u64) -> Result<PrefetchList, PrefetchError> {
    let (header, _) = bytes
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(PrefetchError::Length)?;
    let stated = stated_len(header)?.ok_or(PrefetchError::Value { field: "magic" })?;
    if stated != bytes.len() {
        return Err(PrefetchError::Length);
    }
    let (body, sum) = bytes
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or(PrefetchError::Length)?;
    if u32::from_le_bytes(*sum) != crc32(0, body) {
        return Err(PrefetchError::Checksum);
    }
    let mut reader = Reader {
        rest: body.get(32..).unwrap_or(&[]),
    };
    let its_size = u64::from_le_bytes(reader.array()?);
    if header.get(16..32) != Some(uuid.as_bytes().as_slice()) || its_size != size {
        return Err(PrefetchError::Foreign);
    }
    let metadata = u32::from_le_bytes(reader.array()?) as usize;
    let files = u32::from_le_bytes(reader.array()?) as usize;
    if reader.array::<16>()? != [0; 16] || header[10] != 0 || header[11] != 0 {
        return Err(PrefetchError::Value { field: "padding" });
    }
    if files > MAX_FILES {
        return Err(PrefetchError::Length);
    }
    let mut budget = MAX_RANGES;
    let mut list = PrefetchList {
        uuid,
        size,
        metadata: reader.ranges(metadata, &mut budget)?,
        files: Vec::new(),
    };
    let mut previous = String::new();
    for _ in 0..files {
        let shared = reader.number()? as usize;
        let rest = reader.number()? as usize;
        let rest = core::str::from_utf8(reader.take(rest)?)
            .map_err(|_| PrefetchError::Value { field: "path" })?;
        let mut path: String = previous
            .get(..shared)
            .ok_or(PrefetchError::Value { field: "path" })?
            .into();
        path.push_str(rest);
        if !is_path(&path) {
            return Err(PrefetchError::Value { field: "path" });
        }
        let count = reader.number()? as usize;
        let ranges = reader.ranges(count, &mut budget)?;
        previous.clone_from(&path);
        list.files.push(FileRanges { path, ranges });
    }
    if !reader.rest.is_empty() {
        return Err(PrefetchError::Length);
    }
    // What lies behind the end is not the image's to ask for.
    match list.metadata.last() {
        Some(last) if !inside(*last, size) => Err(PrefetchError::Value {
            field: "metadata range",
        }),
        _ => Ok(list),
    }
}

/// What [`decode`] will ask for.
fn check(list: &PrefetchList) -> Result<(), PrefetchError> {
    let files = list.files.iter().map(|file| &file.ranges);
    let mut count = 0;
    for ranges in core::iter::once(&list.metadata).chain(files) {
        count += ranges.len();
        let mut end = 0;
        for (index, range) in ranges.iter().enumerate() {
            let apart = index == 0 || range.start > end;
            if !apart || range.len == 0 || range.start.checked_add(range.len).is_none() {
                return Err(PrefetchError::Value { field: "range" });
            }
            end = range.end();
        }
    }
    if list
        .metadata
        .last()
        .is_some_and(|last| !inside(*last, list.size))
    {
        return Err(PrefetchError::Value {
            field: "metadata range",
        });
    }
    if !list.files.iter().all(|file| is_path(&file.path)) {
        return Err(PrefetchError::Value { field: "path" });
    }
    match count <= MAX_RANGES && list.files.len() <= MAX_FILES {
        true => Ok(()),
        false => Err(PrefetchError::Length),
    }
}

fn inside(range: Range, size: u64) -> bool {
    u64::from(range.end()) <= size.div_ceil(PAGE)
}

/// Relative, without empty, `.` and `..` parts and NUL bytes.
pub(crate) fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// How many bytes two paths have in common, whole characters of both.
fn common(a: &str, b: &str) -> usize {
    let mut len = 0;
    for ((at, x), y) in a.char_indices().zip(b.chars()) {
        if x != y {
            break;
        }
        len = at + x.len_utf8();
    }
    len
}

fn put_ranges(out: &mut Vec<u8>, ranges: &[Range]) {
    let mut end = 0;
    for range in ranges {
        put(out, range.start - end);
        put(out, range.len);
        end = range.end();
    }
}

fn put(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], PrefetchError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(PrefetchError::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PrefetchError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn number(&mut self) -> Result<u32, PrefetchError> {
        let mut number = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(number).map_err(|_| PrefetchError::Value { field: "number" });
            }
        }
        Err(PrefetchError::Value { field: "number" })
    }

    fn ranges(&mut self, count: usize, budget: &mut usize) -> Result<Vec<Range>, PrefetchError> {
        *budget = budget.checked_sub(count).ok_or(PrefetchError::Length)?;
        let mut ranges = Vec::new();
        let mut end = 0_u32;
        for index in 0..count {
            let gap = self.number()?;
            let len = self.number()?;
            let bad = PrefetchError::Value { field: "range" };
            let start = end.checked_add(gap).ok_or(bad)?;
            // Two that touch would be one.
            if len == 0 || (index > 0 && gap == 0) {
                return Err(bad);
            }
            end = start.checked_add(len).ok_or(bad)?;
            ranges.push(Range { start, len });
        }
        Ok(ranges)
    }
}
