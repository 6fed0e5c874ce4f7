//! SignedData (RFC 5652, 5; PKCS#7 1.5, 9): the fields that verification needs.

use alloc::boxed::Box;
use alloc::vec::Vec;

use der::Tag;
use der::asn1::ObjectIdentifier;

use crate::certificate::{Certificate, Identifier};
use crate::digest::Algorithm;
use crate::error::{Refusal, TrustError};
use crate::input::{Element, Input, context};
use crate::name;
use crate::{MAX_LEN, MAX_SIGNERS};

/// id-data, 1.2.840.113549.1.7.1 (RFC 5652, 4)
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// id-signedData, 1.2.840.113549.1.7.2 (RFC 5652, 5.1)
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// id-contentType, 1.2.840.113549.1.9.3 (RFC 5652, 11.1)
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// id-messageDigest, 1.2.840.113549.1.9.4 (RFC 5652, 11.2)
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];

/// A SignerInfo (RFC 5652, 5.3).
pub(crate) struct Signer<'a> {
    identifier: Identifier<'a>,
    digest: ObjectIdentifier,
    attributes: Option<Element<'a>>,
    algorithm: ObjectIdentifier,
    /// None of the algorithms that are taken has parameters beside NULL.
    has_parameters: bool,
    signature: Element<'a>,
}

/// What [`crate::verify_detached`] promises.
pub(crate) fn verify(
    pkcs7: &[u8],
    content: &[u8],
    trusted: &[Certificate],
) -> Result<usize, Refusal> {
    let mut refusal: Option<Refusal> = None;
    for signer in signers(pkcs7)? {
        match signer.verify(content, trusted) {
            Ok(which) => return Ok(which),
            // Why a trusted signer's signature does not hold says more than that
            // another one is not known.
            Err(reason) => match (&refusal, &*reason) {
                (Some(before), TrustError::UnknownSigner { .. })
                    if !matches!(**before, TrustError::UnknownSigner { .. }) => {}
                _ => refusal = Some(reason),
            },
        }
    }
    Err(refusal.unwrap_or_else(|| Box::new(TrustError::NoSigner)))
}

/// The signers of a detached signature over plain data, at most [`MAX_SIGNERS`].
pub(crate) fn signers(der: &[u8]) -> Result<Vec<Signer<'_>>, Refusal> {
    if der.len() > MAX_LEN {
        return Err(TrustError::TooLong { len: der.len() }.into());
    }
    let what = "a PKCS#7 message";
    let mut outer = Input::new(der, what)?;
    let mut message = outer.sequence(what)?;
    outer.end("the end of the message")?;
    if message.oid(what)?.as_bytes() != SIGNED_DATA {
        return Err(TrustError::NotSignedData.into());
    }
    let what = "SignedData";
    let mut explicit = message.expect(context(0, true), what)?.open(what)?;
    message.end("the end of the message")?;
    let mut data = explicit.sequence(what)?;
    explicit.end("the end of SignedData")?;

    // 1 in PKCS#7 and in CMS with serial numbers, 3 in CMS with key identifiers
    // (RFC 5652, 5.1); 4 and 5 are for certificates of other kinds.
    if !matches!(data.unsigned("a version")?, [1 | 3]) {
        return Err(TrustError::Version { what }.into());
    }
    // Each signer says its digest again, and only that counts.
    data.set("digest algorithms")?;
    let mut content = data.sequence("a content")?;
    if content.oid("a content type")?.as_bytes() != DATA {
        return Err(TrustError::NotSignedData.into());
    }
    if !content.is_empty() {
        return Err(TrustError::Embedded.into());
    }
    // Certificates and revocation lists are the sender's word: not looked at.
    data.optional(context(0, true));
    data.optional(context(1, true));
    let mut list = data.set("signers")?;
    data.end("the end of SignedData")?;

    let mut signers = Vec::new();
    while !list.is_empty() {
        if signers.len() == MAX_SIGNERS {
            return Err(TrustError::TooManySigners.into());
        }
        signers.push(Signer::read(&mut list)?);
    }
    Ok(signers)
}

impl<'a> Signer<'a> {
    fn read(list: &mut Input<'a>) -> Result<Self, Refusal> {
        let mut info = list.sequence("a signer")?;
        let version = info.unsigned("a version")?;
        let (identifier, fitting) = match info.optional(context(0, false)) {
            Some(id) => (Identifier::KeyId(id.content), 3),
            None => {
                let what = "an issuer and a serial number";
                let mut pair = info.sequence(what)?;
                let issuer = pair.expect(Tag::Sequence, what)?.whole;
                let serial = pair.expect(Tag::Integer, what)?.content;
                pair.end(what)?;
                (Identifier::Serial { issuer, serial }, 1)
            }
        };
        if version != [fitting] {
            return Err(TrustError::Version { what: "a signer" }.into());
        }
        let (digest, parameters) = info.algorithm("a digest algorithm")?;
        if let Some(parameters) = parameters {
            return Err(parameters.malformed("a digest algorithm without parameters"));
        }
        let attributes = info.optional(context(0, true));
        let (algorithm, parameters) = info.algorithm("a signature algorithm")?;
        let signature = info.expect(Tag::OctetString, "a signature")?;
        info.optional(context(1, true));
        info.end("the end of a signer")?;
        Ok(Self {
            identifier,
            digest,
            attributes,
            algorithm,
            has_parameters: parameters.is_some(),
            signature,
        })
    }

    /// Which of `trusted` signed `content`.
    pub(crate) fn verify(&self, content: &[u8], trusted: &[Certificate]) -> Result<usize, Refusal> {
        let mut error = None;
        for (which, certificate) in trusted.iter().enumerate() {
            if certificate.is(&self.identifier) {
                match self.verify_by(content, certificate) {
                    Ok(()) => return Ok(which),
                    Err(reason) => error = Some(reason),
                }
            }
        }
        Err(error.unwrap_or_else(|| {
            Box::new(TrustError::UnknownSigner {
                signer: self.identifier.describe(),
                trusted: trusted.len(),
            })
        }))
    }

    fn verify_by(&self, content: &[u8], certificate: &Certificate) -> Result<(), Refusal> {
        let digest =
            Algorithm::from_digest_oid(&self.digest).ok_or_else(|| TrustError::Digest {
                oid: name::dotted(&self.digest),
            })?;
        if self.has_parameters {
            return Err(TrustError::Algorithm {
                oid: name::dotted(&self.algorithm),
                key: certificate.key(),
            }
            .into());
        }
        let fits = match self.attributes {
            None => certificate.verify(digest, &self.algorithm, &[content], self.signature)?,
            Some(attributes) => {
                check_attributes(attributes, digest, content)?;
                // The signature is over the attributes with the tag of a SET in
                // place of their own (RFC 5652, 5.4).
                let rest = attributes.whole.get(1..).unwrap_or(&[]);
                certificate.verify(digest, &self.algorithm, &[&[0x31], rest], self.signature)?
            }
        };
        if fits {
            Ok(())
        } else {
            Err(TrustError::BadSignature {
                signer: self.identifier.describe(),
            }
            .into())
        }
    }
}

/// The attributes name plain data and the digest of `content`, each once
/// (RFC 5652, 11). Others are passed over.
fn check_attributes(
    attributes: Element<'_>,
    digest: Algorithm,
    content: &[u8],
) -> Result<(), Refusal> {
    let what = "a signed attribute";
    let mut list = attributes.open(what)?;
    let (mut content_type, mut message_digest) = (None, None);
    while !list.is_empty() {
        let mut attribute = list.sequence(what)?;
        let oid = attribute.oid(what)?;
        let mut values = attribute.set(what)?;
        attribute.end(what)?;
        let place = match oid.as_bytes() {
            CONTENT_TYPE => &mut content_type,
            MESSAGE_DIGEST => &mut message_digest,
            _ => continue,
        };
        let value = values.any(what)?;
        values.end(what)?;
        if place.replace(value).is_some() {
            return Err(TrustError::Attributes {
                what: "one is there twice",
            }
            .into());
        }
    }
    let is = |found: Option<Element<'_>>, tag, expected: &[u8]| {
        found.is_some_and(|value| value.is(tag) && value.content == expected)
    };
    if !is(content_type, Tag::ObjectIdentifier, DATA) {
        return Err(TrustError::Attributes {
            what: "the content type is missing or not plain data",
        }
        .into());
    }
    if !is(
        message_digest,
        Tag::OctetString,
        digest.of(&[content]).as_bytes(),
    ) {
        return Err(TrustError::Attributes {
            what: "the digest of the content is missing or another: the content was changed",
        }
        .into());
    }
    Ok(())
}
