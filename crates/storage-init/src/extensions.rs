//! Extension images (sysext, confext), where the plan allows them: found, proven like
//! the image, matched as systemd does, merged before the next init starts.
//!
//! They lie in the folder `extensions` beside the image's file, and where systemd-stub
//! puts those of the ESP, below `/.extra`. Whatever is wrong with one, it is named and
//! left out, and the boot goes on: whoever can write to the disk can take an
//! extension away in any case.
//!
//! With a plan that allows extensions those below `/.extra` are this program's. None of
//! them goes into the new root, where systemd-sysext would merge by rules of its own,
//! and would undo what is merged here first.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use ddi::Ddi;
use iofs_erofs::tree::{Tree, TreeError};
use iofs_extension::{Kind, fits, host_places, name_of};
use iofs_plan::{Candidate, Expect, Stage};
use iofs_source::{FileMap, Limited, Mapped, ReadAt, Window};
use kernel_abi::block::Device;
use kernel_abi::file::{self, Kind as Entry};
use kernel_abi::mount::{self, Flags};
use kernel_abi::{AsFd, readahead};

use crate::disks::open_partition;
use crate::folder::{Names, images_in, in_order};
use crate::image::{self, Found, Place};
use crate::log::Log;
use crate::merge;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::release::MAX_LEN;
use crate::report::Failure;
use crate::root::Mounted;
use crate::settings::Settings;
use crate::stack;
use crate::trust::Trust;

/// The folder beside the image's file.
const BESIDE: &str = "extensions";

/// How many extensions a boot takes.
const MAX: usize = 16;

/// How much of the beginning of each part is read ahead, in bytes: the upper folders of a
/// file system, and of a hash tree the levels above the first leaf.
const AHEAD: u64 = 32 << 10;

/// The most that is read of one before it is proven, in bytes.
const UNPROVEN_LIMIT: u64 = 1 << 20;

/// Where they are mounted meanwhile, and where the layers' records are, in the
/// mini-initramfs. Short, as the paths are mount options.
const WORK: &str = "/initoverlayfs/ext";

/// The folders below `/.extra`.
const EXTRA: [(&str, Kind); 4] = [
    ("sysext", Kind::Sysext),
    ("confext", Kind::Confext),
    ("global_sysext", Kind::Sysext),
    ("global_confext", Kind::Confext),
];

/// What became of an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name, or its file's if that has none.
    pub name: String,
    /// What it extends, if that is known.
    pub kind: Option<Kind>,
    /// Whether it is merged.
    pub merged: bool,
    /// Why it is trusted, or why it is not merged.
    pub why: String,
}

/// An extension that may be.
struct Suspect {
    file: String,
    kind: Option<Kind>,
    /// The device or file with its bytes and where in that, or why there are none.
    place: Result<(Device, FileMap), String>,
    /// For messages: the partition that it lies on; `None` if it is a file in the
    /// mini-initramfs.
    part: Option<String>,
    block_size: u32,
}

/// A proven extension that fits, mounted.
struct Layer {
    name: String,
    kind: Kind,
    at: String,
    why: String,
}

/// The folders of extensions that were below `/.extra`.
#[derive(Debug, Default)]
pub struct Taken(Vec<(String, Kind)>);

/// Takes what is below `/.extra` before that is carried over.
pub fn take(settings: &Settings, paths: &Paths, log: &mut Log) -> Taken {
    let mut taken = Taken::default();
    if settings.plan.extensions.is_none() {
        return taken;
    }
    for (name, kind) in EXTRA {
        let from = file::join(&paths.extra, name);
        if file::folder(&from).is_none() {
            continue;
        }
        let to = format!("/initoverlayfs/{name}");
        match file::rename(&from, &to) {
            Ok(()) => taken.0.push((to, kind)),
            Err(error) => log.warn(format_args!("extensions: {error}")),
        }
    }
    taken
}

/// Finds, proves and merges extensions over the root that is mounted.
pub fn merge(
    taken: &Taken,
    found: &Found,
    mounted: &Mounted,
    settings: &Settings,
    paths: &Paths,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Vec<Outcome> {
    let Some(extensions) = &settings.plan.extensions else {
        return Vec::new();
    };
    let mut suspects = Vec::new();
    beside(&mut suspects, found, paths, log);
    for (folder, kind) in &taken.0 {
        extra(&mut suspects, folder, *kind, log);
    }
    if suspects.is_empty() {
        return Vec::new();
    }
    let trust = match Trust::of_extensions(extensions) {
        Ok(trust) => trust,
        Err(failure) => {
            log.error(format_args!("no extension is merged: {}", failure.what()));
            return Vec::new();
        }
    };
    if let Err(error) = file::mkdir(WORK)
        .and_then(|()| mount::mount("tmpfs", WORK, "tmpfs", Flags::empty(), "mode=0755"))
    {
        log.error(format_args!("no extension is merged: {error}"));
        return Vec::new();
    }
    let host = host_release(&mounted.root, settings.plan.stage);
    let mut outcomes = Vec::new();
    let mut layers: Vec<Layer> = Vec::new();
    let mut in_vain = Vec::new();
    for (number, suspect) in suspects.into_iter().enumerate() {
        let name = suspect.file.clone();
        let kind = suspect.kind;
        let job = Job {
            trust: &trust,
            found,
            host: &host,
            stage: settings.plan.stage,
            layers: &layers,
            number,
        };
        match job.mount(suspect, &mut in_vain, modules, log) {
            Ok(layer) => layers.push(layer),
            Err(why) => outcomes.push(Outcome {
                name: name_of(&name)
                    .map_or(name.as_str(), |(name, _)| name)
                    .into(),
                kind: name_of(&name).ok().and_then(|(_, kind)| kind).or(kind),
                merged: false,
                why,
            }),
        }
    }
    iofs_source::sort_compactly(&mut layers, |a, b| in_order(&a.name, &b.name).is_lt());
    let mut summary = String::new();
    for kind in [Kind::Sysext, Kind::Confext] {
        let of_kind = || layers.iter().filter(|layer| layer.kind == kind);
        let stack: Vec<merge::Layer<'_>> = of_kind()
            .map(|layer| (layer.name.as_str(), layer.at.as_str()))
            .collect();
        if stack.is_empty() {
            continue;
        }
        let result = merge::merge(kind, &stack, &mounted.root, WORK);
        if let Ok(hierarchies) = &result {
            summary.push_str(hierarchies);
        }
        for layer in of_kind() {
            let (merged, why) = match &result {
                Ok(_) => (true, layer.why.clone()),
                Err(error) => (false, error.to_string()),
            };
            if merged {
                keep(layer, mounted, settings.plan.stage, log);
            }
            outcomes.push(Outcome {
                name: layer.name.clone(),
                kind: Some(kind),
                merged,
                why,
            });
        }
    }
    // The overlays hold what they are made of.
    if let Err(error) = mount::detach(WORK) {
        log.warn(format_args!("{error}"));
    }
    tell(&outcomes, &summary, log);
    outcomes
}

/// Says what became of each.
fn tell(outcomes: &[Outcome], hierarchies: &str, log: &mut Log) {
    for Outcome {
        name, kind, why, ..
    } in outcomes.iter().filter(|outcome| !outcome.merged)
    {
        let kind = kind.map_or("extension", Kind::name);
        log.warn(format_args!("{kind} {name} is not merged: {why}"));
    }
    let merged = || outcomes.iter().filter(|outcome| outcome.merged);
    let mut text = format!("{} of {} merged", merged().count(), outcomes.len());
    if !hierarchies.is_empty() {
        text.push_str(" into");
        text.push_str(hierarchies);
    }
    for Outcome {
        name, kind, why, ..
    } in merged()
    {
        let kind = kind.map_or("extension", Kind::name);
        text.push_str(&format!("; {kind} {name}, {why}"));
    }
    log.stage("extensions", &text);
}

/// Those in the folder beside the image's file. The kernel is not asked to read a file
/// system for them: beside an image on XFS or btrfs there are none.
fn beside(suspects: &mut Vec<Suspect>, found: &Found, paths: &Paths, log: &mut Log) {
    let (Place::File(_), Some(image)) = (&found.place, &found.candidate.file) else {
        return;
    };
    let folder = image.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folder = format!("{folder}/{BESIDE}");
    let listed = open_partition(&found.part, paths).and_then(|device| {
        let (files, more) = images_in(&device, &folder, MAX)?;
        Ok((files, more))
    });
    let (files, more) = match listed {
        Ok(listed) => listed,
        Err(why) => {
            log.warn(format_args!("no extension beside the image: {why}"));
            return;
        }
    };
    if more > 0 {
        log.warn(format_args!(
            "{folder} has {more} more extensions than the {MAX} that a boot takes; they are left out"
        ));
    }
    for (file, map) in files {
        let place = map.and_then(|map| {
            let device = open_partition(&found.part, paths)?;
            map.check(device.size(), found.part.block_size.into())
                .map_err(|error| error.to_string())?;
            Ok((device, map))
        });
        suspects.push(Suspect {
            file,
            kind: None,
            place,
            part: Some(found.part.name.clone()),
            block_size: found.part.block_size,
        });
    }
}

/// Those in a folder that was below `/.extra`.
fn extra(suspects: &mut Vec<Suspect>, folder: &str, kind: Kind, log: &mut Log) {
    let mut names = Names::new(MAX.saturating_sub(suspects.len()));
    let listed = file::list(folder).unwrap_or_default();
    for (name, _) in listed.iter().filter(|(_, entry)| *entry == Entry::File) {
        names.offer(name);
    }
    let (names, more) = names.take();
    if more > 0 {
        log.warn(format_args!(
            "/.extra has {more} more extensions than the {MAX} that a boot takes; they are left out"
        ));
    }
    for file in names {
        let path = file::join(folder, &file);
        suspects.push(Suspect {
            place: whole(&path),
            file,
            kind: Some(kind),
            part: None,
            block_size: 512,
        });
    }
}

/// A file as a device of its own.
fn whole(path: &str) -> Result<(Device, FileMap), String> {
    let device = Device::open(path).map_err(|error| error.to_string())?;
    let mut map = FileMap {
        // Loop devices end at whole sectors.
        size: device.size() - device.size() % 512,
        extents: Vec::new(),
    };
    map.push(0, map.size).map_err(|error| error.to_string())?;
    Ok((device, map))
}

/// The image's os-release; empty if it has none, or none that can be read.
fn host_release(root: &str, stage: Stage) -> String {
    let mut places = host_places(stage).iter();
    places
        .find_map(|place| file::read_inside(root, place, MAX_LEN).ok()?)
        .map_or_else(String::new, |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        })
}

/// What is to be mounted, and beside what.
struct Job<'a> {
    trust: &'a Trust,
    found: &'a Found,
    host: &'a str,
    stage: Stage,
    layers: &'a [Layer],
    number: usize,
}

impl Job<'_> {
    /// Proves an extension, mounts it through dm-verity and asks whom it is for.
    fn mount(
        &self,
        suspect: Suspect,
        in_vain: &mut Vec<String>,
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> Result<Layer, String> {
        let (name, said) = name_of(&suspect.file)?;
        if said.is_some() && suspect.kind.is_some() && said != suspect.kind {
            return Err("its name says that it is of another kind than its folder".into());
        }
        let (device, map) = suspect.place?;
        let source = Mapped::new(&device, &map);
        let kind = said.or(suspect.kind);
        let parts = image::parts(&source, "it")?;
        ahead(&device, &map, &parts);
        self.fits_unproven(&source, &parts, name, kind)?;
        let (proof, Expect { uuid, size }) =
            image::prove_parts(&source, parts, self.trust, Expect::default(), "it")?;
        let mut part = self.found.part.clone();
        match suspect.part {
            Some(name) => part.name = name,
            // No disk's.
            None => part.disk.clear(),
        }
        part.block_size = suspect.block_size;
        let image = Found {
            candidate: Candidate {
                name: name.into(),
                partition: self.found.candidate.partition.clone(),
                file: Some(suspect.file.clone()),
                expect: Expect::default(),
            },
            part,
            device,
            place: Place::File(map),
            uuid,
            size,
            proof: None,
            attempt: 0,
        };
        let what = |failure: Failure| failure.what().to_string();
        // By whom it is signed is what that says.
        let ask = !in_vain.contains(&proof.reason);
        let device =
            stack::build_extension(&image, &proof, self.number, ask, modules, log).map_err(what)?;
        if device.vouched == Some(false) {
            in_vain.push(proof.reason.clone());
        }
        let at = format!("{WORK}/{}", self.number);
        let flags = Flags::RDONLY | Flags::NODEV | Flags::NOATIME;
        let mounted =
            file::mkdir(&at).and_then(|()| mount::mount(&device.path, &at, "erofs", flags, ""));
        // Held by the mount from here on, or of no use.
        let released = device.release();
        mounted.and(released).map_err(|error| error.to_string())?;
        let kind = self.admit(&at, name, kind);
        match kind {
            Ok(kind) => Ok(Layer {
                name: name.into(),
                kind,
                at,
                why: proof.reason,
            }),
            Err(why) => {
                // Its devices go with it.
                let _ = mount::detach(&at);
                Err(why)
            }
        }
    }

    /// Whether an extension fits by what it says before it is proven. Only that it does
    /// not is believed: whoever could make it say so could as well take it away, and
    /// what is for another machine costs no proof and no device. Where it cannot be
    /// read here (the file is compressed), it is asked when it is mounted.
    fn fits_unproven(
        &self,
        source: &dyn ReadAt,
        parts: &Ddi,
        name: &str,
        kind: Option<Kind>,
    ) -> Result<(), String> {
        let limited = Limited::new(source, UNPROVEN_LIMIT);
        let Some(tree) = Window::new(&limited, parts.root.start, parts.root.len)
            .ok()
            .and_then(|window| Tree::open(window).ok())
        else {
            return Ok(());
        };
        for &kind in kinds(&kind) {
            let file = match tree.lookup(&kind.release_file(name)) {
                Ok(file) => file,
                Err(TreeError::NotFound { .. }) => continue,
                Err(_) => break,
            };
            let len = usize::try_from(file.size).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len.min(MAX_LEN)];
            if len > MAX_LEN || tree.read(&file, 0, &mut bytes).is_err() {
                break;
            }
            return fits(
                kind,
                &String::from_utf8_lossy(&bytes),
                self.host,
                self.stage,
            )
            .map_err(|why| format!("{why} (as it says; nothing of it was proven)"));
        }
        Ok(())
    }

    /// Whether what is mounted is an extension of that name that fits.
    fn admit(&self, at: &str, name: &str, kind: Option<Kind>) -> Result<Kind, String> {
        let kinds = kinds(&kind);
        for &kind in kinds {
            let place = kind.release_file(name);
            let release =
                file::read_inside(at, &place, MAX_LEN).map_err(|error| error.to_string())?;
            let Some(release) = release else {
                continue;
            };
            if self.layers.iter().any(|l| l.name == name && l.kind == kind) {
                return Err("another of that name is there already".into());
            }
            fits(
                kind,
                &String::from_utf8_lossy(&release),
                self.host,
                self.stage,
            )?;
            // It would turn the image into another product.
            let own = file::exists_inside(at, "usr/lib/os-release");
            if kind == Kind::Sysext && own.map_err(|error| error.to_string())? {
                return Err("it has a usr/lib/os-release, which no extension may have".into());
            }
            return Ok(kind);
        }
        Err(match kinds {
            [kind] => format!("it has no {}", kind.release_file(name)),
            _ => format!("it has no extension-release.{name}"),
        })
    }
}

/// Has the disk begin with what is read next, which would be waited for piece by piece.
/// That it cannot is seen when it is read.
fn ahead(device: &Device, map: &FileMap, parts: &Ddi) {
    let all = [
        Some(&parts.root),
        Some(&parts.verity),
        parts.signature.as_ref(),
    ];
    for part in all.into_iter().flatten() {
        for extent in stack::range(map, part.start, part.len.min(AHEAD)) {
            let _ = readahead::will_need(device.as_fd(), extent.physical, extent.len);
        }
    }
}

/// What an extension can be.
fn kinds(kind: &Option<Kind>) -> &[Kind] {
    match kind {
        Some(kind) => core::slice::from_ref(kind),
        None => &[Kind::Sysext, Kind::Confext],
    }
}

/// Moves an extension's mount to where systemd-sysext looks, so that it lists it, and
/// merges it again when it is asked to. What an initrd has must not outlive it: it
/// lies in the initrd's own root, which goes.
fn keep(layer: &Layer, mounted: &Mounted, stage: Stage, log: &Log) {
    let folders = match stage {
        Stage::System => ["/run".into(), String::new()],
        Stage::Initrd => [format!("{}/var", mounted.root), "lib".into()],
    };
    let mut path = String::new();
    for folder in folders
        .iter()
        .map(String::as_str)
        .chain([layer.kind.plural(), layer.name.as_str()])
        .filter(|folder| !folder.is_empty())
    {
        path = match path.as_str() {
            "" => folder.into(),
            path => file::join(path, folder),
        };
        let made = file::mkdir(&path);
        // A link may lead out of the new root.
        if made.is_err() || file::folder(&path).is_none() {
            log.info(format_args!(
                "{path} is no folder: {} is merged, but not listed",
                layer.name
            ));
            return;
        }
    }
    if let Err(error) = mount::move_mount(&layer.at, &path) {
        log.info(format_args!(
            "{} is merged, but not listed: {error}",
            layer.name
        ));
    }
}
