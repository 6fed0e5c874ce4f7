//! Disk images with a verity tree and a signature in them.

use std::sync::OnceLock;

use ddi::write::{Image, Options};
use ddi::{Arch, Ddi, DdiError, Part};
use iofs_source::{Limited, ReadAt, ReadError, ReadErrorKind};
use iofs_verity::{Fault, RootHash, Signature};

use crate::disks::{RESEAL, overlay, reseal_one};

/// Unit in which images are taken apart, in bytes.
const SECTOR: usize = 512;

/// What a partition table takes at an image's start, in bytes.
const TABLE: usize = 34 * SECTOR;

/// A signed image of which most is zero.
pub(crate) struct Sealed {
    bytes: Vec<u8>,
    /// The sectors that are not: their offsets, ascending.
    sectors: Vec<usize>,
    root: RootHash,
    found: Ddi,
}

pub(crate) fn sealed() -> Option<&'static Sealed> {
    static SEALED: OnceLock<Option<Sealed>> = OnceLock::new();
    SEALED.get_or_init(make).as_ref()
}

/// Three blocks that only have the superblock of a file system.
fn file_system() -> Vec<u8> {
    let mut bytes = vec![0; 3 * 4096];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(1024, &0xe0f5_e1e2u32.to_le_bytes());
    // Blocks of 2^12 bytes, three of them.
    put(1024 + 12, &[12]);
    put(1024 + 36, &3u32.to_le_bytes());
    put(1024 + 48, &[0x5e; 16]);
    put(4096, b"the second block");
    put(2 * 4096, b"the third block");
    bytes
}

fn make() -> Option<Sealed> {
    let erofs = file_system();
    let mut image = Image::new(&erofs, Options::new(Arch::X86_64), |_| {}).ok()?;
    let root = *image.root_hash();
    let signature = Signature {
        root,
        fingerprint: Some([0xf1; 32]),
        pkcs7: vec![0x30; 40],
    };
    image.sign(&signature).ok()?;
    let mut bytes = Vec::new();
    image.write(&mut bytes).ok()?;
    let filled = |sector: &&[u8]| sector.iter().any(|&byte| byte != 0);
    let sectors = bytes.chunks(SECTOR).enumerate();
    let sectors = sectors
        .filter(|(_, sector)| filled(sector))
        .map(|(number, _)| number * SECTOR)
        .collect();
    let found = Ddi::read(&bytes, Arch::X86_64).ok()?;
    Some(Sealed {
        bytes,
        sectors,
        root,
        found,
    })
}

impl Sealed {
    /// The input that is this image itself.
    pub(crate) fn input(&self, options: u8) -> Vec<u8> {
        let sectors = self.sectors.iter();
        let sectors = sectors.flat_map(|&at| self.bytes[at..at + SECTOR].iter().copied());
        core::iter::once(options).chain(sectors).collect()
    }

    /// Images that differ from this one in what no hash covers: each PARTUUID,
    /// and the root hash that the signature is of.
    pub(crate) fn near_misses(&self) -> Vec<Vec<u8>> {
        let entries = TABLE - 32 * SECTOR;
        let signature = self.found.signature.as_ref();
        let signature = signature.and_then(|part| usize::try_from(part.start).ok());
        // In the first two entries, the GUID's last byte; in the object, a digit.
        [entries + 31, entries + 128 + 31]
            .into_iter()
            .chain(signature.map(|start| start + 20))
            .filter_map(|at| {
                let sector = self
                    .sectors
                    .iter()
                    .position(|&start| start == at / SECTOR * SECTOR)?;
                let mut input = self.input(RESEAL);
                let byte = input.get_mut(1 + sector * SECTOR + at % SECTOR)?;
                *byte = if *byte == b'0' { b'1' } else { b'0' };
                Some(input)
            })
            .collect()
    }

    /// The bytes of a partition.
    fn part(&self, part: &Part) -> &[u8] {
        let bytes = usize::try_from(part.start)
            .ok()
            .and_then(|at| self.bytes.get(at..))
            .unwrap_or(&[]);
        &bytes[..bytes.len().min(usize::try_from(part.len).unwrap_or(0))]
    }

    /// What a superblock can make of the image without breaking the tree: a
    /// hash block can stand where data is expected, no byte can be another.
    fn check_accepted(&self, data: &[u8]) {
        let whole = data == self.part(&self.found.root);
        let level = data == &self.part(&self.found.verity)[4096..8192];
        assert!(whole || level, "other data than those that were sealed");
    }
}

/// The image with these sectors instead of its own.
struct Sparse<'a> {
    /// The partition table.
    front: Vec<u8>,
    /// Offsets and bytes of the sectors behind it.
    rest: Vec<(u64, &'a [u8])>,
    size: u64,
}

impl<'a> Sparse<'a> {
    fn new(sealed: &Sealed, input: &'a [u8]) -> Self {
        let mut front = vec![0; TABLE];
        let mut rest = Vec::new();
        for (&at, bytes) in sealed.sectors.iter().zip(input.chunks(SECTOR)) {
            match front.get_mut(at..at + bytes.len()) {
                Some(place) => place.copy_from_slice(bytes),
                None => rest.push((at as u64, bytes)),
            }
        }
        Self {
            front,
            rest,
            size: sealed.bytes.len() as u64,
        }
    }
}

impl ReadAt for Sparse<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            let kind = ReadErrorKind::OutOfBounds { size: self.size };
            return Err(ReadError { offset, len, kind });
        }
        buf.fill(0);
        overlay(buf, offset, &self.front, 0);
        for &(start, bytes) in &self.rest {
            overlay(buf, offset, bytes, start);
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Discoverable disk images.
///
/// Input: a byte whose high bit mends the checksums of the primary partition
/// table; then the sectors of a small signed image that are not zero in it.
///
/// Invariants:
/// * no panic, and what is read without hashing is bounded;
/// * partitions that are found are not empty, lie in the image and apart;
/// * no image is accepted for a root hash unless it holds the data that were
///   sealed with it (or the hash block over them), wherever its partition table
///   says that they are;
/// * one processor and all find the same; a fault lies inside the image;
/// * what is accepted has the PARTUUIDs of this root hash, and no signature or
///   one of it.
pub fn ddi(data: &[u8]) {
    let (Some((&options, sectors)), Some(sealed)) = (data.split_first(), sealed()) else {
        return;
    };
    let mut image = Sparse::new(sealed, sectors);
    if options & RESEAL != 0 {
        // What lies outside of these bytes stays as it is.
        let _ = reseal_one(&mut image.front, 0, SECTOR, SECTOR as u64);
    }
    // Two tables of the greatest size, read twice; a signature, a superblock.
    let limited = Limited::new(&image, 4 << 20);
    let found = match Ddi::read(&limited, Arch::X86_64) {
        Ok(found) => found,
        Err(error) => return refused(&error),
    };
    check(&found, image.size);
    let errors = [
        found.signature(&limited).err(),
        found.trees(&limited, &sealed.root).err(),
    ];
    errors.iter().flatten().for_each(refused);
    let result = found.verify(&image, &sealed.root, |_| {});
    assert_eq!(found.verify_all(&image, &sealed.root, |_| {}), result);
    match result {
        Ok(()) => accepted(sealed, &found, &image),
        Err(DdiError::Fault { bytes, fault }) => {
            drop(fault.to_string());
            let inside = bytes.is_some_and(|b| b.start < b.end && b.end <= image.size);
            assert!(inside && !matches!(fault, Fault::Read { .. }));
        }
        Err(error) => refused(&error),
    }
}

fn accepted(sealed: &Sealed, found: &Ddi, image: &Sparse<'_>) {
    let trees = match found.trees(image, &sealed.root) {
        Ok(trees) => trees,
        Err(error) => panic!("what was verified is not set up: {error}"),
    };
    let len = trees.superblock.params.data_len();
    let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
    assert_eq!(image.read_at(found.root.start, &mut data), Ok(()));
    sealed.check_accepted(&data);
    assert_eq!(found.root.part_guid, sealed.root.data_part_uuid());
    assert_eq!(found.verity.part_guid, sealed.root.verity_part_uuid());
    match found.signature(image) {
        Ok(Some(signature)) => assert_eq!(signature.root, sealed.root),
        Ok(None) => {}
        Err(error) => panic!("what was verified has a signature that is none: {error}"),
    }
}

fn check(found: &Ddi, size: u64) {
    let mut parts = vec![&found.root, &found.verity];
    parts.extend(&found.signature);
    parts.sort_by_key(|part| part.start);
    for part in &parts {
        assert!(part.len > 0 && part.number > 0);
        assert!(
            part.start
                .checked_add(part.len)
                .is_some_and(|end| end <= size)
        );
    }
    for pair in parts.windows(2) {
        assert!(pair[0].start + pair[0].len <= pair[1].start);
    }
}

fn refused(error: &DdiError) {
    let text = error.to_string();
    // The limit's message.
    assert!(!text.contains("would have to be read"), "{text}");
}
