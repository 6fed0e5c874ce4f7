//! Step 4, one candidate on one partition: is the image there, whole, and the
//! one that the plan was built with?
//!
//! No file system is mounted for that. FAT and ext4 are read by the format
//! crates, which are safe Rust and bounded, and all that comes out is where the
//! file's bytes lie.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_erofs::Superblock;
use iofs_ext4::Ext4;
use iofs_fat::Fat;
use iofs_plan::{Candidate, Expect, Uuid};
use iofs_source::{FileMap, Limited, Mapped, ReadAt};
use kernel_abi::block::Device;

use crate::disks::{Part, open_partition};
use crate::paths::Paths;
use crate::report::join;

/// How much metadata of a boot partition may be read to find one file, in
/// bytes. A FAT32 allocation table of 2 TiB has 256 MiB, of which a file's chain
/// touches a small part.
const METADATA_LIMIT: u64 = 64 << 20;

/// An image that was found.
#[derive(Debug)]
pub struct Found {
    /// The candidate that led to it.
    pub candidate: Candidate,
    /// The partition that it is on.
    pub part: Part,
    /// That partition, open.
    pub device: Device,
    /// Where on the partition it lies.
    pub place: Place,
    /// Its EROFS UUID.
    pub uuid: Uuid,
    /// The size of its file system in bytes.
    pub size: u64,
}

/// Where on its partition an image lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is the partition.
    Partition,
    /// In a file.
    File(FileMap),
}

impl Found {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let size = self.size >> 10;
        match (&self.place, &self.candidate.file) {
            (Place::File(map), Some(path)) => format!(
                "{path} on /dev/{}, {size} KiB in {} extent{}",
                self.part.name,
                map.extents.len(),
                if map.extents.len() == 1 { "" } else { "s" }
            ),
            _ => format!("/dev/{}, {size} KiB", self.part.name),
        }
    }
}

/// Looks at a candidate on a partition that its selector means.
///
/// # Errors
/// Why it is not the image, as a sentence without the partition's name.
pub fn examine(candidate: &Candidate, part: &Part, paths: &Paths) -> Result<Found, String> {
    let device = open_partition(part, paths)?;
    let (place, Expect { uuid, size }) = match &candidate.file {
        None => (
            Place::Partition,
            check(&device, candidate.expect, "the partition")?,
        ),
        Some(path) => {
            let map = locate(&device, path)?;
            map.check(device.size(), part.block_size.into())
                .map_err(|error| format!("{path}: {error}"))?;
            let found = check(&Mapped::new(&device, &map), candidate.expect, path)?;
            (Place::File(map), found)
        }
    };
    Ok(Found {
        candidate: candidate.clone(),
        part: part.clone(),
        device,
        place,
        uuid,
        size,
    })
}

/// Finds a file on a FAT or ext4 partition.
fn locate(device: &Device, path: &str) -> Result<FileMap, String> {
    let limited = Limited::new(device, METADATA_LIMIT);
    if is_ext4(device) {
        Ext4::open(&limited)
            .and_then(|volume| volume.locate(path))
            .map_err(|error| format!("ext4: {error}"))
    } else {
        Fat::open(&limited)
            .and_then(|volume| volume.locate(path))
            .map_err(|error| format!("FAT: {error}"))
    }
}

/// The magic of ext2, ext3 and ext4, at 0x38 of the superblock at 1024.
fn is_ext4(device: &Device) -> bool {
    let mut magic = [0; 2];
    device.read_at(1024 + 0x38, &mut magic).is_ok() && magic == [0x53, 0xef]
}

/// Reads the image's superblock and compares it with what the plan expects.
/// Returns what it is.
fn check(image: &dyn ReadAt, expect: Expect, what: &str) -> Result<Expect, String> {
    let superblock = Superblock::read(image)
        .map_err(|error| format!("{what} is not an EROFS image: {error}"))?;
    let (uuid, size) = (superblock.uuid, superblock.size_bytes());
    if size > image.size() {
        return Err(format!(
            "{what} is truncated: its file system has {size} bytes, but only {} are there; \
             copy it again",
            image.size()
        ));
    }
    let mut differences = Vec::new();
    if !expect.uuid.is_nil() && uuid != expect.uuid {
        differences.push(format!("UUID {uuid} instead of {}", expect.uuid));
    }
    if expect.size != 0 && size != expect.size {
        differences.push(format!("{size} bytes instead of {}", expect.size));
    }
    if differences.is_empty() {
        Ok(Expect { uuid, size })
    } else {
        Err(format!(
            "{what} is not the image that this boot plan was built with: {}; install both \
             from one build",
            join(&mut differences.into_iter(), ", ")
        ))
    }
}
