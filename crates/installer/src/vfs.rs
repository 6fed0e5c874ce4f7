//! The few operations with which an installation changes a file system or a
//! partition.
//!
//! Everything that writes goes through [`Vfs`], so that a test can cut the power
//! before any of them and look at what is left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use iofs_source::ReadAt;
use rustix::fs::{Advice, CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::sfdisk;
use crate::slot::{Change, Slot};
use crate::system::FileSource;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub available: u64,
    /// The allocation unit.
    pub block: u64,
}

/// A file being written.
pub trait OutFile: Write {
    /// Returns once content and size have reached the medium.
    ///
    /// # Errors
    /// If the medium fails, or has failed since the file was opened.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operations; paths are the host's. Each is one step of a protocol that
/// must be safe against a power cut between any two of them.
pub trait Vfs {
    /// Makes one folder (0755).
    ///
    /// # Errors
    /// As mkdir(2).
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file that must not exist yet, with these permission bits.
    ///
    /// # Errors
    /// As open(2) with `O_CREAT | O_EXCL`.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OutFile>>;

    /// Opens a file so that what is read comes from the medium where the
    /// system lets us ask for that, not from the page cache.
    ///
    /// # Errors
    /// As open(2).
    fn read_back(&self, path: &Path) -> io::Result<Box<dyn Read>>;

    /// Renames; an existing `to` is an error, never replaced.
    ///
    /// # Errors
    /// As renameat2(2) with `RENAME_NOREPLACE`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Returns once a folder's entries have reached the medium.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a file of ours.
    ///
    /// # Errors
    /// As unlink(2).
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder of ours.
    ///
    /// # Errors
    /// As rmdir(2).
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The room on the file system that holds `path`.
    ///
    /// # Errors
    /// As statvfs(3).
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Opens a partition for writing from its first byte, as the only user: one
    /// that is mounted, or that swap, device-mapper or RAID have, is refused.
    ///
    /// # Errors
    /// As open(2) with `O_EXCL` on a block device: `EBUSY` if it is in use.
    fn claim(&self, slot: &Slot) -> io::Result<Box<dyn OutFile>>;

    /// Opens a partition for reading, as [`Self::read_back`] does a file.
    ///
    /// # Errors
    /// As open(2).
    fn partition(&self, slot: &Slot) -> io::Result<Box<dyn ReadAt>>;

    /// Whether [`Self::rename_partition`] has what it needs.
    ///
    /// # Errors
    /// What is missing.
    fn can_rename_partitions(&self) -> io::Result<()>;

    /// Changes a partition's entry in its disk's partition table, and returns
    /// once the table has reached the medium. At a power cut the table has the
    /// old or the new entry: of its two copies one is whole at any time.
    ///
    /// # Errors
    /// What the tool that does it says.
    fn rename_partition(&self, slot: &Slot, change: Change) -> io::Result<()>;
}

/// The host's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostVfs;

impl OutFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Vfs for HostVfs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OutFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn read_back(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        let file = File::open(path)?;
        // Clean pages are dropped, so the reads that follow reach the medium.
        // Advice only: where it is not taken, the comparison is weaker.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => {
                // A file system without the flag (FUSE, 9p).
                if fs::symlink_metadata(to).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(from, to)
            }
            other => Ok(other?),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            block: stat.f_frsize.max(1),
        })
    }

    fn claim(&self, slot: &Slot) -> io::Result<Box<dyn OutFile>> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(exclusive())
            .open(&slot.node)?;
        let found = file.metadata()?;
        let device = found.rdev();
        let number = format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        if !found.file_type().is_block_device() || number != slot.device {
            return Err(io::Error::other(format!(
                "it is not the block device {}",
                slot.device
            )));
        }
        Ok(Box::new(file))
    }

    fn partition(&self, slot: &Slot) -> io::Result<Box<dyn ReadAt>> {
        let source = FileSource::open(&slot.node)?;
        source.forget_cached();
        Ok(Box::new(source))
    }

    fn can_rename_partitions(&self) -> io::Result<()> {
        sfdisk::is_there()
    }

    fn rename_partition(&self, slot: &Slot, change: Change) -> io::Result<()> {
        sfdisk::change(&slot.disk, slot.number, change)
    }
}

/// `O_EXCL` without `O_CREAT` has a meaning on block devices only (open(2)).
fn exclusive() -> i32 {
    i32::try_from(OFlags::EXCL.bits()).unwrap_or_default()
}
