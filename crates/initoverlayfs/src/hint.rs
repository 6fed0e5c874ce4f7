//! `hint`: what the next boot is to try first.
//!
//! A mini-initramfs for any machine asks each device for its driver. One that is
//! told which drivers this machine's boot disk needed last time loads those
//! first. The hint lies on the ESP, where systemd-stub finds it among the
//! credentials; nobody authenticates it, and nothing but an order depends on it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{HintAction, HintArgs};
use crate::error::{CliError, Result};
use crate::ui;

/// Where systemd-stub takes credentials for every UKI from, on the ESP.
const FOLDER: &str = "loader/credentials";

/// The credential; storage-init knows it by this name.
const NAME: &str = "initoverlayfs.hint.cred";

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Hint {
    path: PathBuf,
    modules: Vec<String>,
}

pub(crate) fn run(args: &HintArgs) -> Result<()> {
    let esp = match &args.esp {
        Some(esp) => esp.clone(),
        None => find_esp().ok_or_else(|| {
            CliError::usage("no ESP is mounted on /efi, /boot/efi or /boot; name it with --esp")
        })?,
    };
    let path = esp.join(FOLDER).join(NAME);
    let modules = match args.action {
        HintAction::Record => {
            let modules = of_this_boot(&args.record, &args.sysfs)?;
            write(&path, &modules).map_err(|source| CliError::io("write", &path, source))?;
            modules
        }
        HintAction::Show => match fs::read_to_string(&path) {
            Ok(text) => iofs_cmdline::hints(&text).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(CliError::io("read", &path, source)),
        },
        HintAction::Clear => {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(CliError::io("remove", &path, error));
                }
                _ => {}
            }
            Vec::new()
        }
    };
    if args.json {
        return ui::print_json(&Hint { path, modules });
    }
    if modules.is_empty() {
        anstream::println!("{}: no hint", path.display());
    } else {
        anstream::println!("{}: {}", path.display(), modules.join(" "));
    }
    Ok(())
}

/// The drivers of the disk that this boot's image is on.
fn of_this_boot(record: &Path, sysfs: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(record).map_err(|source| {
        CliError::io("read", record, source)
            .hint("Only a boot through storage-init leaves this record.")
    })?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| CliError::usage(format!("{}: {error}", record.display())))?;
    let partition = json
        .pointer("/image/partition")
        .and_then(|value| value.as_str())
        .and_then(|path| path.strip_prefix("/dev/"))
        .ok_or_else(|| {
            CliError::usage(format!("{} names no /image/partition", record.display()))
        })?;
    let mut modules = builder::drivers_of(sysfs, partition)?;
    modules.truncate(iofs_cmdline::MAX_HINTS);
    Ok(modules)
}

/// The first of the usual places that has a file system of its own and looks
/// like an ESP.
fn find_esp() -> Option<PathBuf> {
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    let root = device(Path::new("/"));
    ["/efi", "/boot/efi", "/boot"]
        .into_iter()
        .map(PathBuf::from)
        .find(|place| {
            let mounted = device(place).is_some_and(|dev| Some(dev) != root);
            mounted && (place.join("EFI").is_dir() || place.join("loader").is_dir())
        })
}

/// Replaces the hint, unless it is the same: a write less, and the same
/// measurement into PCR 12.
fn write(path: &Path, modules: &[String]) -> std::io::Result<()> {
    let text = modules.join("\n") + "\n";
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}
