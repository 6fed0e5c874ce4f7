//! X.509 certificates in files, PEM or DER.

use crate::error::{Error, ErrorKind, Result};
use iofs_trust::{Certificate, KeyKind};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The greatest size of a certificate's file, in bytes; PEM adds a third.
const MAX_FILE: u64 = 2 * iofs_trust::MAX_LEN as u64;

const PEM_LABEL: &str = "CERTIFICATE";

/// A certificate that signatures can be checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedCertificate {
    der: Vec<u8>,
    parsed: Certificate,
}

impl TrustedCertificate {
    /// Reads a file with one certificate, in PEM or DER.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Usage`] if it is no certificate, or one
    /// by which signatures are not checked (see the crate iofs-trust).
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(Error::io("reading the certificate", path))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} is too large for a certificate", path.display()),
            ));
        }
        Self::from_bytes(&bytes)
            .map_err(|error| error.about(format_args!("the certificate {}", path.display())))
    }

    /// From the bytes of such a file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        const DASHES: &[u8] = b"-----BEGIN ";
        let pem = bytes.windows(DASHES.len()).any(|window| window == DASHES);
        // A SEQUENCE is no text.
        if bytes.first() == Some(&0x30) || !pem {
            return Self::from_der(bytes.to_vec());
        }
        let (label, der) = pem_rfc7468::decode_vec(bytes).map_err(|source| {
            Error::new(ErrorKind::Usage, "it is no PEM file with one certificate")
                .source(source.to_string())
        })?;
        if label != PEM_LABEL {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("it holds a {label} and not a {PEM_LABEL}"),
            ));
        }
        Self::from_der(der)
    }

    /// From DER.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn from_der(der: Vec<u8>) -> Result<Self> {
        let parsed = Certificate::parse(&der).map_err(|source| {
            Error::new(
                ErrorKind::Usage,
                "it is no certificate that signatures of images can be checked by",
            )
            .source(source.to_string())
            .hint("Certificates with RSA (2048 to 4096 bits), P-256 and P-384 keys are.")
        })?;
        Ok(Self { der, parsed })
    }

    /// Its DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What signatures are checked by.
    #[must_use]
    pub fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    /// SHA-256 of the DER as lower-case hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.parsed.fingerprint())
    }

    /// `CN=Example (RSA 4096)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let key = match self.parsed.key() {
            KeyKind::Rsa { bits } => format!("RSA {bits}"),
            KeyKind::P256 => "P-256".to_owned(),
            KeyKind::P384 => "P-384".to_owned(),
        };
        format!("{} ({key})", self.parsed.subject())
    }

    /// The PEM file of it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if it cannot be written so, which no certificate
    /// that was read is.
    pub(crate) fn pem(&self) -> Result<String> {
        pem_rfc7468::encode_string(PEM_LABEL, pem_rfc7468::LineEnding::LF, &self.der).map_err(
            |source| {
                Error::new(ErrorKind::Usage, "the certificate cannot be written as PEM")
                    .source(source.to_string())
            },
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
