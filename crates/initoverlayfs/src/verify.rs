//! `verify`: the checks that a boot would do, offline and over the whole image.

mod against;
mod extensions;
mod release;

use std::ops::Range;
use std::path::{Path, PathBuf};

use builder::{Auth, BootPlan, RootHash, TrustedCertificate};
use ddi::{Arch, Ddi, DdiError};
use installer::FileSource;
use iofs_erofs::Superblock;
use iofs_prefetch::PrefetchList;
use iofs_source::Window;
use serde::Serialize;

use crate::cli::VerifyArgs;
use crate::error::{CliError, Result};
use crate::ui;
use against::Against;
pub(crate) use extensions::misfit;

/// What was checked, for people and programs.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    authentic: bool,
    root_hash: Option<String>,
    /// A name and what was found, in the order of the checks.
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    found: String,
}

/// The first thing that is wrong.
#[derive(Debug, Serialize)]
struct Fault {
    check: &'static str,
    message: String,
    /// The bytes of the image that it is about, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Range<u64>>,
}

impl Fault {
    fn new(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            message: message.into(),
            bytes: None,
        }
    }

    fn of(check: &'static str, error: &DdiError) -> Self {
        Self {
            bytes: match error {
                DdiError::Superblock { bytes, .. } | DdiError::SuperblockUuid { bytes, .. } => {
                    Some(bytes.clone())
                }
                DdiError::Fault { bytes, .. } => bytes.clone(),
                _ => None,
            },
            ..Self::new(check, error.to_string())
        }
    }
}

pub(crate) fn run(args: &VerifyArgs) -> Result<()> {
    let against = Against::resolve(&args.against)?;
    let path = match (&args.file, against.image()) {
        (Some(file), _) => file.clone(),
        (None, Some(image)) => image,
        (None, None) => return Err(CliError::usage("which file is to be checked?")),
    };
    let source = FileSource::open(&path).map_err(|e| CliError::io("open", &path, e))?;
    let mut report = Report {
        file: path.clone(),
        authentic: false,
        root_hash: None,
        checks: Vec::new(),
        fault: None,
    };
    let bars = ui::Bars::default();
    let result = check(&source, &against, &mut report, &bars);
    bars.end();
    report.fault = result.err();
    // An extension that is wrong leaves the image what it is.
    let of_extension = |fault: &Fault| fault.check == extensions::CHECK;
    report.authentic = report.fault.as_ref().is_none_or(of_extension);
    if args.json {
        ui::print_json(&report)?;
    } else {
        for check in &report.checks {
            anstream::println!("{:<12}  {}", check.name, check.found);
        }
    }
    match report.fault {
        None if args.json => Ok(()),
        None => {
            anstream::println!("{} is authentic.", path.display());
            Ok(())
        }
        Some(fault) if of_extension(&fault) => Err(CliError::new(format!(
            "{} is authentic, and boots would leave an extension of its set out",
            path.display()
        ))
        .source(fault.message)
        .hint("build, sign or copy the extension anew")),
        Some(fault) => Err(
            CliError::new(format!("{} is not authentic", path.display()))
                .source(format!("{}: {}", fault.check, fault.message))
                .hint("a boot refuses it; build, sign or copy it anew"),
        ),
    }
}

/// The checks in the order of a boot.
fn check(
    source: &FileSource,
    against: &Against,
    report: &mut Report,
    bars: &ui::Bars,
) -> std::result::Result<(), Fault> {
    let image = Ddi::read(source, Arch::NATIVE).map_err(|e| Fault::of("partitions", &e))?;
    report.found(
        "partitions",
        format!("{}, disk GUID {}", image.arch.name(), image.disk_guid),
    );
    let root = root_hash(source, &image, against, report)?;
    report.root_hash = Some(root.to_string());
    image
        .check_root_hash(&root)
        .map_err(|e| Fault::of("PARTUUIDs", &e))?;
    report.found("PARTUUIDs", "those of the root hash".into());
    let trees = image
        .trees(source, &root)
        .map_err(|e| Fault::of("superblock", &e))?;
    let params = &trees.superblock.params;
    report.found(
        "superblock",
        format!(
            "{}, {} data blocks",
            params.algorithm().name(),
            params.data_blocks()
        ),
    );
    prove_blocks(source, &image, &root, params.data_blocks(), bars)?;
    report.found("blocks", "every data and hash block is proven".into());
    let data = Window::new(source, image.root.start, params.data_len())
        .map_err(|e| Fault::new("file system", e.to_string()))?;
    let superblock =
        Superblock::read(&data).map_err(|e| Fault::new("file system", e.to_string()))?;
    if superblock.size_bytes() > params.data_len() {
        return Err(Fault::new(
            "file system",
            format!(
                "it has {} bytes, of which dm-verity covers {}: the verity superblock was changed",
                superblock.size_bytes(),
                params.data_len()
            ),
        ));
    }
    report.found("file system", format!("EROFS, UUID {}", superblock.uuid));
    match PrefetchList::read(&data, superblock.uuid, superblock.size_bytes()) {
        Ok(None) => {}
        Ok(Some(list)) => report.found(
            "read ahead",
            format!(
                "{} files, {} bytes with metadata",
                list.files.len(),
                list.bytes()
            ),
        ),
        // It is of no weight: a boot does without it.
        Err(error) => report.found("read ahead", format!("nothing: {error}")),
    }
    let Some(plan) = against.plan() else {
        return Ok(());
    };
    expected(plan, &superblock, &data, report)?;
    extensions::check(against.extensions(), plan, &data, report, bars)
}

fn prove_blocks(
    source: &FileSource,
    image: &Ddi,
    root: &RootHash,
    blocks: u64,
    bars: &ui::Bars,
) -> std::result::Result<(), Fault> {
    bars.begin("proving blocks".into(), Some(blocks), false);
    let proven = image
        .verify_all(source, root, |done| bars.advance(done))
        .map_err(|e| Fault::of("blocks", &e));
    bars.end();
    proven
}

/// The root hash that the image has to have, from outside it or signed.
fn root_hash(
    source: &FileSource,
    image: &Ddi,
    against: &Against,
    report: &mut Report,
) -> std::result::Result<RootHash, Fault> {
    let certificates = match against {
        Against::Root(root) => {
            report.found("root hash", format!("{root}, as given"));
            return Ok(*root);
        }
        Against::Certificates(certificates) => certificates.clone(),
        Against::Plan { plan, .. } => match &plan.auth {
            Auth::None => {
                return Err(Fault::new(
                    "root hash",
                    "the boot plan asks for none (auth=none): nothing says which image is authentic",
                ));
            }
            Auth::Sealed(root) => {
                report.found("root hash", format!("{root}, sealed in the boot plan"));
                return Ok(*root);
            }
            Auth::Signed(signed) => in_plan(&signed.certificates)?,
        },
    };
    let (root, by) = signature(source, image, &certificates)?;
    report.found("signature", by);
    report.found("root hash", format!("{root}, signed"));
    Ok(root)
}

fn in_plan(certificates: &[Vec<u8>]) -> std::result::Result<Vec<TrustedCertificate>, Fault> {
    let read = certificates
        .iter()
        .map(|der| TrustedCertificate::from_der(der.clone()));
    read.collect::<std::result::Result<_, _>>()
        .map_err(|e| Fault::new("signature", format!("a certificate in the plan: {e}")))
}

/// The root hash that one of these has signed, and who.
fn signature(
    source: &FileSource,
    image: &Ddi,
    certificates: &[TrustedCertificate],
) -> std::result::Result<(RootHash, String), Fault> {
    let signature = image
        .signature(source)
        .map_err(|e| Fault::of("signature", &e))?
        .ok_or_else(|| Fault::new("signature", "the image has none"))?;
    let trusted: Vec<_> = certificates.iter().map(|c| c.parsed().clone()).collect();
    let content = signature.root.to_hex();
    let by = iofs_trust::verify_detached(&signature.pkcs7, content.as_bytes(), &trusted).map_err(
        |e| {
            let part = image.signature.as_ref();
            Fault {
                bytes: part.map(|part| part.start..part.start.saturating_add(part.len)),
                ..Fault::new("signature", e.to_string())
            }
        },
    )?;
    let Some(certificate) = certificates.get(by) else {
        return Err(Fault::new("signature", "it is by an unknown certificate"));
    };
    if let Some(claimed) = signature.fingerprint {
        if claimed != certificate.parsed().fingerprint() {
            return Err(Fault::new(
                "signature",
                "it names another certificate by its fingerprint than it was made with",
            ));
        }
    }
    let by = format!(
        "by {}, SHA-256 {}",
        certificate.describe(),
        certificate.fingerprint()
    );
    Ok((signature.root, by))
}

/// What a plan says about an image beside its authenticity.
fn expected(
    plan: &BootPlan,
    superblock: &Superblock,
    data: &Window<&FileSource>,
    report: &mut Report,
) -> std::result::Result<(), Fault> {
    let fits = plan.candidates.iter().any(|candidate| {
        let expect = candidate.expect;
        (expect.uuid.is_nil() || expect.uuid == superblock.uuid)
            && (expect.size == 0 || expect.size == superblock.size_bytes())
    });
    if !fits {
        return Err(Fault::new(
            "file system",
            "its UUID or size is that of no candidate of the boot plan",
        ));
    }
    let Auth::Signed(signed) = &plan.auth else {
        return Ok(());
    };
    let found = release::read(data).map_err(|why| Fault::new("product", why))?;
    found
        .check(&plan.product, &signed.min_version)
        .map_err(|why| Fault::new("product", why))?;
    report.found("product", found.product);
    let least = match signed.min_version.as_str() {
        "" => "any is allowed".to_owned(),
        least => format!("at least {least}"),
    };
    report.found("version", format!("{}; {least}", found.version));
    Ok(())
}

impl Report {
    fn found(&mut self, name: &'static str, found: String) {
        self.checks.push(Check { name, found });
    }
}

/// The files of a built set: image, mini-initramfs, extensions.
fn files_of_set(dir: &Path) -> Result<(PathBuf, PathBuf, Vec<PathBuf>)> {
    let set = installer::BuiltSet::open(dir)?;
    let extensions = set.manifest.extensions.iter();
    Ok((
        set.path(&set.manifest.image),
        set.path(&set.manifest.initrd),
        extensions.map(|extension| set.path(extension)).collect(),
    ))
}
