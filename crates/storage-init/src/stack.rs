//! Step 6 of the design: the block device that is exactly the image.
//!
//! A partition is used as it is. A file becomes a loop device over the part of
//! its partition that the file spans: read-only, direct I/O (so its blocks are
//! cached once), claiming nothing, so that the partition can be mounted later.
//! If the file is in several extents, device-mapper puts them in order on top.
//! The loop device begins at the file and not at the partition: a copy of the
//! whole ESP with the same file system UUID would let udev point
//! `/dev/disk/by-uuid` at it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_source::{Extent, FileMap};
use kernel_abi::dm::{Mapped, Mapper, SECTOR, Target};
use kernel_abi::loopdev::{self, Loop};
use kernel_abi::{AsFd, block, file};

use crate::image::{Found, Place};
use crate::log::Log;
use crate::modules::Loader;
use crate::report::Failure;

/// The name of the mapped device.
pub const NAME: &str = "initoverlayfs-image";

/// The image as a block device.
#[derive(Debug)]
pub struct ImageDevice {
    /// Its path.
    pub path: String,
    /// The loop device below it, held until the mount holds it.
    pub loop_device: Option<Loop>,
    /// The mapped device, if it is one.
    pub mapped: Option<Mapped>,
}

impl ImageDevice {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.mapped, &self.loop_device) {
            (Some(mapped), Some(lower)) => {
                format!("{} (dm-linear over {})", mapped.path, lower.path)
            }
            (None, Some(lower)) => format!("{} (loop, direct I/O)", lower.path),
            _ => self.path.clone(),
        }
    }
}

/// Builds it.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn build(
    found: &Found,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<ImageDevice, Failure> {
    let Place::File(map) = &found.place else {
        return Ok(ImageDevice {
            path: found.device.path().into(),
            loop_device: None,
            mapped: None,
        });
    };
    let extents = covering(map, found.size);
    let (start, end) = span(&extents);
    if !file::exists("/dev/loop-control") {
        modules.load_named("loop", log);
    }
    let lower = loopdev::attach(
        found.device.as_fd(),
        found.device.path(),
        start,
        end.saturating_sub(start),
        found.part.block_size,
    )?;
    if extents.len() < 2 {
        return Ok(ImageDevice {
            path: lower.path.clone(),
            loop_device: Some(lower),
            mapped: None,
        });
    }
    if !file::exists("/dev/mapper/control") {
        modules.load_named("dm_mod", log);
    }
    let (major, minor) = block::device_number(&lower.path)?;
    let table = linear_table(&extents, start, &format!("{major}:{minor}"));
    let uuid = format!("initoverlayfs-{}", found.uuid);
    let mapped = Mapper::open().and_then(|mapper| mapper.create(NAME, &uuid, &table))?;
    Ok(ImageDevice {
        path: mapped.path.clone(),
        loop_device: Some(lower),
        mapped: Some(mapped),
    })
}

/// The extents that hold the first `size` bytes, the last one cut to whole
/// sectors: what lies behind the file system in the file is not mapped.
fn covering(map: &FileMap, size: u64) -> Vec<Extent> {
    let size = size.next_multiple_of(SECTOR);
    map.extents
        .iter()
        .filter(|extent| extent.logical < size)
        .map(|extent| Extent {
            len: extent.len.min(size - extent.logical),
            ..*extent
        })
        .collect()
}

/// The least range of the volume that holds all extents, as start and end.
fn span(extents: &[Extent]) -> (u64, u64) {
    let start = extents.iter().map(|extent| extent.physical).min();
    let end = extents
        .iter()
        .map(|extent| extent.physical.saturating_add(extent.len))
        .max();
    (start.unwrap_or(0), end.unwrap_or(0))
}

/// A dm-linear table of the extents on a device that begins at `start`.
fn linear_table(extents: &[Extent], start: u64, device: &str) -> Vec<Target> {
    extents
        .iter()
        .map(|extent| Target {
            start: extent.logical / SECTOR,
            len: extent.len / SECTOR,
            kind: "linear".into(),
            params: format!(
                "{device} {}",
                extent.physical.saturating_sub(start) / SECTOR
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn map(size: u64, runs: &[(u64, u64)]) -> FileMap {
        let mut map = FileMap {
            size,
            extents: vec![],
        };
        for &(physical, len) in runs {
            map.push(physical, len).unwrap();
        }
        map
    }

    #[test]
    fn a_table_has_the_file_in_order_relative_to_its_span() {
        let map = map(20_000, &[(65_536, 8192), (8192, 8192), (131_072, 4096)]);
        let extents = covering(&map, 16_384 + 1024);
        let (start, end) = span(&extents);
        assert_eq!((start, end), (8192, 131_072 + 1024));
        let table = linear_table(&extents, start, "7:3");
        let lines: Vec<_> = table
            .iter()
            .map(|t| format!("{} {} {} {}", t.start, t.len, t.kind, t.params))
            .collect();
        assert_eq!(
            lines,
            [
                "0 16 linear 7:3 112",
                "16 16 linear 7:3 0",
                "32 2 linear 7:3 240"
            ]
        );
    }

    #[test]
    fn what_follows_the_file_system_is_not_mapped() {
        let map = map(12_288, &[(4096, 4096), (16_384, 4096), (32_768, 4096)]);
        let extents = covering(&map, 8192);
        assert_eq!(extents.len(), 2);
        assert_eq!(span(&extents), (4096, 20_480));
    }
}
