//! The root hash.

use alloc::string::String;
use core::fmt;

use uuid::Uuid;

use crate::Algorithm;

const MAX_LEN: usize = 64;

/// Why something is no root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootHashError {
    /// It is not as long as a digest of a known hash function.
    Length {
        /// Its length, in bytes.
        len: usize,
    },
    /// It is not an even number of hexadecimal digits.
    Hex,
}

impl fmt::Display for RootHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len } => write!(
                f,
                "a root hash of {len} bytes is neither SHA-256's (32) nor SHA-512's (64)"
            ),
            Self::Hex => f.write_str("a root hash is written in pairs of hexadecimal digits"),
        }
    }
}

impl core::error::Error for RootHashError {}

/// The digest that the whole tree hangs from. Displays as lower-case
/// hexadecimal digits, the form that signatures are made over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RootHash {
    bytes: [u8; MAX_LEN],
    algorithm: Algorithm,
}

impl RootHash {
    /// From the digest's bytes; their number tells the hash function.
    ///
    /// # Errors
    /// [`RootHashError::Length`].
    pub fn from_bytes(digest: &[u8]) -> Result<Self, RootHashError> {
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.digest_len() == digest.len())
            .ok_or(RootHashError::Length { len: digest.len() })?;
        let mut bytes = [0; MAX_LEN];
        bytes[..digest.len()].copy_from_slice(digest);
        Ok(Self { bytes, algorithm })
    }

    /// From hexadecimal digits of either case.
    ///
    /// # Errors
    /// If these are other characters, or not as many as a digest has.
    pub fn from_hex(digits: &str) -> Result<Self, RootHashError> {
        let mut bytes = [0; MAX_LEN];
        match base16ct::mixed::decode(digits, &mut bytes) {
            Ok(digest) => Self::from_bytes(digest),
            Err(base16ct::Error::InvalidLength) if digits.len() % 2 == 0 => {
                Err(RootHashError::Length {
                    len: digits.len() / 2,
                })
            }
            Err(_) => Err(RootHashError::Hex),
        }
    }

    /// The digest's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// Lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        base16ct::lower::encode_string(self.as_bytes())
    }

    /// The hash function that it is of.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The PARTUUID of the data partition: the first 128 bits.
    #[must_use]
    pub fn data_part_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.sixteen(0))
    }

    /// The PARTUUID of the verity partition: the last 128 bits.
    #[must_use]
    pub fn verity_part_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.sixteen(self.algorithm.digest_len() - 16))
    }

    fn sixteen(&self, at: usize) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.bytes[at..at + 16]);
        bytes
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const HEX: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn hex_goes_both_ways_and_gives_the_partuuids() {
        let root = RootHash::from_hex(HEX).unwrap();
        assert_eq!(root.to_string(), HEX);
        assert_eq!(root.to_hex(), HEX);
        assert_eq!(RootHash::from_hex(&HEX.to_uppercase()), Ok(root));
        assert_eq!(root.algorithm(), Algorithm::Sha256);
        assert_eq!(
            root.data_part_uuid().to_string(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(
            root.verity_part_uuid().to_string(),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
        let wide = RootHash::from_hex(&[HEX, HEX].concat()).unwrap();
        assert_eq!(wide.algorithm(), Algorithm::Sha512);
        assert_eq!(wide.data_part_uuid(), root.data_part_uuid());
        assert_eq!(wide.verity_part_uuid(), root.verity_part_uuid());
    }

    #[test]
    fn other_lengths_and_digits_are_refused() {
        for (text, error) in [
            ("", RootHashError::Length { len: 0 }),
            (&HEX[2..], RootHashError::Length { len: 31 }),
            (&HEX[1..], RootHashError::Hex),
            (
                &[HEX, HEX, "00"].concat(),
                RootHashError::Length { len: 65 },
            ),
            (&HEX.replace('9', "g"), RootHashError::Hex),
            (&HEX.replace('9', " "), RootHashError::Hex),
        ] {
            assert_eq!(RootHash::from_hex(text), Err(error), "{text}");
        }
    }
}
