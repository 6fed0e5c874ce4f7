//! Images as bytes, to be changed before they are booted.

use std::fs;
use std::ops::Range;
use std::path::Path;

use builder::{Auth, Candidate, Container, RootHash, Selector, Signer};
use ddi::{Arch, Ddi, Signature};
use iofs_gpt::types;
use iofs_source::crc32;
use iofs_verity::build::HashTree;
use iofs_verity::{Algorithm, Params};
use vmtest::disk::{self, Entry, Partition, fat};

use crate::support::{Boot, DISK, FILE, FIRST, Ground, Image, Seen, file_on};
use crate::volumes;

pub(crate) const NOT_FOUND: &str = "the init image was not found";

/// The end of every report of an image that was looked at.
pub(crate) const ADVICE: &str =
    "what to do: boot another entry or a rescue medium and run initoverlayfs install again";

/// Names in the directories that fill blocks of their own.
const MANY: usize = 200;

/// An image's bytes, and where its parts lie among them.
pub(crate) struct Anatomy {
    pub(crate) bytes: Vec<u8>,
    /// The file system.
    pub(crate) root: Range<usize>,
    /// Verity superblock and hash tree.
    pub(crate) verity: Range<usize>,
    /// The signature's partition; empty if there is none.
    pub(crate) signature: Range<usize>,
}

impl Anatomy {
    /// Reads an image.
    pub(crate) fn of(image: &Image) -> Self {
        let bytes = fs::read(&image.path).unwrap();
        let ddi = Ddi::read(&bytes[..], Arch::NATIVE).unwrap();
        let at = |offset| usize::try_from(offset).unwrap();
        let range = |part: &ddi::Part| at(part.start)..at(part.start + part.len);
        Self {
            root: range(&ddi.root),
            verity: range(&ddi.verity),
            signature: ddi.signature.as_ref().map_or(0..0, range),
            bytes,
        }
    }

    /// Flips a bit of a byte.
    pub(crate) fn flip(&mut self, at: usize) {
        self.bytes[at] ^= 1;
    }

    /// Where the file system has `what`, which it has once.
    pub(crate) fn find(&self, what: &[u8]) -> usize {
        let found: Vec<usize> = self.bytes[self.root.clone()]
            .windows(what.len())
            .enumerate()
            .filter(|(_, window)| *window == what)
            .map(|(at, _)| self.root.start + at)
            .collect();
        match found[..] {
            [at] => at,
            _ => panic!("{what:?} is at {found:?}"),
        }
    }

    /// The data block that a byte belongs to.
    pub(crate) fn data_block(&self, at: usize) -> usize {
        (at - self.root.start) / 4096
    }

    /// The signature in its partition.
    pub(crate) fn signature(&self) -> Signature {
        Signature::parse(&self.bytes[self.signature.clone()]).unwrap()
    }

    /// Puts another signature into its place.
    pub(crate) fn set_signature(&mut self, signature: &Signature) {
        let mut bytes = signature.encode();
        bytes.resize(self.signature.len(), 0);
        self.bytes[self.signature.clone()].copy_from_slice(&bytes);
    }

    /// Gives file system and tree the PARTUUIDs that follow from a root hash.
    pub(crate) fn set_part_guids(&mut self, root: &RootHash) {
        let guids = [root.data_part_uuid(), root.verity_part_uuid()];
        for (number, guid) in guids.iter().enumerate() {
            let at = ENTRIES + number * ENTRY + 16;
            self.bytes[at..at + 16].copy_from_slice(&guid.to_bytes_le());
        }
        self.seal_table();
    }

    /// Makes the checksums of the image's own primary partition table right.
    pub(crate) fn seal_table(&mut self) {
        const HEADER: usize = 512;
        let field = |bytes: &[u8], at: usize| {
            u32::from_le_bytes(bytes[HEADER + at..HEADER + at + 4].try_into().unwrap()) as usize
        };
        let entries = ENTRIES..ENTRIES + field(&self.bytes, 80) * field(&self.bytes, 84);
        let checksum = crc32(0, &self.bytes[entries]);
        self.bytes[HEADER + 88..HEADER + 92].copy_from_slice(&checksum.to_le_bytes());
        self.bytes[HEADER + 16..HEADER + 20].fill(0);
        let len = field(&self.bytes, 12);
        let checksum = crc32(0, &self.bytes[HEADER..HEADER + len]);
        self.bytes[HEADER + 16..HEADER + 20].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Where entries of a partition table lie, and their length: blocks of 512 bytes.
pub(crate) const ENTRIES: usize = 1024;
pub(crate) const ENTRY: usize = 128;

/// The usual file on a boot partition that is asked for by its GUID: when that
/// one was looked at there is nothing to wait for.
pub(crate) fn in_file() -> Candidate {
    file_on("boot", Selector::PartUuid(FIRST))
}

/// A boot from `image`, its bytes changed, in the usual file.
pub(crate) fn changed<'g>(
    ground: &'g Ground,
    image: &Image,
    auth: Auth,
    change: impl FnOnce(&mut Anatomy),
) -> Boot<'g> {
    let mut anatomy = Anatomy::of(image);
    change(&mut anatomy);
    let mut boot = Boot::trusting(ground, image, auth, &[in_file()]);
    let path = boot.path("changed");
    fs::write(&path, &anatomy.bytes).unwrap();
    boot.esp_with(&path, volumes::fat32);
    boot
}

/// Boots, and expects that storage-init refuses the image in the file, and says
/// `why` in exactly these words.
pub(crate) fn refuses(boot: &mut Boot<'_>, why: &str) -> Seen {
    let line = format!("seen: /dev/ubda1: {FILE} is not a trusted image: {why}");
    let seen = boot.fails(NOT_FOUND, &[&line, ADVICE]);
    // To the end of the line, and no device was made of it.
    let report = seen.report();
    assert!(report.iter().any(|seen| seen.trim() == line), "{report:#?}");
    seen.rejects("[stage proof]");
    seen
}

/// A change to an image, and what storage-init says of it.
pub(crate) struct Case<'a> {
    change: Box<dyn Fn(&mut Anatomy) + 'a>,
    why: String,
}

impl<'a> Case<'a> {
    /// `why` follows "is not a trusted image: " and reaches to the line's end.
    pub(crate) fn new(why: impl Into<String>, change: impl Fn(&mut Anatomy) + 'a) -> Self {
        Self {
            change: Box::new(change),
            why: why.into(),
        }
    }
}

/// One boot with a file for each case and a plan that would take any of them.
/// Expects that each is refused, in exactly these words.
pub(crate) fn refuses_all(ground: &Ground, image: &Image, auth: Auth, cases: &[Case<'_>]) -> Seen {
    let file = |index: usize| format!("EFI/{index}.img");
    let candidates: Vec<Candidate> = (0..cases.len())
        .map(|index| Candidate {
            file: Some(format!("/{}", file(index))),
            ..file_on(&format!("case-{index}"), Selector::PartUuid(FIRST))
        })
        .collect();
    let mut boot = Boot::trusting(ground, image, auth, &candidates);
    let mut entries = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let mut anatomy = Anatomy::of(image);
        (case.change)(&mut anatomy);
        let path = boot.path(&format!("changed{index}"));
        fs::write(&path, &anatomy.bytes).unwrap();
        entries.push(Entry::new(&file(index), &path));
    }
    let volume = boot.path("volume");
    fat::make(&volume, fat::Format::new(96 << 20), &entries).unwrap();
    boot.disk(&[Partition::esp(FIRST, &volume).unwrap()]);
    let seen = boot.fails(NOT_FOUND, &[ADVICE]);
    let report = seen.report();
    for (index, case) in cases.iter().enumerate() {
        let file = file(index);
        let line = format!(
            "seen: /dev/ubda1: /{file} is not a trusted image: {}",
            case.why
        );
        if !report.iter().any(|seen| seen.trim() == line) {
            seen.lacks(&format!("{line:?}"));
        }
    }
    seen.rejects("[stage proof]");
    seen
}

/// An image with directories that fill blocks of their own, sealed.
pub(crate) fn wide(ground: &Ground, name: &str, folder: &str) -> Image {
    ground.build_image_in(
        name,
        Container::default(),
        &|tree: &Path| {
            let folder = tree.join(folder);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..MANY {
                fs::create_dir(folder.join(entry_name(number))).unwrap();
            }
        },
        |request| request,
    )
}

pub(crate) fn entry_name(number: usize) -> String {
    format!("{number:03}-a-name-that-fills-the-block-of-a-directory")
}

/// The usual image in a container as the builder would not make it, signed by
/// `signer` if there is one. Its files are in `dir`.
pub(crate) fn contained(
    bare: &Image,
    blocks: (u32, u32),
    dir: &Path,
    signer: Option<&Signer>,
) -> Image {
    let (data_block, hash_block) = blocks;
    let mut bytes = fs::read(&bare.path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(data_block as usize), 0);
    let count = bytes.len() as u64 / u64::from(data_block);
    let salt = b"salt".to_vec();
    let params = Params::new(Algorithm::Sha256, data_block, hash_block, count, salt).unwrap();
    let tree = HashTree::build(&params, &bytes[..], |_| {}).unwrap();
    let mut partitions = Vec::new();
    let mut add = |name: &str, type_guid, guid, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        partitions.push(Partition::of(type_guid, guid, name, path).unwrap());
    };
    let root = tree.root;
    add("data", types::ROOT_X86_64, root.data_part_uuid(), &bytes);
    let hashes = tree.hash_device(&params, FIRST);
    let guid = root.verity_part_uuid();
    add("hashes", types::ROOT_X86_64_VERITY, guid, &hashes);
    if let Some(signer) = signer {
        let signature = signer.sign(&root).unwrap().encode();
        add(
            "signature",
            types::ROOT_X86_64_VERITY_SIG,
            FIRST,
            &signature,
        );
    }
    let path = dir.join("image");
    disk::make(&path, 512, DISK, &partitions).unwrap();
    Image {
        path,
        expect: bare.expect,
        root_hash: Some(root),
    }
}
