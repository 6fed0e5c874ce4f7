//! What can go wrong with a virtual machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A virtual machine could not be started, asked or waited for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emulator is not installed.
    #[error("{program} is not installed; on Debian: apt-get install {package}")]
    MissingProgram {
        /// The program that was looked for.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// No UEFI firmware of that kind was found.
    #[error(
        "no UEFI firmware ({what}) in {}; on Debian: apt-get install ovmf",
        .tried.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    MissingFirmware {
        /// Which of the files.
        what: &'static str,
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// An operation on a file or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// QEMU ended although the guest had not.
    #[error("QEMU ended early ({status}): {stderr}")]
    Died {
        /// Exit status in words.
        status: String,
        /// What it said on its error output.
        stderr: String,
    },
    /// The TPM could not be started.
    #[error("swtpm: {reason}")]
    Tpm {
        /// What was wrong.
        reason: String,
    },
    /// What was waited for did not come in time.
    #[error("{what} did not come within {} s; the console ends:\n{tail}", .limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
        /// The last lines of the console.
        tail: String,
    },
    /// The guest ended before what was waited for came.
    #[error("the guest ended before {what} came; the console ends:\n{tail}")]
    Ended {
        /// What was waited for.
        what: String,
        /// The last lines of the console.
        tail: String,
    },
    /// QEMU's control socket gave an unexpected answer.
    #[error("QMP {command}: {reason}")]
    Qmp {
        /// The command.
        command: String,
        /// What was wrong.
        reason: String,
    },
    /// The override of the accelerator has a value that is none.
    #[error("{variable}={value} is neither tcg nor kvm")]
    BadAccel {
        /// Name of the environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
}

impl Error {
    /// An I/O error with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
