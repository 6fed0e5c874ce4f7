//! An image in partitions of its own: which bytes go into which, and what the
//! partitions are called then.
//!
//! Either the image's partitions go each into one (file system, hash tree,
//! signature), or the whole image goes into one. Which partition is which image
//! is told by its PARTUUID alone, so the file system's partition loses its old
//! one before the first byte is written, and takes its new one when all is
//! proven: a boot finds the whole image or none.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use ddi::{Arch, Ddi, Role, RootHash};
use iofs_gpt::{Partition, Table};
use iofs_plan::{Selector, Uuid};
use iofs_source::ReadAt;
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, InstallError};
use crate::manifest::{self, BuiltSet, Place};
use crate::slot::{self, Change, PartitionName, Slot};
use crate::system::{FileSource, System};
use crate::vfs::Vfs;
use crate::{Action, InstalledPartition};

/// The blocks that image files are written for, in bytes.
const IMAGE_BLOCK: u32 = 512;

/// A signature ends with NULs up to its partition's end. So large a partition
/// is not meant for one.
const SIGNATURE_MAX: u64 = 64 << 20;

/// A partition to write.
#[derive(Debug, Clone)]
pub(crate) struct PartitionJob {
    pub(crate) slot: Slot,
    /// What of the image; all of it if `None`.
    pub(crate) role: Option<Role>,
    /// The image, and the bytes of it.
    pub(crate) from: PathBuf,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    /// How many NULs follow.
    pub(crate) fill: u64,
    /// Its entry before.
    before: Partition,
    /// Its entry after: these of its fields.
    wanted: Wanted,
    /// It holds that already, under that name.
    pub(crate) present: bool,
}

/// What of an entry is given; the rest stays.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    type_guid: Option<Uuid>,
    attributes: Option<u64>,
    part_guid: Option<Uuid>,
}

/// The partitions of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageJob {
    /// In writing order, the file system first.
    pub(crate) parts: Vec<PartitionJob>,
    /// What proves them.
    pub(crate) root: Option<RootHash>,
}

impl PartitionJob {
    /// What its entry becomes, the PARTUUID last.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let Wanted {
            type_guid,
            attributes,
            part_guid,
        } = self.wanted;
        let type_guid = type_guid.filter(|guid| *guid != self.before.type_guid);
        let attributes = attributes.filter(|bits| *bits != self.before.attributes);
        let changes = [
            type_guid.map(Change::Type),
            attributes.map(Change::Attributes),
            part_guid.map(Change::PartUuid),
        ];
        changes.into_iter().flatten().collect()
    }

    /// A PARTUUID that no plan looks for, for the time in which it is neither
    /// the old nor the new image; `None` if it is not found by its PARTUUID.
    pub(crate) fn unfinished(&self) -> Option<Uuid> {
        self.wanted.part_guid?;
        let digest = Sha256::new()
            .chain_update("initoverlayfs unfinished\0")
            .chain_update(self.before.part_guid.as_bytes())
            .chain_update(&self.sha256)
            .finalize();
        let mut bytes = [0; 16];
        bytes
            .iter_mut()
            .zip(digest)
            .for_each(|(to, from)| *to = from);
        // The version of UUIDs that are made any other way (RFC 9562, 5.8).
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Some(Uuid::from_bytes(bytes))
    }

    /// Whether that is its entry after the installation.
    pub(crate) fn is_named(&self, entry: &Partition) -> bool {
        let Wanted {
            type_guid,
            attributes,
            part_guid,
        } = self.wanted;
        type_guid.is_none_or(|guid| guid == entry.type_guid)
            && attributes.is_none_or(|bits| bits == entry.attributes)
            && part_guid.is_none_or(|guid| guid == entry.part_guid)
    }

    /// What it is, in words.
    pub(crate) fn what(&self) -> String {
        self.role.map_or("image".into(), |role| role.to_string())
    }

    pub(crate) fn report(&self, written: Action) -> InstalledPartition {
        let Wanted {
            type_guid,
            attributes,
            part_guid,
        } = self.wanted;
        InstalledPartition {
            node: self.slot.node.clone(),
            holds: self.what(),
            size: self.size,
            sha256: self.sha256.clone(),
            partuuid: part_guid.unwrap_or(self.before.part_guid).to_string(),
            type_guid: type_guid.unwrap_or(self.before.type_guid).to_string(),
            read_only: attributes.unwrap_or(self.before.attributes) & READ_ONLY != 0,
            action: match self.present {
                true => Action::AlreadyThere,
                false => written,
            },
        }
    }
}

/// The attribute bit of the Discoverable Partitions Specification.
const READ_ONLY: u64 = 1 << 60;

/// A part of an image, and what its partition is to be.
struct Piece {
    role: Option<Role>,
    offset: u64,
    size: u64,
    wanted: Wanted,
}

/// Works out where the set's image goes, if to partitions. Returns the candidate
/// of the plan that finds it there.
pub(crate) fn resolve(
    system: &System,
    vfs: &dyn Vfs,
    set: &BuiltSet,
    names: &[PartitionName],
) -> Result<(ImageJob, Place), InstallError> {
    let path = set.path(&set.manifest.image);
    let (size, sha256) = File::open(&path)
        .and_then(|mut file| manifest::digest(&mut file))
        .map_err(|e| InstallError::io("read", &path, e))?;
    if (size, &sha256) != (set.manifest.image.size, &set.manifest.image.sha256) {
        return Err(bad_set(format!(
            "{} is not the image of which build.json speaks: its SHA-256 is {sha256}",
            path.display()
        )));
    }
    let slots = slots(system, names)?;
    let first = slots.first().ok_or_else(|| {
        InstallError::new(ErrorKind::Invalid, "no partition is named for the image")
    })?;
    let table = first.table()?;
    let root = root_hash(set)?;
    let (pieces, place) = match names.len() {
        1 => whole(set, root, &slots, &table)?,
        _ => spread(set, root, &slots, &table)?,
    };
    let mut parts = Vec::new();
    for (slot, piece) in slots.into_iter().zip(pieces) {
        parts.push(job(vfs, &path, slot, &piece, &table)?);
    }
    let also = match place.selector()? {
        Selector::TypeGuid(guid) => Some(guid),
        _ => None,
    };
    for part in parts.iter().filter(|part| !part.present) {
        slot::check_free(system, vfs, &part.slot, &part.before, also)?;
    }
    if parts
        .iter()
        .any(|part| !part.present && !part.changes().is_empty())
    {
        vfs.can_rename_partitions().map_err(|e| {
            InstallError::new(ErrorKind::Io, "sfdisk is needed to name the partitions")
                .with_source(e)
                .with_hint("install it (package fdisk or util-linux)")
        })?;
    }
    Ok((ImageJob { parts, root }, place))
}

/// The partitions of those names: different ones of one disk.
fn slots(system: &System, names: &[PartitionName]) -> Result<Vec<Slot>, InstallError> {
    let mut slots: Vec<Slot> = Vec::new();
    for name in names {
        let slot = slot::find(system, name)?;
        if let Some(first) = slots.first().filter(|first| first.disk != slot.disk) {
            return Err(InstallError::new(
                ErrorKind::Invalid,
                format!(
                    "{first} and {slot} are on different disks, {} and {}",
                    first.disk.display(),
                    slot.disk.display()
                ),
            )
            .with_hint("the boot looks for an image's partitions on one disk: name such"));
        }
        if slots.contains(&slot) {
            return Err(
                InstallError::new(ErrorKind::Invalid, format!("{slot} is named twice"))
                    .with_hint("file system, hash tree and signature need a partition each"),
            );
        }
        slots.push(slot);
    }
    Ok(slots)
}

fn root_hash(set: &BuiltSet) -> Result<Option<RootHash>, InstallError> {
    let text = set.manifest.root_hash.as_deref();
    text.map(RootHash::from_hex)
        .transpose()
        .map_err(|e| bad_set("build.json has an impossible root hash".into()).with_source(e))
}

/// The image as one partition: a bare file system, or a disk image.
fn whole(
    set: &BuiltSet,
    root: Option<RootHash>,
    slots: &[Slot],
    table: &Table,
) -> Result<(Vec<Piece>, Place), InstallError> {
    let wanted = Wanted {
        part_guid: root.map(|root| root.data_part_uuid()),
        ..Wanted::default()
    };
    let (place, named) = find_place(set, slots, table, wanted)?;
    let piece = Piece {
        role: None,
        offset: 0,
        size: set.manifest.image.size,
        wanted: named,
    };
    Ok((vec![piece], place))
}

/// The image's partitions as partitions.
fn spread(
    set: &BuiltSet,
    root: Option<RootHash>,
    slots: &[Slot],
    table: &Table,
) -> Result<(Vec<Piece>, Place), InstallError> {
    let Some(root) = root else {
        return Err(InstallError::new(
            ErrorKind::Invalid,
            "the image is a bare file system (--auth none), which is a single partition",
        )
        .with_hint("name one partition with --image-partitions"));
    };
    let path = set.path(&set.manifest.image);
    let source = FileSource::open(&path).map_err(|e| InstallError::io("open", &path, e))?;
    let refused = |e: &dyn std::error::Error| bad_set(format!("{}: {e}", path.display()));
    let image = Ddi::read(&source, Arch::NATIVE).map_err(|e| refused(&e))?;
    image.trees(&source, &root).map_err(|e| refused(&e))?;
    let entries = Table::read(&source, IMAGE_BLOCK).map_err(|e| refused(&e))?;
    let signature = image.signature.filter(|_| slots.len() > 2);
    match (slots.len(), signature.is_some()) {
        (2, _) if set.manifest.auth == "signed" => Err(InstallError::new(
            ErrorKind::Invalid,
            "the image is signed, but no partition is named for its signature",
        )
        .with_hint("name a third one: --image-partitions DATA,HASHES,SIGNATURE")),
        (2, _) | (3, true) => Ok(()),
        (3, false) => Err(InstallError::new(
            ErrorKind::Invalid,
            "a partition is named for a signature, but the image has none",
        )
        .with_hint("sign it with `initoverlayfs sign`, or name two partitions")),
        (count, _) => Err(InstallError::new(
            ErrorKind::Invalid,
            format!("an image has at most 3 partitions; {count} are named"),
        )),
    }?;

    let mut pieces = Vec::new();
    let mut place = None;
    for (role, part) in [
        (Role::Root, Some(image.root)),
        (Role::Verity, Some(image.verity)),
        (Role::Signature, signature),
    ] {
        let Some(part) = part else { continue };
        let entry = entries.partitions.iter().find(|e| e.number == part.number);
        let mut wanted = Wanted {
            type_guid: Some(Arch::NATIVE.type_guid(role)),
            attributes: entry.map(|entry| entry.attributes),
            part_guid: Some(part.part_guid),
        };
        if role == Role::Root {
            let (found, named) = find_place(set, slots, table, wanted)?;
            wanted = named;
            // The hash tree is looked for by this one's.
            wanted.part_guid = Some(root.data_part_uuid());
            if let Selector::TypeGuid(guid) = found.selector()? {
                wanted.type_guid = Some(guid);
            }
            place = Some(found);
        }
        pieces.push(Piece {
            role: Some(role),
            offset: part.start,
            size: part.len,
            wanted,
        });
    }
    let place = place.ok_or_else(|| bad_set("the image has no file system".into()))?;
    Ok((pieces, place))
}

/// The candidate of the plan that will find the first slot, and what that slot's
/// entry must be for it.
fn find_place(
    set: &BuiltSet,
    slots: &[Slot],
    table: &Table,
    wanted: Wanted,
) -> Result<(Place, Wanted), InstallError> {
    let slot = slots.first();
    let entry = slot.and_then(|slot| table.partitions.iter().find(|p| p.number == slot.number));
    let (Some(slot), Some(entry)) = (slot, entry) else {
        return Err(bad_set("no partition is named for the image".into()));
    };
    let several = slots.len() > 1;
    let mut reasons = Vec::new();
    for place in &set.manifest.candidates {
        if place.file.is_some() {
            reasons.push(format!("a file on {}", place.name));
            continue;
        }
        let selector = place.selector()?;
        let named = match &selector {
            Selector::PartUuid(guid) if wanted.part_guid == Some(*guid) => Some(wanted),
            Selector::PartUuid(guid) if several || *guid != entry.part_guid => None,
            Selector::PartLabel(label) if *label != entry.name => None,
            Selector::TypeGuid(guid) if !several && *guid != entry.type_guid => None,
            Selector::Pmem { .. } | Selector::Embedded => None,
            _ if several => Some(wanted),
            // All of the image in a partition that keeps its name.
            _ => Some(Wanted::default()),
        };
        match named {
            Some(named) => return Ok((place.clone(), named)),
            None => reasons.push(format!("the partition {selector}")),
        }
    }
    let guid = wanted.part_guid.unwrap_or(entry.part_guid);
    Err(InstallError::new(
        ErrorKind::PathMismatch,
        format!(
            "the plan would not find the image on {slot} (PARTUUID={guid} then, PARTLABEL={}): \
             it looks for {}",
            entry.name,
            reasons.join(" or ")
        ),
    )
    .with_hint(
        "build again with --image-on partition, or give the partition that label: \
         sfdisk --part-label DISK NUMBER NAME",
    ))
}

/// The work on one partition.
fn job(
    vfs: &dyn Vfs,
    path: &std::path::Path,
    slot: Slot,
    piece: &Piece,
    table: &Table,
) -> Result<PartitionJob, InstallError> {
    let before = table.partitions.iter().find(|p| p.number == slot.number);
    let before = before
        .cloned()
        .ok_or_else(|| bad_set(format!("{slot} is gone")))?;
    if slot.len < piece.size {
        return Err(InstallError::new(
            ErrorKind::NoSpace,
            format!(
                "{slot} has {} bytes; the image's {} takes {} ({} more)",
                slot.len,
                piece.role.map_or("file".into(), |role| role.to_string()),
                piece.size,
                piece.size - slot.len
            ),
        )
        .with_hint("name a larger partition, or build a smaller image"));
    }
    let fill = match piece.role {
        Some(Role::Signature) if slot.len > SIGNATURE_MAX => {
            return Err(InstallError::new(
                ErrorKind::Invalid,
                format!(
                    "{slot} has {} bytes, too many for a signature of {}",
                    slot.len, piece.size
                ),
            )
            .with_hint("is the order right? DATA,HASHES,SIGNATURE"));
        }
        Some(Role::Signature) => slot.len - piece.size,
        _ => 0,
    };
    if let Some(other) = table.partitions.iter().find(|other| {
        other.number != slot.number && Some(other.part_guid) == piece.wanted.part_guid
    }) {
        return Err(InstallError::new(
            ErrorKind::Conflict,
            format!(
                "partition {} of {} has PARTUUID={} already: this image is installed there",
                other.number,
                slot.disk.display(),
                other.part_guid
            ),
        )
        .with_hint("name that partition instead; no two may have the same PARTUUID"));
    }
    let read_failed = |e| InstallError::io("read", path, e);
    let mut source = window(path, piece.offset, piece.size).map_err(read_failed)?;
    let (_, sha256) = manifest::digest(&mut source).map_err(read_failed)?;
    let mut job = PartitionJob {
        slot,
        role: piece.role,
        from: path.into(),
        offset: piece.offset,
        size: piece.size,
        sha256,
        fill,
        before,
        wanted: piece.wanted,
        present: false,
    };
    job.present = job.is_named(&job.before) && same(vfs, &job)?;
    Ok(job)
}

/// Whether the partition holds what it shall.
fn same(vfs: &dyn Vfs, job: &PartitionJob) -> Result<bool, InstallError> {
    let failed = |e| InstallError::io("read", &job.slot.node, e);
    let source = vfs.partition(&job.slot).map_err(failed)?;
    let mut there = Reading::new(&*source, job.size);
    let (size, sha256) = manifest::digest(&mut there).map_err(failed)?;
    Ok((size, sha256) == (job.size, job.sha256.clone()))
}

/// Bytes of a file, to be read from first to last.
pub(crate) fn window(path: &std::path::Path, offset: u64, size: u64) -> io::Result<impl Read> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file.take(size))
}

/// The first bytes of a source, to be read from first to last.
pub(crate) struct Reading<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    end: u64,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(source: &'a dyn ReadAt, len: u64) -> Self {
        Self {
            source,
            at: 0,
            end: len,
        }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..len) else {
            return Ok(0);
        };
        self.source
            .read_at(self.at, buffer)
            .map_err(|e| io::Error::other(e.to_string()))?;
        self.at += len as u64;
        Ok(len)
    }
}

fn bad_set(why: String) -> InstallError {
    InstallError::new(ErrorKind::Set, why)
        .with_hint("make the set again with `initoverlayfs build`")
}
