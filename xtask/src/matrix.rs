//! `cargo xtask matrix`: the table of what boots on what.

use std::error::Error;
use std::fs;

use vmtest::guest;
use vmtest::matrix;

/// The task: writes docs/matrix.md from the rows that the tests have written.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let folder = matrix::folder();
    let rows = matrix::read(&folder)?;
    if rows.is_empty() {
        return Err(format!(
            "no test has written a row to {}; cargo xtask test --all --only QEMU runs them",
            folder.display()
        )
        .into());
    }
    let text = format!(
        "# What boots on what\n\n\
         Written by `cargo xtask matrix` from the rows that tests in QEMU write when they pass \
         (`cargo xtask test --all --only QEMU`).\n\n\
         Each row is a boot through storage-init: from the bus, with the kernel, through the \
         image that is the second stage, to what it reaches. The mini-initramfs of a bus or a \
         kernel is the one for any machine (`--modules generic`). A second stage of `-` is a test \
         program.\n\n{}",
        matrix::render(&rows)
    );
    let path = guest::workspace().join("docs/matrix.md");
    fs::write(&path, text)?;
    println!("{} rows: {}", rows.len(), path.display());
    Ok(())
}
