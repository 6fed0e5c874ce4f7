//! The log: the kernel's, with the time of each stage kept for `boot.json`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Arguments;

use kernel_abi::clock;
use kernel_abi::kmsg::{self, Level};

/// Begins each line of this program's.
pub(crate) const PREFIX: &str = "storage-init: ";

/// A stage of the boot and when it was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name; `initoverlayfs run` and the benchmarks know them.
    pub name: &'static str,
    /// Microseconds since the kernel started.
    pub micros: u64,
}

/// Writes to the kernel log and remembers.
#[derive(Debug, Default)]
pub struct Log {
    /// The stages reached so far.
    pub stages: Vec<Stage>,
    /// Warnings and errors so far, for the failure report.
    pub complaints: Vec<String>,
    /// Whether detail is wanted.
    pub debug: bool,
}

/// A broken device can complain without end; the report needs the first ones.
const MAX_COMPLAINTS: usize = 50;

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A stage was reached: `text` says with what result.
    pub fn stage(&mut self, name: &'static str, text: &str) {
        self.stages.push(Stage {
            name,
            micros: clock::micros(),
        });
        self.info(format_args!("[stage {name}] {text}"));
    }

    /// Something worth knowing on every boot.
    pub fn info(&self, text: Arguments<'_>) {
        kmsg::write_line(Level::Info, PREFIX, &text.to_string());
    }

    /// Detail, with `initoverlayfs.debug` only.
    pub fn debug(&self, text: Arguments<'_>) {
        if self.debug {
            self.info(text);
        }
    }

    /// Something is not as it should be, and the boot goes on.
    pub fn warn(&mut self, text: Arguments<'_>) {
        self.complain(Level::Warning, text);
    }

    /// Something failed that somebody should look at.
    pub fn error(&mut self, text: Arguments<'_>) {
        self.complain(Level::Error, text);
    }

    fn complain(&mut self, level: Level, text: Arguments<'_>) {
        let text = text.to_string();
        kmsg::write_line(level, PREFIX, &text);
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(text);
        }
    }
}
