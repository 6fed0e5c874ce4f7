//! Step 5, the record: the root hash of a signed image goes into the TPM before
//! the image is used, so that a secret can be bound to which image was.
//!
//! A sealed image is not measured again: its root hash is in the boot plan, which
//! the firmware has measured with the mini-initramfs.

use alloc::format;
use alloc::string::{String, ToString};

use iofs_plan::{Auth, Measure};
use iofs_tpm::{LOG, Record, TpmError, parse_pcr_event, pcr_event};
use kernel_abi::{clock, file, tpm};

use crate::log::Log;
use crate::paths::Paths;
use crate::report::Failure;
use crate::settings::Settings;
use crate::trust::Proof;

/// How long the TPM may take, in microseconds: hardware needs some milliseconds
/// to hash a few words.
const TIMEOUT_US: u64 = 10_000_000;

/// Measures the image if the plan has it so.
///
/// # Errors
/// If it could not be measured and the plan demands it.
pub fn measure(
    proof: Option<&Proof>,
    settings: &Settings,
    paths: &Paths,
    log: &mut Log,
) -> Result<(), Failure> {
    let (Some(proof), Auth::Signed(signed)) = (proof, &settings.plan.auth) else {
        return Ok(());
    };
    let Measure { pcr, required } = signed.measure;
    let text = format!("initoverlayfs-image:{}", proof.trees.root);
    match extend(pcr, &text, paths, log) {
        Ok(()) => {
            log.info(format_args!("measured into PCR {pcr}: {text}"));
            Ok(())
        }
        Err(why) if required => Err(Failure::new(format_args!(
            "the image's root hash could not be measured into PCR {pcr}, as the boot plan \
             demands: {why}"
        ))
        .advise(
            "turn on the machine's TPM 2.0 in the firmware's setup, or build the mini-initramfs \
             without --measure-required",
        )),
        Err(why) => {
            log.info(format_args!("the root hash is not measured: {why}"));
            Ok(())
        }
    }
}

fn extend(pcr: u8, text: &str, paths: &Paths, log: &mut Log) -> Result<(), String> {
    let version = format!("{}/class/tpm/tpm0/tpm_version_major", paths.sys);
    if file::read_line(&version).as_deref() != Ok("2") {
        return Err("the kernel shows no TPM 2.0".into());
    }
    let command = pcr_event(pcr, text.as_bytes()).map_err(|error| error.to_string())?;
    let response = tpm::exchange(&format!("{}/tpm0", paths.dev), &command, TIMEOUT_US)
        .map_err(|error| format!("{error}"))?;
    let digests = match parse_pcr_event(&response) {
        Ok(digests) => digests,
        Err(error @ (TpmError::Form | TpmError::Algorithm { .. })) => {
            // It has done it: only what with is not known.
            log.warn(format_args!(
                "the measurement into PCR {pcr} is not in the event log: {error}"
            ));
            return Ok(());
        }
        Err(error) => return Err(error.to_string()),
    };
    let boot_id = file::read_line("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let record = Record {
        pcr,
        digests: &digests,
        text,
        boot_id: &boot_id.replace('-', ""),
        micros: clock::micros(),
    };
    // What is measured is measured: without the record it is only harder to
    // explain.
    if let Err(error) = append(LOG, record.to_string().as_bytes()) {
        log.warn(format_args!(
            "the measurement is not in the event log: {error}"
        ));
    }
    Ok(())
}

/// Adds to a file of root's, making its folders.
fn append(path: &str, bytes: &[u8]) -> kernel_abi::Result<()> {
    for (at, _) in path.match_indices('/').skip(1) {
        file::mkdir(path.get(..at).unwrap_or(path))?;
    }
    file::append(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tpm_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            sys: dir.path().to_str().unwrap().into(),
            ..Paths::kernel()
        };
        let why = extend(13, "x", &paths, &mut Log::new()).unwrap_err();
        assert!(why.contains("no TPM 2.0"));
        let class = dir.path().join("class/tpm/tpm0");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join("tpm_version_major"), "1\n").unwrap();
        let why = extend(13, "x", &paths, &mut Log::new()).unwrap_err();
        assert!(why.contains("no TPM 2.0"));
    }

    #[test]
    fn records_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/systemd/x.log");
        let path = path.to_str().unwrap();
        append(path, b"one\n").unwrap();
        append(path, b"two\n").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"one\ntwo\n");
    }
}
