//! The words by which a command line names the root file system, as the
//! distributions' initramfs generators read them (dracut.cmdline(7),
//! initramfs-tools(7), Documentation/admin-guide/kernel-parameters.txt).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use uuid::Uuid;

use crate::Cmdline;

/// The longest time that `rootdelay=` and `rootwait` ask for, in milliseconds:
/// nothing is waited for without a limit.
const LONGEST_WAIT_MS: u32 = 600_000;

/// Words, and beginnings of words, that ask for what only a whole initrd does:
/// resuming, unlocking, assembling, networks, verified or layered roots, shells.
const FOR_INITRD: [&str; 14] = [
    "resume",
    "roothash",
    "systemd.verity",
    "rd.systemd.verity",
    "systemd.verity_usr_options",
    "netroot",
    "nfsroot",
    "overlayroot",
    "boot",
    "break",
    "rd.break",
    "rd.luks.",
    "rd.lvm.",
    "rd.md.",
];

/// A root, by a name that needs no user space to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// By the file system's UUID.
    Uuid(Uuid),
    /// By the file system's label.
    Label(String),
    /// By the partition's GUID in a GPT.
    PartUuid(Uuid),
    /// By the signature of a disk without GPT, and the partition's number.
    MbrPart {
        /// The disk's signature (MBR).
        signature: u32,
        /// The partition's number, from 1.
        number: u32,
    },
    /// By the partition's name in a GPT.
    PartLabel(String),
    /// By the kernel's name of the device, without `/dev/`.
    Device(String),
}

impl Root {
    /// What follows `root=`; `None` for what does not name a file system on a
    /// disk or partition in one of these ways.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (tag, value) = match text.strip_prefix("/dev/") {
            Some(path) => match path.strip_prefix("disk/by-") {
                // udev escapes what no file name may have.
                Some(link) if link.contains("\\x") => return None,
                Some(link) => link.split_once('/')?,
                None => ("", path),
            },
            None => text.split_once('=')?,
        };
        let is = |name: &str| tag.eq_ignore_ascii_case(name);
        if value.is_empty() {
            return None;
        }
        if tag.is_empty() {
            // A folder of its own: mapper, a volume group, a RAID array's name.
            return (!value.contains('/')).then(|| Self::Device(value.into()));
        }
        if is("UUID") {
            Uuid::parse_str(value).ok().map(Self::Uuid)
        } else if is("PARTUUID") {
            let guid = Uuid::parse_str(value).ok().map(Self::PartUuid);
            guid.or_else(|| mbr_part(value))
        } else if is("LABEL") {
            Some(Self::Label(value.into()))
        } else if is("PARTLABEL") {
            Some(Self::PartLabel(value.into()))
        } else {
            None
        }
    }
}

/// `SSSSSSSS-PP`, both in hexadecimal (block/partitions/msdos.c).
fn mbr_part(text: &str) -> Option<Root> {
    let (signature, number) = text.split_once('-')?;
    // A number in Rust may have a sign.
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if signature.len() != 8 || number.len() != 2 || !is_hex(signature) || !is_hex(number) {
        return None;
    }
    let number = u32::from_str_radix(number, 16).ok();
    Some(Root::MbrPart {
        signature: u32::from_str_radix(signature, 16).ok()?,
        number: number.filter(|&number| number > 0)?,
    })
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::MbrPart { signature, number } => {
                write!(f, "PARTUUID={signature:08x}-{number:02x}")
            }
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
            Self::Device(name) => write!(f, "/dev/{name}"),
        }
    }
}

/// What the command line says of a /usr that is a file system of its own
/// (systemd-veritysetup-generator(8), systemd-fstab-generator(8)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsrWords {
    /// `usrhash=`: the root hash of its dm-verity tree, in hexadecimal.
    pub hash: Option<String>,
    /// `systemd.verity_usr_data=`: what is below dm-verity.
    pub data: Option<String>,
    /// `systemd.verity_usr_hash=`: what has the hash tree.
    pub hashes: Option<String>,
    /// `mount.usr=`: what is mounted.
    pub source: Option<String>,
    /// `mount.usrfstype=`: the file systems to try.
    pub kinds: Vec<String>,
    /// `mount.usrflags=`: mount options.
    pub flags: Option<String>,
}

/// What the command line says of the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootWords {
    /// `root=`, as it stands there.
    pub root: Option<String>,
    /// `rootfstype=`: the file systems to try.
    pub kinds: Vec<String>,
    /// `rootflags=`: mount options.
    pub flags: Option<String>,
    /// The last of `ro` and `rw`; read-only if there is none.
    pub writable: bool,
    /// `init=`.
    pub init: Option<String>,
    /// `rootdelay=` and `rootwait`, in milliseconds.
    pub wait_ms: Option<u32>,
    /// What it says of /usr.
    pub usr: UsrWords,
    /// The first word that asks for a whole initrd.
    pub for_initrd: Option<String>,
}

impl RootWords {
    /// Reads them; of several the last one holds.
    #[must_use]
    pub fn from_cmdline(cmdline: &Cmdline<'_>) -> Self {
        let mut words = Self::default();
        for param in cmdline.iter() {
            let value = || param.value_str().map(String::from);
            let list = || {
                let list = param.value_str().unwrap_or_default();
                let kinds = list.split(',').filter(|kind| !kind.is_empty());
                kinds.map(String::from).collect()
            };
            if param.is("root") {
                words.root = value();
            } else if param.is("rootfstype") {
                words.kinds = list();
            } else if param.is("usrhash") {
                words.usr.hash = value();
            } else if param.is("systemd.verity_usr_data") {
                words.usr.data = value();
            } else if param.is("systemd.verity_usr_hash") {
                words.usr.hashes = value();
            } else if param.is("mount.usr") {
                words.usr.source = value();
            } else if param.is("mount.usrfstype") {
                words.usr.kinds = list();
            } else if param.is("mount.usrflags") {
                words.usr.flags = value();
            } else if param.is("rootflags") {
                words.flags = value();
            } else if param.is("init") {
                words.init = value();
            } else if param.is("ro") || param.is("rw") {
                words.writable = param.is("rw");
            } else if param.is("rootwait") {
                let seconds = param.value_str().and_then(|text| text.parse().ok());
                words.wait_for(seconds);
            } else if param.is("rootdelay") {
                if let Some(seconds) = param.value_str().and_then(|text| text.parse().ok()) {
                    words.wait_for(Some(seconds));
                }
            } else if words.for_initrd.is_none() {
                let name = core::str::from_utf8(param.name).unwrap_or_default();
                let asks = |word: &&str| match word.ends_with('.') {
                    true => name.starts_with(*word),
                    false => param.is(word),
                };
                words.for_initrd = FOR_INITRD.iter().any(asks).then(|| name.into());
            }
        }
        words
    }

    /// Waits so many seconds, or without an end, which there is.
    fn wait_for(&mut self, seconds: Option<u32>) {
        let wait = match seconds {
            Some(seconds) => seconds.saturating_mul(1000).min(LONGEST_WAIT_MS),
            None => LONGEST_WAIT_MS,
        };
        self.wait_ms = Some(self.wait_ms.unwrap_or(0).max(wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const UUID: Uuid = Uuid::from_u128(0x0f8e_9f3c_7b1d_4c5a_9e2f_1a2b_3c4d_5e6f);

    #[test]
    fn roots_are_named_in_the_usual_ways() {
        for (text, root) in [
            (
                "UUID=0F8E9F3C-7b1d-4c5a-9e2f-1a2b3c4d5e6f",
                Root::Uuid(UUID),
            ),
            (
                "PARTUUID=0f8e9f3c-7b1d-4c5a-9e2f-1a2b3c4d5e6f",
                Root::PartUuid(UUID),
            ),
            (
                "/dev/disk/by-uuid/0f8e9f3c-7b1d-4c5a-9e2f-1a2b3c4d5e6f",
                Root::Uuid(UUID),
            ),
            (
                "PARTUUID=0011AAbb-1f",
                Root::MbrPart {
                    signature: 0x0011_aabb,
                    number: 31,
                },
            ),
            ("LABEL=a root", Root::Label("a root".into())),
            ("PARTLABEL=root", Root::PartLabel("root".into())),
            ("/dev/vda2", Root::Device("vda2".into())),
        ] {
            let parsed = Root::parse(text).unwrap();
            assert_eq!(parsed, root);
            assert_eq!(Root::parse(&parsed.to_string()), Some(parsed));
        }
        for text in [
            "",
            "vda2",
            "UUID=",
            "UUID=12AB-34CD",
            "/dev/",
            "/dev/mapper/root",
            "nfs:host:/path",
            "zfs:pool",
            "/dev/disk/by-label/a\\x20root",
            "LABEL",
            "PARTUUID=0011aabb-00",
            "PARTUUID=0011aabb-2",
            "PARTUUID=+011aabb-02",
            "PARTUUID=0011aabb-02/PARTNROFF=1",
        ] {
            assert_eq!(Root::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_word_holds() {
        let read = |text: &str| RootWords::from_cmdline(&Cmdline::parse(text));
        let words =
            read("root=UUID=1 rw root=/dev/vda rootfstype=ext4,xfs rootflags=subvol=@ ro init=/x");
        assert_eq!(words.root.as_deref(), Some("/dev/vda"));
        assert_eq!(words.kinds, ["ext4", "xfs"]);
        assert_eq!(words.flags.as_deref(), Some("subvol=@"));
        assert_eq!((words.writable, words.init.as_deref()), (false, Some("/x")));
        assert_eq!((words.wait_ms, words.for_initrd), (None, None));
        assert!(read("ro rw").writable);
        assert_eq!(read("rootdelay=5").wait_ms, Some(5000));
        assert_eq!(read("rootdelay=5 rootwait").wait_ms, Some(600_000));
        assert_eq!(
            read("rootwait=7 rootdelay=4294967295").wait_ms,
            Some(600_000)
        );
        assert_eq!(read("rootdelay=x").wait_ms, None);
    }

    #[test]
    fn a_usr_of_its_own_is_read() {
        let words = RootWords::from_cmdline(&Cmdline::parse(
            "usrhash=ab systemd.verity_usr_data=/dev/a systemd.verity-usr-hash=/dev/b mount.usr=LABEL=u \
             mount.usrfstype=erofs,ext4 mount.usrflags=ro,noatime",
        ));
        let text = |text: &str| Some(String::from(text));
        let expected = UsrWords {
            hash: text("ab"),
            data: text("/dev/a"),
            hashes: text("/dev/b"),
            source: text("LABEL=u"),
            kinds: ["erofs", "ext4"].map(String::from).to_vec(),
            flags: text("ro,noatime"),
        };
        assert_eq!((words.usr, words.for_initrd), (expected, None));
    }

    #[test]
    fn what_asks_for_an_initrd_is_named() {
        let asks = |text: &str| RootWords::from_cmdline(&Cmdline::parse(text)).for_initrd;
        assert_eq!(
            asks("quiet resume=UUID=1 roothash=2").as_deref(),
            Some("resume")
        );
        assert_eq!(
            asks("usrhash=2 systemd.verity=no").as_deref(),
            Some("systemd.verity")
        );
        assert_eq!(asks("rd.luks.uuid=3").as_deref(), Some("rd.luks.uuid"));
        assert_eq!(asks("quiet bootdelay=3 rd.udev.log_level=3 noresume"), None);
    }
}
