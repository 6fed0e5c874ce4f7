//! The boot plan: what the builder decided and `storage-init` obeys.
//!
//! It is compiled at build time from the kernel's module metadata and the
//! user's choices, lies in the mini-initramfs as [`PATH`], and is trusted as
//! far as the mini-initramfs is (a signed UKI covers it). Everything that can
//! be worked out before the boot is: dependencies are indices, each module
//! stands after those it needs, aliases point at modules.
//!
//! # Format
//! Little-endian, no padding. A header of 16 bytes: magic `IOFSPLAN`, version
//! (u16, [`VERSION`]), two reserved bytes that are zero, total length (u32, bytes, header and
//! checksum included). Then the fields in the order of [`BootPlan`]: strings
//! and lists are a u16 count and that many bytes or items, enums a u8, GUIDs
//! 16 bytes in RFC 4122 order, the alias table a u32 length and the bytes of an
//! [`AliasTable`]. The last four bytes are the CRC-32 (IEEE) of all
//! before them. A plan of another version, with bytes left over, with a value
//! out of range or a dependency that does not stand before its user is refused:
//! plan and `storage-init` are always shipped together.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod absent;
mod aliases;
mod wire;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use absent::{ABSENT, Absent, AbsentError, MAX_ABSENT};
pub use aliases::{AliasError, AliasTable, MAX_PATTERN};
pub use iofs_verity::{OnCorruption, RootHash};
pub use uuid::Uuid;
pub use wire::PlanError;

/// Where the plan lies in the mini-initramfs.
pub const PATH: &str = "/initoverlayfs/plan";

/// The folder of the modules in the mini-initramfs; [`Module::file`] is inside.
pub const MODULES_DIR: &str = "/initoverlayfs/modules";

/// The folder of the packs in the mini-initramfs; [`Pack::file`] is inside.
pub const PACKS_DIR: &str = "/initoverlayfs/packs";

/// Where an image lies that is packed into the mini-initramfs.
pub const EMBEDDED: &str = "/initoverlayfs/image.raw";

/// Version of the format that this crate reads and writes.
pub const VERSION: u16 = 5;

/// The greatest size of an unpacked pack, in bytes.
pub const MAX_PACK: u32 = 64 << 20;

/// The greatest window of a pack's zstd frame, in bytes: PID 1 keeps it in
/// memory while it unpacks.
pub const MAX_PACK_WINDOW: u64 = 8 << 20;

/// The most certificates that a plan may trust.
pub const MAX_CERTIFICATES: usize = 8;

/// The greatest number of a platform configuration register (TCG PC Client
/// Platform Firmware Profile).
pub const MAX_PCR: u8 = 23;

/// The greatest size of an encoded plan, in bytes. The alias table of every
/// storage driver of a distribution kernel takes about 70 KB.
pub const MAX_LEN: usize = 4 << 20;

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootPlan {
    /// What the image is of: `debian-13`. A signed image must be of this product.
    pub product: String,
    /// The kernel release (`uname -r`) that the modules are for.
    pub kernel_release: String,
    /// How the image proves itself.
    pub auth: Auth,
    /// What the kernel does about a block of the image that is not the one that
    /// was proven.
    pub on_corruption: OnCorruption,
    /// Where to look for the image, in this order.
    pub candidates: Vec<Candidate>,
    /// The file systems that the kernel may mount, read-only, to reach an image
    /// that is a file on one (`xfs`, `btrfs`): code that reads what nobody has
    /// authenticated. FAT and ext4 never need it.
    pub kernel_mounts: Vec<String>,
    /// Whether the root file system may be mounted and its init executed without
    /// the image, which is then there for when that fails.
    pub direct: Option<Direct>,
    /// What the image is.
    pub stage: Stage,
    /// Which extension images are merged over the image; `None` for none at all.
    pub extensions: Option<Extensions>,
    /// What of that which the boot loader appended goes into the new root.
    pub appended: Appended,
    /// Modules that only some machines need, compressed by the group.
    pub packs: Vec<Pack>,
    /// The modules, each after the modules that it needs.
    pub modules: Vec<Module>,
    /// Which module serves which device; the targets are indices in
    /// [`BootPlan::modules`].
    pub aliases: AliasTable,
    /// The init to execute in the image; the first that exists.
    pub inits: Vec<String>,
    /// How long to wait for the image's device, in milliseconds.
    pub device_timeout_ms: u32,
    /// What to do when no candidate can be booted.
    pub on_failure: OnFailure,
    /// How long the report stays on the screen before `on_failure`, in
    /// milliseconds.
    pub failure_wait_ms: u32,
}

/// How the image proves that it is authentic. Nothing outside the plan can
/// choose another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Not at all. Only by an explicit word to the builder; the boot says so.
    None,
    /// It is the one image with this dm-verity root hash.
    Sealed(RootHash),
    /// Its root hash is signed.
    Signed(Signed),
}

impl Default for Auth {
    /// Signed, by nobody: no image is authentic.
    fn default() -> Self {
        Self::Signed(Signed::default())
    }
}

impl Auth {
    /// The word for it on command lines and in records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sealed(_) => "sealed",
            Self::Signed(_) => "signed",
        }
    }
}

/// What a signed image must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signed {
    /// X.509 certificates in DER, at least one and at most
    /// [`MAX_CERTIFICATES`]; a signature by any of them will do.
    pub certificates: Vec<Vec<u8>>,
    /// The least version (in the order of UAPI.10) that the image may have;
    /// empty for any.
    pub min_version: String,
    /// Where its root hash is measured before it is used.
    pub measure: Measure,
}

/// A measurement into a TPM 2.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// The platform configuration register, 0 to [`MAX_PCR`].
    pub pcr: u8,
    /// Whether a machine on which it cannot be made does not boot.
    pub required: bool,
}

impl Default for Measure {
    /// Into PCR 13, as systemd-stub does with system extensions, where there is
    /// a TPM.
    fn default() -> Self {
        Self {
            pcr: 13,
            required: false,
        }
    }
}

/// A place where the image may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name for messages and for `initoverlayfs.image=`: `esp`, `partition`.
    pub name: String,
    /// The partition.
    pub partition: Selector,
    /// The file on it; `None` if the partition itself is the image.
    pub file: Option<String>,
    /// What the image must look like.
    pub expect: Expect,
}

/// Which partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By GPT partition type, such as the EFI system partition's.
    TypeGuid(Uuid),
    /// By its unique GUID, as in `PARTUUID=`.
    PartUuid(Uuid),
    /// By its name in the GPT, as in `PARTLABEL=`.
    PartLabel(String),
    /// No partition, but memory that firmware or boot loader have filled and that the
    /// kernel shows as a block device (`/dev/pmem0`, by `memmap=nn!ss`).
    Pmem {
        /// Whether the file system's pages are used where they lie. dm-verity cannot
        /// do that: all of the image is proven before instead.
        dax: bool,
    },
    /// No partition, but the file [`EMBEDDED`] in the mini-initramfs.
    Embedded,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TypeGuid(guid) => write!(f, "partition type {guid}"),
            Self::PartUuid(guid) => write!(f, "PARTUUID={guid}"),
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
            Self::Pmem { .. } => f.write_str("persistent memory"),
            Self::Embedded => f.write_str("the mini-initramfs"),
        }
    }
}

/// A root file system so simple that no user space is needed to reach it. Nobody
/// authenticates it, here as in any initrd that mounts it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Direct {
    /// The root as `root=` names one, for a command line that does not; may be
    /// empty.
    pub root: String,
    /// The file systems that the kernel may mount as the root (`ext4`).
    pub kinds: Vec<String>,
    /// Mount options where the command line has no `rootflags=`.
    pub flags: String,
}

/// The identity of the image that was built with the plan. It catches a stale
/// or truncated file early and by name; it proves nothing against an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expect {
    /// UUID in the EROFS superblock; nil accepts any.
    pub uuid: Uuid,
    /// Size of the file system in bytes; 0 accepts any.
    pub size: u64,
}

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// An initrd: its init finds the root file system and switches to that.
    #[default]
    Initrd,
    /// The operating system: its init stays.
    System,
}

impl Stage {
    /// The word for it in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::System => "system",
        }
    }
}

/// The extension images (sysext, confext) that may be merged over the image. Each
/// proves itself like an image that is signed or sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// X.509 certificates in DER, at most [`MAX_CERTIFICATES`]; a signature by any of
    /// them will do.
    pub certificates: Vec<Vec<u8>>,
    /// Root hashes that need no signature.
    pub sealed: Vec<RootHash>,
}

/// What of the initramfs archives that the boot loader appended to the
/// mini-initramfs goes into the image's root. Nobody has authenticated them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Appended {
    /// `/.extra`, where systemd-stub puts credentials and extensions, whose
    /// users know that they have to check them.
    #[default]
    Extra,
    /// Everything, over the image's own files: whoever can write boot entries
    /// then decides what runs.
    All,
}

impl Appended {
    /// The word for it on command lines and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Extra => "extra",
            Self::All => "all",
        }
    }

    /// The choice of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Extra, Self::All]
            .into_iter()
            .find(|choice| choice.name() == name)
    }
}

/// Modules that are needed together, as one zstd frame (RFC 8878) whose content
/// is their files one behind the other: what no device asks for is neither
/// unpacked nor decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// File name inside [`PACKS_DIR`].
    pub file: String,
    /// Size of the content in bytes, at most [`MAX_PACK`].
    pub size: u32,
}

/// Where in a pack's content a module lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Index in [`BootPlan::packs`].
    pub pack: u16,
    /// Where the module's file begins, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Packed {
    /// The module's bytes in the pack's content.
    #[must_use]
    pub fn range(&self) -> core::ops::Range<usize> {
        let start = self.offset as usize;
        start..start.saturating_add(self.len as usize)
    }
}

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name as `lsmod` shows it (underscores).
    pub name: String,
    /// File name inside [`MODULES_DIR`]; a packed module's file is there once
    /// its pack was unpacked.
    pub file: String,
    /// The pack that it comes in; `None` if the file is in the archive.
    pub packed: Option<Packed>,
    /// Parameters for `finit_module`, as modprobe.d's `options` gives them.
    pub params: String,
    /// When it is loaded.
    pub role: Role,
    /// Indices in [`BootPlan::modules`] of what must be loaded before, hard and
    /// soft dependencies; each is less than the module's own index.
    pub needs: Vec<u16>,
    /// Whether a boot without it is pointless: a failure to load a dependency
    /// that is only soft is logged and passed over.
    pub required: bool,
    /// Indices of modules that do the same better; each is less than the module's
    /// own index. It is loaded only where none of these could be.
    pub fallback_for: Vec<u16>,
}

/// When a module is loaded. Dependencies are loaded with whatever needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Only as a dependency of another.
    Dependency,
    /// Drives the disk that the image is expected on: loaded at once, first.
    Disk,
    /// EROFS, overlay and dm-verity: loaded at once.
    Image,
    /// Block devices over parts of others (loop, dm-mod): loaded when a
    /// candidate is a file.
    Mapping,
    /// Drives some storage bus: loaded when a device asks for it, or when the
    /// expected disk does not come.
    Bus,
}

impl Role {
    /// The word for it in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dependency => "dependency",
            Self::Disk => "disk",
            Self::Image => "image",
            Self::Mapping => "mapping",
            Self::Bus => "bus",
        }
    }
}

/// A device alias and the module that serves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    /// Shell pattern (`*`, `?`, `[...]`) over modalias strings.
    pub pattern: String,
    /// Index of the module: in [`BootPlan::modules`], or in
    /// [`Absent::modules`].
    pub module: u16,
}

/// What happens after the failure report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Restart the machine, so that boot counting can choose another entry.
    #[default]
    Reboot,
    /// Turn the machine off.
    PowerOff,
    /// Stop, with the report on the screen.
    Halt,
}

impl OnFailure {
    /// The word for it in plans' sources and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Halt => "halt",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Reboot, Self::PowerOff, Self::Halt]
            .into_iter()
            .find(|action| action.name() == name)
    }
}

impl BootPlan {
    /// The plan's bytes. The same plan gives the same bytes.
    ///
    /// # Errors
    /// If the plan breaks what this format can say or [`BootPlan`] promises.
    pub fn encode(&self) -> Result<Vec<u8>, PlanError> {
        wire::encode(self)
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// The first thing that is wrong with `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        wire::decode(bytes)
    }

    /// The modules that serve a device with this modalias, as indices; one that
    /// several aliases name comes as often.
    pub fn modules_for(&self, modalias: &str) -> impl Iterator<Item = u16> + use<> {
        self.aliases.matches(modalias).into_iter()
    }
}

/// Whether `text` matches the shell pattern, as fnmatch(3) without flags does
/// for what the kernel's module aliases use: `*`, `?`, `[...]` with ranges and
/// a leading `!` or `^`, and a backslash that quotes the next byte.
///
/// Linear in the product of both lengths at worst: only the last `*` is ever
/// retried.
#[must_use]
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class_match(&pattern[p..], text[t]),
            Some(b'\\') if p + 1 < pattern.len() => (pattern[p + 1] == text[t]).then_some(2),
            Some(&byte) => (byte == text[t]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(len), _) => {
                p += len;
                t += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                t = from + 1;
                star = Some((after, t));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Matches `byte` against the bracket expression that `pattern` begins with;
/// returns the expression's length, or `None` if it does not match. An
/// expression without its closing bracket is a plain `[`.
fn class_match(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A `]` that comes first stands for itself.
    let Some(end) = pattern
        .iter()
        .enumerate()
        .skip(first + 1)
        .find_map(|(at, &b)| (b == b']').then_some(at))
    else {
        return (byte == b'[').then_some(1);
    };
    let mut hit = false;
    let mut at = first;
    while at < end {
        if at + 2 < end && pattern[at + 1] == b'-' {
            hit |= (pattern[at]..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            hit |= pattern[at] == byte;
            at += 1;
        }
    }
    (hit != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests;
