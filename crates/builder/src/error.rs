//! The one error of this crate: a kind to match on, a sentence, what to do, and
//! the cause.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that cannot be (a wrong option, a missing
    /// file, several kernels to choose from).
    Usage,
    /// Root's rights (or fakeroot) are needed.
    Privilege,
    /// The input is of a kind that is not supported; the message names it.
    Unsupported,
    /// The input is damaged, or tries to leave the stage.
    Input,
    /// The input goes over a limit (see [`crate::Limits`]).
    Limit,
    /// An external program is not installed; the advice says what to install.
    MissingTool,
    /// An external program failed.
    Tool,
    /// Reading or writing failed.
    Io,
    /// The kernel's modules do not hold what is needed.
    Modules,
    /// What was written does not read back as it should.
    Verify,
}

/// A failed build: what, where, what to do, and the cause (as
/// [`std::error::Error::source`], which the message does not repeat).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says in front of the message what it is about.
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// A closure for `map_err`: "`doing` `path` failed", caused by an I/O error.
    pub(crate) fn io<'a, E>(doing: &'a str, path: &'a Path) -> impl FnOnce(E) -> Self + 'a
    where
        E: Into<std::io::Error> + 'a,
    {
        move |source| {
            let source: std::io::Error = source.into();
            Self::new(ErrorKind::Io, format!("{doing} {} failed", path.display())).source(source)
        }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do about it, as a sentence, when that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}
