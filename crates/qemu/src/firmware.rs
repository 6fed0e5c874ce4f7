//! UEFI firmware: finding the distribution's OVMF files.
//!
//! OVMF is a read-only code image and a variable store that the guest writes;
//! each machine needs its own copy of the latter. File names are those of
//! Debian's package ovmf; other distributions' folders are tried as well.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// Which build of the firmware and which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirmwareKind {
    /// Without Secure Boot.
    Plain,
    /// With Secure Boot enforced and the public "snakeoil" test keys enrolled.
    /// Needs the q35 machine with SMM, which [`crate::Machine::args`] sets.
    SecureBoot,
}

/// Firmware files for one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Which it is.
    pub kind: FirmwareKind,
    /// The code image, shared and read-only.
    pub code: PathBuf,
    /// The variable store, this machine's own.
    pub vars: PathBuf,
}

const FOLDERS: [&str; 4] = [
    "/usr/share/OVMF",
    "/usr/share/edk2/x64",
    "/usr/share/edk2/ovmf",
    "/usr/share/qemu",
];

impl Firmware {
    /// Finds the firmware and copies its variable store to `vars`.
    ///
    /// # Errors
    /// [`Error::MissingFirmware`] if it is not installed; [`Error::Io`] if the
    /// copy fails.
    pub fn prepare(kind: FirmwareKind, vars: &Path) -> Result<Self, Error> {
        let (code_names, vars_names): (&[&str], &[&str]) = match kind {
            FirmwareKind::Plain => (
                &["OVMF_CODE_4M.fd", "OVMF_CODE.fd", "OVMF_CODE.4m.fd"],
                &["OVMF_VARS_4M.fd", "OVMF_VARS.fd", "OVMF_VARS.4m.fd"],
            ),
            FirmwareKind::SecureBoot => {
                (&["OVMF_CODE_4M.secboot.fd"], &["OVMF_VARS_4M.snakeoil.fd"])
            }
        };
        let code = find("code", code_names)?;
        let template = find("variables", vars_names)?;
        fs::copy(&template, vars).map_err(Error::io(format!(
            "copying {} to {}",
            template.display(),
            vars.display()
        )))?;
        Ok(Self {
            kind,
            code,
            vars: vars.to_owned(),
        })
    }
}

/// The test key that [`FirmwareKind::SecureBoot`] trusts, as Debian's package
/// ovmf has it: RSA 2048, public, so it proves nothing outside tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snakeoil {
    /// The private key, PEM, encrypted with [`Snakeoil::PASSPHRASE`].
    pub key: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
}

impl Snakeoil {
    /// The private key's passphrase.
    pub const PASSPHRASE: &str = "snakeoil";

    /// Finds both files.
    ///
    /// # Errors
    /// [`Error::MissingFirmware`] if they are not installed.
    pub fn find() -> Result<Self, Error> {
        let file = |what, name: &str| {
            let path = Path::new("/usr/share/ovmf").join(name);
            if path.is_file() {
                return Ok(path);
            }
            let tried = vec![path];
            Err(Error::MissingFirmware { what, tried })
        };
        Ok(Self {
            key: file("test key", "PkKek-1-snakeoil.key")?,
            certificate: file("test certificate", "PkKek-1-snakeoil.pem")?,
        })
    }
}

fn find(what: &'static str, names: &[&str]) -> Result<PathBuf, Error> {
    let tried: Vec<PathBuf> = FOLDERS
        .iter()
        .flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)))
        .collect();
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::MissingFirmware { what, tried }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_test_key_is_that_of_the_test_certificate() {
        let snakeoil = Snakeoil::find().unwrap();
        let public = |args: &[&str], file: &Path| {
            let output = Command::new("openssl")
                .args(args)
                .arg("-in")
                .arg(file)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let pass = format!("pass:{}", Snakeoil::PASSPHRASE);
        let of_key = public(&["pkey", "-pubout", "-passin", &pass], &snakeoil.key);
        let of_certificate = public(&["x509", "-noout", "-pubkey"], &snakeoil.certificate);
        assert_eq!(of_key, of_certificate);
    }

    #[test]
    fn each_machine_gets_its_own_variables() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [FirmwareKind::Plain, FirmwareKind::SecureBoot] {
            let vars = dir.path().join(format!("{kind:?}"));
            let firmware = Firmware::prepare(kind, &vars).unwrap();
            assert_eq!(firmware.vars, vars);
            assert!(fs::metadata(&vars).unwrap().len() > 0);
            let code = firmware.code.display().to_string();
            let secure = kind == FirmwareKind::SecureBoot;
            assert_eq!(code.contains("secboot"), secure, "{code}");
        }
    }
}
