//! The programs as they are shipped, side by side in one folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::guest::{build_freestanding, cargo, target_dir, workspace};
use crate::{Error, command};

/// Names a folder that already has the programs, for tests.
pub const DIST_ENV: &str = "IOFS_DIST";

/// How the command line is built.
const COMMAND: [&str; 4] = ["build", "--package", "initoverlayfs", "--release"];

/// The programs, each with the folder of the profile that builds it.
pub const PROGRAMS: [(&str, &str); 3] = [
    ("release", "initoverlayfs"),
    ("pid1", "storage-init"),
    ("pid1", "run-init"),
];

/// A folder with the programs: that of [`DIST_ENV`], else they are built.
///
/// # Errors
/// As [`build`].
pub fn ensure(log: &Path) -> Result<PathBuf, Error> {
    match env::var_os(DIST_ENV) {
        Some(folder) if !folder.is_empty() => Ok(workspace().join(folder)),
        _ => build(log),
    }
}

/// Builds the programs into `target/dist` and returns that folder.
///
/// # Errors
/// [`Error::Program`] if cargo fails, [`Error::Io`].
pub fn build(log: &Path) -> Result<PathBuf, Error> {
    build_freestanding("storage-init", log)?;
    command::run_logged(cargo().args(COMMAND), log)?;
    let to = workspace().join("target/dist");
    fs::create_dir_all(&to).map_err(Error::io(format!("making {}", to.display())))?;
    for (profile, program) in PROGRAMS {
        let from = target_dir().join(profile).join(program);
        let partial = to.join(format!(".{program}"));
        // A program that is running cannot be written over, only replaced.
        fs::copy(&from, &partial)
            .and_then(|_| fs::rename(&partial, to.join(program)))
            .map_err(Error::io(format!("copying {}", from.display())))?;
    }
    Ok(to)
}
