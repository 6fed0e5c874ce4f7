//! Images in memory: packed into the mini-initramfs, or where firmware or boot loader
//! have put them.
//!
//! An image in the mini-initramfs is a file of the rootfs. A loop device over it is
//! all that keeps it once the rootfs has been emptied, so it goes when the image does.
//!
//! An image that the loader has put somewhere is a block device of its own
//! (`memmap=nn!ss`, drivers nd_e820 and nd_pmem). With DAX its pages are used where
//! they lie. dm-verity cannot do that, so every block is proven before, once: nobody
//! but root can write there, and root can do worse.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use iofs_gpt::Partition;
use iofs_plan::{Candidate, Selector, Uuid};
use iofs_source::{FileMap, ReadAt};
use kernel_abi::block::Device;
use kernel_abi::file;

use crate::disks::{Inventory, Part};
use crate::paths::Paths;
use crate::trust::Proof;

/// How the kernel names such devices: `pmem0`.
const PMEM: &str = "pmem";

/// A block of the loop device over an image in the mini-initramfs, in bytes.
const BLOCK_SIZE: u32 = 512;

/// The greatest size of a mount table that is read, in bytes.
const MAX_MOUNTINFO: usize = 1 << 20;

/// Whether a candidate is in memory: no firmware booted from there.
#[must_use]
pub fn is_memory(selector: &Selector) -> bool {
    matches!(selector, Selector::Pmem { .. } | Selector::Embedded)
}

/// Whether a candidate's pages are to be used where they lie.
#[must_use]
pub fn wants_dax(candidate: &Candidate) -> bool {
    candidate.partition == Selector::Pmem { dax: true }
}

/// The devices in memory, whole.
#[must_use]
pub fn devices(inventory: &Inventory) -> Vec<Part> {
    let disks = inventory.disks.iter();
    disks
        .filter(|disk| disk.name.starts_with(PMEM))
        .map(|disk| Part {
            name: disk.name.clone(),
            disk: disk.name.clone(),
            block_size: disk.block_size,
            entry: whole_entry(disk.size),
        })
        .collect()
}

/// The image in the mini-initramfs, as a part of no disk, whether it is there or not.
#[must_use]
pub fn embedded(paths: &Paths) -> Part {
    let len = Device::open(&paths.embedded).map_or(0, |file| file.size());
    Part {
        name: paths.embedded.clone(),
        disk: String::new(),
        block_size: BLOCK_SIZE,
        entry: whole_entry(len),
    }
}

fn whole_entry(len: u64) -> Partition {
    Partition {
        number: 0,
        type_guid: Uuid::nil(),
        part_guid: Uuid::nil(),
        start: 0,
        len,
        attributes: 0,
        name: String::new(),
    }
}

/// A whole device or file as a file in one piece.
///
/// # Errors
/// If it has more bytes than there are offsets.
pub fn one_piece(len: u64) -> Result<FileMap, String> {
    let mut map = FileMap {
        size: len,
        extents: vec![],
    };
    map.push(0, len).map_err(|error| error.to_string())?;
    Ok(map)
}

/// Proves every block of an image, where nothing proves them when they are read.
///
/// # Errors
/// Which is not the one that was proven, as a sentence.
pub fn prove(source: &dyn ReadAt, proof: &mut Proof) -> Result<(), String> {
    proof
        .ddi
        .verify(source, &proof.trees.root, |_| {})
        .map_err(|error| format!("the image is not a trusted image: {error}"))?;
    proof.reason.push_str("; every block is proven");
    Ok(())
}

/// Whether the file system mounted at `point` uses pages where they lie: the kernel
/// mounts it all the same where it cannot.
#[must_use]
pub fn has_dax(point: &str) -> bool {
    let table = file::read("/proc/self/mountinfo", MAX_MOUNTINFO).unwrap_or_default();
    core::str::from_utf8(&table).is_ok_and(|table| mounted_with_dax(table, point))
}

fn mounted_with_dax(table: &str, point: &str) -> bool {
    // proc_pid_mountinfo(5): the mount point is the fifth field, the options of the
    // file system are the last.
    table.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(4) == Some(point)
            && fields
                .next_back()
                .is_some_and(|options| options.split(',').any(|option| option == "dax=always"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::tests::fake_system;

    #[test]
    fn a_device_in_memory_is_taken_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "pmem0", b"");
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        let dax = Selector::Pmem { dax: true };
        let [part] = &inventory.matching(&dax, &paths)[..] else {
            panic!("{:?}", inventory.matching(&dax, &paths));
        };
        assert_eq!((part.name.as_str(), part.entry.start), ("pmem0", 0));
        assert_eq!(part.entry.len, inventory.disks[0].size);
        assert_eq!(part.place(), "on /dev/pmem0");
    }

    #[test]
    fn disks_are_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", b"");
        let mut inventory = Inventory::default();
        inventory.refresh(&paths);
        let plain = Selector::Pmem { dax: false };
        assert!(inventory.matching(&plain, &paths).is_empty());
    }

    #[test]
    fn the_embedded_image_is_a_part_of_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = fake_system(dir.path(), "sda", b"");
        paths.embedded = dir.path().join("image.raw").to_str().unwrap().into();
        let part = embedded(&paths);
        assert_eq!(
            (part.entry.len, part.device()),
            (0, "the mini-initramfs".into())
        );
        assert!(crate::disks::open_partition(&part, &paths).is_err());
        std::fs::write(&paths.embedded, [7; 1024]).unwrap();
        let part = embedded(&paths);
        assert_eq!(part.entry.len, 1024);
        assert_eq!(part.place(), "in the mini-initramfs");
        assert_eq!(
            crate::disks::open_partition(&part, &paths).unwrap().size(),
            1024
        );
    }

    #[test]
    fn the_mount_table_tells_of_dax() {
        let table = "22 1 0:1 / / rw - rootfs rootfs rw\n\
            30 22 259:1 / /initoverlayfs/image ro,noatime - erofs /dev/dm-0 ro,user_xattr,dax=always\n\
            31 22 259:1 / /other ro - erofs /dev/dm-0 ro,dax=always2\n";
        assert!(mounted_with_dax(table, "/initoverlayfs/image"));
        assert!(!mounted_with_dax(table, "/other"));
        assert!(!mounted_with_dax(table, "/"));
    }
}
