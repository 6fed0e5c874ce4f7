//! Damaged and contradictory signatures and certificates: refused, each for its
//! own reason, and none makes the reader panic.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::LazyLock;

use common::{CONTENT, ID_DATA, ID_SIGNED_DATA, KEYS, Lab, NULL, RSA, SHA256, oid, seq, tlv};
use iofs_trust::{Certificate, MAX_LEN, MAX_SIGNERS, TrustError, verify_detached};
use proptest::prelude::*;

/// A trusted certificate with its DER and a signature without and one with
/// attributes.
struct Sample {
    der: Vec<u8>,
    trusted: [Certificate; 1],
    plain: Vec<u8>,
    attributes: Vec<u8>,
    /// The signature value alone.
    value: Vec<u8>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let lab = Lab::new();
    [KEYS[0], KEYS[3], KEYS[4]]
        .iter()
        .map(|(name, words)| {
            let certificate = lab.certificate(name, words);
            lab.openssl(&format!(
                "dgst -sha256 -sign {name}.key -out value.{name} content"
            ));
            Sample {
                der: lab.read(&format!("{name}.der")),
                plain: lab.sign("smime -noattr -nocerts", name),
                attributes: lab.sign("cms -keyid", name),
                value: lab.read(&format!("value.{name}")),
                trusted: [certificate],
            }
        })
        .collect()
});

impl Sample {
    /// Where the signature's value lies in `message`: the last so many bytes,
    /// as no unsigned attributes follow.
    fn value_at(&self, message: &[u8]) -> std::ops::Range<usize> {
        // An ECDSA signature is a SEQUENCE of a length of its own.
        let len = match self.value.len() {
            256 => 256,
            _ => {
                let start = (message.len() - 106..message.len() - 60)
                    .find(|&at| {
                        message[at] == 4
                            && message[at + 2] == 0x30
                            && at + 2 + usize::from(message[at + 1]) == message.len()
                    })
                    .unwrap();
                message.len() - start - 2
            }
        };
        message.len() - len..message.len()
    }
}

fn verify(message: &[u8], sample: &Sample) -> Result<usize, TrustError> {
    verify_detached(message, CONTENT, &sample.trusted)
}

#[test]
fn any_flipped_bit_of_a_signature_value_is_refused() {
    for sample in SAMPLES.iter() {
        for message in [&sample.plain, &sample.attributes] {
            assert_eq!(verify(message, sample), Ok(0));
            for at in sample.value_at(message) {
                // All bits for the curves, one a byte for RSA.
                let bits = if sample.value.len() == 256 {
                    at % 8..at % 8 + 1
                } else {
                    0..8
                };
                for bit in bits {
                    let mut message = message.clone();
                    message[at] ^= 1 << bit;
                    assert!(verify(&message, sample).is_err(), "bit {bit} of byte {at}");
                }
            }
        }
    }
}

#[test]
fn any_flipped_bit_of_the_content_is_refused() {
    for sample in SAMPLES.iter() {
        for at in 0..CONTENT.len() * 8 {
            let mut content = CONTENT.to_vec();
            content[at / 8] ^= 1 << (at % 8);
            let message = [&sample.plain, &sample.attributes][at % 2];
            assert!(verify_detached(message, &content, &sample.trusted).is_err());
        }
        for content in [&b""[..], &CONTENT[1..], &CONTENT[..63]] {
            assert!(verify_detached(&sample.plain, content, &sample.trusted).is_err());
        }
        let line = [CONTENT, b"\n"].concat();
        assert!(verify_detached(&sample.plain, &line, &sample.trusted).is_err());
    }
}

#[test]
fn every_truncation_and_any_byte_more_is_malformed() {
    for sample in SAMPLES.iter() {
        for message in [&sample.plain, &sample.attributes] {
            for len in 0..message.len() {
                let error = verify(&message[..len], sample).unwrap_err();
                assert!(
                    matches!(error, TrustError::Malformed { offset, .. } if offset <= len),
                    "{len}: {error}"
                );
            }
            let longer = [message, &[0][..]].concat();
            assert_eq!(
                verify(&longer, sample),
                Err(TrustError::Malformed {
                    what: "the end of the message",
                    offset: message.len()
                })
            );
        }
        for len in 0..sample.der.len() {
            let error = Certificate::parse(&sample.der[..len]).unwrap_err();
            assert!(
                matches!(error, TrustError::Malformed { offset, .. } if offset <= len),
                "{len}: {error}"
            );
        }
    }
}

#[test]
fn what_is_too_long_is_not_read() {
    let sample = &SAMPLES[1];
    let long = vec![0x30; MAX_LEN + 1];
    assert_eq!(
        verify(&long, sample),
        Err(TrustError::TooLong { len: MAX_LEN + 1 })
    );
    assert_eq!(
        Certificate::parse(&long),
        Err(TrustError::TooLong { len: MAX_LEN + 1 })
    );
    assert!(matches!(
        verify(&long[1..], sample),
        Err(TrustError::Malformed { .. })
    ));
    // Nesting costs nothing: what is nested deeply is not looked at.
    let mut deep = Vec::new();
    for _ in 0..10_000 {
        deep = tlv(0xa0, &[&deep]);
        if deep.len() > MAX_LEN - 1000 {
            break;
        }
    }
    assert!(verify(&deep, sample).is_err());
    assert!(Certificate::parse(&deep).is_err());
}

/// A message in which one field can be exchanged.
struct Parts {
    message_type: Vec<u8>,
    version: Vec<u8>,
    content: Vec<u8>,
    extra: Vec<u8>,
    signers: Vec<Vec<u8>>,
}

impl Parts {
    fn new(signer: &[u8]) -> Self {
        Self {
            message_type: oid(ID_SIGNED_DATA),
            version: vec![2, 1, 1],
            content: seq(&[&oid(ID_DATA)]),
            extra: Vec::new(),
            signers: vec![signer.to_vec()],
        }
    }

    fn message(&self) -> Vec<u8> {
        let signers: Vec<&[u8]> = self.signers.iter().map(Vec::as_slice).collect();
        let data = seq(&[
            &self.version,
            &tlv(0x31, &[]),
            &self.content,
            &self.extra,
            &tlv(0x31, &signers),
        ]);
        seq(&[&self.message_type, &tlv(0xa0, &[&data])])
    }
}

/// The parts of a SignerInfo for the first sample's certificate.
fn signer(version: u8, algorithm: &[u8], attributes: &[u8], value: &[u8]) -> Vec<u8> {
    let sample = &SAMPLES[0];
    // The identifier stands after the digest algorithms and the content, whose
    // lengths do not vary, and the SignerInfo's version.
    let at = sample
        .plain
        .windows(3)
        .rposition(|bytes| bytes == [2, 1, 1])
        .unwrap()
        + 3;
    let len = 2 + usize::from(sample.plain[at + 1]);
    seq(&[
        &[2, 1, version],
        &sample.plain[at..at + len],
        &seq(&[&oid(SHA256), NULL]),
        attributes,
        algorithm,
        &tlv(4, &[value]),
    ])
}

#[test]
fn the_structure_of_the_message() {
    let sample = &SAMPLES[0];
    let rsa = seq(&[&oid(RSA), NULL]);
    let good = signer(1, &rsa, &[], &sample.value);
    let refusal = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::new(&good);
        change(&mut parts);
        verify(&parts.message(), sample).unwrap_err()
    };
    assert_eq!(verify(&Parts::new(&good).message(), sample), Ok(0));
    let what = "SignedData";
    for version in [0, 2, 4, 5] {
        let error = refusal(&|parts| parts.version = vec![2, 1, version]);
        assert_eq!(error, TrustError::Version { what });
    }
    let error = refusal(&|parts| parts.version = vec![2, 1, 0xff]);
    assert!(matches!(
        error,
        TrustError::Malformed {
            what: "a version",
            ..
        }
    ));
    assert_eq!(
        refusal(&|parts| parts.signers.clear()),
        TrustError::NoSigner
    );
    assert_eq!(
        refusal(&|parts| parts.signers = vec![good.clone(); MAX_SIGNERS + 1]),
        TrustError::TooManySigners
    );
    assert_eq!(
        refusal(&|parts| parts.message_type = oid(ID_DATA)),
        TrustError::NotSignedData
    );
    assert_eq!(
        refusal(&|parts| parts.content = seq(&[&oid(ID_SIGNED_DATA)])),
        TrustError::NotSignedData
    );
    assert_eq!(
        refusal(&|parts| {
            parts.content = seq(&[&oid(ID_DATA), &tlv(0xa0, &[&tlv(4, &[CONTENT])])]);
        }),
        TrustError::Embedded
    );
    assert!(matches!(
        refusal(&|parts| parts.extra = tlv(0xa2, &[])),
        TrustError::Malformed {
            what: "signers",
            ..
        }
    ));
    // Neither decoded nor trusted.
    let mut parts = Parts::new(&good);
    parts.extra = [
        tlv(0xa0, &[b"not a certificate"]),
        tlv(0xa1, &[b"nor a list"]),
    ]
    .concat();
    assert_eq!(verify(&parts.message(), sample), Ok(0));
    // The eighth signer counts as the first does.
    let bad = signer(1, &rsa, &[], &[0; 256]);
    let mut parts = Parts::new(&good);
    parts.signers = vec![bad; MAX_SIGNERS - 1];
    assert!(verify(&parts.message(), sample).is_err());
    parts.signers.push(good);
    assert_eq!(verify(&parts.message(), sample), Ok(0));
}

#[test]
fn the_algorithms_of_a_signer() {
    let sample = &SAMPLES[0];
    let result = |version, algorithm: &[u8], value: &[u8]| {
        let signer = signer(version, algorithm, &[], value);
        verify(&Parts::new(&signer).message(), sample)
    };
    let with = |dotted: &str, parameters: &[u8]| seq(&[&oid(dotted), parameters]);
    let pkcs1 = "1.2.840.113549.1.1";
    let ecdsa = "1.2.840.10045.4.3";
    for good in [
        with(RSA, &[]),
        with(&format!("{pkcs1}.11"), NULL),
        with(&format!("{pkcs1}.11"), &[]),
    ] {
        assert_eq!(result(1, &good, &sample.value), Ok(0));
    }
    for bad in [
        with(&format!("{pkcs1}.5"), NULL),
        with(&format!("{pkcs1}.10"), NULL),
        with(&format!("{pkcs1}.12"), NULL),
        with(&format!("{pkcs1}.13"), NULL),
        with(&format!("{ecdsa}.2"), &[]),
        with(RSA, &seq(&[])),
    ] {
        assert!(matches!(
            result(1, &bad, &sample.value),
            Err(TrustError::Algorithm { .. })
        ));
    }
    let rsa = with(RSA, NULL);
    let what = "a signer";
    assert_eq!(
        result(3, &rsa, &sample.value),
        Err(TrustError::Version { what })
    );
    // A signature is as long as the modulus, and less.
    let longer = [&[0], &sample.value[..]].concat();
    for value in [&sample.value[1..], &longer, &[0; 256], &[0xff; 256], &[]] {
        assert!(matches!(
            result(1, &rsa, value),
            Err(TrustError::BadSignature { .. })
        ));
    }
    // 1 to any power is 1.
    let mut one = [0; 256];
    one[255] = 1;
    assert!(result(1, &rsa, &one).is_err());
}

#[test]
fn attributes_must_be_about_the_content() {
    let lab = Lab::new();
    let trusted = lab.certificate("rsa2048", KEYS[0].1);
    let digest = {
        lab.openssl("dgst -sha256 -binary -out digest content");
        lab.read("digest")
    };
    let attribute = |dotted: &str, values: &[u8]| seq(&[&oid(dotted), &tlv(0x31, &[values])]);
    let content_type = attribute("1.2.840.113549.1.9.3", &oid(ID_DATA));
    let message_digest = attribute("1.2.840.113549.1.9.4", &tlv(4, &[&digest]));
    let unknown = attribute("1.2.3.4", &[]);

    // Signs a set of attributes as RFC 5652 has it and wraps it.
    let result = |attributes: &[&[u8]]| {
        std::fs::write(lab.path("set"), tlv(0x31, attributes)).unwrap();
        lab.openssl("dgst -sha256 -sign rsa2048.key -out value set");
        lab.openssl(
            "cms -sign -binary -noattr -nocerts -in content -signer rsa2048.crt \
                     -inkey rsa2048.key -outform der -out plain",
        );
        let plain = lab.read("plain");
        let at = plain
            .windows(3)
            .rposition(|bytes| bytes == [2, 1, 1])
            .unwrap()
            + 3;
        let id = &plain[at..at + 2 + usize::from(plain[at + 1])];
        let signer = seq(&[
            &[2, 1, 1],
            id,
            &seq(&[&oid(SHA256), NULL]),
            &tlv(0xa0, attributes),
            &seq(&[&oid(RSA), NULL]),
            &tlv(4, &[&lab.read("value")]),
        ]);
        let message = Parts::new(&signer).message();
        verify_detached(&message, CONTENT, std::slice::from_ref(&trusted))
    };
    assert_eq!(result(&[&content_type, &message_digest]), Ok(0));
    assert_eq!(result(&[&content_type, &unknown, &message_digest]), Ok(0));
    let other = attribute("1.2.840.113549.1.9.4", &tlv(4, &[&[0; 32]]));
    let short = attribute("1.2.840.113549.1.9.4", &tlv(4, &[&digest[..31]]));
    let signed = attribute("1.2.840.113549.1.9.3", &oid(ID_SIGNED_DATA));
    for attributes in [
        &[&content_type[..]][..],
        &[&message_digest],
        &[],
        &[&content_type, &other],
        &[&content_type, &short],
        &[&signed, &message_digest],
        &[&content_type, &message_digest, &message_digest],
        &[&content_type, &other, &message_digest],
        &[&content_type, &content_type, &message_digest],
    ] {
        assert!(matches!(
            result(attributes),
            Err(TrustError::Attributes { .. })
        ));
    }
    let two = attribute(
        "1.2.840.113549.1.9.4",
        &[tlv(4, &[&digest]), tlv(4, &[&digest])].concat(),
    );
    let none = attribute("1.2.840.113549.1.9.4", &[]);
    for bad in [&two, &none] {
        assert!(matches!(
            result(&[&content_type, bad]),
            Err(TrustError::Malformed {
                what: "a signed attribute",
                ..
            })
        ));
    }
}

#[test]
fn names_are_fit_for_a_console() {
    let sample = &SAMPLES[0];
    let rsa = seq(&[&oid(RSA), NULL]);
    let refusal = |name: &str| {
        let signer = common::signer(name, SHA256, &rsa, &sample.value);
        verify(&common::message(&[&signer]), sample)
            .unwrap_err()
            .to_string()
    };
    assert!(refusal("a\u{1b}[2J\nb\u{9b}c").contains("issuer CN=a?[2J?b?c is"));
    assert!(refusal("Jürgen").contains("CN=Jürgen"));
    assert!(refusal(&"x".repeat(5000)).len() < 400);
}

#[test]
fn points_off_the_curve_are_refused() {
    let ec = |point: &[u8]| {
        let algorithm = seq(&[&oid("1.2.840.10045.2.1"), &oid("1.2.840.10045.3.1.7")]);
        let key = seq(&[&algorithm, &tlv(3, &[&[0], point])]);
        Certificate::parse(&common::certificate("test", &key))
    };
    let der = &SAMPLES[1].der;
    let at = der
        .windows(4)
        .position(|bytes| bytes == [0x03, 0x42, 0, 4])
        .unwrap()
        + 3;
    let point = &der[at..at + 65];
    assert!(ec(point).is_ok());
    let mut off = point.to_vec();
    off[64] ^= 1;
    let compressed = [&[2], &point[1..33]].concat();
    let hybrid = [&[6], &point[1..]].concat();
    let longer = [point, &[0]].concat();
    // The field's prime as a coordinate, which is 0 and not written so.
    let prime = [
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1][..],
        &[0; 12],
        &[0xff; 12],
    ]
    .concat();
    let unreduced = [&[4], &prime[..], &point[33..]].concat();
    for bad in [
        &off,
        &compressed,
        &hybrid,
        &longer,
        &unreduced,
        &vec![4; 65],
        &vec![0],
    ] {
        assert_eq!(ec(bad), Err(TrustError::Point));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// A change of a message either leaves what was signed as it is, or is refused; it
    /// never panics.
    #[test]
    fn changed_messages(
        which in 0..3usize,
        attributes: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let sample = &SAMPLES[which];
        let good = if attributes { &sample.attributes } else { &sample.plain };
        let mut message = good.clone();
        for (at, byte) in &changes {
            message[at.index(good.len())] = *byte;
        }
        let value = sample.value_at(good);
        let changed = message[value.clone()] != good[value];
        let result = verify(&message, sample);
        prop_assert!(result.is_err() || !changed, "{result:?}");
        // A content that nobody signed is never accepted.
        prop_assert!(verify_detached(&message, b"another", &sample.trusted).is_err());
    }

    /// Cutting a part out, doubling it or putting bytes in never panics.
    #[test]
    fn spliced_messages(
        which in 0..3usize,
        from: prop::sample::Index,
        to: prop::sample::Index,
        put in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let sample = &SAMPLES[which];
        for good in [&sample.plain, &sample.attributes, &sample.der] {
            let (from, to) = (from.index(good.len()), to.index(good.len()));
            let spliced = [&good[..from], &put, &good[to..]].concat();
            // What is embedded as a certificate may change, the signature may not.
            if verify(&spliced, sample).is_ok() {
                prop_assert!(spliced.ends_with(&good[sample.value_at(good)]));
            }
            let _ = Certificate::parse(&spliced);
        }
    }

    /// A changed certificate never panics, and a changed key does not accept
    /// the old signature.
    #[test]
    fn changed_certificates(
        which in 0..3usize,
        at: prop::sample::Index,
        byte: u8,
    ) {
        let sample = &SAMPLES[which];
        let mut der = sample.der.clone();
        der[at.index(sample.der.len())] = byte;
        if let Ok(certificate) = Certificate::parse(&der) {
            prop_assert_eq!(der == sample.der, certificate.fingerprint() == sample.trusted[0].fingerprint());
            prop_assert!(verify_detached(&sample.plain, b"another", &[certificate]).is_err());
        }
    }

    /// Bytes of any kind.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&bytes, &SAMPLES[0]).is_err());
        prop_assert!(Certificate::parse(&bytes).is_err());
    }
}
