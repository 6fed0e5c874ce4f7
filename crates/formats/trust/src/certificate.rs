//! The few fields of an X.509 certificate (RFC 5280) that matter here.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use der::Tag;

use crate::digest::{self, Algorithm};
use crate::ec;
use crate::error::{Refusal, SignerId, TrustError};
use crate::input::{Element, Input, context};
use crate::name;
use crate::rsa::{self, KeyProblem};

/// rsaEncryption, 1.2.840.113549.1.1.1 (RFC 8017, A.1)
pub(crate) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// id-ecPublicKey, 1.2.840.10045.2.1 (RFC 5480, 2.1.1)
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// secp256r1, 1.2.840.10045.3.1.7 (RFC 5480, 2.1.1.1)
const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// secp384r1, 1.3.132.0.34 (the same)
const SECP384R1: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
/// id-ce-subjectKeyIdentifier, 2.5.29.14 (RFC 5280, 4.2.1.2)
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];

/// A trusted certificate: its public key and what signatures call it.
///
/// Nothing in it is believed to be true of its owner, and neither its own
/// signature nor its validity dates are looked at: it is trusted because it is
/// handed to [`verify_detached`](crate::verify_detached).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    fingerprint: [u8; 32],
    /// The DER of the Name.
    issuer: Box<[u8]>,
    /// The DER of the Name.
    subject: Box<[u8]>,
    /// The content of the INTEGER.
    serial: Box<[u8]>,
    key_id: Option<Box<[u8]>>,
    key: PublicKey,
}

/// The kind of a public key, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa {
        /// Length of the modulus in bits.
        bits: usize,
    },
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("ECDSA P-256"),
            Self::P384 => f.write_str("ECDSA P-384"),
        }
    }
}

/// A public key that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PublicKey {
    Rsa(rsa::Key),
    /// The uncompressed point (SEC 1, 2.3.3).
    P256(Box<[u8]>),
    P384(Box<[u8]>),
}

/// Whom a signature names, in the bytes that a certificate is compared by.
#[derive(Clone, Copy)]
pub(crate) enum Identifier<'a> {
    Serial { issuer: &'a [u8], serial: &'a [u8] },
    KeyId(&'a [u8]),
}

impl Identifier<'_> {
    /// As text.
    pub(crate) fn describe(&self) -> SignerId {
        match self {
            Self::Serial { issuer, serial } => SignerId::Serial {
                issuer: name::text(issuer),
                serial: name::hex(serial),
            },
            Self::KeyId(id) => SignerId::KeyId(name::hex(id)),
        }
    }
}

impl Certificate {
    /// Reads a certificate from DER.
    ///
    /// # Errors
    /// It is longer than [`MAX_LEN`](crate::MAX_LEN), malformed, or its key is
    /// of a kind or size that is not supported.
    pub fn parse(der: &[u8]) -> Result<Self, TrustError> {
        if der.len() > crate::MAX_LEN {
            return Err(TrustError::TooLong { len: der.len() });
        }
        Self::read(der).map_err(|refusal| *refusal)
    }

    fn read(der: &[u8]) -> Result<Self, Refusal> {
        let what = "an X.509 certificate";
        let mut outer = Input::new(der, what)?;
        let mut certificate = outer.sequence(what)?;
        outer.end("the end of the certificate")?;
        let mut fields = certificate.sequence("the fields of the certificate")?;
        certificate.algorithm("the signature algorithm of the certificate")?;
        certificate.bits("the signature of the certificate")?;
        certificate.end("the end of the certificate")?;

        fields.optional(context(0, true));
        let serial = fields.expect(Tag::Integer, "a serial number")?;
        fields.algorithm("the signature algorithm of the certificate")?;
        let issuer = fields.expect(Tag::Sequence, "the issuer")?;
        fields.expect(Tag::Sequence, "the validity")?;
        let subject = fields.expect(Tag::Sequence, "the subject")?;
        let key = public_key(&mut fields)?;
        fields.optional(context(1, false));
        fields.optional(context(2, false));
        let key_id = match fields.optional(context(3, true)) {
            Some(extensions) => subject_key_id(extensions)?,
            None => None,
        };
        fields.end("the end of the fields of the certificate")?;
        Ok(Self {
            fingerprint: digest::sha256(der),
            issuer: issuer.whole.into(),
            subject: subject.whole.into(),
            serial: serial.content.into(),
            key_id,
            key,
        })
    }

    /// SHA-256 of the whole certificate in DER: `certificateFingerprint` of a
    /// verity signature partition.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The subject's name as text, such as `CN=Example, O=Org`.
    #[must_use]
    pub fn subject(&self) -> String {
        name::text(&self.subject)
    }

    /// What signatures call it: issuer and serial number.
    #[must_use]
    pub fn id(&self) -> SignerId {
        Identifier::Serial {
            issuer: &self.issuer,
            serial: &self.serial,
        }
        .describe()
    }

    /// What the kernel describes a key of this certificate's by, unless it is told
    /// otherwise: the subject key identifier or, without one, the serial number, in
    /// hexadecimal, without leading zeros and perhaps not to the end
    /// (crypto/asymmetric_keys/x509_public_key.c).
    #[must_use]
    pub fn kernel_id(&self) -> String {
        let id = name::hex(self.key_id.as_ref().unwrap_or(&self.serial));
        id.trim_end_matches('…').trim_start_matches("00").into()
    }

    /// Whether it names itself as its issuer: who looks for a certificate that vouches for
    /// it finds itself.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// The kind of its key.
    #[must_use]
    pub fn key(&self) -> KeyKind {
        match &self.key {
            PublicKey::Rsa(key) => KeyKind::Rsa { bits: key.bits() },
            PublicKey::P256(_) => KeyKind::P256,
            PublicKey::P384(_) => KeyKind::P384,
        }
    }

    /// Whether `identifier` means this certificate.
    pub(crate) fn is(&self, identifier: &Identifier<'_>) -> bool {
        match *identifier {
            Identifier::Serial { issuer, serial } => {
                *self.issuer == *issuer && *self.serial == *serial
            }
            Identifier::KeyId(id) => self.key_id.as_deref() == Some(id),
        }
    }

    /// Whether `signature`, made by the algorithm `oid`, is one over `parts`
    /// by the certificate's key.
    pub(crate) fn verify(
        &self,
        digest: Algorithm,
        oid: &der::asn1::ObjectIdentifier,
        parts: &[&[u8]],
        signature: Element<'_>,
    ) -> Result<bool, Refusal> {
        let allowed = match &self.key {
            // PKCS#7 names the key's algorithm, CMS allows the signature's too.
            PublicKey::Rsa(_) => {
                oid.as_bytes() == RSA || Algorithm::from_rsa_oid(oid) == Some(digest)
            }
            PublicKey::P256(_) | PublicKey::P384(_) => {
                Algorithm::from_ecdsa_oid(oid) == Some(digest)
            }
        };
        if !allowed {
            return Err(TrustError::Algorithm {
                oid: name::dotted(oid),
                key: self.key(),
            }
            .into());
        }
        let digest = digest.of(parts);
        if let PublicKey::Rsa(key) = &self.key {
            return Ok(key.verify(&digest, signature.content));
        }
        let what = "an ECDSA signature";
        let mut outer = signature.open(what)?;
        let mut pair = outer.sequence(what)?;
        outer.end(what)?;
        let (r, s) = (pair.unsigned(what)?, pair.unsigned(what)?);
        pair.end(what)?;
        Ok(match &self.key {
            PublicKey::Rsa(_) => false,
            PublicKey::P256(point) => ec::P256.verify(point, digest.as_bytes(), r, s),
            PublicKey::P384(point) => ec::P384.verify(point, digest.as_bytes(), r, s),
        })
    }
}

/// SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
fn public_key(fields: &mut Input<'_>) -> Result<PublicKey, Refusal> {
    let what = "a public key";
    let mut info = fields.sequence(what)?;
    let (oid, parameters) = info.algorithm(what)?;
    let bits = info.bits(what)?;
    info.end(what)?;
    match (oid.as_bytes(), parameters) {
        (RSA, None) => {
            let what = "an RSA public key";
            let mut outer = bits.open(what)?;
            let mut key = outer.sequence(what)?;
            outer.end(what)?;
            let (modulus, exponent) = (key.unsigned(what)?, key.unsigned(what)?);
            key.end(what)?;
            match rsa::Key::new(modulus, exponent) {
                Ok(key) => Ok(PublicKey::Rsa(key)),
                Err(KeyProblem::Modulus(bits)) => Err(TrustError::Modulus { bits }.into()),
                Err(KeyProblem::Exponent) => Err(TrustError::Exponent.into()),
            }
        }
        (EC, Some(curve)) => {
            let what = "a named curve";
            let curve = Input::new(curve.whole, what)
                .and_then(|mut curve| curve.oid(what))
                .map_err(|_| curve.malformed(what))?;
            let point = bits.content;
            let (valid, key) = match curve.as_bytes() {
                SECP256R1 => (ec::P256.holds(point), PublicKey::P256(point.into())),
                SECP384R1 => (ec::P384.holds(point), PublicKey::P384(point.into())),
                _ => {
                    return Err(TrustError::KeyAlgorithm {
                        oid: name::dotted(&curve),
                    }
                    .into());
                }
            };
            if valid {
                Ok(key)
            } else {
                Err(TrustError::Point.into())
            }
        }
        _ => Err(TrustError::KeyAlgorithm {
            oid: name::dotted(&oid),
        }
        .into()),
    }
}

/// Finds the subject key identifier among the extensions.
fn subject_key_id(extensions: Element<'_>) -> Result<Option<Box<[u8]>>, Refusal> {
    let what = "an extension";
    let mut outer = extensions.open(what)?;
    let mut list = outer.sequence(what)?;
    outer.end(what)?;
    let mut found = None;
    while !list.is_empty() {
        let mut extension = list.sequence(what)?;
        let oid = extension.oid(what)?;
        extension.optional(Tag::Boolean);
        let value = extension.expect(Tag::OctetString, what)?;
        extension.end(what)?;
        if oid.as_bytes() == SUBJECT_KEY_ID {
            let what = "a subject key identifier";
            let mut inner = value.open(what)?;
            found = Some(inner.expect(Tag::OctetString, what)?.content.into());
            inner.end(what)?;
        }
    }
    Ok(found)
}
