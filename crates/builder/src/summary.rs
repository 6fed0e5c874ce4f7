//! What a build made, for people and for programs.

use crate::progress::Step;
use serde::Serialize;
use std::path::PathBuf;

/// What [`crate::build`] made.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The init image; absent when only the mini-initramfs was built.
    pub image: Option<ImageSummary>,
    /// The mini-initramfs; absent when only the image was built.
    pub mini: Option<MiniSummary>,
}

/// An init image. Sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Size of the file system in it; that of the file where there is nothing else.
    pub filesystem_bytes: u64,
    /// The dm-verity root hash in lower-case hexadecimal digits, if it has one.
    pub root_hash: Option<String>,
    /// Whether the root hash is signed.
    pub signed: bool,
    /// Sum of the sizes of the regular files in it, hard links counted once.
    pub raw_bytes: u64,
    /// Size of the input (initramfs file), 0 for a root tree.
    pub input_bytes: u64,
    /// Number of directory entries of every kind, the root included.
    pub files: u64,
    /// UUID of the file system.
    pub uuid: String,
    /// The program that wrote it, with its version.
    pub writer: String,
    /// Compression as handed to the writer; empty for none.
    pub compression: String,
    /// Files stored plain because they do not compress.
    pub plain_files: u64,
    /// Their size in all.
    pub plain_bytes: u64,
    /// Modules that were decompressed in the image.
    pub decompressed_modules: u64,
    /// Size of the early segment (microcode, ACPI tables) kept apart.
    pub early_bytes: u64,
    /// What the image is of, as ordered, else `ID-VERSION_ID` of its os-release.
    pub product: String,
    /// Its version; empty for none.
    pub version: String,
    /// What was changed for the second stage, one sentence each.
    pub adjustments: Vec<String>,
    /// What a boot is to read ahead; absent if nothing is known of it.
    pub prefetch: Option<PrefetchSummary>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// How long the steps took.
    pub times: Vec<StepTime>,
}

/// The prefetch list of an image. Sizes are bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PrefetchSummary {
    /// Number of files in it.
    pub files: u64,
    /// What is to be read: metadata and files.
    pub bytes: u64,
    /// Of which metadata.
    pub metadata_bytes: u64,
    /// What the list takes in the image.
    pub list_bytes: u64,
    /// Whether it comes from a recorded boot; else it is a guess.
    pub recorded: bool,
    /// Files of the profile that the image does not have, or not of that size.
    pub skipped: u64,
}

/// A mini-initramfs. Sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct MiniSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Size of the file, the early segment included.
    pub bytes: u64,
    /// Size of the cpio archive before compression, without the early segment.
    pub raw_bytes: u64,
    /// Size of the early segment in front.
    pub early_bytes: u64,
    /// How the archive is compressed: `zstd-19`, `lz4`, `none`.
    pub compression: String,
    /// Size of storage-init.
    pub storage_init_bytes: u64,
    /// Size of the encoded boot plan.
    pub plan_bytes: u64,
    /// Size of the modules in all.
    pub module_bytes: u64,
    /// The modules, in load order.
    pub modules: Vec<ModuleSummary>,
    /// The packs in which those lie that not every boot needs.
    pub packs: Vec<PackSummary>,
    /// Size of the compressed list of this kernel's storage drivers that are not
    /// in it, for the report of a failed boot.
    pub absent_bytes: u64,
    /// Size of the image that is packed too, or 0.
    pub embedded_bytes: u64,
    /// Number of device aliases in the plan.
    pub aliases: u64,
    /// The kernel release that the modules are for.
    pub kernel_release: String,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// How long the steps took.
    pub times: Vec<StepTime>,
}

/// A module of the mini-initramfs.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleSummary {
    /// Name as `lsmod` shows it.
    pub name: String,
    /// Size of the `.ko`, in bytes.
    pub bytes: u64,
    /// When it is loaded: `disk`, `image`, `mapping`, `bus`, `dependency`.
    pub role: &'static str,
    /// Which request pulled it in: `needed by erofs`, `drives vda`.
    pub reason: String,
    /// The modules that need it, or want it softly.
    pub needed_by: Vec<String>,
    /// Whether those that need it are not loaded without it.
    pub required: bool,
    /// The file name of the pack that it lies in; absent if it is unpacked at
    /// every boot.
    pub pack: Option<String>,
}

/// A pack of the mini-initramfs.
#[derive(Debug, Clone, Serialize)]
pub struct PackSummary {
    /// Its file name.
    pub file: String,
    /// Its size in the archive, in bytes.
    pub bytes: u64,
    /// Size of the modules in it, in bytes.
    pub unpacked_bytes: u64,
}

/// How long a step took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// Wall time in milliseconds.
    pub ms: u64,
}
