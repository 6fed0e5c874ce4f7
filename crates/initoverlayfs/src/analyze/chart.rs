//! Charts of plain characters: a row a phase, its bar where its time was.

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) label: String,
    pub(super) at_us: i64,
    pub(super) us: u64,
    /// Stands after the label.
    pub(super) remark: String,
}

/// How charts are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// In characters.
    pub(super) width: usize,
    /// Whether blocks can be drawn.
    pub(super) unicode: bool,
}

/// Charts are no narrower and no wider.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=160;

/// A bar has at least this many characters, whatever the labels leave.
const LEAST_BAR: usize = 12;

/// A label has no more.
const MAX_LABEL: usize = 36;

impl Style {
    /// The terminal's, if standard output is one, and the locale's.
    pub(super) fn of_output() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let columns = variable("COLUMNS").and_then(|text| text.parse().ok());
        let terminal = || {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
            (size.ws_col > 0).then_some(usize::from(size.ws_col))
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(variable);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            width: columns.or_else(terminal).unwrap_or(80),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// The rows on one axis, from the first that begins to the last that ends.
    pub(super) fn draw(self, title: &str, rows: &[Row]) -> String {
        let label = |row: &Row| -> String {
            let whole = match row.remark.as_str() {
                "" => row.label.clone(),
                remark => format!("{} {remark}", row.label),
            };
            whole.chars().take(MAX_LABEL).collect()
        };
        let labels: Vec<String> = rows.iter().map(label).collect();
        let chars = |text: &String| text.chars().count();
        let label_width = labels.iter().map(chars).max().unwrap_or(0);
        let label_width = label_width.max(title.chars().count()).max(10);
        // Two numbers of nine, and what is between the columns.
        let width = self.width.clamp(*WIDTHS.start(), *WIDTHS.end());
        let bar = width.saturating_sub(label_width + 24).max(LEAST_BAR);
        let begin = rows.iter().map(|row| row.at_us).min().unwrap_or(0);
        let end = |row: &Row| row.at_us.saturating_add_unsigned(row.us);
        let all = rows.iter().map(end).max().unwrap_or(0);
        let all = all.saturating_sub(begin).max(1).unsigned_abs();
        let mut out = format!("{title:<label_width$}  {:>9}  {:>9}\n", "at, s", "took, s");
        for (row, label) in rows.iter().zip(labels) {
            let from = row.at_us.saturating_sub(begin).unsigned_abs();
            let line = format!(
                "{label:<label_width$}  {:>9}  {:>9}  {}",
                seconds(row.at_us),
                seconds(i64::try_from(row.us).unwrap_or(i64::MAX)),
                self.bar(from, row.us, all, bar)
            );
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    /// `len` from `from` on of `all`, in `width` characters; whatever took time
    /// has at least one.
    fn bar(self, from: u64, len: u64, all: u64, width: usize) -> String {
        if len == 0 {
            return String::new();
        }
        let wide = u128::try_from(width).unwrap_or(0);
        let at = |us: u64| u128::from(us.min(all)) * wide;
        let whole = u128::from(all);
        let first = usize::try_from(at(from) / whole).unwrap_or(0);
        let first = first.min(width.saturating_sub(1));
        let last = usize::try_from(at(from.saturating_add(len)).div_ceil(whole)).unwrap_or(width);
        let cells = last.clamp(first + 1, width.max(first + 1)) - first;
        let cell = if self.unicode { "\u{2588}" } else { "#" };
        " ".repeat(first) + &cell.repeat(cells)
    }
}

/// Seconds with three decimals, cut as the kernel log cuts.
fn seconds(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    format!("{sign}{}.{:03}", us / 1_000_000, us / 1000 % 1000)
}

/// A time for people.
pub(super) fn time(us: u64) -> String {
    match us {
        0..=9_999 => format!("{}.{} ms", us / 1000, us / 100 % 10),
        10_000..=999_999 => format!("{} ms", us / 1000),
        _ => format!("{}.{:02} s", us / 1_000_000, us / 10_000 % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: Style = Style {
        width: 80,
        unicode: false,
    };

    #[test]
    fn bars_are_proportional_and_stay_inside() {
        let bar = |from, len, all| ASCII.bar(from, len, all, 10);
        assert_eq!(bar(0, 100, 100), "##########");
        assert_eq!(bar(50, 50, 100), "     #####");
        assert_eq!(bar(50, 0, 100), "");
        assert_eq!(bar(100, 1, 100), "         #");
        assert_eq!(bar(0, 1, 1_000_000), "#");
        assert_eq!(bar(u64::MAX, u64::MAX, u64::MAX), "         #");
        let blocks = Style {
            unicode: true,
            ..ASCII
        };
        assert_eq!(blocks.bar(0, 5, 10, 10), "█████");
    }

    #[test]
    fn times_are_printed() {
        assert_eq!(seconds(-1_234_567), "-1.234");
        assert_eq!(seconds(0), "0.000");
        assert_eq!(time(1_230), "1.2 ms");
        assert_eq!(time(123_456), "123 ms");
        assert_eq!(time(12_345_678), "12.34 s");
    }

    #[test]
    fn a_chart_of_nothing_has_a_head() {
        assert_eq!(ASCII.draw("boot", &[]).lines().count(), 1);
    }
}
