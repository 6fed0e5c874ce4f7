//! Files and folders, each access bounded.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{c_string, on_path};
use crate::{Error, Result};

/// Opens what is at `path`; the descriptor is closed on exec.
#[inline(never)]
pub(crate) fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    open_or_make("opening", path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a device that is to be a standard stream of this process and the next.
pub(crate) fn open_inherited(path: &str) -> Result<OwnedFd> {
    open_or_make("opening", path, OFlags::RDWR, Mode::empty())
}

#[inline(never)]
fn open_or_make(op: &'static str, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    on_path(op, path, |path| rustix::fs::open(path, flags, mode))
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// The kernel's, or EFBIG for a file that is larger.
pub fn read(path: &str, limit: usize) -> Result<Vec<u8>> {
    read_open(&open(path, OFlags::RDONLY)?, path, limit)
}

fn read_open(file: &OwnedFd, path: &str, limit: usize) -> Result<Vec<u8>> {
    let error = |errno| Error::new("reading", path, errno);
    // One byte more than is known or allowed, so that the end is seen by a short
    // read; sysfs and proc files have no size.
    let known = rustix::fs::fstat(file)
        .ok()
        .and_then(|stat| usize::try_from(stat.st_size).ok())
        .unwrap_or(0);
    let mut bytes = alloc::vec![0; known.max(255).min(limit).saturating_add(1)];
    let mut len = 0;
    loop {
        let room = bytes.get_mut(len..).unwrap_or(&mut []);
        match rustix::io::read(file, room) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(error(errno)),
        }
        if len > limit {
            return Err(error(Errno::FBIG));
        }
        if len == bytes.len() {
            let grown = len.saturating_mul(2).min(limit.saturating_add(1));
            bytes.resize(grown, 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads a file of at most `limit` bytes below the folder `root`, as a process
/// whose root that is would: no link and no `..` leads out of it (openat2(2),
/// `RESOLVE_IN_ROOT`). `None` if there is no such file.
///
/// # Errors
/// The kernel's, EFBIG for a file that is larger.
pub fn read_inside(root: &str, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    match open_file_inside(root, path)? {
        Some(file) => read_open(&file, path, limit).map(Some),
        None => Ok(None),
    }
}

/// Opens a regular file below the folder `root` for reading, as [`read_inside`]
/// does. `None` if there is no such file.
///
/// # Errors
/// The kernel's, EINVAL for what is no regular file.
pub fn open_file_inside(root: &str, path: &str) -> Result<Option<OwnedFd>> {
    let Some(file) = open_inside(root, path, OFlags::RDONLY | OFlags::NONBLOCK)? else {
        return Ok(None);
    };
    let kind = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind != Ok(FileType::RegularFile) {
        return Err(Error::new("reading", path, Errno::INVAL));
    }
    Ok(Some(file))
}

/// Whether there is anything at `path` below the folder `root`; links are
/// followed as [`read_inside`] does.
///
/// # Errors
/// The kernel's: EIO where the file system is damaged.
pub fn exists_inside(root: &str, path: &str) -> Result<bool> {
    open_inside(root, path, OFlags::PATH).map(|found| found.is_some())
}

fn open_inside(root: &str, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY)?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    on_path("opening", path, |path| {
        match rustix::fs::openat2(&folder, path, flags, Mode::empty(), inside) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => other.map(Some),
        }
    })
}

/// Reads a file of one line of text, as sysfs has them, without its newline.
///
/// # Errors
/// As [`read`]; EILSEQ if it is not UTF-8.
pub fn read_line(path: &str) -> Result<String> {
    let bytes = read(path, 65_536)?;
    let text =
        core::str::from_utf8(&bytes).map_err(|_| Error::new("reading", path, Errno::ILSEQ))?;
    Ok(text.trim_end_matches('\n').to_string())
}

/// Makes or replaces a file (mode 0644).
///
/// # Errors
/// The kernel's.
pub fn write(path: &str, bytes: &[u8]) -> Result<()> {
    Output::make(path)?.write(bytes)
}

/// A file that was made or emptied, to be written later: when its folder has another
/// path, perhaps.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    path: String,
}

impl Output {
    /// Makes or empties a file (mode 0644).
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(path: &str) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let fd = open_or_make("making", path, flags, Mode::from_raw_mode(0o644))?;
        Ok(Self {
            fd,
            path: path.to_string(),
        })
    }

    /// Writes on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        write_all(&self.fd, bytes).map_err(|errno| Error::new("writing", &self.path, errno))
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Adds to the end of a file, which is made if need be, for its owner only (mode
/// 0600).
///
/// # Errors
/// The kernel's.
pub fn append(path: &str, bytes: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = open_or_make("making", path, flags, Mode::from_raw_mode(0o600))?;
    write_all(&file, bytes).map_err(|errno| Error::new("writing", path, errno))
}

pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> core::result::Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = bytes.get(count..).unwrap_or(&[]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes a folder (mode 0755); one that is there already is no error.
///
/// # Errors
/// The kernel's.
pub fn mkdir(path: &str) -> Result<()> {
    on_path("making folder", path, |path| {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            result => result,
        }
    })
}

/// Renames `from` to `to`, on one file system.
///
/// # Errors
/// The kernel's.
pub fn rename(from: &str, to: &str) -> Result<()> {
    on_path("renaming", from, |from| {
        rustix::fs::rename(from, &*c_string(to.as_bytes())?)
    })
}

/// Changes the mode of what is at `path` (permission bits).
///
/// # Errors
/// The kernel's.
pub fn chmod(path: &str, mode: u32) -> Result<()> {
    on_path("changing the mode of", path, |path| {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))
    })
}

/// What is known of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder {
    /// Major and minor number of the file system's device, as stat(2) has them.
    pub device: (u32, u32),
    /// Permission bits.
    pub mode: u32,
}

/// What the folder at `path` is like; `None` for what is no folder, or a link.
#[must_use]
pub fn folder(path: &str) -> Option<Folder> {
    let stat = stat(path).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return None;
    }
    Some(Folder {
        device: (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        ),
        mode: stat.st_mode & 0o7777,
    })
}

/// Device and inode number of an open regular file; `None` for anything else.
#[must_use]
pub fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(file).ok()?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    regular.then_some((stat.st_dev, stat.st_ino))
}

/// The link below /proc that says where an open file of this process is.
#[must_use]
pub fn number_path(file: &OwnedFd) -> String {
    format!("self/fd/{}", file.as_raw_fd())
}

/// Makes a symbolic link at `path` to `target`.
///
/// # Errors
/// The kernel's.
pub fn symlink(target: &str, path: &str) -> Result<()> {
    on_path("linking", path, |path| {
        rustix::fs::symlink(&*c_string(target.as_bytes())?, path)
    })
}

/// Whether anything is at `path`; a link's target does not matter.
#[must_use]
pub fn exists(path: &str) -> bool {
    stat(path).is_ok()
}

/// Whether the file system at `path` is ramfs or tmpfs, as an initramfs is: what
/// is in it is gone with the machine's memory anyway.
///
/// # Errors
/// The kernel's.
pub fn is_in_memory(path: &str) -> Result<bool> {
    // include/uapi/linux/magic.h
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    on_path("looking at the file system of", path, |path| {
        let magic = u64::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or(0);
        Ok(magic == RAMFS_MAGIC || magic == TMPFS_MAGIC)
    })
}

/// The target of the link at `path`.
///
/// # Errors
/// The kernel's; EILSEQ if it is not UTF-8.
pub fn read_link(path: &str) -> Result<String> {
    on_path("reading link", path, |path| {
        link_target(CWD, path)?
            .into_string()
            .map_err(|_| Errno::ILSEQ)
    })
}

pub(crate) fn link_target(folder: impl AsFd, path: &CStr) -> rustix::io::Result<CString> {
    // PATH_MAX: no link's target is longer.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (target, _) = rustix::fs::readlinkat_raw(folder, path, &mut buffer)?;
    c_string(target)
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, FIFO or socket.
    Special,
}

/// The most entries that [`list`] returns.
pub(crate) const MAX_ENTRIES: usize = 65_536;

/// Names and kinds in the folder at `path`, sorted; `.` and `..` are left out,
/// and names that are not UTF-8 too (nothing that this project makes has such).
///
/// # Errors
/// The kernel's; EFBIG beyond 65536 entries.
pub fn list(path: &str) -> Result<Vec<(String, Kind)>> {
    let error = |errno| Error::new("listing", path, errno);
    let folder = open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = Vec::new();
    let mut dir = RawDir::new(&folder, &mut buffer);
    while let Some(entry) = dir.next() {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        if entries.len() == MAX_ENTRIES {
            return Err(error(Errno::FBIG));
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        entries.push((name.to_string(), kind));
    }
    iofs_source::sort_compactly(&mut entries, |a, b| a < b);
    Ok(entries)
}

/// Removes what is at `path` and below, but nothing on another file system than
/// `path` is on. Goes on after a failure, so that as much as possible is freed.
///
/// # Errors
/// The first failure.
pub fn remove_tree(path: &str) -> Result<()> {
    let device = stat(path)?.st_dev;
    remove_below(path, Kind::Folder, device, 0)
}

/// How deep trees may be: the kernel's PATH_MAX allows 2048 levels, no sane
/// initramfs has 64.
pub(crate) const MAX_DEPTH: usize = 64;

/// What lies at `path` itself, be it a link.
#[inline(never)]
fn stat(path: &str) -> Result<Stat> {
    on_path("looking at", path, |path| rustix::fs::lstat(path))
}

fn remove_below(path: &str, kind: Kind, device: u64, depth: usize) -> Result<()> {
    if kind != Kind::Folder {
        return on_path("removing", path, |path| rustix::fs::unlink(path));
    }
    if depth > MAX_DEPTH {
        return Err(Error::new("removing", path, Errno::LOOP));
    }
    if stat(path)?.st_dev != device {
        return Ok(());
    }
    let mut first = Ok(());
    for (name, kind) in list(path)? {
        let result = remove_below(&join(path, &name), kind, device, depth + 1);
        first = first.and(result);
    }
    if depth > 0 {
        // A mount point below keeps its folder: EBUSY.
        let result = on_path("removing", path, |path| match rustix::fs::rmdir(path) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(()),
            result => result,
        });
        first = first.and(result);
    }
    first
}

/// What stands behind the last slash of `path`.
#[must_use]
pub fn base_name(path: &str) -> &str {
    let start = path.bytes().rposition(|byte| byte == b'/');
    start
        .and_then(|slash| path.get(slash + 1..))
        .unwrap_or(path)
}

/// `folder/name`, without doubling the slash of `/`.
#[must_use]
pub fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn reads_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f").to_str().unwrap().to_string();
        std::fs::write(&path, std::vec![7; 5000]).unwrap();
        assert_eq!(read(&path, 5000).unwrap().len(), 5000);
        assert_eq!(read(&path, 4999).unwrap_err().errno(), Errno::FBIG);
        // No size to be had beforehand.
        assert!(!read("/proc/self/status", 65_536).unwrap().is_empty());
        assert_eq!(
            read("/proc/self/status", 10).unwrap_err().errno(),
            Errno::FBIG
        );
        assert_eq!(read("/no/such", 10).unwrap_err().errno(), Errno::NOENT);
    }

    #[test]
    fn nothing_leads_out_of_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("usr/lib/release"), "inside").unwrap();
        std::fs::write(dir.path().join("release"), "outside").unwrap();
        symlink("/usr/lib/release", root.join("etc/absolute")).unwrap();
        symlink("../../../release", root.join("etc/climbing")).unwrap();
        let root = root.to_str().unwrap();
        let read = |path| read_inside(root, path, 100);
        assert_eq!(read("etc/absolute").unwrap().unwrap(), b"inside");
        assert_eq!(read("etc/climbing").unwrap(), None);
        assert_eq!(read("../release").unwrap(), None);
        assert_eq!(read("usr/lib/release/x").unwrap(), None);
        assert_eq!(read("usr/lib").unwrap_err().errno(), Errno::INVAL);
        assert!(exists_inside(root, "/etc/absolute").unwrap());
        assert!(!exists_inside(root, "/etc/climbing").unwrap());
        let error = read_inside(root, "usr/lib/release", 3).unwrap_err();
        assert_eq!(error.errno(), Errno::FBIG);
    }

    #[test]
    fn memory_is_told_from_disks() {
        assert!(is_in_memory("/dev/shm").unwrap());
        assert!(!is_in_memory("/proc").unwrap());
        assert!(is_in_memory("/no/such").is_err());
    }

    #[test]
    fn a_tree_is_removed_and_its_folder_stays() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        std::fs::create_dir_all(join(base, "a/b")).unwrap();
        std::fs::create_dir(join(base, "kept")).unwrap();
        std::fs::write(join(base, "a/b/f"), b"text").unwrap();
        std::fs::write(join(base, "kept/f"), b"kept").unwrap();
        symlink("../kept", join(base, "a/link")).unwrap();
        remove_tree(&join(base, "a")).unwrap();
        assert!(list(&join(base, "a")).unwrap().is_empty());
        assert_eq!(std::fs::read(join(base, "kept/f")).unwrap(), b"kept");
    }
}
