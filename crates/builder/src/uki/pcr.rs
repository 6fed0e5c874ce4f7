//! Signed PCR values, by systemd-measure.
//!
//! The stub measures the sections into PCR 11, systemd the phases of the boot;
//! systemd-measure foresees what comes of it and signs that.

use super::sign::{LIBEXEC, check_key, find, joined, key_argument};
use super::{KeySource, NewSection, PcrSigning};
use crate::error::{Error, ErrorKind, Result};
use crate::process;
use crate::progress::Progress;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PROGRAM: &str = "systemd-measure";
const PACKAGE: &str = "systemd (on Fedora systemd-ukify)";

/// The sections that the stub measures and systemd-measure has an option for.
const MEASURED: [&str; 10] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey",
];

/// The content of `.pcrsig` for a UKI of these sections.
pub(super) fn sign(
    pcr: &PcrSigning,
    sections: &[NewSection],
    progress: &dyn Progress,
) -> Result<Vec<u8>> {
    let program = match &pcr.measure {
        Some(program) => program.clone(),
        None => find(PROGRAM, &LIBEXEC).ok_or_else(missing)?,
    };
    let mut command = Command::new(program);
    command.arg("sign");
    add_options(&mut command, pcr)?;
    let work = tempfile::tempdir().map_err(|source| {
        Error::new(ErrorKind::Io, "no folder for temporary files").source(source)
    })?;
    for (name, data, _) in sections {
        if MEASURED.contains(name) {
            let name = name.trim_start_matches('.');
            let path = work.path().join(name);
            fs::write(&path, data).map_err(Error::io("writing", &path))?;
            command.arg(joined(&format!("--{name}="), path.as_os_str()));
        }
    }
    let json = output(&mut command, progress)?;
    let text = json.trim_ascii();
    if text.starts_with(b"{") && text.ends_with(b"}") && std::str::from_utf8(text).is_ok() {
        return Ok(text.to_vec());
    }
    Err(Error::new(
        ErrorKind::Tool,
        format!("what {PROGRAM} printed is no signature"),
    ))
}

fn missing() -> Error {
    Error::new(
        ErrorKind::MissingTool,
        format!("{PROGRAM} is not installed, and it is needed to sign PCR values"),
    )
    .hint(format!("Install the package {PACKAGE}."))
}

fn add_options(command: &mut Command, pcr: &PcrSigning) -> Result<()> {
    check_key(&pcr.private_key)?;
    command.arg(joined("--private-key=", key_argument(&pcr.private_key)));
    match (&pcr.private_key, &pcr.certificate) {
        (KeySource::File(_), _) => {
            command.arg(joined("--public-key=", pcr.public_key.as_os_str()));
        }
        (KeySource::Pkcs11(_), Some(certificate)) => {
            command.arg("--private-key-source=engine:pkcs11");
            command.arg(joined("--certificate=", certificate.as_os_str()));
        }
        (KeySource::Pkcs11(_), None) => {
            return Err(Error::new(
                ErrorKind::Usage,
                "signing PCR values with a key on a token needs its certificate",
            ));
        }
    }
    for bank in &pcr.banks {
        if !["sha1", "sha256", "sha384", "sha512"].contains(&bank.as_str()) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{bank:?} is no bank of a TPM (such as sha256)"),
            ));
        }
        command.arg(format!("--bank={bank}"));
    }
    for phase in &pcr.phases {
        let good = |c: char| c.is_ascii_lowercase() || "-:".contains(c);
        if phase.is_empty() || !phase.chars().all(good) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{phase:?} is no phase of the boot (such as enter-initrd)"),
            ));
        }
        command.arg(format!("--phase={phase}"));
    }
    Ok(())
}

/// What a program prints; what it says besides goes to `progress`.
fn output(command: &mut Command, progress: &dyn Progress) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| {
        let name: PathBuf = command.get_program().into();
        process::not_run(&name.to_string_lossy(), PACKAGE, source)
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in said.lines() {
        progress.tool_output(line);
    }
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::new(
        ErrorKind::Tool,
        format!("{PROGRAM} failed ({}): {}", output.status, said.trim()),
    )
    // It loads them only when it runs, and then says "not supported".
    .hint("It needs tpm2-tss's libraries too: libtss2-esys, libtss2-mu and libtss2-rc."))
}
