//! Volumes made by mkfs.vfat and mtools, and sources that count.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use tempfile::TempDir;

/// Runs a tool to its end and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        // mtools and mkfs translate names from the locale's character set.
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test (Debian: dosfstools, mtools): {error}")
        });
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A volume in a file, and a folder for what goes onto it.
pub(crate) struct Volume {
    folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Volume {
    /// `mkfs.vfat` with `args` on a sparse file of `size` bytes.
    pub(crate) fn make(size: u64, args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("volume");
        File::create(&path).unwrap().set_len(size).unwrap();
        let mut all = args.to_vec();
        all.push(path.to_str().unwrap());
        run("mkfs.vfat", &all);
        Self { folder, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn mkdir(&self, name: &str) {
        run("mmd", &["-i", self.path(), &format!("::{name}")]);
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        let host = self.folder.path().join("content");
        fs::write(&host, content).unwrap();
        let target = format!("::{name}");
        run(
            "mcopy",
            &["-i", self.path(), host.to_str().unwrap(), &target],
        );
    }

    pub(crate) fn delete(&self, name: &str) {
        run("mdel", &["-i", self.path(), &format!("::{name}")]);
    }

    /// Makes mtools look for free clusters from the start, on FAT32 too, where
    /// it goes by the FSInfo sector.
    pub(crate) fn forget_next_free(&self) {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap();
        let mut boot = [0; 512];
        file.read_exact_at(&mut boot, 0).unwrap();
        if boot[22] == 0 && boot[23] == 0 {
            let sector = u64::from(u16::from_le_bytes([boot[11], boot[12]]));
            let info = u64::from(boot[48]) * sector;
            file.write_all_at(&[0xff; 4], info + 492).unwrap();
        }
    }

    pub(crate) fn check(&self) {
        run("fsck.vfat", &["-n", self.path()]);
    }

    pub(crate) fn source(&self) -> Counting {
        Counting::open(&self.path)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

/// A file as a source that counts its reads.
pub(crate) struct Counting {
    file: File,
    size: u64,
    pub(crate) reads: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

impl Counting {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Self {
            file,
            size,
            reads: Cell::new(0),
            bytes: Cell::new(0),
        }
    }
}

impl ReadAt for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        self.file.read_exact_at(buf, offset).map_err(|_| ReadError {
            offset,
            len: buf.len() as u64,
            kind: ReadErrorKind::OutOfBounds { size: self.size },
        })
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// `len` bytes that differ from those of any other seed and at every sector.
pub(crate) fn content(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 1 | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        bytes.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What a test needs to know of a volume to damage it, read from its boot
/// sector without the reader's help.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) fat: usize,
    pub(crate) fat_len: usize,
    pub(crate) root: usize,
    pub(crate) data: usize,
    pub(crate) cluster: usize,
    pub(crate) bits: u32,
}

impl Places {
    pub(crate) fn of(image: &[u8]) -> Self {
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
        let sector = u16_at(11);
        let fat32 = u16_at(22) == 0;
        let fat_sectors = if fat32 { u16_at(36) } else { u16_at(22) };
        let fat = u16_at(14) * sector;
        let root = fat + usize::from(image[16]) * fat_sectors * sector;
        let data = root + u16_at(17) * 32;
        let cluster = usize::from(image[13]) * sector;
        let bits = match &image[54..59] {
            b"FAT12" => 12,
            b"FAT16" => 16,
            _ => 32,
        };
        Self {
            fat,
            fat_len: fat_sectors * sector,
            root: if fat32 { data } else { root },
            data,
            cluster,
            bits,
        }
    }

    /// Sets a cluster's entry in the first FAT.
    pub(crate) fn link(self, image: &mut [u8], cluster: u32, next: u32) {
        let index = cluster as usize;
        match self.bits {
            12 => {
                let at = self.fat + index + index / 2;
                let next = u16::try_from(next & 0xfff).unwrap();
                let old = u16::from_le_bytes([image[at], image[at + 1]]);
                let new = if index % 2 == 0 {
                    old & 0xf000 | next
                } else {
                    old & 0x000f | next << 4
                };
                image[at..at + 2].copy_from_slice(&new.to_le_bytes());
            }
            16 => {
                let next = u16::try_from(next & 0xffff).unwrap();
                let at = self.fat + 2 * index;
                image[at..at + 2].copy_from_slice(&next.to_le_bytes());
            }
            _ => {
                let at = self.fat + 4 * index;
                image[at..at + 4].copy_from_slice(&next.to_le_bytes());
            }
        }
    }

    /// The cluster at an offset in the volume.
    pub(crate) fn cluster_at(self, offset: u64) -> u32 {
        u32::try_from((usize::try_from(offset).unwrap() - self.data) / self.cluster + 2).unwrap()
    }
}

/// Offset in `image` of the short entry with this raw name.
pub(crate) fn find_entry(image: &[u8], raw: &[u8; 11]) -> usize {
    (0..image.len() - 32)
        .step_by(32)
        .find(|&at| image[at..].starts_with(raw))
        .expect("the test has put this file onto the volume")
}
