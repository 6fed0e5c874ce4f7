//! Boot partitions with file systems that storage-init does not read itself.
//!
//! XFS and btrfs are read by the kernel, where the plan allows it: code that was
//! not written for hostile media gets one to read before anything is proven. The
//! mount is read-only, by no user's right, and no longer than it takes to learn
//! where the image's file lies. XFS says so. btrfs does not (its addresses go
//! through a tree of their own), so the file itself stays open, and the file
//! system in use, until the image is let go.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use iofs_source::{FileMap, FileMapError, ReadAt};
use kernel_abi::block::Device;
use kernel_abi::mount::{self, Flags};
use kernel_abi::{AsFd, OwnedFd, fiemap, file};

use crate::log::Log;
use crate::modules::Loader;

/// Where the boot partition is mounted meanwhile, in the mini-initramfs.
const MOUNT_POINT: &str = "/initoverlayfs/boot";

/// Magic numbers of file systems that only the kernel reads: name, offset in
/// bytes, bytes.
const MAGICS: [(&str, u64, &[u8]); 2] = [("xfs", 0, b"XFSB"), ("btrfs", 0x1_0040, b"_BHRfS_M")];

/// The file system on a partition, if it is one that only the kernel reads.
#[must_use]
pub fn kind(device: &Device) -> Option<&'static str> {
    MAGICS
        .iter()
        .find(|(_, at, magic)| {
            let mut found = vec![0; magic.len()];
            device.read_at(*at, &mut found).is_ok() && found == *magic
        })
        .map(|(name, ..)| *name)
}

/// Finds the file `path` on a partition of file system `kind`: the device that
/// has its bytes, and where.
///
/// # Errors
/// Why not, as a sentence; if `allowed` does not have the file system, that.
pub fn locate(
    device: Device,
    kind: &str,
    path: &str,
    allowed: &[String],
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(Device, FileMap), String> {
    if !allowed.iter().any(|name| name == kind) {
        return Err(format!(
            "it has {kind}, which only the kernel can read, and the boot plan does not allow \
             that; put the image on FAT or ext4, or build with --kernel-mount {kind}"
        ));
    }
    modules.load_named(kind, log);
    file::mkdir(MOUNT_POINT).map_err(|error| format!("{error}"))?;
    let flags = Flags::RDONLY | Flags::NOSUID | Flags::NODEV | Flags::NOEXEC;
    // A copy of a disk has the same UUID, and XFS would refuse the second.
    let options = if kind == "xfs" { "nouuid" } else { "" };
    mount::mount(device.path(), MOUNT_POINT, kind, flags, options)
        .map_err(|error| format!("{kind}: {error}"))?;
    let found = if kind == "btrfs" {
        whole(path)
    } else {
        map(path).map(|map| (device, map))
    };
    if let Err(error) = mount::detach(MOUNT_POINT) {
        log.warn(format_args!("{error}"));
    }
    found.map_err(|why| format!("{kind}: {why}"))
}

/// Opens the file of the mounted partition that `path` names; no link leads out
/// of it.
fn open(path: &str) -> Result<OwnedFd, String> {
    match file::open_file_inside(MOUNT_POINT, path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(format!("{path}: no such file")),
        Err(error) => Err(format!("{error}")),
    }
}

/// Where on the partition the file lies.
fn map(path: &str) -> Result<FileMap, String> {
    let (size, runs) = fiemap::runs(open(path)?.as_fd(), path, FileMap::MAX_EXTENTS)
        .map_err(|error| format!("{error}"))?;
    let mut map = FileMap {
        size,
        extents: vec![],
    };
    let mut at = 0u64;
    for run in runs {
        if run.logical != at {
            return Err(format!("{path}: {}", FileMapError::Hole { at }));
        }
        at = at.saturating_add(run.len);
        map.push(run.physical, run.len)
            .map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(map)
}

/// The file itself as the device.
fn whole(path: &str) -> Result<(Device, FileMap), String> {
    let file = Device::from_fd(open(path)?, path).map_err(|error| format!("{error}"))?;
    let mut map = FileMap {
        size: file.size(),
        extents: vec![],
    };
    map.push(0, file.size())
        .map_err(|error| format!("{path}: {error}"))?;
    Ok((file, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_by_their_magic() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |bytes: &[u8]| {
            let path = dir.path().join("device");
            std::fs::write(&path, bytes).unwrap();
            super::kind(&Device::open(path.to_str().unwrap()).unwrap())
        };
        let mut disk = vec![0; 1 << 17];
        assert_eq!(kind(&disk), None);
        disk[..4].copy_from_slice(b"XFSB");
        assert_eq!(kind(&disk), Some("xfs"));
        disk[..4].fill(0);
        disk[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
        assert_eq!(kind(&disk), Some("btrfs"));
        assert_eq!(kind(b"XFS"), None);
    }
}
