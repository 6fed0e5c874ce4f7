//! Which file system takes the set.
//!
//! The plan's candidates decide: the image must lie where `storage-init` will
//! look for it. Of the candidates that name a file, the first is taken whose
//! partition is there. Kernel, mini-initramfs and entry lie beside the image, so
//! that one file system holds all that a boot needs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use iofs_plan::{Selector, Uuid};
use serde::Serialize;

use crate::Options;
use crate::error::{ErrorKind, InstallError};
use crate::manifest::{Partition, Place};
use crate::system::{Mount, PartitionIdentity, System};

/// GPT type of the EFI system partition (UEFI specification, 5.3.3).
pub const ESP_TYPE: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);

/// GPT type of the extended boot loader partition (Discoverable Partitions
/// Specification).
pub const XBOOTLDR_TYPE: Uuid = Uuid::from_u128(0xbc13c2ff_59e6_4262_a352_b275fd6f7172);

/// The file systems on which `storage-init` finds a file by itself.
const READABLE: [&str; 4] = ["vfat", "ext2", "ext3", "ext4"];

/// Where on this machine a set can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// The EFI system partition.
    Esp,
    /// The extended boot loader partition.
    Xbootldr,
    /// Another partition: one of its own for /boot, or the root file system.
    Boot,
}

/// A file system that fits a candidate.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: TargetKind,
    /// The folder that holds `loader/entries` and the sets.
    pub(crate) dir: PathBuf,
    /// The path of `dir` from the root of its file system: empty or `/boot`.
    pub(crate) prefix: String,
    /// `vfat`, where it is known.
    pub(crate) fstype: Option<String>,
    /// The candidate that it fits.
    pub(crate) candidate: Place,
    /// What could not be checked.
    pub(crate) notes: Vec<String>,
}

/// A folder that may be a target.
struct Folder {
    path: PathBuf,
    /// What is mounted on it.
    mount: Option<Mount>,
    /// The mount that its parent folder is the root of, if the folder itself is
    /// no mount point.
    below: Option<Mount>,
    /// Named by the user, who knows what it is.
    explicit: bool,
}

type Identity = Result<PartitionIdentity, String>;

struct Finder<'a> {
    system: &'a System,
    esp: Option<Folder>,
    boot: Option<Folder>,
}

/// The target for the first candidate that has one.
pub(crate) fn find(
    system: &System,
    root: &Path,
    options: &Options,
    candidates: &[Place],
) -> Result<Target, InstallError> {
    let finder = Finder::new(system, root, options)?;
    let mut reasons = Vec::new();
    for place in candidates {
        let selector = place.selector()?;
        let found = match (&place.file, &selector) {
            (_, Selector::Pmem { .. }) => {
                Err("nothing is installed there: the boot loader fills memory".into())
            }
            (_, Selector::Embedded) => {
                Err("the mini-initramfs has it, and an image on a disk is to be tried first".into())
            }
            (None, _) => Err(
                "the image is a partition of its own, and none is named with --image-partitions"
                    .into(),
            ),
            (_, Selector::TypeGuid(ESP_TYPE)) => finder.esp(place),
            (_, Selector::TypeGuid(XBOOTLDR_TYPE)) => finder.xbootldr(place),
            _ => finder.other(place, &selector),
        };
        match found {
            Ok(target) => return Ok(target),
            Err(why) => reasons.push(format!("{} ({selector}): {why}", place.name)),
        }
    }
    if reasons.is_empty() {
        reasons.push("the plan has no candidates".into());
    }
    Err(InstallError::new(
        ErrorKind::NoTarget,
        format!(
            "found no place for the image under {}: {}",
            root.display(),
            reasons.join("; ")
        ),
    )
    .with_hint(
        "mount the partition, name its folder with --esp or --boot, \
         or build for another place with --image-on",
    ))
}

/// The candidate of a set whose image is packed into its mini-initramfs and awaited
/// on no disk.
pub(crate) fn embedded(candidates: &[Place]) -> Option<&Place> {
    let memory = |place: &Place| {
        matches!(
            place.partition,
            Partition::Embedded | Partition::Pmem { .. }
        )
    };
    let mut packed = candidates.iter();
    packed
        .find(|place| place.partition == Partition::Embedded)
        .filter(|_| candidates.iter().all(memory))
}

/// The target for what a boot needs beside an image that has partitions of its
/// own or is packed into the mini-initramfs: a file system that firmware and boot loaders read.
pub(crate) fn beside(
    system: &System,
    root: &Path,
    options: &Options,
    place: &Place,
) -> Result<Target, InstallError> {
    let finder = Finder::new(system, root, options)?;
    let found = match &options.boot {
        Some(_) => finder.xbootldr(place).or_else(|_| finder.esp(place)),
        None => finder.esp(place).or_else(|why| {
            let boot = finder.xbootldr(place);
            boot.map_err(|other| format!("{why}; {other}"))
        }),
    };
    found.map_err(|why| {
        InstallError::new(
            ErrorKind::NoTarget,
            format!(
                "found no place for the boot entry under {}: {why}",
                root.display()
            ),
        )
        .with_hint("mount the EFI system partition, or name its folder with --esp")
    })
}

/// Where the UKI goes for an image in `target`: beside it where firmware and boot
/// loaders read that file system, else on the ESP.
pub(crate) fn uki_folder(
    system: &System,
    root: &Path,
    options: &Options,
    target: &Target,
) -> Result<Target, InstallError> {
    if target.kind != TargetKind::Boot {
        return Ok(target.clone());
    }
    let finder = Finder::new(system, root, options)?;
    finder.esp(&target.candidate).map_err(|why| {
        InstallError::new(
            ErrorKind::NoTarget,
            format!("found no EFI system partition for the UKI: {why}"),
        )
        .with_hint("mount it, or name its folder with --esp")
    })
}

impl<'a> Finder<'a> {
    fn new(system: &'a System, root: &Path, options: &Options) -> Result<Self, InstallError> {
        let places = ["efi", "boot/efi", "boot"].map(|place| root.join(place));
        for place in &places {
            // An automount shows its real file system only once it is entered.
            let _ = fs::read_dir(place);
        }
        let mounts = match (&options.esp, &options.boot) {
            (Some(_), Some(_)) => Vec::new(),
            _ => system
                .mounts()
                .map_err(|e| InstallError::io("read", &system.proc.join("self/mountinfo"), e))?,
        };
        let esp = match &options.esp {
            Some(path) => Some(Folder::explicit(path)?),
            None => places
                .iter()
                .filter_map(|place| Folder::mounted(&mounts, place))
                .find(|folder| folder.fstype() == Some("vfat")),
        };
        let boot = match &options.boot {
            Some(path) => Some(Folder::explicit(path)?),
            None => Folder::found(&mounts, &root.join("boot")),
        };
        Ok(Self { system, esp, boot })
    }

    fn target(&self, kind: TargetKind, folder: &Folder, place: &Place) -> Target {
        Target {
            kind,
            dir: folder.path.clone(),
            prefix: String::new(),
            fstype: folder.fstype().map(Into::into),
            candidate: place.clone(),
            notes: Vec::new(),
        }
    }

    fn esp(&self, place: &Place) -> Result<Target, String> {
        let Some(folder) = &self.esp else {
            return Err("no vfat file system is mounted on /efi, /boot/efi or /boot".into());
        };
        let mut target = self.target(TargetKind::Esp, folder, place);
        match folder.identity(self.system) {
            Some(Ok(identity)) if identity.type_guid != ESP_TYPE => Err(format!(
                "{} is on a partition of type {}, not on an EFI system partition",
                folder.path.display(),
                identity.type_guid
            )),
            Some(Err(why)) => {
                target.notes.push(format!(
                    "{} is vfat, but its partition type could not be checked: {why}",
                    folder.path.display()
                ));
                Ok(target)
            }
            _ => Ok(target),
        }
    }

    fn xbootldr(&self, place: &Place) -> Result<Target, String> {
        let folder = self.boot.as_ref().ok_or("there is no /boot")?;
        if !folder.explicit && folder.mount.is_none() {
            return Err(format!(
                "{} is not a mount point, so not an extended boot loader partition",
                folder.path.display()
            ));
        }
        match folder.identity(self.system) {
            Some(Ok(identity)) if identity.type_guid != XBOOTLDR_TYPE => Err(format!(
                "{} is on a partition of type {}, not of the extended boot loader type",
                folder.path.display(),
                identity.type_guid
            )),
            Some(Err(why)) => Err(format!(
                "cannot tell whether {} is the extended boot loader partition: {why}",
                folder.path.display()
            )),
            _ => Ok(self.target(TargetKind::Xbootldr, folder, place)),
        }
    }

    /// A partition that is named by its GUID, its label or another type.
    fn other(&self, place: &Place, selector: &Selector) -> Result<Target, String> {
        let mut reasons = Vec::new();
        for (kind, folder) in [(TargetKind::Boot, &self.boot), (TargetKind::Esp, &self.esp)] {
            let Some(folder) = folder else { continue };
            let mut target = self.target(kind, folder, place);
            target.prefix = folder.prefix(kind);
            let shown = folder.path.display();
            if let Some(fstype) = folder.fstype().filter(|t| !READABLE.contains(t)) {
                reasons.push(format!(
                    "{shown} is {fstype}; storage-init reads files on FAT and ext4 only"
                ));
                continue;
            }
            match folder.identity(self.system) {
                Some(Ok(identity)) if identity.matches(selector) => return Ok(target),
                Some(Ok(identity)) => reasons.push(format!(
                    "{shown} is on the partition {} ({:?}, type {})",
                    identity.unique, identity.label, identity.type_guid
                )),
                Some(Err(why)) => reasons.push(format!("{shown}: {why}")),
                // Named by the user, who knows.
                None => {
                    target.notes.push(format!(
                        "whether {shown} is on the partition {selector} was not checked"
                    ));
                    return Ok(target);
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no /boot and no EFI system partition".into());
        }
        Err(reasons.join(", "))
    }
}

impl Folder {
    fn explicit(path: &Path) -> Result<Self, InstallError> {
        let found = fs::canonicalize(path).map_err(|e| InstallError::io("find", path, e))?;
        if !found.is_dir() {
            return Err(InstallError::new(
                ErrorKind::Invalid,
                format!("{} is not a folder", path.display()),
            )
            .with_hint("name the folder on which the partition is mounted"));
        }
        Ok(Self {
            path: found,
            mount: None,
            below: None,
            explicit: true,
        })
    }

    fn found(mounts: &[Mount], path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok().filter(|path| path.is_dir())?;
        // Of several mounts on one point the last is the visible one.
        let mount = |point: &Path| mounts.iter().rev().find(|m| m.point == point).cloned();
        let own = mount(&path);
        let below = match own {
            Some(_) => None,
            None => path.parent().and_then(mount),
        };
        Some(Self {
            mount: own,
            below,
            path,
            explicit: false,
        })
    }

    /// As [`Self::found`], if it is a mount point.
    fn mounted(mounts: &[Mount], path: &Path) -> Option<Self> {
        Self::found(mounts, path).filter(|folder| folder.mount.is_some())
    }

    fn fstype(&self) -> Option<&str> {
        let mount = self.mount.as_ref().or(self.below.as_ref())?;
        Some(&mount.fstype)
    }

    /// The partition that holds the folder; `None` if the user named the folder.
    fn identity(&self, system: &System) -> Option<Identity> {
        if self.explicit {
            return None;
        }
        Some(match self.mount.as_ref().or(self.below.as_ref()) {
            Some(mount) if mount.root == Path::new("/") => system.partition(&mount.device),
            Some(mount) => Err(format!(
                "it is inside the folder {} of a file system, where the plan does not look",
                mount.root.display()
            )),
            None => Err("neither it nor the folder above it is a mount point".into()),
        })
    }

    /// `/boot` where the folder is a part of the root file system.
    fn prefix(&self, kind: TargetKind) -> String {
        let name = self.path.file_name().and_then(|name| name.to_str());
        let same = self.path.parent().is_some_and(|parent| {
            match (fs::metadata(parent), fs::metadata(&self.path)) {
                (Ok(a), Ok(b)) => a.dev() == b.dev(),
                _ => false,
            }
        });
        match name {
            Some(name) if kind == TargetKind::Boot && same && self.mount.is_none() => {
                format!("/{name}")
            }
            _ => String::new(),
        }
    }
}
