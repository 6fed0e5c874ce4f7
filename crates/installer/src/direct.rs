//! Whether this machine's root can be booted without the image.
//!
//! storage-init finds that out at every boot, and the image comes up where it
//! cannot. Where it is known beforehand, the entry says so and no boot waits for it.

use std::fs;
use std::path::Path;

use iofs_cmdline::{Cmdline, RootWords};

use crate::system::System;

/// The word that brings the image up.
pub(crate) const THROUGH_IMAGE: &str = "initoverlayfs.mode=initrd";

/// What is mounted as the root, if storage-init can mount it; else why not.
/// `kinds` are the file systems that the set was built for; `cmdline` is what boots get.
pub(crate) fn assess(system: &System, kinds: &[String], cmdline: &str) -> Result<String, String> {
    let words = RootWords::from_cmdline(&Cmdline::parse(cmdline));
    if let Some(word) = &words.for_initrd {
        return Err(format!(
            "{word} on the kernel command line asks for an initrd"
        ));
    }
    let mounts = system
        .mounts()
        .map_err(|error| format!("the mount table cannot be read: {error}"))?;
    let at = |point: &str| {
        let mut mounts = mounts.iter().rev();
        mounts.find(|mount| mount.point == Path::new(point))
    };
    let root = at("/").ok_or("the mount table has no root")?;
    let named = words.usr.hash.or(words.usr.source).is_some();
    if at("/usr").is_some() && !named {
        return Err(
            "/usr is a file system of its own, and the kernel command line has neither usrhash= \
             nor mount.usr="
                .into(),
        );
    }
    let kind = match root.fstype.as_str() {
        "ext2" | "ext3" => "ext4",
        kind => kind,
    };
    if !kinds.iter().any(|known| known == kind) {
        return Err(format!(
            "the root has {kind}, and the set was built for {}",
            kinds.join(", ")
        ));
    }
    // A file system that can span devices has a number of its own, and its source
    // names one of them.
    let link = match root.device.starts_with("0:") {
        true => {
            let name = Path::new(&root.source).file_name().unwrap_or_default();
            system.sys.join("class/block").join(name)
        }
        false => system.sys.join("dev/block").join(&root.device),
    };
    let device = fs::canonicalize(&link)
        .map_err(|error| format!("its device is not known ({}: {error})", link.display()))?;
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    if device
        .components()
        .any(|part| part.as_os_str() == "virtual")
    {
        return Err(format!(
            "the root is on /dev/{name}, which user space has to open or assemble"
        ));
    }
    Ok(format!("{kind} on /dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine whose root is on the device with this path below /sys/devices.
    fn machine(dir: &Path, device: &str, mounts: &str) -> System {
        let system = System {
            proc: dir.join("proc"),
            sys: dir.join("sys"),
            ..System::default()
        };
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        fs::write(dir.join("proc/self/mountinfo"), mounts).unwrap();
        let target = dir.join("sys/devices").join(device);
        fs::create_dir_all(&target).unwrap();
        for folder in ["dev/block", "class/block"] {
            fs::create_dir_all(dir.join("sys").join(folder)).unwrap();
        }
        symlink(&target, dir.join("sys/dev/block/8:2")).unwrap();
        let name = target.file_name().unwrap();
        symlink(&target, dir.join("sys/class/block").join(name)).unwrap();
        system
    }

    #[test]
    fn a_plain_partition_is_simple() {
        let kinds = ["ext4".to_owned(), "btrfs".to_owned()];
        for (device, mounts, expected) in [
            (
                "pci0/ata1/block/sda/sda2",
                "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n",
                Ok("ext4 on /dev/sda2"),
            ),
            (
                "pci0/ata1/block/sda/sda2",
                "1 0 0:25 /@ / rw - btrfs /dev/sda2 rw\n",
                Ok("btrfs on /dev/sda2"),
            ),
            (
                "virtual/block/dm-0",
                "1 0 8:2 / / rw - ext4 /dev/mapper/root rw\n",
                Err("/dev/dm-0, which user space has to open"),
            ),
            (
                "pci0/block/sda/sda2",
                "1 0 8:2 / / rw - xfs /dev/sda2 rw\n",
                Err("has xfs, and the set was built for ext4, btrfs"),
            ),
            (
                "pci0/block/sda/sda2",
                "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n2 1 8:3 / /usr rw - ext4 /dev/sda3 rw\n",
                Err("/usr is a file system of its own"),
            ),
            (
                "pci0/block/sda/sda2",
                "1 0 8:9 / / rw - ext4 /dev/sda9 rw\n",
                Err("its device is not known"),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let system = machine(dir.path(), device, mounts);
            match (assess(&system, &kinds, "quiet"), expected) {
                (Ok(what), Ok(expected)) => assert_eq!(what, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, _) => panic!("{mounts}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_command_line_has_a_say() {
        let kinds = ["ext4".to_owned()];
        let dir = tempfile::tempdir().unwrap();
        let mounts =
            "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n2 1 254:0 / /usr rw - erofs /dev/dm-0 ro\n";
        let system = machine(dir.path(), "pci0/block/sda/sda2", mounts);
        for named in ["mount.usr=LABEL=usr", "usrhash=ab"] {
            let root = assess(&system, &kinds, named);
            assert_eq!(root, Ok("ext4 on /dev/sda2".to_owned()));
        }
        let why = assess(&system, &kinds, "usrhash=ab resume=LABEL=swap");
        assert!(why.unwrap_err().starts_with("resume on"));
    }
}
