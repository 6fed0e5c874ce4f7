//! Google's Wycheproof vectors, each wrapped as a certificate and a message.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{NULL, RSA, SHA256, SHA384, SHA512, certificate, message, oid, seq, signer};
use iofs_trust::{Certificate, TrustError, verify_detached};
use wycheproof::{HashFunction, TestResult, ecdsa, rsa_pkcs1_verify};

/// The digest's object identifier and ECDSA's with it.
fn oids(hash: HashFunction) -> Option<(&'static str, &'static str)> {
    match hash {
        HashFunction::Sha2_256 => Some((SHA256, "1.2.840.10045.4.3.2")),
        HashFunction::Sha2_384 => Some((SHA384, "1.2.840.10045.4.3.3")),
        HashFunction::Sha2_512 => Some((SHA512, "1.2.840.10045.4.3.4")),
        _ => None,
    }
}

fn accepted(key: &Certificate, digest: &str, algorithm: &[u8], msg: &[u8], sig: &[u8]) -> bool {
    let info = signer("test", digest, algorithm, sig);
    verify_detached(&message(&[&info]), msg, std::slice::from_ref(key)).is_ok()
}

#[test]
fn ecdsa_vectors() {
    let (mut valid, mut invalid) = (0, 0);
    for name in [
        ecdsa::TestName::EcdsaSecp256r1Sha256,
        ecdsa::TestName::EcdsaSecp256r1Sha512,
        ecdsa::TestName::EcdsaSecp384r1Sha256,
        ecdsa::TestName::EcdsaSecp384r1Sha384,
        ecdsa::TestName::EcdsaSecp384r1Sha512,
    ] {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (digest, algorithm) = oids(group.hash).unwrap();
            let algorithm = seq(&[&oid(algorithm)]);
            let key = Certificate::parse(&certificate("test", &group.der)).unwrap();
            for test in group.tests {
                let expected = match test.result {
                    TestResult::Valid => true,
                    TestResult::Invalid => false,
                    TestResult::Acceptable => panic!("none of these is a matter of taste"),
                };
                assert_eq!(
                    accepted(&key, digest, &algorithm, &test.msg, &test.sig),
                    expected,
                    "{name:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                *(if expected { &mut valid } else { &mut invalid }) += 1;
            }
        }
    }
    assert!(
        valid > 700 && invalid > 900,
        "{valid} valid, {invalid} invalid"
    );
}

#[test]
fn rsa_vectors() {
    use rsa_pkcs1_verify::TestName;
    let (mut valid, mut invalid, mut keys_refused) = (0, 0, 0);
    for name in [
        TestName::Rsa2048Sha256,
        TestName::Rsa2048Sha384,
        TestName::Rsa2048Sha512,
        TestName::Rsa3072Sha256,
        TestName::Rsa3072Sha384,
        TestName::Rsa3072Sha512,
        TestName::Rsa4096Sha256,
        TestName::Rsa4096Sha384,
        TestName::Rsa4096Sha512,
    ] {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let (digest, _) = oids(group.hash).unwrap();
            let algorithm = seq(&[&oid(RSA), NULL]);
            let key = match Certificate::parse(&certificate("test", &group.der)) {
                Ok(key) => key,
                Err(error) => {
                    // Some groups are about keys that are not taken.
                    assert!(
                        matches!(error, TrustError::Modulus { .. } | TrustError::Exponent),
                        "{error}"
                    );
                    keys_refused += 1;
                    continue;
                }
            };
            for test in group.tests {
                // A DigestInfo without NULL is a matter of taste; the standard
                // says that verification compares with the one that has it.
                let expected = test.result == TestResult::Valid;
                assert_eq!(
                    accepted(&key, digest, &algorithm, &test.msg, &test.sig),
                    expected,
                    "{name:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                *(if expected { &mut valid } else { &mut invalid }) += 1;
            }
        }
    }
    assert!(
        valid > 50 && invalid > 1500,
        "{valid} valid, {invalid} invalid, {keys_refused} keys refused"
    );
}
