//! What can go wrong on the test ground.

use std::io;
use std::time::Duration;

/// A guest, a disk or a user-mode kernel could not be made or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Programs are missing and cannot be installed from here.
    #[error("missing {}; as root: {command}", .packages.join(", "))]
    MissingPackages {
        /// Names of Debian packages.
        packages: Vec<String>,
        /// The line that installs them.
        command: String,
    },
    /// Only root can do it.
    #[error("{what} needs root (chroot and device nodes)")]
    NeedsRoot {
        /// What was to be done.
        what: &'static str,
    },
    /// apt has no Debian archive in its sources.
    #[error("no Debian mirror in /etc/apt: a `deb` line for the base archive names one")]
    NoMirror,
    /// An operation on a file or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}); it ends:\n{tail}")]
    Program {
        /// The program and what it was to do.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        tail: String,
    },
    /// A user-mode kernel did not say what was waited for in time.
    #[error("{what} did not come within {} s; the console ends:\n{tail}", .limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
        /// The end of the console.
        tail: String,
    },
    /// A disk cannot be laid out as asked.
    #[error("laying out a disk: {0}")]
    Layout(#[from] iofs_gpt::LayoutError),
    /// A disk cannot be laid out as asked.
    #[error("laying out a disk: {0}")]
    Disk(String),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] qemu_driver::Error),
}

impl Error {
    /// An I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
