//! The image that was booted.

use std::fs;
use std::path::{Path, PathBuf};

use ddi::{Arch, Ddi};
use installer::FileSource;
use iofs_erofs::Superblock;
use iofs_source::{ReadAt, Window};

use super::{Record, boot_json, device};
use crate::error::{CliError, Result};

/// Files and devices that may be it.
#[derive(Debug)]
pub(super) struct Places(Vec<PathBuf>);

/// Where it may be: `given`, else the device that the kernel still has, the file
/// on its partition where that is mounted, and the partition.
pub(super) fn find(given: Option<&Path>, record: &Path, of: &Record) -> Result<Places> {
    if let Some(given) = given {
        return Ok(Places(vec![given.to_owned()]));
    }
    let mut places = Vec::new();
    if let Some((major, minor)) = device(&of.block_dev) {
        places.push(PathBuf::from(format!("/dev/block/{major}:{minor}")));
    }
    let boot = boot_json(record);
    let text = fs::read_to_string(&boot).map_err(|source| CliError::io("read", &boot, source))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| CliError::new(format!("{}: {error}", boot.display())))?;
    let text = |pointer: &str| json.pointer(pointer)?.as_str().map(str::to_owned);
    let partition = text("/image/partition").filter(|path| path.starts_with("/dev/"));
    let file = text("/image/file");
    if let (Some(partition), Some(file)) = (&partition, &file) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let relative = file.trim_start_matches('/');
        places.extend(mount_points(&mounts, partition).map(|at| at.join(relative)));
    }
    if let (Some(partition), None) = (partition, file) {
        places.push(partition.into());
    }
    Ok(Places(places))
}

/// Where a device is mounted, by /proc/self/mounts. Names with blanks are escaped
/// there; those that systems mount a boot partition on have none.
fn mount_points<'a>(mounts: &'a str, device: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let source = words.next()?;
        let at = words.next()?;
        (source == device).then(|| PathBuf::from(at))
    })
}

impl Places {
    /// Does `work` on the file system with this UUID.
    pub(super) fn with<T>(
        &self,
        uuid: &str,
        work: impl FnOnce(&dyn ReadAt) -> Result<T>,
    ) -> Result<T> {
        let mut seen = Vec::new();
        for path in &self.0 {
            let file = match FileSource::open(path) {
                Ok(file) => file,
                Err(error) => {
                    seen.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            match of_uuid(&file, uuid) {
                Ok(Some((start, len))) => {
                    let window = Window::new(&file, start, len)
                        .map_err(|error| CliError::new("the image cannot be read").source(error))?;
                    return work(&window);
                }
                Ok(None) => seen.push(format!("{}: another image", path.display())),
                Err(why) => seen.push(format!("{}: {why}", path.display())),
            }
        }
        let found = match seen.is_empty() {
            true => "it was in no file or partition that is there now".to_owned(),
            false => seen.join("; "),
        };
        Err(
            CliError::new(format!("the image with UUID {uuid} cannot be found"))
                .source(found)
                .hint("name it with --image"),
        )
    }
}

/// The window of the file system, bare or in a disk image, if it has this UUID.
fn of_uuid(file: &FileSource, uuid: &str) -> std::result::Result<Option<(u64, u64)>, String> {
    let (start, len) = match Ddi::read(file, Arch::NATIVE) {
        Ok(image) => (image.root.start, image.root.len),
        Err(_) => (0, file.size()),
    };
    let window = Window::new(file, start, len).map_err(|error| error.to_string())?;
    let superblock = Superblock::read(&window).map_err(|error| error.to_string())?;
    let same = superblock.uuid.to_string().eq_ignore_ascii_case(uuid);
    Ok(same.then_some((start, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_device() {
        let mounts = "/dev/sda1 /efi vfat rw 0 0\n/dev/sda10 /x ext4 rw 0 0\n\
                      tmpfs /run tmpfs rw 0 0\n/dev/sda1 /boot/efi vfat rw 0 0\nodd\n";
        let found: Vec<_> = mount_points(mounts, "/dev/sda1").collect();
        assert_eq!(found, [Path::new("/efi"), Path::new("/boot/efi")]);
    }
}
