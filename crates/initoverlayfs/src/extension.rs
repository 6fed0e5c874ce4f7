//! `build-extension`: a tree as a sysext or confext; and the extensions of `build`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use builder::{
    ExtensionKind, ExtensionRequest, Extensions, RootHash, Signer, TrustedCertificate, claimed_root,
};
use clap::{Args, ValueEnum, ValueHint};
use ddi::{Arch, Ddi};
use installer::FileSource;
use serde_json::json;

use crate::error::{CliError, Result};
use crate::ui;

/// How many extensions a boot takes.
const MAX: usize = 16;

/// Arguments of `build-extension`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The image is what systemd-repart makes of such a tree: a file system, its hash tree and, \
with --key, a signature of the root hash. Boots take it by `build --extension` or, if it \
is signed, by `build --extension-certificate`; systemd-sysext takes it, too.

Examples:
  initoverlayfs build-extension --root tools --kind sysext --name recovery-tools \\
      --id debian --version-id 13 --scope initrd --key ext.key --certificate ext.crt
  initoverlayfs build --initrd initrd.img --extension-certificate ext.crt")]
pub struct BuildExtensionArgs {
    /// The tree: usr and opt of a sysext, etc of a confext; it is copied, never changed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,

    /// What it extends: `sysext` /usr and /opt, `confext` /etc
    #[arg(long, value_name = "KIND", value_enum)]
    pub kind: KindArg,

    /// Its name, by which systemd knows it
    #[arg(long, value_name = "NAME")]
    pub name: String,

    /// The image [default: NAME.raw]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// What it is for, as ID in os-release; `_any` for every system [default: what the
    /// tree's own extension-release says]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// VERSION_ID of what it is for
    #[arg(long, value_name = "VERSION", requires = "id")]
    pub version_id: Option<String>,

    /// SYSEXT_LEVEL or CONFEXT_LEVEL of what it is for
    #[arg(long, value_name = "LEVEL", requires = "id")]
    pub level: Option<String>,

    /// Where it is merged: `initrd`, `system`, `portable` [default: system and portable]
    #[arg(
        long,
        value_name = "SCOPE",
        value_enum,
        value_delimiter = ',',
        requires = "id"
    )]
    pub scope: Vec<ScopeArg>,

    /// Sign the root hash with this private key: a PEM file or a `pkcs11:` URI
    #[arg(long, value_name = "KEY", value_parser = crate::build::parse_key,
          requires = "certificate", value_hint = ValueHint::FilePath)]
    pub key: Option<builder::KeySource>,

    /// The key's certificate; PEM or DER
    #[arg(long, value_name = "FILE", requires = "key", value_hint = ValueHint::FilePath)]
    pub certificate: Option<PathBuf>,

    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

/// What an extension extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// /usr and /opt
    Sysext,
    /// /etc
    Confext,
}

/// Where an extension is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// In initrds
    Initrd,
    /// In systems
    System,
    /// In portable services
    Portable,
}

/// Arguments of `build` about extensions.
#[derive(Debug, Args)]
#[command(next_help_heading = "Extensions")]
pub struct ExtensionArgs {
    /// Merge this extension image (sysext, confext) over the image at boot, by its root
    /// hash; may be repeated
    ///
    /// It becomes part of the set: `install` puts it into the folder `extensions` beside
    /// the image.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub extension: Vec<PathBuf>,

    /// Merge whatever extensions are signed by this certificate; may be repeated
    ///
    /// Such as are beside the image, in its folder `extensions`, and such as
    /// systemd-stub finds on the ESP.
    #[arg(long, value_name = "CERT", value_hint = ValueHint::FilePath)]
    pub extension_certificate: Vec<PathBuf>,
}

/// An extension of the set.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    from: PathBuf,
    /// Its file's name.
    pub(crate) name: String,
}

/// The arguments, resolved.
#[derive(Debug, Default)]
pub(crate) struct ExtensionPlan {
    pub(crate) members: Vec<Member>,
    /// What the boot plan says.
    pub(crate) trust: Option<Extensions>,
}

impl ExtensionPlan {
    pub(crate) fn resolve(args: &ExtensionArgs) -> Result<Self> {
        if args.extension.is_empty() && args.extension_certificate.is_empty() {
            return Ok(Self::default());
        }
        let mut certificates = Vec::new();
        for path in &args.extension_certificate {
            let der = TrustedCertificate::read(path)?.der().to_vec();
            if !certificates.contains(&der) {
                certificates.push(der);
            }
        }
        let mut names = BTreeSet::new();
        let (mut members, mut sealed) = (Vec::new(), Vec::new());
        for path in &args.extension {
            let file = path.file_name().and_then(|name| name.to_str());
            let name = file.unwrap_or_default().to_owned();
            check_name(path, &name)?;
            if !names.insert(name.to_lowercase()) {
                return Err(CliError::usage(format!(
                    "two extensions are called {name}, and FAT takes one"
                )));
            }
            sealed.push(root_hash(path)?);
            members.push(Member {
                from: path.clone(),
                name,
            });
        }
        if members.len() > MAX {
            return Err(CliError::usage(format!(
                "{} extensions are more than the {MAX} that a boot takes",
                members.len()
            )));
        }
        Ok(Self {
            members,
            trust: Some(Extensions {
                certificates,
                sealed,
            }),
        })
    }
}

impl Member {
    /// Copies it into the set's folder.
    pub(crate) fn copy(&self, dir: &Path) -> Result<()> {
        let to = dir.join(&self.name);
        if fs::canonicalize(&self.from).ok() == fs::canonicalize(&to).ok() {
            return Ok(());
        }
        match fs::copy(&self.from, &to) {
            Ok(_) => Ok(()),
            Err(e) => Err(CliError::io("copy the extension to", &to, e)),
        }
    }
}

/// A name by which the boot takes it, and that is none of the set's own files.
fn check_name(path: &Path, file: &str) -> Result<()> {
    let bad = |why: &str| {
        Err(CliError::usage(format!(
            "the extension {} {why}",
            path.display()
        )))
    };
    let Some(name) = file.strip_suffix(".raw") else {
        return bad("has a name that does not end in .raw, which boots and systemd go by");
    };
    if file == "image.raw" {
        return bad("has the name of the image itself");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+~^@".contains(c);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(plain) {
        return bad("has a name with other than letters, digits and ._-+~^@");
    }
    Ok(())
}

/// The root hash of a disk image, whose every block it proves.
fn root_hash(path: &Path) -> Result<RootHash> {
    let refused = |why: String| {
        CliError::new(format!("{} is no extension image: {why}", path.display())).hint(
            "it has to be a disk image with dm-verity, such as build-extension, systemd-repart \
             and mkosi make; its file system EROFS",
        )
    };
    let source = FileSource::open(path).map_err(|e| CliError::io("open", path, e))?;
    let ddi = Ddi::read(&source, Arch::NATIVE).map_err(|e| refused(e.to_string()))?;
    let root = claimed_root(&ddi).map_err(|e| refused(e.to_string()))?;
    ddi.verify_all(&source, &root, |_| {})
        .map_err(|e| refused(e.to_string()))?;
    Ok(root)
}

pub(crate) fn run(args: &BuildExtensionArgs) -> Result<()> {
    let output = match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{}.raw", args.name)),
    };
    let kind = match args.kind {
        KindArg::Sysext => ExtensionKind::Sysext,
        KindArg::Confext => ExtensionKind::Confext,
    };
    let signer = match (&args.key, &args.certificate) {
        (Some(key), Some(certificate)) => Some(Signer::new(key.clone(), certificate)?),
        _ => None,
    };
    let request = ExtensionRequest {
        release: release(args)?,
        signer,
        ..ExtensionRequest::new(args.root.clone(), kind, &args.name, output)
    };
    let bars = ui::Bars::default();
    let built = builder::build_extension(&request, &bars);
    bars.end();
    let built = built?;
    if args.json {
        return ui::print_json(&json!({
            "file": built.path,
            "kind": kind.name(),
            "name": args.name,
            "size": built.bytes,
            "root_hash": built.root_hash.to_string(),
            "signed": built.signed,
        }));
    }
    anstream::println!(
        "{} is the {} {}, {} bytes, {}; its root hash is {}.",
        built.path.display(),
        kind.name(),
        args.name,
        built.bytes,
        if built.signed { "signed" } else { "not signed" },
        built.root_hash
    );
    Ok(())
}

/// The text of the extension-release; empty where the tree's own counts.
fn release(args: &BuildExtensionArgs) -> Result<String> {
    let Some(id) = &args.id else {
        return Ok(String::new());
    };
    let prefix = match args.kind {
        KindArg::Sysext => "SYSEXT",
        KindArg::Confext => "CONFEXT",
    };
    let scope: Vec<&str> = args.scope.iter().map(|scope| scope.name()).collect();
    let lines = [
        ("ID".to_owned(), id.clone()),
        (
            "VERSION_ID".to_owned(),
            args.version_id.clone().unwrap_or_default(),
        ),
        (
            format!("{prefix}_LEVEL"),
            args.level.clone().unwrap_or_default(),
        ),
        (format!("{prefix}_SCOPE"), scope.join(" ")),
    ];
    let mut text = String::new();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-+~^ ".contains(c);
        if !value.chars().all(good) {
            return Err(CliError::usage(format!(
                "{name} of an extension-release cannot be {value:?}"
            ))
            .hint("use letters, digits and ._-+~^ for it"));
        }
        text += &format!("{name}=\"{value}\"\n");
    }
    Ok(text)
}

impl ScopeArg {
    fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::System => "system",
            Self::Portable => "portable",
        }
    }
}
