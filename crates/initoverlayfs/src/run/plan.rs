//! The arguments of `run`, resolved into a machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use installer::BuiltSet;
use installer::manifest::{Partition, Place};
use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Firmware, FirmwareKind, Machine};
use tempfile::TempDir;

use super::{disk, esp};
use crate::cli::{AccelArg, FirmwareArg, RunArgs};
use crate::error::{CliError, Result};

/// The folder that `build` fills by default.
const DEFAULT_SET: &str = "initoverlayfs-build";

/// What is to be run.
#[derive(Debug)]
pub(super) struct RunPlan {
    /// The set and the place where its plan looks for the image; `None` if the
    /// firmware boots the user's disk as it is.
    set: Option<(BuiltSet, Place)>,
    disk: Option<PathBuf>,
    keep_writes: bool,
    ovmf: bool,
    memory: u32,
    cmdline: String,
    accel: Accel,
    pub(super) timeout: Duration,
    pub(super) until: Option<String>,
}

impl RunPlan {
    /// Resolves the arguments; reads, but writes nothing.
    pub(super) fn resolve(args: RunArgs) -> Result<Self> {
        let ovmf = args.firmware == FirmwareArg::Ovmf;
        if let Some(disk) = args.disk.as_deref().filter(|disk| !disk.is_file()) {
            return Err(CliError::usage(format!(
                "--disk {} is not a file",
                disk.display()
            )));
        }
        let set = match (&args.from, ovmf && args.disk.is_some()) {
            (None, true) => None,
            (from, _) => {
                let dir = from.as_deref().unwrap_or(Path::new(DEFAULT_SET));
                let set = BuiltSet::open(dir)?;
                let place = set.manifest.candidates.first().cloned().ok_or_else(|| {
                    CliError::new(format!("the set in {} has no candidate", dir.display()))
                })?;
                Some((set, place))
            }
        };
        if args.append.is_some() && set.is_none() {
            return Err(CliError::usage(
                "--append has no effect on a disk that firmware boots by its own entries",
            )
            .hint("give a built set with --from, or leave --append out"));
        }
        let accel = match args.accel {
            AccelArg::Auto => Accel::detect()?,
            AccelArg::Kvm => Accel::Kvm,
            AccelArg::Tcg => Accel::Tcg,
        };
        let own = set
            .as_ref()
            .and_then(|(set, _)| set.manifest.cmdline.clone());
        Ok(Self {
            cmdline: cmdline(own.as_deref(), args.append.as_deref()),
            set,
            disk: args.disk,
            keep_writes: args.keep_writes,
            ovmf,
            memory: args.memory,
            accel,
            timeout: Duration::from_secs(args.timeout),
            until: args.until,
        })
    }

    /// Makes the boot disk and describes the machine. The files go away with
    /// the folder.
    pub(super) fn prepare(&self) -> Result<(Machine, TempDir)> {
        let files = tempfile::Builder::new()
            .prefix("initoverlayfs-run-")
            .tempdir()
            .map_err(|e| CliError::new("cannot make a temporary folder").source(e))?;
        let boot_disk = files.path().join("boot.img");
        let mut disks = Vec::new();
        if let Some((set, place)) = &self.set {
            let made = match (self.ovmf, &place.partition) {
                (true, _) => esp::make(&boot_disk, set, place, &self.cmdline).map(|()| true)?,
                // The mini-initramfs is all that it takes.
                (false, Partition::Embedded) => false,
                (false, _) => disk::for_image(&boot_disk, set, place).map(|()| true)?,
            };
            if made {
                disks.push(Disk::scratch(boot_disk, Bus::VirtioBlk));
            }
        }
        if let Some(path) = &self.disk {
            disks.push(Disk {
                snapshot: !self.keep_writes,
                ..Disk::scratch(path, Bus::VirtioBlk)
            });
        }
        let boot = match (&self.set, self.ovmf) {
            (Some((set, _)), false) => Boot::Direct {
                kernel: set.path(&set.manifest.kernel),
                initrd: Some(set.path(&set.manifest.initrd)),
                append: self.cmdline.clone(),
            },
            _ => Boot::Firmware(Firmware::prepare(
                FirmwareKind::Plain,
                &files.path().join("vars.fd"),
            )?),
        };
        let mut machine = Machine::new(Arch::X86_64, self.accel, boot);
        machine.memory_mib = self.memory;
        machine.disks = disks;
        Ok((machine, files))
    }
}

/// The kernel's arguments: the serial console first, so that one named by the
/// user, coming later, becomes /dev/console.
fn cmdline(own: Option<&str>, append: Option<&str>) -> String {
    let console = format!("console={}", Arch::X86_64.console());
    [Some(console.as_str()), own, append]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_appends_comes_last() {
        assert_eq!(cmdline(None, None), "console=ttyS0");
        assert_eq!(
            cmdline(Some("root=/dev/vda2 "), Some("console=hvc0")),
            "console=ttyS0 root=/dev/vda2 console=hvc0"
        );
    }
}
