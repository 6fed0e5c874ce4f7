//! `sign`: a signature for an image or a UKI that is there.

use std::fs::File;
use std::io::Read;

use builder::{Signer, UkiSigning};
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
