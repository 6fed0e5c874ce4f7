//! Authenticode signatures, by the programs that make them.

use super::{KeySource, SigningTool, UkiSigning};
use crate::error::{Error, ErrorKind, Result};
use crate::process;
use crate::progress::Progress;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are that are not meant to be called by users.
pub(super) const LIBEXEC: [&str; 2] = ["/usr/lib/systemd", "/lib/systemd"];

const PACKAGE: &str = "sbsigntool (on Fedora sbsigntools), or systemd-repart for systemd-sbsign";

/// A key and the program that signs with it.
pub(super) struct Signer<'r> {
    signing: &'r UkiSigning,
    tool: SigningTool,
}

impl<'r> Signer<'r> {
    /// Finds the program and looks whether key and certificate are there, before
    /// anything takes time.
    pub(super) fn new(signing: &'r UkiSigning) -> Result<Self> {
        check_key(&signing.key)?;
        check_readable(&signing.certificate)?;
        let tool = match &signing.tool {
            Some(tool) => tool.clone(),
            None => find_tool()?,
        };
        Ok(Self { signing, tool })
    }

    /// Signs `input` to `output`, both absolute.
    pub(super) fn sign(&self, input: &Path, output: &Path, progress: &dyn Progress) -> Result<()> {
        let certificate = &self.signing.certificate;
        let mut command = match &self.tool {
            SigningTool::Sbsign(program) => {
                let mut command = Command::new(program);
                if let KeySource::Pkcs11(_) = self.signing.key {
                    command.args(["--engine", "pkcs11"]);
                }
                command.arg("--key").arg(key_argument(&self.signing.key));
                command.arg("--cert").arg(certificate);
                command.arg("--output").arg(output);
                command
            }
            SigningTool::SystemdSbsign(program) => {
                let mut command = Command::new(program);
                command.arg("sign");
                if let KeySource::Pkcs11(_) = self.signing.key {
                    command.arg("--private-key-source=provider:pkcs11");
                }
                command.arg(joined("--private-key=", key_argument(&self.signing.key)));
                command.arg(joined("--certificate=", certificate.as_os_str()));
                command.arg(joined("--output=", output.as_os_str()));
                command
            }
        };
        process::run(command.arg(input), PACKAGE, progress)
    }
}

fn find_tool() -> Result<SigningTool> {
    if let Some(program) = find("sbsign", &[]) {
        return Ok(SigningTool::Sbsign(program));
    }
    if let Some(program) = find("systemd-sbsign", &LIBEXEC) {
        return Ok(SigningTool::SystemdSbsign(program));
    }
    Err(Error::new(
        ErrorKind::MissingTool,
        "neither sbsign nor systemd-sbsign is installed, and one is needed to sign for Secure Boot",
    )
    .hint(format!("Install the package {PACKAGE}.")))
}

/// A program in the search path or in one of `folders`.
pub(super) fn find(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(folders.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

pub(super) fn check_key(key: &KeySource) -> Result<()> {
    match key {
        KeySource::File(path) => check_readable(path),
        KeySource::Pkcs11(uri) if uri.starts_with("pkcs11:") => Ok(()),
        KeySource::Pkcs11(_) => Err(Error::new(
            ErrorKind::Usage,
            "a key on a token is named by a URI that begins with `pkcs11:`",
        )),
    }
}

fn check_readable(path: &Path) -> Result<()> {
    std::fs::File::open(path)
        .map(drop)
        .map_err(Error::io("opening", path))
}

pub(super) fn key_argument(key: &KeySource) -> &OsStr {
    match key {
        KeySource::File(path) => path.as_os_str(),
        KeySource::Pkcs11(uri) => OsStr::new(uri),
    }
}

pub(super) fn joined(option: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(value);
    argument
}
