//! What a bench hands back, and how it is shown: on the terminal, and with
//! `--record` as Markdown, JSON and a plot in docs/benchmarks.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::chart::{self, Chart};
use crate::table::render;

/// A measured table, or several that belong together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// The family's name: that of its files, `boot`, `reach`, ...
    pub(crate) name: String,
    /// A heading.
    pub(crate) title: String,
    /// The command that makes exactly these figures again.
    pub(crate) command: String,
    /// Sentences: how it was measured, with which options, what was left out.
    pub(crate) notes: Vec<String>,
    /// Of what the figures depend on: kernel, emulator, generators.
    pub(crate) versions: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) bounds: Vec<Bound>,
    /// Drawn one below the other; without any there is no plot.
    pub(crate) charts: Vec<Chart>,
}

/// Rows of figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// What its rows are, the heading of their names.
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

/// What a column holds.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `s`, `MiB`, ...; empty for ratios and text.
    pub(crate) unit: &'static str,
    /// How many decimals are shown; JSON has the figure as it was measured.
    pub(crate) decimals: usize,
}

/// A name and a cell a column.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

/// A figure, in its column's unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Number(f64),
    #[allow(dead_code, reason = "for the families to come")]
    Text(String),
    /// Not measured, or it does not apply.
    Nothing,
}

/// A figure that the project promises to stay below.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) figure: f64,
    pub(crate) bound: f64,
    /// As in [`Column`].
    pub(crate) unit: &'static str,
}

impl Column {
    pub(crate) fn new(name: &str, unit: &'static str, decimals: usize) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            decimals,
        }
    }

    fn heading(&self) -> String {
        match self.unit {
            "" => self.name.clone(),
            unit => format!("{}, {unit}", self.name),
        }
    }
}

impl Row {
    pub(crate) fn new(name: &str, cells: Vec<Cell>) -> Self {
        Self {
            name: name.to_owned(),
            cells,
        }
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Self {
        number.map_or(Self::Nothing, Self::Number)
    }
}

impl Cell {
    fn shown(&self, decimals: usize) -> String {
        match self {
            Self::Number(number) => format!("{number:.decimals$}"),
            Self::Text(text) => text.clone(),
            Self::Nothing => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Nothing => Value::Null,
        }
    }
}

impl Bound {
    /// A ratio, or a figure in `unit`, that may be at most `bound`.
    pub(crate) fn new(name: &str, figure: f64, bound: f64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            figure,
            bound,
            unit,
        }
    }

    pub(crate) fn met(&self) -> bool {
        self.figure <= self.bound
    }

    fn verdict(&self) -> &'static str {
        if self.met() { "met" } else { "missed" }
    }
}

impl Table {
    /// The heading and the rows, as text.
    fn cells(&self) -> Vec<Vec<String>> {
        let heading = std::iter::once(self.title.clone())
            .chain(self.columns.iter().map(Column::heading))
            .collect();
        let rows = self.rows.iter().map(|row| {
            let cells = row
                .cells
                .iter()
                .zip(&self.columns)
                .map(|(cell, column)| cell.shown(column.decimals));
            std::iter::once(row.name.clone()).chain(cells).collect()
        });
        std::iter::once(heading).chain(rows).collect()
    }

    fn json(&self) -> Value {
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|column| json!({"name": column.name, "unit": column.unit}))
            .collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let values: Vec<Value> = row.cells.iter().map(Cell::json).collect();
                json!({"name": row.name, "values": values})
            })
            .collect();
        json!({"title": self.title, "columns": columns, "rows": rows})
    }
}

impl Report {
    /// The bounds as rows of text, with a heading.
    fn bound_cells(&self) -> Vec<Vec<String>> {
        let heading = ["bound", "figure", "at most", ""]
            .map(str::to_owned)
            .to_vec();
        let rows = self.bounds.iter().map(|bound| {
            let with_unit = |number: f64| match bound.unit {
                "" => format!("{number:.3}"),
                unit => format!("{number:.3} {unit}"),
            };
            vec![
                bound.name.clone(),
                with_unit(bound.figure),
                with_unit(bound.bound),
                bound.verdict().to_owned(),
            ]
        });
        std::iter::once(heading).chain(rows).collect()
    }

    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let mut parts = vec![format!("{}\n{}\n", self.title, self.command)];
        parts.extend(self.tables.iter().map(|table| render(&table.cells())));
        if !self.bounds.is_empty() {
            parts.push(render(&self.bound_cells()));
        }
        let lines = self.notes.iter().chain(&self.versions);
        parts.push(lines.map(|line| format!("* {line}\n")).collect());
        parts.join("\n")
    }

    /// For people who read the repository.
    fn markdown(&self) -> String {
        let mut parts = vec![
            format!("# {}\n", self.title),
            format!("Written by `{}`.\n", self.command),
        ];
        if !self.charts.is_empty() {
            parts.push(format!("![{}]({}.svg)\n", self.title, self.name));
        }
        parts.extend(self.tables.iter().map(|table| pipes(&table.cells())));
        if !self.bounds.is_empty() {
            parts.push(pipes(&self.bound_cells()));
        }
        let notes = self.notes.iter().map(|note| format!("* {note}\n"));
        let versions = match self.versions.as_slice() {
            [] => None,
            versions => Some(format!("* {}.\n", versions.join("; "))),
        };
        parts.push(notes.chain(versions).collect());
        parts.join("\n")
    }

    /// For programs.
    fn json(&self) -> Value {
        let bounds: Vec<Value> = self
            .bounds
            .iter()
            .map(|bound| {
                json!({
                    "name": bound.name,
                    "figure": bound.figure,
                    "bound": bound.bound,
                    "unit": bound.unit,
                    "met": bound.met(),
                })
            })
            .collect();
        json!({
            "name": self.name,
            "title": self.title,
            "command": self.command,
            "notes": self.notes,
            "versions": self.versions,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
            "bounds": bounds,
        })
    }

    /// Writes NAME.md, NAME.json and, with charts, NAME.svg into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(folder)?;
        let mut files = vec![
            ("md", self.markdown()),
            ("json", serde_json::to_string_pretty(&self.json())? + "\n"),
        ];
        if !self.charts.is_empty() {
            files.push(("svg", chart::svg(&self.title, &self.charts)?));
        }
        for (end, text) in files {
            let path = folder.join(format!("{}.{end}", self.name));
            fs::write(&path, text)?;
            println!("written: {}", path.display());
        }
        Ok(())
    }
}

/// A Markdown table: names to the left, figures to the right.
fn pipes(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if number == 0 {
            let right = "---:|".repeat(row.len().saturating_sub(1));
            text.push_str(&format!("|---|{right}\n"));
        }
    }
    text
}

/// The first line of what a program says of itself.
pub(crate) fn version(program: &str) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("asking {program} for its version: {error}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok(text.lines().next().unwrap_or(program).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        Report {
            name: "sample".to_owned(),
            title: "What a sample costs".to_owned(),
            command: "cargo xtask bench sample --runs 3".to_owned(),
            notes: vec!["The median of 3 runs.".to_owned()],
            versions: vec!["kernel 6.12".to_owned(), "mkfs 1.8".to_owned()],
            tables: vec![Table {
                title: "a boot".to_owned(),
                columns: vec![Column::new("exec", "s", 3), Column::new("by", "", 0)],
                rows: vec![
                    Row::new("ours | theirs", vec![1.23456.into(), Cell::Nothing]),
                    Row::new(
                        "long name",
                        vec![None::<f64>.into(), Cell::Text("hand".to_owned())],
                    ),
                ],
            }],
            bounds: vec![
                Bound::new("ours against theirs", 1.04, 1.05, ""),
                Bound::new("slope", 0.5, 0.02, "ms per MiB"),
            ],
            charts: vec![Chart::Bars {
                axis: "s".to_owned(),
                series: vec!["exec".to_owned()],
                bars: vec![("ours".to_owned(), vec![Some(1.2)])],
            }],
        }
    }

    #[test]
    fn the_terminal_gets_columns() {
        assert_eq!(
            sample().text(),
            "What a sample costs\ncargo xtask bench sample --runs 3\n\n\
             a boot         exec, s    by\n\
             ours | theirs    1.235     -\n\
             long name            -  hand\n\n\
             bound                          figure           at most\n\
             ours against theirs             1.040             1.050     met\n\
             slope                0.500 ms per MiB  0.020 ms per MiB  missed\n\n\
             * The median of 3 runs.\n* kernel 6.12\n* mkfs 1.8\n"
        );
    }

    #[test]
    fn markdown_has_the_command_the_plot_and_tables() {
        let text = sample().markdown();
        assert!(text.starts_with(
            "# What a sample costs\n\nWritten by `cargo xtask bench sample --runs 3`.\n\n\
             ![What a sample costs](sample.svg)\n\n| a boot | exec, s | by |\n|---|---:|---:|\n\
             | ours \\| theirs | 1.235 | - |\n"
        ));
        assert!(text.contains("| slope | 0.500 ms per MiB | 0.020 ms per MiB | missed |\n"));
        assert!(text.ends_with("* The median of 3 runs.\n* kernel 6.12; mkfs 1.8.\n"));
    }

    #[test]
    fn json_has_figures_as_measured_and_what_was_not() {
        let value = sample().json();
        assert_eq!(value["tables"][0]["rows"][0]["values"][0], 1.23456);
        assert!(value["tables"][0]["rows"][1]["values"][0].is_null());
        assert_eq!(value["tables"][0]["columns"][0]["unit"], "s");
        assert_eq!(value["bounds"][0]["met"], true);
        assert_eq!(value["bounds"][1]["met"], false);
    }

    #[test]
    fn a_report_is_three_files_or_two_without_a_chart() {
        let names = |report: &Report| {
            let dir = tempfile::tempdir().unwrap();
            report.write(dir.path()).unwrap();
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let mut report = sample();
        assert_eq!(names(&report), ["sample.json", "sample.md", "sample.svg"]);
        report.charts.clear();
        assert_eq!(names(&report), ["sample.json", "sample.md"]);
        assert!(!report.markdown().contains("svg"));
    }

    #[test]
    fn a_figure_that_is_no_number_meets_no_bound() {
        assert!(!Bound::new("", f64::NAN, 1.0, "").met());
        assert!(Bound::new("", 1.0, 1.0, "").met());
    }
}
