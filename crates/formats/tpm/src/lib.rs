//! Measuring into a platform configuration register (PCR) of a TPM 2.0.
//!
//! Specifications: TPM 2.0 Library, Part 2 (structures) and Part 3, 22.3
//! (`TPM2_PCR_Event`); for the record, the TCG Canonical Event Log's JSON
//! encoding as systemd writes it to `/run/log/systemd/tpm2-measure.log`. All
//! numbers are big-endian, sizes are bytes.
//!
//! `TPM2_PCR_Event` and not `TPM2_PCR_Extend`: the TPM hashes the data itself
//! for every bank that it has and says with what result. So no bank is left out
//! that some policy might look at, and no hash function is needed here.
//!
//! The response is input from a chip on a bus, and taken as hostile: at most
//! [`MAX_DIGESTS`] digests of known algorithms, every length checked.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod record;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use record::{LOG, Record};

/// The most digests of a response: more banks than any TPM has.
pub const MAX_DIGESTS: usize = 16;

/// The longest data of an event, in bytes (`TPM2B_EVENT`).
pub const MAX_DATA: usize = 1024;

/// `TPM_ST_SESSIONS`, `TPM_CC_PCR_Event`, `TPM_RS_PW`.
const ST_SESSIONS: u16 = 0x8002;
const CC_PCR_EVENT: u32 = 0x0000_013c;
const RS_PW: u32 = 0x4000_0009;

/// Hash algorithms (TCG Algorithm Registry) with their names in event logs and
/// their digests' lengths.
const ALGORITHMS: [(u16, &str, usize); 8] = [
    (0x0004, "sha1", 20),
    (0x000b, "sha256", 32),
    (0x000c, "sha384", 48),
    (0x000d, "sha512", 64),
    (0x0012, "sm3_256", 32),
    (0x0027, "sha3-256", 32),
    (0x0028, "sha3-384", 48),
    (0x0029, "sha3-512", 64),
];

/// What one bank was extended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The hash function's name, as event logs have it: `sha256`.
    pub algorithm: &'static str,
    /// The digest of the data.
    pub bytes: Vec<u8>,
}

/// Why nothing was measured, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmError {
    /// There is more data than an event can have.
    TooLong,
    /// The response ends early or has bytes left over.
    Length {
        /// What was received, in bytes.
        len: usize,
    },
    /// The TPM refused.
    Code {
        /// Its response code (Part 2, 6.6).
        code: u32,
    },
    /// The response is of another form than the command asks for.
    Form,
    /// A digest of a hash function that is not known, so of unknown length.
    Algorithm {
        /// Its number in the registry.
        id: u16,
    },
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "an event has at most {MAX_DATA} bytes"),
            Self::Length { len } => write!(f, "the TPM's response of {len} bytes is not whole"),
            Self::Code { code } => write!(
                f,
                "the TPM refused to measure, with response code {code:#x}"
            ),
            Self::Form => f.write_str("the TPM's response is not one to this command"),
            Self::Algorithm { id } => {
                write!(f, "the TPM has a bank of the unknown hash function {id:#x}")
            }
        }
    }
}

impl core::error::Error for TpmError {}

/// The command that extends PCR `pcr` with `data`, with an empty password.
///
/// # Errors
/// [`TpmError::TooLong`].
pub fn pcr_event(pcr: u8, data: &[u8]) -> Result<Vec<u8>, TpmError> {
    let len = u16::try_from(data.len()).map_err(|_| TpmError::TooLong)?;
    if data.len() > MAX_DATA {
        return Err(TpmError::TooLong);
    }
    let mut out = Vec::new();
    out.extend_from_slice(&ST_SESSIONS.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&CC_PCR_EVENT.to_be_bytes());
    out.extend_from_slice(&u32::from(pcr).to_be_bytes());
    // The authorization area: its size, the password session, no nonce, no
    // attributes, an empty password.
    out.extend_from_slice(&9u32.to_be_bytes());
    out.extend_from_slice(&RS_PW.to_be_bytes());
    out.extend_from_slice(&[0; 5]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
    let size = u32::try_from(out.len()).map_err(|_| TpmError::TooLong)?;
    out[2..6].copy_from_slice(&size.to_be_bytes());
    Ok(out)
}

/// What the banks were extended with, from the response to [`pcr_event`].
///
/// # Errors
/// That the TPM refused, or what is wrong with its response. The PCR may have
/// been extended in the latter case.
pub fn parse_pcr_event(response: &[u8]) -> Result<Vec<Digest>, TpmError> {
    let len = response.len();
    let mut input = Input(response);
    let short = TpmError::Length { len };
    let tag = input.u16().ok_or(short)?;
    let size = input.u32().ok_or(short)?;
    let code = input.u32().ok_or(short)?;
    if size as usize != len {
        return Err(short);
    }
    if code != 0 {
        return Err(TpmError::Code { code });
    }
    if tag != ST_SESSIONS {
        return Err(TpmError::Form);
    }
    let parameters = input.u32().ok_or(short)? as usize;
    let mut input = Input(input.take(parameters).ok_or(short)?);
    let count = input.u32().ok_or(short)? as usize;
    if count > MAX_DIGESTS {
        return Err(TpmError::Form);
    }
    let mut digests = Vec::new();
    for _ in 0..count {
        let id = input.u16().ok_or(short)?;
        let known = ALGORITHMS.iter().find(|(known, ..)| *known == id);
        let &(_, algorithm, len) = known.ok_or(TpmError::Algorithm { id })?;
        digests.push(Digest {
            algorithm,
            bytes: input.take(len).ok_or(short)?.to_vec(),
        });
    }
    match input.0 {
        [] => Ok(digests),
        _ => Err(TpmError::Form),
    }
}

/// The digest in lower-case hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = base16ct::lower::encode_string(&self.bytes);
        f.write_str(&digits)
    }
}

/// Takes numbers off bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;
    use std::string::ToString;

    /// The response of a TPM with these digests.
    fn response(digests: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = u32::try_from(digests.len()).unwrap().to_be_bytes().to_vec();
        for (id, bytes) in digests {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(bytes);
        }
        let mut out = ST_SESSIONS.to_be_bytes().to_vec();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&body);
        // The session's answer: no nonce, continue, no HMAC.
        out.extend_from_slice(&[0, 0, 1, 0, 0]);
        let size = u32::try_from(out.len()).unwrap().to_be_bytes();
        out[2..6].copy_from_slice(&size);
        out
    }

    #[test]
    fn the_command_is_as_the_specification_lays_it_out() {
        let command = pcr_event(13, b"abc").unwrap();
        assert_eq!(
            command,
            [
                0x80, 0x02, 0, 0, 0, 32, 0, 0, 1, 0x3c, 0, 0, 0, 13, 0, 0, 0, 9, 0x40, 0, 0, 9, 0,
                0, 0, 0, 0, 0, 3, b'a', b'b', b'c'
            ]
        );
        assert_eq!(pcr_event(13, &[0; 1025]), Err(TpmError::TooLong));
        assert!(pcr_event(13, &[0; 1024]).is_ok());
    }

    #[test]
    fn digests_are_taken_from_the_response() {
        let digests = parse_pcr_event(&response(&[(4, vec![1; 20]), (0xb, vec![2; 32])])).unwrap();
        assert_eq!(digests[0].algorithm, "sha1");
        assert_eq!(digests[1].algorithm, "sha256");
        assert_eq!(digests[1].to_string(), "02".repeat(32));
        assert_eq!(parse_pcr_event(&response(&[])), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_with_a_response_is_said() {
        let mut refused = vec![0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0];
        assert_eq!(
            parse_pcr_event(&refused),
            Err(TpmError::Code { code: 0x100 })
        );
        refused.push(0);
        assert_eq!(parse_pcr_event(&refused), Err(TpmError::Length { len: 11 }));
        assert_eq!(
            parse_pcr_event(&response(&[(0x99, vec![0; 32])])),
            Err(TpmError::Algorithm { id: 0x99 })
        );
        let short = response(&[(0xb, vec![0; 31])]);
        assert!(matches!(
            parse_pcr_event(&short),
            Err(TpmError::Length { .. })
        ));
        assert_eq!(
            parse_pcr_event(&response(&[(0xb, vec![0; 33])])),
            Err(TpmError::Form)
        );
        let many = vec![(4, vec![0; 20]); MAX_DIGESTS + 1];
        assert_eq!(parse_pcr_event(&response(&many)), Err(TpmError::Form));
    }

    proptest! {
        #[test]
        fn a_damaged_response_never_panics(at in 0usize..80, byte: u8, cut in 0usize..80) {
            let mut bytes = response(&[(4, vec![1; 20]), (0xb, vec![2; 32])]);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = parse_pcr_event(&bytes);
        }
    }
}
