//! What the second stage needs that an initrd made for a ramfs does not have.
//!
//! initramfs-tools leaves the initramfs with `run-init` (klibc's or busybox's),
//! which empties the old root first and therefore insists on a ramfs or tmpfs
//! ("rootfs not a ramfs or tmpfs"). In the image the old root is an overlay, so
//! it gets a `run-init` of ours that does not insist. systemd's own switch needs
//! nothing.

use crate::error::{Error, ErrorKind, Result};
use crate::stage::Stage;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What is appended to the name of a program that was replaced.
const KEPT: &str = ".distribution";

/// The greatest size of our stand-in, in bytes.
const MAX_STAND_IN: u64 = 16 << 20;

/// Prepares the stage; returns what was changed, one sentence each.
pub(crate) fn adjust(stage: &mut Stage, run_init: Option<&Path>) -> Result<Vec<String>> {
    let systemd =
        stage.exists("usr/lib/systemd/systemd")? || stage.exists("lib/systemd/systemd")?;
    let initramfs_tools =
        stage.exists("scripts/init-top")? || stage.exists("conf/initramfs.conf")?;
    if systemd && !stage.exists("etc/initrd-release")? && !stage.exists("usr/lib/initrd-release")? {
        stage.warnings.push(
            "the image has systemd but no /etc/initrd-release: it will act as the operating system and not as an initrd".to_owned(),
        );
    }
    let mut programs = find(stage, "run-init")?;
    // Without systemd, a busybox initrd leaves by this one.
    if !systemd {
        programs.extend(find(stage, "switch_root")?);
    }
    if programs.is_empty() {
        if initramfs_tools {
            stage.warnings.push(
                "the image looks like initramfs-tools' but has no run-init; it may not reach its root".to_owned(),
            );
        }
        return Ok(Vec::new());
    }
    let Some(stand_in) = run_init else {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "{} in the input refuses to leave an overlay, and no stand-in was given",
                inside(
                    stage,
                    programs.first().map_or(Path::new(""), PathBuf::as_path)
                )
            ),
        )
        .hint("Give the run-init binary that is built with storage-init."));
    };
    let bytes = read_stand_in(stand_in)?;
    programs
        .iter()
        .map(|program| {
            replace(program, &bytes)?;
            let name = inside(stage, program);
            Ok(format!(
                "{name} is ours, since the distribution's refuses to leave an overlay; that one is {name}{KEPT}"
            ))
        })
        .collect()
}

/// Every program of this name in the stage, except links to another that is
/// found too.
fn find(stage: &Stage, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(stage.path()).sort_by_file_name() {
        let entry = entry.map_err(|source| {
            Error::new(ErrorKind::Io, "walking through the stage failed").source(source)
        })?;
        if entry.file_name() != name || entry.file_type().is_dir() {
            continue;
        }
        let path = entry.into_path();
        if path.is_symlink() {
            let inside = inside(stage, &path);
            // A link to busybox has to go; one to a run-init elsewhere is right
            // once that is replaced; one to nothing is left alone.
            match stage.resolve(&inside)? {
                Some(target) if target.file_name().is_some_and(|target| target != name) => {}
                _ => continue,
            }
        }
        found.push(path);
    }
    Ok(found)
}

/// A path in the stage as the booted system will see it.
fn inside(stage: &Stage, path: &Path) -> String {
    let relative = path.strip_prefix(stage.path()).unwrap_or(path);
    format!("/{}", relative.display())
}

fn read_stand_in(path: &Path) -> Result<Vec<u8>> {
    let meta = path.metadata().map_err(Error::io("looking at", path))?;
    if meta.len() > MAX_STAND_IN {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} is too large to be our run-init", path.display()),
        ));
    }
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    if bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{} is no executable", path.display()),
    ))
}

/// Renames the program and puts `bytes` in its place. Its other hard links
/// (busybox has hundreds) keep their file.
fn replace(program: &Path, bytes: &[u8]) -> Result<()> {
    let mut kept = program.as_os_str().to_owned();
    kept.push(KEPT);
    std::fs::rename(program, &kept).map_err(Error::io("renaming", program))?;
    std::fs::write(program, bytes)
        .and_then(|()| std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)))
        .map_err(Error::io("writing", program))
}
