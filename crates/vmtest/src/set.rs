//! Built sets: what `initoverlayfs build` makes of a guest's initramfs, and the
//! disk that it boots from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_gpt::{Layout, Uuid};
use serde_json::Value;

use crate::disk::{self, Entry, Partition, fat};
use crate::guest::Guest;
use crate::{Error, command};

/// PARTUUIDs of the disks that are made here.
pub const ESP_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_00e5);
/// See [`ESP_GUID`].
pub const ROOT_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0050);
const DISK_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_00d0);

/// Room on an ESP beside the image, in bytes: tables and folders.
const ESP_SLACK: u64 = 16 << 20;

/// The least size of an ESP, in bytes.
const ESP_LEAST: u64 = 64 << 20;

/// A folder with kernel, mini-initramfs, image and build.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The folder.
    pub dir: PathBuf,
    /// Where the boot looks for the image on its partition; `None` if partitions
    /// are the image.
    pub image_path: Option<String>,
    /// The image.
    pub image: PathBuf,
    /// The UKI, if one was built.
    pub uki: Option<PathBuf>,
}

/// How a set is built.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// The folder with the programs.
    pub dist: &'a Path,
    /// Whose kernel and modules.
    pub guest: &'a Guest,
    /// The initramfs whose files become the image.
    pub initrd: &'a Path,
    /// Which storage drivers: `generic`, or module names.
    pub modules: &'a str,
    /// Further arguments: how the image proves itself, where it lies, a UKI.
    pub options: &'a [&'a str],
}

impl Recipe<'_> {
    /// The command that builds into `dir`, as a user would type it.
    #[must_use]
    pub fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(self.dist.join("initoverlayfs"));
        command
            .arg("build")
            .arg("--initrd")
            .arg(self.initrd)
            .arg("--sysroot")
            .arg(self.guest.tree())
            .args(["--modules", self.modules])
            .args(self.options)
            .arg("--output")
            .arg(dir);
        command
    }

    /// Builds into `dir`, which need not exist.
    ///
    /// # Errors
    /// [`Error::Program`] if the build fails.
    pub fn build(&self, dir: &Path) -> Result<Set, Error> {
        Ok(self.build_with_report(dir)?.0)
    }

    /// As [`Self::build`], with what the program's `--json` says.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_with_report(&self, dir: &Path) -> Result<(Set, Value), Error> {
        let output = command::output(self.command(dir).arg("--json"))?;
        let report = serde_json::from_slice(&output)
            .map_err(|e| Error::Disk(format!("the report of the build: {e}")))?;
        Ok((Set::open(dir)?, report))
    }
}

impl Set {
    /// The set in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Disk`] if its build.json is not understood.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("build.json");
        let bytes = fs::read(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        let manifest: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Disk(format!("{}: {e}", path.display())))?;
        let text = |pointer: &str| {
            let value = manifest.pointer(pointer).and_then(Value::as_str);
            value.map(str::to_owned)
        };
        let image = text("/image/name")
            .ok_or_else(|| Error::Disk(format!("{} names no image", path.display())))?;
        Ok(Self {
            dir: dir.to_owned(),
            image_path: text("/candidates/0/file"),
            image: dir.join(image),
            uki: text("/uki/name").map(|name| dir.join(name)),
        })
    }

    /// The mini-initramfs.
    #[must_use]
    pub fn mini_initramfs(&self) -> PathBuf {
        self.dir.join("mini-initramfs.img")
    }

    /// Makes a disk with the image where the boot looks for it, on an ESP or as
    /// partitions of the disk, and with the guest's root. Its size is a power of
    /// two.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Io`].
    pub fn disk(&self, path: &Path, guest: &Guest, block_size: u32) -> Result<(), Error> {
        self.disk_with(path, guest, block_size, Vec::new())
    }

    /// The same, with these files on the ESP, too.
    ///
    /// # Errors
    /// As [`Self::disk`].
    pub fn disk_with(
        &self,
        path: &Path,
        guest: &Guest,
        block_size: u32,
        mut entries: Vec<Entry>,
    ) -> Result<(), Error> {
        let scratch = tempfile::tempdir_in(path.parent().unwrap_or(Path::new(".")))
            .map_err(Error::io("making a folder"))?;
        let mut partitions = Vec::new();
        match &self.image_path {
            Some(to) => entries.push(Entry::new(to.trim_start_matches('/'), &self.image)),
            None => partitions = taken_apart(&self.image, scratch.path())?,
        }
        if !entries.is_empty() {
            let esp = scratch.path().join("esp");
            let mut size = ESP_SLACK;
            for entry in &entries {
                size += disk::file_size(&entry.from)?;
            }
            let least = u64::from(block_size / 512) * ESP_LEAST;
            let format = fat::Format {
                sector_size: block_size,
                ..fat::Format::new(size.max(least))
            };
            fat::make(&esp, format, &entries)?;
            partitions.insert(0, Partition::esp(ESP_GUID, &esp)?);
        }
        partitions.push(Partition::root(ROOT_GUID, guest.root_image())?);
        // QEMU's SD cards have a power of two; it costs no more than a hole.
        let size = Layout::disk_size_for(partitions.iter().map(|p| p.size), block_size);
        if let Some(last) = partitions.last_mut() {
            last.size += size.next_power_of_two() - size;
        }
        disk::make(path, block_size, DISK_GUID, &partitions)?;
        Ok(())
    }
}

/// The partitions of a disk image, each as one for a disk: type, PARTUUID and
/// name stay.
///
/// # Errors
/// [`Error::Io`]; [`Error::Disk`] if it is no disk image.
pub fn taken_apart(image: &Path, scratch: &Path) -> Result<Vec<Partition>, Error> {
    let bytes = fs::read(image).map_err(Error::io(format!("reading {}", image.display())))?;
    let table = iofs_gpt::Table::read(&bytes[..], 512)
        .map_err(|e| Error::Disk(format!("{}: {e}", image.display())))?;
    let mut partitions = Vec::new();
    for entry in &table.partitions {
        let range = usize::try_from(entry.start)
            .ok()
            .zip(usize::try_from(entry.start + entry.len).ok())
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(|| Error::Disk(format!("{} is truncated", image.display())))?;
        let part = scratch.join(entry.part_guid.to_string());
        fs::write(&part, range).map_err(Error::io(format!("writing {}", part.display())))?;
        partitions.push(Partition::of(
            entry.type_guid,
            entry.part_guid,
            &entry.name,
            part,
        )?);
    }
    Ok(partitions)
}
