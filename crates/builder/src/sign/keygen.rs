//! New keys with certificates that sign themselves.

use super::PACKAGE;
use crate::certificate::TrustedCertificate;
use crate::error::{Error, ErrorKind, Result};
use crate::process;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kind of key that signatures are checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// RSA with so many bits: 2048, 3072 or 4096.
    Rsa(u32),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
}

impl Default for KeyType {
    /// RSA, which every kernel and firmware checks.
    fn default() -> Self {
        Self::Rsa(4096)
    }
}

impl KeyType {
    /// What `openssl genpkey` makes one with.
    fn arguments(self) -> [String; 4] {
        let (algorithm, option) = match self {
            Self::Rsa(bits) => ("RSA", format!("rsa_keygen_bits:{bits}")),
            Self::P256 => ("EC", "ec_paramgen_curve:P-256".to_owned()),
            Self::P384 => ("EC", "ec_paramgen_curve:P-384".to_owned()),
        };
        [
            "-algorithm".to_owned(),
            algorithm.to_owned(),
            "-pkeyopt".to_owned(),
            option,
        ]
    }
}

/// The order for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeygenRequest {
    /// The PEM file of the private key; mode 0600.
    pub key: PathBuf,
    /// The PEM file of the certificate.
    pub certificate: PathBuf,
    /// The same in DER, as firmware and kernels take it.
    pub certificate_der: PathBuf,
    /// What kind of key.
    pub key_type: KeyType,
    /// The certificate's common name.
    pub common_name: String,
    /// Replace files that are there.
    pub force: bool,
}

/// A key that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its certificate.
    pub certificate: TrustedCertificate,
}

/// Valid for so many days: nothing looks at the date before a clock is set,
/// and what has to be withdrawn is taken out of what is trusted.
const DAYS: &str = "36500";

/// Makes a key and a certificate of it. The key is complete under its name, or
/// it is not there; it comes last.
///
/// # Errors
/// [`ErrorKind::Usage`] if a file is there already, or the name cannot be;
/// [`ErrorKind::MissingTool`] without openssl; [`ErrorKind::Tool`],
/// [`ErrorKind::Io`].
pub fn keygen(request: &KeygenRequest) -> Result<NewKey> {
    check_name(&request.common_name)?;
    let files = [&request.key, &request.certificate, &request.certificate_der];
    for path in files.into_iter().filter(|_| !request.force) {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
    }
    // Private from its first byte: temporary files have mode 0600.
    let key = beside(&request.key)?;
    let mut command = Command::new("openssl");
    command
        .arg("genpkey")
        .args(request.key_type.arguments())
        .arg("-out")
        .arg(key.path());
    process::run(&mut command, PACKAGE, &crate::Silent)?;
    let certificate = self_signed(key.path(), &request.common_name)?;
    write(
        &request.certificate,
        certificate.pem()?.as_bytes(),
        request.force,
    )?;
    write(&request.certificate_der, certificate.der(), request.force)?;
    let synced = key.as_file().sync_all();
    synced.map_err(Error::io("syncing", key.path()))?;
    take_name(key, &request.key, request.force)?;
    Ok(NewKey { certificate })
}

fn self_signed(key: &Path, common_name: &str) -> Result<TrustedCertificate> {
    let dir = tempfile::tempdir().map_err(|source| {
        Error::new(ErrorKind::Io, "no folder for temporary files").source(source)
    })?;
    let config = dir.path().join("openssl.cnf");
    // The system's own configuration may ask questions or make an authority.
    let text = format!(
        "[req]\nprompt = no\nutf8 = yes\ndistinguished_name = name\nx509_extensions = extensions\n\
         [name]\nCN = {common_name}\n\
         [extensions]\nbasicConstraints = critical, CA:FALSE\n\
         keyUsage = critical, digitalSignature\nsubjectKeyIdentifier = hash\n"
    );
    fs::write(&config, text).map_err(Error::io("writing", &config))?;
    let out = dir.path().join("certificate.der");
    let mut command = Command::new("openssl");
    command
        .args(["req", "-new", "-x509", "-sha256", "-days", DAYS])
        .args(["-outform", "DER", "-config"])
        .arg(&config)
        .arg("-key")
        .arg(key)
        .arg("-out")
        .arg(&out);
    process::run(&mut command, PACKAGE, &crate::Silent)?;
    TrustedCertificate::read(&out)
}

/// The name goes into a configuration file of openssl.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_alphanumeric() || " ._-+@:()".contains(c);
    let length = name.chars().count();
    if (1..=64).contains(&length) && name.chars().all(good) && name.trim() == name {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{name:?} cannot be a certificate's name"),
    )
    .hint("Use 1 to 64 letters, digits, spaces and ._-+@:() for it."))
}

fn exists(path: &Path) -> Error {
    Error::new(
        ErrorKind::Usage,
        format!("{} is there already", path.display()),
    )
    .hint("A key that is overwritten is lost; with --force it is.")
}

/// A temporary file (mode 0600) in the folder of `path`.
fn beside(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".initoverlayfs-")
        .tempfile_in(folder)
        .map_err(Error::io("making a file in", folder))
}

fn write(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = beside(path)?;
    let permissions = fs::Permissions::from_mode(0o644);
    file.write_all(bytes)
        .and_then(|()| file.as_file().set_permissions(permissions))
        .and_then(|()| file.as_file().sync_all())
        .map_err(Error::io("writing", path))?;
    take_name(file, path, force)
}

fn take_name(file: tempfile::NamedTempFile, path: &Path, force: bool) -> Result<()> {
    let done = if force {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(Error::io("renaming to", path)(error.error)),
    }
}
