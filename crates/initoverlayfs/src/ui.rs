//! What people see: errors, tables, bars. Colours and bars only on a terminal.

use std::error::Error as StdError;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{CliError, Result};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const HEAD: Style = Style::new().bold();

/// Prints the error with its causes and its hint to standard error.
pub(crate) fn print_error(error: &CliError) {
    anstream::eprintln!("{ERROR}error:{ERROR:#} {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        anstream::eprintln!("  because: {cause}");
        source = cause.source();
    }
    if let Some(hint) = error.advice() {
        anstream::eprintln!("  {HINT}hint:{HINT:#} {hint}");
    }
}

/// Prints a warning to standard error.
pub(crate) fn warn(message: &str) {
    anstream::eprintln!("{WARNING}warning:{WARNING:#} {message}");
}

/// Prints `value` as JSON to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    std::io::stdout()
        .write_all(&text)
        .map_err(|e| CliError::new("cannot print the result").source(e))
}

/// A size for people: three significant digits and the exact number.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    // Exact enough: a size is far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Prints a table to standard output: a heading, then rows. The first and the
/// last column hold text and are aligned left, those between are numbers.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let last = head.len().saturating_sub(1);
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            match column {
                0 => out += &format!("{cell:<width$}"),
                _ if column == last => out += &format!("  {cell}"),
                _ => out += &format!("  {cell:>width$}"),
            }
        }
        out.trim_end().to_owned()
    };
    anstream::println!("{HEAD}{}{HEAD:#}", line(&mut head.iter().copied()));
    for row in rows {
        anstream::println!("{}", line(&mut row.iter().map(String::as_str)));
    }
}

/// A bar on standard error where that is a terminal, else nothing.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    pub(crate) fn begin(&self, what: String, total: Option<u64>, bytes: bool) {
        self.end();
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = match (total, bytes) {
            (None, _) => "{spinner} {msg} {elapsed}",
            (Some(_), true) => "{msg:32!} [{bar:30}] {bytes}/{total_bytes} {eta}",
            (Some(_), false) => "{msg:32!} [{bar:30}] {pos}/{len} {eta}",
        };
        // The templates are fixed and tested; without one the default is shown.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        self.replace(Some(bar));
    }

    pub(crate) fn advance(&self, by: u64) {
        if let Ok(bar) = self.bar.lock() {
            if let Some(bar) = bar.as_ref() {
                bar.inc(by);
            }
        }
    }

    pub(crate) fn end(&self) {
        self.replace(None);
    }

    /// Prints a line that the bar does not overwrite.
    pub(crate) fn line(&self, print: impl FnOnce()) {
        match self.bar.lock() {
            Ok(bar) => match bar.as_ref() {
                Some(bar) => bar.suspend(print),
                None => print(),
            },
            Err(_) => print(),
        }
    }

    fn replace(&self, new: Option<ProgressBar>) {
        if let Ok(mut bar) = self.bar.lock() {
            if let Some(old) = bar.take() {
                old.finish_and_clear();
            }
            *bar = new;
        }
    }
}

impl builder::Progress for Bars {
    fn begin(&self, step: builder::Step, total: Option<u64>) {
        let bytes = step == builder::Step::Stage;
        Self::begin(self, step.label().into(), total, bytes);
    }

    fn advance(&self, by: u64) {
        Self::advance(self, by);
    }

    fn end(&self, _step: builder::Step) {
        Self::end(self);
    }

    fn warn(&self, message: &str) {
        self.line(|| warn(message));
    }

    /// The last line shows that the tool is alive; a failure quotes them all.
    fn tool_output(&self, line: &str) {
        if let Ok(bar) = self.bar.lock() {
            if let Some(bar) = bar.as_ref() {
                let shown: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
                bar.set_message(shown);
            }
        }
    }
}

impl installer::Progress for Bars {
    fn begin(&self, path: &std::path::Path, total: u64) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::begin(self, format!("writing {name}"), Some(total), true);
    }

    fn advance(&self, bytes: u64) {
        Self::advance(self, bytes);
    }

    fn end(&self) {
        Self::end(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1.00 KiB");
        assert_eq!(size(1_200_000), "1.14 MiB");
        assert_eq!(size(99 << 20), "99.0 MiB");
        assert_eq!(size(5 << 30), "5.00 GiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }
}
