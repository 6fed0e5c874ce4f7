//! Plain tables on standard output.

/// Lines of cells, each column as wide as its widest cell: the first to the
/// left, the others, which are numbers, to the right.
pub(crate) fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, &width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in MiB with two decimals.
pub(crate) fn mib(bytes: u64) -> String {
    let hundredths = bytes.saturating_mul(100) >> 20;
    format!("{}.{:02} MiB", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["longer".to_owned(), "5".to_owned()],
        ];
        assert_eq!(render(&rows), "a       10\nlonger   5\n");
        assert_eq!(render(&[]), "");
    }

    #[test]
    fn sizes_are_cut_and_not_rounded_up() {
        assert_eq!(mib(0), "0.00 MiB");
        assert_eq!(mib(3 << 19), "1.50 MiB");
        assert_eq!(mib((2 << 20) - 1), "1.99 MiB");
    }
}
