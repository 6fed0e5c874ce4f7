//! The extensions of a set: what a boot would ask of each before it merges it. (How many
//! a boot takes, and that no two have one name, is not looked at.)

use std::path::{Path, PathBuf};

use builder::{BootPlan, Extensions, Stage, claimed_root};
use ddi::{Arch, Ddi};
use installer::FileSource;
use iofs_erofs::tree::{Tree, TreeError};
use iofs_extension::{Kind, fits, name_of};
use iofs_source::{ReadAt, Window};

use super::{Fault, Report, in_plan, prove_blocks, release, signature};
use crate::ui;

/// The name of the check.
pub(super) const CHECK: &str = "extension";

/// Checks them in their order; the first that a boot would not merge is the fault.
pub(super) fn check(
    files: &[PathBuf],
    plan: &BootPlan,
    image: &Window<&FileSource>,
    report: &mut Report,
    bars: &ui::Bars,
) -> Result<(), Fault> {
    if files.is_empty() {
        return Ok(());
    }
    let Some(trusted) = &plan.extensions else {
        return Err(Fault::new(
            CHECK,
            "the set has extensions, and its boot plan allows none",
        ));
    };
    for file in files {
        let found = one(file, trusted, plan.stage, image, bars)
            .map_err(|why| Fault::new(CHECK, format!("{}: {why}", file.display())))?;
        report.found(CHECK, found);
    }
    Ok(())
}

/// What is found of one.
fn one(
    path: &Path,
    trusted: &Extensions,
    stage: Stage,
    image: &Window<&FileSource>,
    bars: &ui::Bars,
) -> Result<String, String> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let (name, kind) = name_of(&file)?;
    let source = FileSource::open(path).map_err(|e| e.to_string())?;
    let ddi = Ddi::read(&source, Arch::NATIVE).map_err(|e| e.to_string())?;
    let told = |fault: Fault| fault.message;
    let claimed = claimed_root(&ddi).map_err(|e| e.to_string())?;
    let (root, reason) = match trusted.sealed.contains(&claimed) {
        true => (claimed, "sealed in the boot plan".to_owned()),
        false => {
            let certificates = in_plan(&trusted.certificates).map_err(told)?;
            let (root, by) = signature(&source, &ddi, &certificates).map_err(told)?;
            (root, format!("signed {by}"))
        }
    };
    ddi.check_root_hash(&root).map_err(|e| e.to_string())?;
    let trees = ddi.trees(&source, &root).map_err(|e| e.to_string())?;
    let params = &trees.superblock.params;
    prove_blocks(&source, &ddi, &root, params.data_blocks(), bars).map_err(told)?;
    let data =
        Window::new(&source, ddi.root.start, params.data_len()).map_err(|e| e.to_string())?;
    let (kind, text) = extension_release(data, name, kind)?;
    let whom = match (text, release::of_host(image, stage)) {
        (Some(text), Ok(host)) => {
            fits(kind, &text, &host, stage)?;
            "for this image".to_owned()
        }
        (None, _) => "its extension-release is compressed: whom it is for is not known".to_owned(),
        (_, Err(why)) => format!("whether it is for this image is not known: {why}"),
    };
    Ok(format!("{} {name}, {reason}; {whom}", kind.name()))
}

/// Why boots of this image would leave an extension out that says for whom it is, as far
/// as both can be read here. Nothing is proven by that.
pub(crate) fn misfit(image: &Path, extension: &Path, stage: Stage) -> Option<String> {
    let file = extension.file_name()?.to_string_lossy();
    let (name, kind) = name_of(&file).ok()?;
    let sources = [image, extension].map(|path| FileSource::open(path).ok());
    let [image, extension] = [sources[0].as_ref()?, sources[1].as_ref()?].map(|source| {
        let part = Ddi::read(source, Arch::NATIVE).ok()?.root;
        Window::new(source, part.start, part.len).ok()
    });
    let host = release::of_host(image?, stage).ok()?;
    match extension_release(extension?, name, kind) {
        Ok((kind, Some(text))) => fits(kind, &text, &host, stage).err(),
        Ok((_, None)) => None,
        Err(why) => Some(why),
    }
}

/// What it is, and its extension-release if that can be read here.
fn extension_release<S: ReadAt>(
    data: S,
    name: &str,
    kind: Option<Kind>,
) -> Result<(Kind, Option<String>), String> {
    let tree = Tree::open(data).map_err(|e| e.to_string())?;
    if tree.superblock().extra_devices != 0 {
        return Err("it has parts of its file system on other devices".into());
    }
    let kinds = match kind {
        Some(kind) => vec![kind],
        None => vec![Kind::Sysext, Kind::Confext],
    };
    for kind in kinds {
        let text = match release::text(&tree, &kind.release_file(name)) {
            Ok(None) => continue,
            Ok(text) => text,
            Err(TreeError::Compressed { .. }) => None,
            Err(error) => return Err(error.to_string()),
        };
        if kind == Kind::Sysext && tree.lookup("usr/lib/os-release").is_ok() {
            return Err("it has a usr/lib/os-release, which no extension may have".into());
        }
        return Ok((kind, text));
    }
    Err(format!("it has no extension-release.{name}"))
}
