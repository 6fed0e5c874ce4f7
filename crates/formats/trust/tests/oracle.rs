//! What OpenSSL signs is accepted where it should be and refused where it should not.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{CONTENT, KEYS, Lab};
use iofs_trust::{Certificate, KeyKind, SignerId, TrustError, verify_detached};

#[test]
fn every_key_with_every_digest_and_tool() {
    let lab = Lab::new();
    let trusted: Vec<Certificate> = KEYS
        .iter()
        .map(|(name, words)| lab.certificate(name, words))
        .collect();
    for (which, (name, _)) in KEYS.iter().enumerate() {
        for command in [
            "smime -noattr -md sha256",
            "smime -noattr -md sha384 -nocerts",
            "smime -noattr -md sha512 -nocerts",
            "smime -md sha256",
            "smime -md sha512 -nosmimecap -nocerts",
            "cms -noattr -md sha256",
            "cms -noattr -md sha384 -nocerts -keyid",
            "cms -md sha512 -keyid",
            "cms -md sha384 -cades",
        ] {
            let signature = lab.sign(command, name);
            assert_eq!(
                verify_detached(&signature, CONTENT, &trusted),
                Ok(which),
                "{name}, {command}"
            );
            let mut other = CONTENT.to_vec();
            other[63] ^= 1;
            let error = verify_detached(&signature, &other, &trusted).unwrap_err();
            assert!(
                matches!(
                    error,
                    TrustError::BadSignature { .. } | TrustError::Attributes { .. }
                ),
                "{name}, {command}: {error:?}"
            );
            if !command.contains("-keyid") {
                assert!(lab.accepts(&signature, CONTENT, name), "{name}, {command}");
                assert!(!lab.accepts(&signature, &other, name), "{name}, {command}");
            }
        }
    }
}

#[test]
fn another_key_is_named() {
    let lab = Lab::new();
    let trusted = [lab.certificate("p256", KEYS[3].1)];
    lab.openssl("genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out evil.key");
    lab.openssl(
        "req -new -x509 -key evil.key -out evil.crt -subj /C=DE/CN=evil -set_serial 0xa0b1",
    );
    let signature = lab.sign("smime -noattr", "evil");
    let error = verify_detached(&signature, CONTENT, &trusted).unwrap_err();
    assert_eq!(
        error.to_string(),
        "signed by another key: serial number 00a0b1 of issuer C=DE, CN=evil is none of the 1 \
         trusted certificates"
    );
    assert!(matches!(
        verify_detached(&signature, CONTENT, &[]).unwrap_err(),
        TrustError::UnknownSigner { trusted: 0, .. }
    ));
    let by_key_id = lab.sign("cms -noattr -keyid", "evil");
    let error = verify_detached(&by_key_id, CONTENT, &trusted).unwrap_err();
    assert!(
        matches!(&error, TrustError::UnknownSigner { signer: SignerId::KeyId(id), .. } if id.len() == 40),
        "{error}"
    );
    assert_eq!(
        verify_detached(
            &signature,
            CONTENT,
            &[trusted[0].clone(), lab.parse("evil")]
        ),
        Ok(1)
    );
}

#[test]
fn the_kernel_describes_a_key_by_its_identifier_or_serial_number() {
    let lab = Lab::new();
    let own = lab.certificate("p256", KEYS[3].1);
    lab.openssl("x509 -in p256.crt -noout -ext subjectKeyIdentifier -out id");
    let text = String::from_utf8(lab.read("id")).unwrap();
    let id = text.lines().last().unwrap().trim().replace(':', "");
    assert_eq!(own.kernel_id(), id.to_lowercase());
    assert!(own.is_self_issued());
    // The serial number begins with a zero byte, which old kernels leave out.
    lab.openssl(
        "req -new -x509 -key p256.key -out bare.crt -subj /CN=bare -set_serial 0xa0b1 \
         -addext subjectKeyIdentifier=none",
    );
    let bare = lab.parse("bare");
    assert_eq!(
        (bare.kernel_id().as_str(), bare.is_self_issued()),
        ("a0b1", true)
    );
    lab.openssl("req -new -key p256.key -subj /CN=issued -out issued.csr");
    lab.openssl(
        "x509 -req -in issued.csr -CA p256.crt -CAkey p256.key -set_serial 7 -out issued.crt",
    );
    assert!(!lab.parse("issued").is_self_issued());
}

#[test]
fn the_name_of_a_trusted_certificate_is_not_enough() {
    let lab = Lab::new();
    for (name, words) in [KEYS[0], KEYS[3]] {
        let trusted = lab.certificate(name, words);
        // The same issuer and serial number for another key.
        lab.openssl(&format!("x509 -in {name}.crt -serial -noout -out serial"));
        let serial = String::from_utf8(lab.read("serial")).unwrap();
        let serial = serial.trim().strip_prefix("serial=").unwrap();
        lab.openssl(&format!("genpkey -quiet {words} -out evil.key"));
        lab.openssl(&format!(
            "req -new -x509 -key evil.key -out evil.crt -subj /O=initoverlayfs/CN={name} \
             -set_serial 0x{serial}"
        ));
        let signature = lab.sign("smime -noattr", "evil");
        let error = verify_detached(&signature, CONTENT, &[trusted]).unwrap_err();
        assert_eq!(
            error,
            TrustError::BadSignature {
                signer: lab.parse("evil").id()
            }
        );
    }
}

#[test]
fn an_expired_certificate_is_trusted_all_the_same() {
    let lab = Lab::new();
    lab.certificate("old", KEYS[3].1);
    lab.openssl("req -new -key old.key -subj /CN=old -out old.csr");
    // OpenSSL 3.0 does not make a certificate that has run out in any other way.
    std::fs::write(lab.path("index"), "").unwrap();
    std::fs::write(
        lab.path("ca.cnf"),
        "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nrand_serial=yes\n\
         default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n",
    )
    .unwrap();
    lab.openssl(
        "ca -batch -config ca.cnf -selfsign -keyfile old.key -in old.csr -out old.crt -notext \
         -startdate 20100101000000Z -enddate 20100102000000Z",
    );
    let trusted = [lab.parse("old")];
    assert!(!lab.try_openssl("verify -CAfile old.crt old.crt"));
    let signature = lab.sign("smime -noattr", "old");
    assert_eq!(verify_detached(&signature, CONTENT, &trusted), Ok(0));
}

#[test]
fn one_good_signer_of_several_is_enough() {
    let lab = Lab::new();
    let first = lab.certificate("rsa2048", KEYS[0].1);
    let second = lab.certificate("p384", KEYS[4].1);
    lab.openssl(
        "smime -sign -binary -noattr -in content -signer rsa2048.crt -inkey rsa2048.key \
         -signer p384.crt -inkey p384.key -outform der -out signature",
    );
    let signature = lab.read("signature");
    for trusted in [&first, &second] {
        assert_eq!(
            verify_detached(&signature, CONTENT, std::slice::from_ref(trusted)),
            Ok(0)
        );
        let error =
            verify_detached(&signature, b"other", std::slice::from_ref(trusted)).unwrap_err();
        assert_eq!(
            error,
            TrustError::BadSignature {
                signer: trusted.id()
            }
        );
    }
}

#[test]
fn what_openssl_also_signs_is_refused_by_name() {
    let lab = Lab::new();
    let trusted = [
        lab.certificate("rsa2048", KEYS[0].1),
        lab.certificate("p256", KEYS[3].1),
    ];
    let refusal = |command: &str, name: &str| {
        verify_detached(&lab.sign(command, name), CONTENT, &trusted)
            .unwrap_err()
            .to_string()
    };
    for name in ["rsa2048", "p256"] {
        assert_eq!(
            refusal("smime -noattr -md sha1", name),
            "the digest algorithm 1.3.14.3.2.26 is not allowed; sign with SHA-256, SHA-384 or \
             SHA-512"
        );
        assert_eq!(
            refusal("smime -noattr -nodetach", name),
            "the signature holds a content of its own; make it detached"
        );
    }
    assert_eq!(
        refusal("cms -noattr -keyopt rsa_padding_mode:pss", "rsa2048"),
        "the signature algorithm 1.2.840.113549.1.1.10 is not allowed with this digest and a key \
         of RSA 2048"
    );
    assert_eq!(
        refusal("cms -noattr -econtent_type 1.2.3.4", "p256"),
        "not a PKCS#7 signature over plain data"
    );
    lab.openssl("cms -data_create -in content -outform der -out signature");
    assert_eq!(
        verify_detached(&lab.read("signature"), CONTENT, &trusted),
        Err(TrustError::NotSignedData)
    );
    let streamed = lab.sign("smime -noattr -stream -nodetach", "p256");
    assert!(
        matches!(
            verify_detached(&streamed, CONTENT, &trusted),
            Err(TrustError::Malformed { offset: 0, .. })
        ),
        "an indefinite length is not DER"
    );
}

#[test]
fn keys_that_are_not_taken() {
    let lab = Lab::new();
    let refusal = |words: &str| {
        lab.openssl(&format!("genpkey -quiet {words} -out bad.key"));
        lab.openssl("req -new -x509 -key bad.key -outform der -out bad.der -subj /CN=bad");
        Certificate::parse(&lab.read("bad.der")).unwrap_err()
    };
    assert_eq!(
        refusal("-algorithm RSA -pkeyopt rsa_keygen_bits:1024"),
        TrustError::Modulus { bits: 1024 }
    );
    assert_eq!(
        refusal(
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:8589934595"
        ),
        TrustError::Exponent
    );
    assert_eq!(
        refusal("-algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
        TrustError::KeyAlgorithm {
            oid: "1.3.132.0.35".into()
        }
    );
    assert_eq!(
        refusal("-algorithm ED25519"),
        TrustError::KeyAlgorithm {
            oid: "1.3.101.112".into()
        }
    );
    assert!(matches!(
        refusal("-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit"),
        TrustError::Malformed {
            what: "a named curve",
            ..
        }
    ));
}

#[test]
fn odd_sizes_and_exponents_of_rsa() {
    let lab = Lab::new();
    for (bits, exponent) in [
        (2049, 3),
        (2056, 17),
        (2998, 65_537),
        (2048, 8_589_934_591_u64),
    ] {
        let name = format!("r{bits}e{exponent}");
        let certificate = lab.certificate(
            &name,
            &format!(
                "-algorithm RSA -pkeyopt rsa_keygen_bits:{bits} \
                 -pkeyopt rsa_keygen_pubexp:{exponent}"
            ),
        );
        assert_eq!(certificate.key(), KeyKind::Rsa { bits });
        let signature = lab.sign("smime -noattr", &name);
        assert_eq!(verify_detached(&signature, CONTENT, &[certificate]), Ok(0));
    }
}

#[test]
fn fields_of_a_certificate() {
    let lab = Lab::new();
    let certificate = lab.certificate("p256", KEYS[3].1);
    lab.openssl("x509 -in p256.crt -noout -fingerprint -sha256 -out print");
    let print = String::from_utf8(lab.read("print")).unwrap();
    let ours: Vec<String> = certificate
        .fingerprint()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    assert_eq!(print.trim().rsplit('=').next(), Some(&*ours.join(":")));
    assert_eq!(certificate.subject(), "O=initoverlayfs, CN=p256");
    assert_eq!(certificate.key().to_string(), "ECDSA P-256");
    lab.openssl("x509 -in p256.crt -noout -serial -out serial");
    let serial = String::from_utf8(lab.read("serial")).unwrap();
    let SignerId::Serial { serial: ours, .. } = certificate.id() else {
        panic!("a certificate is named by its serial number");
    };
    let theirs = serial.trim().rsplit('=').next().unwrap().to_lowercase();
    assert_eq!(ours.trim_start_matches("00"), theirs);

    // DER is what is sealed: PEM, a CSR or bytes left over are no certificate.
    assert!(Certificate::parse(&lab.read("p256.crt")).is_err());
    let mut der = lab.read("p256.der");
    der.push(0);
    assert_eq!(
        Certificate::parse(&der),
        Err(TrustError::Malformed {
            what: "the end of the certificate",
            offset: der.len() - 1
        })
    );
}
