//! The kernel log, `/dev/kmsg` (kernel: Documentation/ABI/testing/dev-kmsg).

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// How urgent a line is: the kernel's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// A failed boot: shown on every console, even with `quiet`.
    Critical = 2,
    /// Something failed that the boot may survive; shown with `quiet`.
    Error = 3,
    /// Something looks wrong.
    Warning = 4,
    /// A stage of the boot.
    Info = 6,
    /// Detail.
    Debug = 7,
}

/// The longest message that is written as one record, in bytes; the kernel cuts
/// records at about 1000 (LOG_LINE_MAX).
const MAX_LEN: usize = 900;

/// Writes each line of `text` to the kernel log.
pub fn write(level: Level, prefix: &str, text: &str) {
    for line in text.lines() {
        write_line(level, prefix, line);
    }
}

/// Writes `text`, whatever it holds, to the kernel log as one line, or in
/// several records if it is long.
///
/// The device is opened anew for each record: the kernel limits the rate of an
/// open file to ten records in five seconds, and a boot says more than that.
/// A log that cannot be written must not stop a boot: failures are dropped.
pub fn write_line(level: Level, prefix: &str, text: &str) {
    let mut rest = text;
    while !rest.is_empty() {
        let mut cut = rest.len().min(MAX_LEN);
        let (now, later) = loop {
            match rest.split_at_checked(cut) {
                Some(pieces) => break pieces,
                // Inside a character, which is at most four bytes long.
                None => cut -= 1,
            }
        };
        write_raw(level, prefix, now);
        rest = later;
    }
}

/// Writes one record, without allocating; `text` is cut to what fits.
pub fn write_raw(level: Level, prefix: &str, text: &str) {
    if let Some(log) = Held::open() {
        log.write(level, prefix, text);
    }
}

/// The log, held open: for a process that `/dev` goes away from.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// Opens it; `None` if there is none.
    #[must_use]
    pub fn open() -> Option<Self> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let log = rustix::fs::open(c"/dev/kmsg", flags, Mode::empty());
        log.ok().map(Self)
    }

    /// Writes one record; `text` is cut to what fits. The kernel drops what comes
    /// more often than ten times in five seconds.
    pub fn write(&self, level: Level, prefix: &str, text: &str) {
        let mut buffer = [0; MAX_LEN + 64];
        let _ = rustix::io::write(&self.0, record(level, prefix, text, &mut buffer));
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a record in `buffer`. Control characters become question marks: names
/// off a disk are shown, and whoever sees a serial console has a terminal that
/// would obey them.
fn record<'b>(level: Level, prefix: &str, text: &str, buffer: &'b mut [u8]) -> &'b [u8] {
    let head = [b'<', b'0' + level as u8, b'>'];
    let bytes = head.iter().chain(prefix.as_bytes()).chain(text.as_bytes());
    let room = buffer.len().saturating_sub(1);
    let mut len = 0;
    let mut last = 0;
    for (place, &byte) in buffer.iter_mut().zip(bytes).take(room) {
        // The controls beyond ASCII are U+0080 to U+009F.
        let control = (byte.is_ascii_control() && byte != b'\t') || (last == 0xc2 && byte < 0xa0);
        *place = if control { b'?' } else { byte };
        last = byte;
        len += 1;
    }
    if let Some(end) = buffer.get_mut(len) {
        *end = b'\n';
    }
    buffer.get(..=len).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_and_has_no_controls() {
        let mut buffer = [0; 40];
        let text = "a\x1b[2J\u{9b}b\nü";
        let line = record(Level::Error, "p: ", text, &mut buffer);
        assert_eq!(line, b"<3>p: a?[2J\xc2?b?\xc3\xbc\n");
        let line = record(Level::Error, "p: ", &"x".repeat(100), &mut buffer);
        assert_eq!(line.len(), 40);
        assert_eq!(line.last(), Some(&b'\n'));
    }
}
