//! What firmware reads and what a TPM answers.

use iofs_pe::{Appender, Content, Image, MAX_SECTIONS, sbat};
use iofs_source::{Limited, ReadAt};
use iofs_tpm::{MAX_DATA, MAX_DIGESTS, Record, parse_pcr_event, pcr_event};

/// PE images.
///
/// Input: an image.
///
/// Invariants:
/// * no panic; reading takes no more than headers of the greatest size;
/// * sections and certificates that are found lie inside the file;
/// * an image with a section more reads as the same with that section, whose
///   bytes are those that were given; no byte of the others has changed;
/// * merged SBAT merges to the same lines again.
pub fn pe(data: &[u8]) {
    let limited = Limited::new(data, 64 + 24 + 1024 + 40 * u64::from(MAX_SECTIONS));
    let image = match Image::read(&limited) {
        Ok(image) => image,
        Err(error) => {
            let text = error.to_string();
            return assert!(!text.contains("would have to be read"), "{text}");
        }
    };
    assert!(u64::from(image.size_of_headers) <= data.size());
    for section in &image.sections {
        drop(section.name.to_string());
        assert!(bytes(data, section).is_some());
    }
    if let Some(range) = &image.certificates {
        assert!(range.start <= range.end && range.end <= data.size());
    }
    if let Some(section) = image.section(".sbat") {
        let text = bytes(data, section).unwrap_or_default();
        match sbat::merge(&[text]) {
            Ok(merged) => check_sbat(&merged),
            Err((index, error)) => {
                assert_eq!(index, 0);
                drop(error.to_string());
            }
        }
    }
    append(data, &image);
}

fn bytes<'a>(file: &'a [u8], section: &iofs_pe::Section) -> Option<&'a [u8]> {
    let range = section.data();
    file.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

fn check_sbat(merged: &[u8]) {
    assert!(merged.starts_with(sbat::HEADER.as_bytes()));
    // The header may be longer than the one that it replaces.
    if merged.len() <= sbat::MAX_LEN {
        let again = sbat::merge(&[merged]).unwrap_or_default();
        // Of several carriage returns before a line's end, one goes at a time.
        let lines = |bytes: &[u8]| -> Vec<u8> {
            bytes
                .iter()
                .copied()
                .filter(|&byte| byte != b'\r')
                .collect()
        };
        assert_eq!(lines(&again), lines(merged));
    }
}

fn append(data: &[u8], before: &Image) {
    const NAME: &str = ".fuzz";
    const BYTES: &[u8] = b"a section more";
    let mut appender = match Appender::new(data) {
        Ok(appender) => appender,
        Err(error) => return drop(error.to_string()),
    };
    if let Err(error) = appender.append(NAME, BYTES, Content::Data) {
        return drop(error.to_string());
    }
    assert!(appender.append(NAME, BYTES, Content::Data).is_err());
    let written = match appender.finish() {
        Ok(written) => written,
        Err(error) => panic!("not written with a section more: {error}"),
    };
    let after = match Image::read(&written[..]) {
        Ok(after) => after,
        Err(error) => panic!("not read with a section more: {error}"),
    };
    let old = before.sections.len();
    assert_eq!(after.sections.len(), old + 1);
    for (before, after) in before.sections.iter().zip(&after.sections) {
        assert_eq!(before, after);
        assert_eq!(bytes(data, before), bytes(&written, after));
    }
    let new = &after.sections[old];
    assert!(new.name == NAME && bytes(&written, new) == Some(BYTES));
    assert_eq!(after.machine, before.machine);
    assert_eq!(after.certificates, None);
}

/// Responses of a TPM to `TPM2_PCR_Event`.
///
/// Input: a response.
///
/// Invariants:
/// * no panic;
/// * there are at most 16 digests, none of them empty, and all of them are in
///   the response;
/// * a record of them is a JSON object that says the same, with the input as its
///   text;
/// * a command says how long it is.
pub fn tpm(data: &[u8]) {
    match pcr_event(13, data) {
        Ok(command) => {
            assert!(data.len() <= MAX_DATA && command.ends_with(data));
            let stated = u32::from_be_bytes([command[2], command[3], command[4], command[5]]);
            assert_eq!(stated as usize, command.len());
        }
        Err(_) => assert!(data.len() > MAX_DATA),
    }
    let digests = match parse_pcr_event(data) {
        Ok(digests) => digests,
        Err(error) => return drop(error.to_string()),
    };
    assert!(digests.len() <= MAX_DIGESTS);
    let text = String::from_utf8_lossy(data);
    let record = Record {
        pcr: 13,
        digests: &digests,
        text: &text,
        boot_id: "0123456789abcdef0123456789abcdef",
        micros: 1,
    };
    let record = record.to_string();
    let object = record.trim_start_matches('\u{1e}');
    let value: serde_json::Value = match serde_json::from_str(object) {
        Ok(value) => value,
        Err(error) => panic!("{object}: {error}"),
    };
    assert_eq!(value["content"]["string"], *text);
    // Behind the header, the size of the parameters and the count.
    let mut at = 18;
    for (number, digest) in digests.iter().enumerate() {
        at += 2;
        assert!(!digest.bytes.is_empty());
        assert_eq!(
            data.get(at..at + digest.bytes.len()),
            Some(&digest.bytes[..])
        );
        at += digest.bytes.len();
        let said = &value["digests"][number];
        assert_eq!(said["hashAlg"], digest.algorithm);
        assert_eq!(said["digest"], digest.to_string());
    }
}
