//! The Unified Kernel Image: stub, kernel, mini-initramfs, command line and what
//! describes them, as one program that firmware starts and Secure Boot checks.
//!
//! Sections, their order and their layout are those of systemd's ukify 257, and
//! so are the bytes, with these exceptions:
//!
//! * An empty command line becomes one space. Without a `.cmdline` section the
//!   stub takes whatever the boot loader hands it, even under Secure Boot.
//! * The JSON of `.pcrsig` is left as systemd-measure prints it.
//! * `.sbat` of stub or kernel that is none is an error; ukify passes over it.
//! * A kernel that is no PE image is an error; ukify decompresses it.
//! * A stub whose sections are not aligned in the file is an error (see
//!   [`iofs_pe::Appender`]); ukify moves them.
//! * A signature holds the time at which it was made, and ECDSA a random number.

mod content;
mod pcr;
mod sign;

use crate::error::{Error, ErrorKind, Result};
use crate::image::Pending;
use crate::progress::Progress;
use content::{Material, read_file};
use iofs_pe::{AppendError, Appender, Content, Image, PeError};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The greatest size of a UKI that is read back, in bytes: more than its parts
/// may have in all.
const MAX_UKI: u64 = 3 << 30;

/// Order for a UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiRequest {
    /// Where it goes.
    pub output: PathBuf,
    /// systemd's stub; see [`default_stub`].
    pub stub: PathBuf,
    /// The kernel, a PE image (on x86-64 every bzImage is one).
    pub kernel: PathBuf,
    /// The mini-initramfs.
    pub initrd: PathBuf,
    /// An uncompressed cpio archive of microcode, for a section of its own, which
    /// stubs from systemd 256 on load. None if the initrd begins with it.
    pub microcode: Option<PathBuf>,
    /// The kernel's command line. White space at its ends and double blanks go.
    pub cmdline: String,
    /// Bytes of an os-release file, by which boot loaders name the entry.
    pub os_release: Vec<u8>,
    /// The kernel's release, as `uname -r` says it.
    pub uname: String,
    /// A picture (BMP) to show meanwhile.
    pub splash: Option<PathBuf>,
    /// SBAT to add to the stub's and the kernel's, with its header line. `None` is
    /// ukify's, which names the UKI; the empty string adds nothing.
    pub sbat: Option<String>,
    /// A device tree blob.
    pub devicetree: Option<PathBuf>,
    /// Signs for Secure Boot.
    pub signing: Option<UkiSigning>,
    /// Signs the PCR values that booting it gives.
    pub pcr: Option<PcrSigning>,
}

impl UkiRequest {
    /// An unsigned UKI of these parts.
    #[must_use]
    pub fn new(output: PathBuf, stub: PathBuf, kernel: PathBuf, initrd: PathBuf) -> Self {
        Self {
            output,
            stub,
            kernel,
            initrd,
            microcode: None,
            cmdline: String::new(),
            os_release: Vec::new(),
            uname: String::new(),
            splash: None,
            sbat: None,
            devicetree: None,
            signing: None,
            pcr: None,
        }
    }
}

/// A private key for signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file.
    File(PathBuf),
    /// A `pkcs11:` URI (RFC 7512). sbsign and systemd-measure reach it by
    /// OpenSSL's engine `pkcs11`, systemd-sbsign by the provider of that name.
    Pkcs11(String),
}

/// How to sign for Secure Boot (Authenticode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiSigning {
    /// The key.
    pub key: KeySource,
    /// Its certificate, a PEM file.
    pub certificate: PathBuf,
    /// With what; `None` takes sbsign, or systemd-sbsign if only that is installed.
    pub tool: Option<SigningTool>,
}

/// A program that makes Authenticode signatures, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningTool {
    /// sbsign.
    Sbsign(PathBuf),
    /// systemd-sbsign (systemd 257 and later).
    SystemdSbsign(PathBuf),
}

/// How to sign PCR values, so that a TPM secret can be bound to whoever signs
/// instead of to one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSigning {
    /// The key, RSA.
    pub private_key: KeySource,
    /// Its public key, a PEM file; it becomes `.pcrpkey`.
    pub public_key: PathBuf,
    /// A certificate of it, PEM; needed for a key on a token.
    pub certificate: Option<PathBuf>,
    /// Banks of the TPM: `sha256`, `sha384`, `sha512`, `sha1`.
    pub banks: Vec<String>,
    /// Phases of the boot, as `enter-initrd:leave-initrd`; empty for
    /// systemd-measure's own four.
    pub phases: Vec<String>,
    /// The program systemd-measure; `None` looks where it is installed.
    pub measure: Option<PathBuf>,
}

impl PcrSigning {
    /// The SHA-256 bank, the usual phases.
    #[must_use]
    pub fn new(private_key: KeySource, public_key: PathBuf) -> Self {
        Self {
            private_key,
            public_key,
            certificate: None,
            banks: vec!["sha256".to_owned()],
            phases: Vec::new(),
            measure: None,
        }
    }
}

/// What [`build_uki`] made.
#[derive(Debug, Clone, Serialize)]
pub struct BuiltUki {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub bytes: u64,
    /// UEFI's short name of the processor: `x64`, `aa64`.
    pub machine: String,
    /// The sections in their order, the stub's own included.
    pub sections: Vec<UkiSection>,
    /// Whether it is signed for Secure Boot.
    pub signed: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A section of a UKI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UkiSection {
    /// Its name.
    pub name: String,
    /// Offset of its content in the file.
    pub offset: u64,
    /// Size of its content, in bytes.
    pub bytes: u64,
}

/// A section to be: name, content, what it is said to hold.
pub(crate) type NewSection = (&'static str, Vec<u8>, Content);

/// Where systemd's stub for `kernel`'s processor is under `sysroot`.
///
/// # Errors
/// [`ErrorKind::MissingTool`] if it is not there; [`ErrorKind::Input`] or
/// [`ErrorKind::Unsupported`] if the kernel's processor cannot be told.
pub fn default_stub(sysroot: &Path, kernel: &Path) -> Result<PathBuf> {
    let bytes = read_file(kernel, content::MAX_KERNEL)?;
    let machine = kernel_image(kernel, &bytes)?.machine;
    let name = machine.efi_name().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("{} is for an unknown {machine}", kernel.display()),
        )
    })?;
    let stub = sysroot.join(format!("usr/lib/systemd/boot/efi/linux{name}.efi.stub"));
    if stub.is_file() {
        return Ok(stub);
    }
    Err(Error::new(
        ErrorKind::MissingTool,
        format!("systemd's stub {} is not installed", stub.display()),
    )
    .hint("Install the package systemd-boot-efi (on Fedora systemd-boot-unsigned)."))
}

/// Builds a UKI, and reads it back before it gets its name.
///
/// With [`UkiRequest::signing`], a kernel without a signature gets one too, as
/// some stubs and shims ask for it.
///
/// # Errors
/// [`ErrorKind::Usage`] and [`ErrorKind::Input`] for parts that cannot be,
/// [`ErrorKind::MissingTool`] and [`ErrorKind::Tool`] for the programs that sign,
/// [`ErrorKind::Verify`] if what was written is not what was meant; nothing is
/// left at the output's path then.
pub fn build_uki(request: &UkiRequest, progress: &dyn Progress) -> Result<BuiltUki> {
    let mut material = Material::read(request)?;
    let signer = match &request.signing {
        Some(signing) => Some(sign::Signer::new(signing)?),
        None => None,
    };
    let machine = check_machines(request, &material)?;
    let nx_compatible = kernel_image(&request.kernel, &material.kernel)?.nx_compatible();
    if let Some(signer) = &signer {
        sign_kernel(&mut material, signer, progress)?;
    }
    let stub = std::mem::take(&mut material.stub);
    let mut warnings = std::mem::take(&mut material.warnings);
    let mut sections = material.into_sections();
    if let Some(pcr) = &request.pcr {
        let signature = pcr::sign(pcr, &sections, progress)?;
        sections.push((".pcrsig", signature, Content::Data));
    } else if signer.is_none() {
        warnings.push("the UKI is not signed: Secure Boot will refuse it".to_owned());
    }
    let bytes = assemble(&request.stub, &stub, &sections, nx_compatible)?;
    let mut pending = write(&request.output, &bytes)?;
    drop(bytes);
    if let Some(signer) = &signer {
        let signed = Pending::new(&request.output)?;
        signer.sign(pending.path(), signed.path(), progress)?;
        pending = signed;
    }
    let mut built = read_back(pending.path(), &sections, signer.is_some())?;
    pending.commit()?;
    for warning in &warnings {
        progress.warn(warning);
    }
    built.path.clone_from(&request.output);
    built.machine = machine;
    built.warnings = warnings;
    Ok(built)
}

/// Signs a UKI, or another UEFI program, for Secure Boot, in place of itself.
///
/// # Errors
/// As [`build_uki`]; it is as it was then.
pub fn sign_uki(path: &Path, signing: &UkiSigning, progress: &dyn Progress) -> Result<()> {
    let signer = sign::Signer::new(signing)?;
    let input = path
        .canonicalize()
        .map_err(Error::io("looking for", path))?;
    let signed = Pending::new(&input)?;
    signer.sign(&input, signed.path(), progress)?;
    let bytes = read_file(signed.path(), MAX_UKI)?;
    if !Image::read(&bytes).is_ok_and(|image| image.is_signed()) {
        return Err(Error::new(
            ErrorKind::Verify,
            format!("{} has no signature after signing", path.display()),
        ));
    }
    signed.commit()
}

/// The kernel's headers.
fn kernel_image(path: &Path, bytes: &[u8]) -> Result<Image> {
    Image::read(bytes).map_err(|source| match source {
        PeError::NoDosHeader | PeError::NoPeHeader { .. } => Error::new(
            ErrorKind::Unsupported,
            format!("the kernel {} is no UEFI program", path.display()),
        )
        .hint("If it is compressed, decompress it; it has to be built with CONFIG_EFI_STUB.")
        .source(source),
        _ => Error::new(
            ErrorKind::Input,
            format!("the kernel {} is damaged", path.display()),
        )
        .source(source),
    })
}

/// Stub and kernel have to be for the same processor.
fn check_machines(request: &UkiRequest, material: &Material) -> Result<String> {
    let kernel = kernel_image(&request.kernel, &material.kernel)?.machine;
    let stub = Image::read(&material.stub)
        .map_err(|source| bad_stub(&request.stub).source(source))?
        .machine;
    if kernel == stub {
        return Ok(kernel.to_string());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!(
            "the stub {} is for {stub} and the kernel {} for {kernel}",
            request.stub.display(),
            request.kernel.display()
        ),
    ))
}

fn bad_stub(stub: &Path) -> Error {
    Error::new(
        ErrorKind::Input,
        format!("{} cannot be used as a stub", stub.display()),
    )
}

fn sign_kernel(
    material: &mut Material,
    signer: &sign::Signer<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    if Image::read(&material.kernel).is_ok_and(|kernel| kernel.is_signed()) {
        return Ok(());
    }
    let work = tempfile::tempdir().map_err(|source| {
        Error::new(ErrorKind::Io, "no folder for temporary files").source(source)
    })?;
    let (plain, signed) = (work.path().join("linux"), work.path().join("linux-signed"));
    fs::write(&plain, &material.kernel).map_err(Error::io("writing", &plain))?;
    signer.sign(&plain, &signed, progress)?;
    material.kernel = read_file(&signed, content::MAX_KERNEL)?;
    if Image::read(&material.kernel).is_ok_and(|kernel| kernel.is_signed()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Verify,
        "the kernel has no signature after signing",
    ))
}

fn assemble(
    path: &Path,
    stub: &[u8],
    sections: &[NewSection],
    nx_compatible: bool,
) -> Result<Vec<u8>> {
    let failed = |source: AppendError| {
        let error = bad_stub(path);
        match source {
            AppendError::NoRoom { .. } => {
                error.hint("Take a stub of systemd 254 or later, or add no SBAT of your own.")
            }
            AppendError::Duplicate { .. } => {
                error.hint("It may be a whole UKI; take systemd's stub.")
            }
            _ => error,
        }
        .source(source)
    };
    let mut appender = Appender::new(stub).map_err(failed)?;
    if !nx_compatible {
        // Firmware that enforces it would stop the kernel (as ukify has it).
        appender.clear_nx_compatible();
    }
    for (name, data, content) in sections {
        // The stub's own is part of it.
        if *name == ".sbat" && appender.image().section(name).is_some() {
            appender.replace(name, data).map_err(failed)?;
        } else {
            appender.append(name, data, *content).map_err(failed)?;
        }
    }
    appender.finish().map_err(failed)
}

fn write(output: &Path, bytes: &[u8]) -> Result<Pending> {
    let pending = Pending::new(output)?;
    fs::write(pending.path(), bytes).map_err(Error::io("writing", pending.path()))?;
    Ok(pending)
}

/// Reads what was written as a stranger would, and compares.
fn read_back(path: &Path, sections: &[NewSection], signed: bool) -> Result<BuiltUki> {
    let wrong = |what: String| Error::new(ErrorKind::Verify, format!("the UKI {what}"));
    let bytes = read_file(path, MAX_UKI)?;
    let image = Image::read(&bytes)
        .map_err(|source| wrong("does not read back".to_owned()).source(source))?;
    let content = |section: &iofs_pe::Section| {
        let data = section.data();
        let range = usize::try_from(data.start).ok()?..usize::try_from(data.end).ok()?;
        bytes.get(range)
    };
    for (name, data, _) in sections {
        if image.section(name).and_then(content) != Some(data) {
            return Err(wrong(format!("does not hold {name} as it should")));
        }
    }
    if image.is_signed() != signed {
        return Err(wrong(if signed {
            "has no signature after signing".to_owned()
        } else {
            "has a signature that nobody made".to_owned()
        }));
    }
    Ok(BuiltUki {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        machine: String::new(),
        sections: image
            .sections
            .iter()
            .map(|section| {
                let data = section.data();
                UkiSection {
                    name: section.name.to_string(),
                    offset: data.start,
                    bytes: data.end.saturating_sub(data.start),
                }
            })
            .collect(),
        signed,
        warnings: Vec::new(),
    })
}
