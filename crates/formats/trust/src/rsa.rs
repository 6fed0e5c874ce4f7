//! RSA signature verification with PKCS #1 v1.5 padding (RFC 8017, 8.2.2).
//!
//! The one encoding that the RFC's method yields is built and compared as a
//! whole; nothing in the decrypted block is parsed.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::arith::{Modulus, bit_len, read_be};
use crate::digest::Digest;

/// The shortest modulus taken, in bits.
pub(crate) const MIN_BITS: usize = 2048;
/// The longest modulus taken, in bits: what the kernel takes too.
pub(crate) const MAX_BITS: usize = 4096;
/// The greatest public exponent taken; it bounds the time.
pub(crate) const MAX_EXPONENT: u64 = 1 << 33;

/// A public key within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Big-endian, without leading zeros, odd.
    modulus: Box<[u8]>,
    exponent: u64,
    bits: usize,
}

/// Why a key is not taken.
pub(crate) enum KeyProblem {
    /// The modulus has this many bits, or is even.
    Modulus(usize),
    /// The exponent is even, less than 3 or greater than [`MAX_EXPONENT`].
    Exponent,
}

impl Key {
    /// Takes a modulus and an exponent, big-endian, without leading zeros.
    pub(crate) fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyProblem> {
        let bits = bit_len(&[u64::from(modulus.first().copied().unwrap_or(0))])
            .saturating_add(modulus.len().saturating_sub(1).saturating_mul(8));
        let odd = modulus.last().is_some_and(|low| low % 2 == 1);
        if !(MIN_BITS..=MAX_BITS).contains(&bits) || !odd {
            return Err(KeyProblem::Modulus(bits));
        }
        let exponent = read_be(exponent, [0]).map_or(0, |[exponent]| exponent);
        if exponent % 2 == 0 || !(3..=MAX_EXPONENT).contains(&exponent) {
            return Err(KeyProblem::Exponent);
        }
        Ok(Self {
            modulus: modulus.into(),
            exponent,
            bits,
        })
    }

    /// Length of the modulus in bits.
    pub(crate) fn bits(&self) -> usize {
        self.bits
    }

    /// Whether `signature` is one over a message with that digest.
    pub(crate) fn verify(&self, digest: &Digest, signature: &[u8]) -> bool {
        self.check(digest, signature).is_some()
    }

    /// `None` where the signature is wrong.
    fn check(&self, digest: &Digest, signature: &[u8]) -> Option<()> {
        if signature.len() != self.modulus.len() {
            return None;
        }
        let zero = vec![0u64; self.modulus.len().div_ceil(8)];
        let modulus = Modulus::new(read_be(&self.modulus, zero.clone())?)?;
        let signature = read_be(signature, zero.clone()).filter(|value| modulus.holds(value))?;
        let block = modulus.pow(&modulus.enter(&signature), &[self.exponent]);
        let expected = read_be(&encode(digest, self.modulus.len())?, zero)?;
        (modulus.leave(&block) == expected).then_some(())
    }
}

/// EMSA-PKCS1-v1_5 (RFC 8017, 9.2): `len` bytes, 0 1 ff … ff 0, the DigestInfo.
fn encode(digest: &Digest, len: usize) -> Option<Vec<u8>> {
    let value = digest.as_bytes();
    let info = digest.algorithm().info_prefix();
    let padding = len.checked_sub(3 + info.len() + value.len())?;
    let mut block = Vec::with_capacity(len);
    block.extend_from_slice(&[0, 1]);
    block.resize(2 + padding, 0xff);
    block.push(0);
    block.extend_from_slice(&info);
    block.extend_from_slice(value);
    Some(block)
}
