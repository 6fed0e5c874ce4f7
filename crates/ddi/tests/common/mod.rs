//! Running the oracles, and images for them.

// Each test binary uses its own part of this module.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Output};

use ddi::write::{Image, Options};
use ddi::{Arch, RootHash, Signature};
use tempfile::TempDir;

/// Runs a tool to its end.
pub(crate) fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{program} is needed for this test (Debian: gdisk, fdisk, util-linux, \
                 erofs-utils, cryptsetup-bin): {error}"
            )
        })
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = output(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// An EROFS file system of a little more than 128 blocks, so that the tree
/// over it has two levels.
pub(crate) fn erofs() -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let tree = folder.path().join("tree");
    let image = folder.path().join("erofs");
    fs::create_dir(&tree).unwrap();
    // Does not compress, and repeats nowhere.
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state.to_be_bytes()
    })
    .flatten()
    .take(560 << 10)
    .collect();
    fs::write(tree.join("noise"), noise).unwrap();
    fs::write(tree.join("os-release"), "ID=test\n").unwrap();
    run(
        "mkfs.erofs",
        &[
            "-T0",
            "-U00112233-4455-6677-8899-aabbccddeeff",
            image.to_str().unwrap(),
            tree.to_str().unwrap(),
        ],
    );
    fs::read(image).unwrap()
}

/// A signature that only looks like one.
pub(crate) fn signature(root: &RootHash) -> Signature {
    Signature {
        root: *root,
        fingerprint: Some([0xf1; 32]),
        pkcs7: vec![0x30; 900],
    }
}

/// An image, signed, and its root hash.
pub(crate) fn image(erofs: &[u8], arch: Arch) -> (Vec<u8>, RootHash) {
    let mut image = Image::new(erofs, Options::new(arch), |_| {}).unwrap();
    let root = *image.root_hash();
    image.sign(&signature(&root)).unwrap();
    let mut bytes = Vec::new();
    let size = image.write(&mut bytes).unwrap();
    assert_eq!(size, bytes.len() as u64);
    (bytes, root)
}
