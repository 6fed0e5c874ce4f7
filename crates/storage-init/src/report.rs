//! What the person in front of a machine that does not boot gets to see, and
//! what happens then.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use iofs_plan::OnFailure;
use kernel_abi::kmsg::{self, Level};
use kernel_abi::power::{self, Power};
use kernel_abi::process;

use crate::log::Log;
use crate::settings::Settings;

const PREFIX: &str = "storage-init: ";

/// How long the report of a boot without a plan, or of a panic, stays on the
/// screen before the machine restarts, in milliseconds.
pub(crate) const DEFAULT_WAIT_MS: u32 = 30_000;

/// What to do where the failure itself does not tell.
const ADVICE: &str = "if a module is named above, build the mini-initramfs again for this kernel; \
                      else boot another entry or a rescue medium";

/// A boot that cannot go on. Boxed, so that it is passed on in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(Box<Report>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Report {
    what: String,
    awaited: Vec<String>,
    seen: Vec<String>,
    advice: Vec<String>,
}

impl From<kernel_abi::Error> for Failure {
    #[cold]
    fn from(error: kernel_abi::Error) -> Self {
        Self::new(format_args!("{error}"))
    }
}

impl Failure {
    /// A failure of which `what` says what failed, as a sentence without its
    /// full stop.
    #[must_use]
    #[cold]
    pub fn new(what: fmt::Arguments<'_>) -> Self {
        Self(Box::new(Report {
            what: what.to_string(),
            ..Report::default()
        }))
    }

    /// What failed.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Adds what was awaited.
    #[must_use]
    pub fn awaited(mut self, items: impl Iterator<Item = String>) -> Self {
        self.0.awaited.extend(items);
        self
    }

    /// Adds what was seen instead.
    #[must_use]
    pub fn seen(mut self, items: Vec<String>) -> Self {
        self.0.seen.extend(items);
        self
    }

    /// Adds what can be done.
    #[must_use]
    pub fn advise(mut self, advice: &str) -> Self {
        self.0.advice.push(advice.into());
        self
    }

    /// The report's lines.
    #[must_use]
    pub fn lines(&self, log: &Log, end: &str) -> Vec<String> {
        let report = &self.0;
        let mut lines = alloc::vec![format!("BOOT FAILED: {}", report.what)];
        for (title, items) in [
            ("awaited", &report.awaited),
            ("seen", &report.seen),
            ("earlier", &log.complaints),
            ("what to do", &report.advice),
        ] {
            // What was complained of at once and is seen now is said once.
            let repeats = |item: &str| {
                title == "earlier" && report.seen.iter().any(|seen| item.ends_with(&**seen))
            };
            let items = items.iter().filter(|item| !repeats(item));
            lines.extend(items.map(|item| format!("  {title}: {item}")));
        }
        if report.advice.is_empty() {
            lines.push(format!("  what to do: {ADVICE}"));
        }
        if let Some(last) = log.stages.last() {
            lines.push(format!("  last stage reached: {}", last.name));
        }
        lines.push(format!("  now: {end}"));
        lines
    }
}

/// The items with `separator` between them. The standard library's `join` has
/// faster ways for common separators, which PID 1 has no use for.
pub(crate) fn join(items: &mut dyn Iterator<Item = String>, separator: &str) -> String {
    let mut joined = String::new();
    for item in items {
        if !joined.is_empty() {
            joined.push_str(separator);
        }
        joined.push_str(&item);
    }
    joined
}

/// Shows the report, waits so that it can be read, and ends as the plan says.
pub fn give_up(failure: &Failure, log: &Log, settings: Option<&Settings>) -> ! {
    let (action, wait_ms) = match settings {
        Some(settings) => (settings.plan.on_failure, settings.plan.failure_wait_ms),
        None => (OnFailure::default(), DEFAULT_WAIT_MS),
    };
    let end = format!(
        "{} in {} s (change with initoverlayfs.on_failure= and initoverlayfs.failure_wait= on the kernel command line)",
        action.name(),
        wait_ms / 1000
    );
    for line in failure.lines(log, &end) {
        kmsg::write_line(Level::Critical, PREFIX, &line);
    }
    finish(action, wait_ms)
}

/// The panic handler of both binaries: a bug or no memory left. A worker ends; PID 1
/// reports and restarts.
pub fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    if !process::is_init() {
        process::exit(u8::MAX);
    }
    // No allocation: that may be what failed.
    let mut text = FixedText::default();
    let _ = write!(text, "BOOT FAILED: internal error: {info}");
    kmsg::write_raw(Level::Critical, PREFIX, text.as_str());
    finish(OnFailure::Reboot, DEFAULT_WAIT_MS)
}

fn finish(action: OnFailure, wait_ms: u32) -> ! {
    process::sleep(u64::from(wait_ms) * 1000);
    power::act(match action {
        OnFailure::Reboot => Power::Restart,
        OnFailure::PowerOff => Power::Off,
        OnFailure::Halt => Power::Halt,
    });
    // Only if the kernel refuses, or where halting returns: PID 1 must not exit.
    loop {
        process::sleep(3_600_000_000);
    }
}

/// Text in a fixed buffer; what does not fit is cut.
struct FixedText {
    bytes: [u8; 400],
    len: usize,
}

impl Default for FixedText {
    fn default() -> Self {
        Self {
            bytes: [0; 400],
            len: 0,
        }
    }
}

impl FixedText {
    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("(unprintable)")
    }
}

impl Write for FixedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut encoded = [0; 4];
            let piece = character.encode_utf8(&mut encoded).as_bytes();
            let Some(room) = self.bytes.get_mut(self.len..self.len + piece.len()) else {
                break;
            };
            room.copy_from_slice(piece);
            self.len += piece.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_awaited_seen_and_can_be_done() {
        let failure = Failure::new(format_args!("the init image was not found within 9 s"))
            .awaited(["the image /x on ESP".into()].into_iter())
            .seen(alloc::vec!["disk vda".into()])
            .advise("reinstall");
        let mut log = Log::new();
        log.complaints.push("module x: no".into());
        log.complaints.push("no image on disk vda".into());
        assert_eq!(
            failure.lines(&log, "reboot in 30 s"),
            [
                "BOOT FAILED: the init image was not found within 9 s",
                "  awaited: the image /x on ESP",
                "  seen: disk vda",
                "  earlier: module x: no",
                "  what to do: reinstall",
                "  now: reboot in 30 s",
            ]
        );
    }

    #[test]
    fn a_fixed_text_is_cut_at_a_character() {
        let mut text = FixedText::default();
        for _ in 0..300 {
            let _ = text.write_str("ü");
        }
        assert_eq!(text.as_str().chars().count(), 200);
    }
}
