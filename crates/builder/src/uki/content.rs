//! The parts of a UKI: read, checked, put in order.

use super::{NewSection, UkiRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::kernel_release_of_image;
use crate::osrelease;
use iofs_pe::{Content, Image, sbat};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The greatest size of a stub, in bytes; systemd's has 100 KiB.
const MAX_STUB: u64 = 16 << 20;
/// The greatest size of a kernel, in bytes.
pub(super) const MAX_KERNEL: u64 = 512 << 20;
/// The greatest size of the initrd, in bytes: firmware has to load it all.
const MAX_INITRD: u64 = 1 << 30;
/// The greatest size of everything else, each, in bytes.
const MAX_OTHER: u64 = 64 << 20;
/// The greatest length of a command line, in bytes; no kernel takes more than
/// 4096.
const MAX_CMDLINE: usize = 4095;

/// The parts.
pub(super) struct Material {
    pub(super) stub: Vec<u8>,
    pub(super) kernel: Vec<u8>,
    initrd: Vec<u8>,
    microcode: Option<Vec<u8>>,
    cmdline: String,
    os_release: Vec<u8>,
    uname: String,
    splash: Option<Vec<u8>>,
    sbat: Vec<u8>,
    devicetree: Option<Vec<u8>>,
    public_key: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
}

impl Material {
    pub(super) fn read(request: &UkiRequest) -> Result<Self> {
        let stub = read_file(&request.stub, MAX_STUB)?;
        let kernel = read_file(&request.kernel, MAX_KERNEL)?;
        let sbat = merge_sbat(request, &stub, &kernel)?;
        let initrd = read_file(&request.initrd, MAX_INITRD)?;
        if initrd.is_empty() {
            return Err(unfit(&request.initrd, "is empty"));
        }
        let optional = |path: Option<&PathBuf>, magic: &[u8], what: &str| {
            path.map(|path| read_magic(path, magic, what)).transpose()
        };
        Ok(Self {
            sbat,
            cmdline: clean_cmdline(&request.cmdline)?,
            uname: check_uname(&request.uname)?,
            os_release: check_os_release(&request.os_release)?,
            microcode: optional(
                request.microcode.as_ref(),
                b"0707",
                "an uncompressed cpio archive",
            )?,
            splash: optional(request.splash.as_ref(), b"BM", "a BMP picture")?,
            devicetree: optional(
                request.devicetree.as_ref(),
                &[0xd0, 0x0d, 0xfe, 0xed],
                "a device tree blob",
            )?,
            public_key: optional(
                request.pcr.as_ref().map(|pcr| &pcr.public_key),
                b"-----BEGIN PUBLIC KEY-----",
                "a public key in PEM",
            )?,
            warnings: check_release(request),
            stub,
            kernel,
            initrd,
        })
    }

    /// The sections in ukify's order.
    pub(super) fn into_sections(self) -> Vec<NewSection> {
        [
            (".osrel", Some(self.os_release), Content::Data),
            (".cmdline", Some(self.cmdline.into_bytes()), Content::Data),
            (".dtb", self.devicetree, Content::Data),
            (".uname", Some(self.uname.into_bytes()), Content::Data),
            (".splash", self.splash, Content::Data),
            (".pcrpkey", self.public_key, Content::Data),
            (".linux", Some(self.kernel), Content::Code),
            (".initrd", Some(self.initrd), Content::Data),
            (".ucode", self.microcode, Content::Data),
            (".sbat", Some(self.sbat), Content::Data),
        ]
        .into_iter()
        .filter_map(|(name, data, content)| Some((name, data?, content)))
        .collect()
    }
}

pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("opening", path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("reading", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("{} has more than {limit} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// A file that begins as its kind does: what is measured and signed should be
/// what it is called.
fn read_magic(path: &Path, magic: &[u8], what: &str) -> Result<Vec<u8>> {
    let bytes = read_file(path, MAX_OTHER)?;
    if bytes.starts_with(magic) {
        return Ok(bytes);
    }
    Err(unfit(path, &format!("is not {what}")))
}

fn unfit(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{} {why}", path.display()))
}

/// A command line without superfluous blanks, as ukify does; never empty.
fn clean_cmdline(text: &str) -> Result<String> {
    let bad = |why: String| Error::new(ErrorKind::Usage, format!("the command line {why}"));
    if let Some(c) = text.chars().find(|c| c.is_control() && !c.is_whitespace()) {
        return Err(bad(format!("holds the control character {c:?}")));
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > MAX_CMDLINE {
        return Err(bad(format!("has more than {MAX_CMDLINE} bytes")));
    }
    // No section at all would let the boot loader's take its place.
    Ok(if text.is_empty() {
        " ".to_owned()
    } else {
        text
    })
}

fn check_uname(uname: &str) -> Result<String> {
    let good = |c: char| c.is_ascii_graphic() && c != '/';
    if (1..=64).contains(&uname.len()) && uname.chars().all(good) {
        return Ok(uname.to_owned());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{uname:?} is no kernel release (as uname -r says it)"),
    ))
}

fn check_os_release(bytes: &[u8]) -> Result<Vec<u8>> {
    let bad = |why: &str| Error::new(ErrorKind::Usage, format!("the os-release {why}"));
    if bytes.len() as u64 > osrelease::MAX_LEN {
        return Err(bad("is too long"));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(bad("is no text"));
    };
    if text.trim().is_empty() || text.contains('\0') {
        return Err(bad("is empty or holds NUL"));
    }
    Ok(bytes.to_vec())
}

/// A UKI whose name for its kernel is wrong finds no modules.
fn check_release(request: &UkiRequest) -> Vec<String> {
    match kernel_release_of_image(&request.kernel) {
        Ok(release) if release != request.uname => vec![format!(
            "the kernel {} is release {release}, not {}",
            request.kernel.display(),
            request.uname
        )],
        _ => Vec::new(),
    }
}

/// The stub's components, the kernel's and the request's, so that each can be
/// revoked.
fn merge_sbat(request: &UkiRequest, stub: &[u8], kernel: &[u8]) -> Result<Vec<u8>> {
    let own = |bytes: &[u8]| {
        let image = Image::read(bytes).ok()?;
        let data = image.section(".sbat")?.data();
        let range = usize::try_from(data.start).ok()?..usize::try_from(data.end).ok()?;
        bytes.get(range).map(<[u8]>::to_vec)
    };
    let added = request.sbat.as_deref().unwrap_or(sbat::UKI);
    let parts: Vec<(String, Vec<u8>)> = [
        (request.stub.display().to_string(), own(stub)),
        (request.kernel.display().to_string(), own(kernel)),
        (
            "the request".to_owned(),
            (!added.is_empty()).then(|| added.as_bytes().to_vec()),
        ),
    ]
    .into_iter()
    .filter_map(|(whose, part)| Some((whose, part?)))
    .collect();
    let texts: Vec<&[u8]> = parts.iter().map(|(_, part)| part.as_slice()).collect();
    sbat::merge(&texts).map_err(|(index, source)| {
        let whose = parts.get(index).map_or("", |(whose, _)| whose.as_str());
        Error::new(
            ErrorKind::Input,
            format!("the SBAT of {whose} is of no use"),
        )
        .source(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_never_empty() {
        assert_eq!(clean_cmdline(" quiet\n\t ro  ").unwrap(), "quiet ro");
        assert_eq!(clean_cmdline("").unwrap(), " ");
        assert_eq!(clean_cmdline(" \n").unwrap(), " ");
        for bad in ["a\0b", "a\u{1b}b", &"x".repeat(4096)] {
            assert_eq!(clean_cmdline(bad).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn releases_and_os_releases_are_text() {
        assert_eq!(check_uname("6.12.1-amd64").unwrap(), "6.12.1-amd64");
        for bad in ["", "a b", "../x", "6.1\n", &"6".repeat(65)] {
            assert_eq!(check_uname(bad).unwrap_err().kind(), ErrorKind::Usage);
        }
        assert!(check_os_release(b"ID=debian\n").is_ok());
        for bad in [&b""[..], b"\n", b"ID=\0", b"\xff", &[b'x'; 70_000]] {
            assert_eq!(check_os_release(bad).unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
