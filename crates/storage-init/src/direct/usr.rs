//! A /usr that is a file system of its own, beside a plain root: under dm-verity
//! (`usrhash=`), or plain (`mount.usr=`).
//!
//! The root hash is the command line's: it proves as much as the command line is
//! proven, in an initrd as here. What systemd's generators do with options beyond
//! that, they do in the image.

use alloc::format;
use alloc::string::{String, ToString};

use iofs_cmdline::{Root, UsrWords};
use iofs_plan::RootHash;
use iofs_verity::{Superblock, Verifier};
use kernel_abi::block::Device;
use kernel_abi::file;
use kernel_abi::mount::{self, Flags};

use super::search::{Found, Sought};
use super::split;
use crate::log::Log;
use crate::modules::Loader;
use crate::report::{Failure, join};
use crate::stack::{self, ImageDevice};

/// The name that systemd gives the verified device, which it then finds in place.
const NAME: &str = "usr";

/// What is mounted on verified devices more than on any other.
const VERIFIED: &str = "erofs";

/// A /usr that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usr {
    /// The device with the file system.
    pub data: Sought,
    /// The device with the hash tree, and what the tree leads to.
    pub tree: Option<(Sought, RootHash)>,
    /// How it is mounted.
    flags: Flags,
    /// Options of the file system's own.
    options: String,
}

/// What the command line wants of /usr, if anything. `kinds` are the file systems that
/// a root may have.
///
/// # Errors
/// Why it takes an initrd, as a sentence.
pub(super) fn choose(
    words: &UsrWords,
    kinds: &[String],
    limit_us: u64,
) -> Result<Option<Usr>, String> {
    let UsrWords {
        hash,
        data,
        hashes,
        source,
        ..
    } = words;
    let sought = |word, text: &str, kinds| match Root::parse(text) {
        Some(name) => Ok(Sought {
            what: "/usr",
            word,
            name,
            kinds,
            limit_us,
        }),
        None => Err(format!("{word}{text} takes user space to be found")),
    };
    let mut allowed = kinds.to_vec();
    if hash.is_some() && !kinds.iter().any(|kind| kind == VERIFIED) {
        allowed.push(VERIFIED.into());
    }
    let wanted = match words.kinds.as_slice() {
        [] => allowed.clone(),
        some => {
            let known = some.iter().filter(|kind| allowed.contains(kind));
            known.cloned().collect()
        }
    };
    let (data, tree) = match (hash, source) {
        (None, None) => return Ok(None),
        (None, Some(source)) => (sought("mount.usr=", source, Some(wanted.clone()))?, None),
        (Some(hash), source) => {
            if let Some(source) = source
                .as_ref()
                .filter(|source| *source != "/dev/mapper/usr")
            {
                return Err(format!(
                    "mount.usr={source} beside usrhash= takes user space"
                ));
            }
            let root = RootHash::from_hex(hash).map_err(|error| format!("usrhash=: {error}"))?;
            let named = |word, given: &Option<String>, guid: Root, kinds| match given {
                Some(text) => sought(word, text, kinds),
                None => sought("usrhash=", &guid.to_string(), kinds),
            };
            let data = named(
                "systemd.verity_usr_data=",
                data,
                Root::PartUuid(root.data_part_uuid()),
                Some(wanted.clone()),
            )?;
            let hashes = named(
                "systemd.verity_usr_hash=",
                hashes,
                Root::PartUuid(root.verity_part_uuid()),
                None,
            )?;
            let hashes = Sought {
                what: "hash tree of /usr",
                ..hashes
            };
            (data, Some((hashes, root)))
        }
    };
    if wanted.is_empty() {
        return Err(format!(
            "mount.usrfstype={} is none of {}, for which this was built",
            join(&mut words.kinds.iter().cloned(), ","),
            join(&mut allowed.into_iter(), ", ")
        ));
    }
    // systemd mounts it read-only unless it is told otherwise.
    let (mut flags, options) = split(words.flags.as_deref().unwrap_or("ro"));
    if tree.is_some() {
        flags |= Flags::RDONLY;
    }
    Ok(Some(Usr {
        data,
        tree,
        flags,
        options,
    }))
}

impl Usr {
    /// What has to be there: the file system's device, and the hash tree's.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Sought> {
        let tree = self.tree.iter().map(|(tree, _)| tree);
        core::iter::once(&self.data).chain(tree)
    }

    /// Asks for the modules that it will take.
    pub(super) fn want_modules(&self, modules: &mut Loader<'_>) {
        if self.tree.is_some() {
            modules.want_proof();
        }
    }

    /// Mounts it where `target` is, a folder of the root's. What this leaves behind on
    /// failure is a device that goes when nobody uses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn mount(
        &self,
        data: &Found,
        hashes: Option<&Found>,
        target: &str,
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> Result<Mounted, Failure> {
        let mut device = ImageDevice::default();
        if let (Some((_, root)), Some(hashes)) = (&self.tree, hashes) {
            modules.load_named("dm_verity", log);
            if !file::exists("/sys/module/dm_verity") {
                return Err(Failure::new(format_args!(
                    "/usr cannot be verified: this mini-initramfs has no dm-verity"
                ))
                .advise("build it without --auth none"));
            }
            let superblock = prove(data, hashes, root)?;
            stack::verified(
                &mut device,
                NAME,
                [&data.device, &hashes.device],
                &superblock,
                root,
                modules,
                log,
            )?;
        } else {
            device.path.clone_from(&data.device);
        }
        modules.load_named(&data.kind, log);
        let path = &device.path;
        mount::mount(path, target, &data.kind, self.flags, &self.options).map_err(|error| {
            let _ = device.release();
            Failure::new(format_args!("/usr on {path} cannot be mounted: {error}")).advise(
                "the kernel's log above says what it did not like: check the file system, and \
                 mount.usrflags= on the kernel command line",
            )
        })?;
        Ok(Mounted {
            device,
            kind: data.kind.clone(),
        })
    }
}

/// A /usr that is mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    device: ImageDevice,
    kind: String,
}

impl Mounted {
    /// One line for the log.
    #[must_use]
    pub(super) fn describe(&self) -> String {
        format!("{} on {}", self.kind, self.device.describe())
    }

    /// Has its devices go once it is unmounted.
    pub(super) fn release(&self) {
        let _ = self.device.release();
    }
}

/// Reads the tree's superblock and proves the first block: what is not the /usr that
/// the command line means is told before anything is mounted.
fn prove(data: &Found, hashes: &Found, root: &RootHash) -> Result<Superblock, Failure> {
    let not_trusted = |why: String| {
        Failure::new(format_args!(
            "/usr on {} is not the one that usrhash= names: {why}",
            data.device
        ))
        .advise("the root hash belongs to another version of /usr: install both together")
    };
    let data = Device::open(&data.device)?;
    let hashes = Device::open(&hashes.device)?;
    let superblock = Superblock::read(&hashes).map_err(|error| not_trusted(error.to_string()))?;
    let params = &superblock.params;
    Verifier::new(params, *root, params.tree_start(), &data, hashes)
        .map_err(|error| error.to_string())
        .and_then(|verifier| {
            let first = 0..params.data_blocks().min(1);
            verifier
                .verify(first, |_| {})
                .map_err(|fault| fault.to_string())
        })
        .map_err(not_trusted)?;
    Ok(superblock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const HASH: &str = "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f";

    fn choice(words: &UsrWords) -> Result<Option<Usr>, String> {
        choose(words, &["ext4".into()], 7)
    }

    fn text(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn a_root_hash_names_its_partitions() {
        let words = UsrWords {
            hash: text(HASH),
            ..UsrWords::default()
        };
        let usr = choice(&words).unwrap().unwrap();
        let guid = |text: &str| Root::PartUuid(text.parse().unwrap());
        assert_eq!(usr.data.name, guid("00112233-4455-6677-8899-aabbccddeeff"));
        let (tree, root) = usr.tree.unwrap();
        assert_eq!(tree.name, guid("10213243-5465-7687-98a9-bacbdcedfe0f"));
        assert_eq!((tree.kinds, root.to_hex()), (None, HASH.into()));
        assert_eq!(usr.data.kinds, Some(vec!["ext4".into(), "erofs".into()]));
        assert_eq!(usr.flags, Flags::RDONLY);
        let words = UsrWords {
            data: text("/dev/sda3"),
            hashes: text("LABEL=h"),
            flags: text("rw,noatime,dax"),
            source: text("/dev/mapper/usr"),
            kinds: vec!["erofs".into(), "squashfs".into()],
            ..words
        };
        let usr = choice(&words).unwrap().unwrap();
        assert_eq!(usr.data.name, Root::Device("sda3".into()));
        assert_eq!(usr.data.kinds, Some(vec!["erofs".into()]));
        assert_eq!(usr.tree.unwrap().0.name, Root::Label("h".into()));
        // What is proven is never written to.
        assert_eq!(usr.flags, Flags::RDONLY | Flags::NOATIME);
        assert_eq!(usr.options, "dax");
    }

    #[test]
    fn a_plain_usr_has_a_name_too() {
        assert_eq!(choice(&UsrWords::default()), Ok(None));
        let words = UsrWords {
            source: text("PARTLABEL=usr"),
            ..UsrWords::default()
        };
        let usr = choice(&words).unwrap().unwrap();
        assert_eq!(usr.data.name, Root::PartLabel("usr".into()));
        assert_eq!(
            (usr.tree, usr.data.kinds),
            (None, Some(vec!["ext4".into()]))
        );
    }

    #[test]
    fn what_takes_user_space_is_said() {
        for (words, why) in [
            (("xyz", None, None), "usrhash="),
            (
                (HASH, Some("/dev/mapper/a"), None),
                "systemd.verity_usr_data=",
            ),
            (
                (HASH, None, Some("LABEL=usr")),
                "mount.usr=LABEL=usr beside usrhash=",
            ),
        ] {
            let (hash, data, source) = words;
            let words = UsrWords {
                hash: text(hash),
                data: data.map(String::from),
                source: source.map(String::from),
                ..UsrWords::default()
            };
            let said = choice(&words).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        }
        let words = UsrWords {
            source: text("gpt-auto"),
            ..UsrWords::default()
        };
        assert!(choice(&words).unwrap_err().contains("takes user space"));
        let words = UsrWords {
            source: text("LABEL=u"),
            kinds: vec!["zfs".into()],
            ..UsrWords::default()
        };
        assert!(choice(&words).unwrap_err().contains("zfs is none of ext4"));
    }
}
