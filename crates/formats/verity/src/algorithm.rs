//! The hash functions.

use core::fmt;

use sha2::digest::Update as _;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash function that trees may be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// SHA-256, what every tool takes unless told otherwise.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The kernel's name for it, as in superblock and table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The function of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().as_bytes() == name)
    }

    /// Length of a digest in bytes: a power of two, as hash type 1 would pad it.
    #[must_use]
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A hash function that has taken in the salt.
#[derive(Debug, Clone)]
pub(crate) enum Salted {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Salted {
    pub(crate) fn new(algorithm: Algorithm, salt: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new().chain(salt)),
            Algorithm::Sha512 => Self::Sha512(Sha512::new().chain(salt)),
        }
    }

    /// Writes the digest of salt and `block` to `out`, which has the digest's
    /// length.
    pub(crate) fn digest(&self, block: &[u8], out: &mut [u8]) {
        match self {
            Self::Sha256(salted) => {
                out.copy_from_slice(&salted.clone().chain(block).finalize());
            }
            Self::Sha512(salted) => {
                out.copy_from_slice(&salted.clone().chain(block).finalize());
            }
        }
    }

    /// Whether the digest of salt and `block` is `expected`.
    pub(crate) fn matches(&self, block: &[u8], expected: &[u8]) -> bool {
        let mut digest = [0; 64];
        let digest = match self {
            Self::Sha256(_) => &mut digest[..32],
            Self::Sha512(_) => &mut digest[..],
        };
        self.digest(block, digest);
        *digest == *expected
    }
}
