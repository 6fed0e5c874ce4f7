//! Asking for pages before anybody reads them.

use alloc::string::String;
use core::num::NonZeroU64;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Advice, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::on_path;
use crate::{Error, Result, file};

/// What one request covers, in bytes. The kernel cuts a longer one to what its
/// device's read-ahead or largest request allows (mm/readahead.c,
/// `force_page_cache_ra`), and the default of the first is this.
const STEP: u64 = 128 << 10;

/// A folder whose files are asked for.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &str) -> Result<Self> {
        file::open(path, OFlags::PATH | OFlags::DIRECTORY).map(Self)
    }

    /// Opens a regular file below it. No link is followed, and no `..`.
    ///
    /// # Errors
    /// The kernel's, EINVAL for what is no regular file.
    pub fn file(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        on_path("opening", path, |name| {
            let file = rustix::fs::openat2(&self.0, name, flags, Mode::empty(), beneath)?;
            let mode = rustix::fs::fstat(&file)?.st_mode;
            match FileType::from_raw_mode(mode) {
                FileType::RegularFile => Ok(file),
                _ => Err(Errno::INVAL),
            }
        })
    }

    /// The target of a link below it; links on the way to it are followed, as
    /// /proc/self is one.
    ///
    /// # Errors
    /// The kernel's; EILSEQ if it is not UTF-8.
    pub fn read_link(&self, path: &str) -> Result<String> {
        on_path("reading link", path, |path| {
            let target = file::link_target(&self.0, path)?;
            target.into_string().map_err(|_| Errno::ILSEQ)
        })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks the kernel to read a part of a file or block device into its page cache
/// (posix_fadvise(2), `POSIX_FADV_WILLNEED`). Waits for the requests to be taken,
/// not for the pages.
///
/// # Errors
/// The kernel's: ESPIPE for what has no pages.
pub fn will_need(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    while at < end {
        let step = NonZeroU64::new(STEP.min(end - at));
        rustix::fs::fadvise(file, at, step, Advice::WillNeed)
            .map_err(|errno| Error::new("reading ahead", "a file of the image", errno))?;
        at = at.saturating_add(STEP);
    }
    Ok(())
}

/// Memory that nobody uses at all, in bytes (sysinfo(2)).
#[must_use]
pub fn free_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit).max(1);
    info.freeram.saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn files_are_asked_for_below_their_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("usr")).unwrap();
        std::fs::write(dir.path().join("usr/file"), std::vec![1; 300_000]).unwrap();
        std::os::unix::fs::symlink("usr/file", dir.path().join("link")).unwrap();
        let folder = Folder::open(dir.path().to_str().unwrap()).unwrap();
        let file = folder.file("usr/file").unwrap();
        will_need(file.as_fd(), 0, 300_000).unwrap();
        will_need(file.as_fd(), 1 << 40, 1).unwrap();
        assert_eq!(folder.file("link").unwrap_err().errno(), Errno::LOOP);
        assert_eq!(folder.file("../x").unwrap_err().errno(), Errno::XDEV);
        assert_eq!(folder.file("/etc/passwd").unwrap_err().errno(), Errno::XDEV);
        assert_eq!(folder.file("usr").unwrap_err().errno(), Errno::INVAL);
        assert_eq!(folder.read_link("link").unwrap(), "usr/file");
        assert_eq!(
            folder.read_link("usr/file").unwrap_err().errno(),
            Errno::INVAL
        );
    }

    #[test]
    fn there_is_free_memory() {
        assert!(free_memory() > 1 << 20);
    }
}
