//! Why a signature or a certificate is refused.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use crate::KeyKind;

/// Whom a signature names as its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignerId {
    /// By a certificate's issuer and serial number.
    Serial {
        /// The issuer's name as text, such as `CN=Example, O=Org`.
        issuer: String,
        /// The serial number in hexadecimal.
        serial: String,
    },
    /// By a certificate's subject key identifier, in hexadecimal.
    KeyId(String),
}

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { issuer, serial } => {
                write!(f, "serial number {serial} of issuer {issuer}")
            }
            Self::KeyId(id) => write!(f, "subject key identifier {id}"),
        }
    }
}

/// What went wrong. Offsets are bytes from the start of the document: the
/// signature for [`verify_detached`](crate::verify_detached), else the
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustError {
    /// The document is longer than [`MAX_LEN`](crate::MAX_LEN).
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The document is not the DER that it should be.
    Malformed {
        /// What should be there.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// The message is none of the kind SignedData over plain data.
    NotSignedData,
    /// SignedData or a signer has a version that does not fit.
    Version {
        /// Which structure.
        what: &'static str,
    },
    /// The signature holds a content of its own.
    Embedded,
    /// There is no signer.
    NoSigner,
    /// There are more signers than [`MAX_SIGNERS`](crate::MAX_SIGNERS).
    TooManySigners,
    /// The signer's digest algorithm is none that is taken.
    Digest {
        /// Its object identifier.
        oid: String,
    },
    /// The signature algorithm is none that is taken, or fits neither the
    /// certificate's key nor the digest.
    Algorithm {
        /// Its object identifier.
        oid: String,
        /// The key of the trusted certificate.
        key: KeyKind,
    },
    /// The certificate's key is of a kind that is not taken.
    KeyAlgorithm {
        /// The object identifier of the algorithm or of the curve.
        oid: String,
    },
    /// The certificate's RSA modulus is even or not of 2048 to 4096 bits.
    Modulus {
        /// Its length in bits.
        bits: usize,
    },
    /// The certificate's RSA exponent is even, less than 3 or above 2^33.
    Exponent,
    /// The certificate's point is compressed or not on its curve.
    Point,
    /// The signer is none of the trusted certificates.
    UnknownSigner {
        /// Whom the signature names.
        signer: SignerId,
        /// How many certificates are trusted.
        trusted: usize,
    },
    /// The signed attributes are not about this content.
    Attributes {
        /// What is wrong with them.
        what: &'static str,
    },
    /// The signer is trusted, the signature is not one over this content.
    BadSignature {
        /// Whom the signature names.
        signer: SignerId,
    },
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(
                f,
                "{len} bytes are too many for a signature or a certificate (the limit is {})",
                crate::MAX_LEN
            ),
            Self::Malformed { what, offset } => {
                write!(f, "malformed at offset {offset}: expected {what} in DER")
            }
            Self::NotSignedData => f.write_str("not a PKCS#7 signature over plain data"),
            Self::Version { what } => write!(f, "the version of {what} is not one that is known"),
            Self::Embedded => {
                f.write_str("the signature holds a content of its own; make it detached")
            }
            Self::NoSigner => f.write_str("nobody signed it"),
            Self::TooManySigners => {
                write!(f, "more than {} signers", crate::MAX_SIGNERS)
            }
            Self::Digest { oid } => write!(
                f,
                "the digest algorithm {oid} is not allowed; sign with SHA-256, SHA-384 or SHA-512"
            ),
            Self::Algorithm { oid, key } => write!(
                f,
                "the signature algorithm {oid} is not allowed with this digest and a key of {key}"
            ),
            Self::KeyAlgorithm { oid } => write!(
                f,
                "a key of the kind {oid} is not supported; take RSA, P-256 or P-384"
            ),
            Self::Modulus { bits } => write!(
                f,
                "the RSA modulus of {bits} bits is even or not of 2048 to 4096 bits"
            ),
            Self::Exponent => f.write_str("the RSA exponent is even, below 3 or above 2^33"),
            Self::Point => f.write_str("the public key is no uncompressed point on its curve"),
            Self::UnknownSigner { signer, trusted } => write!(
                f,
                "signed by another key: {signer} is none of the {trusted} trusted certificates"
            ),
            Self::Attributes { what } => write!(f, "signed attributes: {what}"),
            Self::BadSignature { signer } => write!(
                f,
                "the signature by {signer} does not fit: content or signature were changed, or \
                 another key made it"
            ),
        }
    }
}

impl core::error::Error for TrustError {}

/// What the readers pass on: one word instead of the whole error makes PID 1
/// several kilobytes smaller.
pub(crate) type Refusal = Box<TrustError>;

/// The error that `what` is not at `offset`.
#[cold]
pub(crate) fn malformed(what: &'static str, offset: usize) -> Refusal {
    Box::new(TrustError::Malformed { what, offset })
}
