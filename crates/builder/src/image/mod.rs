//! From the stage to the image file.

mod build;
mod erofs;
pub(crate) mod extension;
mod file;
mod release;
mod scan;
mod wrap;

pub use build::expect_of;
pub(crate) use build::{build, build_with};
pub use erofs::MkfsErofs;
pub use extension::BuiltExtension;
pub(crate) use file::ImageFile;
pub use wrap::claimed_root;
pub(crate) use wrap::sign_image;

use crate::error::{Error, Result};
use crate::progress::Progress;
use iofs_plan::Uuid;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What an [`ImageWriter`] is to write.
#[derive(Debug)]
pub struct ImageJob<'a> {
    /// The tree.
    pub stage: &'a Path,
    /// A folder for the writer's own files, which is removed afterwards.
    pub work: &'a Path,
    /// Where the image goes: a name that is free.
    pub output: &'a Path,
    /// UUID of the file system.
    pub uuid: Uuid,
    /// Time stamp of every file, in seconds since 1970.
    pub timestamp: u64,
    /// Files that do not compress, relative to the stage.
    pub plain: &'a [PathBuf],
}

/// Writes a read-only file system. The same job must give the same bytes
/// wherever the stage is and in whatever order its directories were filled.
pub trait ImageWriter {
    /// Name and version, for the summary.
    fn name(&self) -> String;

    /// What it does to the bytes, for the summary and for the image's UUID:
    /// `lz4hc,9 -C65536`; empty for nothing.
    fn compression(&self) -> String;

    /// Whether files that do not compress are worth finding.
    fn wants_plain(&self) -> bool;

    /// Writes the image.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Tool`] if the program fails.
    fn write(&self, job: &ImageJob<'_>, progress: &dyn Progress) -> Result<()>;
}

/// A file that appears under its name whole or not at all: it is written beside
/// it, and removed again unless [`Self::commit`] is reached.
#[derive(Debug)]
pub(crate) struct Pending {
    temporary: tempfile::TempPath,
    target: PathBuf,
    folder: PathBuf,
}

impl Pending {
    pub(crate) fn new(target: &Path) -> Result<Self> {
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Absolute, so that no program takes it for an option.
        let folder = folder
            .canonicalize()
            .map_err(Error::io("opening the folder", folder))?;
        let temporary = tempfile::Builder::new()
            .prefix(".initoverlayfs-")
            .suffix(".new")
            .tempfile_in(&folder)
            .map_err(Error::io("making a file in", &folder))?
            .into_temp_path();
        Ok(Self {
            temporary,
            target: target.to_owned(),
            folder,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Makes the bytes durable, then the name.
    pub(crate) fn commit(self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = File::open(&self.temporary).map_err(Error::io("opening", &self.temporary))?;
        // Temporary files are private; what is built is no secret.
        file.set_permissions(PermissionsExt::from_mode(0o644))
            .and_then(|()| file.sync_all())
            .map_err(Error::io("syncing", &self.temporary))?;
        self.temporary
            .persist(&self.target)
            .map_err(|error| Error::io("renaming to", &self.target)(error.error))?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io("syncing", &self.folder))
    }
}
