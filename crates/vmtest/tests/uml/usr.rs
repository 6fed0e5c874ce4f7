//! Direct boots whose /usr is a file system of its own, verified or plain.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use iofs_gpt::{Uuid, types};
use iofs_verity::build::HashTree;
use iofs_verity::{Algorithm, Params, RootHash};
use libtest_mimic::Failed;
use vmtest::disk::{Entry, Partition, ext4};

use crate::Test;
use crate::direct::{LOOK, REASONS, allow, falls_back, record};
use crate::support::{Boot, FIRST, Ground, SECOND, on_esp};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("direct_with_a_verified_usr", verified),
    Test::new("direct_with_a_plain_usr", plain),
    Test::new("direct_with_a_tampered_usr_comes_to_the_image", tampered),
    Test::new("direct_with_another_usr_comes_to_the_image", another),
    Test::new("direct_with_a_usr_without_init_comes_to_the_image", no_init),
];

const UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a06";

const INIT: &str = "usr/lib/init";

/// What `mkfs.erofs` and `ext4::make` get for /usr.
fn usr_tree(boot: &Boot<'_>, ground: &Ground, name: &str) -> Vec<Entry> {
    let marker = boot.path("marker");
    fs::write(&marker, "the usr of this test").unwrap();
    vec![
        Entry::new(name, ground.testinit()),
        Entry::new("lib/marker", &marker),
    ]
}

/// A disk with the image's ESP, a root without a /usr of its own, and this beside.
fn with_usr<'g>(ground: &'g Ground, usr: impl FnOnce(&Boot<'_>) -> Vec<Partition>) -> Boot<'g> {
    let image = ground.proven();
    let boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
    let mut boot = allow(boot, "ext4");
    let empty = boot.path("empty");
    fs::write(&empty, "").unwrap();
    let folders = ["dev", "proc", "run", "sys", "usr"];
    let keep = folders.map(|folder| Entry::new(&format!("{folder}/.keep"), &empty));
    let root = boot.path("root");
    ext4::make(&root, 16 << 20, UUID, &keep).unwrap();
    let volume = boot.path("esp");
    volumes::fat32(&volume, &image.path);
    let mut partitions = vec![
        Partition::esp(FIRST, &volume).unwrap(),
        Partition::root(SECOND, &root).unwrap(),
    ];
    partitions.extend(usr(&boot));
    boot.disk(&partitions);
    boot.words(&format!("root=UUID={UUID} init=/{INIT}"));
    boot
}

/// /usr as EROFS with its hash tree, and the root hash. `harm` is done to the file
/// system's bytes behind the tree's back.
fn verity(
    boot: &Boot<'_>,
    ground: &Ground,
    init: &str,
    harm: fn(&Path),
) -> (Vec<Partition>, RootHash) {
    let volume = boot.path("usr");
    volumes::erofs_root(&volume, &usr_tree(boot, ground, init));
    let mut bytes = fs::read(&volume).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let count = bytes.len() as u64 / 4096;
    let salt = b"salt".to_vec();
    let params = Params::new(Algorithm::Sha256, 4096, 4096, count, salt).unwrap();
    let tree = HashTree::build(&params, &bytes[..], |_| {}).unwrap();
    let (data, hashes) = (boot.path("usr-data"), boot.path("usr-hashes"));
    fs::write(&data, &bytes).unwrap();
    fs::write(&hashes, tree.hash_device(&params, FIRST)).unwrap();
    harm(&data);
    let root = tree.root;
    let part = |kind, guid, name, content| Partition::of(kind, guid, name, content).unwrap();
    let partitions = vec![
        part(types::USR_X86_64, root.data_part_uuid(), "usr", &data),
        part(
            types::USR_X86_64_VERITY,
            root.verity_part_uuid(),
            "usr-verity",
            &hashes,
        ),
    ];
    (partitions, root)
}

fn on_verity<'g>(ground: &'g Ground, init: &str, harm: fn(&Path)) -> (Boot<'g>, RootHash) {
    let mut root = None;
    let boot = with_usr(ground, |boot| {
        let (partitions, hash) = verity(boot, ground, init, harm);
        root = Some(hash);
        partitions
    });
    (boot, root.unwrap())
}

/// The init of /usr has run, with /usr from `device`.
fn runs(boot: &mut Boot<'_>, device: &str) -> String {
    boot.words(&format!("{LOOK} testinit.cat=/usr/lib/marker"));
    let seen = boot.succeeds();
    seen.expects_in_order(&[
        "[stage mount] ext4",
        &format!("[stage exec] /{INIT}"),
        "TESTINIT stage: first",
    ]);
    seen.rejects("[stage image]");
    assert_eq!(seen.fact("/usr/lib/marker"), "the usr of this test");
    let mounts = seen.facts("/proc/self/mountinfo");
    let usr = mounts
        .iter()
        .find(|line| line.contains(" / /usr "))
        .unwrap();
    assert!(usr.contains(device), "{usr}");
    let record = record(&seen);
    assert_eq!(record["mode"], "direct");
    record["root"]["usr"].as_str().unwrap().to_owned()
}

fn verified(ground: &Ground) -> Result<(), Failed> {
    let (mut boot, root) = on_verity(ground, "lib/init", |_| {});
    boot.words(&format!("usrhash={}", root.to_hex()));
    let usr = runs(&mut boot, " - erofs /dev/dm-0 ro");
    assert!(usr.contains("dm-verity"), "{usr}");
    Ok(())
}

fn plain(ground: &Ground) -> Result<(), Failed> {
    const THIRD: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0098);
    let mut boot = with_usr(ground, |boot| {
        let volume = boot.path("usr");
        let tree = usr_tree(boot, ground, "lib/init");
        ext4::make(&volume, 16 << 20, &THIRD.to_string(), &tree).unwrap();
        vec![Partition::of(types::USR_X86_64, THIRD, "usr", &volume).unwrap()]
    });
    boot.words("mount.usr=PARTLABEL=usr mount.usrflags=ro,nodev");
    assert_eq!(runs(&mut boot, "ro,nodev"), "ext4 on /dev/ubda3");
    Ok(())
}

fn tampered(ground: &Ground) -> Result<(), Failed> {
    let (mut boot, root) = on_verity(ground, "lib/init", |data| {
        let file = fs::File::options().write(true).open(data).unwrap();
        // The volume's name, which no checksum of the file system's covers.
        file.write_all_at(b"x", 1024 + 64).unwrap();
    });
    boot.words(&format!("usrhash={}", root.to_hex()));
    let seen = falls_back(&mut boot, "is not the one that usrhash= names");
    seen.rejects("/usr: erofs");
    Ok(())
}

fn another(ground: &Ground) -> Result<(), Failed> {
    let (mut boot, _) = on_verity(ground, "lib/init", |_| {});
    let other = "5a".repeat(32);
    // By these names they are there.
    let names =
        "systemd.verity_usr_data=PARTLABEL=usr systemd.verity_usr_hash=PARTLABEL=usr-verity";
    boot.words(&format!("usrhash={other} {names}"));
    let seen = falls_back(&mut boot, "is not the one that usrhash= names");
    assert!(seen.facts(REASONS).join(" ").contains("install both"));
    let (mut boot, _) = on_verity(ground, "lib/init", |_| {});
    boot.words(&format!("usrhash={other}"));
    falls_back(&mut boot, "did not come within 3 s");
    Ok(())
}

fn no_init(ground: &Ground) -> Result<(), Failed> {
    let (mut boot, root) = on_verity(ground, "lib/other", |_| {});
    boot.words(&format!("usrhash={}", root.to_hex()));
    let seen = falls_back(&mut boot, "the root has no init");
    // Nothing of it is left.
    let mounts = seen.facts("/proc/self/mountinfo").join("\n");
    assert!(!mounts.contains(" /usr "), "{mounts}");
    Ok(())
}
