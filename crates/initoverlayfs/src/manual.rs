//! Completions and man pages, from the definition in [`crate::cli`].

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::cli;
use crate::error::{CliError, Result};

/// Prints the completions for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "initoverlayfs", &mut script);
    io::stdout()
        .write_all(&script)
        .map_err(|e| CliError::new("cannot print the completions").source(e))
}

/// Writes `initoverlayfs.1` and a page for each command into `dir`.
pub(crate) fn man(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| CliError::io("make the folder", dir, e))?;
    // The pages of subcommands are named after their parents.
    let command = cli::command().flatten_help(false);
    clap_mangen::generate_to(command, dir).map_err(|e| CliError::io("write man pages into", dir, e))
}
