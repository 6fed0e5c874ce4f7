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

mod error;
mod progress;
mod request;
mod summary;

pub use error::{Error, ErrorKind, Result};
pub use progress::{Progress, Silent, Step};
pub use request::{
    Compression, Generator, GeneratorRun, HostDisks, ImageCompression, ImageRequest, Kernel,
    Limits, MiniRequest, Modules, Source,
};
pub use summary::{ImageSummary, MiniSummary, ModuleSummary, StepTime, Summary};

pub use iofs_plan::{BootPlan, Candidate, Expect, OnFailure, Selector, Uuid};

use std::path::{Path, PathBuf};

/// What [`build_image`] made.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The numbers.
    pub summary: ImageSummary,
    /// What a plan should expect.
    pub expect: Expect,
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
    let image = build_image(image, progress)?;
    let mut mini = mini;
    for candidate in &mut mini.candidates {
        if candidate.expect == Expect::default() {
            candidate.expect = image.expect;
        }
    }
    if mini.early.is_empty() {
        mini.early.clone_from(&image.early);
    }
    if mini.product.is_empty() {
        mini.product.clone_from(&image.summary.product);
    }
    let mini = build_mini(&mini, progress)?;
    Ok((image, mini))
}

/// Builds an init image with mkfs.erofs.
///
/// # Errors
/// [`ErrorKind::Privilege`] without root's rights, and whatever goes wrong with
/// the input, the tools or the output; nothing is left at the output's path then.
pub fn build_image(request: &ImageRequest, progress: &dyn Progress) -> Result<BuiltImage> {
    let _ = (request, progress);
    Err(Error::new(ErrorKind::Unsupported, "not written yet"))
}

/// Builds a mini-initramfs. Needs no rights.
///
/// # Errors
/// [`ErrorKind::Modules`] if the kernel lacks what was asked for, and whatever
/// goes wrong with the files; nothing is left at the output's path then.
pub fn build_mini(request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
    let _ = (request, progress);
    Err(Error::new(ErrorKind::Unsupported, "not written yet"))
}

/// What a plan should expect of an existing image.
///
/// # Errors
/// If the file cannot be read or is no EROFS file system.
pub fn expect_of(image: &Path) -> Result<Expect> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("not written yet: {}", image.display()),
    ))
}

/// The kernel release of `sysroot`, if it has modules for exactly one.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is none, or several (the message lists them).
pub fn kernel_release(sysroot: &Path) -> Result<String> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("not written yet: {}", sysroot.display()),
    ))
}

/// The release of a kernel image file (x86 bzImage; also inside a UKI's `.linux`
/// section or `.uname`).
///
/// # Errors
/// [`ErrorKind::Input`] if the file is no kernel that says its release.
pub fn kernel_release_of_image(vmlinuz: &Path) -> Result<String> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("not written yet: {}", vmlinuz.display()),
    ))
}

/// The kernel image file of `release` under `sysroot`: `boot/vmlinuz-RELEASE`
/// or `usr/lib/modules/RELEASE/vmlinuz`.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is none; the message names the places.
pub fn kernel_image(sysroot: &Path, release: &str) -> Result<PathBuf> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("not written yet: {} {release}", sysroot.display()),
    ))
}

/// The block devices under this machine's boot partition: what is mounted on
/// the first of /efi, /boot/efi and /boot that is a mount point, else on /.
/// Kernel names, as [`HostDisks::devices`] takes them.
///
/// # Errors
/// [`ErrorKind::Usage`] if none of them is on a block device.
pub fn boot_disks(sysfs: &Path) -> Result<Vec<String>> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("not written yet: {}", sysfs.display()),
    ))
}
