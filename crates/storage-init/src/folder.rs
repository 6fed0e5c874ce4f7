//! What a folder of a boot partition lists, as far as somebody asks for it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::ControlFlow;

use iofs_bls::compare_versions;
use iofs_ext4::{EntryKind, Ext4, Ext4Error};
use iofs_fat::{Fat, FatError};
use iofs_source::{FileMap, Limited};
use kernel_abi::block::Device;

use crate::image::{METADATA_LIMIT, is_ext4};

/// A file of a folder, and where on the partition it lies, or why that cannot be told.
pub type File = (String, Result<FileMap, String>);

/// The first names, in the order of versions (UAPI.10), of those that are offered: a
/// folder may list a million.
#[derive(Debug)]
pub struct Names {
    kept: Vec<String>,
    max: usize,
    /// How many were offered that are wanted.
    offered: usize,
}

impl Names {
    /// Keeps `max` of them.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            kept: Vec::new(),
            max,
            offered: 0,
        }
    }

    /// Takes the name of an extension image: one that ends in `.raw`.
    pub fn offer(&mut self, name: &str) {
        if !name.ends_with(".raw") {
            return;
        }
        self.offered = self.offered.saturating_add(1);
        let at = self
            .kept
            .partition_point(|kept| in_order(kept, name).is_lt());
        if at < self.max {
            self.kept.insert(at, name.into());
            self.kept.truncate(self.max);
        }
    }

    /// The names, and how many more there were.
    #[must_use]
    pub fn take(self) -> (Vec<String>, usize) {
        let more = self.offered.saturating_sub(self.kept.len());
        (self.kept, more)
    }
}

/// The order of extensions, by which systemd-sysext layers them.
#[must_use]
pub fn in_order(a: &str, b: &str) -> Ordering {
    compare_versions(a, b).then_with(|| a.cmp(b))
}

/// At most `max` extension images in a folder of a FAT or ext4 partition, and how many
/// are left out. There are none where there is no such folder, or where only the kernel
/// can read the file system.
///
/// # Errors
/// Why the folder cannot be read, as a sentence.
pub fn images_in(device: &Device, folder: &str, max: usize) -> Result<(Vec<File>, usize), String> {
    let limited = Limited::new(device, METADATA_LIMIT);
    let mut names = Names::new(max);
    if is_ext4(device) {
        let failed = |error: Ext4Error| format!("ext4: {error}");
        let volume = Ext4::open(&limited).map_err(failed)?;
        let listed = volume.visit(folder, &mut |entry| {
            if let (EntryKind::File | EntryKind::Unknown, Ok(name)) =
                (entry.kind, core::str::from_utf8(&entry.name))
            {
                names.offer(name);
            }
            ControlFlow::Continue(())
        });
        return match listed {
            Err(Ext4Error::NotFound { .. }) => Ok((Vec::new(), 0)),
            Err(error) => Err(failed(error)),
            Ok(()) => Ok(located(names, folder, &|path| {
                volume.locate(path).map_err(failed)
            })),
        };
    }
    let failed = |error: FatError| format!("FAT: {error}");
    let Ok(volume) = Fat::open(&limited) else {
        return Ok((Vec::new(), 0));
    };
    let listed = volume.visit(folder, &mut |entry| {
        if !entry.is_dir {
            names.offer(&entry.name);
        }
        ControlFlow::Continue(())
    });
    match listed {
        Err(FatError::NotFound { .. }) => Ok((Vec::new(), 0)),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(located(names, folder, &|path| {
            volume.locate(path).map_err(failed)
        })),
    }
}

fn located(
    names: Names,
    folder: &str,
    locate: &dyn Fn(&str) -> Result<FileMap, String>,
) -> (Vec<File>, usize) {
    let (names, more) = names.take();
    let files = names.into_iter().map(|name| {
        let map = locate(&format!("{folder}/{name}"));
        (name, map)
    });
    (files.collect(), more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_are_kept_in_the_order_of_versions() {
        let mut names = Names::new(3);
        for name in [
            "tools-10.raw",
            "b.raw",
            "tools-9.raw",
            "note.txt",
            "a.raw",
            "tools-9.raw.bak",
        ] {
            names.offer(name);
        }
        let (kept, more) = names.take();
        assert_eq!(kept, ["a.raw", "b.raw", "tools-9.raw"]);
        assert_eq!(more, 1);
    }

    #[test]
    fn names_that_differ_in_case_or_separators_have_an_order() {
        assert!(in_order("a_b", "a+b").is_ne());
        assert!(in_order("tools-9", "tools-10").is_lt());
    }
}
