//! The root hash's signature, as it lies in the signature partition.
//!
//! Specification: the Discoverable Partitions Specification, "root-verity-sig":
//! a JSON object with `rootHash` (hexadecimal), `certificateFingerprint`
//! (hexadecimal SHA-256 of the DER certificate) and `signature` (base64 of a
//! detached DER PKCS#7 signature over the root hash's hexadecimal digits),
//! then NULs to the partition's end. Members of other names are passed over.
//!
//! Nothing here is checked against a key: that is the caller's.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use base64ct::{Base64, Encoding as _};
use iofs_source::{ReadAt, ReadError};

pub use crate::json::JsonError;
use crate::json::Reader;
use crate::{RootHash, RootHashError};

/// The longest object that is read, in bytes. One with an RSA signature of
/// 4096 bits and no certificates inside takes about 2 KiB.
pub const MAX_LEN: usize = 16 << 10;

/// What the written form is filled up to a multiple of, in bytes.
pub const ALIGNMENT: usize = 4096;

/// Length of a certificate's fingerprint, in bytes.
pub const FINGERPRINT_LEN: usize = 32;

const ROOT_HASH: &str = "rootHash";
const FINGERPRINT: &str = "certificateFingerprint";
const SIGNATURE: &str = "signature";

/// Why there is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// The partition could not be read.
    Read(ReadError),
    /// There are only NULs: a partition without a signature in it.
    Empty,
    /// The object is longer than [`MAX_LEN`].
    TooLong,
    /// There is something behind the NUL that ends the object.
    Padding {
        /// Offset of the first byte that is not NUL, in bytes.
        offset: usize,
    },
    /// It is not JSON, or not an object with strings in it.
    Json(JsonError),
    /// A member that must be there is not.
    Missing {
        /// Its name.
        member: &'static str,
    },
    /// A member is there twice.
    Twice {
        /// Its name.
        member: &'static str,
    },
    /// The root hash is none.
    RootHash(RootHashError),
    /// The fingerprint is not that of a SHA-256.
    Fingerprint,
    /// The signature is not base64, or empty.
    Base64,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the verity signature ")?;
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::Empty => f.write_str("is missing: there are only NULs in its place"),
            Self::TooLong => write!(f, "is longer than {MAX_LEN} bytes"),
            Self::Padding { offset } => write!(
                f,
                "is followed by something else at byte {offset}, where NULs should be"
            ),
            Self::Json(error) => write!(f, "cannot be parsed: {error}"),
            Self::Missing { member } => write!(f, "lacks the member {member}"),
            Self::Twice { member } => write!(f, "has the member {member} twice"),
            Self::RootHash(error) => write!(f, "has an impossible root hash: {error}"),
            Self::Fingerprint => write!(
                f,
                "has a certificate fingerprint that is not {} hexadecimal digits",
                2 * FINGERPRINT_LEN
            ),
            Self::Base64 => f.write_str("holds no base64"),
        }
    }
}

impl core::error::Error for SignatureError {}

impl From<ReadError> for SignatureError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<JsonError> for SignatureError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// A signature of a root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The root hash that was signed.
    pub root: RootHash,
    /// SHA-256 of the signer's certificate in DER; older tools leave it out.
    pub fingerprint: Option<[u8; FINGERPRINT_LEN]>,
    /// The PKCS#7 signature in DER, not empty.
    pub pkcs7: Vec<u8>,
}

impl Signature {
    /// Reads the signature that `partition` begins with.
    ///
    /// # Errors
    /// If there is none, or it is not what [`SignatureError`] says.
    pub fn read<S: ReadAt + ?Sized>(partition: &S) -> Result<Self, SignatureError> {
        // One byte more tells an object of that length from a longer one.
        let most = MAX_LEN + 1;
        let len = usize::try_from(partition.size()).map_or(most, |size| size.min(most));
        let mut bytes = vec![0; len];
        partition.read_at(0, &mut bytes)?;
        Self::parse(&bytes)
    }

    /// Reads a signature from the object's bytes and what follows them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let len = bytes.iter().position(|&byte| byte == 0);
        let (text, padding) = bytes.split_at(len.unwrap_or(bytes.len()));
        if text.is_empty() {
            return Err(SignatureError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(SignatureError::TooLong);
        }
        if let Some(at) = padding.iter().position(|&byte| byte != 0) {
            return Err(SignatureError::Padding {
                offset: text.len() + at,
            });
        }
        let mut members = [(ROOT_HASH, None), (FINGERPRINT, None), (SIGNATURE, None)];
        Reader::new(text)?.object(|reader, name| {
            match members.iter_mut().find(|(known, _)| *known == name) {
                None => reader.skip()?,
                Some((member, Some(_))) => return Err(SignatureError::Twice { member }),
                Some((_, value)) => *value = Some(reader.string()?),
            }
            Ok(())
        })?;
        let [(_, root), (_, fingerprint), (_, pkcs7)] = members;
        let root = root.ok_or(SignatureError::Missing { member: ROOT_HASH })?;
        let pkcs7 = pkcs7.ok_or(SignatureError::Missing { member: SIGNATURE })?;
        Ok(Self {
            root: RootHash::from_hex(&root).map_err(SignatureError::RootHash)?,
            fingerprint: fingerprint.as_deref().map(parse_fingerprint).transpose()?,
            pkcs7: Base64::decode_vec(&pkcs7)
                .ok()
                .filter(|der| !der.is_empty())
                .ok_or(SignatureError::Base64)?,
        })
    }

    /// The object and NULs up to a multiple of [`ALIGNMENT`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let fingerprint = self.fingerprint.map(|bytes| {
            let digits = base16ct::lower::encode_string(&bytes);
            alloc::format!("\"{FINGERPRINT}\":\"{digits}\",")
        });
        let mut out = alloc::format!(
            "{{\"{ROOT_HASH}\":\"{}\",{}\"{SIGNATURE}\":\"{}\"}}",
            self.root,
            fingerprint.unwrap_or_default(),
            Base64::encode_string(&self.pkcs7),
        )
        .into_bytes();
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

fn parse_fingerprint(digits: &str) -> Result<[u8; FINGERPRINT_LEN], SignatureError> {
    let mut bytes = [0; FINGERPRINT_LEN];
    match base16ct::mixed::decode(digits, &mut bytes) {
        Ok(decoded) if decoded.len() == FINGERPRINT_LEN => Ok(bytes),
        _ => Err(SignatureError::Fingerprint),
    }
}

#[cfg(test)]
mod tests;
