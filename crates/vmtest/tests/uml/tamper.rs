//! One byte of an image that is not what was proven: refused by name and place,
//! or an error where it is first read.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use builder::{Auth, Candidate, Container, KeyType, OnCorruption, Selector};
use ddi::{Arch, Ddi};
use iofs_gpt::types;
use iofs_source::crc32;
use iofs_verity::build::HashTree;
use iofs_verity::{Algorithm, Params};
use libtest_mimic::Failed;
use vmtest::disk::{self, Partition};
use vmtest::uml::UmlExit;

use crate::Test;
use crate::support::{
    Boot, DISK, FILE, FIRST, Ground, Image, Seen, TYPE, file_on, noise, partition_at,
};
use crate::trust::{Key, by_root_hash, signed_image, taken_apart};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("tamper_file_system_superblock", erofs_superblock),
    Test::new("tamper_directory", directory),
    Test::new("tamper_root_directory", root_directory),
    Test::new("tamper_data_at_first_use", data),
    Test::new("tamper_data_panics_if_the_plan_says_so", data_panics),
    Test::new("tamper_data_restarts_if_the_plan_says_so", data_restarts),
    Test::new("tamper_verity_superblock", verity_superblock),
    Test::new("tamper_verity_data_blocks", verity_data_blocks),
    Test::new("tamper_hash_tree_above_the_first_block", tree_refused),
    Test::new("tamper_hash_tree_elsewhere", tree_at_use),
    Test::new("tamper_signature", signature),
    Test::new("tamper_table_of_the_image", own_table),
    Test::new("tamper_table_with_right_checksums", own_table_forged),
    Test::new("tamper_table_of_the_disk", disk_table),
];

pub(crate) const NOT_FOUND: &str = "the init image was not found";

/// The end of every report of an image that was looked at.
const ADVICE: &str =
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
        let range = |part: &ddi::Part| part.start as usize..(part.start + part.len) as usize;
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

    /// Makes the checksums of the image's own primary partition table right.
    fn seal_table(&mut self) {
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
const ENTRIES: usize = 1024;
const ENTRY: usize = 128;

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

/// An image with directories that fill blocks of their own, sealed.
fn wide(ground: &Ground, name: &str, folder: &str) -> Image {
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

fn entry_name(number: usize) -> String {
    format!("{number:03}-a-name-that-fills-the-block-of-a-directory")
}

fn erofs_superblock(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let root = Anatomy::of(image).root.start;
    // Magic, checksum, UUID; each at its offset in the superblock at 1024.
    for field in [0, 4, 48] {
        let mut boot = changed(ground, image, image.sealed(), |anatomy| {
            anatomy.flip(anatomy.root.start + 1024 + field);
        });
        refuses(
            &mut boot,
            &format!(
                "bytes {root} to {} of the image: data block 0 (bytes 0 to 4096 of the data \
                 device) does not have the digest in the hash tree",
                root + 4096
            ),
        );
    }
    Ok(())
}

/// testinit is told to use what is damaged, and gets an error. Returns the lines.
fn error_at_use(boot: &mut Boot<'_>, word: &str) -> Seen {
    let seen = boot
        .words(&format!("{word} testinit.stat=/init"))
        .run();
    seen.rejects("BOOT FAILED");
    seen.expects("[stage proof] root hash ");
    assert_eq!(
        seen.facts("failed"),
        [format!("{word}: input/output error (EIO)")],
        "\n{}",
        seen.outcome.text()
    );
    // What is not damaged can be used.
    seen.expects("TESTINIT /init: ");
    seen.expects("TESTINIT end");
    seen
}

fn directory(ground: &Ground) -> Result<(), Failed> {
    let image = wide(ground, "wide", "many");
    let mut block = 0;
    let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
        let at = anatomy.find(entry_name(7).as_bytes());
        block = anatomy.data_block(at);
        anatomy.flip(at);
    });
    assert_ne!(block, 0);
    let seen = error_at_use(&mut boot, "testinit.list=/many");
    seen.expects(&format!("data block {block} is corrupted"));
    Ok(())
}

/// storage-init itself is the first to use it.
fn root_directory(ground: &Ground) -> Result<(), Failed> {
    let image = wide(ground, "wide-root", "");
    let mut block = 0;
    let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
        let at = anatomy.find(b"bootdevetcinit");
        block = anatomy.data_block(at);
        anatomy.flip(at);
    });
    assert_ne!(block, 0);
    boot.fails("the image on /dev/dm-0 cannot be read", &["EIO"])
        .expects(&format!("data block {block} is corrupted"));
    Ok(())
}

/// A byte in the middle of `/data`.
fn flip_data(anatomy: &mut Anatomy) -> usize {
    let data = noise(2 << 20, 1);
    let at = anatomy.find(&data[1 << 20..(1 << 20) + 64]);
    anatomy.flip(at);
    anatomy.data_block(at)
}

fn data(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut block = 0;
    let mut boot = changed(ground, image, image.sealed(), |anatomy| {
        block = flip_data(anatomy);
    });
    let seen = error_at_use(&mut boot, "testinit.sum=/data");
    seen.expects(&format!("data block {block} is corrupted"));
    Ok(())
}

fn data_panics(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = changed(ground, image, image.sealed(), |anatomy| {
        flip_data(anatomy);
    });
    boot.mini.on_corruption = OnCorruption::Panic;
    boot.words("testinit.sum=/data");
    let outcome = boot.prepare().run(Duration::from_secs(40))?;
    let seen = Seen { outcome };
    assert_eq!(seen.outcome.exit, UmlExit::Panicked);
    seen.expects_in_order(&[
        "dm-verity, panic on corruption",
        "TESTINIT stage: first",
        "is corrupted",
        "Kernel panic - not syncing: dm-verity device corrupted",
    ]);
    seen.rejects("TESTINIT /data");
    Ok(())
}

/// User-mode-linux restarts by executing itself.
fn data_restarts(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = changed(ground, image, image.sealed(), |anatomy| {
        flip_data(anatomy);
    });
    boot.mini.on_corruption = OnCorruption::Restart;
    boot.words("testinit.sum=/data");
    let mut starts = 0;
    let outcome = boot.prepare().run_until(
        "a second start",
        Duration::from_secs(40),
        |line| {
            starts += usize::from(line.text.contains("Linux version"));
            starts == 2
        },
    )?;
    let seen = Seen { outcome };
    assert_eq!(seen.outcome.exit, UmlExit::Stopped);
    seen.expects_in_order(&[
        "dm-verity, restart on corruption",
        "TESTINIT stage: first",
        "is corrupted",
        "reboot: Restarting system",
    ]);
    seen.rejects("TESTINIT /data");
    Ok(())
}

/// What is said of a hash block that a root hash or a level above refuses.
fn hash_block(verity: usize, size: usize, index: usize, level: usize, top: bool) -> String {
    let (from, to) = (index * size, (index + 1) * size);
    let image = (verity + from, verity + to);
    let why = if top {
        "does not have the root hash: this block, the superblock's salt or the root hash was \
         changed"
            .to_owned()
    } else {
        format!("does not have the digest in level {}", level + 1)
    };
    format!(
        "bytes {} to {} of the image: block 0 of level {level} of the hash tree (bytes {from} to \
         {to} of the hash device) {why}",
        image.0, image.1
    )
}

fn verity_superblock(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let verity = Anatomy::of(image).verity.start;
    let bytes = format!("bytes {verity} to {} of the image: ", verity + 512);
    let uuid = image.root_hash.unwrap().verity_part_uuid();
    let mut other = *uuid.as_bytes();
    other[3] ^= 1;
    let other = builder::Uuid::from_bytes(other);
    let superblock = |what: &str| format!("{bytes}the verity superblock {what}");
    let cases = [
        (
            0,
            format!(
                "{bytes}there is no verity superblock (it would begin with \"verity\" and two NULs)"
            ),
        ),
        (8, superblock("has version 0, not 1")),
        (12, superblock("has hash type 0, not 1")),
        (16 + 3, superblock(&format!("has the UUID {other} instead of {uuid}"))),
        (
            32,
            superblock("names the hash function \"rha256\", which is neither sha256 nor sha512"),
        ),
        (
            64,
            superblock(
                "cannot be: a data block size of 4097 bytes is not a power of two from 512 to 65536",
            ),
        ),
        (
            68,
            superblock(
                "cannot be: a hash block size of 4097 bytes is not a power of two from 512 to 65536",
            ),
        ),
        // One byte more of the salt than there is: a NUL.
        (80, String::new()),
        (88, hash_block(verity, 4096, 1, 1, true)),
        (300, format!("{bytes}byte 300 of the verity superblock, which is padding, is not zero")),
    ];
    for (at, why) in cases {
        let mut boot = changed(ground, image, image.sealed(), |anatomy| {
            anatomy.flip(verity + at);
        });
        let why = if why.is_empty() {
            hash_block(verity, 4096, 1, 1, true)
        } else {
            why
        };
        refuses(&mut boot, &why);
    }
    Ok(())
}

/// More blocks than there are, and fewer.
fn verity_data_blocks(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let anatomy = Anatomy::of(image);
    let at = anatomy.verity.start + 72;
    let count = u64::from_le_bytes(anatomy.bytes[at..at + 8].try_into()?);
    let change = |count: u64| {
        changed(ground, image, image.sealed(), move |anatomy| {
            anatomy.bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        })
    };
    refuses(
        &mut change(count + 1),
        &format!(
            "the data device has {} bytes, but by the verity superblock it takes {}; it is \
             truncated, or the superblock was changed",
            count * 4096,
            (count + 1) * 4096
        ),
    );
    let line = format!(
        "seen: /dev/ubda1: {FILE} is truncated: its file system has {} bytes, but only {} are \
         there; copy it again",
        image.expect.size,
        (count - 1) * 4096
    );
    change(count - 1).fails(NOT_FOUND, &[&line, ADVICE]);
    Ok(())
}

/// The usual image in a container as the builder would not make it: the hash
/// blocks so small that the tree has three levels.
fn three_levels(ground: &Ground, boot_dir: &Path) -> Image {
    let bare = ground.image();
    let bytes = fs::read(&bare.path).unwrap();
    let params = Params::new(
        Algorithm::Sha256,
        4096,
        512,
        bytes.len() as u64 / 4096,
        b"salt".to_vec(),
    )
    .unwrap();
    assert_eq!(params.data_len(), bytes.len() as u64);
    assert_eq!(params.geometry(1).unwrap().levels().len(), 3);
    let tree = HashTree::build(&params, &bytes[..], |_| {}).unwrap();
    let hashes = boot_dir.join("hashes");
    fs::write(&hashes, tree.hash_device(&params, FIRST)).unwrap();
    let path = boot_dir.join("three-levels");
    let part = |type_guid, guid, content: &Path| {
        Partition::of(type_guid, guid, "part", content).unwrap()
    };
    let partitions = [
        part(types::ROOT_X86_64, tree.root.data_part_uuid(), &bare.path),
        part(
            types::ROOT_X86_64_VERITY,
            tree.root.verity_part_uuid(),
            &hashes,
        ),
    ];
    disk::make(&path, 512, DISK, &partitions).unwrap();
    Image {
        path,
        expect: bare.expect,
        root_hash: Some(tree.root),
    }
}

/// A hash block of the image with three levels: number `index` of `level`, where
/// it is on the hash device, in blocks.
fn node(blocks: usize, level: u32, index: usize) -> usize {
    let count = |level: u32| blocks.div_ceil(16_usize.pow(level + 1));
    let above: usize = (level + 1..3).map(count).sum();
    1 + above + index
}

fn tree_refused(ground: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let image = three_levels(ground, dir.path());
    // As it is, it boots.
    let seen = changed(ground, &image, image.sealed(), |_| {})
        .words("testinit.sum=/data")
        .succeeds();
    seen.data_is_intact();
    for level in 0..3 {
        let mut why = String::new();
        let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
            let node = node(anatomy.root.len() / 4096, level, 0);
            let verity = anatomy.verity.start;
            why = hash_block(verity, 512, node, level as usize, level == 2);
            // The last byte: not the digest that leads to the first block.
            anatomy.flip(verity + node * 512 + 511);
        });
        refuses(&mut boot, &why);
    }
    Ok(())
}

/// Hash blocks that storage-init has no need of.
fn tree_at_use(ground: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let image = three_levels(ground, dir.path());
    for level in 0..2 {
        let mut block = 0;
        let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
            let per_node = 16_usize.pow(level + 1);
            // The first that has digests of nothing but `/data`.
            let noise = noise(2 << 20, 1);
            let begin = anatomy.data_block(anatomy.find(&noise[4096..4160]));
            let index = begin.div_ceil(per_node);
            let end = anatomy.data_block(anatomy.find(&noise[(2 << 20) - 8192..][..64]));
            assert!((index + 1) * per_node <= end, "{begin} to {end}");
            block = node(anatomy.root.len() / 4096, level, index);
            anatomy.flip(anatomy.verity.start + block * 512);
        });
        let seen = error_at_use(&mut boot, "testinit.sum=/data");
        seen.expects(": metadata block ");
        seen.expects(" is corrupted");
    }
    Ok(())
}

/// Where a member's value begins in the signature's JSON.
fn member(anatomy: &Anatomy, name: &str) -> usize {
    let text = String::from_utf8_lossy(&anatomy.bytes[anatomy.signature.clone()]).into_owned();
    let key = format!("\"{name}\":\"");
    anatomy.signature.start + text.find(&key).unwrap() + key.len()
}

/// Another digit in the place of one.
fn change_digit(anatomy: &mut Anatomy, at: usize) {
    anatomy.bytes[at] = match anatomy.bytes[at] {
        b'0' => b'1',
        _ => b'0',
    };
}

fn signature(ground: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for (name, key_type) in [("tamper-p256", KeyType::P256), ("tamper-rsa", KeyType::Rsa(2048))] {
        let key = Key::new(dir.path(), name, key_type);
        let image = signed_image(ground, name, &key, "1");
        // The last digits are of the signature's value, whatever the key.
        let mut boot = changed(ground, &image, key.trusted(), |anatomy| {
            let begin = member(anatomy, "signature");
            let len = anatomy.bytes[begin..].iter().position(|&b| b == b'"').unwrap();
            let at = begin + len - 12;
            anatomy.bytes[at] = if anatomy.bytes[at] == b'A' { b'B' } else { b'A' };
        });
        let seen = boot.fails(
            NOT_FOUND,
            &["is not a trusted image: the signature of its root hash does not hold: the signature by "],
        );
        seen.expects("does not fit: content or signature were changed, or another key made it");
        if name == "tamper-rsa" {
            continue;
        }
        let mut boot = changed(ground, &image, key.trusted(), |anatomy| {
            let at = member(anatomy, "certificateFingerprint");
            change_digit(anatomy, at + 20);
        });
        refuses(
            &mut boot,
            &format!(
                "its signature names a certificate with another fingerprint than that of \
                 CN={name}, which made it"
            ),
        );
        let mut boot = changed(ground, &image, key.trusted(), |anatomy| {
            let at = member(anatomy, "rootHash");
            change_digit(anatomy, at + 40);
        });
        boot.fails(
            NOT_FOUND,
            &["is not a trusted image: the signature of its root hash does not hold: the signature by "],
        );
        // Sealed: nobody asks who signed, but it is not another image's.
        let root = image.root_hash.unwrap();
        let mut other = root.to_hex();
        let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
            let at = member(anatomy, "rootHash");
            change_digit(anatomy, at);
            other = String::from_utf8_lossy(&anatomy.bytes[at..at + 64]).into_owned();
        });
        refuses(
            &mut boot,
            &format!("the image's signature is of the root hash {other}, not of {root}"),
        );
    }
    Ok(())
}

/// Not the backup is taken instead: who changes one byte can change more.
fn own_table(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    for (at, why) in [
        (
            ENTRIES + 16,
            "the checksum of the entry array at block 2 does not match",
        ),
        (
            512 + 56,
            "the checksum of the header in block 1 does not match",
        ),
        (512, "no EFI PART in block 1"),
    ] {
        let mut boot = changed(ground, image, image.sealed(), |anatomy| anatomy.flip(at));
        refuses(
            &mut boot,
            &format!("the image's primary GPT is damaged: {why}; write the image anew"),
        );
    }
    Ok(())
}

fn own_table_forged(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let root = image.root_hash.unwrap();
    let forged = |change: &dyn Fn(&mut Anatomy)| {
        changed(ground, image, image.sealed(), |anatomy| {
            change(anatomy);
            anatomy.seal_table();
        })
    };
    for (number, role, right) in [
        (0, "root", root.data_part_uuid()),
        (1, "root-verity", root.verity_part_uuid()),
    ] {
        let mut wrong = *right.as_bytes();
        wrong[15] ^= 1;
        let wrong = builder::Uuid::from_bytes(wrong);
        refuses(
            &mut forged(&|anatomy| anatomy.flip(ENTRIES + number * ENTRY + 31)),
            &format!(
                "the {role} partition has the PARTUUID {wrong}, but by the root hash it is \
                 {right}: this is another image, or its GPT was changed"
            ),
        );
    }
    // Another type: no partition of an image any more.
    refuses(
        &mut forged(&|anatomy| anatomy.flip(ENTRIES + ENTRY + 15)),
        &format!(
            "the image has no root-verity partition for x86-64 (type {})",
            types::ROOT_X86_64_VERITY
        ),
    );
    // It begins 8 blocks later.
    let start = Anatomy::of(image).root.start + 4096;
    refuses(
        &mut forged(&|anatomy| anatomy.bytes[ENTRIES + 32] ^= 8),
        &format!(
            "the data device has {} bytes, but by the verity superblock it takes {}; it is \
             truncated, or the superblock was changed",
            Anatomy::of(image).root.len() - 4096,
            Anatomy::of(image).root.len()
        ),
    );
    let _ = start;
    Ok(())
}

/// The image in partitions: a disk's table that leads elsewhere.
fn disk_table(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let root = image.root_hash.unwrap();
    let boot = |candidate: Candidate, change: &dyn Fn(&mut [Partition])| {
        let mut boot = Boot::trusting(ground, image, image.sealed(), &[candidate]);
        let mut parts = taken_apart(&boot, image);
        change(&mut parts);
        boot.disk(&parts);
        boot.words("initoverlayfs.timeout=1");
        boot
    };
    // The file system's: it is not the one that was asked for.
    boot(by_root_hash(image), &|parts| parts[0].guid = FIRST).fails(
        NOT_FOUND,
        &[
            &format!("awaited: the image PARTUUID={} (partition)", root.data_part_uuid()),
            &format!("ubda1 \"root-x86-64\" (root-x86-64, PARTUUID={FIRST})"),
            "what to do: no partition is the one that was awaited",
        ],
    );
    // Found by its type all the same: not the one that the root hash is of.
    let by_type = partition_at("root", Selector::TypeGuid(types::ROOT_X86_64));
    boot(by_type, &|parts| parts[0].guid = FIRST).fails(
        NOT_FOUND,
        &[&format!(
            "seen: /dev/ubda1: the partition is not a trusted image: the root partition has the \
             PARTUUID {FIRST}, but by the root hash it is {}: this is another image, or its GPT \
             was changed",
            root.data_part_uuid()
        )],
    );
    // The hash tree's GUID, or its type.
    let missing = format!(
        "seen: /dev/ubda1: the partition is not a trusted image: no root-verity partition on ubda \
         has PARTUUID={}",
        root.verity_part_uuid()
    );
    boot(by_root_hash(image), &|parts| parts[1].guid = FIRST).fails(NOT_FOUND, &[&missing]);
    boot(by_root_hash(image), &|parts| parts[1].type_guid = TYPE).fails(NOT_FOUND, &[&missing]);
    // File system and tree of another image under the right GUIDs.
    let other = wide(ground, "other-parts", "other");
    let swapped = |parts: &mut [Partition], boot: &Boot<'_>| {
        for (part, from) in parts.iter_mut().zip(taken_apart(boot, &other)) {
            part.content = from.content;
            part.size = part.size.max(from.size);
        }
    };
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[by_root_hash(image)]);
    let mut parts = taken_apart(&boot, image);
    swapped(&mut parts, &boot);
    boot.disk(&parts);
    boot.fails(
        NOT_FOUND,
        &["does not have the root hash: this block, the superblock's salt or the root hash was changed"],
    );
    Ok(())
}
