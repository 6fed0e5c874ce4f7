//! Which of the loaded modules the boot disk does not need.
//!
//! sysfs knows the drivers between the disk and the machine, and which module
//! uses which. A module that drives devices, but none of these, was loaded for
//! another device; so was a library that only such modules use. Of the rest
//! (file systems, device-mapper, ciphers) nothing is said.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::record::Record;

/// More modules than a kernel has.
const MAX_NAMES: usize = 65_536;

/// The modules of `record` that were loaded for other devices than the disk that
/// was booted from; `None` where sysfs does not know that disk.
pub(super) fn for_others(sysfs: &Path, record: &Record) -> Option<BTreeSet<String>> {
    let partition = record.partition()?.as_str().strip_prefix("/dev/")?;
    if partition.is_empty() || partition.contains(['/', '.']) {
        return None;
    }
    let of_disk = builder::drivers_of(sysfs, partition).ok()?;
    let of_disk: BTreeSet<String> = of_disk.iter().map(|name| plain(name)).collect();
    let loaded: BTreeSet<String> = record
        .modules
        .iter()
        .filter(|load| load.errno == 0)
        .map(|load| plain(load.name.as_str()))
        .filter(|name| is_name(name))
        .collect();
    let mut others = BTreeSet::new();
    loop {
        let before = others.len();
        for name in loaded.difference(&of_disk) {
            let module = sysfs.join("module").join(name);
            let mut users = entries(&module.join("holders"));
            users.retain(|user| loaded.contains(user));
            let drives = !entries(&module.join("drivers")).is_empty();
            if (drives || !users.is_empty()) && users.is_subset(&others) {
                others.insert(name.clone());
            }
        }
        if others.len() == before {
            return Some(others);
        }
    }
}

/// The name that sysfs has for a module.
pub(super) fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = found.filter_map(|entry| entry.file_name().into_string().ok());
    names.take(MAX_NAMES).collect()
}
