//! A partition's entry in the table of its disk, changed by sfdisk(8).
//!
//! sfdisk writes the backup table first and the primary one after it, as the
//! UEFI specification wants; a power cut leaves one of them whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::slot::Change;

/// Where administrators' programs are, for users without them in their path.
const SBIN: &str = "/usr/sbin:/sbin";

/// Whether it is installed.
pub(crate) fn is_there() -> io::Result<()> {
    run(&["--version".into()])
}

/// Changes an entry and returns once it has reached the medium.
pub(crate) fn change(disk: &Path, number: u32, change: Change) -> io::Result<()> {
    let (option, value) = match change {
        Change::Type(guid) => ("--part-type", guid.to_string()),
        Change::Attributes(bits) => ("--part-attrs", attributes(bits)),
        Change::PartUuid(guid) => ("--part-uuid", guid.to_string()),
    };
    // A disk with a mounted partition cannot be read anew by the kernel, and a
    // boot reads it anyway. Without telling the kernel, sfdisk does not sync.
    run(&[
        "--no-reread".into(),
        "--no-tell-kernel".into(),
        "--quiet".into(),
        option.into(),
        disk.into(),
        number.to_string().into(),
        value.into(),
    ])?;
    File::open(disk)?.sync_all()
}

fn run(args: &[OsString]) -> io::Result<()> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SBIN);
    let output = Command::new("sfdisk")
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("sfdisk cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    Err(io::Error::other(match said.join(" ").trim() {
        "" => format!("sfdisk ended with {}", output.status),
        said => said.to_owned(),
    }))
}

/// Attribute bits in sfdisk's words: those below 48 are the UEFI
/// specification's, of which three have a meaning; the others are numbers.
fn attributes(bits: u64) -> String {
    let named = [
        "RequiredPartition",
        "NoBlockIOProtocol",
        "LegacyBIOSBootable",
    ];
    let set = |bit: u32| bits & (1 << bit) != 0;
    let named = (0..).zip(named).filter(|(bit, _)| set(*bit));
    let numbered = (48..64).filter(|bit| set(*bit));
    named
        .map(|(_, name)| name.to_owned())
        .chain(numbered.map(|bit| format!("GUID:{bit}")))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_sfdisks_words() {
        assert_eq!(attributes(1 << 60), "GUID:60");
        assert_eq!(
            attributes(1 | 4 | 1 << 63),
            "RequiredPartition,LegacyBIOSBootable,GUID:63"
        );
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, [0; 4096]).unwrap();
        let error = change(&disk, 1, Change::Attributes(0)).unwrap_err();
        assert!(error.to_string().contains("sfdisk"), "{error}");
    }
}
