//! Steps 2 and 3 of an installation: the writes, in an order that is safe
//! against a power cut between any two of them.

mod partitions;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Progress;
use crate::error::{ErrorKind, InstallError};
use crate::job::{Content, FileJob, Job};
use crate::manifest::hex;
use crate::vfs::Vfs;

/// Large enough for few system calls, small enough for a live bar.
const CHUNK: usize = 1 << 20;

/// What this run made, newest last.
enum Made {
    Folder(PathBuf),
    File(PathBuf),
}

struct Run<'a> {
    vfs: &'a dyn Vfs,
    progress: &'a dyn Progress,
    made: RefCell<Vec<Made>>,
}

/// Carries the job out, or takes back what was done of it.
pub(crate) fn run(job: &Job, vfs: &dyn Vfs, progress: &dyn Progress) -> Result<(), InstallError> {
    let run = Run {
        vfs,
        progress,
        made: RefCell::default(),
    };
    let result = run.write(job);
    if result.is_err() {
        run.take_back();
    }
    result
}

impl Run<'_> {
    fn write(&self, job: &Job) -> Result<(), InstallError> {
        if let Some(image) = &job.image {
            self.image(image)?;
        }
        if job.files.iter().all(|file| file.present) {
            return Ok(());
        }
        for folder in &job.folders {
            self.folder(folder)?;
        }
        for file in job.files.iter().filter(|file| !file.present) {
            self.file(file)?;
        }
        Ok(())
    }

    fn folder(&self, path: &Path) -> Result<(), InstallError> {
        match self.vfs.create_dir(path) {
            Ok(()) => self.made.borrow_mut().push(Made::Folder(path.into())),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(InstallError::io("make the folder", path, e)),
        }
        self.sync_parent(path)
    }

    fn file(&self, file: &FileJob) -> Result<(), InstallError> {
        // The bytes are handled twice: written, then read back.
        self.progress.begin(&file.to, file.size.saturating_mul(2));
        let temporary = temporary(&file.to);
        self.clear(&temporary)?;
        self.copy(file, &temporary)?;
        self.read_back(file, &temporary)?;
        self.vfs
            .rename(&temporary, &file.to)
            .map_err(|e| InstallError::io("give its final name to", &file.to, e))?;
        // It is gone under its temporary name; the last of `made` is that name.
        let mut made = self.made.borrow_mut();
        made.pop();
        made.push(Made::File(file.to.clone()));
        drop(made);
        self.sync_parent(&file.to)?;
        self.progress.end();
        Ok(())
    }

    /// Removes what a crashed run left under a name that only we use.
    fn clear(&self, temporary: &Path) -> Result<(), InstallError> {
        match fs::symlink_metadata(temporary) {
            Ok(found) if found.is_file() => self
                .vfs
                .remove_file(temporary)
                .map_err(|e| InstallError::io("remove the left-over", temporary, e)),
            Ok(_) => Err(InstallError::new(
                ErrorKind::Conflict,
                format!("{} is in the way and is not a file", temporary.display()),
            )),
            Err(_) => Ok(()),
        }
    }

    fn copy(&self, file: &FileJob, to: &Path) -> Result<(), InstallError> {
        let mut out = self
            .vfs
            .create(to, file.mode)
            .map_err(|e| InstallError::io("create", to, e))?;
        self.made.borrow_mut().push(Made::File(to.into()));
        let (size, sha256) = match &file.content {
            Content::Bytes(bytes) => self.pump(&mut bytes.as_slice(), &mut *out, to, to),
            Content::File(from) => {
                let mut source = File::open(from).map_err(|e| InstallError::io("open", from, e))?;
                self.pump(&mut source, &mut *out, from, to)
            }
        }?;
        if (size, &sha256) != (file.size, &file.sha256) {
            return Err(InstallError::new(
                ErrorKind::Set,
                format!(
                    "what was read for {} ({size} bytes, SHA-256 {sha256}) is not what \
                     build.json says ({} bytes, {})",
                    file.to.display(),
                    file.size,
                    file.sha256
                ),
            )
            .with_hint("the set changed after it was built: build it again"));
        }
        out.sync().map_err(|e| InstallError::io("write", to, e))
    }

    /// Copies with a digest of what was read.
    fn pump<W: Write + ?Sized>(
        &self,
        source: &mut dyn Read,
        out: &mut W,
        from: &Path,
        to: &Path,
    ) -> Result<(u64, String), InstallError> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0u64;
        loop {
            let count = source
                .read(&mut buffer)
                .map_err(|e| InstallError::io("read", from, e))?;
            let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
                return Ok((size, hex(&hasher.finalize())));
            };
            hasher.update(chunk);
            out.write_all(chunk)
                .map_err(|e| InstallError::io("write", to, e))?;
            size = size.saturating_add(chunk.len() as u64);
            self.progress.advance(chunk.len() as u64);
        }
    }

    fn read_back(&self, file: &FileJob, path: &Path) -> Result<(), InstallError> {
        let mut source = self
            .vfs
            .read_back(path)
            .map_err(|e| InstallError::io("read back", path, e))?;
        let (size, sha256) = self.pump(&mut *source, &mut io::sink(), path, path)?;
        if (size, &sha256) == (file.size, &file.sha256) {
            return Ok(());
        }
        Err(InstallError::new(
            ErrorKind::ReadBack,
            format!(
                "{} reads back as {size} bytes with SHA-256 {sha256}, but {} bytes with {} \
                 were written",
                path.display(),
                file.size,
                file.sha256
            ),
        )
        .with_hint("the medium or its file system is failing: check it before trusting it"))
    }

    fn sync_parent(&self, path: &Path) -> Result<(), InstallError> {
        let parent = path.parent().unwrap_or(path);
        self.vfs
            .sync_dir(parent)
            .map_err(|e| InstallError::io("sync the folder", parent, e))
    }

    /// Removes what this run made, newest first. The entry was made last, so it
    /// goes before what it names. What cannot be removed stays: without an entry
    /// it is only dead weight.
    fn take_back(&self) {
        while let Some(made) = self.made.borrow_mut().pop() {
            let (path, removed) = match &made {
                Made::File(path) => (path, self.vfs.remove_file(path)),
                Made::Folder(path) => (path, self.vfs.remove_dir(path)),
            };
            let _ = removed.and_then(|()| self.vfs.sync_dir(path.parent().unwrap_or(path)));
        }
    }
}

/// The name of a file while it is written: boot loaders take only `.conf` files
/// for entries, and nobody else makes names with this end.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".initoverlayfs-new");
    name.into()
}
