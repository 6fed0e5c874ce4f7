//! Copies a root tree into the stage: every attribute, no symbolic link
//! followed, no other file system entered.

use super::{Attributes, Stage, set_attributes, set_mtime, staging};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::request::Limits;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The greatest size of an extended attribute, and of a list of names, in
/// bytes: the kernel's XATTR_SIZE_MAX and XATTR_LIST_MAX.
const XATTR_MAX: usize = 65_536;

struct Copier<'s> {
    stage: &'s mut Stage,
    source: &'s Path,
    links: HashMap<(u64, u64), PathBuf>,
    bytes: u64,
    limits: Limits,
    folders: Vec<(PathBuf, (i64, u32))>,
}

impl Stage {
    /// Copies the tree at `source`, except what is in `leave_out` (device and
    /// inode numbers), into the stage.
    pub(crate) fn copy_tree(
        &mut self,
        source: &Path,
        leave_out: &[(u64, u64)],
        limits: Limits,
        progress: &dyn Progress,
    ) -> Result<()> {
        // The walk must begin at a folder, not at a link to one.
        let source = &source
            .canonicalize()
            .map_err(Error::io("opening", source))?;
        let root = source.metadata().map_err(Error::io("looking at", source))?;
        if !root.is_dir() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the root tree {} is no folder", source.display()),
            ));
        }
        let mut copier = Copier {
            stage: self,
            source,
            links: HashMap::new(),
            bytes: 0,
            limits,
            folders: Vec::new(),
        };
        let walk = WalkDir::new(source)
            .same_file_system(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| {
                // Only numbers can tell the stage from the rest: it may be
                // reached by any name.
                entry
                    .metadata()
                    .map_or(true, |meta| !leave_out.contains(&(meta.dev(), meta.ino())))
            });
        for (count, entry) in (1..).zip(walk) {
            if count > limits.entries {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("the root tree has more than {} entries", limits.entries),
                ));
            }
            let found = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
            let (meta, entry) = match found {
                Ok(found) => found,
                Err(error) if vanished(&error) => continue,
                Err(source) => {
                    return Err(Error::new(
                        ErrorKind::Io,
                        format!("walking through {} failed", copier.source.display()),
                    )
                    .source(source));
                }
            };
            if meta.is_dir() && meta.dev() != root.dev() {
                copier.stage.warnings.push(format!(
                    "{} is another file system; its content is left out",
                    entry.path().display()
                ));
            }
            copier.entry(entry.path(), &meta)?;
            progress.advance(if meta.is_file() { meta.len() } else { 0 });
        }
        copier.finish()
    }
}

/// Whether a file went away while a live tree was walked.
fn vanished(error: &walkdir::Error) -> bool {
    error.depth() > 0
        && error
            .io_error()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

impl Copier<'_> {
    /// Sets the times of folders, which filling them changed.
    fn finish(self) -> Result<()> {
        for (path, mtime) in self.folders.iter().rev() {
            let bytes = path.as_os_str().as_bytes();
            let set = || {
                let (folder, name) = self.stage.parent(bytes)?;
                set_mtime(&folder, name.unwrap_or(OsStr::new(".")), *mtime)
            };
            set().map_err(|error| staging("setting the time of", bytes, error))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, meta: &Metadata) -> Result<()> {
        let path = from.strip_prefix(self.source).unwrap_or(Path::new(""));
        let bytes = path.as_os_str().as_bytes();
        let failed = |error| staging("making", bytes, error);
        let (folder, name) = self.stage.parent(bytes).map_err(failed)?;
        let name = name.unwrap_or(OsStr::new("."));
        let attributes = Attributes {
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
            mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
        };
        if meta.is_dir() {
            self.folders.push((path.to_owned(), attributes.mtime));
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        } else {
            if meta.nlink() > 1 {
                let identity = (meta.dev(), meta.ino());
                if let Some(first) = self.links.get(&identity) {
                    let (old, Some(old_name)) = self
                        .stage
                        .parent(first.as_os_str().as_bytes())
                        .map_err(failed)?
                    else {
                        return Ok(());
                    };
                    return rustix::fs::linkat(&old, old_name, &folder, name, AtFlags::empty())
                        .map_err(failed);
                }
                self.links.insert(identity, path.to_owned());
            }
            let made = if meta.is_file() {
                self.file(from, &folder, name)?
            } else if meta.is_symlink() {
                let target =
                    std::fs::read_link(from).map_err(Error::io("reading the link", from))?;
                rustix::fs::symlinkat(&target, &folder, name).map_err(failed)?;
                true
            } else {
                rustix::fs::mknodat(
                    &folder,
                    name,
                    special(meta),
                    Mode::from_raw_mode(0o600),
                    meta.rdev(),
                )
                .map_err(failed)?;
                true
            };
            if !made {
                return Ok(());
            }
        }
        set_attributes(&folder, name, &attributes, meta.is_symlink()).map_err(failed)?;
        // After the owner: a change of owner removes capabilities.
        copy_xattrs(from, &self.stage.path.join(path))
    }

    /// Copies a regular file's bytes; false if it has gone.
    fn file(&mut self, from: &Path, folder: &impl std::os::fd::AsFd, name: &OsStr) -> Result<bool> {
        let source = rustix::fs::open(
            from,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let source = match source {
            Ok(source) => File::from(source),
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(Error::io("opening", from)(error)),
        };
        let target = rustix::fs::openat(
            folder,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(Error::io("copying", from))?;
        let left = self.limits.unpacked_bytes.saturating_sub(self.bytes);
        let copied = std::io::copy(
            &mut std::io::Read::take(source, left.saturating_add(1)),
            &mut File::from(target),
        )
        .map_err(Error::io("copying", from))?;
        if copied > left {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "the root tree has more than {} bytes of files",
                    self.limits.unpacked_bytes
                ),
            ));
        }
        self.bytes += copied;
        Ok(true)
    }
}

fn special(meta: &Metadata) -> FileType {
    let kind = meta.file_type();
    if kind.is_block_device() {
        FileType::BlockDevice
    } else if kind.is_char_device() {
        FileType::CharacterDevice
    } else if kind.is_fifo() {
        FileType::Fifo
    } else {
        FileType::Socket
    }
}

/// Copies every extended attribute of one file, never through a symbolic link.
pub(super) fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    for (name, value) in read_xattrs(from)? {
        rustix::fs::lsetxattr(to, &name, &value, XattrFlags::empty()).map_err(|error| {
            staging(
                &format!("setting the extended attribute {}", name.to_string_lossy()),
                from.as_os_str().as_bytes(),
                error,
            )
        })?;
    }
    Ok(())
}

/// The extended attributes of a file, or of a symbolic link itself, sorted by
/// name. None where the file system has none.
pub(crate) fn read_xattrs(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = Vec::with_capacity(XATTR_MAX);
    match rustix::fs::llistxattr(path, spare_capacity(&mut names)) {
        Ok(_) => {}
        // A live tree may lose a file at any time.
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing the extended attributes of", path)(error)),
    }
    let mut found = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsStr::from_bytes(name);
        let mut value: Vec<u8> = Vec::with_capacity(XATTR_MAX);
        match rustix::fs::lgetxattr(path, name, spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_owned(), value)),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(Error::io("reading an extended attribute of", path)(error)),
        }
    }
    found.sort();
    Ok(found)
}
