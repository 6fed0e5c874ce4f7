//! Unpacks the entries of an initramfs as init/initramfs.c does: directories
//! that exist get new attributes, what is of another type is replaced, a
//! regular file is written over, hard links are known by device and inode
//! number within one archive, and an entry whose folder is missing is passed
//! over (with a warning).

use super::{Attributes, Stage, clear, set_attributes, set_mtime, staging};
use crate::error::{Error, ErrorKind, Result};
use crate::input::segments::{self, Event};
use crate::progress::Progress;
use crate::request::Limits;
use iofs_cpio::Entry;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// What the kernel calls one file: device, inode number, type.
type Identity = ((u32, u32), u32, u32);

struct Unpacker<'s> {
    stage: &'s mut Stage,
    entries: u64,
    limits: Limits,
    links: HashMap<Identity, Vec<u8>>,
    /// Times of directories: set at the end, since making an entry changes them.
    folders: Vec<(Vec<u8>, (i64, u32))>,
}

impl Stage {
    /// Unpacks an initramfs, from offset `start` (behind its early segments),
    /// into the stage.
    pub(crate) fn unpack(
        &mut self,
        bytes: &[u8],
        start: usize,
        limits: Limits,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut unpacker = Unpacker {
            stage: self,
            entries: 0,
            limits,
            links: HashMap::new(),
            folders: Vec::new(),
        };
        segments::read_all(
            bytes,
            start,
            limits.unpacked_bytes,
            &mut |event| match event {
                Event::Entry(entry) => unpacker.entry(entry),
                Event::Trailer => {
                    unpacker.links.clear();
                    Ok(())
                }
            },
            &mut |by| progress.advance(by),
        )?;
        unpacker.finish()
    }
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "the initramfs has more than {} entries",
                    self.limits.entries
                ),
            ));
        }
        let path = entry.path().map_err(segments::bad_archive)?;
        let (folder, name) = match self.stage.parent(&path) {
            Ok(found) => found,
            Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)) => {
                self.pass_over(&path, error);
                return Ok(());
            }
            Err(error) => return Err(staging("opening the folder of", &path, error)),
        };
        match self.make(entry, &path, &folder, name) {
            Ok(()) => Ok(()),
            // A folder that is not empty stands where a file should; a name is
            // too long for the file system. The kernel passes over these.
            Err(error @ (Errno::NOTEMPTY | Errno::EXIST | Errno::NAMETOOLONG)) => {
                self.pass_over(&path, error);
                Ok(())
            }
            Err(error) => Err(staging("making", &path, error)),
        }
    }

    fn pass_over(&mut self, path: &[u8], error: Errno) {
        self.stage.warnings.push(format!(
            "{} in the initramfs cannot be made ({}); the kernel would pass over it, so it is left out",
            String::from_utf8_lossy(path),
            std::io::Error::from(error)
        ));
    }

    fn make(
        &mut self,
        entry: &Entry<'_>,
        path: &[u8],
        folder: &OwnedFd,
        name: Option<&OsStr>,
    ) -> rustix::io::Result<()> {
        let attributes = Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: (entry.mtime.into(), 0),
        };
        let Some(name) = name else {
            if entry.file_type() == iofs_cpio::FileType::Directory {
                self.folders.push((Vec::new(), attributes.mtime));
                set_attributes(folder, OsStr::new("."), &attributes, false)?;
            }
            return Ok(());
        };
        match entry.file_type() {
            iofs_cpio::FileType::Regular => {
                let linked = self.link(entry, path, folder, name)?;
                write_file(folder, name, entry.data, linked)?;
                set_attributes(folder, name, &attributes, false)
            }
            iofs_cpio::FileType::Directory => {
                clear(folder, name, Some(FileType::Directory))?;
                match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                self.folders.push((path.to_vec(), attributes.mtime));
                set_attributes(folder, name, &attributes, false)
            }
            iofs_cpio::FileType::Symlink => {
                clear(folder, name, None)?;
                rustix::fs::symlinkat(OsStr::from_bytes(entry.data), folder, name)?;
                set_attributes(folder, name, &attributes, true)
            }
            iofs_cpio::FileType::Unknown => Ok(()),
            special => {
                let kind = match special {
                    iofs_cpio::FileType::BlockDevice => FileType::BlockDevice,
                    iofs_cpio::FileType::CharDevice => FileType::CharacterDevice,
                    iofs_cpio::FileType::Fifo => FileType::Fifo,
                    _ => FileType::Socket,
                };
                if !self.link(entry, path, folder, name)? {
                    clear(folder, name, None)?;
                    let device = rustix::fs::makedev(entry.rdev.0, entry.rdev.1);
                    rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), device)?;
                }
                set_attributes(folder, name, &attributes, false)
            }
        }
    }

    /// Links `name` to an earlier entry of the same file; false if there is none.
    fn link(
        &mut self,
        entry: &Entry<'_>,
        path: &[u8],
        folder: &OwnedFd,
        name: &OsStr,
    ) -> rustix::io::Result<bool> {
        if entry.nlink < 2 {
            return Ok(false);
        }
        let identity = (entry.dev, entry.ino, entry.mode & 0o170_000);
        let Some(first) = self.links.get(&identity) else {
            self.links.insert(identity, path.to_vec());
            return Ok(false);
        };
        if first == path {
            return Ok(false);
        }
        let (old_folder, Some(old_name)) = self.stage.parent(first)? else {
            return Ok(false);
        };
        clear(folder, name, None)?;
        rustix::fs::linkat(&old_folder, old_name, folder, name, AtFlags::empty())?;
        Ok(true)
    }

    fn finish(self) -> Result<()> {
        for (path, mtime) in self.folders.iter().rev() {
            let set = || {
                let (folder, name) = self.stage.parent(path)?;
                set_mtime(&folder, name.unwrap_or(OsStr::new(".")), *mtime)
            };
            match set() {
                // A later segment may have put something else in its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(staging("setting the time of", path, error)),
            }
        }
        Ok(())
    }
}

/// Writes a regular file over what is there. A file that was just linked keeps
/// its contents unless the entry brings some: of several names, only one
/// carries them.
fn write_file(folder: &OwnedFd, name: &OsStr, data: &[u8], linked: bool) -> rustix::io::Result<()> {
    if linked && data.is_empty() {
        return Ok(());
    }
    clear(folder, name, Some(FileType::RegularFile))?;
    let file = rustix::fs::openat(
        folder,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    File::from(file)
        .write_all(data)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
