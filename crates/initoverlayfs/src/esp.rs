//! The ESP of this machine, and what lies there for the next boot.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{CliError, Result};

/// Where systemd-stub takes credentials for every UKI from, on the ESP.
const FOLDER: &str = "loader/credentials";

/// A credential of the next boot.
#[derive(Debug)]
pub(crate) struct Credential {
    path: PathBuf,
}

impl Credential {
    /// The one with this file name on the ESP that is mounted at `esp`, or at one
    /// of the usual places.
    pub(crate) fn new(esp: Option<&Path>, name: &str) -> Result<Self> {
        Ok(Self {
            path: find(esp)?.join(FOLDER).join(name),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its text; `None` if it is not there.
    pub(crate) fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CliError::io("read", &self.path, source)),
        }
    }

    /// Replaces it, unless it is the same: a write less, and the same measurement
    /// into PCR 12.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        self.replace(text)
            .map_err(|source| CliError::io("write", &self.path, source))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        if fs::read_to_string(&self.path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(CliError::io("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

/// Where the ESP is mounted.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf> {
    given.map(Path::to_owned).or_else(mounted).ok_or_else(|| {
        CliError::usage("no ESP is mounted on /efi, /boot/efi or /boot; name it with --esp")
    })
}

/// The first of the usual places that has a file system of its own and looks
/// like an ESP.
fn mounted() -> Option<PathBuf> {
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    let root = device(Path::new("/"));
    ["/efi", "/boot/efi", "/boot"]
        .into_iter()
        .map(PathBuf::from)
        .find(|place| {
            let mounted = device(place).is_some_and(|dev| Some(dev) != root);
            mounted && (place.join("EFI").is_dir() || place.join("loader").is_dir())
        })
}
