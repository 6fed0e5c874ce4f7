//! Signatures of root hashes, and keys for them, by the program openssl.
//!
//! A private key is never read here: openssl gets its file's name or the URI of
//! a token. What it makes is checked with the code that the boot checks with
//! before anything uses it.

mod keygen;

pub use keygen::{KeyType, KeygenRequest, NewKey, keygen};

use crate::certificate::TrustedCertificate;
use crate::error::{Error, ErrorKind, Result};
use crate::process;
use crate::uki::KeySource;
use iofs_verity::{RootHash, Signature};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

/// The package of the program that signs.
const PACKAGE: &str = "openssl";

impl FromStr for KeySource {
    type Err = String;

    /// `pkcs11:…`, else a file's name.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" => Err("a key is a file or a pkcs11: URI".to_owned()),
            _ if text.starts_with("pkcs11:") => Ok(Self::Pkcs11(text.to_owned())),
            _ => Ok(Self::File(text.into())),
        }
    }
}

/// Who signs: a key, and the certificate of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    key: KeySource,
    certificate: TrustedCertificate,
}

impl Signer {
    /// With a certificate in PEM or DER. Whether the key is there, and is the
    /// certificate's, is seen when it signs.
    ///
    /// # Errors
    /// As [`TrustedCertificate::read`].
    pub fn new(key: KeySource, certificate: &Path) -> Result<Self> {
        Ok(Self {
            key,
            certificate: TrustedCertificate::read(certificate)?,
        })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &TrustedCertificate {
        &self.certificate
    }

    /// Signs a root hash.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTool`] without openssl or what it needs for a token,
    /// [`ErrorKind::Tool`] if it does not sign, [`ErrorKind::Usage`] if key and
    /// certificate do not belong together.
    pub fn sign(&self, root: &RootHash) -> Result<Signature> {
        let content = root.to_hex();
        let pkcs7 = self.openssl(content.as_bytes())?;
        let parsed = self.certificate.parsed();
        iofs_trust::verify_detached(&pkcs7, content.as_bytes(), std::slice::from_ref(parsed))
            .map_err(|source| {
                Error::new(
                    ErrorKind::Usage,
                    format!(
                        "the new signature does not hold under the certificate {}",
                        self.certificate.describe()
                    ),
                )
                .source(source.to_string())
                .hint("Give the certificate that belongs to the key.")
            })?;
        Ok(Signature {
            root: *root,
            fingerprint: Some(parsed.fingerprint()),
            pkcs7,
        })
    }

    /// The detached PKCS#7 signature over `content`, in DER.
    fn openssl(&self, content: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().map_err(|source| {
            Error::new(ErrorKind::Io, "no folder for temporary files").source(source)
        })?;
        let [input, output, certificate] =
            ["content", "signature", "certificate.pem"].map(|name| dir.path().join(name));
        fs::write(&input, content).map_err(Error::io("writing", &input))?;
        fs::write(&certificate, self.certificate.pem()?)
            .map_err(Error::io("writing", &certificate))?;
        let mut command = Command::new("openssl");
        command
            .args(["smime", "-sign", "-nocerts", "-noattr", "-binary"])
            .args(["-md", "sha256", "-outform", "DER", "-in"])
            .arg(&input)
            .arg("-out")
            .arg(&output)
            .arg("-signer")
            .arg(&certificate);
        match &self.key {
            KeySource::File(path) => {
                if !path.is_file() {
                    return Err(Error::new(
                        ErrorKind::Usage,
                        format!("there is no key file {}", path.display()),
                    )
                    .hint("Make one with `initoverlayfs keygen`."));
                }
                command.arg("-inkey").arg(path);
            }
            KeySource::Pkcs11(uri) => {
                command.args(token_arguments()?).arg("-inkey").arg(uri);
            }
        }
        process::run(&mut command, PACKAGE, &crate::Silent).map_err(|error| {
            match error.kind() {
                ErrorKind::Tool => error.hint(
                    "Check that key and certificate belong together and that the key can be read.",
                ),
                _ => error,
            }
        })?;
        fs::read(&output).map_err(Error::io("reading", &output))
    }
}

/// What makes openssl find keys in tokens: the provider of OpenSSL 3, or the
/// older engine.
fn token_arguments() -> Result<&'static [&'static str]> {
    let works = |arguments: &[&str]| -> Result<bool> {
        Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map(|output| output.status.success())
            .map_err(|source| process::not_run("openssl", PACKAGE, source))
    };
    if works(&["list", "-providers", "-provider", "pkcs11"])? {
        return Ok(&["-provider", "pkcs11", "-provider", "default"]);
    }
    if works(&["engine", "-t", "pkcs11"])? {
        return Ok(&["-engine", "pkcs11", "-keyform", "engine"]);
    }
    Err(Error::new(
        ErrorKind::MissingTool,
        "openssl has neither a provider nor an engine for PKCS#11, which the key's URI needs",
    )
    .hint("Install the package pkcs11-provider, or libengine-pkcs11-openssl."))
}
