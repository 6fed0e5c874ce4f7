//! Checks that a detached PKCS#7 signature was made by a trusted certificate.
//!
//! The signed bytes are the root hash of a dm-verity device in lower-case ASCII
//! hexadecimal, without a line end, as systemd-repart (`Verity=signature`),
//! `openssl smime -sign -binary -noattr -outform der` and the kernel's
//! `root_hash_sig_key_desc` have it.
//!
//! Specifications: CMS SignedData (RFC 5652, 5; version 1 is PKCS#7 1.5, RFC
//! 2315), X.509 certificates (RFC 5280), RSASSA-PKCS1-v1_5 (RFC 8017, 8.2),
//! ECDSA (FIPS 186-5). Encoding: DER. Offsets and lengths are bytes.
//!
//! # What is checked
//! A signer names, by issuer and serial number or by subject key identifier,
//! one of the certificates that the caller trusts, and its signature over the
//! content holds under that certificate's key. One such signer is enough.
//!
//! Taken: RSA of 2048 to 4096 bits with an odd exponent from 3 to 2^33 and
//! PKCS#1 v1.5 padding, ECDSA on P-256 and P-384, each with SHA-256, SHA-384 or
//! SHA-512; with signed attributes (which must then name plain data and the
//! digest of the content) or without.
//!
//! # What is not checked
//! No chain is built: what is trusted is exactly the certificates handed in, as
//! systemd does with those in `/etc/verity.d` and the kernel with those in its
//! keyrings. Certificates inside the signature are not even decoded. Validity
//! dates are not looked at: PID 1 has no clock that it could trust, and a
//! machine must boot when its battery is empty. To withdraw a certificate, take
//! it out of what is trusted; against old images there is the minimum version.
//! Key usage and other extensions are passed over.
//!
//! # What is refused
//! More than [`MAX_LEN`] bytes, more than [`MAX_SIGNERS`] signers; BER that is
//! not DER (an indefinite length) where it is decoded, bytes left over; a
//! content inside the signature or one that is not plain data; RSASSA-PSS,
//! SHA-1, compressed points, other curves. Nothing recurses.
//!
//! A signature with attributes is one over an attribute set, so content and set
//! must not be confused: a set begins with `1` and a length that is no
//! hexadecimal digit for any digest, so that no root hash in hexadecimal is one.
//!
//! The kernel's `verify_pkcs7_signature` is narrower in one point: RSA must be
//! named `rsaEncryption` (as OpenSSL does), not with its digest.
//!
//! # Why the arithmetic is here
//! A verifier handles public data only and need not run in constant time, which
//! is what makes general libraries large and slow: theirs take 12 million
//! instructions for a P-384 signature in a program built for size, and their
//! current releases need a newer compiler than this project may ask for. What
//! is here is small enough to read, and tested against OpenSSL and the
//! Wycheproof vectors.
//!
//! # What it costs
//! [`verify_detached`] in a program like PID 1 (x86-64; this crate at optimisation
//! level 2, all else at level z), in millions of instructions as callgrind counts
//! them: RSA-4096 2.33, P-256 1.34, P-384 2.82. The bound is 3 for each. Level z
//! would take 5.8, 2.2 and 4.7; level 2 makes storage-init 18 KB larger, 7 KB
//! when compressed.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arith;
mod certificate;
mod digest;
mod ec;
mod error;
mod input;
mod name;
mod rsa;
mod signed_data;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, KeyKind};
pub use error::{SignerId, TrustError};

/// The greatest length of a signature or a certificate, in bytes.
pub const MAX_LEN: usize = 64 << 10;

/// The most signers that a signature may have.
pub const MAX_SIGNERS: usize = 8;

/// Checks that `pkcs7` (DER) is a detached signature over `content` by one of
/// `trusted`; which one, as an index.
///
/// # Errors
/// The signature cannot be used, or no signer's signature holds. Where there
/// are several signers, the error is about the last one that is trusted, else
/// about the last.
pub fn verify_detached(
    pkcs7: &[u8],
    content: &[u8],
    trusted: &[Certificate],
) -> Result<usize, TrustError> {
    signed_data::verify(pkcs7, content, trusted).map_err(|refusal| *refusal)
}
