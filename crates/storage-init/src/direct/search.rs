//! The search for the file systems of a direct boot, by the names that command lines
//! give them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_cmdline::Root;
use iofs_superblock::{Kind, Superblock};
use kernel_abi::block::Device;
use kernel_abi::uevent::Uevent;
use kernel_abi::{clock, file};

use crate::disks::{self, Inventory};
use crate::hunt::Hunt;
use crate::log::Log;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::report::{Failure, join};

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// What it is to be: `root`.
    pub what: &'static str,
    /// The word of the command line that names it: `root=`.
    pub word: &'static str,
    /// Its name.
    pub name: Root,
    /// The file systems that it may have; `None` where it is none.
    pub kinds: Option<Vec<String>>,
    /// How long it is waited for, in microseconds.
    pub limit_us: u64,
}

/// A device that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kernel's name of its device: `vda2`.
    pub name: String,
    /// The path of its device.
    pub device: String,
    /// Its file system, by the kernel's name; empty where it is none.
    pub kind: String,
}

/// A device, and what was found on it.
#[derive(Debug)]
struct Probed {
    name: String,
    superblock: Option<Superblock>,
}

/// The search.
#[derive(Debug)]
pub struct Search<'a> {
    sought: &'a Sought,
    paths: &'a Paths,
    inventory: Inventory,
    probed: Vec<Probed>,
    /// Why what is there is not to be taken.
    conflict: Option<String>,
    started: u64,
}

impl<'a> Search<'a> {
    /// A search that begins now.
    #[must_use]
    pub fn new(sought: &'a Sought, paths: &'a Paths) -> Self {
        Self {
            sought,
            paths,
            inventory: Inventory::default(),
            probed: Vec::new(),
            conflict: None,
            started: clock::micros(),
        }
    }

    /// Looks for something else among what is known of the devices.
    #[must_use]
    pub fn then(self, sought: &'a Sought) -> Self {
        Self {
            sought,
            conflict: None,
            started: clock::micros(),
            ..self
        }
    }

    /// Reads the superblocks of devices that are new.
    fn probe(&mut self) {
        let present = disks::present(self.paths);
        self.probed.retain(|probed| present.contains(&probed.name));
        for name in present {
            if self.probed.iter().any(|probed| probed.name == name) {
                continue;
            }
            let path = format!("{}/{name}", self.paths.dev);
            let superblock = Device::open(&path)
                .ok()
                .and_then(|device| Superblock::read(&device));
            self.probed.push(Probed { name, superblock });
        }
    }

    /// The names of the devices that the root's name means.
    fn meant(&self) -> Vec<String> {
        let by_superblock = |is: &dyn Fn(&Superblock) -> bool| {
            self.probed
                .iter()
                .filter(|probed| probed.superblock.as_ref().is_some_and(is))
                .map(|probed| probed.name.clone())
                .collect()
        };
        let by_table = |selector| {
            let parts = self.inventory.matching(&selector, self.paths);
            parts.into_iter().map(|part| part.name).collect()
        };
        match &self.sought.name {
            Root::Uuid(uuid) => by_superblock(&|found| found.uuid == *uuid),
            Root::Label(label) => by_superblock(&|found| found.label == *label),
            Root::PartUuid(uuid) => by_table(iofs_plan::Selector::PartUuid(*uuid)),
            Root::MbrPart { signature, number } => {
                self.inventory.of_mbr(*signature, *number, self.paths)
            }
            Root::PartLabel(label) => by_table(iofs_plan::Selector::PartLabel(label.clone())),
            Root::Device(name) => self
                .probed
                .iter()
                .filter(|probed| probed.name == *name)
                .map(|probed| probed.name.clone())
                .collect(),
        }
    }

    /// What is on the device of that name, if that can be the root.
    fn check(&self, name: &str) -> Result<Found, String> {
        let found = |kind: &str| Found {
            name: name.into(),
            device: format!("{}/{name}", self.paths.dev),
            kind: kind.into(),
        };
        let Some(allowed) = &self.sought.kinds else {
            return Ok(found(""));
        };
        let probed = self.probed.iter().find(|probed| probed.name == name);
        let kind = probed
            .and_then(|probed| probed.superblock.as_ref())
            .map(|found| found.kind)
            .ok_or_else(|| {
                let what = self.sought.what;
                format!("/dev/{name} has no file system that can be a {what} here")
            })?;
        if !kind.is_file_system() {
            return Err(format!(
                "/dev/{name} is {}, which user space has to open or assemble",
                kind.name()
            ));
        }
        // ext4's driver has the names of its forebears, too.
        let names: &[&str] = match kind {
            Kind::Ext4 => &["ext4", "ext3", "ext2"],
            _ => &[kind.name()],
        };
        if !allowed.iter().any(|kind| names.contains(&&**kind)) {
            return Err(format!(
                "/dev/{name} has {}, and this was built for {}: build with --mode direct \
                 --root-fs {}",
                kind.name(),
                join(&mut allowed.iter().cloned(), ", "),
                kind.name()
            ));
        }
        Ok(found(kind.name()))
    }
}

impl Hunt for Search<'_> {
    type Found = Found;

    fn what(&self) -> &'static str {
        self.sought.what
    }

    fn span(&self) -> (u64, u64) {
        (self.started, self.sought.limit_us)
    }

    fn look(&mut self, _: &mut Loader<'_>, _: &mut Log) -> Option<Found> {
        self.inventory.refresh(self.paths);
        self.probe();
        self.conflict = None;
        let result = match self.meant().as_slice() {
            [] => return None,
            [name] => self.check(name),
            several => Err(format!(
                "{} devices are {}: {}",
                several.len(),
                self.sought.name,
                join(&mut several.iter().cloned(), ", ")
            )),
        };
        result.map_err(|why| self.conflict = Some(why)).ok()
    }

    fn deadline(&self) -> u64 {
        match &self.conflict {
            // More of the same would not make it better.
            Some(_) => self.started,
            None => self.started.saturating_add(self.sought.limit_us),
        }
    }

    fn next_look(&self, _: u64) -> Option<u64> {
        None
    }

    fn forget(&mut self, event: &Uevent) {
        self.inventory.forget(&event.devpath);
        let name = file::base_name(&event.devpath);
        self.probed.retain(|probed| probed.name != name);
    }

    fn forget_all(&mut self) {
        self.inventory = Inventory::default();
        self.probed.clear();
    }

    fn failure(&self, modules: &Loader<'_>, now: u64) -> Failure {
        let Sought {
            what, word, name, ..
        } = self.sought;
        let failure = match &self.conflict {
            Some(why) => Failure::new(format_args!("{why}")),
            None => Failure::new(format_args!(
                "the {what} {name} did not come within {} s",
                now.saturating_sub(self.started) / 1_000_000
            )),
        };
        let mut seen: Vec<String> = self
            .probed
            .iter()
            .map(|Probed { name, superblock }| match superblock {
                None => format!("/dev/{name}"),
                Some(Superblock { kind, uuid, label }) => {
                    format!(
                        "/dev/{name}: {}, UUID={uuid} LABEL=\"{label}\"",
                        kind.name()
                    )
                }
            })
            .collect();
        if seen.is_empty() {
            seen.push("no disk at all".into());
        }
        seen.push(modules.summary());
        failure
            .awaited([format!("the {what} {name}")].into_iter())
            .seen(seen)
            .advise(&format!(
                "compare {word} on the kernel command line with what was seen (blkid)"
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::tests::{TYPE, UNIQUE, fake_system};
    use iofs_plan::{BootPlan, Uuid};
    use std::vec;

    const ID: Uuid = Uuid::from_u128(0x0f8e_9f3c_7b1d_4c5a_9e2f_1a2b_3c4d_5e6f);
    const LIMIT_US: u64 = 30_000_000;

    fn sought(name: &str) -> Sought {
        Sought {
            what: "root",
            word: "root=",
            name: Root::parse(name).unwrap(),
            kinds: Some(vec!["ext4".into(), "btrfs".into()]),
            limit_us: LIMIT_US,
        }
    }

    fn search<'a>(sought: &'a Sought, paths: &'a Paths) -> Search<'a> {
        Search {
            started: 5,
            ..Search::new(sought, paths)
        }
    }

    fn ext4() -> Vec<u8> {
        let mut content = vec![0; 1 << 20];
        content[1080..1082].copy_from_slice(&[0x53, 0xef]);
        content[1128..1144].copy_from_slice(ID.as_bytes());
        content[1144..1148].copy_from_slice(b"root");
        content
    }

    #[test]
    fn a_root_is_found_by_each_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "nvme0n1", &ext4());
        let plan = BootPlan::default();
        let (mut loader, mut log) = (Loader::new(&plan, &paths), Log::new());
        for name in [
            format!("UUID={ID}"),
            "LABEL=root".into(),
            format!("PARTUUID={UNIQUE}"),
            "PARTLABEL=image".into(),
            "/dev/nvme0n1p1".into(),
        ] {
            let wanted = sought(&name);
            let found = search(&wanted, &paths).look(&mut loader, &mut log).unwrap();
            assert_eq!(
                (&*found.name, &*found.kind),
                ("nvme0n1p1", "ext4"),
                "{name}"
            );
        }
        for name in [
            format!("UUID={TYPE}"),
            "LABEL=Root".into(),
            "/dev/nvme0n1p2".into(),
        ] {
            let wanted = sought(&name);
            let mut search = search(&wanted, &paths);
            assert_eq!(search.look(&mut loader, &mut log), None, "{name}");
            assert_eq!(search.deadline(), 5 + LIMIT_US);
            let failure = search.failure(&loader, LIMIT_US + 5);
            assert!(
                failure.what().contains("did not come within 30 s"),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_the_root_ends_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", &ext4());
        let plan = BootPlan::default();
        let (mut loader, mut log) = (Loader::new(&plan, &paths), Log::new());
        let mut look = |name: &str, kinds: &[&str]| {
            let kinds = kinds.iter().map(|kind| String::from(*kind)).collect();
            let wanted = Sought {
                kinds: Some(kinds),
                ..sought(name)
            };
            let mut search = search(&wanted, &paths);
            assert_eq!(search.look(&mut loader, &mut log), None);
            assert_eq!(search.deadline(), 5, "{name}");
            search.conflict.unwrap()
        };
        assert!(look("LABEL=root", &["btrfs"]).contains("has ext4, and this was built for btrfs"));
        assert!(look("/dev/sda", &["ext4"]).contains("no file system"));
        // A second device with the same names.
        let copy = dir.path().join("dev/sdb");
        std::fs::write(copy, ext4()).unwrap();
        let class = dir.path().join("sys/class/block/sdb");
        std::fs::create_dir(&class).unwrap();
        std::fs::write(class.join("size"), "2048\n").unwrap();
        assert!(look("LABEL=root", &["ext4"]).contains("2 devices are LABEL=root"));
        std::fs::write(dir.path().join("dev/sdb"), b"LUKS\xba\xbe").unwrap();
        assert!(look("/dev/sdb", &["ext4"]).contains("crypto_LUKS"));
    }
}
