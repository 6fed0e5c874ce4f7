//! Makes the two artefacts of a boot from what a distribution already has.
//!
//! * The **init image**: an EROFS file system with the content of an initramfs,
//!   of a root tree, or of what a generator makes ([`build_image`]).
//! * The **mini-initramfs**: `storage-init`, the few kernel modules that reach
//!   the image, and the compiled boot plan ([`build_mini`]).
//!
//! [`build`] makes both and ties them together: the plan expects the very image
//! that was built. Inputs are hostile bytes; outputs are deterministic: the same
//! request over the same input gives the same bytes.

#![forbid(unsafe_code)]

mod adjust;
mod certificate;
mod clock;
mod error;
mod image;
mod input;
mod kernel;
mod mini;
mod osrelease;
mod process;
pub mod profile;
mod progress;
mod request;
mod sign;
mod stage;
mod summary;
mod system;
mod uki;

pub use certificate::TrustedCertificate;
pub use error::{Error, ErrorKind, Result};
pub use image::{BuiltExtension, ImageJob, ImageWriter, MkfsErofs, claimed_root, expect_of};
pub use iofs_extension::Kind as ExtensionKind;
pub use kernel::{kernel_image, kernel_release, kernel_release_of_image};
pub use mini::MiniAhead;
pub use mini::host::{boot_disks, drivers_of};
pub use osrelease::product_of;
pub use profile::{HotFiles, Profile};
pub use progress::{Progress, Silent, Step};
pub use request::{
    Compression, Container, ExtensionRequest, Generator, GeneratorRun, HostDisks, ImageCompression,
    ImageRequest, Kernel, Limits, MiniRequest, Modules, PersistentVar, Source, System,
};
pub use sign::{KeyType, KeygenRequest, NewKey, Signer, keygen};
pub use summary::{
    ImageSummary, MiniSummary, ModuleSummary, PackSummary, PrefetchSummary, StepTime, Summary,
};
pub use uki::{
    BuiltUki, KeySource, PcrSigning, SigningTool, UkiRequest, UkiSection, UkiSigning, build_uki,
    default_stub, sign_uki,
};

use std::path::Path;

pub use iofs_plan::{
    Appended, Auth, BootPlan, Candidate, Direct, Expect, Extensions, Measure, OnCorruption,
    OnFailure, RootHash, Selector, Signed, Stage, Uuid,
};

/// What [`build_image`] made.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The numbers.
    pub summary: ImageSummary,
    /// What a plan should expect.
    pub expect: Expect,
    /// The dm-verity root hash, if it is wrapped in a disk image.
    pub root_hash: Option<RootHash>,
    /// The early segments of the input (microcode, ACPI tables), as they were:
    /// they belong in front of the mini-initramfs.
    pub early: Vec<u8>,
}

/// What [`build_mini`] made.
#[derive(Debug, Clone)]
pub struct BuiltMini {
    /// The numbers.
    pub summary: MiniSummary,
    /// The plan inside.
    pub plan: BootPlan,
}

/// Builds image and mini-initramfs.
///
/// # Errors
/// See [`build_image`] and [`build_mini`].
pub fn build(
    image: &ImageRequest,
    mini: MiniRequest,
    progress: &dyn Progress,
) -> Result<(BuiltImage, BuiltMini)> {
    let ahead = MiniAhead::start(mini.clone());
    let image = build_image(image, &ahead.beside(progress))?;
    let mut mini = mini;
    if let (true, Some(root)) = (mini.auth == Auth::default(), image.root_hash) {
        mini.auth = Auth::Sealed(root);
    }
    let any = matches!(mini.auth, Auth::Signed(_));
    for candidate in mini.candidates.iter_mut().filter(|_| !any) {
        if candidate.expect == Expect::default() {
            candidate.expect = image.expect;
        }
    }
    let packed = |candidate: &Candidate| candidate.partition == Selector::Embedded;
    if mini.embed.is_none() && mini.candidates.iter().any(packed) {
        mini.embed = Some(image.summary.path.clone());
    }
    if mini.early.is_empty() {
        mini.early.clone_from(&image.early);
    }
    if mini.product.is_empty() {
        mini.product.clone_from(&image.summary.product);
    }
    let mini = ahead.build(&mini, progress)?;
    Ok((image, mini))
}

/// Builds an init image with mkfs.erofs.
///
/// # Errors
/// [`ErrorKind::Privilege`] without root's rights, and whatever goes wrong with
/// the input, the tools or the output; nothing is left at the output's path then.
pub fn build_image(request: &ImageRequest, progress: &dyn Progress) -> Result<BuiltImage> {
    image::build(request, progress)
}

/// Builds an init image with a writer of the caller's. The request's compression
/// is not used: it is the writer's own affair.
///
/// # Errors
/// As [`build_image`].
pub fn build_image_with(
    request: &ImageRequest,
    writer: &dyn ImageWriter,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    image::build_with(request, writer, progress)
}

/// Builds an extension image.
///
/// # Errors
/// As [`build_image`]; [`ErrorKind::Input`] for a tree that is no extension's.
pub fn build_extension(
    request: &ExtensionRequest,
    progress: &dyn Progress,
) -> Result<BuiltExtension> {
    image::extension::build(request, progress)
}

/// Builds a mini-initramfs. Needs no rights.
///
/// # Errors
/// [`ErrorKind::Modules`] if the kernel lacks what was asked for, and whatever
/// goes wrong with the files; nothing is left at the output's path then.
pub fn build_mini(request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
    mini::build(request, progress)
}

/// Adds a signature to a disk image that this crate made, or replaces the one
/// that it has; its root hash.
///
/// # Errors
/// [`ErrorKind::Input`] if it is none, or was changed; as [`Signer::sign`]. The
/// image is as it was then.
pub fn sign_image(image: &Path, signer: &Signer, progress: &dyn Progress) -> Result<RootHash> {
    image::sign_image(image, signer, progress)
}
