//! What the disks of this machine hang on, read from sysfs.
//!
//! Documentation/ABI/testing/sysfs-block and sysfs-bus-pci: a block device's
//! folder lies inside its parents'; a `modalias` file there is what the driver
//! was found by, `driver/module` is the driver's module if it has one, `slaves`
//! holds what a stacked device stands on.

use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How deep stacked devices (partition on LVM on RAID ...) may stand on each
/// other.
const MAX_DEPTH: usize = 16;

/// The greatest length of a sysfs attribute, in bytes: a page.
const MAX_ATTRIBUTE: usize = 4096;

/// A device on the way to a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    /// Its folder under sysfs, for messages.
    pub(crate) device: PathBuf,
    /// What it announces itself by.
    pub(crate) modalias: Option<String>,
    /// The module of the driver that it has on this machine.
    pub(crate) module: Option<String>,
}

/// Every device between the block devices `names` and the machine, disks first.
pub(crate) fn chain(sysfs: &Path, names: &[String]) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{name:?} is no block device's name (such as vda1)"),
            ));
        }
        let folder = sysfs.join("class/block").join(name);
        let folder = folder.canonicalize().map_err(|source| {
            Error::new(
                ErrorKind::Usage,
                format!("there is no block device {name} in {}", sysfs.display()),
            )
            .source(source)
        })?;
        let root = sysfs.canonicalize().map_err(Error::io("opening", sysfs))?;
        walk(&root, &folder, MAX_DEPTH, &mut seen, &mut links)?;
    }
    Ok(links)
}

fn walk(
    root: &Path,
    device: &Path,
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    links: &mut Vec<Link>,
) -> Result<()> {
    if depth == 0 {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{} stands on too many devices", device.display()),
        ));
    }
    for folder in device.ancestors() {
        if folder == root || !folder.starts_with(root) {
            break;
        }
        if !seen.insert(folder.to_owned()) {
            continue;
        }
        let modalias = attribute(&folder.join("modalias"));
        let module = folder
            .join("driver/module")
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        if modalias.is_some() || module.is_some() {
            links.push(Link {
                device: folder.strip_prefix(root).unwrap_or(folder).to_owned(),
                modalias,
                module,
            });
        }
        for below in below(folder) {
            if below.starts_with(root) {
                walk(root, &below, depth - 1, seen, links)?;
            }
        }
    }
    Ok(())
}

/// What `folder` stands on other than its parents: the slaves of a stacked
/// device, the controllers of an NVMe subsystem (with native multipath its
/// disks belong to no controller).
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = list(&folder.join("slaves"));
    let subsystem = folder
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name == "nvme-subsystem");
    if subsystem {
        found.extend(list(folder).into_iter().filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str()?.strip_prefix("nvme"))
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        }));
    }
    found
}

/// The symbolic links in a folder, resolved, in order.
fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter_map(|entry| entry.path().canonicalize().ok())
        .collect();
    paths.sort();
    paths
}

fn attribute(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim_end();
    (!text.is_empty() && text.len() <= MAX_ATTRIBUTE).then(|| text.to_owned())
}

/// The modules that drive the devices between the block device `name` and the
/// machine, what is nearest to the machine first, each once.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is no such block device.
pub fn drivers_of(sysfs: &Path, name: &str) -> Result<Vec<String>> {
    let links = chain(sysfs, &[name.to_owned()])?;
    let mut modules: Vec<String> = Vec::new();
    for module in links.into_iter().rev().filter_map(|link| link.module) {
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    Ok(modules)
}

/// The block devices under this machine's boot partition: what is mounted on
/// the first of /efi, /boot/efi and /boot that is a mount point, else on /.
/// Kernel names, as [`crate::HostDisks::devices`] takes them. Of a file system
/// over several devices, the one that it was mounted by.
///
/// # Errors
/// [`ErrorKind::Usage`] if what is mounted there is on no block device.
pub fn boot_disks(sysfs: &Path) -> Result<Vec<String>> {
    let root = Path::new("/");
    let device = |place: &Path| {
        let meta = place.metadata().map_err(Error::io("looking at", place))?;
        Ok(meta.dev())
    };
    let root_device: u64 = device(root)?;
    let place = ["/efi", "/boot/efi", "/boot"]
        .into_iter()
        .map(Path::new)
        .find(|place| device(place).is_ok_and(|device| device != root_device))
        .unwrap_or(root);
    let number = device(place)?;
    let name = name_of(sysfs, number).or_else(|| {
        // Btrfs has a device number of its own.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let source = Path::new(mount_source(&mounts, place.to_str()?)?)
            .metadata()
            .ok()?;
        name_of(sysfs, source.rdev())
    });
    match name {
        Some(name) => Ok(vec![name]),
        None => Err(Error::new(
            ErrorKind::Usage,
            format!("{} lies on no block device", place.display()),
        )
        .hint("Name the drivers, or take every storage driver.")),
    }
}

/// The kernel's name of the block device with this number.
fn name_of(sysfs: &Path, number: u64) -> Option<String> {
    let number = format!(
        "{}:{}",
        rustix::fs::major(number),
        rustix::fs::minor(number)
    );
    let folder = sysfs.join("dev/block").join(number).canonicalize().ok()?;
    Some(folder.file_name()?.to_str()?.to_owned())
}

/// What is mounted on `place`, by proc_pid_mountinfo(5): the last such line
/// counts; the source is the second field after the separator.
fn mount_source<'m>(mountinfo: &'m str, place: &str) -> Option<&'m str> {
    mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(place))?
        .split_once(" - ")?
        .1
        .split(' ')
        .nth(1)
}

#[cfg(test)]
mod tests {
    use super::mount_source;

    #[test]
    fn the_last_mount_on_a_place_counts() {
        let mounts = "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                      30 27 0:30 /@boot /boot rw shared:2 master:3 - btrfs /dev/sda2 rw,subvol=/@boot\n\
                      31 30 0:31 / /boot rw - btrfs /dev/sdb2 rw\n";
        assert_eq!(mount_source(mounts, "/"), Some("/dev/vda"));
        assert_eq!(mount_source(mounts, "/boot"), Some("/dev/sdb2"));
        assert_eq!(mount_source(mounts, "/efi"), None);
    }
}
