//! One pass over the staged tree: what it is (a hash, for the image's UUID),
//! how large it is, and which files do not compress.

use super::ImageWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use iofs_plan::Uuid;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A block of a file that is tried with lz4, in bytes: the physical cluster of
/// the default compression.
const SAMPLE: usize = 64 << 10;

/// Every so many blocks, one is tried.
const STRIDE: usize = 4;

/// Files smaller than this are not looked at: they cost the writer nothing.
const WORTH_SAMPLING: u64 = 16 << 10;

/// A file is stored plain when lz4 saves less than this part of its samples:
/// a cluster saved in so many is not worth a decompression on every read, and
/// lz4hc takes seconds a file to find out.
const WORTH_COMPRESSING: usize = 32;

/// What the pass found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// SHA-256 over every name, attribute and byte that an image keeps.
    pub(crate) digest: [u8; 32],
    /// Files that do not compress, relative to the stage, sorted.
    pub(crate) plain: Vec<PathBuf>,
    /// Their size, in bytes.
    pub(crate) plain_bytes: u64,
    /// Sum of the sizes of regular files, hard links counted once, in bytes.
    pub(crate) raw_bytes: u64,
}

struct Item {
    path: PathBuf,
    meta: Metadata,
    /// Index of the item that is the same file and comes first.
    first: usize,
}

struct Content {
    digest: [u8; 32],
    plain: bool,
}

/// The entries of a staged tree, sorted.
pub(crate) struct Tree {
    stage: PathBuf,
    items: Vec<Item>,
}

impl Tree {
    pub(crate) fn walk(stage: &Path) -> Result<Self> {
        Ok(Self {
            stage: stage.to_owned(),
            items: walk(stage)?,
        })
    }

    /// Number of entries, the root included.
    pub(crate) fn len(&self) -> u64 {
        self.items.len() as u64
    }

    /// Reads every file, on every core; `find_plain` asks for those that do not
    /// compress.
    pub(crate) fn scan(&self, find_plain: bool, progress: &dyn Progress) -> Result<Scan> {
        let contents = self
            .items
            .par_iter()
            .enumerate()
            .map(|(index, item)| {
                progress.advance(1);
                if item.meta.is_file() && item.first == index {
                    read(&self.stage.join(&item.path), item.meta.len(), find_plain).map(Some)
                } else {
                    Ok(None)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let mut scan = Scan {
            digest: [0; 32],
            plain: Vec::new(),
            plain_bytes: 0,
            raw_bytes: 0,
        };
        let mut hash = Sha256::new();
        for (item, content) in self.items.iter().zip(&contents) {
            describe(&mut hash, &self.stage, item, content.as_ref())?;
            if let Some(content) = content {
                scan.raw_bytes += item.meta.len();
                if content.plain {
                    scan.plain_bytes += item.meta.len();
                    scan.plain.push(item.path.clone());
                }
            }
        }
        scan.digest = hash.finalize().into();
        Ok(scan)
    }
}

fn walk(stage: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut links = HashMap::new();
    for entry in WalkDir::new(stage).sort_by_file_name() {
        let failed = |error: walkdir::Error| {
            Error::new(ErrorKind::Io, "walking through the stage failed").source(error)
        };
        let entry = entry.map_err(failed)?;
        let meta = entry.metadata().map_err(failed)?;
        let path = entry
            .path()
            .strip_prefix(stage)
            .unwrap_or(Path::new(""))
            .to_owned();
        let index = items.len();
        let first = if meta.is_dir() || meta.nlink() < 2 {
            index
        } else {
            *links.entry(meta.ino()).or_insert(index)
        };
        items.push(Item { path, meta, first });
    }
    Ok(items)
}

/// Hashes a file's bytes, and tries how well they compress.
fn read(path: &Path, len: u64, find_plain: bool) -> Result<Content> {
    let failed = |error| Error::io("reading", path)(error);
    let mut file = File::open(path).map_err(failed)?;
    let sample = find_plain && len >= WORTH_SAMPLING;
    let mut hash = Sha256::new();
    let mut block = vec![0; SAMPLE];
    let mut scratch = if sample {
        vec![0; lz4_flex::block::get_maximum_output_size(SAMPLE)]
    } else {
        Vec::new()
    };
    let (mut tried, mut saved) = (0, 0);
    for index in 0.. {
        let mut got = 0;
        while got < block.len() {
            match file.read(&mut block[got..]) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if got == 0 {
            break;
        }
        hash.update(&block[..got]);
        if sample && index % STRIDE == 0 {
            let packed = lz4_flex::block::compress_into(&block[..got], &mut scratch).unwrap_or(got);
            tried += got;
            saved += got.saturating_sub(packed);
        }
    }
    Ok(Content {
        digest: hash.finalize().into(),
        plain: tried > 0 && saved < tried / WORTH_COMPRESSING,
    })
}

/// Adds one entry to the tree's hash: every field has a fixed length or its
/// length before it, so that no two trees give the same bytes. Times are not in
/// it, as they are not in the image.
fn describe(hash: &mut Sha256, stage: &Path, item: &Item, content: Option<&Content>) -> Result<()> {
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(item.path.as_os_str().as_bytes());
    let meta = &item.meta;
    field(&meta.mode().to_le_bytes());
    field(&meta.uid().to_le_bytes());
    field(&meta.gid().to_le_bytes());
    field(&meta.rdev().to_le_bytes());
    field(&(item.first as u64).to_le_bytes());
    let path = stage.join(&item.path);
    if meta.is_symlink() {
        let target = std::fs::read_link(&path).map_err(Error::io("reading the link", &path))?;
        field(target.as_os_str().as_bytes());
    }
    if let Some(content) = content {
        field(&content.digest);
    }
    for (name, value) in crate::stage::read_xattrs(&path)? {
        field(name.as_bytes());
        field(&value);
    }
    Ok(())
}

/// The UUID of an image: version 8 (RFC 9562: its bits are the maker's own),
/// from the tree and from how it is written.
pub(crate) fn derive_uuid(digest: &[u8; 32], writer: &dyn ImageWriter, timestamp: u64) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"initoverlayfs image\0");
    hash.update(digest);
    hash.update(writer.name().as_bytes());
    hash.update([0]);
    hash.update(writer.compression().as_bytes());
    hash.update([0]);
    hash.update(timestamp.to_le_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}
