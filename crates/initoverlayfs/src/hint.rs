//! `hint`: what the next boot is to try first.
//!
//! A mini-initramfs for any machine asks each device for its driver. One that is
//! told which drivers this machine's boot disk needed last time loads those
//! first. The hint lies on the ESP, where systemd-stub finds it among the
//! credentials; nobody authenticates it, and nothing but an order depends on it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{HintAction, HintArgs};
use crate::error::{CliError, Result};
use crate::esp::Credential;
use crate::ui;

/// The credential; storage-init knows it by this name.
const NAME: &str = "initoverlayfs.hint.cred";

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Hint {
    path: PathBuf,
    modules: Vec<String>,
}

pub(crate) fn run(args: &HintArgs) -> Result<()> {
    let credential = Credential::new(args.esp.as_deref(), NAME)?;
    let modules = match args.action {
        HintAction::Record => {
            let modules = of_this_boot(&args.record, &args.sysfs)?;
            credential.write(&(modules.join("\n") + "\n"))?;
            modules
        }
        HintAction::Show => match credential.read()? {
            Some(text) => iofs_cmdline::hints(&text).unwrap_or_default(),
            None => Vec::new(),
        },
        HintAction::Clear => {
            credential.remove()?;
            Vec::new()
        }
    };
    let path = credential.path().to_owned();
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
                .hint("An image in the mini-initramfs needs no driver, and so no hint.")
        })?;
    let mut modules = builder::drivers_of(sysfs, partition)?;
    modules.truncate(iofs_cmdline::MAX_HINTS);
    Ok(modules)
}
