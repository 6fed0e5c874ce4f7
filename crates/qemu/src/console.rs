//! Console output: lines, terminal escapes, the kernel's timestamps.

use std::time::Duration;

/// The longest line that is kept whole, in bytes; a longer one is cut into
/// several. A guest that prints without end must not eat the host's memory.
pub const MAX_LINE: usize = 64 << 10;

/// How many brackets in a line may turn out not to begin a timestamp.
const MAX_TRIES: usize = 8;

/// One line that the guest printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    /// Wall time since the machine was started.
    pub at: Duration,
    /// The line without its end and without terminal escapes.
    pub text: String,
    /// The guest's own clock and the message, if the line is the kernel's
    /// (printk.time=1).
    pub kernel: Option<(Duration, String)>,
}

impl ConsoleLine {
    /// A line as read from the console at `at`.
    #[must_use]
    pub fn new(at: Duration, raw: &[u8]) -> Self {
        let text = strip_escapes(&String::from_utf8_lossy(raw));
        // The kernel also prints behind a prompt that has no line end.
        let kernel = text
            .match_indices('[')
            .filter_map(|(at, _)| text.get(at..))
            .take(MAX_TRIES)
            .find_map(parse_kernel_line)
            .or_else(|| parse_kernel_line(&text));
        Self { at, text, kernel }
    }

    /// The message without the kernel's timestamp, or the whole line.
    #[must_use]
    pub fn message(&self) -> &str {
        self.kernel
            .as_ref()
            .map_or(self.text.as_str(), |(_, message)| message.as_str())
    }
}

/// Parses `[   12.345678] message`, with or without a `<6>` before it and a
/// `[    T1]` caller (CONFIG_PRINTK_CALLER) after it. Format: the kernel's
/// `print_time` and `print_caller` in kernel/printk/printk.c.
#[must_use]
pub fn parse_kernel_line(line: &str) -> Option<(Duration, String)> {
    let mut rest = line;
    if let Some((level, after)) = rest.strip_prefix('<').and_then(|r| r.split_once('>')) {
        if !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit()) {
            rest = after;
        }
    }
    let (stamp, after) = rest.strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = stamp.trim_start().split_once('.')?;
    if micros.len() != 6 || !micros.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let time = Duration::from_secs(seconds.parse().ok()?)
        .checked_add(Duration::from_micros(micros.parse().ok()?))?;
    let after = match after.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((caller, after))
            if caller
                .trim_start()
                .strip_prefix(['T', 'C'])
                .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) =>
        {
            after
        }
        _ => after,
    };
    let message = after.strip_prefix(' ').unwrap_or(after);
    Some((time, message.to_owned()))
}

/// Removes terminal control sequences (ECMA-48: CSI, OSC and two-byte escapes)
/// and all control characters but tabs.
#[must_use]
pub fn strip_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            if c == '\t' || !c.is_control() {
                out.push(c);
            }
            continue;
        }
        match chars.next() {
            Some('[') => {
                // Parameters and intermediates up to a final byte.
                for c in chars.by_ref() {
                    if ('\u{40}'..='\u{7e}').contains(&c) {
                        break;
                    }
                }
            }
            Some(']' | 'P' | '^' | '_') => {
                while let Some(c) = chars.next() {
                    if c == '\u{7}' {
                        break;
                    }
                    if c == '\u{1b}' {
                        chars.next_if_eq(&'\\');
                        break;
                    }
                }
            }
            Some('(' | ')' | '#' | '%') => {
                chars.next();
            }
            _ => {}
        }
    }
    out
}

/// Cuts a byte stream into lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    pending: Vec<u8>,
}

impl LineBuffer {
    /// Takes more bytes; calls `line` for each complete line, without `\r\n`.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for &byte in bytes {
            if byte == b'\n' || self.pending.len() >= MAX_LINE {
                self.flush(&mut line);
            }
            if byte != b'\n' {
                self.pending.push(byte);
            }
        }
    }

    /// Gives out what came after the last line end; at the end of the stream.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            self.flush(&mut line);
        }
    }

    fn flush(&mut self, line: &mut impl FnMut(&[u8])) {
        let end = self
            .pending
            .iter()
            .rposition(|&b| b != b'\r')
            .map_or(0, |at| at + 1);
        line(self.pending.get(..end).unwrap_or(&[]));
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_timestamps_are_read() {
        let cases = [
            ("[    1.234567] text", 1_234_567, "text"),
            ("[12345.000001] a [b] c", 12_345_000_001, "a [b] c"),
            ("<6>[    0.000000] Linux version", 0, "Linux version"),
            ("[    0.100000][    T1] caller", 100_000, "caller"),
            ("[    0.100000][   C12] caller", 100_000, "caller"),
            (
                "[    0.100000] [drm] not a caller",
                100_000,
                "[drm] not a caller",
            ),
            ("[    0.100000]", 100_000, ""),
        ];
        for (line, micros, message) in cases {
            let (time, text) = parse_kernel_line(line).unwrap();
            assert_eq!(time, Duration::from_micros(micros), "{line}");
            assert_eq!(text, message, "{line}");
        }
        for line in [
            "",
            "[  OK  ] Started x",
            "[ 1.23] short",
            "[ -1.000000] x",
            "[    1.234567 text",
            "<>[    1.234567] text",
            "[99999999999999999999.000000] x",
        ] {
            assert_eq!(parse_kernel_line(line), None, "{line}");
        }
    }

    #[test]
    fn escapes_go_and_the_stamp_behind_them_is_found() {
        let raw = b"\x1b[!p\x1b]104\x1b\\\x1b[?7h[    3.593601] systemd[1]: running\r";
        let line = ConsoleLine::new(Duration::ZERO, raw);
        assert_eq!(line.message(), "systemd[1]: running");
        let line = ConsoleLine::new(Duration::ZERO, b"guest [a] login: [   79.118750] text [b]");
        assert_eq!(line.message(), "text [b]");
        assert_eq!(line.kernel.unwrap().0, Duration::from_micros(79_118_750));
        assert_eq!(
            strip_escapes("[\u{1b}[0;32m  OK  \u{1b}[0m] Started"),
            "[  OK  ] Started"
        );
        assert_eq!(strip_escapes("a\u{1b}]0;title\u{7}b\u{1b}[6"), "ab");
        assert_eq!(strip_escapes("\u{1b}"), "");
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_are() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for chunk in ["a", "b\r", "\n\n", "c\nd"] {
            buffer.push(chunk.as_bytes(), |l| lines.push(l.to_vec()));
        }
        assert_eq!(lines, [&b"ab"[..], b"", b"c"]);
        buffer.finish(|l| lines.push(l.to_vec()));
        assert_eq!(lines.last().unwrap(), b"d");
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut buffer = LineBuffer::default();
        let mut longest = 0;
        buffer.push(&vec![b'x'; 3 * MAX_LINE], |l| {
            longest = longest.max(l.len())
        });
        assert_eq!(longest, MAX_LINE);
    }
}
