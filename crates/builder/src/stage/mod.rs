//! The stage: a folder that holds an image's files with all their attributes
//! until the image is written.
//!
//! Names that come from an archive are resolved as if the stage were the root
//! of the system (openat2 with RESOLVE_IN_ROOT), which is how the kernel
//! resolves them while it unpacks an initramfs: symbolic links work and cannot
//! lead out. The stage lies in a folder that only root may enter, since it holds
//! set-user-ID programs and device nodes.

mod copy;
mod modules;
mod unpack;

pub(crate) use copy::read_xattrs;
pub(crate) use modules::StagedModules;

use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, openat2,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// How many symbolic links a path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// A staged tree. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: TempDir,
    root: OwnedFd,
    path: PathBuf,
    /// What the user should know, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Who owns a file, what may be done with it, and when it was changed.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    uid: u32,
    gid: u32,
    /// Permissions with the set-user-ID, set-group-ID and sticky bits.
    mode: u32,
    /// Seconds and nanoseconds since 1970.
    mtime: (i64, u32),
}

impl Stage {
    /// An empty stage in `work` or the folder for temporary files.
    ///
    /// # Errors
    /// [`ErrorKind::Privilege`] without root's rights: ownership and device
    /// nodes could not be kept.
    pub(crate) fn new(work: Option<&Path>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(
                ErrorKind::Privilege,
                "an init image keeps owners, device nodes and capabilities, which takes root",
            )
            .hint(
                "Run it as root. (fakeroot does not help: system calls are made without libc.)",
            ));
        }
        let work = work.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new()
            .prefix("initoverlayfs-")
            .tempdir_in(&work)
            .map_err(Error::io("making a folder in", &work))?;
        let path = dir.path().join("root");
        std::fs::create_dir(&path).map_err(Error::io("making", &path))?;
        let root = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::io("opening", &path))?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o755))
            .map_err(Error::io("chmod of", &path))?;
        Ok(Self {
            dir,
            root,
            path,
            warnings: Vec::new(),
        })
    }

    /// The root of the tree.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder around it, on the same file system, for other files of the
    /// build.
    pub(crate) fn work(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the folder that `path` (relative, without `..`) lies in, and gives
    /// its last component; `None` for the root itself.
    fn parent<'p>(&self, path: &'p [u8]) -> rustix::io::Result<(OwnedFd, Option<&'p OsStr>)> {
        let (folder, name): (&[u8], _) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
            None if path.is_empty() => (b".", None),
            None => (b".", Some(path)),
        };
        let folder = openat2(
            &self.root,
            OsStr::from_bytes(folder),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        Ok((folder, name.map(OsStr::from_bytes)))
    }

    /// The path outside of what `path` means inside the stage, with every
    /// symbolic link followed; `None` if there is nothing.
    pub(crate) fn resolve(&self, path: &str) -> Result<Option<PathBuf>> {
        let mut todo: Vec<OsString> = components(Path::new(path));
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                inside.pop();
                continue;
            }
            let next = self.path.join(&inside).join(&name);
            let Ok(meta) = next.symlink_metadata() else {
                return Ok(None);
            };
            if !meta.is_symlink() {
                inside.push(name);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Ok(None);
            }
            let target = std::fs::read_link(&next).map_err(Error::io("reading the link", &next))?;
            if target.is_absolute() {
                inside = PathBuf::new();
            }
            todo.extend(components(&target));
        }
        Ok(Some(self.path.join(inside)))
    }

    /// Whether `path` means anything inside the stage.
    pub(crate) fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.resolve(path)?.is_some())
    }

    /// Reads the text file that `path` means inside the stage, up to `limit`
    /// bytes of it; `None` if it is not there or no regular file.
    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let Some(path) = self.resolve(path)?.filter(|path| path.is_file()) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(Error::io("reading", &path))?;
        Ok(Some(bytes))
    }

    /// Makes a folder of root's with mode 0755 in the root.
    pub(crate) fn make_folder(&self, name: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path.join(name);
        std::fs::create_dir(&path)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
            .map_err(Error::io("making", &path))
    }

    /// Writes a file of root's with mode 0644 at `path` (relative, without
    /// links of its own to follow at its end), in place of what may be there;
    /// missing folders are made.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut outside = self.path.clone();
        let mut inside = String::new();
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            inside = format!("{inside}/{part}");
            outside = match self.resolve(&inside)? {
                Some(found) => found,
                None => {
                    let new = outside.join(part);
                    std::fs::create_dir(&new)
                        .and_then(|()| {
                            std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755))
                        })
                        .map_err(Error::io("making", &new))?;
                    new
                }
            };
        }
        let file = outside.join(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("removing", &file)(error));
            }
            _ => {}
        }
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&file)
            .map_err(Error::io("making", &file))?;
        out.write_all(bytes)
            .and_then(|()| out.set_permissions(PermissionsExt::from_mode(0o644)))
            .map_err(Error::io("writing", &file))
    }
}

/// The components of a path, last first, without `.` and the root.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Sets owner, mode and time of `name` in `folder`, which is not a symbolic
/// link unless `link` says so. In this order: a change of owner clears the
/// set-user-ID bit.
fn set_attributes(
    folder: &OwnedFd,
    name: &OsStr,
    attributes: &Attributes,
    link: bool,
) -> rustix::io::Result<()> {
    rustix::fs::chownat(
        folder,
        name,
        Some(rustix::fs::Uid::from_raw(attributes.uid)),
        Some(rustix::fs::Gid::from_raw(attributes.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if !link {
        rustix::fs::chmodat(
            folder,
            name,
            Mode::from_raw_mode(attributes.mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    set_mtime(folder, name, attributes.mtime)
}

fn set_mtime(folder: &OwnedFd, name: &OsStr, mtime: (i64, u32)) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.0,
            tv_nsec: mtime.1.into(),
        },
    };
    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes room for something of the type `keep` (`None`: of no type) at `name`:
/// removes what is there and of another type, as clean_path in init/initramfs.c
/// does.
fn clear(folder: &OwnedFd, name: &OsStr, keep: Option<FileType>) -> rustix::io::Result<()> {
    let there = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    if Some(there) == keep {
        return Ok(());
    }
    let flags = if there == FileType::Directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    rustix::fs::unlinkat(folder, name, flags)
}

/// Error of a system call on something inside the stage.
fn staging(doing: &str, path: &[u8], source: Errno) -> Error {
    let error = Error::new(
        ErrorKind::Io,
        format!(
            "{doing} {} in the stage failed",
            String::from_utf8_lossy(path)
        ),
    )
    .source(std::io::Error::from(source));
    match source {
        Errno::PERM => error.hint(
            "This takes a root that may make device nodes and change owners; containers often may not.",
        ),
        Errno::NOSPC => error.hint("Give a work folder on a larger file system."),
        Errno::OPNOTSUPP => {
            error.hint("The work folder's file system cannot keep this attribute; give another.")
        }
        _ => error,
    }
}
