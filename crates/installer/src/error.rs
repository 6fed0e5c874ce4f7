//! The one error of this crate: a kind to match on, a sentence, a hint.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

/// What an installation failed on, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The built set is missing, damaged or of another version.
    Set,
    /// No file system fits the plan's candidates.
    NoTarget,
    /// The image would not lie where the plan looks for it.
    PathMismatch,
    /// A file of that name exists with other content.
    Conflict,
    /// The target has too little room.
    NoSpace,
    /// An option or a file of the root tree has a value that cannot be used.
    Invalid,
    /// A file could not be read or written.
    Io,
    /// What was read back differs from what was written.
    ReadBack,
}

/// Why an installation failed. The display is one sentence that does not repeat
/// its source; [`InstallError::hint`] says what to do.
#[derive(Debug)]
pub struct InstallError {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl InstallError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// An operation on a file that the system refused.
    pub(crate) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => Some("run the installation as root"),
            io::ErrorKind::ReadOnlyFilesystem => {
                Some("remount the file system for writing, then install again")
            }
            _ => None,
        };
        Self {
            kind,
            message: format!("cannot {what} {}", path.display()),
            hint: hint.map(Into::into),
            source: Some(Box::new(source)),
        }
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The kind, to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for InstallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}
