//! Installs a built set: kernel, mini-initramfs, init image and boot entry.
//!
//! # Layout
//! On the file system that the plan's candidate names (ESP, XBOOTLDR, /boot):
//!
//! ```text
//! /TOKEN/VERSION/image.raw      where the plan looks for it
//! /TOKEN/VERSION/initrd         the mini-initramfs
//! /TOKEN/VERSION/linux          the kernel
//! /loader/entries/TOKEN-VERSION.conf
//! ```
//!
//! The entry is of type 1 of the Boot Loader Specification. TOKEN is the entry
//! token of kernel-install(8). A set with a UKI has that for its entry, which
//! holds mini-initramfs, kernel and kernel arguments:
//!
//! ```text
//! /TOKEN/VERSION/image.raw
//! /EFI/Linux/TOKEN-VERSION.efi  on the ESP or XBOOTLDR
//! ```
//!
//! An image that is not authenticated is `image.erofs`. With
//! [`Options::image_partitions`] the image goes into partitions of a disk
//! instead, and the rest to the ESP or XBOOTLDR.
//!
//! # The promise
//! No file that exists is changed or removed, no partition but those that the
//! user names as spare, and a crash or a power cut at any
//! point leaves either no new entry or one whose files are all there, whole:
//!
//! 1. Everything is worked out and checked (room, names, conflicts) before the
//!    first write.
//! 2. Each file is written under a temporary name in its own folder, synced,
//!    read back from the medium and compared, renamed without replacing, and its
//!    folder synced.
//! 3. The entry or the UKI comes last, the same way.
//!
//! Partitions come before files: written, synced, read back, proven, and only
//! then given the PARTUUIDs by which a boot finds them.
//!
//! A failure that is not a crash takes back the files that this run made; spare
//! partitions keep what was written. A file that is
//! there with the same content is left alone, so an installation can be repeated.

#![forbid(unsafe_code)]

mod booted;
mod direct;
mod entry;
mod error;
mod identity;
mod job;
pub mod manifest;
mod partitions;
mod run;
mod sfdisk;
mod slot;
mod system;
mod target;
pub mod vfs;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use error::{ErrorKind, InstallError};
pub use identity::{EntryToken, check_name};
pub use manifest::{BuiltSet, Manifest};
pub use slot::{Change, PartitionName, Slot};
pub use system::{FileSource, System};
pub use target::{ESP_TYPE, TargetKind, XBOOTLDR_TYPE};

/// What the user chose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The ESP's folder; taken as it is, without a look at the mount table.
    pub esp: Option<PathBuf>,
    /// The folder of XBOOTLDR or /boot; likewise.
    pub boot: Option<PathBuf>,
    /// The entry token.
    pub entry_token: EntryToken,
    /// Kernel arguments of the entry; `None` takes the root's. Those of a UKI
    /// cannot be others than it was built with.
    pub cmdline: Option<String>,
    /// The spare partitions of one disk that take the image: one for all of it,
    /// or one each for file system, hash tree and, if it is signed, signature.
    /// Empty for an image in a file.
    pub image_partitions: Vec<PartitionName>,
    /// Work everything out and write nothing.
    pub dry_run: bool,
}

/// Is told how an installation goes.
pub trait Progress {
    /// A file is about to be written and read back: `total` bytes of work.
    fn begin(&self, path: &Path, total: u64) {
        let _ = (path, total);
    }

    /// So many bytes more are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The file is in place.
    fn end(&self) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It was written.
    Written,
    /// It was there with the same content.
    AlreadyThere,
    /// It would be written (dry run).
    WouldWrite,
}

/// A file of the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// Its path on this machine.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// What became of it.
    pub action: Action,
}

/// A partition of the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InstalledPartition {
    /// Its device node.
    pub node: PathBuf,
    /// What of the image it holds: `root`, `root-verity`, `root-verity-sig`, or
    /// all of it: `image`.
    pub holds: String,
    /// How many bytes of it, from its first.
    pub size: u64,
    /// SHA-256 of these, lower-case hex.
    pub sha256: String,
    /// Its PARTUUID now.
    pub partuuid: String,
    /// Its partition type now.
    pub type_guid: String,
    /// Whether it has the read-only flag now.
    pub read_only: bool,
    /// What became of it.
    pub action: Action,
}

/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The sort of place.
    pub target: TargetKind,
    /// Its folder on this machine.
    pub folder: PathBuf,
    /// Name of the entry, as boot loaders show and select it.
    pub entry_id: String,
    /// The same with its file's end, `.conf` or `.efi`, as bootctl takes it.
    pub entry_file: String,
    /// The entry's text; empty for a UKI.
    pub entry: String,
    /// The image's partitions, file system first; empty if it is a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<InstalledPartition>,
    /// Image, mini-initramfs, kernel, entry, or image and UKI, in the order of
    /// their writing; no image if it has partitions.
    pub files: Vec<Installed>,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether everything was there before.
    #[must_use]
    pub fn already_installed(&self) -> bool {
        let files = self.files.iter().map(|file| file.action);
        files
            .chain(self.partitions.iter().map(|part| part.action))
            .all(|action| action == Action::AlreadyThere)
    }
}

/// Installs `set` for the root tree `root` (`/` for the running system).
///
/// # Errors
/// See [`ErrorKind`]; after an error nothing of this run is left, save what a
/// failing medium refuses to remove.
pub fn install(
    root: &Path,
    set: &BuiltSet,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, InstallError> {
    install_with(
        &System::default(),
        &vfs::HostVfs,
        root,
        set,
        options,
        progress,
    )
}

/// As [`install`], with the system and the writer given.
///
/// # Errors
/// As [`install`].
pub fn install_with(
    system: &System,
    vfs: &dyn vfs::Vfs,
    root: &Path,
    set: &BuiltSet,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, InstallError> {
    let job = job::resolve(system, vfs, root, set, options)?;
    if options.dry_run {
        return Ok(job.report(Action::WouldWrite));
    }
    run::run(&job, vfs, progress)?;
    Ok(job.report(Action::Written))
}
