//! A record of systemd's user space event log.

use core::fmt::{self, Write};

use crate::Digest;

/// The log, for the whole boot.
pub const LOG: &str = "/run/log/systemd/tpm2-measure.log";

/// One measurement. Displays as a JSON text sequence's element (RFC 7464): a
/// record separator, the object, a newline.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The register.
    pub pcr: u8,
    /// What each bank was extended with.
    pub digests: &'a [Digest],
    /// What was measured; its digests are those above.
    pub text: &'a str,
    /// The kernel's boot ID, 32 hexadecimal digits.
    pub boot_id: &'a str,
    /// Microseconds since the machine started (`CLOCK_BOOTTIME`).
    pub micros: u64,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\u{1e}{{\"pcr\":{},\"digests\":[", self.pcr)?;
        for (number, digest) in self.digests.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let algorithm = digest.algorithm;
            write!(
                f,
                "{comma}{{\"hashAlg\":\"{algorithm}\",\"digest\":\"{digest}\"}}"
            )?;
        }
        f.write_str("],\"content_type\":\"systemd\",\"content\":{\"string\":")?;
        string(f, self.text)?;
        f.write_str(",\"bootId\":")?;
        string(f, self.boot_id)?;
        writeln!(f, ",\"timestamp\":{}}}}}", self.micros)
    }
}

/// A JSON string (RFC 8259).
fn string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            control if u32::from(control) < 0x20 => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use std::string::ToString;

    #[test]
    fn a_record_is_json_between_its_separators() {
        let digests = [
            Digest {
                algorithm: "sha1",
                bytes: vec![0xab; 20],
            },
            Digest {
                algorithm: "sha256",
                bytes: vec![1; 32],
            },
        ];
        let text = Record {
            pcr: 13,
            digests: &digests,
            text: "image:\"a\\b\"\n",
            boot_id: "0123456789abcdef0123456789abcdef",
            micros: 1_234_567,
        }
        .to_string();
        let object = text.strip_prefix('\u{1e}').unwrap();
        let object = object.strip_suffix('\n').unwrap();
        let value: serde_json::Value = serde_json::from_str(object).unwrap();
        assert_eq!(value["pcr"], 13);
        assert_eq!(value["digests"][0]["hashAlg"], "sha1");
        assert_eq!(value["digests"][0]["digest"], "ab".repeat(20));
        assert_eq!(value["digests"][1]["digest"], "01".repeat(32));
        assert_eq!(value["content_type"], "systemd");
        assert_eq!(value["content"]["string"], "image:\"a\\b\"\n");
        assert_eq!(
            value["content"]["bootId"],
            "0123456789abcdef0123456789abcdef"
        );
        assert_eq!(value["content"]["timestamp"], 1_234_567);
    }
}
