//! One byte of an image that is not what was proven: refused by name and place,
//! or an error where it is first read.

use std::path::Path;
use std::time::Duration;

use builder::{Candidate, KeyType, OnCorruption, Selector, Uuid};
use iofs_gpt::types;
use libtest_mimic::Failed;
use vmtest::disk::Partition;
use vmtest::uml::UmlExit;

use crate::Test;
use crate::anatomy::{
    ADVICE, Anatomy, Case, ENTRIES, ENTRY, NOT_FOUND, changed, contained, entry_name, refuses_all,
    wide,
};
use crate::support::{Boot, FILE, FIRST, Ground, Image, Seen, TYPE, noise, partition_at};
use crate::trust::{Key, by_root_hash, signed_image, taken_apart};

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

/// What is said where block 0 of the file system, which begins at `root`, was
/// changed.
pub(crate) fn first_block(root: usize) -> String {
    format!(
        "bytes {root} to {} of the image: data block 0 (bytes 0 to 4096 of the data device) does \
         not have the digest in the hash tree",
        root + 4096
    )
}

fn erofs_superblock(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let root = Anatomy::of(image).root.start;
    // Magic, checksum, root inode, UUID, and what is before the superblock.
    let cases: Vec<Case<'_>> = [1024, 1024 + 4, 1024 + 14, 1024 + 48, 0]
        .map(|at| Case::new(first_block(root), move |image| image.flip(root + at)))
        .into();
    refuses_all(ground, image, image.sealed(), &cases);
    Ok(())
}

/// testinit is told to do `verb` with a path that is damaged, and gets an error.
fn error_at_use(boot: &mut Boot<'_>, verb: &str, path: &str) -> Seen {
    let word = format!("testinit.{verb}={path}");
    let seen = boot.words(&format!("{word} testinit.stat=/init")).run();
    seen.rejects("BOOT FAILED");
    seen.expects("[stage proof] root hash ");
    let failed = seen.fact("failed");
    let end = format!("ing {path}: input/output error (EIO)");
    assert!(
        failed.starts_with(&format!("{word}: ")) && failed.ends_with(&end),
        "{failed}"
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
    let seen = error_at_use(&mut boot, "list", "/many");
    seen.expects(&format!("data block {block} is corrupted"));
    Ok(())
}

/// storage-init itself is the first to use it: every look-up starts with the
/// block in the middle.
fn root_directory(ground: &Ground) -> Result<(), Failed> {
    let image = wide(ground, "wide-root", "");
    let mut block = 0;
    let mut boot = changed(ground, &image, image.sealed(), |anatomy| {
        let at = anatomy.find(entry_name(100).as_bytes());
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
    let seen = error_at_use(&mut boot, "sum", "/data");
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
    let outcome = boot
        .prepare()
        .run_until("a second start", Duration::from_secs(40), |line| {
            starts += usize::from(line.text.contains("Linux version"));
            starts == 2
        })?;
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
    let other = Uuid::from_bytes(other);
    let superblock = |what: &str| format!("{bytes}the verity superblock {what}");
    let root_hash = hash_block(verity, 4096, 1, 1, true);
    let size = |of| {
        format!(
            "cannot be: a {of} block size of 4097 bytes is not a power of two from 512 to 65536"
        )
    };
    let padding = "of the verity superblock, which is padding, is not zero";
    let cases: Vec<Case<'_>> = [
        (
            0,
            format!(
                "{bytes}there is no verity superblock (it would begin with \"verity\" and two \
                 NULs)"
            ),
        ),
        (8, superblock("has version 0, not 1")),
        (12, superblock("has hash type 0, not 1")),
        (
            16 + 3,
            superblock(&format!("has the UUID {other} instead of {uuid}")),
        ),
        (
            32,
            superblock("names the hash function \"rha256\", which is neither sha256 nor sha512"),
        ),
        (64, superblock(&size("data"))),
        (68, superblock(&size("hash"))),
        // The salt's length, and the salt.
        (80, root_hash.clone()),
        (88, root_hash),
        (84, format!("{bytes}byte 84 {padding}")),
        (300, format!("{bytes}byte 300 {padding}")),
    ]
    .map(|(at, why)| Case::new(why, move |image| image.flip(verity + at)))
    .into();
    refuses_all(ground, image, image.sealed(), &cases);
    Ok(())
}

/// More blocks than there are, and fewer.
fn verity_data_blocks(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let anatomy = Anatomy::of(image);
    let at = anatomy.verity.start + 72;
    let count = u64::from_le_bytes(anatomy.bytes[at..at + 8].try_into()?);
    let set = |count: u64| {
        move |image: &mut Anatomy| image.bytes[at..at + 8].copy_from_slice(&count.to_le_bytes())
    };
    let more = |count: u64| {
        let why = format!(
            "the data device has {} bytes, but by the verity superblock it takes {}; it is \
             truncated, or the superblock was changed",
            anatomy.root.len(),
            count * 4096
        );
        Case::new(why, set(count))
    };
    let cases = [more(count + 1), more(count * 100)];
    refuses_all(ground, image, image.sealed(), &cases);
    let line = format!(
        "seen: /dev/ubda1: {FILE} is truncated: its file system has {} bytes, but only {} are \
         there; copy it again",
        image.expect.size,
        (count - 1) * 4096
    );
    changed(ground, image, image.sealed(), set(count - 1)).fails(NOT_FOUND, &[&line, ADVICE]);
    Ok(())
}

/// Hash blocks so small that the tree has three levels.
fn three_levels(ground: &Ground, dir: &Path) -> Image {
    contained(ground.image(), (4096, 512), dir, None)
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
    let anatomy = Anatomy::of(&image);
    let verity = anatomy.verity.start;
    let cases: Vec<Case<'_>> = [0, 1, 2]
        .map(|level| {
            let node = node(anatomy.root.len() / 4096, level, 0);
            let why = hash_block(verity, 512, node, level as usize, level == 2);
            // The last byte: not of the digest that leads to the first block.
            Case::new(why, move |image| image.flip(verity + node * 512 + 511))
        })
        .into();
    refuses_all(ground, &image, image.sealed(), &cases);
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
            let node = node(anatomy.root.len() / 4096, level, index);
            anatomy.flip(anatomy.verity.start + node * 512);
            // The kernel's device begins where the file system does.
            block = (anatomy.verity.start - anatomy.root.start) / 512 + node;
        });
        let seen = error_at_use(&mut boot, "sum", "/data");
        seen.expects(&format!("metadata block {block} is corrupted"));
    }
    Ok(())
}

/// Where a member's value begins in the signature's JSON.
fn member(anatomy: &Anatomy, name: &str) -> usize {
    let text = String::from_utf8_lossy(&anatomy.bytes[anatomy.signature.clone()]).into_owned();
    let key = format!("\"{name}\":\"");
    anatomy.signature.start + text.find(&key).unwrap() + key.len()
}

/// Changes a digit of a member's value. Returns the value.
fn change_digit(image: &mut Anatomy, name: &str, digit: usize) -> String {
    let begin = member(image, name);
    let len = image.bytes[begin..].iter().position(|&byte| byte == b'"');
    let value = &mut image.bytes[begin..begin + len.unwrap()];
    // Digits in hexadecimal and base64.
    value[digit] = if value[digit] == b'0' { b'1' } else { b'0' };
    String::from_utf8_lossy(value).into_owned()
}

fn signature(ground: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for (name, key_type) in [
        ("tamper-p256", KeyType::P256),
        ("tamper-rsa", KeyType::Rsa(2048)),
    ] {
        let key = Key::new(dir.path(), name, key_type);
        let image = signed_image(ground, name, &key, "1");
        let does_not_fit = format!(
            "the signature of its root hash does not hold: the signature by {} does not fit: \
             content or signature were changed, or another key made it",
            key.signer.certificate().parsed().id()
        );
        let cases = [
            // The last digits are of the signature's value, whatever the key.
            Case::new(does_not_fit.clone(), |image| {
                let digits = image.signature().pkcs7.len().div_ceil(3) * 4;
                change_digit(image, "signature", digits - 12);
            }),
            Case::new(does_not_fit, |image| {
                change_digit(image, "rootHash", 40);
            }),
            Case::new(
                format!(
                    "its signature names a certificate with another fingerprint than that of \
                     CN={name}, which made it"
                ),
                |image| {
                    change_digit(image, "certificateFingerprint", 20);
                },
            ),
        ];
        refuses_all(ground, &image, key.trusted(), &cases);
        // Sealed: nobody asks who signed, but it is not another image's.
        let root = image.root_hash.unwrap();
        let other = change_digit(&mut Anatomy::of(&image), "rootHash", 0);
        let cases = [Case::new(
            format!("the image's signature is of the root hash {other}, not of {root}"),
            |image| {
                change_digit(image, "rootHash", 0);
            },
        )];
        refuses_all(ground, &image, image.sealed(), &cases);
    }
    Ok(())
}

/// The backup is not taken instead: who changes one byte can change more.
fn own_table(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let cases: Vec<Case<'_>> = [
        (
            ENTRIES + 16,
            "the checksum of the entry array at block 2 does not match",
        ),
        (
            512 + 56,
            "the checksum of the header in block 1 does not match",
        ),
        (512, "no EFI PART in block 1"),
    ]
    .map(|(at, why)| {
        let why = format!("the image's primary GPT is damaged: {why}; write the image anew");
        Case::new(why, move |image| image.flip(at))
    })
    .into();
    refuses_all(ground, image, image.sealed(), &cases);
    Ok(())
}

fn own_table_forged(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let root = image.root_hash.unwrap();
    let forged = |at: usize, bit: u8, why: String| {
        Case::new(why, move |image| {
            image.bytes[at] ^= bit;
            image.seal_table();
        })
    };
    let guid = |number: usize, role: &str, right: Uuid| {
        let mut wrong = *right.as_bytes();
        wrong[15] ^= 1;
        let why = format!(
            "the {role} partition has the PARTUUID {}, but by the root hash it is {right}: this \
             is another image, or its GPT was changed",
            Uuid::from_bytes(wrong)
        );
        forged(ENTRIES + number * ENTRY + 31, 1, why)
    };
    let missing = format!(
        "the image has no root-verity partition for x86-64 (type {})",
        types::ROOT_X86_64_VERITY
    );
    let len = Anatomy::of(image).root.len();
    let shorter = format!(
        "the data device has {} bytes, but by the verity superblock it takes {len}; it is \
         truncated, or the superblock was changed",
        len - 4096
    );
    let cases = [
        guid(0, "root", root.data_part_uuid()),
        guid(1, "root-verity", root.verity_part_uuid()),
        // Another type: no partition of an image any more.
        forged(ENTRIES + ENTRY + 15, 1, missing),
        // It begins 8 blocks later.
        forged(ENTRIES + 32, 8, shorter),
    ];
    refuses_all(ground, image, image.sealed(), &cases);
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
            &format!(
                "awaited: the image PARTUUID={} (partition)",
                root.data_part_uuid()
            ),
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
