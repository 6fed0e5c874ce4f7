//! Trees against veritysetup, in both directions. It needs no device-mapper to
//! format and to verify files.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{UUID, output, params, run, sample};
use iofs_verity::{Algorithm, Params, RootHash, Superblock, Verifier};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Hash device and root hash as veritysetup makes them.
fn format(folder: &Path, data: &Path, params: &Params) -> (Vec<u8>, RootHash) {
    let hashes = folder.join("theirs");
    let _ = fs::remove_file(&hashes);
    let salt: String = params.salt().iter().map(|b| format!("{b:02x}")).collect();
    let printed = run(
        "veritysetup",
        &[
            "format",
            "--uuid",
            &UUID.to_string(),
            "--salt",
            if salt.is_empty() { "-" } else { &salt },
            "--hash",
            params.algorithm().name(),
            "--data-block-size",
            &params.data_block_size().to_string(),
            "--hash-block-size",
            &params.hash_block_size().to_string(),
            text(data),
            text(&hashes),
        ],
    );
    let root = printed
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .unwrap_or_else(|| panic!("no root hash in {printed}"));
    (
        fs::read(hashes).unwrap(),
        RootHash::from_hex(root.trim()).unwrap(),
    )
}

fn same_as_veritysetup(params: Params) {
    let name = format!("{params:?}");
    let folder = TempDir::new().unwrap();
    let ours = sample(params);
    let data = folder.path().join("data");
    fs::write(&data, &ours.data).unwrap();

    let (theirs, root) = format(folder.path(), &data, &ours.params);
    assert_eq!(ours.tree.root, root, "{name}");
    assert!(ours.hashes == theirs, "{name}: the hash devices differ");

    let superblock = Superblock::read(&theirs).unwrap();
    assert_eq!(superblock.uuid, UUID);
    assert_eq!(superblock.params, ours.params);
    let start = superblock.params.tree_start();
    Verifier::new(&superblock.params, root, start, &ours.data, &theirs)
        .unwrap()
        .verify_all(|_| {})
        .unwrap();

    let hashes = folder.path().join("ours");
    fs::write(&hashes, &ours.hashes).unwrap();
    let verify = |root: RootHash| {
        let args = ["verify", text(&data), text(&hashes), &root.to_hex()];
        output("veritysetup", &args).status.success()
    };
    assert!(verify(root), "{name}: veritysetup refuses ours");
    let mut other = root.as_bytes().to_vec();
    other[0] ^= 1;
    assert!(!verify(RootHash::from_bytes(&other).unwrap()), "{name}");
}

const SALT: [u8; 32] = [0x5a; 32];

#[test]
fn trees_of_every_height_are_veritysetups() {
    for blocks in [1, 2, 127, 128, 129, 1000] {
        same_as_veritysetup(params(Algorithm::Sha256, (4096, 4096), blocks, &SALT));
    }
}

/// Three levels, 64 MiB.
#[test]
fn a_tree_over_16385_blocks_is_veritysetups() {
    same_as_veritysetup(params(Algorithm::Sha256, (4096, 4096), 16385, &SALT));
}

#[test]
fn other_salts_are_veritysetups() {
    for len in [0, 1, 63, 256] {
        same_as_veritysetup(params(
            Algorithm::Sha256,
            (4096, 4096),
            130,
            &vec![0xc3; len],
        ));
    }
}

#[test]
fn other_hashes_and_blocks_are_veritysetups() {
    for (algorithm, sizes, blocks) in [
        (Algorithm::Sha512, (4096, 4096), 4097),
        (Algorithm::Sha512, (512, 512), 4097),
        (Algorithm::Sha256, (512, 512), 4097),
        (Algorithm::Sha256, (1024, 4096), 257),
        (Algorithm::Sha256, (4096, 1024), 1025),
    ] {
        same_as_veritysetup(params(algorithm, sizes, blocks, &SALT));
    }
}

/// What `veritysetup dump` prints of a superblock that is written here.
#[test]
fn veritysetup_prints_the_superblock() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hashes");
    let ours = sample(params(Algorithm::Sha512, (512, 4096), 77, &[0xab, 0xcd]));
    fs::write(&path, &ours.hashes).unwrap();
    let printed = run("veritysetup", &["dump", text(&path)]);
    let field = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {printed}"))
            .trim()
            .to_owned()
    };
    assert_eq!(field("UUID:"), UUID.to_string());
    assert_eq!(field("Hash type:"), "1");
    assert_eq!(field("Data blocks:"), "77");
    assert_eq!(field("Data block size:"), "512");
    assert_eq!(field("Hash block size:"), "4096");
    assert_eq!(field("Hash algorithm:"), "sha512");
    assert_eq!(field("Salt:"), "abcd");
    let geometry = ours.params.geometry(ours.params.tree_start()).unwrap();
    assert_eq!(field("Hash blocks:"), geometry.blocks().to_string());
    assert_eq!(
        field("Hash device size:").split(' ').next().unwrap(),
        geometry.end().to_string()
    );
}
