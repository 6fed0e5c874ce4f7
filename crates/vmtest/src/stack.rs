//! Disks with a root on LUKS, LVM, MD and file systems over several disks.
//!
//! They are made under user-mode-linux by the guest's own tools (`guest/stacks`),
//! since the host's kernel may have no device-mapper and needs no mount then:
//! five to fifteen seconds. Each is what one partition holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iofs_gpt::Uuid;

use crate::guest::ROOT_LABEL;
use crate::storage::{PASSPHRASE, PROVISION, ROOT_SIZE, Storage};
use crate::uml::{Uml, UmlDisk, UmlExit};
use crate::{Error, disk};

/// UUID of the LUKS volume, where there is one.
pub const LUKS_UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0c01";

/// UUID of the MD array, as mdadm writes it.
pub const ARRAY_UUID: &str = "1f0f5a7e:0d134d14:9a3c6f2d:1c0e0d01";

/// The key file that opens the LUKS volume as [`PASSPHRASE`] does.
pub const KEY: &[u8] = b"a key that nobody types\n";

/// Room for what lies below the root, in bytes.
const OVERHEAD: u64 = 24 << 20;

/// The same for file systems that are not ext4.
const LARGE: u64 = 480 << 20;

/// The limit on making one; a minute was seen on two busy processors.
const LIMIT: Duration = Duration::from_secs(300);

const FUNCTIONS: &str = include_str!("../guest/stacks");

/// What a root lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// LUKS2.
    Luks,
    /// The volume group vg0 with the volume root.
    Lvm,
    /// An array of RAID 1 over two disks.
    Raid,
    /// LUKS2 on vg0/root on RAID 1.
    LuksLvmRaid,
    /// btrfs, data and metadata on both of two disks.
    Btrfs,
    /// XFS, on nothing else.
    Xfs,
}

impl Stack {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Luks,
        Self::Lvm,
        Self::Raid,
        Self::LuksLvmRaid,
        Self::Btrfs,
        Self::Xfs,
    ];

    /// Its function in `guest/stacks`.
    fn function(self) -> &'static str {
        match self {
            Self::Luks => "luks",
            Self::Lvm => "lvm",
            Self::Raid => "raid",
            Self::LuksLvmRaid => "luks_lvm_raid",
            Self::Btrfs => "btrfs_two",
            Self::Xfs => "xfs",
        }
    }

    /// How many disks it is on.
    #[must_use]
    pub fn disks(self) -> usize {
        match self {
            Self::Luks | Self::Lvm | Self::Xfs => 1,
            Self::Raid | Self::LuksLvmRaid | Self::Btrfs => 2,
        }
    }

    /// The type of the partitions that hold it: RAID, LVM, LUKS, generic data, as
    /// in sfdisk's list.
    #[must_use]
    pub fn partition_type(self) -> Uuid {
        match self {
            Self::Raid | Self::LuksLvmRaid => {
                Uuid::from_u128(0xa19d_880f_05fc_4d3b_a006_743f_0f84_911e)
            }
            Self::Lvm => Uuid::from_u128(0xe6d6_d379_f507_44c2_a23c_238f_2a3d_f928),
            Self::Luks => Uuid::from_u128(0xca7d_7ccb_63ed_4c53_861c_1742_5360_59cc),
            Self::Btrfs | Self::Xfs => Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4),
        }
    }

    /// Makes it in the folder `dir`, which need not exist: one file for each
    /// disk, to be what a partition holds.
    ///
    /// # Errors
    /// [`Error::MissingPackages`] without user-mode-linux, [`Error::Disk`] with
    /// the console if a tool fails, [`Error::Io`].
    pub fn make(self, storage: &Storage, dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let work = dir.join("work");
        let size = match self {
            Self::Btrfs | Self::Xfs => LARGE,
            _ => ROOT_SIZE + OVERHEAD,
        };
        fs::create_dir_all(&work).map_err(Error::io(format!("making {}", work.display())))?;
        for (name, bytes) in [
            ("script", self.script().as_bytes()),
            ("passphrase", PASSPHRASE.as_bytes()),
            ("key", KEY),
        ] {
            let path = work.join(name);
            fs::write(&path, bytes).map_err(Error::io(format!("writing {}", path.display())))?;
        }
        let mut paths = Vec::new();
        for number in 0..self.disks() {
            let path = dir.join(format!("{}-{number}", self.function()));
            disk::sparse(&path, size)?;
            paths.push(path);
        }
        run(storage, &work, &paths)?;
        Ok(paths)
    }

    fn script(self) -> String {
        format!(
            "LABEL={ROOT_LABEL}\nLUKS_UUID={LUKS_UUID}\n\
             ARRAY_UUID={ARRAY_UUID}\n{FUNCTIONS}\nprepare\n{}\n",
            self.function()
        )
    }
}

fn run(storage: &Storage, work: &Path, disks: &[PathBuf]) -> Result<(), Error> {
    let root = UmlDisk {
        path: storage.root_image(),
        read_only: true,
    };
    let uml = Uml {
        memory_mib: 512,
        initrd: None,
        disks: std::iter::once(root)
            .chain(disks.iter().map(|path| UmlDisk {
                path: path.clone(),
                read_only: false,
            }))
            .collect(),
        append: format!(
            "root=/dev/root rootfstype=hostfs rootflags={} ro quiet panic=-1 init={PROVISION} iofs.work={}",
            storage.tree().display(),
            work.display()
        ),
    };
    let outcome = uml.run(LIMIT)?;
    let done = outcome.find("INITOVERLAYFS-TEST provisioned").is_some();
    match outcome.exit {
        UmlExit::Off if done => Ok(()),
        exit => Err(Error::Disk(format!(
            "a stack could not be made ({exit:?})\n{}",
            outcome.text()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stack_has_its_function() {
        for stack in Stack::ALL {
            let begin = format!("\n{}() {{\n", stack.function());
            assert!(FUNCTIONS.contains(&begin), "{stack:?}");
            let last = stack.script().lines().last().map(str::to_owned);
            assert_eq!(last.as_deref(), Some(stack.function()));
        }
    }
}
