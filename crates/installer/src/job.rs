//! Step 1 of an installation: everything is worked out, nothing is written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::direct;
use crate::entry::{self, Content as EntryContent};
use crate::error::{ErrorKind, InstallError};
use crate::identity;
use crate::manifest::{Artefact, BuiltSet, EXTENSIONS, Place, digest};
use crate::partitions::{self, ImageJob};
use crate::system::System;
use crate::target::{self, Target};
use crate::vfs::Vfs;
use crate::{Action, Installed, Options, Report};

/// The greatest file that FAT can hold: its directory entries have 32-bit sizes.
const FAT_MAX: u64 = u32::MAX as u64;

/// Room for folders, long names and the entry, beside the files themselves.
const SLACK: u64 = 256 << 10;

/// Where the bytes of a file come from.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// A file to install.
#[derive(Debug, Clone)]
pub(crate) struct FileJob {
    pub(crate) content: Content,
    pub(crate) to: PathBuf,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) mode: u32,
    /// It is there already, with the same content.
    pub(crate) present: bool,
}

/// A whole installation.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    target: Target,
    entry_id: String,
    entry_file: String,
    entry: String,
    /// Folders that must exist, parents first.
    pub(crate) folders: Vec<PathBuf>,
    /// The image, if it has partitions of its own; written first.
    pub(crate) image: Option<ImageJob>,
    /// In writing order, the entry or the UKI last.
    pub(crate) files: Vec<FileJob>,
    notes: Vec<String>,
}

impl Job {
    pub(crate) fn report(&self, written: Action) -> Report {
        let file = |job: &FileJob| Installed {
            path: job.to.clone(),
            size: job.size,
            sha256: job.sha256.clone(),
            action: if job.present {
                Action::AlreadyThere
            } else {
                written
            },
        };
        Report {
            target: self.target.kind,
            folder: self.target.dir.clone(),
            entry_id: self.entry_id.clone(),
            entry_file: self.entry_file.clone(),
            entry: self.entry.clone(),
            partitions: self
                .image
                .iter()
                .flat_map(|image| image.parts.iter().map(|part| part.report(written)))
                .collect(),
            files: self.files.iter().map(file).collect(),
            notes: self.notes.clone(),
        }
    }
}

/// Works the installation out.
pub(crate) fn resolve(
    system: &System,
    vfs: &dyn Vfs,
    root: &Path,
    set: &BuiltSet,
    options: &Options,
) -> Result<Job, InstallError> {
    let root = fs::canonicalize(root).map_err(|e| InstallError::io("find", root, e))?;
    let manifest = &set.manifest;
    let version = &manifest.product_version;
    for (what, name) in [("product", &manifest.product), ("version", version)] {
        identity::check_name(name).map_err(|why| {
            InstallError::new(
                ErrorKind::Set,
                format!("the set's {what} cannot be used: {why}"),
            )
            .with_hint("build again with another --product or --version")
        })?;
    }
    let tokens = identity::tokens(&root, &options.entry_token, &manifest.product)?;
    let embedded = target::embedded(&manifest.candidates);
    let (target, image, token) = if let Some(place) = embedded {
        if !options.image_partitions.is_empty() {
            return Err(InstallError::new(
                ErrorKind::PathMismatch,
                "the image is packed into the mini-initramfs: no partition is looked at for it",
            )
            .with_hint("leave --image-partitions out, or build with --image-on partition"));
        }
        let target = target::beside(system, &root, options, place)?;
        let token = tokens.into_iter().map(|(token, _)| token).next();
        (target, None, token.unwrap_or_default())
    } else if options.image_partitions.is_empty() {
        let target = target::find(system, &root, options, &manifest.candidates)?;
        let token = choose_token(&target, &tokens, version, &manifest.image.name)?;
        (target, None, token)
    } else {
        let (image, place) = partitions::resolve(system, vfs, set, &options.image_partitions)?;
        let target = target::beside(system, &root, options, &place)?;
        let token = tokens.into_iter().map(|(token, _)| token).next();
        (target, Some(image), token.unwrap_or_default())
    };

    let mut notes = target.notes.clone();
    let running = root == Path::new("/");
    trust_notes(set, &mut notes);
    let through_image = |cmdline: &str, notes: &mut Vec<String>| {
        running && !boots_directly(system, set, cmdline, notes)
    };
    if let Some(uki) = &manifest.uki {
        check_uki_cmdline(set, options)?;
        // A UKI's command line is its own, whatever is found.
        through_image(manifest.cmdline.as_deref().unwrap_or(""), &mut notes);
        let folder = target::uki_folder(system, &root, options, &target)?;
        let job = uki_job(vfs, set, uki, target, image, &token, &folder)?;
        return Ok(Job { notes, ..job });
    }
    let mut cmdline = cmdline(system, &root, running, set, options, &mut notes)?;
    if through_image(&cmdline, &mut notes) {
        cmdline = format!("{cmdline} {}", direct::THROUGH_IMAGE);
    }
    let folder = format!("{}/{token}/{version}", target.prefix);
    let entry_id = format!("{token}-{version}");
    // The system at `root` is another one than an image that stays.
    let name = match manifest.stays() {
        true => None,
        false => identity::pretty_name(&root)?,
    };
    let title = name.unwrap_or_else(|| manifest.product.clone());
    let text = entry::text(&EntryContent {
        title: &title,
        version,
        sort_key: &manifest.product,
        machine_id: identity::machine_id(&root)?.as_deref(),
        linux: &format!("{folder}/linux"),
        initrd: &format!("{folder}/initrd"),
        options: &cmdline,
    })?;

    let with_image = image.is_none() && embedded.is_none();
    let (folders, files) = layout(&target, set, with_image, &token, &entry_id, &text)?;
    check_room(vfs, &target, &files.iter().collect::<Vec<_>>())?;
    Ok(Job {
        target,
        entry_file: entry::file_name(&entry_id)?,
        entry_id,
        entry: text,
        folders,
        image,
        files,
        notes,
    })
}

/// The token that puts the image where the plan looks for it.
fn choose_token(
    target: &Target,
    tokens: &[(String, &'static str)],
    version: &str,
    name: &str,
) -> Result<String, InstallError> {
    let wanted = wanted_path(&target.candidate);
    let path = |token: &str| format!("{}/{token}/{version}/{name}", target.prefix);
    if let Some((token, _)) = tokens.iter().find(|(token, _)| path(token) == wanted) {
        return Ok(token.clone());
    }
    let tried: Vec<String> = tokens
        .iter()
        .map(|(token, origin)| format!("{} (by {origin})", path(token)))
        .collect();
    let example = tokens.first().map(|(token, _)| path(token));
    Err(InstallError::new(
        ErrorKind::PathMismatch,
        format!(
            "the plan looks for the image at {wanted} on {}, but it would be installed at {}",
            target.candidate.name,
            tried.join(" or ")
        ),
    )
    .with_hint(format!(
        "build again with --image-path {}, or choose another --entry-token",
        example.unwrap_or_default()
    )))
}

fn wanted_path(place: &Place) -> &str {
    place.file.as_deref().unwrap_or("")
}

/// Whether what is known of the running machine speaks for direct boots, where the
/// set allows them; says which way they go, and why.
fn boots_directly(system: &System, set: &BuiltSet, cmdline: &str, notes: &mut Vec<String>) -> bool {
    let kinds = &set.manifest.direct;
    if kinds.is_empty() {
        return true;
    }
    let assessed = direct::assess(system, kinds, cmdline);
    notes.push(match &assessed {
        Ok(root) => format!(
            "boots go to the root directly ({root}); the image comes up where that fails, and \
             with {} on the kernel command line",
            direct::THROUGH_IMAGE
        ),
        Err(why) => format!("boots go through the image: {why}"),
    });
    assessed.is_ok()
}

/// What of the boot is authenticated by nobody.
fn trust_notes(set: &BuiltSet, notes: &mut Vec<String>) {
    let manifest = &set.manifest;
    let note = match (manifest.auth.as_str(), &manifest.uki) {
        ("none", _) => {
            "the image is not authenticated (--auth none): whoever can write to the boot \
             partition can replace it"
        }
        (_, None) => {
            "the image is authenticated by the mini-initramfs, but firmware does not \
             authenticate that: whoever can write to the boot partition can replace the \
             mini-initramfs; build with --uki and sign the UKI for Secure Boot"
        }
        (_, Some(_)) if !manifest.uki_signed => {
            "the UKI is not signed for Secure Boot: whoever can write to the boot partition \
             can replace it; build with --secure-boot-key and --secure-boot-certificate"
        }
        _ => return,
    };
    notes.push(note.into());
}

/// A UKI carries its kernel arguments, which its signature covers.
fn check_uki_cmdline(set: &BuiltSet, options: &Options) -> Result<(), InstallError> {
    let built = set.manifest.cmdline.as_deref().unwrap_or("");
    match &options.cmdline {
        Some(chosen) if identity::one_line(chosen) != identity::one_line(built) => {
            Err(InstallError::new(
                ErrorKind::Invalid,
                format!(
                    "the kernel arguments {chosen:?} cannot be given to this UKI: it carries \
                     its own, {built:?}"
                ),
            )
            .with_hint("give them to `initoverlayfs build --uki --cmdline`"))
        }
        _ => Ok(()),
    }
}

/// The installation of a set whose entry is a UKI in `folder`.
fn uki_job(
    vfs: &dyn Vfs,
    set: &BuiltSet,
    uki: &Artefact,
    target: Target,
    image_job: Option<ImageJob>,
    token: &str,
    folder: &Target,
) -> Result<Job, InstallError> {
    let manifest = &set.manifest;
    let entry_id = format!("{token}-{}", manifest.product_version);
    let entry_file = entry::uki_name(&entry_id)?;
    let outer = target.dir.join(token);
    let inner = outer.join(&manifest.product_version);
    let efi = folder.dir.join("EFI");
    let linux = efi.join("Linux");
    let mut image = Vec::new();
    let mut folders = Vec::new();
    if image_job.is_none() && target::embedded(&manifest.candidates).is_none() {
        let to = inner.join(&manifest.image.name);
        image.push(from_set(set, &manifest.image, to, 0o600));
        image.extend(extensions(set, &inner));
        folders.extend([outer, inner.clone()]);
        folders.extend(extensions_folder(set, &inner));
    }
    let mut entry = vec![from_set(set, uki, linux.join(&entry_file), 0o600)];
    check_files(&target, &mut image)?;
    check_files(folder, &mut entry)?;
    check_counted(&linux, &entry_id, &entry_file, entry::is_uki)?;
    folders.extend([efi, linux]);
    for folder in &folders {
        check_folder(folder)?;
    }
    if folder.dir == target.dir {
        let both: Vec<_> = image.iter().chain(&entry).collect();
        check_room(vfs, &target, &both)?;
    } else {
        check_room(vfs, &target, &image.iter().collect::<Vec<_>>())?;
        check_room(vfs, folder, &entry.iter().collect::<Vec<_>>())?;
    }
    let files = image.into_iter().chain(entry).collect();
    Ok(Job {
        target,
        entry_id,
        entry_file,
        entry: String::new(),
        folders,
        image: image_job,
        files,
        notes: Vec::new(),
    })
}

/// The entry's kernel arguments.
fn cmdline(
    system: &System,
    root: &Path,
    running: bool,
    set: &BuiltSet,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<String, InstallError> {
    let chosen = match (&options.cmdline, &set.manifest.cmdline) {
        (Some(text), _) | (None, Some(text)) => Some(identity::one_line(text)),
        (None, None) => {
            let text = identity::cmdline(root, running, &system.proc)?;
            match set.manifest.stays() {
                true => text.map(|text| without_root(&text, notes)),
                false => text,
            }
        }
    };
    let text = chosen.unwrap_or_else(|| {
        notes.push(format!(
            "the entry has no kernel arguments: neither --cmdline nor {} says any",
            root.join("etc/kernel/cmdline").display()
        ));
        String::new()
    });
    if text.chars().any(char::is_control) {
        return Err(InstallError::new(
            ErrorKind::Invalid,
            format!("the kernel arguments {text:?} hold a control character"),
        )
        .with_hint("give them with --cmdline"));
    }
    Ok(text)
}

/// The kernel arguments of a system without those that name its root: the image is
/// that, and looks for no other.
fn without_root(text: &str, notes: &mut Vec<String>) -> String {
    let names_root = |word: &&str| {
        let key = word.split('=').next().unwrap_or_default();
        matches!(key, "ro" | "rw") || key.starts_with("root")
    };
    let (dropped, kept): (Vec<&str>, Vec<&str>) =
        text.split_ascii_whitespace().partition(names_root);
    if !dropped.is_empty() {
        notes.push(format!(
            "the image is the system itself: the entry goes without {} of this system's kernel \
             arguments",
            dropped.join(" ")
        ));
    }
    kept.join(" ")
}

type Layout = (Vec<PathBuf>, Vec<FileJob>);

fn layout(
    target: &Target,
    set: &BuiltSet,
    with_image: bool,
    token: &str,
    entry_id: &str,
    text: &str,
) -> Result<Layout, InstallError> {
    let manifest = &set.manifest;
    let outer = target.dir.join(token);
    let inner = outer.join(&manifest.product_version);
    let loader = target.dir.join("loader");
    let entries = loader.join("entries");
    // The initramfs may hold secrets of the host; dracut's are private too.
    let image = with_image.then_some((&manifest.image, manifest.image.name.as_str(), 0o600));
    let beside = [
        (&manifest.initrd, "initrd", 0o600),
        (&manifest.kernel, "linux", 0o644),
    ];
    let mut files: Vec<_> = image
        .into_iter()
        .chain(beside)
        .map(|(artefact, name, mode)| from_set(set, artefact, inner.join(name), mode))
        .collect();
    let mut folders = vec![outer, inner.clone()];
    if with_image {
        files.extend(extensions(set, &inner));
        folders.extend(extensions_folder(set, &inner));
    }
    let mut bytes = text.as_bytes();
    let (size, sha256) = digest(&mut bytes)
        .map_err(|e| InstallError::new(ErrorKind::Io, "no digest").with_source(e))?;
    files.push(FileJob {
        content: Content::Bytes(text.into()),
        to: entries.join(entry::file_name(entry_id)?),
        size,
        sha256,
        mode: 0o644,
        present: false,
    });
    check_files(target, &mut files)?;
    check_counted(
        &entries,
        entry_id,
        &entry::file_name(entry_id)?,
        entry::is_entry,
    )?;
    folders.extend([loader, entries]);
    for folder in &folders {
        check_folder(folder)?;
    }
    Ok((folders, files))
}

/// The set's extensions, beside the image in `folder`.
fn extensions(set: &BuiltSet, folder: &Path) -> Vec<FileJob> {
    let folder = folder.join(EXTENSIONS);
    let extensions = set.manifest.extensions.iter();
    extensions
        .map(|artefact| from_set(set, artefact, folder.join(&artefact.name), 0o600))
        .collect()
}

/// Their folder, if there are any.
fn extensions_folder(set: &BuiltSet, folder: &Path) -> Option<PathBuf> {
    let any = !set.manifest.extensions.is_empty();
    any.then(|| folder.join(EXTENSIONS))
}

/// Sees which files are there, and whether the others can be.
fn check_files(target: &Target, files: &mut [FileJob]) -> Result<(), InstallError> {
    let on_fat = target.fstype.as_deref() == Some("vfat");
    for file in files {
        if on_fat && file.size > FAT_MAX {
            return Err(InstallError::new(
                ErrorKind::NoSpace,
                format!(
                    "{} has {} bytes; a file on FAT has at most {FAT_MAX}",
                    file.to.display(),
                    file.size
                ),
            )
            .with_hint(
                "put the image on an ext4 /boot or on a partition of its own (--image-on)",
            ));
        }
        file.present = is_present(file)?;
    }
    Ok(())
}

fn from_set(set: &BuiltSet, artefact: &Artefact, to: PathBuf, mode: u32) -> FileJob {
    FileJob {
        content: Content::File(set.path(artefact)),
        to,
        size: artefact.size,
        sha256: artefact.sha256.clone(),
        mode,
        present: false,
    }
}

/// Whether the file is there; other content is a conflict.
fn is_present(file: &FileJob) -> Result<bool, InstallError> {
    let found = match fs::symlink_metadata(&file.to) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(InstallError::io("look at", &file.to, e)),
    };
    let same = found.is_file() && found.len() == file.size && {
        let mut there = File::open(&file.to).map_err(|e| InstallError::io("open", &file.to, e))?;
        let (_, sha256) = digest(&mut there).map_err(|e| InstallError::io("read", &file.to, e))?;
        sha256 == file.sha256
    };
    if same {
        return Ok(true);
    }
    Err(InstallError::new(
        ErrorKind::Conflict,
        format!(
            "{} exists with other content ({} bytes; the new one has {})",
            file.to.display(),
            found.len(),
            file.size
        ),
    )
    .with_hint(
        "nothing is overwritten: build with another --version, \
         or remove that file if it is no longer wanted",
    ))
}

/// An entry that counts its boots has another file name, but is the same entry.
fn check_counted(
    entries: &Path,
    id: &str,
    plain: &str,
    is_entry: fn(&str, &str) -> bool,
) -> Result<(), InstallError> {
    let found = match fs::read_dir(entries) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(InstallError::io("list", entries, e)),
    };
    for file in found {
        let file = file.map_err(|e| InstallError::io("list", entries, e))?;
        let name = file.file_name();
        let Some(name) = name.to_str().filter(|name| *name != plain) else {
            continue;
        };
        if is_entry(name, id) {
            return Err(InstallError::new(
                ErrorKind::Conflict,
                format!("{} is the same boot entry", entries.join(name).display()),
            )
            .with_hint("build with another --version, or remove that entry"));
        }
    }
    Ok(())
}

fn check_folder(path: &Path) -> Result<(), InstallError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(InstallError::new(
            ErrorKind::Conflict,
            format!("{} exists and is not a folder", path.display()),
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(InstallError::io("look at", path, e)),
    }
}

fn check_room(vfs: &dyn Vfs, target: &Target, files: &[&FileJob]) -> Result<(), InstallError> {
    let space = vfs
        .space(&target.dir)
        .map_err(|e| InstallError::io("ask for the free space of", &target.dir, e))?;
    let block = space.block.max(1);
    let missing: Vec<_> = files.iter().filter(|file| !file.present).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let need = missing
        .iter()
        .map(|file| file.size.div_ceil(block).saturating_mul(block))
        .fold(SLACK, u64::saturating_add);
    if need <= space.available {
        return Ok(());
    }
    Err(InstallError::new(
        ErrorKind::NoSpace,
        format!(
            "{} has {} bytes free; the installation takes {need} ({} more)",
            target.dir.display(),
            space.available,
            need - space.available
        ),
    )
    .with_hint("remove old kernels from it, or build a smaller set or one for another place"))
}
