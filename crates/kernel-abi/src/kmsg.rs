//! The kernel log, `/dev/kmsg` (kernel: Documentation/ABI/testing/dev-kmsg).

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

/// Writes one record to the kernel log, each line of `text` its own.
///
/// The device is opened anew for each record: the kernel limits the rate of an
/// open file to ten records in five seconds, and a boot says more than that.
/// A log that cannot be written must not stop a boot: failures are dropped.
pub fn write(level: Level, prefix: &str, text: &str) {
    for line in text.lines() {
        let mut rest = line;
        loop {
            let mut cut = rest.len().min(MAX_LEN);
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let (now, later) = rest.split_at(cut);
            write_raw(level, prefix, now);
            if later.is_empty() {
                break;
            }
            rest = later;
        }
    }
}

/// Writes one record, without allocating: `text` is one line, cut to what fits.
pub fn write_raw(level: Level, prefix: &str, text: &str) {
    let mut record = [0; MAX_LEN + 64];
    let mut len = 0;
    for piece in [
        &b"<"[..],
        &[b'0' + level as u8],
        b">",
        prefix.as_bytes(),
        text.as_bytes(),
    ] {
        let room = record.len() - 1 - len;
        let take = piece.len().min(room);
        record[len..len + take].copy_from_slice(&piece[..take]);
        len += take;
    }
    record[len] = b'\n';
    if let Ok(log) = rustix::fs::open(
        c"/dev/kmsg",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let _ = rustix::io::write(&log, &record[..=len]);
    }
}
