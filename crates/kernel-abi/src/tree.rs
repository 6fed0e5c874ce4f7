//! Copying of trees into another root, whatever is in them.
//!
//! Source and target are walked folder by folder, by descriptors. In the source
//! no link is followed. In the target a folder that is a link there leads where
//! it would for a process whose root that is (openat2(2), `RESOLVE_IN_ROOT`), and
//! never out of it: `lib/firmware/x` lands in `/usr/lib/firmware/x` of a root
//! whose `/lib` is a link to `/usr/lib`.
//!
//! Kept are modes, owners, times to the nanosecond, extended attributes, links of
//! both sorts, devices, FIFOs and sockets.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::error::c_string;
use crate::file::{MAX_DEPTH, MAX_ENTRIES, open, write_all};
use crate::{Error, Result};

/// The most files that are remembered for their further hard links. Links to
/// files beyond become files of their own.
const MAX_LINKED: usize = 4096;

/// Kernel's XATTR_LIST_MAX and XATTR_SIZE_MAX, in bytes.
const MAX_XATTR: usize = 65_536;

/// What is to become of the source's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They stay.
    Kept,
    /// Each is removed when it has been copied, so that memory is never taken
    /// twice for more than the largest. Folders stay.
    Freed,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, folders, links and so on.
    pub entries: usize,
    /// Those of them that took the place of something else.
    pub replaced: usize,
}

/// Copies from one root to another; it knows the hard links between all that it
/// has copied.
#[derive(Debug)]
pub struct Copier {
    from: OwnedFd,
    to: OwnedFd,
    source: Source,
    /// The source's file system.
    device: u64,
    /// The present entry, from both roots.
    path: Vec<u8>,
    /// Inode numbers of files with several names, and the first of these.
    linked: Vec<(u64, Vec<u8>)>,
    copied: Copied,
}

/// An entry in its two folders.
#[derive(Clone, Copy)]
struct Pair<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Copier {
    /// From the folder `from` to the folder `to`.
    ///
    /// # Errors
    /// The kernel's, of opening them.
    pub fn new(from: &str, to: &str, source: Source) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let (path, from) = (from, open(from, flags)?);
        let stat = rustix::fs::fstat(&from);
        let stat = stat.map_err(|errno| Error::new("looking at", path, errno))?;
        Ok(Self {
            from,
            to: open(to, flags)?,
            source,
            device: stat.st_dev,
            path: Vec::new(),
            linked: Vec::new(),
            copied: Copied::default(),
        })
    }

    /// Copies what is called `name`, with all that is below on the same file
    /// system, to the same place. There, folders stay as they are, everything
    /// else of the same name is replaced.
    ///
    /// # Errors
    /// The first failure: the kernel's, ENOTEMPTY where a folder with something
    /// in it would have to make way, ELOOP beyond 64 levels, EFBIG beyond 65536
    /// entries in one folder. What was copied until then stays.
    pub fn copy(&mut self, name: &str) -> Result<Copied> {
        self.copied = Copied::default();
        let failed = |errno| Error::new("copying", name, errno);
        let name = c_string(name.as_bytes()).map_err(failed)?;
        // The walk changes `self`, and cannot borrow from it.
        let twin = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(failed);
        let (from, to) = (twin(&self.from)?, twin(&self.to)?);
        self.entry(from.as_fd(), to.as_fd(), &name, 0)?;
        Ok(self.copied)
    }

    #[cold]
    fn error(&self, op: &'static str, errno: Errno) -> Error {
        Error::new(op, &String::from_utf8_lossy(&self.path), errno)
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> Result<()> {
        let parent = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name.to_bytes());
        let done = self.named(Pair { from, to, name }, depth);
        self.path.truncate(parent);
        done
    }

    fn named(&mut self, pair: Pair<'_>, depth: usize) -> Result<()> {
        let Pair { from, to, name } = pair;
        if depth > MAX_DEPTH {
            return Err(self.error("copying", Errno::LOOP));
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.error("looking at", errno))?;
        if stat.st_dev != self.device {
            return Ok(());
        }
        self.copied.entries += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let complete = match kind {
            FileType::Directory => self.folder(pair, depth)?,
            _ => {
                self.make_way(to, name)?;
                match kind {
                    FileType::RegularFile => self.file(pair, &stat)?,
                    FileType::Symlink => copy_link(pair)
                        .map(|()| false)
                        .map_err(|errno| self.error("copying link", errno))?,
                    _ => {
                        let mode = Mode::from_raw_mode(stat.st_mode);
                        rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)
                            .map(|()| false)
                            .map_err(|errno| self.error("making device", errno))?
                    }
                }
            }
        };
        if !complete {
            copy_attributes(pair, &stat).map_err(|errno| {
                self.error("copying owner, mode, time and attributes of", errno)
            })?;
        }
        if self.source == Source::Freed && kind != FileType::Directory {
            rustix::fs::unlinkat(from, name, AtFlags::empty())
                .map_err(|errno| self.error("removing", errno))?;
        }
        Ok(())
    }

    /// Whether the folder was there before.
    fn folder(&mut self, pair: Pair<'_>, depth: usize) -> Result<bool> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let only_here = flags | OFlags::NOFOLLOW;
        let open = |folder, flags| rustix::fs::openat(folder, pair.name, flags, Mode::empty());
        let from = open(pair.from, OFlags::RDONLY | only_here)
            .map_err(|errno| self.error("opening", errno))?;
        let (to, known) = match self.find(&self.path, OFlags::PATH | flags) {
            Ok(folder) => (folder, true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.make_way(pair.to, pair.name)?;
                let made = rustix::fs::mkdirat(pair.to, pair.name, Mode::from_raw_mode(0o700))
                    .and_then(|()| open(pair.to, OFlags::PATH | only_here));
                let folder = made.map_err(|errno| self.error("making folder", errno))?;
                (folder, false)
            }
            Err(errno) => return Err(self.error("opening", errno)),
        };
        let names = names(&from).map_err(|errno| self.error("listing", errno))?;
        for name in names {
            self.entry(from.as_fd(), to.as_fd(), &name, depth + 1)?;
        }
        Ok(known)
    }

    /// What is at `path` in the new root.
    fn find(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.to, &*c_string(path)?, flags, Mode::empty(), inside)
    }

    /// Removes what is not a folder, or an empty one.
    fn make_way(&mut self, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let removed = match rustix::fs::unlinkat(to, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(to, name, AtFlags::REMOVEDIR),
            result => result,
        };
        match removed {
            Ok(()) => self.copied.replaced += 1,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.error("replacing", errno)),
        }
        Ok(())
    }

    /// Whether it needs no attributes: it is a further name of a file that has
    /// them.
    fn file(&mut self, pair: Pair<'_>, stat: &Stat) -> Result<bool> {
        let known = self.linked.iter().find(|(inode, _)| *inode == stat.st_ino);
        if let Some((_, first)) = known {
            // The first name may have been replaced by now, if two folders here
            // are one there: then there is nothing to link to.
            if self.link(first, pair).is_ok() {
                return Ok(true);
            }
        } else if stat.st_nlink > 1 && self.linked.len() < MAX_LINKED {
            self.linked.push((stat.st_ino, self.path.clone()));
        }
        copy_content(pair).map_err(|errno| self.error("copying", errno))?;
        Ok(false)
    }

    fn link(&self, first: &[u8], pair: Pair<'_>) -> rustix::io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.find(first, flags)?;
        // AT_EMPTY_PATH would need a privilege.
        let file = c_string(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes())?;
        rustix::fs::linkat(CWD, &*file, pair.to, pair.name, AtFlags::SYMLINK_FOLLOW)
    }
}

#[inline(never)]
fn names(folder: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut names = Vec::new();
    let mut dir = RawDir::new(folder, &mut buffer);
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if names.len() == MAX_ENTRIES {
            return Err(Errno::FBIG);
        }
        names.push(name.into());
    }
    Ok(names)
}

#[inline(never)]
fn copy_link(pair: Pair<'_>) -> rustix::io::Result<()> {
    // PATH_MAX: no link's target is longer.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (target, _) = rustix::fs::readlinkat_raw(pair.from, pair.name, &mut buffer)?;
    rustix::fs::symlinkat(&*c_string(target)?, pair.to, pair.name)
}

fn copy_content(pair: Pair<'_>) -> rustix::io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let read = OFlags::RDONLY | flags;
    let source = rustix::fs::openat(pair.from, pair.name, read, Mode::empty())?;
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let target = rustix::fs::openat(pair.to, pair.name, make, Mode::from_raw_mode(0o600))?;
    let mut buffer = alloc::vec![0; 65_536];
    loop {
        match rustix::io::read(&source, &mut *buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => write_all(&target, buffer.get(..count).unwrap_or(&[]))?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn copy_attributes(pair: Pair<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let Pair { to, name, .. } = pair;
    let owner = Some(Uid::from_raw(stat.st_uid));
    let group = Some(Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    // Both after the owner: changing that clears set-user-ID and capabilities.
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    copy_xattrs(pair)?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// The extended attributes of anything, also of what cannot be opened: there are
/// no calls that take a folder's descriptor and a name before Linux 6.13.
fn copy_xattrs(pair: Pair<'_>) -> rustix::io::Result<()> {
    let place = |folder: BorrowedFd<'_>| {
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(pair.name.to_bytes());
        c_string(&path)
    };
    let from = place(pair.from)?;
    let len = match rustix::fs::llistxattr_query(&*from) {
        Ok(len) => len.min(MAX_XATTR),
        // A file system that has none, as the kernel's ramfs.
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    if len == 0 {
        return Ok(());
    }
    let to = place(pair.to)?;
    let mut list = alloc::vec![0; len];
    let len = rustix::fs::llistxattr(&*from, &mut *list)?;
    let mut value = alloc::vec![0; MAX_XATTR];
    let list = list.get(..len).unwrap_or(&[]);
    for name in list.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let len = rustix::fs::lgetxattr(&*from, name, &mut *value)?;
        let value = value.get(..len).unwrap_or(&[]);
        match rustix::fs::lsetxattr(&*to, name, value, XattrFlags::empty()) {
            // What the new root cannot hold, no user of it will ask for.
            Err(Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
