//! OpenSSL as the oracle, and a DER writer for what OpenSSL does not write.

#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_trust::Certificate;

/// What is signed: a root hash in hexadecimal.
pub(crate) const CONTENT: &[u8] =
    b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A folder in which OpenSSL works.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("content"), CONTENT).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Runs `openssl` with these words in the folder; whether it succeeded.
    pub(crate) fn try_openssl(&self, words: &str) -> bool {
        let output = openssl(self.folder.path(), words);
        output.status.success()
    }

    /// Runs `openssl`, which must succeed.
    pub(crate) fn openssl(&self, words: &str) {
        let output = openssl(self.folder.path(), words);
        assert!(
            output.status.success(),
            "openssl {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Makes `NAME.key` by `openssl genpkey` with `algorithm`'s words and a
    /// self-signed `NAME.crt` (PEM) and `NAME.der`.
    pub(crate) fn certificate(&self, name: &str, algorithm: &str) -> Certificate {
        self.openssl(&format!("genpkey -quiet {algorithm} -out {name}.key"));
        self.openssl(&format!(
            "req -new -x509 -key {name}.key -out {name}.crt -days 2 -subj /O=initoverlayfs/CN={name}"
        ));
        self.parse(name)
    }

    /// `NAME.crt`, parsed.
    pub(crate) fn parse(&self, name: &str) -> Certificate {
        self.openssl(&format!("x509 -in {name}.crt -outform der -out {name}.der"));
        Certificate::parse(&self.read(&format!("{name}.der"))).unwrap()
    }

    /// Signs [`CONTENT`] with `NAME.key`: `command` is `smime` or `cms` with
    /// its options.
    pub(crate) fn sign(&self, command: &str, name: &str) -> Vec<u8> {
        let (tool, options) = command.split_once(' ').unwrap();
        self.openssl(&format!(
            "{tool} -sign -binary -in content -signer {name}.crt -inkey {name}.key \
             -outform der -out signature {options}"
        ));
        self.read("signature")
    }

    /// Whether OpenSSL accepts `signature` as one over `content` by `NAME.crt`
    /// itself, without a chain: as systemd asks it.
    pub(crate) fn accepts(&self, signature: &[u8], content: &[u8], name: &str) -> bool {
        fs::write(self.path("sig"), signature).unwrap();
        fs::write(self.path("data"), content).unwrap();
        self.try_openssl(&format!(
            "smime -verify -binary -inform der -in sig -content data -certfile {name}.crt \
             -nointern -noverify -out /dev/null"
        ))
    }
}

fn openssl(folder: &Path, words: &str) -> std::process::Output {
    Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("the oracle is openssl(1): apt-get install openssl")
}

/// The words for `openssl genpkey` for every kind of key that is taken.
pub(crate) const KEYS: [(&str, &str); 5] = [
    ("rsa2048", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("rsa3072", "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
    ("rsa4096", "-algorithm RSA -pkeyopt rsa_keygen_bits:4096"),
    ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
    ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
];

/// An element: tag and content.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = vec![tag];
    match content.len() {
        0..=0x7f => out.push(len[3]),
        0x80..=0xff => out.extend([0x81, len[3]]),
        0x100..=0xffff => out.extend([0x82, len[2], len[3]]),
        _ => out.extend([0x83, len[1], len[2], len[3]]),
    }
    out.extend(content);
    out
}

/// A SEQUENCE.
pub(crate) fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

/// An OBJECT IDENTIFIER from its dotted form.
pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u32> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut content = vec![u8::try_from(arcs[0] * 40 + arcs[1]).unwrap()];
    for &arc in &arcs[2..] {
        let mut shift = 28;
        while shift > 0 && arc >> shift == 0 {
            shift -= 7;
        }
        while shift > 0 {
            content.push(u8::try_from(arc >> shift & 0x7f).unwrap() | 0x80);
            shift -= 7;
        }
        content.push(u8::try_from(arc & 0x7f).unwrap());
    }
    tlv(6, &[&content])
}

pub(crate) const NULL: &[u8] = &[5, 0];
pub(crate) const SHA256: &str = "2.16.840.1.101.3.4.2.1";
pub(crate) const SHA384: &str = "2.16.840.1.101.3.4.2.2";
pub(crate) const SHA512: &str = "2.16.840.1.101.3.4.2.3";
pub(crate) const RSA: &str = "1.2.840.113549.1.1.1";
pub(crate) const ID_DATA: &str = "1.2.840.113549.1.7.1";
pub(crate) const ID_SIGNED_DATA: &str = "1.2.840.113549.1.7.2";

/// A Name with nothing but a common name.
pub(crate) fn name(common: &str) -> Vec<u8> {
    let pair = seq(&[&oid("2.5.4.3"), &tlv(0x0c, &[common.as_bytes()])]);
    seq(&[&tlv(0x31, &[&pair])])
}

/// A certificate of that public key, with the issuer `issuer` and the serial
/// number 7 and no signature to speak of.
pub(crate) fn certificate(issuer: &str, public_key: &[u8]) -> Vec<u8> {
    let algorithm = seq(&[&oid("1.2.840.113549.1.1.11"), NULL]);
    let validity = seq(&[
        &tlv(0x17, &[b"200101000000Z"]),
        &tlv(0x17, &[b"200102000000Z"]),
    ]);
    let fields = seq(&[
        &[0xa0, 3, 2, 1, 2],
        &[2, 1, 7],
        &algorithm,
        &name(issuer),
        &validity,
        &name(issuer),
        public_key,
    ]);
    seq(&[&fields, &algorithm, &[3, 2, 0, 0]])
}

/// A SignerInfo by the certificate above.
pub(crate) fn signer(issuer: &str, digest: &str, algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    seq(&[
        &[2, 1, 1],
        &seq(&[&name(issuer), &[2, 1, 7]]),
        &seq(&[&oid(digest), NULL]),
        algorithm,
        &tlv(4, &[signature]),
    ])
}

/// A SignedData message with these SignerInfos.
pub(crate) fn message(signers: &[&[u8]]) -> Vec<u8> {
    let data = seq(&[
        &[2, 1, 1],
        &tlv(0x31, &[]),
        &seq(&[&oid(ID_DATA)]),
        &tlv(0x31, signers),
    ]);
    seq(&[&oid(ID_SIGNED_DATA), &tlv(0xa0, &[&data])])
}
