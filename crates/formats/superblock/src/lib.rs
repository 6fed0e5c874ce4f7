//! Which file system a device has, with its UUID and label.
//!
//! No more than `root=UUID=` and `root=LABEL=` ask for: the names by which a
//! root is found, of the file systems that can be one, and what else a root may be
//! hidden in, so that a message can say so. The kernel checks all else when it
//! mounts.
//!
//! Sources: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, include/uapi/linux/btrfs_tree.h,
//! fs/erofs/erofs_fs.h, the LUKS on-disk formats, lib/format_text/layout.h of LVM2,
//! include/uapi/linux/raid/md_p.h. All read at fixed places; a few small
//! reads decide.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::string::String;

use iofs_source::ReadAt;
pub use uuid::Uuid;

/// What a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4, all of which the last's driver mounts.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// EROFS.
    Erofs,
    /// Encrypted: LUKS 1 or 2.
    Luks,
    /// A physical volume of LVM2.
    Lvm,
    /// A member of a RAID array of md. With metadata 0.90 and 1.0, which lie at the
    /// end, the file system of a mirror begins where the member does: whoever mounted
    /// that would tear the mirror apart.
    Raid,
}

impl Kind {
    /// The kernel's name of the file system; for what is none, blkid's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::Luks => "crypto_LUKS",
            Self::Lvm => "LVM2_member",
            Self::Raid => "linux_raid_member",
        }
    }

    /// Whether it can be mounted.
    #[must_use]
    pub fn is_file_system(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Btrfs | Self::Erofs)
    }
}

/// A superblock's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// What it is.
    pub kind: Kind,
    /// The UUID; nil for what has none that `root=` could mean.
    pub uuid: Uuid,
    /// The label, up to its first NUL; empty if there is none or it is not UTF-8.
    pub label: String,
}

/// Where a kind is told: magic, its place, that of the UUID, that of the label and
/// the label's length, in bytes.
struct Format {
    kind: Kind,
    magic: &'static [u8],
    at: u64,
    uuid: Option<u64>,
    label: (u64, usize),
}

/// The magic of md.
const RAID: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

/// What covers others comes first: a LUKS header is written over the beginning of
/// what was there.
const FORMATS: [Format; 8] = [
    Format {
        kind: Kind::Luks,
        magic: b"LUKS\xba\xbe",
        at: 0,
        uuid: None,
        label: (0, 0),
    },
    Format {
        kind: Kind::Lvm,
        magic: b"LVM2 001",
        at: 512 + 24,
        uuid: None,
        label: (0, 0),
    },
    Format {
        kind: Kind::Raid,
        magic: RAID,
        at: 4096,
        uuid: None,
        label: (0, 0),
    },
    Format {
        kind: Kind::Raid,
        magic: RAID,
        at: 0,
        uuid: None,
        label: (0, 0),
    },
    Format {
        kind: Kind::Xfs,
        magic: b"XFSB",
        at: 0,
        uuid: Some(32),
        label: (108, 12),
    },
    Format {
        kind: Kind::Erofs,
        magic: &[0xe2, 0xe1, 0xf5, 0xe0],
        at: 1024,
        uuid: Some(1024 + 48),
        label: (1024 + 64, 16),
    },
    Format {
        kind: Kind::Ext4,
        magic: &[0x53, 0xef],
        at: 1024 + 56,
        uuid: Some(1024 + 104),
        label: (1024 + 120, 16),
    },
    Format {
        kind: Kind::Btrfs,
        magic: b"_BHRfS_M",
        at: 0x1_0000 + 64,
        uuid: Some(0x1_0000 + 32),
        label: (0x1_0000 + 299, 256),
    },
];

/// The longest magic.
const MAGIC: usize = 8;

/// The longest label.
const LABEL: usize = 256;

impl Superblock {
    /// What `source` has; `None` for nothing that is known here, and for what
    /// cannot be read.
    pub fn read<S: ReadAt + ?Sized>(source: &S) -> Option<Self> {
        let has = |at: u64, magic: &[u8]| {
            let mut found = [0; MAGIC];
            found
                .get_mut(..magic.len())
                .is_some_and(|found| source.read_at(at, found).is_ok() && *found == *magic)
        };
        let format = FORMATS.iter().find(|format| has(format.at, format.magic))?;
        if raid_at_end(source.size())
            .into_iter()
            .flatten()
            .any(|at| has(at, RAID))
        {
            return Some(Self {
                kind: Kind::Raid,
                uuid: Uuid::nil(),
                label: String::new(),
            });
        }
        let mut uuid = [0; 16];
        if let Some(at) = format.uuid {
            source.read_at(at, &mut uuid).ok()?;
        }
        let (at, len) = format.label;
        let mut label = [0; LABEL];
        let label = label.get_mut(..len)?;
        if len > 0 {
            source.read_at(at, label).ok()?;
        }
        let label = label.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(Self {
            kind: format.kind,
            uuid: Uuid::from_bytes(uuid),
            label: core::str::from_utf8(label).unwrap_or_default().into(),
        })
    }
}

/// Where md's superblocks are on a member of that size, with metadata 1.0 and 0.90
/// (drivers/md/md.c, `super_1_load`; include/uapi/linux/raid/md_p.h).
fn raid_at_end(size: u64) -> [Option<u64>; 2] {
    let sectors = (size / 512)
        .checked_sub(16)
        .map(|sector| (sector & !7) * 512);
    let old = (size & !0xffff).checked_sub(0x1_0000);
    [sectors, old]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::process::Command;
    use std::string::ToString;
    use std::vec::Vec;
    use std::{fs, vec};

    const UUID: &str = "0f8e9f3c-7b1d-4c5a-9e2f-1a2b3c4d5e6f";

    /// What blkid says of a file, if it is here.
    fn blkid(path: &std::path::Path, tag: &str) -> Option<String> {
        let output = Command::new("blkid")
            .args(["-p", "-o", "value", "-s", tag])
            .arg(path)
            .output()
            .ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_string())
    }

    /// Each mkfs that this machine has agrees, and blkid with it.
    #[test]
    fn what_mkfs_makes_is_told_as_blkid_tells_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let folder = folder.to_str().unwrap();
        let mut tried = 0;
        for (kind, program, args) in [
            (
                Kind::Ext4,
                "mkfs.ext4",
                vec!["-q", "-F", "-L", "a root", "-U", UUID, "IMAGE"],
            ),
            (
                Kind::Xfs,
                "mkfs.xfs",
                vec![
                    "-q",
                    "-f",
                    "-L",
                    "a root",
                    "-m",
                    "uuid=0f8e9f3c-7b1d-4c5a-9e2f-1a2b3c4d5e6f",
                    "IMAGE",
                ],
            ),
            (
                Kind::Btrfs,
                "mkfs.btrfs",
                vec!["-q", "-f", "-L", "a root", "-U", UUID, "IMAGE"],
            ),
            (Kind::Erofs, "mkfs.erofs", vec!["-U", UUID, "IMAGE", folder]),
        ] {
            let path = dir.path().join(kind.name());
            let file = fs::File::create(&path).unwrap();
            file.set_len(512 << 20).unwrap();
            let image = path.to_str().unwrap();
            let args = args
                .into_iter()
                .map(|arg| if arg == "IMAGE" { image } else { arg });
            match Command::new(program).args(args).output() {
                // Not every machine has every one of them.
                Err(_) => continue,
                Ok(output) => assert!(output.status.success(), "{program}: {output:?}"),
            }
            tried += 1;
            let mut bytes = Vec::new();
            let file = fs::File::open(&path).unwrap();
            file.take(1 << 17).read_to_end(&mut bytes).unwrap();
            let found = Superblock::read(&bytes[..]).unwrap();
            assert_eq!(
                (found.kind, found.uuid.to_string()),
                (kind, UUID.to_string())
            );
            if kind != Kind::Erofs {
                assert_eq!(found.label, "a root");
            }
            if let Some(uuid) = blkid(&path, "UUID") {
                assert_eq!(
                    (uuid, blkid(&path, "TYPE")),
                    (UUID.into(), Some(kind.name().into()))
                );
            }
        }
        assert!(tried > 0, "no mkfs at all is here");
    }

    #[test]
    fn what_hides_a_root_is_named() {
        let mut device = vec![0; 1 << 17];
        assert_eq!(Superblock::read(&device[..]), None);
        device[1080..1082].copy_from_slice(&[0x53, 0xef]);
        let kind = |device: &[u8]| Superblock::read(device).map(|found| found.kind);
        assert_eq!(kind(&device), Some(Kind::Ext4));
        device[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        assert_eq!(kind(&device), Some(Kind::Raid));
        device[536..544].copy_from_slice(b"LVM2 001");
        assert_eq!(kind(&device), Some(Kind::Lvm));
        device[..6].copy_from_slice(b"LUKS\xba\xbe");
        assert_eq!(kind(&device), Some(Kind::Luks));
        assert!(!Kind::Luks.is_file_system() && Kind::Ext4.is_file_system());
        // A mirror's metadata at the end, behind a file system at the beginning.
        for at in [(1 << 17) - 8192, (1 << 17) - 65_536] {
            let mut device = vec![0; 1 << 17];
            device[1080..1082].copy_from_slice(&[0x53, 0xef]);
            device[at..at + 4].copy_from_slice(RAID);
            assert_eq!(kind(&device), Some(Kind::Raid), "{at}");
        }
        // A magic at the end, where its names would lie behind.
        assert_eq!(Superblock::read(&b"XFSB"[..]), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0..8_usize) {
            let mut bytes = bytes;
            let format = &FORMATS[at];
            let place = usize::try_from(format.at).unwrap();
            if let Some(room) = bytes.get_mut(place..place + format.magic.len()) {
                room.copy_from_slice(format.magic);
            }
            if let Some(found) = Superblock::read(&bytes[..]) {
                prop_assert!(found.label.len() <= LABEL && !found.label.contains('\0'));
            }
        }
    }
}
