//! Certificates and the signatures that are made with them.

use std::sync::OnceLock;

use iofs_trust::{Certificate, KeyKind, MAX_LEN, SignerId, verify_detached};
use sha2::{Digest as _, Sha256};

/// What the seeds sign.
const CONTENT: &[u8] = b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A certificate with a signature without and one with attributes; made by
/// `seeds/trust/make`.
struct Sample {
    der: &'static [u8],
    plain: &'static [u8],
    attributes: &'static [u8],
}

macro_rules! sample {
    ($name:literal) => {
        Sample {
            der: include_bytes!(concat!("../seeds/trust/", $name, ".crt")),
            plain: include_bytes!(concat!("../seeds/trust/", $name, ".plain")),
            attributes: include_bytes!(concat!("../seeds/trust/", $name, ".attributes")),
        }
    };
}

const SAMPLES: [Sample; 3] = [sample!("rsa"), sample!("p256"), sample!("p384")];

/// Seeds of [`certificate`].
pub(crate) fn certificates() -> Vec<Vec<u8>> {
    SAMPLES.iter().map(|sample| sample.der.to_vec()).collect()
}

/// Seeds of [`trust`].
pub(crate) fn signatures() -> Vec<Vec<u8>> {
    SAMPLES
        .iter()
        .flat_map(|sample| [sample.plain.to_vec(), sample.attributes.to_vec()])
        .collect()
}

fn trusted() -> &'static [Certificate] {
    static TRUSTED: OnceLock<Vec<Certificate>> = OnceLock::new();
    TRUSTED.get_or_init(|| {
        let parse = |sample: &Sample| Certificate::parse(sample.der).ok();
        let trusted: Vec<_> = SAMPLES.iter().filter_map(parse).collect();
        assert_eq!(trusted.len(), SAMPLES.len());
        trusted
    })
}

impl Sample {
    /// The part of a signature that cannot be another: the whole RSA value; of
    /// an ECDSA value the first number, as (r, n - s) holds where (r, s) does.
    fn fixed(&self, message: &'static [u8]) -> &'static [u8] {
        if self.is_rsa() {
            return &message[message.len() - 256..];
        }
        // An OCTET STRING with a SEQUENCE in it that ends the message.
        let value = (message.len() - 110..message.len() - 8)
            .find(|&at| {
                message[at] == 4
                    && message[at + 2] == 0x30
                    && at + 2 + usize::from(message[at + 1]) == message.len()
            })
            .unwrap_or(0);
        let r = value + 4;
        &message[r..r + 2 + usize::from(message[r + 1])]
    }

    /// The signed attributes, without their header.
    fn attribute_set(&self) -> &'static [u8] {
        let at = find(self.attributes, CONTENT_TYPE_ATTRIBUTE);
        let len = usize::from(self.attributes[at - 1]);
        &self.attributes[at..at + len]
    }

    fn is_rsa(&self) -> bool {
        self.der == SAMPLES[0].der
    }

    /// The key in the certificate: modulus or point.
    fn key(&self) -> &'static [u8] {
        let (before, len): (&[u8], _) = match SAMPLES.iter().position(|s| s.der == self.der) {
            Some(0) => (&[0x02, 0x82, 0x01, 0x01, 0x00], 256),
            Some(1) => (&[0x03, 0x42, 0x00, 0x04], 64),
            _ => (&[0x03, 0x62, 0x00, 0x04], 96),
        };
        let at = find(self.der, before) + before.len();
        &self.der[at..at + len]
    }
}

/// The first attribute of every set: contentType, which is the shortest.
const CONTENT_TYPE_ATTRIBUTE: &[u8] = &[
    0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3,
];

/// Where `needle` is in a sample, all of which have it.
fn find(sample: &[u8], needle: &[u8]) -> usize {
    let mut parts = sample.windows(needle.len());
    parts.position(|part| part == needle).unwrap_or(usize::MAX)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

/// Names go to the console.
fn is_printable(text: &str) -> bool {
    text.len() < 1024 && !text.chars().any(char::is_control)
}

/// X.509 certificates.
///
/// Input: a certificate in DER.
///
/// Invariants:
/// * no panic; messages and names hold no control characters;
/// * what is accepted is whole: no byte less or more is accepted too;
/// * its fingerprint is the SHA-256 of all of it;
/// * it vouches for a known signature only if it holds the key that made it.
pub fn certificate(data: &[u8]) {
    let certificate = match Certificate::parse(data) {
        Ok(certificate) => certificate,
        Err(error) => return assert!(is_printable(&error.to_string())),
    };
    assert!(data.len() <= MAX_LEN);
    assert!(Certificate::parse(&data[..data.len() - 1]).is_err());
    assert!(Certificate::parse(&[data, &[0]].concat()).is_err());
    assert_eq!(
        certificate.fingerprint()[..],
        Sha256::digest(data).as_slice()[..]
    );
    if let KeyKind::Rsa { bits } = certificate.key() {
        assert!((2048..=4096).contains(&bits));
    }
    assert!(is_printable(&certificate.subject()));
    match certificate.id() {
        SignerId::Serial { issuer, serial } => {
            assert!(is_printable(&issuer) && is_printable(&serial));
        }
        SignerId::KeyId(id) => assert!(is_printable(&id)),
    }
    let alone = [certificate];
    for sample in &SAMPLES {
        for message in [sample.plain, sample.attributes] {
            if verify_detached(message, CONTENT, &alone).is_ok() {
                assert!(contains(data, sample.key()));
            }
        }
    }
}

/// Detached signatures.
///
/// Input: a PKCS#7 signature in DER, checked against three certificates (RSA,
/// P-256, P-384).
///
/// Invariants:
/// * no panic; messages hold no control characters;
/// * what is accepted holds the value of a signature that was made by the
///   certificate that it is accepted for, and where that one has attributes,
///   these, unchanged;
/// * what is accepted is accepted for that certificate alone, for none of the
///   others, for no other content, and is whole: no byte less or more is
///   accepted too.
pub fn trust(data: &[u8]) {
    let trusted = trusted();
    let which = match verify_detached(data, CONTENT, trusted) {
        Ok(which) => which,
        Err(error) => {
            assert!(is_printable(&error.to_string()));
            return;
        }
    };
    assert!(data.len() <= MAX_LEN);
    let sample = &SAMPLES[which];
    let plain = contains(data, sample.fixed(sample.plain));
    let attributes =
        contains(data, sample.fixed(sample.attributes)) && contains(data, sample.attribute_set());
    assert!(plain || attributes, "nobody made this signature");
    let alone = core::slice::from_ref(&trusted[which]);
    assert_eq!(verify_detached(data, CONTENT, alone), Ok(0));
    assert!(verify_detached(data, CONTENT, &[]).is_err());
    let place = crc32fast::hash(data) as usize % (CONTENT.len() * 8);
    let mut other = CONTENT.to_vec();
    other[place / 8] ^= 1 << (place % 8);
    assert!(verify_detached(data, &other, trusted).is_err());
    assert!(verify_detached(data, &data[..data.len().min(64)], trusted).is_err());
    assert!(verify_detached(&data[..data.len() - 1], CONTENT, trusted).is_err());
    assert!(verify_detached(&[data, &[0]].concat(), CONTENT, trusted).is_err());
}
