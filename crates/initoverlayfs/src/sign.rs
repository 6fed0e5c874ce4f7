//! `sign`: a signature for an image or a UKI that is there.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use builder::{Signer, UkiSigning};
use installer::BuiltSet;
use installer::manifest::Artefact;
use serde_json::json;

use crate::cli::SignArgs;
use crate::error::{CliError, Result};
use crate::ui;

pub(crate) fn run(args: &SignArgs) -> Result<()> {
    let path = &args.file;
    let mut magic = [0; 2];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .map_err(|e| CliError::io("read", path, e))?;
    let set = set_of(path);
    let bars = ui::Bars::default();
    if magic == *b"MZ" {
        let signing = UkiSigning {
            key: args.key.clone(),
            certificate: args.certificate.clone(),
            tool: None,
        };
        let done = builder::sign_uki(path, &signing, &bars);
        bars.end();
        done?;
        update(set, path)?;
        if args.json {
            return ui::print_json(&json!({ "file": path, "kind": "uefi-program" }));
        }
        anstream::println!("{} is signed for Secure Boot.", path.display());
        return Ok(());
    }
    let signer = Signer::new(args.key.clone(), &args.certificate)?;
    let root = builder::sign_image(path, &signer, &bars);
    bars.end();
    let root = root?;
    update(set, path)?;
    let certificate = signer.certificate();
    if args.json {
        return ui::print_json(&json!({
            "file": path,
            "kind": "disk-image",
            "root_hash": root.to_string(),
            "certificate": certificate.describe(),
            "sha256": certificate.fingerprint(),
        }));
    }
    anstream::println!(
        "{} is signed by {}, SHA-256 {}; its root hash is {root}.",
        path.display(),
        certificate.describe(),
        certificate.fingerprint()
    );
    Ok(())
}

/// The built set that the file is part of, if it is.
fn set_of(path: &Path) -> Option<BuiltSet> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name()?.to_str()?;
    let set = BuiltSet::open(folder).ok()?;
    let parts = [Some(&set.manifest.image), set.manifest.uki.as_ref()];
    let part = parts.into_iter().flatten().any(|part| part.name == name);
    part.then_some(set)
}

/// Notes the signed file's new size and digest in the set's manifest, by which
/// `install` knows it.
fn update(set: Option<BuiltSet>, path: &Path) -> Result<()> {
    let (Some(mut set), Some(name)) = (set, path.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let artefact = Artefact::of(&set.dir, name)?;
    if set.manifest.image.name == name {
        set.manifest.image = artefact;
    } else {
        set.manifest.uki = Some(artefact);
        set.manifest.uki_signed = true;
    }
    crate::build::write_manifest(&set.dir, &set.manifest)
}
