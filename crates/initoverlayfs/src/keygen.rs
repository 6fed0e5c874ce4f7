//! `keygen`: a key to sign images with.

use std::path::{Path, PathBuf};

use builder::{KeyType, KeygenRequest};
use serde::Serialize;

use crate::cli::{KeyTypeArg, KeygenArgs};
use crate::error::{CliError, Result};
use crate::ui;

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Made {
    key: PathBuf,
    certificate: PathBuf,
    certificate_der: PathBuf,
    subject: String,
    sha256: String,
}

pub(crate) fn run(args: &KeygenArgs) -> Result<()> {
    let Some(name) = args.name.file_name() else {
        return Err(CliError::usage(format!(
            "{} names no file",
            args.name.display()
        )));
    };
    let common_name = args.common_name.clone().unwrap_or_else(|| {
        let name: String = name
            .to_string_lossy()
            .chars()
            .filter(|c| c.is_alphanumeric() || "._-".contains(*c))
            .take(32)
            .collect();
        format!("initoverlayfs image signing {name}").trim().into()
    });
    let request = KeygenRequest {
        key: with_end(&args.name, ".key"),
        certificate: with_end(&args.name, ".crt"),
        certificate_der: with_end(&args.name, ".der"),
        key_type: match args.key_type {
            KeyTypeArg::Rsa2048 => KeyType::Rsa(2048),
            KeyTypeArg::Rsa3072 => KeyType::Rsa(3072),
            KeyTypeArg::Rsa4096 => KeyType::Rsa(4096),
            KeyTypeArg::P256 => KeyType::P256,
            KeyTypeArg::P384 => KeyType::P384,
        },
        common_name,
        force: args.force,
    };
    let new = builder::keygen(&request)?;
    let made = Made {
        key: request.key,
        certificate: request.certificate,
        certificate_der: request.certificate_der,
        subject: new.certificate.describe(),
        sha256: new.certificate.fingerprint(),
    };
    if args.json {
        return ui::print_json(&made);
    }
    anstream::println!(
        "{} holds the private key, {} and {} its certificate,\n{}, SHA-256 {}.\n\
         Sign with: initoverlayfs build --key {} --certificate {}",
        made.key.display(),
        made.certificate.display(),
        made.certificate_der.display(),
        made.subject,
        made.sha256,
        made.key.display(),
        made.certificate.display(),
    );
    Ok(())
}

/// Unlike `with_extension`, keeps a dot in the name.
fn with_end(name: &Path, end: &str) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    name.push(end);
    name.into()
}
