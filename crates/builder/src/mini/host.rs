//! What the disks of this machine hang on, read from sysfs.
//!
//! Documentation/ABI/testing/sysfs-block and sysfs-bus-pci: a block device's
//! folder lies inside its parents'; a `modalias` file there is what the driver
//! was found by, `driver/module` is the driver's module if it has one, `slaves`
//! holds what a stacked device stands on.

use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
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

/// The block devices under this machine's boot partition: what is mounted on
/// the first of /efi, /boot/efi and /boot that is a mount point, else on /.
/// Kernel names, as [`crate::HostDisks::devices`] takes them.
///
/// # Errors
/// [`ErrorKind::Usage`] if what is mounted there is on no block device.
pub fn boot_disks(sysfs: &Path) -> Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    let root = Path::new("/");
    let root_dev = root
        .metadata()
        .map_err(Error::io("looking at", root))?
        .dev();
    let place = ["/efi", "/boot/efi", "/boot"]
        .into_iter()
        .map(Path::new)
        .find(|place| place.metadata().is_ok_and(|meta| meta.dev() != root_dev))
        .unwrap_or(root);
    let dev = place
        .metadata()
        .map_err(Error::io("looking at", place))?
        .dev();
    let number = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let name = sysfs
        .join("dev/block")
        .join(&number)
        .canonicalize()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    match name {
        Some(name) => Ok(vec![name]),
        None => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "{} lies on no block device of its own (device number {number})",
                place.display()
            ),
        )
        .hint("Name the drivers, or take every storage driver.")),
    }
}
