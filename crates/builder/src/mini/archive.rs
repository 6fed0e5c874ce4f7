//! The bytes of the mini-initramfs: archives and their compression.

use super::embedded::Embedded;
use super::packs::{self, Layout};
use super::plan;
use super::select::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Pending;
use crate::request::{Compression, MiniRequest};
use iofs_cpio::{Format, NewEntry, WriteError, Writer};
use std::fs::File;
use std::io::{BufWriter, Write};

/// What the kernel and storage-init need to find: folders to mount on.
const FOLDERS: [&str; 6] = [
    "dev",
    "proc",
    "sys",
    "run",
    "initoverlayfs",
    "initoverlayfs/modules",
];

/// The size of a block in LZ4's legacy format.
const LZ4_BLOCK: usize = 8 << 20;

/// What goes into a mini-initramfs.
pub(crate) struct Parts<'a> {
    pub(crate) init: &'a [u8],
    /// The encoded boot plan.
    pub(crate) plan: &'a [u8],
    pub(crate) chosen: &'a [Chosen<'a>],
    /// The bytes of each of `chosen`.
    pub(crate) modules: &'a [Vec<u8>],
    pub(crate) layout: &'a Layout,
    /// The bytes of each of the layout's packs.
    pub(crate) frames: &'a [Vec<u8>],
    /// The compressed list of absent drivers.
    pub(crate) absent: Option<&'a [u8]>,
    /// The image, if it is packed too.
    pub(crate) embedded: Option<&'a Embedded>,
}

/// What was written.
pub(crate) struct Written {
    /// Size of the archives before compression, in bytes.
    pub(crate) raw_bytes: u64,
    /// Size of the file, in bytes.
    pub(crate) bytes: u64,
    /// What the compression was.
    pub(crate) compression: String,
}

/// Writes early segment and archives.
///
/// Packs are compressed already and follow in an archive of their own that is
/// not compressed: the kernel takes any sequence of both kinds, and copies
/// these bytes once instead of passing them through its decompressor. LZ4's
/// legacy format has no end, so there nothing can follow. An image lies behind the
/// packs, or in front where it cannot.
pub(crate) fn write(request: &MiniRequest, parts: &Parts<'_>) -> Result<Written> {
    let apart = matches!(
        request.compression,
        Compression::Zstd | Compression::ZstdLevel(_)
    );
    let mut writer = Writer::new(Format::Newc);
    let mut packs = Writer::new(Format::Newc);
    base(&mut writer, parts)
        .and_then(|()| add_packs(if apart { &mut packs } else { &mut writer }, parts))
        .map_err(|source| {
            Error::new(ErrorKind::Usage, "the mini-initramfs cannot be packed").source(source)
        })?;
    let archive = writer.finish();
    let packs = match apart && !parts.frames.is_empty() {
        true => packs.finish(),
        false => Vec::new(),
    };
    let raw_bytes = archive.len() as u64 + packs.len() as u64;
    let (packed, compression) = compress(request.compression, &archive)?;
    let (first, last) = match request.compression {
        Compression::Lz4 => (parts.embedded, None),
        _ => (None, parts.embedded),
    };
    let pending = Pending::new(&request.output)?;
    let path = pending.path();
    let file = File::create(path).map_err(Error::io("creating", path))?;
    let mut out = Segments {
        out: BufWriter::new(file),
        len: 0,
    };
    let io = |error| Error::io("writing", path)(error);
    out.add(&request.early).map_err(io)?;
    out.embed(first)?;
    for segment in [packed, packs] {
        out.add(&segment).map_err(io)?;
    }
    out.embed(last)?;
    out.out.flush().map_err(io)?;
    pending.commit()?;
    Ok(Written {
        raw_bytes,
        bytes: out.len,
        compression,
    })
}

/// A file in the making, of one segment behind the other.
struct Segments<W> {
    out: W,
    len: u64,
}

impl<W: Write> Segments<W> {
    fn add(&mut self, segment: &[u8]) -> std::io::Result<()> {
        if !segment.is_empty() {
            self.align()?;
            self.out.write_all(segment)?;
            self.len += segment.len() as u64;
        }
        Ok(())
    }

    /// An uncompressed archive must lie at a multiple of 4.
    fn align(&mut self) -> std::io::Result<()> {
        while self.len % 4 != 0 {
            self.out.write_all(&[0])?;
            self.len += 1;
        }
        Ok(())
    }

    fn embed(&mut self, image: Option<&Embedded>) -> Result<()> {
        if let Some(image) = image {
            self.align().map_err(|source| {
                Error::new(ErrorKind::Io, "writing the mini-initramfs failed").source(source)
            })?;
            self.len = image.write(&mut self.out, self.len)?;
        }
        Ok(())
    }
}

/// What every boot unpacks. Owner, group and times are 0 and the order is fixed,
/// so that the same parts give the same bytes.
fn base(writer: &mut Writer, parts: &Parts<'_>) -> std::result::Result<(), WriteError> {
    for folder in FOLDERS {
        writer.append(&NewEntry::directory(folder, 0o755))?;
    }
    // The kernel opens it before anything can mount a devtmpfs.
    writer.append(&NewEntry {
        mode: 0o020_600,
        rdev: (5, 1),
        ..NewEntry::file("dev/console", 0, &[])
    })?;
    writer.append(&NewEntry::file("init", 0o755, parts.init))?;
    writer.append(&NewEntry::file(inside(iofs_plan::PATH), 0o644, parts.plan))?;
    if let Some(absent) = parts.absent {
        writer.append(&NewEntry::file(inside(iofs_plan::ABSENT), 0o644, absent))?;
    }
    for (number, (chosen, bytes)) in parts.chosen.iter().zip(parts.modules).enumerate() {
        if parts.layout.place(number).is_none() {
            let folder = inside(iofs_plan::MODULES_DIR);
            let name = format!("{folder}/{}", plan::file_name(chosen));
            writer.append(&NewEntry::file(&name, 0o644, bytes))?;
        }
    }
    Ok(())
}

fn add_packs(writer: &mut Writer, parts: &Parts<'_>) -> std::result::Result<(), WriteError> {
    if parts.frames.is_empty() {
        return Ok(());
    }
    let folder = inside(iofs_plan::PACKS_DIR);
    writer.append(&NewEntry::directory(folder, 0o755))?;
    for (pack, frame) in parts.layout.packs.iter().zip(parts.frames) {
        let name = format!("{folder}/{}", pack.file);
        writer.append(&NewEntry::file(&name, 0o644, frame))?;
    }
    Ok(())
}

/// A path as archives have it.
pub(crate) fn inside(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn compress(compression: Compression, archive: &[u8]) -> Result<(Vec<u8>, String)> {
    let (level, name) = match compression {
        Compression::None => return Ok((archive.to_vec(), "none".to_owned())),
        Compression::Lz4 => return Ok((lz4_legacy(archive), "lz4".to_owned())),
        Compression::Zstd => (None, "zstd".to_owned()),
        Compression::ZstdLevel(level) => (Some(level), format!("zstd-{level}")),
    };
    match zstd_frame(archive, level, workers()) {
        Ok(packed) => Ok((packed, name)),
        Err(source) => {
            Err(Error::new(ErrorKind::Io, "compressing with zstd failed").source(source))
        }
    }
}

fn workers() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores.min(8)).unwrap_or(1)
}

/// One frame. The number of workers (at least 1) does not change its bytes:
/// zstd cuts its jobs by the window.
fn zstd_frame(archive: &[u8], level: Option<i32>, workers: u32) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), packs::base_level(level))?;
    for parameter in packs::parameters(level) {
        encoder.set_parameter(parameter)?;
    }
    encoder.multithread(workers)?;
    encoder.write_all(archive)?;
    encoder.finish()
}

/// The only lz4 format that kernels read.
fn lz4_legacy(archive: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in archive.chunks(LZ4_BLOCK) {
        let packed = lz4_flex::block::compress(block);
        let len = u32::try_from(packed.len()).expect("a block of 8 MiB stays below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::zstd_frame;

    #[test]
    fn cores_do_not_change_the_bytes() {
        // More than one job's worth, neither random nor constant.
        let archive: Vec<u8> = (0..20_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8)
            .collect();
        let one = zstd_frame(&archive, Some(3), 1).unwrap();
        assert!(one == zstd_frame(&archive, Some(3), 2).unwrap());
        assert!(one == zstd_frame(&archive, Some(3), 5).unwrap());
        assert!(zstd::decode_all(one.as_slice()).unwrap() == archive);
    }
}
