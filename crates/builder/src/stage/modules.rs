//! Kernel modules in the stage: decompressed, with the metadata kept right.
//!
//! A `.ko` inside the image is compressed by the image's own file system, once;
//! as `.ko.xz` it would be decompressed slowly, by kmod or by kernels with
//! MODULE_DECOMPRESS. EROFS does compress them: of Debian's 783 modules in a
//! dracut image it makes 61 MB in place of 147, and reading 60 of them takes
//! 4.9 MB and 0.06 s from a virtual disk in place of 15.4 MB and 0.29 s.
//!
//! Of the files beside the modules only modules.dep and modules.dep.bin hold
//! paths with suffixes; they are rewritten here. The others stay as the
//! distribution's depmod made them: running another depmod over a hostile tree
//! would give nothing but its parser's risks and an order by chance.

use super::{Stage, copy};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::MODULE_ROOTS;
use crate::mini::read_module;
use crate::progress::Progress;
use crate::request::Limits;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Suffixes of compressed modules.
const SUFFIXES: [&str; 3] = [".xz", ".zst", ".gz"];

/// The greatest size of modules.dep, in bytes.
const MAX_DEP: u64 = 64 << 20;

/// The compressed modules of a stage.
#[derive(Debug)]
pub(crate) struct StagedModules {
    trees: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
    links: Vec<PathBuf>,
}

impl StagedModules {
    pub(crate) fn find(stage: &Stage) -> Result<Self> {
        let mut found = Self {
            trees: trees(stage)?,
            files: Vec::new(),
            links: Vec::new(),
        };
        for tree in &found.trees {
            find(tree, &mut found.files, &mut found.links)?;
        }
        Ok(found)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.files.len() as u64
    }

    /// Decompresses them, on every core.
    pub(crate) fn decompress(&self, limits: Limits, progress: &dyn Progress) -> Result<()> {
        self.files.par_iter().try_for_each(|path| {
            let done = decompress(path, limits.module_bytes);
            progress.advance(1);
            done
        })?;
        self.links.iter().try_for_each(|path| relink(path))?;
        self.trees
            .iter()
            .try_for_each(|tree| rewrite_metadata(tree))
    }
}

/// The folders of modules in the stage, one a kernel release, each once.
fn trees(stage: &Stage) -> Result<BTreeSet<PathBuf>> {
    let mut trees = BTreeSet::new();
    for root in MODULE_ROOTS {
        let Some(folder) = stage.resolve(root)? else {
            continue;
        };
        let Ok(entries) = folder.read_dir() else {
            continue;
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("reading", &folder))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                trees.insert(entry.path());
            }
        }
    }
    Ok(trees)
}

/// `foo.ko` for `foo.ko.xz`.
fn plain_name(path: &str) -> Option<&str> {
    SUFFIXES
        .iter()
        .find_map(|suffix| path.strip_suffix(suffix))
        .filter(|plain| plain.ends_with(".ko"))
}

fn find(tree: &Path, files: &mut Vec<PathBuf>, links: &mut Vec<PathBuf>) -> Result<()> {
    for entry in WalkDir::new(tree).sort_by_file_name() {
        let entry = entry.map_err(|source| {
            Error::new(
                ErrorKind::Io,
                format!("walking through {} failed", tree.display()),
            )
            .source(source)
        })?;
        if entry.file_name().to_str().and_then(plain_name).is_none() {
            continue;
        }
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        } else if entry.file_type().is_symlink() {
            links.push(entry.into_path());
        }
    }
    Ok(())
}

/// The path without its suffix. Only called with what [`find`] found.
fn plain_path(path: &Path) -> PathBuf {
    path.with_extension("")
}

fn decompress(path: &Path, limit: u64) -> Result<()> {
    let bytes = read_module(path, limit)?;
    let meta = path
        .symlink_metadata()
        .map_err(Error::io("looking at", path))?;
    let plain = plain_path(path);
    let renamed = Error::io("renaming to", &plain);
    // Into its own file, where nothing else is that file: to make one and remove one
    // for each module takes some file systems longer than to decompress it.
    if meta.nlink() == 1 {
        if let Ok(mut file) = File::options().write(true).open(path) {
            file.write_all(&bytes)
                .and_then(|()| file.set_len(bytes.len() as u64))
                .and_then(|()| file.set_modified(meta.modified()?))
                .map_err(Error::io("writing", path))?;
            return std::fs::rename(path, &plain).map_err(renamed);
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    // Beside it and then renamed: whatever is called `foo.ko` is replaced and
    // never written through.
    let mut file = tempfile::Builder::new()
        .tempfile_in(folder)
        .map_err(Error::io("making a file in", folder))?;
    let failed = Error::io("writing", &plain);
    file.write_all(&bytes)
        .and_then(|()| std::os::unix::fs::chown(file.path(), Some(meta.uid()), Some(meta.gid())))
        .and_then(|()| file.as_file().set_permissions(meta.permissions()))
        .and_then(|()| file.as_file().set_modified(meta.modified()?))
        .map_err(failed)?;
    copy::copy_xattrs(path, file.path())?;
    file.persist(&plain).map_err(|error| renamed(error.error))?;
    std::fs::remove_file(path).map_err(Error::io("removing", path))
}

/// A link to a compressed module (weak-updates/) now leads to the plain one.
fn relink(path: &Path) -> Result<()> {
    let target = std::fs::read_link(path).map_err(Error::io("reading the link", path))?;
    let Some(target) = target.to_str().and_then(plain_name) else {
        return Ok(());
    };
    let plain = plain_path(path);
    std::fs::remove_file(path).map_err(Error::io("removing", path))?;
    if plain.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(target, &plain).map_err(Error::io("linking", &plain))
}

fn rewrite_metadata(tree: &Path) -> Result<()> {
    let path = tree.join("modules.dep");
    let regular = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_DEP);
    if !regular {
        return Ok(());
    }
    let text = std::fs::read(&path).map_err(Error::io("reading", &path))?;
    let Ok(text) = String::from_utf8(text) else {
        return Ok(());
    };
    let plain = iofs_kmod::rewrite_dep(&text, |path| plain_name(path).unwrap_or(path).to_owned());
    if plain == text {
        return Ok(());
    }
    let binary = iofs_kmod::dep_index(&plain).map_err(|source| {
        Error::new(
            ErrorKind::Input,
            format!("{} cannot be indexed", path.display()),
        )
        .source(source)
    })?;
    replace(&path, plain.as_bytes())?;
    // Without an index there, libkmod does not look for one.
    let index = tree.join("modules.dep.bin");
    if index.symlink_metadata().is_ok() {
        replace(&index, &binary)?;
    }
    Ok(())
}

/// Puts a new file with these bytes and the old one's attributes in its place.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let meta = path
        .symlink_metadata()
        .map_err(Error::io("looking at", path))?;
    let mode = if meta.is_file() {
        meta.mode() & 0o777
    } else {
        0o644
    };
    std::fs::remove_file(path).map_err(Error::io("removing", path))?;
    let mut file = File::create_new(path).map_err(Error::io("writing", path))?;
    file.write_all(bytes)
        .and_then(|()| std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid())))
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .map_err(Error::io("writing", path))
}
