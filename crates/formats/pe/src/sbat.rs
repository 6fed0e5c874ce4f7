//! SBAT: which generation of which component is in an image, so that shim can
//! refuse generations with known holes.
//!
//! Specification: SBAT.md of shim. Comma-separated text, one component a line,
//! the first line names the format itself. At the end of the `.sbat` section are
//! NULs, which do not count.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What every SBAT section begins with.
pub const HEADER: &str =
    "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";

/// The component that makes an image a UKI, as ukify adds it.
pub const UKI: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md
uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/
";

/// The greatest size of a `.sbat` section that is read, in bytes.
pub const MAX_LEN: usize = 64 << 10;

/// Why text is no SBAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SbatError {
    /// It does not begin with a line of the component `sbat`.
    NoHeader,
    /// It holds bytes that are no printable ASCII.
    NotText {
        /// Offset of the first, in bytes.
        at: usize,
    },
    /// It has more than [`MAX_LEN`] bytes.
    TooLong,
}

impl fmt::Display for SbatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("SBAT has to begin with a line `sbat,1,...`"),
            Self::NotText { at } => {
                write!(f, "SBAT is ASCII text; the byte at offset {at} is not")
            }
            Self::TooLong => write!(f, "SBAT of more than {MAX_LEN} bytes is not supported"),
        }
    }
}

impl core::error::Error for SbatError {}

/// The components of all `parts`, in order, behind one header; with the NUL that
/// ukify ends it with. Each part has a header of its own, as a `.sbat` section
/// does.
///
/// # Errors
/// The index of the first part that is no SBAT, and why. ukify passes over such
/// a part; here the revocation data of a component must not get lost unseen.
pub fn merge(parts: &[&[u8]]) -> Result<Vec<u8>, (usize, SbatError)> {
    let mut merged = String::from(HEADER);
    for (index, part) in parts.iter().enumerate() {
        let text = text(part).map_err(|error| (index, error))?;
        let mut lines = text.lines();
        if !lines.next().is_some_and(|line| line.starts_with("sbat,")) {
            return Err((index, SbatError::NoHeader));
        }
        for line in lines {
            merged.push_str(line);
            merged.push('\n');
        }
    }
    let mut merged = merged.into_bytes();
    merged.push(0);
    Ok(merged)
}

fn text(part: &[u8]) -> Result<&str, SbatError> {
    if part.len() > MAX_LEN {
        return Err(SbatError::TooLong);
    }
    let end = part.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
    let part = part.get(..end).unwrap_or_default();
    let printable = |b: &u8| b.is_ascii_graphic() || b" \n\r".contains(b);
    if let Some(at) = part.iter().position(|b| !printable(b)) {
        return Err(SbatError::NotText { at });
    }
    core::str::from_utf8(part).map_err(|error| SbatError::NotText {
        at: error.valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_header_and_every_component_in_order() {
        let stub = b"sbat,1,SBAT Version\nsystemd-stub,1,a\nsystemd-stub.debian,1,b\n\0\0\0";
        let kernel = b"sbat,1,SBAT Version\r\nlinux,2,c";
        let merged = merge(&[stub, kernel, UKI.as_bytes()]).unwrap();
        let expected = std::format!(
            "{HEADER}systemd-stub,1,a\nsystemd-stub.debian,1,b\nlinux,2,c\nuki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n\0"
        );
        assert_eq!(core::str::from_utf8(&merged).unwrap(), expected);
        assert_eq!(merge(&[&merged]).unwrap(), merged);
    }

    #[test]
    fn what_is_no_sbat_is_named() {
        let good = HEADER.as_bytes();
        assert_eq!(merge(&[good, b"linux,1\n"]), Err((1, SbatError::NoHeader)));
        assert_eq!(merge(&[b""]), Err((0, SbatError::NoHeader)));
        assert_eq!(
            merge(&[b"sbat,1\nx\0y"]),
            Err((0, SbatError::NotText { at: 8 }))
        );
        let long = std::vec![b'a'; MAX_LEN + 1];
        assert_eq!(merge(&[&long]), Err((0, SbatError::TooLong)));
    }
}
