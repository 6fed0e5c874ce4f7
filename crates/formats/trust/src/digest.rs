//! The digests that a signature may use.

use der::asn1::ObjectIdentifier;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// SHA-2 of 256, 384 or 512 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// A digest value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Algorithm {
    /// From the object identifier of the digest itself (RFC 5754, 2).
    pub(crate) fn from_digest_oid(oid: &ObjectIdentifier) -> Option<Self> {
        // id-sha256, id-sha384, id-sha512: 2.16.840.1.101.3.4.2.1, 2, 3
        match oid.as_bytes() {
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, last] => Self::from_number(*last),
            _ => None,
        }
    }

    /// From that of RSA with a digest (RFC 4055, 5).
    pub(crate) fn from_rsa_oid(oid: &ObjectIdentifier) -> Option<Self> {
        // sha256WithRSAEncryption and so on: 1.2.840.113549.1.1.11, 12, 13
        match oid.as_bytes() {
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last] => {
                Self::from_number(last.checked_sub(10)?)
            }
            _ => None,
        }
    }

    /// From that of ECDSA with a digest (RFC 5758, 3.2).
    pub(crate) fn from_ecdsa_oid(oid: &ObjectIdentifier) -> Option<Self> {
        // ecdsa-with-SHA256 and so on: 1.2.840.10045.4.3.2, 3, 4
        match oid.as_bytes() {
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last] => Self::from_number(last.checked_sub(1)?),
            _ => None,
        }
    }

    /// In all three families the three follow one another.
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha384),
            3 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Length in bytes.
    fn len(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// What stands before the value in a DigestInfo (RFC 8017, 9.2, note 1).
    pub(crate) fn info_prefix(self) -> [u8; 19] {
        let (number, len) = match self {
            Self::Sha256 => (1, 32),
            Self::Sha384 => (2, 48),
            Self::Sha512 => (3, 64),
        };
        [
            0x30,
            17 + len,
            0x30,
            13,
            6,
            9,
            0x60,
            0x86,
            0x48,
            1,
            0x65,
            3,
            4,
            2,
            number,
            5,
            0,
            4,
            len,
        ]
    }

    /// The digest of `parts`, one after the other.
    pub(crate) fn of(self, parts: &[&[u8]]) -> Digest {
        let mut bytes = [0; 64];
        match self {
            Self::Sha256 => fill::<Sha256>(parts, &mut bytes),
            Self::Sha384 => fill::<Sha384>(parts, &mut bytes),
            Self::Sha512 => fill::<Sha512>(parts, &mut bytes),
        }
        Digest {
            algorithm: self,
            bytes,
        }
    }
}

/// Puts the digest at the front of `out`.
fn fill<D: sha2::Digest>(parts: &[&[u8]], out: &mut [u8; 64]) {
    let mut hasher = D::new();
    for part in parts {
        hasher.update(part);
    }
    for (out, byte) in out.iter_mut().zip(hasher.finalize()) {
        *out = byte;
    }
}

impl Digest {
    /// With what it was made.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.algorithm.len()))
            .unwrap_or(&self.bytes)
    }
}

/// The SHA-256 digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
