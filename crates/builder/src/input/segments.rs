//! An initramfs as the kernel reads it: early segments kept apart, then
//! archives and compressed archives that overlay each other in order
//! (init/initramfs.c, Documentation/driver-api/early-userspace/buffer-format.rst).

use super::decode::{Budget, Decoder, OverBudget, damaged};
use crate::error::{Error, ErrorKind, Result};
use iofs_cpio::{CpioError, CpioErrorKind, Entry, FileType, Reader, SegmentKind, next_segment};
use std::io::Read;

/// How much is read from a decompressor at once, in bytes.
const CHUNK: usize = 1 << 20;

/// What comes out of an initramfs.
pub(crate) enum Event<'a> {
    /// An entry of an archive.
    Entry(&'a Entry<'a>),
    /// The end of an archive: inode numbers start anew.
    Trailer,
}

/// What receives it.
pub(crate) type Sink<'s> = dyn FnMut(Event<'_>) -> Result<()> + 's;

/// Error for an archive that is damaged or tries to leave its root.
pub(crate) fn bad_archive(source: CpioError) -> Error {
    Error::new(ErrorKind::Input, "the initramfs is damaged").source(source)
}

/// The length of the early segments that `bytes` begins with: uncompressed
/// archives that hold nothing but what the kernel looks for before it unpacks
/// anything (microcode, ACPI tables), with the padding after them. 0 if there
/// are none.
pub(crate) fn early_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(segment) = next_segment(bytes, at) {
        if segment.kind != SegmentKind::Cpio {
            break;
        }
        let mut reader = Reader::at(bytes, segment.start);
        let mut payload = false;
        let mut early = true;
        for entry in reader.by_ref() {
            match entry {
                Ok(entry) if is_early(&entry) => {
                    payload |= entry.file_type() == FileType::Regular && entry.name.contains(&b'/');
                }
                _ => early = false,
            }
            if !early {
                break;
            }
        }
        if !early || !payload || !reader.saw_trailer() {
            break;
        }
        let end = reader.position();
        let padding = bytes
            .get(end..)
            .unwrap_or(&[])
            .iter()
            .take_while(|&&byte| byte == 0)
            .count();
        at = end + padding;
    }
    at
}

/// Whether an entry is of the kind that early segments hold: dracut adds the
/// marker `early_cpio`, iucode-tool files that align its data.
fn is_early(entry: &Entry<'_>) -> bool {
    let Ok(path) = entry.path() else {
        return false;
    };
    let under = |folder: &[u8]| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    match entry.file_type() {
        FileType::Directory => matches!(
            path.as_slice(),
            b"" | b"kernel"
                | b"kernel/x86"
                | b"kernel/x86/microcode"
                | b"kernel/firmware"
                | b"kernel/firmware/acpi"
        ),
        FileType::Regular => {
            path == b"early_cpio"
                || under(b"kernel/x86/microcode")
                || under(b"kernel/firmware/acpi")
        }
        _ => false,
    }
}

/// Feeds everything in `bytes`, an initramfs, from offset `start` to `sink`. At
/// most `limit` bytes are decompressed. `advance` is told how much of `bytes`
/// was consumed.
pub(crate) fn read_all(
    bytes: &[u8],
    start: usize,
    limit: u64,
    sink: &mut Sink<'_>,
    advance: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut at = start;
    let mut left = limit;
    loop {
        let segment = next_segment(bytes, at).map_err(bad_archive)?;
        let end = match segment.kind {
            SegmentKind::End => break,
            SegmentKind::Cpio => read_plain(bytes, segment.start, sink)?,
            SegmentKind::Compressed(format) => {
                let rest = bytes.get(segment.start..).unwrap_or(&[]);
                let decoder = Decoder::new(format, rest)?;
                let mut source = Budget::new(decoder, left, limit);
                read_stream(&mut source, format, segment.start, CHUNK, sink)?;
                left = source.left();
                bytes.len() - source.get_ref().rest().len()
            }
        };
        advance((end - at) as u64);
        at = end;
    }
    advance((bytes.len() - at) as u64);
    Ok(())
}

/// Feeds one uncompressed archive; returns where it ends.
fn read_plain(bytes: &[u8], start: usize, sink: &mut Sink<'_>) -> Result<usize> {
    let mut reader = Reader::at(bytes, start);
    for entry in reader.by_ref() {
        sink(Event::Entry(&entry.map_err(bad_archive)?))?;
    }
    sink(Event::Trailer)?;
    Ok(reader.position())
}

/// Feeds the archives of a compressed segment (at offset `start`), holding no
/// more of them in memory than `chunk` bytes and the file that is being read.
fn read_stream(
    source: &mut impl Read,
    format: iofs_cpio::Compression,
    start: usize,
    chunk: usize,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut buffer = Vec::new();
    // Offset of the buffer in the decompressed data, always a multiple of 4.
    let mut base = 0;
    let mut want = chunk;
    // Padding of an entry that the buffer ended before.
    let mut skip = 0;
    let mut at_end = false;
    let inside = |source: CpioError, base: usize| {
        Error::new(
            ErrorKind::Input,
            format!(
                "the {} segment at byte {start} of the initramfs holds a damaged archive",
                format.name()
            ),
        )
        .source(CpioError {
            offset: source.offset.saturating_add(base),
            ..source
        })
    };
    loop {
        if !at_end {
            at_end = fill(source, &mut buffer, want).map_err(|error| {
                match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    Some(&OverBudget(limit)) => Error::new(
                        ErrorKind::Limit,
                        format!("the initramfs decompresses to more than {limit} bytes"),
                    )
                    .hint("If it is meant to be so large, raise the limit."),
                    None => damaged(format, error),
                }
            })?;
        }
        let skipped = skip.min(buffer.len());
        buffer.drain(..skipped);
        skip -= skipped;
        let mut reader = Reader::new(&buffer);
        let done = match feed(&mut reader, &buffer, sink)? {
            Fed::Needs(more, _) if !at_end => {
                want = more.max(chunk);
                reader.position()
            }
            Fed::Needs(_, Some(error)) | Fed::Failed(error) => return Err(inside(error, base)),
            Fed::Needs(_, None) => return Ok(()),
        };
        buffer.drain(..done);
        skip += done.next_multiple_of(4) - done;
        base += done.next_multiple_of(4);
    }
}

/// How far a buffer went.
enum Fed {
    /// To its end: at least so many more bytes are needed, else the error stands.
    Needs(usize, Option<CpioError>),
    /// It is damaged.
    Failed(CpioError),
}

fn feed<'a>(reader: &mut Reader<'a>, buffer: &'a [u8], sink: &mut Sink<'_>) -> Result<Fed> {
    loop {
        for entry in reader.by_ref() {
            match entry {
                Ok(entry) => sink(Event::Entry(&entry))?,
                Err(error) => {
                    return Ok(match error.kind {
                        CpioErrorKind::TruncatedHeader | CpioErrorKind::TruncatedName { .. } => {
                            Fed::Needs(0, Some(error))
                        }
                        CpioErrorKind::TruncatedData { len, present } => Fed::Needs(
                            usize::try_from(len)
                                .unwrap_or(usize::MAX)
                                .saturating_sub(present),
                            Some(error),
                        ),
                        _ => Fed::Failed(error),
                    });
                }
            }
        }
        let position = Reader::position(reader);
        if reader.saw_trailer() {
            sink(Event::Trailer)?;
        }
        // Past padding, another archive may follow; anything else is refused, as
        // the kernel does ("junk within compressed archive").
        match next_segment(buffer, position) {
            Ok(segment) if segment.kind == SegmentKind::Cpio => {
                *reader = Reader::at(buffer, segment.start);
            }
            Ok(segment) if segment.kind == SegmentKind::End => return Ok(Fed::Needs(0, None)),
            Ok(segment) => {
                let mut found = [0; 6];
                let there = buffer.get(segment.start..).unwrap_or(&[]);
                found
                    .iter_mut()
                    .zip(there)
                    .for_each(|(to, from)| *to = *from);
                return Ok(Fed::Failed(CpioError {
                    offset: segment.start,
                    kind: CpioErrorKind::BadMagic { found },
                }));
            }
            Err(error) if error.kind == CpioErrorKind::TruncatedHeader => {
                return Ok(Fed::Needs(0, Some(error)));
            }
            Err(error) => return Ok(Fed::Failed(error)),
        }
    }
}

/// Adds up to `want` bytes of `source` to `buffer`; true at its end.
fn fill(source: &mut impl Read, buffer: &mut Vec<u8>, want: usize) -> std::io::Result<bool> {
    let got = source.by_ref().take(want as u64).read_to_end(buffer)?;
    Ok(got < want)
}

#[cfg(test)]
mod tests;
