//! Seeds that take tools to make.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test (Debian: e2fsprogs, erofs-utils): {error}")
        });
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A tree for mkfs.
fn tree(folder: &Path) {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("EFI")).unwrap();
    fs::write(tree.join("EFI/image"), vec![b'a'; 9000]).unwrap();
    fs::write(tree.join("small"), "b").unwrap();
    std::os::unix::fs::symlink("EFI/image", tree.join("link")).unwrap();
}

/// An image's bytes without the zeros at its end, which the targets add.
fn trimmed(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let len = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |at| at + 1);
    bytes.truncate(len);
    bytes
}

/// Without checksums of metadata, which would end nearly every mutation, with
/// extents and with block maps.
pub(crate) fn ext4_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let tree = folder.path().join("tree");
    [
        "^metadata_csum,^has_journal",
        "^metadata_csum,^has_journal,^extent,^64bit",
    ]
    .iter()
    .map(|features| {
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(256 << 10).unwrap();
        let fixed = "hash_seed=00000000-0000-4000-8000-000000000001,root_owner=0:0";
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-b",
                "1024",
                "-N",
                "16",
                "-O",
                features,
                "-E",
                fixed,
                "-U",
                "00000000-0000-4000-8000-000000000002",
                "-d",
                tree.to_str().unwrap(),
                image.to_str().unwrap(),
            ],
        );
        trimmed(&image)
    })
    .collect()
}

pub(crate) fn erofs_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let tree = folder.path().join("tree");
    ["-C4096", "-zlz4hc"]
        .iter()
        .map(|option| {
            let image = folder.path().join("image");
            run(
                "mkfs.erofs",
                &[
                    "--quiet",
                    option,
                    "-T0",
                    "-U00000000-0000-4000-8000-000000000003",
                    image.to_str().unwrap(),
                    tree.to_str().unwrap(),
                ],
            );
            trimmed(&image)
        })
        .collect()
}
