//! What boots on what: rows that tests write when they pass, and the table in
//! `docs/matrix.md` that `cargo xtask matrix` makes of them.
//!
//! A row is a file in the folder of [`FOLDER_ENV`], by default
//! `target/matrix`. The QEMU tests' main function calls [`forget`] before each
//! test, so that a row stands for the test's last run and goes when that fails.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Error;
use crate::guest;

/// Names the folder of the rows.
pub const FOLDER_ENV: &str = "IOFS_MATRIX";

/// How far a boot of a row came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// multi-user.target on the root.
    MultiUser,
    /// The init of the root.
    RootInit,
    /// The init of the image.
    ImageInit,
}

impl Reached {
    const ALL: [Self; 3] = [Self::MultiUser, Self::RootInit, Self::ImageInit];

    /// Its words in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MultiUser => "multi-user",
            Self::RootInit => "the root's init",
            Self::ImageInit => "the image's init",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reached| reached.name() == name)
    }
}

/// A combination that boots. The order of the fields is that of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// What the boot disk is on, and the machine if it is not q35: `nvme, 4096`.
    pub bus: String,
    /// Distribution and version of the kernel: `Debian 13, 6.12`.
    pub kernel: String,
    /// What made the second stage: `dracut`, `initramfs-tools`.
    pub stage: String,
    /// What the root is: `ext4`, `LUKS2, passphrase, on LVM`; `-` if the boot
    /// ends in the image.
    pub root: String,
    /// How far the boot came.
    pub reached: Reached,
    /// The test's name.
    pub test: String,
}

impl Row {
    /// Writes the row: the test `self.test` has seen this boot.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&self) -> Result<(), Error> {
        self.record_in(&folder())
    }

    fn record_in(&self, folder: &Path) -> Result<(), Error> {
        let failed = || Error::io(format!("writing in {}", folder.display()));
        fs::create_dir_all(folder).map_err(failed())?;
        let what = [&self.bus, &self.kernel, &self.stage, &self.root].map(|part| slug(part));
        let name = format!("{}.{}.json", slug(&self.test), what.join("."));
        let text = json!({
            "bus": self.bus,
            "kernel": self.kernel,
            "stage": self.stage,
            "root": self.root,
            "reached": self.reached.name(),
            "test": self.test,
        });
        fs::write(folder.join(name), format!("{text}\n")).map_err(failed())
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::io(format!("reading {}", path.display())))?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Disk(format!("{}: {e}", path.display())))?;
        let text = |key: &str| {
            let text = value.get(key).and_then(Value::as_str);
            text.map(str::to_owned)
                .ok_or_else(|| Error::Disk(format!("{} has no {key:?}", path.display())))
        };
        let reached = text("reached")?;
        Ok(Self {
            bus: text("bus")?,
            kernel: text("kernel")?,
            stage: text("stage")?,
            root: text("root")?,
            reached: Reached::from_name(&reached).ok_or_else(|| {
                Error::Disk(format!("{}: unknown end {reached:?}", path.display()))
            })?,
            test: text("test")?,
        })
    }
}

/// The folder of the rows.
#[must_use]
pub fn folder() -> PathBuf {
    match env::var_os(FOLDER_ENV) {
        Some(folder) if !folder.is_empty() => guest::workspace().join(folder),
        _ => guest::workspace().join("target/matrix"),
    }
}

/// Removes the rows of `test`, which is about to run again.
///
/// # Errors
/// [`Error::Io`].
pub fn forget(test: &str) -> Result<(), Error> {
    forget_in(&folder(), test)
}

fn forget_in(folder: &Path, test: &str) -> Result<(), Error> {
    let begins = format!("{}.", slug(test));
    for path in rows_of(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(&begins)) {
            fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))?;
        }
    }
    Ok(())
}

/// All rows, in the table's order.
///
/// # Errors
/// [`Error::Io`]; [`Error::Disk`] names a file that is no row.
pub fn read(folder: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for path in rows_of(folder)? {
        rows.push(Row::read(&path)?);
    }
    rows.sort();
    Ok(rows)
}

/// The table, Markdown.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| boot disk on | kernel | second stage | root | reaches | test |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in rows {
        let cells = [
            &row.bus,
            &row.kernel,
            &row.stage,
            &row.root,
            row.reached.name(),
            &format!("`{}`", row.test),
        ]
        .map(|cell| cell.replace('|', "\\|"));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

fn rows_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(format!("reading {}", folder.display())))?,
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect())
}

/// A part of a file name: a dot in it would end the test's name too early.
fn slug(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars()
        .map(|c| if keep(c) { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bus: &str, test: &str) -> Row {
        Row {
            bus: bus.to_owned(),
            kernel: "Debian 13, 6.12".to_owned(),
            stage: "dracut".to_owned(),
            root: "ext4".to_owned(),
            reached: Reached::RootInit,
            test: test.to_owned(),
        }
    }

    #[test]
    fn a_row_stands_for_the_last_run_of_its_test() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("rows");
        assert!(read(&folder).unwrap().is_empty());
        forget_in(&folder, "usb").unwrap();
        for row in [
            row("usb", "usb"),
            row("usb, late", "usb"),
            row("ahci", "usb_2"),
        ] {
            row.record_in(&folder).unwrap();
            row.record_in(&folder).unwrap();
        }
        let rows = read(&folder).unwrap();
        let buses: Vec<&str> = rows.iter().map(|row| row.bus.as_str()).collect();
        assert_eq!(buses, ["ahci", "usb", "usb, late"]);
        forget_in(&folder, "usb").unwrap();
        assert_eq!(read(&folder).unwrap(), [row("ahci", "usb_2")]);
        fs::write(folder.join("x.json"), "{}").unwrap();
        assert!(read(&folder).unwrap_err().to_string().contains("x.json"));
    }

    #[test]
    fn the_table_is_markdown() {
        let text = render(&[row("a|b", "t")]);
        assert_eq!(
            text.lines().last(),
            Some("| a\\|b | Debian 13, 6.12 | dracut | ext4 | the root's init | `t` |")
        );
    }
}
