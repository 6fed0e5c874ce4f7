//! `build`: init image and mini-initramfs, perhaps a UKI, with a manifest beside
//! them.

mod memory;
mod plan;
mod programs;
mod report;
mod trust;
mod uki;

use std::fs;
use std::path::Path;

use builder::{BuiltImage, BuiltMini, BuiltUki, Progress, Source};
use installer::manifest::{self, Artefact, Manifest, Place};

use crate::cli::BuildArgs;
use crate::error::{CliError, Result};
use crate::place::{PlaceArg, candidates};
use crate::ui;
use crate::verify;
use memory::Memory;
use plan::BuildPlan;

pub(crate) use memory::parse_address;
pub(crate) use plan::modules;
pub(crate) use trust::parse_key;

/// Names of the files in the output folder.
const IMAGE: &str = "image.raw";
const PLAIN_IMAGE: &str = "image.erofs";
pub(crate) const MINI: &str = "mini-initramfs.img";
const KERNEL: &str = "vmlinuz";
const UKI: &str = "initoverlayfs.efi";

/// What was built.
struct Built {
    manifest: Manifest,
    image: BuiltImage,
    mini: BuiltMini,
    uki: Option<BuiltUki>,
    memory: Option<Memory>,
}

pub(crate) fn run(args: BuildArgs) -> Result<()> {
    let json = args.json;
    let plan = BuildPlan::resolve(args)?;
    let bars = ui::Bars::default();
    let built = build(&plan, &bars);
    bars.end();
    let built = built?;
    if json {
        return ui::print_json(&report::Json::new(&built));
    }
    report::print(&plan, &built);
    Ok(())
}

fn build(plan: &BuildPlan, bars: &ui::Bars) -> Result<Built> {
    let dir = &plan.output;
    fs::create_dir_all(dir).map_err(|e| CliError::io("make the output folder", dir, e))?;
    // A folder has a manifest only while its files are those of one build.
    for name in [manifest::NAME, IMAGE, PLAIN_IMAGE, UKI] {
        remove(&dir.join(name))?;
    }
    copy_kernel(&plan.kernel_image, &dir.join(KERNEL))?;

    let ahead = builder::MiniAhead::start(plan.mini_outline());
    let image = builder::build_image(&plan.image, &ahead.beside(bars)).map_err(|e| {
        let error = CliError::from(e);
        match &plan.image.source {
            Source::Initrd(path) | Source::Root(path) => error.about(path.display()),
            Source::Generator(_) => error,
        }
    })?;
    let product = plan.product(&image)?;
    let mut mini = plan.mini.clone();
    mini.auth = plan.trust.auth(&image)?;
    let by_hash = image.root_hash.map(|root| root.data_part_uuid());
    mini.candidates = candidates(&plan.places, &plan.image_path(&product), by_hash);
    // Any image that is signed will do; one that is not is told by this.
    for candidate in &mut mini.candidates {
        if !matches!(mini.auth, builder::Auth::Signed(_)) {
            candidate.expect = image.expect;
        }
    }
    mini.product.clone_from(&product);
    mini.early.clone_from(&image.early);
    if plan.places.contains(&PlaceArg::Embedded) {
        mini.embed = Some(plan.image.output.clone());
    }
    let mini = ahead.build(&mini, bars)?;
    let memory = memory(plan, dir)?;
    // What install may still choose is not chosen here.
    let cmdline = match (&memory, &plan.cmdline) {
        (Some(memory), other) if other.is_some() || plan.uki.is_some() => {
            Some(memory.cmdline(other.as_deref()))
        }
        (_, other) => other.clone(),
    };
    let uki = match &plan.uki {
        None => None,
        Some(uki) => Some(uki.build(
            [UKI, KERNEL, MINI].map(|name| dir.join(name)),
            &product,
            &plan.mini.kernel.release,
            cmdline.as_deref(),
            bars,
        )?),
    };

    for extension in &plan.extensions {
        extension.copy(dir)?;
        let path = dir.join(&extension.name);
        if let Some(why) = verify::misfit(&plan.image.output, &path, mini.plan.stage) {
            bars.warn(&format!(
                "boots will leave out the extension {}: {why}",
                extension.name
            ));
        }
    }
    let extensions = plan.extensions.iter();
    let extensions = extensions.map(|extension| Artefact::of(dir, &extension.name));

    let manifest = Manifest {
        version: manifest::VERSION,
        product,
        product_version: plan.version.clone(),
        kernel_release: plan.mini.kernel.release.clone(),
        auth: mini.plan.auth.name().into(),
        root_hash: image.root_hash.map(|root| root.to_string()),
        uki: match &uki {
            Some(_) => Some(Artefact::of(dir, UKI)?),
            None => None,
        },
        uki_signed: plan.uki.as_ref().is_some_and(uki::UkiPlan::signed),
        candidates: mini.plan.candidates.iter().map(Place::from).collect(),
        image: Artefact::of(dir, plan.image_name)?,
        image_uuid: image.expect.uuid.to_string(),
        initrd: Artefact::of(dir, MINI)?,
        kernel: Artefact::of(dir, KERNEL)?,
        extensions: extensions.collect::<std::result::Result<_, _>>()?,
        direct: mini
            .plan
            .direct
            .as_ref()
            .map_or_else(Vec::new, |direct| direct.kinds.clone()),
        stage: mini.plan.stage.name().into(),
        cmdline,
    };
    write_manifest(dir, &manifest)?;
    Ok(Built {
        manifest,
        image,
        mini,
        uki,
        memory,
    })
}

/// What the loader needs to know, if it is asked for.
fn memory(plan: &BuildPlan, dir: &Path) -> Result<Option<Memory>> {
    let Some(address) = plan.memory else {
        return Ok(None);
    };
    let image = Artefact::of(dir, plan.image_name)?;
    let path = std::path::absolute(&plan.image.output)
        .map_err(|e| CliError::io("find", &plan.image.output, e))?;
    Memory::of(&path, image.size, address).map(Some)
}

/// Writes the manifest of the set in `dir`.
pub(crate) fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    write_whole(&dir.join(manifest::NAME), &text)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::io("remove the old", path, e))
        }
        _ => Ok(()),
    }
}

/// Copies into a temporary file that then takes the name, so that a kernel that
/// is the output itself, or a link to it, survives.
fn copy_kernel(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).map_err(|e| CliError::io("read the kernel", from, e))?;
    write_whole(to, &bytes)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().unwrap_or(Path::new("."));
    let failed = |e| CliError::io("write", path, e);
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
