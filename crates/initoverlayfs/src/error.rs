//! What the command line says when it cannot do what was asked.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

/// A failure: a sentence, what to do, the cause, and whether it was the command
/// line's fault.
#[derive(Debug)]
pub struct CliError {
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    usage: bool,
}

/// Result of this crate.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            source: None,
            usage: false,
        }
    }

    /// A command line that cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            ..Self::new(message)
        }
    }

    /// `cannot DO PATH`.
    pub(crate) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        let denied = source.kind() == io::ErrorKind::PermissionDenied;
        let error = Self::new(format!("cannot {what} {}", path.display())).source(source);
        match denied {
            true => error.hint("run this as a user who may, such as root"),
            false => error,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says in front of the message what it is about.
    #[must_use]
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The exit status: 2 for the command line's fault, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}

impl From<installer::InstallError> for CliError {
    fn from(error: installer::InstallError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint().map(Into::into),
            usage: false,
            source: chain(&error),
        }
    }
}

impl From<builder::Error> for CliError {
    fn from(error: builder::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: error.advice().map(Into::into),
            usage: error.kind() == builder::ErrorKind::Usage,
            source: chain(&error),
        }
    }
}

impl From<qemu_driver::Error> for CliError {
    fn from(error: qemu_driver::Error) -> Self {
        // Its messages hold their sources.
        Self::new(error.to_string())
    }
}

/// The causes below `error` in one, for an error that was taken apart.
fn chain(error: &dyn StdError) -> Option<Box<dyn StdError + Send + Sync>> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    (!causes.is_empty()).then(|| causes.join(": ").into())
}
