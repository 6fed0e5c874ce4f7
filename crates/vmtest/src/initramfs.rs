//! Tiny initramfs archives for tests, by cpio.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::{Error, command};

/// Makes an initramfs whose /init is `program`, a static one.
///
/// # Errors
/// [`Error::Program`] if cpio fails, [`Error::Io`].
pub fn of_program(path: &Path, program: &Path) -> Result<(), Error> {
    let dir = tempfile::tempdir().map_err(Error::io("making a temporary folder"))?;
    // The kernel's own archive already holds /dev/console.
    for folder in ["dev", "proc"] {
        fs::create_dir(dir.path().join(folder)).map_err(Error::io("making a folder"))?;
    }
    let init = dir.path().join("init");
    fs::copy(program, &init)
        .and_then(|_| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .map_err(Error::io(format!("copying {}", program.display())))?;
    of_files(path, dir.path(), &[".", "dev", "proc", "init"])
}

/// Makes an uncompressed initramfs of these files and folders of `dir`, in this
/// order.
///
/// # Errors
/// [`Error::Program`] if cpio fails, [`Error::Io`].
pub fn of_files(path: &Path, dir: &Path, names: &[&str]) -> Result<(), Error> {
    let archive = command::output_with_input(
        Command::new("cpio")
            .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"])
            .current_dir(dir),
        (names.join("\n") + "\n").as_bytes(),
    )?;
    fs::write(path, archive).map_err(Error::io(format!("writing {}", path.display())))
}
