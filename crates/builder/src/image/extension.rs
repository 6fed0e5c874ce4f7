//! Extension images: a tree as a sysext or confext that storage-init and systemd take.

use super::scan::{Tree, derive_uuid};
use super::{ImageJob, ImageWriter, MkfsErofs, Pending, build::verify, wrap};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Progress, Step};
use crate::request::{ExtensionRequest, Limits};
use crate::sign::Signer;
use crate::stage::Stage;
use crate::{ImageCompression, RootHash};
use iofs_extension::{Kind, is_name};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The greatest size of an extension-release, in bytes: what boots read of one.
const MAX_RELEASE: u64 = 64 << 10;

/// What was made.
#[derive(Debug, Clone)]
pub struct BuiltExtension {
    /// The image.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its dm-verity root hash.
    pub root_hash: RootHash,
    /// Whether that is signed.
    pub signed: bool,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Builds it.
pub(crate) fn build(request: &ExtensionRequest, progress: &dyn Progress) -> Result<BuiltExtension> {
    let writer = MkfsErofs::probe(request.compression.clone())?;
    let mut clock = Clock::new(progress);
    check_name(&request.name)?;
    let mut stage = Stage::new(request.work_dir.as_deref())?;
    let pending = Pending::new(&request.output)?;
    fill(&mut stage, request, pending.path(), &mut clock, progress)?;
    let tree = Tree::walk(stage.path())?;
    let scan = clock.step(Step::Scan, Some(tree.len()), || {
        tree.scan(writer.wants_plain(), progress)
    })?;
    let uuid = derive_uuid(&scan.digest, &writer, 0);
    let erofs = stage.work().join("extension.erofs");
    let job = ImageJob {
        stage: stage.path(),
        work: stage.work(),
        output: &erofs,
        uuid,
        timestamp: 0,
        plain: &scan.plain,
    };
    clock.step(Step::WriteImage, None, || writer.write(&job, progress))?;
    clock.step(Step::VerifyImage, None, || {
        verify(&erofs, uuid, &mut stage.warnings, progress)
    })?;
    let signer = request.signer.as_ref();
    let (root_hash, signature) = wrap::wrap(&erofs, pending.path(), signer, &mut clock, progress)?;
    let bytes = pending
        .path()
        .metadata()
        .map_err(Error::io("looking at", pending.path()))?
        .len();
    pending.commit()?;
    for warning in &stage.warnings {
        progress.warn(warning);
    }
    Ok(BuiltExtension {
        path: request.output.clone(),
        bytes,
        root_hash,
        signed: signature.is_some(),
        warnings: std::mem::take(&mut stage.warnings),
    })
}

/// The tree, with an extension-release.
fn fill(
    stage: &mut Stage,
    request: &ExtensionRequest,
    output: &Path,
    clock: &mut Clock<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let identity = |path: &Path| -> Result<(u64, u64)> {
        let meta = path.metadata().map_err(Error::io("looking at", path))?;
        Ok((meta.dev(), meta.ino()))
    };
    let leave_out = [identity(stage.work())?, identity(output)?];
    let limits = request.limits;
    clock.step(Step::Stage, None, || {
        stage.copy_tree(&request.root, &leave_out, limits, progress)
    })?;
    let wrong = |what: String| Error::new(ErrorKind::Input, what);
    let kind = request.kind;
    let listed = std::fs::read_dir(stage.path()).map_err(Error::io("listing", stage.path()))?;
    for entry in listed {
        let name = entry
            .map_err(Error::io("listing", stage.path()))?
            .file_name();
        if !kind.hierarchies().iter().any(|folder| *folder == name) {
            return Err(wrong(format!(
                "{} has {}, and a {} extends nothing but /{}",
                request.root.display(),
                name.to_string_lossy(),
                kind.name(),
                kind.hierarchies().join(" and /")
            ))
            .hint("Nobody would merge it: leave it out."));
        }
    }
    for own in ["usr/lib/os-release", "usr/lib/initrd-release"] {
        if stage.exists(own)? {
            return Err(wrong(format!(
                "{} has a {own}, which no extension may have",
                request.root.display()
            ))
            .hint("It would turn the image into another product: leave it out."));
        }
    }
    let place = kind.release_file(&request.name);
    match (stage.read(&place, MAX_RELEASE)?, request.release.as_str()) {
        (Some(_), "") => Ok(()),
        (None, "") => Err(wrong(format!(
            "{} has no {place}, so nothing says what it is for",
            request.root.display()
        ))
        .hint("Write one, or say with --id, --version-id and --scope what it is for.")),
        (_, text) => stage.write(&place, text.as_bytes()),
    }
}

/// A name that boots and systemd accept.
fn check_name(name: &str) -> Result<()> {
    let suffixed = [".raw", ".sysext", ".confext"];
    if !is_name(name) || suffixed.iter().any(|suffix| name.ends_with(suffix)) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("an extension's name cannot be {name:?}"),
        )
        .hint("Use letters, digits and ._-+~^@ for it, without .raw at its end."));
    }
    Ok(())
}

impl ExtensionRequest {
    /// An order with defaults for the rest: not signed, with the tree's own
    /// extension-release.
    #[must_use]
    pub fn new(root: PathBuf, kind: Kind, name: &str, output: PathBuf) -> Self {
        Self {
            root,
            kind,
            name: name.to_owned(),
            output,
            release: String::new(),
            signer: None::<Signer>,
            work_dir: None,
            compression: ImageCompression::default(),
            limits: Limits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_such_as_boots_take() {
        for good in ["tools", "tools-1.2~rc1", "a_b+c^d"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".x", "a/b", "a b", "x.raw", "x.sysext", "ü"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
