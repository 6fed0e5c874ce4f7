//! `build.json`: what a build made, and the folder that holds it.
//!
//! The command line writes it, the installer and `run` read it. JSON, version
//! [`VERSION`]; sizes are bytes, digests SHA-256 in lower-case hex, GUIDs in the
//! usual text form. Names of files are names inside the set's folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use iofs_plan::{Candidate, Selector, Stage, Uuid};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, InstallError};

/// Name of the file in a set's folder.
pub const NAME: &str = "build.json";

/// The version of the format.
pub const VERSION: u32 = 2;

/// The folder beside an installed image in which boots look for extensions.
pub const EXTENSIONS: &str = "extensions";

/// A manifest is a few hundred bytes; more than this is not one.
const MAX_LEN: u64 = 1 << 20;

/// The content of `build.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// What the image is of, as in the boot plan.
    pub product: String,
    /// Version of the set, the second part of its path.
    pub product_version: String,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// How the image proves itself, as in the boot plan: `none`, `sealed`,
    /// `signed`.
    pub auth: String,
    /// The image's dm-verity root hash in lower-case hex, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_hash: Option<String>,
    /// Where the plan looks for the image, in its order.
    pub candidates: Vec<Place>,
    /// The init image: `image.raw`, a disk image that proves itself, or
    /// `image.erofs`, a bare file system.
    pub image: Artefact,
    /// UUID of the image's file system.
    pub image_uuid: String,
    /// The mini-initramfs.
    pub initrd: Artefact,
    /// The kernel.
    pub kernel: Artefact,
    /// Extensions, which boots look for in the folder [`EXTENSIONS`] beside the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Artefact>,
    /// The UKI of kernel, mini-initramfs and kernel arguments, if one was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uki: Option<Artefact>,
    /// Whether the UKI is signed for Secure Boot.
    #[serde(default)]
    pub uki_signed: bool,
    /// The file systems that a root may have that is booted directly; none where
    /// every boot goes through the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direct: Vec<String>,
    /// What the image is, as in the boot plan: `initrd` or `system`.
    #[serde(default = "initrd")]
    pub stage: String,
    /// Kernel arguments that the build asks for, if any; those in the UKI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
}

fn initrd() -> String {
    Stage::Initrd.name().into()
}

impl Manifest {
    /// Whether the image is the operating system, and looks for no root.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.stage == Stage::System.name()
    }
}

/// A file of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// Name in the set's folder.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, 64 lower-case hex digits.
    pub sha256: String,
}

/// A place where the plan looks for the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The candidate's name.
    pub name: String,
    /// The partition.
    pub partition: Partition,
    /// Absolute path of the file on it; absent if the partition is the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// How a partition is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Its GPT type.
    TypeGuid(String),
    /// Its unique GUID.
    Partuuid(String),
    /// Its GPT name.
    Partlabel(String),
    /// None: it is memory that the loader fills.
    Pmem {
        /// Whether the file system's pages are used where they lie.
        dax: bool,
    },
    /// None: the image is packed into the mini-initramfs.
    Embedded,
}

impl From<&Candidate> for Place {
    fn from(candidate: &Candidate) -> Self {
        Self {
            name: candidate.name.clone(),
            partition: match &candidate.partition {
                Selector::TypeGuid(guid) => Partition::TypeGuid(guid.to_string()),
                Selector::PartUuid(guid) => Partition::Partuuid(guid.to_string()),
                Selector::PartLabel(label) => Partition::Partlabel(label.clone()),
                Selector::Pmem { dax } => Partition::Pmem { dax: *dax },
                Selector::Embedded => Partition::Embedded,
            },
            file: candidate.file.clone(),
        }
    }
}

impl Place {
    /// The selector as the plan has it.
    ///
    /// # Errors
    /// If a GUID cannot be read.
    pub fn selector(&self) -> Result<Selector, InstallError> {
        let guid = |text: &str| {
            Uuid::parse_str(text).map_err(|e| {
                InstallError::new(
                    ErrorKind::Set,
                    format!("candidate {} has the GUID {text:?}", self.name),
                )
                .with_source(e)
            })
        };
        Ok(match &self.partition {
            Partition::TypeGuid(text) => Selector::TypeGuid(guid(text)?),
            Partition::Partuuid(text) => Selector::PartUuid(guid(text)?),
            Partition::Partlabel(label) => Selector::PartLabel(label.clone()),
            Partition::Pmem { dax } => Selector::Pmem { dax: *dax },
            Partition::Embedded => Selector::Embedded,
        })
    }
}

impl Artefact {
    /// Reads a file and takes its size and digest.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(dir: &Path, name: &str) -> Result<Self, InstallError> {
        let path = dir.join(name);
        let mut file = File::open(&path).map_err(|e| InstallError::io("open", &path, e))?;
        let (size, sha256) = digest(&mut file).map_err(|e| InstallError::io("read", &path, e))?;
        Ok(Self {
            name: name.into(),
            size,
            sha256,
        })
    }

    fn check(&self) -> Result<(), String> {
        let plain = !self.name.is_empty()
            && !self.name.starts_with('.')
            && !self.name.contains(['/', '\0']);
        if !plain {
            return Err(format!("{:?} is not a plain file name", self.name));
        }
        let digits = self
            .sha256
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if self.sha256.len() != 64 || !digits {
            return Err(format!("the digest of {} is not SHA-256", self.name));
        }
        Ok(())
    }
}

/// Size and SHA-256 (lower-case hex) of what `reader` yields.
///
/// # Errors
/// If reading fails.
pub fn digest(reader: &mut dyn Read) -> std::io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0u64;
    loop {
        let count = reader.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        hasher.update(chunk);
        size = size.saturating_add(chunk.len() as u64);
    }
    Ok((size, hex(&hasher.finalize())))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder with what a build made.
#[derive(Debug, Clone)]
pub struct BuiltSet {
    /// The folder.
    pub dir: PathBuf,
    /// Its `build.json`.
    pub manifest: Manifest,
}

impl BuiltSet {
    /// Reads the manifest and checks that its files are there with their sizes.
    /// Digests are checked when the files are copied.
    ///
    /// # Errors
    /// [`ErrorKind::Set`] or [`ErrorKind::Io`].
    pub fn open(dir: &Path) -> Result<Self, InstallError> {
        let path = dir.join(NAME);
        let bad = |why: String| {
            InstallError::new(ErrorKind::Set, format!("{} {why}", path.display()))
                .with_hint("make the set again with `initoverlayfs build`")
        };
        let file = File::open(&path).map_err(|e| {
            InstallError::io("open", &path, e)
                .with_hint("name the output folder of `initoverlayfs build` with --from")
        })?;
        let mut text = Vec::new();
        file.take(MAX_LEN)
            .read_to_end(&mut text)
            .map_err(|e| InstallError::io("read", &path, e))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| bad("is not a manifest".into()).with_source(e))?;
        if manifest.version != VERSION {
            return Err(bad(format!(
                "has version {}; this program reads version {VERSION}",
                manifest.version
            )));
        }
        let set = Self {
            dir: dir.into(),
            manifest,
        };
        for artefact in set.artefacts() {
            artefact.check().map_err(&bad)?;
            let path = set.path(artefact);
            let found = fs::metadata(&path).map_err(|e| InstallError::io("find", &path, e))?;
            if !found.is_file() || found.len() != artefact.size {
                return Err(bad(format!(
                    "says that {} has {} bytes; it has {}",
                    artefact.name,
                    artefact.size,
                    found.len()
                )));
            }
        }
        Ok(set)
    }

    /// Its files: image, mini-initramfs, kernel and, if there are any, UKI and
    /// extensions.
    #[must_use]
    pub fn artefacts(&self) -> Vec<&Artefact> {
        let m = &self.manifest;
        let parts = [&m.image, &m.initrd, &m.kernel];
        let parts = parts.into_iter().chain(&m.uki);
        parts.chain(&m.extensions).collect()
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, artefact: &Artefact) -> PathBuf {
        self.dir.join(&artefact.name)
    }
}
