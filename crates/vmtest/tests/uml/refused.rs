//! Images that are whole and not the trusted one, and what boots in their place.

use std::fs;

use builder::{Auth, Candidate, KeyType, Measure, Selector, Signed};
use libtest_mimic::Failed;
use tempfile::TempDir;
use vmtest::disk::Partition;

use crate::Test;
use crate::anatomy::{
    ADVICE, Anatomy, NOT_FOUND, changed, contained, entry_name, in_file, refuses, wide,
};
use crate::support::{
    Boot, FILE, FIRST, Ground, Image, SECOND, Seen, file_on, on_esp, partition_at,
};
use crate::tamper::first_block;
use crate::trust::{Key, WORDS, signed_image, taken_apart};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("refused_signed_by_another_key", another_key),
    Test::new("refused_unsigned", unsigned),
    Test::new("refused_bare_file_system", bare),
    Test::new("refused_truncated", truncated),
    Test::new("refused_version", version),
    Test::new("refused_product", product),
    Test::new("refused_swapped_between_boots", swapped),
    Test::new("refused_auth_none_by_the_command_line", auth_none),
    Test::new("refused_without_a_tpm_that_is_demanded", no_tpm),
    Test::new("instead_of_one_that_is_refused", instead_of_refused),
    Test::new("instead_of_one_that_cannot_be_read", instead_of_unreadable),
    Test::new(
        "instead_of_one_that_dm_verity_refuses",
        instead_of_unmappable,
    ),
    Test::new("instead_of_one_that_is_too_old", instead_of_old),
    Test::new(
        "instead_of_an_old_image_in_pieces",
        instead_of_old_in_pieces,
    ),
];

/// A new key, and the folder that it is in.
fn key(name: &str) -> (Key, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Key::new(dir.path(), name, KeyType::P256), dir)
}

fn another_key(ground: &Ground) -> Result<(), Failed> {
    // By the same name: it is the key that counts.
    let (theirs, _theirs) = key("maker");
    let (ours, _ours) = key("maker");
    let image = signed_image(ground, "another-key", &theirs, "1");
    let mut boot = changed(ground, &image, ours.trusted(), |_| {});
    let seen = boot.fails(
        NOT_FOUND,
        &[
            &format!(
                "seen: /dev/ubda1: {FILE} is not a trusted image: the signature of its root hash \
                 does not hold: signed by another key: "
            ),
            " is none of the 1 trusted certificates",
            ADVICE,
        ],
    );
    seen.rejects("[stage proof]");
    // The certificate that the plan trusts, in the fingerprint: nothing is
    // believed because it is written there.
    let mut boot = changed(ground, &image, ours.trusted(), |anatomy| {
        let mut signature = anatomy.signature();
        signature.fingerprint = Some(ours.signer.certificate().parsed().fingerprint());
        anatomy.set_signature(&signature);
    });
    boot.fails(NOT_FOUND, &["does not hold: signed by another key: "]);
    Ok(())
}

fn unsigned(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("unsigned");
    let image = ground.proven();
    refuses(
        &mut changed(ground, image, key.trusted(), |_| {}),
        "it is not signed, and the boot plan wants a signature",
    );
    // In partitions.
    let root = image.root_hash.unwrap().data_part_uuid();
    let place = partition_at("partition", Selector::PartUuid(root));
    let mut boot = Boot::trusting(ground, image, key.trusted(), &[place]);
    let parts = taken_apart(&boot, image);
    boot.disk(&parts);
    boot.fails(
        NOT_FOUND,
        &[&format!(
            "seen: /dev/ubda1: the partition is not a trusted image: no root-verity-sig partition \
             on ubda signs PARTUUID={root}"
        )],
    );
    // A signature partition with nothing in it.
    let signed = signed_image(ground, "emptied", &key, "1");
    let at = Anatomy::of(&signed).signature.start;
    refuses(
        &mut changed(ground, &signed, key.trusted(), |anatomy| {
            let range = anatomy.signature.clone();
            anatomy.bytes[range].fill(0);
        }),
        &format!(
            "the verity signature is missing: there are only NULs in its place (the signature is \
             at byte {at} of the image)"
        ),
    );
    Ok(())
}

/// The very file system that is sealed, without its proof.
fn bare(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let anatomy = Anatomy::of(image);
    let file_system = &anatomy.bytes[anatomy.root.clone()];
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[in_file()]);
    let path = boot.path("bare");
    fs::write(&path, file_system)?;
    boot.esp_with(&path, volumes::fat32);
    refuses(&mut boot, BARE);
    // As a partition.
    let place = partition_at("partition", Selector::PartUuid(FIRST));
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[place]);
    let path = boot.path("bare");
    fs::write(&path, file_system)?;
    boot.disk(&[Partition::root(FIRST, &path)?]);
    boot.fails(
        NOT_FOUND,
        &["seen: /dev/ubda1: the partition is not a trusted image: no root-verity partition on ubda has PARTUUID="],
    );
    Ok(())
}

const BARE: &str = "it is a bare EROFS file system without a hash tree, and the boot plan wants a \
                    disk image that proves itself";

/// Cut in the middle of the hash tree.
fn truncated(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    // The backup's 33 blocks are behind the last one for partitions.
    let last = fs::metadata(&image.path)?.len() / 512 - 34;
    refuses(
        &mut changed(ground, image, image.sealed(), |anatomy| {
            let at = anatomy.verity.start + anatomy.verity.len() / 2;
            anatomy.bytes.truncate(at);
        }),
        &format!(
            "the image is truncated: by its GPT it reaches behind block {last} (of 512 bytes); \
             write it anew"
        ),
    );
    Ok(())
}

/// A signed image that is genuine, and not what the plan allows.
fn version(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("version");
    for (version, said) in [("1.9", "\"1.9\""), ("", "\"\"")] {
        let image = signed_image(ground, &format!("version-{version}"), &key, version);
        let mut boot = changed(ground, &image, key.trusted_from("1.10"), |_| {});
        boot.fails(
            &format!("the image has version {said}, and the boot plan allows none below \"1.10\""),
            &["what to do: install a newer image: this one was withdrawn"],
        );
    }
    Ok(())
}

fn product(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("product");
    let image = signed_image(ground, "product", &key, "1");
    let mut boot = changed(ground, &image, key.trusted(), |_| {});
    boot.mini.product = "test-2".to_owned();
    boot.fails(
        "the image is of product \"test-1\", and the boot plan is for \"test-2\"",
        &["what to do: install an image of this product"],
    );
    Ok(())
}

fn swapped(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let other = wide(ground, "swapped", "other");
    let mut boot = changed(ground, image, image.sealed(), |_| {});
    boot.words("testinit.sum=/data").succeeds().data_is_intact();
    let first = fs::read(boot.path("initrd"))?;
    boot.unplug();
    boot.esp_with(&other.path, volumes::fat32);
    refuses(
        &mut boot,
        &format!(
            "the root partition has the PARTUUID {}, but by the root hash it is {}: this is \
             another image, or its GPT was changed",
            other.root_hash.unwrap().data_part_uuid(),
            image.root_hash.unwrap().data_part_uuid()
        ),
    );
    assert!(
        fs::read(boot.path("initrd"))? == first,
        "another mini-initramfs"
    );
    // The same under the GUIDs of the one that is sealed.
    boot.unplug();
    let mut anatomy = Anatomy::of(&other);
    anatomy.set_part_guids(&image.root_hash.unwrap());
    let path = boot.path("disguised");
    fs::write(&path, &anatomy.bytes)?;
    boot.esp_with(&path, volumes::fat32);
    boot.fails(
        NOT_FOUND,
        &["does not have the root hash: this block, the superblock's salt or the root hash was changed"],
    );
    Ok(())
}

fn auth_none(ground: &Ground) -> Result<(), Failed> {
    const WARNING: &str = "never on the command line";
    let image = ground.proven();
    let mut boot = changed(ground, image, image.sealed(), |_| {});
    let seen = boot
        .words("initoverlayfs.auth=none testinit.sum=/data")
        .succeeds();
    seen.data_is_intact();
    seen.expects(WARNING);
    seen.expects("[stage proof] root hash ");
    seen.rejects("NOT authenticated");
    let mut boot = changed(ground, image, image.sealed(), |anatomy| {
        anatomy.flip(anatomy.root.start);
    });
    let at = Anatomy::of(image).root.start;
    let seen = refuses(boot.words("initoverlayfs.auth=none"), &first_block(at));
    seen.expects(WARNING);
    // Where the plan says it, the log does.
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.esp(volumes::fat32);
    boot.succeeds()
        .expects("auth=none in the boot plan: the image is NOT authenticated");
    Ok(())
}

fn no_tpm(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("tpm");
    let image = signed_image(ground, "tpm", &key, "1");
    let Auth::Signed(signed) = key.trusted() else {
        return Err("not signed".into());
    };
    let auth = Auth::Signed(Signed {
        measure: Measure {
            pcr: 13,
            required: true,
        },
        ..signed
    });
    let mut boot = changed(ground, &image, auth, |_| {});
    let seen = boot.fails(
        "the image's root hash could not be measured into PCR 13, as the boot plan demands: the \
         kernel shows no TPM 2.0",
        &["what to do: turn on the machine's TPM 2.0 in the firmware's setup"],
    );
    seen.rejects("[stage image]");
    Ok(())
}

/// Two disks with boot partitions, the first with an image that is `bad`. Boots
/// from the second, and expects that the log says `why` the first was passed
/// over and that nothing of it is left.
fn instead(ground: &Ground, bad: &Anatomy, good: &Image, auth: Auth, why: &str) -> Seen {
    let mut last = None;
    let by_guid: [Candidate; 2] = [
        file_on("first", Selector::PartUuid(FIRST)),
        file_on("second", Selector::PartUuid(SECOND)),
    ];
    // Two places in the plan, and two disks that one place means.
    for candidates in [&by_guid[..], &[on_esp()]] {
        let mut boot = Boot::trusting(ground, good, auth.clone(), candidates);
        for (guid, bytes) in [
            (FIRST, bad.bytes.clone()),
            (SECOND, fs::read(&good.path).unwrap()),
        ] {
            let image = boot.path(&format!("image-{guid}"));
            fs::write(&image, bytes).unwrap();
            let volume = boot.path(&format!("volume-{guid}"));
            volumes::fat32(&volume, &image);
            boot.disk(&[Partition::esp(guid, &volume).unwrap()]);
        }
        let seen = boot.words(WORDS).succeeds();
        seen.data_is_intact();
        seen.expects_in_order(&[
            why,
            &format!("[stage device] {FILE} on /dev/ubdb1"),
            "[stage proof] root hash ",
            "[stage exec]",
        ]);
        // One of each.
        let stacked = seen.fact("stacked");
        let names: Vec<&str> = stacked.split(' ').collect();
        assert!(
            matches!(names[..], [dm, loops] if dm.starts_with("dm-") && loops.starts_with("loop")),
            "{stacked}"
        );
        last = Some(seen);
    }
    last.unwrap()
}

fn instead_of_refused(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut bad = Anatomy::of(image);
    let at = bad.root.start;
    bad.flip(at + 100);
    let why = format!(
        "no image on /dev/ubda1: {FILE} is not a trusted image: bytes {at} to {} of the image: \
         data block 0 ",
        at + 4096
    );
    instead(ground, &bad, image, image.sealed(), &why).rejects("on /dev/ubda1, ");
    Ok(())
}

fn instead_of_unreadable(ground: &Ground) -> Result<(), Failed> {
    let image = wide(ground, "instead", "");
    let mut bad = Anatomy::of(&image);
    let at = bad.find(entry_name(100).as_bytes());
    bad.flip(at);
    let why = "the image on /dev/ubda1 cannot be used: the image on /dev/dm-0 cannot be read: ";
    let seen = instead(ground, &bad, &image, image.sealed(), why);
    seen.expects(&format!("data block {} is corrupted", bad.data_block(at)));
    Ok(())
}

/// Signed and whole, but with blocks that are larger than this kernel's pages.
fn instead_of_unmappable(ground: &Ground) -> Result<(), Failed> {
    let (key, dir) = key("unmappable");
    let good = signed_image(ground, "mappable", &key, "1");
    let bad = contained(ground.image(), (8192, 4096), dir.path(), Some(&key.signer));
    let why = "the image on /dev/ubda1 cannot be used: loading the table of initoverlayfs-image: \
               invalid argument (EINVAL)";
    let seen = instead(ground, &Anatomy::of(&bad), &good, key.trusted(), why);
    seen.expects(&format!(
        "[stage proof] root hash {}",
        bad.root_hash.unwrap()
    ));
    seen.expects(&format!(
        "[stage proof] root hash {}",
        good.root_hash.unwrap()
    ));
    seen.expects("verity: Invalid data device block size");
    Ok(())
}

fn instead_of_old(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("instead");
    let old = signed_image(ground, "instead-old", &key, "1");
    let new = signed_image(ground, "instead-new", &key, "2");
    let why = "the image on /dev/ubda1 cannot be used: the image has version \"1\", and the boot \
               plan allows none below \"2\"";
    instead(ground, &Anatomy::of(&old), &new, key.trusted_from("2"), why);
    Ok(())
}

/// Images in several pieces: the mapped devices of the first may still be on
/// their way out when those of the second are made.
fn instead_of_old_in_pieces(ground: &Ground) -> Result<(), Failed> {
    let (key, _dir) = key("pieces");
    let old = signed_image(ground, "pieces-old", &key, "1");
    let new = signed_image(ground, "pieces-new", &key, "2");
    let mut boot = Boot::trusting(ground, &new, key.trusted_from("2"), &[on_esp()]);
    for (guid, image) in [(FIRST, &old), (SECOND, &new)] {
        let volume = boot.path(&format!("volume-{guid}"));
        volumes::fat32_fragmented(&volume, &image.path);
        boot.disk(&[Partition::esp(guid, &volume).unwrap()]);
    }
    let seen = boot.words(WORDS).succeeds();
    seen.data_is_intact();
    seen.expects_in_order(&[
        "the image has version \"1\", and the boot plan allows none below \"2\"",
        &format!("[stage device] {FILE} on /dev/ubdb1"),
        "(dm-verity over dm-linear over /dev/loop",
        "[stage exec]",
    ]);
    // Those of the first are gone.
    assert_eq!(seen.fact("stacked").split(' ').count(), 3);
    Ok(())
}
