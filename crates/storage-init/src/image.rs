//! Step 4, one candidate on one partition: is the image there, whole, and the
//! one that the plan trusts?
//!
//! No file system is mounted for that. FAT and ext4 are read by the format
//! crates, which are safe Rust and bounded, and all that comes out is where the
//! file's bytes lie.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use ddi::{Ddi, Role, Signature};
use iofs_erofs::Superblock;
use iofs_ext4::Ext4;
use iofs_fat::Fat;
use iofs_plan::{Candidate, Expect, Selector, Uuid};
use iofs_source::{FileMap, Limited, Mapped, ReadAt, Window};
use kernel_abi::block::Device;

use crate::disks::{Inventory, Part, open_partition};
use crate::kernel_mount;
use crate::log::Log;
use crate::memory;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::report::join;
use crate::trust::{ARCH, Proof, Trust};

/// How much metadata of a boot partition may be read to find one file, in
/// bytes. A FAT32 allocation table of 2 TiB has 256 MiB, of which a file's chain
/// touches a small part.
pub(crate) const METADATA_LIMIT: u64 = 64 << 20;

/// How many signature partitions of a disk are looked at: each generation of an
/// image has one.
const MAX_SIGNATURES: usize = 16;

/// What is said of a file system where a disk image is awaited.
const BARE: &str = "it is a bare EROFS file system without a hash tree, and the boot plan wants a \
                    disk image that proves itself";

/// An image that was found.
#[derive(Debug)]
pub struct Found {
    /// The candidate that led to it.
    pub candidate: Candidate,
    /// The partition that it is on.
    pub part: Part,
    /// That partition, open; or the image's file, where only the kernel knows
    /// where that lies.
    pub device: Device,
    /// Where on the partition it lies.
    pub place: Place,
    /// Its EROFS UUID.
    pub uuid: Uuid,
    /// The size of its file system in bytes.
    pub size: u64,
    /// Why it is trusted; `None` where the plan trusts anything.
    pub proof: Option<Proof>,
    /// How many were found before it and could not be used.
    pub attempt: u32,
}

/// Where on its partition an image lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is the partition: a bare file system.
    Partition,
    /// It is the partition, or memory: a disk image (DDI) with partitions of its own.
    Disk,
    /// The file system is the partition, the hash tree another one.
    Partitions {
        /// The hash tree's.
        hashes: Part,
    },
    /// In a file, or in the mini-initramfs, as which `device` is open then.
    File(FileMap),
}

impl Found {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let size = self.size >> 10;
        let device = self.part.device();
        match (&self.place, &self.candidate.file) {
            (Place::File(map), Some(path)) => format!(
                "{path} on {device}, {size} KiB in {} extent{}",
                map.extents.len(),
                if map.extents.len() == 1 { "" } else { "s" }
            ),
            (Place::Partitions { hashes }, _) => {
                format!("{device}, {size} KiB, hash tree on {}", hashes.device())
            }
            _ => format!("{device}, {size} KiB"),
        }
    }
}

/// Where candidates are looked at, and whom to trust.
#[derive(Debug)]
pub struct Examiner<'a> {
    /// The disks.
    pub inventory: &'a Inventory,
    /// What the plan trusts.
    pub trust: &'a Trust,
    /// Where the kernel shows itself.
    pub paths: &'a Paths,
    /// The file systems that the kernel may mount to find a file.
    pub kernel_mounts: &'a [String],
    /// What [`Found::attempt`] is to be.
    pub attempt: u32,
}

impl Examiner<'_> {
    /// Looks at a candidate on a partition that its selector means.
    ///
    /// # Errors
    /// Why it is not the image, as a sentence without the partition's name.
    pub fn examine(
        &self,
        candidate: &Candidate,
        part: &Part,
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> Result<Found, String> {
        let mut device = open_partition(part, self.paths)?;
        let (place, (mut proof, Expect { uuid, size })) = match &candidate.file {
            Some(path) => {
                let map = match locate(&device, path) {
                    Ok(map) => map,
                    Err(Unread::NoFile(why)) => return Err(why),
                    Err(Unread::NoVolume(why)) => {
                        let kind = kernel_mount::kind(&device).ok_or(why)?;
                        let allowed = self.kernel_mounts;
                        let (file, map) =
                            kernel_mount::locate(device, kind, path, allowed, modules, log)?;
                        device = file;
                        map
                    }
                };
                map.check(device.size(), part.block_size.into())
                    .map_err(|error| format!("{path}: {error}"))?;
                let result = self.whole(&Mapped::new(&device, &map), candidate.expect, path)?;
                (Place::File(map), result)
            }
            None if part.is_embedded() => (
                Place::File(memory::one_piece(device.size())?),
                self.whole(&device, candidate.expect, "the file")?,
            ),
            None if matches!(self.trust, Trust::Anything) => (
                Place::Partition,
                self.whole(&device, candidate.expect, "the partition")?,
            ),
            None if matches!(candidate.partition, Selector::Pmem { .. }) => (
                Place::Disk,
                self.whole(&device, candidate.expect, "the memory")?,
            ),
            None if has_table(&device) => (
                Place::Disk,
                self.whole(&device, candidate.expect, "the partition")?,
            ),
            None => self.spread(part, candidate.expect)?,
        };
        if let Some(proof) = proof.as_mut().filter(|_| memory::wants_dax(candidate)) {
            memory::prove(&device, proof)?;
        }
        Ok(Found {
            candidate: candidate.clone(),
            part: part.clone(),
            device,
            place,
            uuid,
            size,
            proof,
            attempt: self.attempt,
        })
    }

    /// An image that is all of `source`: a bare file system if anything is
    /// trusted, else a disk image.
    fn whole(
        &self,
        source: &dyn ReadAt,
        expect: Expect,
        what: &str,
    ) -> Result<(Option<Proof>, Expect), String> {
        if let Trust::Anything = self.trust {
            return Ok((None, check(source, expect, what)?));
        }
        let (proof, found) = prove(source, self.trust, expect, what)?;
        Ok((Some(proof), found))
    }

    /// An image whose file system is `part`, with hash tree and signature on
    /// other partitions of its disk.
    fn spread(
        &self,
        part: &Part,
        expect: Expect,
    ) -> Result<(Place, (Option<Proof>, Expect)), String> {
        let what = "the partition";
        let refused = |why: String| format!("{what} is not a trusted image: {why}");
        let disk = Device::open(&format!("{}/{}", self.paths.dev, part.disk))
            .map_err(|error| format!("{error}"))?;
        let guid = part.entry.part_guid;
        let signed = self.signature_for(guid, &part.disk, &disk);
        let root = match (self.trust, &signed) {
            (Trust::Sealed(root), _) => *root,
            (_, Some((_, signature))) => signature.root,
            _ => {
                return Err(refused(format!(
                    "no {} partition on {} signs PARTUUID={guid}",
                    Role::Signature,
                    part.disk
                )));
            }
        };
        let hashes = self
            .inventory
            .of_type(&part.disk, ARCH.type_guid(Role::Verity), self.paths)
            .into_iter()
            .find(|hashes| hashes.entry.part_guid == root.verity_part_uuid())
            .ok_or_else(|| {
                refused(format!(
                    "no {} partition on {} has PARTUUID={}",
                    Role::Verity,
                    part.disk,
                    root.verity_part_uuid()
                ))
            })?;
        let ddi = Ddi {
            arch: ARCH,
            disk_guid: Uuid::nil(),
            root: as_part(part),
            verity: as_part(&hashes),
            signature: signed.map(|(part, _)| as_part(&part)),
        };
        let proof = Proof::find(&disk, ddi, self.trust).map_err(refused)?;
        let found = proven(&proof, expect, what)?;
        Ok((Place::Partitions { hashes }, (Some(proof), found)))
    }

    /// The signature of the image whose file system has this PARTUUID. One that
    /// cannot be read is another image's as far as anybody can tell.
    fn signature_for(&self, guid: Uuid, disk: &str, source: &Device) -> Option<(Part, Signature)> {
        self.inventory
            .of_type(disk, ARCH.type_guid(Role::Signature), self.paths)
            .into_iter()
            .take(MAX_SIGNATURES)
            .find_map(|part| {
                let window = Window::new(source, part.entry.start, part.entry.len).ok()?;
                let signature = Signature::read(&window).ok()?;
                (signature.root.data_part_uuid() == guid).then_some((part, signature))
            })
    }
}

/// Proves a disk image that is all of `source`, and reads what its file system is.
///
/// # Errors
/// Why it is not trusted, as a sentence.
pub fn prove(
    source: &dyn ReadAt,
    trust: &Trust,
    expect: Expect,
    what: &str,
) -> Result<(Proof, Expect), String> {
    let ddi = parts(source, what)?;
    prove_parts(source, ddi, trust, expect, what)
}

/// Where in a disk image the parts of an image are. Nothing is proven by that.
///
/// # Errors
/// Why there are none, as a sentence.
pub fn parts(source: &dyn ReadAt, what: &str) -> Result<Ddi, String> {
    Ddi::read(source, ARCH).map_err(|error| {
        let why = match Superblock::read(source) {
            Ok(_) => BARE.into(),
            Err(_) => error.to_string(),
        };
        refused(what, &why)
    })
}

/// Proves the image that these parts of `source` are.
///
/// # Errors
/// Why it is not trusted, as a sentence.
pub fn prove_parts(
    source: &dyn ReadAt,
    ddi: Ddi,
    trust: &Trust,
    expect: Expect,
    what: &str,
) -> Result<(Proof, Expect), String> {
    let proof = Proof::find(source, ddi, trust).map_err(|why| refused(what, &why))?;
    let found = proven(&proof, expect, what)?;
    Ok((proof, found))
}

fn refused(what: &str, why: &str) -> String {
    format!("{what} is not a trusted image: {why}")
}

/// Reads the superblock of a proven image, from the bytes that were proven.
fn proven(proof: &Proof, expect: Expect, what: &str) -> Result<Expect, String> {
    let superblock = Superblock::read(&proof.start).map_err(|error| not_erofs(what, &error))?;
    // The kernel would open them by the names that the image gives, and
    // nothing would prove what is on them.
    if superblock.extra_devices != 0 {
        return Err(format!(
            "{what} has parts of its file system on {} other devices, which no hash tree covers",
            superblock.extra_devices
        ));
    }
    check(&proof.start, expect, what)
}

/// A partition of the disk as one of an image that is the disk.
fn as_part(part: &Part) -> ddi::Part {
    ddi::Part {
        number: part.entry.number,
        start: part.entry.start,
        len: part.entry.len,
        part_guid: part.entry.part_guid,
    }
}

/// Whether a partition begins with a partition table of its own, written for
/// blocks of either size.
fn has_table(device: &Device) -> bool {
    let mut magic = [0; 8];
    [512, 4096]
        .iter()
        .any(|&at| device.read_at(at, &mut magic).is_ok() && &magic == b"EFI PART")
}

/// Why a file was not found.
enum Unread {
    /// The partition has no such file system.
    NoVolume(String),
    /// It has one, and the file is not on it or cannot be used.
    NoFile(String),
}

/// Finds a file on a FAT or ext4 partition.
fn locate(device: &Device, path: &str) -> Result<FileMap, Unread> {
    let limited = Limited::new(device, METADATA_LIMIT);
    if is_ext4(device) {
        Ext4::open(&limited)
            .and_then(|volume| volume.locate(path))
            .map_err(|error| Unread::NoFile(format!("ext4: {error}")))
    } else {
        Fat::open(&limited)
            .map_err(|error| Unread::NoVolume(format!("FAT: {error}")))?
            .locate(path)
            .map_err(|error| Unread::NoFile(format!("FAT: {error}")))
    }
}

/// The magic of ext2, ext3 and ext4, at 0x38 of the superblock at 1024.
pub(crate) fn is_ext4(device: &Device) -> bool {
    let mut magic = [0; 2];
    device.read_at(1024 + 0x38, &mut magic).is_ok() && magic == [0x53, 0xef]
}

fn not_erofs(what: &str, error: &dyn fmt::Display) -> String {
    format!("{what} is not an EROFS image: {error}")
}

/// Reads the image's superblock and compares it with what the plan expects.
/// Returns what it is.
fn check(image: &dyn ReadAt, expect: Expect, what: &str) -> Result<Expect, String> {
    let superblock = Superblock::read(image).map_err(|error| not_erofs(what, &error))?;
    let (uuid, size) = (superblock.uuid, superblock.size_bytes());
    if size > image.size() {
        return Err(format!(
            "{what} is truncated: its file system has {size} bytes, but only {} are there; \
             copy it again",
            image.size()
        ));
    }
    let mut differences = Vec::new();
    if !expect.uuid.is_nil() && uuid != expect.uuid {
        differences.push(format!("UUID {uuid} instead of {}", expect.uuid));
    }
    if expect.size != 0 && size != expect.size {
        differences.push(format!("{size} bytes instead of {}", expect.size));
    }
    if differences.is_empty() {
        Ok(Expect { uuid, size })
    } else {
        Err(format!(
            "{what} is not the image that this boot plan was built with: {}; install both \
             from one build",
            join(&mut differences.into_iter(), ", ")
        ))
    }
}
