//! Step 6 of the design: the block device that is exactly the image.
//!
//! A partition is used as it is. A file becomes a loop device over the part of
//! its partition that the file spans: read-only, direct I/O (so its blocks are
//! cached once), claiming nothing, so that the partition can be mounted later.
//! If the file is in several extents, device-mapper puts them in order on top.
//! The loop device begins at the file and not at the partition: a copy of the
//! whole ESP with the same file system UUID would let udev point
//! `/dev/disk/by-uuid` at it.
//!
//! An image in the mini-initramfs has its loop device over the file itself, without
//! direct I/O, which neither ramfs nor tmpfs knows. One in memory that is used where
//! it lies has dm-linear alone, which passes DAX on.
//!
//! dm-verity comes on top. File system and hash tree may be one device below it,
//! so one loop device does for a disk image in a file in one piece.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_plan::{Auth, OnCorruption, RootHash};
use iofs_source::{Extent, FileMap};
use iofs_verity::{Superblock, Target as Verity};
use kernel_abi::dm::{Mapped, Mapper, SECTOR, Target};
use kernel_abi::keys::Keyring;
use kernel_abi::loopdev::{self, Loop};
use kernel_abi::{AsFd, Errno, block, file};

use crate::image::{Found, Place};
use crate::log::Log;
use crate::memory;
use crate::modules::Loader;
use crate::report::Failure;
use crate::settings::Settings;
use crate::trust::Proof;

/// The name of the mapped device that the image is mounted from.
pub const NAME: &str = "initoverlayfs-image";

/// The name of the mapped device that puts the extents of a file in order, where
/// dm-verity stands on it.
const FILE_NAME: &str = "initoverlayfs-file";

/// Begins the names of the mapped devices of extensions.
const EXTENSION_NAME: &str = "initoverlayfs-ext";

/// The kernel's keyring of those who may sign root hashes (from Linux 7.0).
const VERITY_KEYRING: &str = ".dm-verity";

/// Where a kernel that can check the signatures of root hashes shows whether it
/// insists on them (`CONFIG_DM_VERITY_VERIFY_ROOTHASH_SIG`).
const CHECKS_SIGNATURES: &str = "/sys/module/dm_verity/parameters/require_signatures";

/// The image as a block device.
#[derive(Debug, Default)]
pub struct ImageDevice {
    /// Its path.
    pub path: String,
    /// What it stands on, one upon the other, for messages.
    pub layers: Vec<String>,
    /// The loop device below it, held until the mount holds it.
    pub loop_device: Option<Loop>,
    /// The mapped devices, each on those before it, and what made them.
    pub mapped: Vec<Mapped>,
    /// What the kernel made of the root hash's signature, if it was asked.
    pub vouched: Option<bool>,
    mapper: Option<Mapper>,
    /// Whether the loop device's blocks are cached once.
    direct_io: bool,
    /// What the mapped device is to be called that is mounted, and the one that puts
    /// extents in order below it.
    names: [String; 2],
}

impl ImageDevice {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let Some((top, below)) = self.layers.split_last() else {
            return self.path.clone();
        };
        if self.mapped.is_empty() {
            let how = if self.direct_io { ", direct I/O" } else { "" };
            return format!("{} (loop{how})", self.path);
        }
        let mut text = format!("{} ({top}", self.path);
        for layer in below.iter().rev() {
            text.push_str(" over ");
            text.push_str(layer);
        }
        text.push(')');
        text
    }

    /// Whether the device was made for the image, and is no disk's or partition's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.mapped.is_empty() || self.loop_device.is_some()
    }

    /// Lets the mapped devices go as soon as nobody uses them any more: at once,
    /// or when what is mounted from them is unmounted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn release(&self) -> kernel_abi::Result<()> {
        let Some(mapper) = &self.mapper else {
            return Ok(());
        };
        // From the top: one that is in use would only be marked. One that fails
        // does not keep those below.
        let mut result = Ok(());
        for mapped in self.mapped.iter().rev() {
            result = result.and(mapper.remove_deferred(&mapped.name));
        }
        result
    }

    fn map(
        &mut self,
        name: &str,
        uuid: &str,
        table: &[Target],
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> kernel_abi::Result<()> {
        if self.mapper.is_none() {
            if !file::exists("/dev/mapper/control") {
                modules.load_named("dm_mod", log);
            }
            self.mapper = Some(Mapper::open()?);
        }
        let Some(mapper) = &self.mapper else {
            return Ok(());
        };
        let mapped = mapper.create(name, uuid, table)?;
        self.path.clone_from(&mapped.path);
        self.mapped.push(mapped);
        Ok(())
    }
}

/// Builds it. On failure nothing is left behind.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn build(
    found: &Found,
    settings: &Settings,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<ImageDevice, Failure> {
    let mut device = ImageDevice {
        names: [NAME, FILE_NAME].map(|base| name(base, found)),
        ..ImageDevice::default()
    };
    let result = match &found.proof {
        None => bare(&mut device, found, modules, log),
        Some(proof) => {
            let signature = proof.signature.as_ref();
            proven(
                &mut device,
                found,
                proof,
                signature,
                Some(settings),
                modules,
                log,
            )
        }
    };
    whole(device, result)
}

/// Builds the device of an extension image, which is a file with a proof and the
/// `number`-th of them. Unless `ask`, the kernel is not asked about its signature
/// (it did not know its signer before). On failure nothing is left behind.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn build_extension(
    found: &Found,
    proof: &Proof,
    number: usize,
    ask: bool,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<ImageDevice, Failure> {
    let name = format!("{EXTENSION_NAME}-{number}");
    let mut device = ImageDevice {
        names: [name.clone(), format!("{name}-file")],
        ..ImageDevice::default()
    };
    let signature = proof.signature.as_ref().filter(|_| ask || insists());
    let result = proven(&mut device, found, proof, signature, None, modules, log);
    whole(device, result)
}

/// The device, unless something about it failed.
fn whole(device: ImageDevice, result: Result<(), Failure>) -> Result<ImageDevice, Failure> {
    match result {
        Ok(()) => Ok(device),
        Err(failure) => {
            // What failed first is what has to be said.
            let _ = device.release();
            Err(failure)
        }
    }
}

/// The file system itself, for plans that trust anything.
fn bare(
    device: &mut ImageDevice,
    found: &Found,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(), Failure> {
    let Place::File(map) = &found.place else {
        found.device.path().clone_into(&mut device.path);
        return Ok(());
    };
    // All of it: a prefetch list lies behind the file system.
    let extents = range(map, 0, map.size);
    let start = attach(device, found, &extents, modules, log)?;
    if extents.len() > 1 {
        linear(device, 0, found, &extents, start, modules, log)?;
    }
    Ok(())
}

/// A mapped device's name. Those of an image that was given up may still be on
/// their way out: the kernel removes them behind the last unmount.
fn name(base: &str, found: &Found) -> String {
    match found.attempt {
        0 => base.into(),
        attempt => format!("{base}-{attempt}"),
    }
}

/// Where file system and hash tree are, for the kernel.
struct Below {
    data: String,
    hashes: String,
    /// Where the tree starts on the hash device, in hash blocks.
    tree_start: u64,
}

/// dm-verity over whatever has the image; without `settings` it is an extension.
fn proven(
    device: &mut ImageDevice,
    found: &Found,
    proof: &Proof,
    signature: Option<&Vec<u8>>,
    settings: Option<&Settings>,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(), Failure> {
    // Of an image, every block was hashed before. An extension is not in its memory.
    if settings.is_some() && memory::wants_dax(&found.candidate) {
        let len = proof.trees.superblock.params.data_len();
        let map = identity(found.part.entry.len)?;
        let data = range(&map, proof.ddi.root.start, len);
        found.device.path().clone_into(&mut device.path);
        return linear(device, 0, found, &data, 0, modules, log);
    }
    let below = below(device, found, proof, modules, log)?;
    let superblock = &proof.trees.superblock;
    let key = format!("initoverlayfs:{}", superblock.uuid);
    let mut target = Verity {
        data_device: &below.data,
        hash_device: &below.hashes,
        hash_start: below.tree_start,
        params: &superblock.params,
        root: &proof.trees.root,
        // A machine does not stop for want of an extension.
        on_corruption: settings.map_or(OnCorruption::Error, |chosen| chosen.plan.on_corruption),
        signature_key: None,
        check_at_most_once: false,
    };
    if !file::exists("/sys/module/dm_verity") {
        modules.load_named("dm_verity", log);
    }
    let [name, _] = device.names.clone();
    let uuid = uuid(superblock, &name);
    if let Some(settings) = settings {
        trust_signers(settings, log);
    }
    let signature = signature.filter(|_| file::exists(CHECKS_SIGNATURES));
    // It would check the signature first and then look for the signer: as much work
    // as all else that is done for an image.
    let is_stranger = |id: &&str| !insists() && !knows(id);
    let signer = signature.and(proof.signer_id.as_deref());
    if let Some(id) = signer.filter(is_stranger) {
        device.vouched = Some(false);
        log.info(format_args!(
            "the kernel does not vouch for the root hash's signature: it has no key {id}"
        ));
    } else if let Some(signature) = signature {
        target.signature_key = Some(&key);
        let result = Keyring::PROCESS
            .add("user", &key, signature)
            .map_err(Failure::from)
            .and_then(|()| verity(device, &name, &uuid, &target, modules, log));
        match result {
            Ok(()) => {
                device.vouched = Some(true);
                log.info(format_args!(
                    "the kernel has checked the root hash's signature too"
                ));
                return Ok(());
            }
            // Whoever signed is not in one of its keyrings, or it has none for
            // this. It refuses the next try too if it wants a signature.
            Err(failure) => {
                device.vouched = Some(false);
                log.info(format_args!(
                    "the kernel does not vouch for the root hash's signature: {}",
                    failure.what()
                ));
            }
        }
        target.signature_key = None;
    }
    verity(device, &name, &uuid, &target, modules, log).map_err(|failure| {
        failure.advise(
            "the kernel's log above says what dm-verity did not like; a kernel with \
             dm_verity.require_signatures=1 wants a signer from its own keyrings",
        )
    })
}

/// Whether the kernel takes no root hash whose signer it does not know.
fn insists() -> bool {
    file::read_line(CHECKS_SIGNATURES).is_ok_and(|value| value != "N")
}

/// Whether the kernel has a key that is described by `id`, as far as that can be told.
fn knows(id: &str) -> bool {
    Keyring::any_has(id).unwrap_or(true)
}

/// Puts the plan's certificates into the kernel's keyring for root hashes and
/// closes it, so that nobody can add another one. Kernels before 7.0 do not have
/// it; one that is closed already is left alone.
fn trust_signers(settings: &Settings, log: &mut Log) {
    let plan = &settings.plan;
    let signed = match &plan.auth {
        Auth::Signed(signed) => signed.certificates.as_slice(),
        Auth::Sealed(_) | Auth::None => &[],
    };
    let extensions = plan.extensions.iter();
    let extensions = extensions.flat_map(|extensions| &extensions.certificates);
    let mut certificates = signed.iter().chain(extensions).peekable();
    if certificates.peek().is_none() {
        return;
    }
    let Ok(Some(keyring)) = Keyring::find(VERITY_KEYRING) else {
        return;
    };
    for certificate in certificates {
        match keyring.add("asymmetric", "", certificate) {
            Ok(()) => {}
            Err(error) if error.errno() == Errno::PERM => {
                log.debug(format_args!("{VERITY_KEYRING} is closed"));
                return;
            }
            Err(error) => log.warn(format_args!("{VERITY_KEYRING}: {error}")),
        }
    }
    match keyring.seal(VERITY_KEYRING) {
        Ok(()) => log.info(format_args!(
            "the plan's certificates are in the kernel's keyring {VERITY_KEYRING}, now closed"
        )),
        Err(error) => log.warn(format_args!("{error}")),
    }
}

/// dm-verity over a file system and its hash tree on two devices of their own.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn verified(
    device: &mut ImageDevice,
    name: &str,
    [data, hashes]: [&str; 2],
    superblock: &Superblock,
    root: &RootHash,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(), Failure> {
    let (data, hashes) = (number(data)?, number(hashes)?);
    let target = Verity {
        data_device: &data,
        hash_device: &hashes,
        hash_start: superblock.params.tree_start(),
        params: &superblock.params,
        root,
        on_corruption: OnCorruption::Error,
        signature_key: None,
        check_at_most_once: false,
    };
    verity(device, name, &uuid(superblock, name), &target, modules, log)
}

/// What veritysetup, lsblk and udev know a verity device by.
fn uuid(superblock: &Superblock, name: &str) -> String {
    format!("CRYPT-VERITY-{}-{name}", superblock.uuid.simple())
}

fn verity(
    device: &mut ImageDevice,
    name: &str,
    uuid: &str,
    target: &Verity<'_>,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(), Failure> {
    let params = target
        .arguments()
        .map_err(|error| Failure::new(format_args!("{error}")))?;
    let table = [Target {
        start: 0,
        len: target.sectors(),
        kind: Verity::NAME.into(),
        params,
    }];
    device.map(name, uuid, &table, modules, log)?;
    device.layers.push(match target.on_corruption {
        OnCorruption::Error => "dm-verity".into(),
        OnCorruption::Restart => "dm-verity, restart on corruption".into(),
        OnCorruption::Panic => "dm-verity, panic on corruption".into(),
    });
    Ok(())
}

/// The devices below dm-verity.
fn below(
    device: &mut ImageDevice,
    found: &Found,
    proof: &Proof,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<Below, Failure> {
    let params = &proof.trees.superblock.params;
    let tree_start = params.tree_start();
    let whole;
    let map = match &found.place {
        Place::Partitions { hashes } => {
            return Ok(Below {
                data: number(found.device.path())?,
                hashes: number(&format!("/dev/{}", hashes.name))?,
                tree_start,
            });
        }
        Place::File(map) => map,
        Place::Partition | Place::Disk => {
            whole = identity(found.part.entry.len)?;
            &whole
        }
    };
    let hash_block = u64::from(params.hash_block_size());
    let tree_end = params
        .geometry(tree_start)
        .map_err(|error| Failure::new(format_args!("{error}")))?
        .end();
    let data = range(map, proof.ddi.root.start, params.data_len());
    let hashes = range(map, proof.ddi.verity.start, tree_end);
    let in_file = matches!(found.place, Place::File(_));
    if let (true, Some(distance)) = (in_file, in_one_piece(&data, &hashes, hash_block)) {
        let piece = [Extent {
            logical: 0,
            physical: data.first().map_or(0, |extent| extent.physical),
            len: distance.saturating_add(tree_end),
        }];
        attach(device, found, &piece, modules, log)?;
        let both = number(&device.path)?;
        return Ok(Below {
            data: both.clone(),
            hashes: both,
            tree_start: (distance / hash_block).saturating_add(tree_start),
        });
    }
    let data_len = params.data_len();
    if data_len % hash_block != 0 {
        return Err(Failure::new(format_args!(
            "an image of {data_len} bytes with hash blocks of {hash_block} bytes cannot be \
             used from a file in several pieces"
        ))
        .advise("make the image with hash blocks no larger than its data blocks"));
    }
    let mut extents = data;
    extents.extend(hashes.iter().map(|extent| Extent {
        logical: extent.logical.saturating_add(data_len),
        ..*extent
    }));
    let start = if in_file {
        attach(device, found, &extents, modules, log)?
    } else {
        found.device.path().clone_into(&mut device.path);
        0
    };
    linear(device, 1, found, &extents, start, modules, log)?;
    let both = number(&device.path)?;
    Ok(Below {
        data: both.clone(),
        hashes: both,
        tree_start: (data_len / hash_block).saturating_add(tree_start),
    })
}

/// How far behind the file system's start the hash device's is, if both are in
/// one piece, in this order, at a distance of whole hash blocks.
fn in_one_piece(data: &[Extent], hashes: &[Extent], hash_block: u64) -> Option<u64> {
    let ([data], [hashes]) = (data, hashes) else {
        return None;
    };
    let distance = hashes.physical.checked_sub(data.physical)?;
    (distance >= data.len && distance % hash_block == 0).then_some(distance)
}

/// A whole partition as a file in one piece.
fn identity(len: u64) -> Result<FileMap, Failure> {
    memory::one_piece(len).map_err(|error| Failure::new(format_args!("{error}")))
}

/// `MAJOR:MINOR` of a device.
fn number(path: &str) -> kernel_abi::Result<String> {
    block::device_number(path).map(|(major, minor)| format!("{major}:{minor}"))
}

/// Attaches a loop device over the part of the partition that has all extents.
/// Returns where on the partition it starts.
fn attach(
    device: &mut ImageDevice,
    found: &Found,
    extents: &[Extent],
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<u64, Failure> {
    let (start, end) = span(extents);
    let block_size = found.part.block_size;
    // Disk images are laid out for blocks of 512 bytes, and could be put on
    // disks with larger ones.
    if start % u64::from(block_size) != 0 {
        return Err(Failure::new(format_args!(
            "the image's parts do not start at blocks of its disk ({block_size} bytes)"
        ))
        .advise("make the image with its partitions aligned to 4096 bytes"));
    }
    if !file::exists("/dev/loop-control") {
        modules.load_named("loop", log);
    }
    let lower = loopdev::attach(
        found.device.as_fd(),
        found.device.path(),
        start,
        end.saturating_sub(start),
        block_size,
    )?;
    device.path.clone_from(&lower.path);
    device.layers.push(lower.path.clone());
    device.loop_device = Some(lower);
    device.direct_io = !found.part.is_embedded();
    Ok(start)
}

/// Puts extents in order on top of the device that is there, which begins at
/// `start` of the partition.
fn linear(
    device: &mut ImageDevice,
    nth_name: usize,
    found: &Found,
    extents: &[Extent],
    start: u64,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(), Failure> {
    let table = linear_table(extents, start, &number(&device.path)?);
    let name = device.names.get(nth_name).cloned().unwrap_or_default();
    let uuid = format!("{name}-{}", found.uuid);
    device.map(&name, &uuid, &table, modules, log)?;
    device.layers.push("dm-linear".into());
    Ok(())
}

/// The extents of `len` bytes from `start` of a file, counted from there. The
/// last one ends at a whole sector: what lies behind in the file is not mapped.
pub(crate) fn range(map: &FileMap, start: u64, len: u64) -> Vec<Extent> {
    let end = start.saturating_add(len.next_multiple_of(SECTOR));
    map.extents
        .iter()
        .filter_map(|extent| {
            let from = extent.logical.max(start);
            let to = extent.logical.saturating_add(extent.len).min(end);
            let len = to.checked_sub(from).filter(|&len| len > 0)?;
            Some(Extent {
                logical: from - start,
                physical: extent.physical.saturating_add(from - extent.logical),
                len,
            })
        })
        .collect()
}

/// The least range of the volume that holds all extents, as start and end.
fn span(extents: &[Extent]) -> (u64, u64) {
    let start = extents.iter().map(|extent| extent.physical).min();
    let end = extents
        .iter()
        .map(|extent| extent.physical.saturating_add(extent.len))
        .max();
    (start.unwrap_or(0), end.unwrap_or(0))
}

/// A dm-linear table of the extents on a device that begins at `start`.
fn linear_table(extents: &[Extent], start: u64, device: &str) -> Vec<Target> {
    extents
        .iter()
        .map(|extent| Target {
            start: extent.logical / SECTOR,
            len: extent.len / SECTOR,
            kind: "linear".into(),
            params: format!(
                "{device} {}",
                extent.physical.saturating_sub(start) / SECTOR
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn map(size: u64, runs: &[(u64, u64)]) -> FileMap {
        let mut map = FileMap {
            size,
            extents: vec![],
        };
        for &(physical, len) in runs {
            map.push(physical, len).unwrap();
        }
        map
    }

    #[test]
    fn a_table_has_the_file_in_order_relative_to_its_span() {
        let map = map(20_000, &[(65_536, 8192), (8192, 8192), (131_072, 4096)]);
        let extents = range(&map, 0, 16_384 + 1024);
        let (start, end) = span(&extents);
        assert_eq!((start, end), (8192, 131_072 + 1024));
        let table = linear_table(&extents, start, "7:3");
        let lines: Vec<_> = table
            .iter()
            .map(|t| format!("{} {} {} {}", t.start, t.len, t.kind, t.params))
            .collect();
        assert_eq!(
            lines,
            [
                "0 16 linear 7:3 112",
                "16 16 linear 7:3 0",
                "32 2 linear 7:3 240"
            ]
        );
    }

    #[test]
    fn what_follows_the_file_system_is_not_mapped() {
        let map = map(12_288, &[(4096, 4096), (16_384, 4096), (32_768, 4096)]);
        let extents = range(&map, 0, 8192);
        assert_eq!(extents.len(), 2);
        assert_eq!(span(&extents), (4096, 20_480));
    }

    #[test]
    fn a_part_of_a_file_is_cut_out_of_its_extents() {
        let map = map(24_576, &[(65_536, 8192), (8192, 16_384)]);
        let extents = range(&map, 4096, 8192);
        let parts: Vec<_> = extents
            .iter()
            .map(|extent| (extent.logical, extent.physical, extent.len))
            .collect();
        assert_eq!(parts, [(0, 69_632, 4096), (4096, 8192, 4096)]);
        assert!(range(&map, 24_576, 4096).is_empty());
        assert!(range(&map, u64::MAX, 4096).is_empty());
    }

    #[test]
    fn one_piece_is_told_from_several() {
        let extent = |physical, len| Extent {
            logical: 0,
            physical,
            len,
        };
        let piece = |data: &[Extent], hashes: &[Extent]| in_one_piece(data, hashes, 4096);
        let data = [extent(8192, 4096)];
        assert_eq!(piece(&data, &[extent(16_384, 4096)]), Some(8192));
        assert_eq!(piece(&data, &[extent(12_288, 4096)]), Some(4096));
        // Before the data, over it, not in whole blocks, in several extents.
        assert_eq!(piece(&data, &[extent(4096, 4096)]), None);
        assert_eq!(piece(&[extent(8192, 8192)], &[extent(12_288, 4096)]), None);
        assert_eq!(piece(&data, &[extent(16_896, 4096)]), None);
        assert_eq!(piece(&data, &[extent(16_384, 512), extent(0, 512)]), None);
        assert_eq!(piece(&data, &[]), None);
    }
}
