//! Single files: in pieces, with holes, unwritten, encrypted, behind links.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};

use iofs_ext4::Ext4Error;
use iofs_source::FileMapError;
use support::{Image, contents, noise};

/// A volume filled with small files of which every second is removed: what is
/// written next is in as many pieces as they were.
fn fragmented(options: &[&str], pieces: usize, len: usize) -> (Image, Vec<u8>) {
    let image = Image::make(options, "24M", None);
    let block = image.dir.path().join("block");
    fs::write(&block, noise(1024, 1)).unwrap();
    let mut commands = String::new();
    for index in 0..pieces {
        commands += &format!("write {} small{index}\n", block.display());
    }
    for index in (0..pieces).step_by(2) {
        commands += &format!("rm small{index}\n");
    }
    let data = noise(len, 7);
    let big = image.dir.path().join("big");
    fs::write(&big, &data).unwrap();
    commands += &format!("write {} big\n", big.display());
    let answer = image.debugfs(commands.as_bytes());
    assert!(
        !answer.contains("No space") && !answer.contains("not found"),
        "{answer}"
    );
    image.assert_clean();
    (image, data)
}

#[test]
fn fragmented_files() {
    for (options, depth) in [
        (vec!["-t", "ext4", "-b", "1024", "-N", "4096"], true),
        (
            vec![
                "-t",
                "ext4",
                "-b",
                "1024",
                "-N",
                "4096",
                "-O",
                "^metadata_csum",
            ],
            true,
        ),
        (vec!["-t", "ext2", "-b", "1024", "-N", "4096"], false),
    ] {
        let (image, data) = fragmented(&options, 2000, 2_000_000);
        let ext4 = image.open().unwrap();
        let map = ext4.locate("big").unwrap();
        assert!(map.extents.len() > 500, "{} extents", map.extents.len());
        if depth {
            let tree = image.ask("ex big");
            assert!(tree.contains(" 1/ 1") || tree.contains(" 2/ 2"), "{tree}");
        }
        assert!(contents(&image, &ext4, "big") == data);
        assert!(image.dump("big") == data);
    }
}

/// Enough for all three levels of pointers with 1 KiB blocks: the third begins
/// after 12 + 256 + 65536 blocks.
#[test]
fn triple_indirect() {
    let image = Image::make(&["-t", "ext2", "-b", "1024"], "100M", None);
    let data = noise(68 << 20, 3);
    let big = image.dir.path().join("big");
    fs::write(&big, &data).unwrap();
    image.debugfs(format!("write {} big\n", big.display()).as_bytes());
    assert!(image.ask("stat big").contains("(TIND)"));
    let ext4 = image.open().unwrap();
    assert!(contents(&image, &ext4, "big") == data);
}

/// Files over 2^32 blocks or bytes are measured right and refused as holes.
#[test]
fn holes() {
    for options in [["-t", "ext4"], ["-t", "ext3"]] {
        let tree = tempfile::tempdir().unwrap();
        let file = fs::File::create(tree.path().join("middle")).unwrap();
        file.write_all_at(&noise(8192, 1), 0).unwrap();
        file.write_all_at(&noise(8192, 2), 65536).unwrap();
        let file = fs::File::create(tree.path().join("start")).unwrap();
        file.write_all_at(&noise(8192, 3), 5 << 30).unwrap();
        let file = fs::File::create(tree.path().join("end")).unwrap();
        file.write_all_at(&noise(8192, 4), 0).unwrap();
        file.set_len(6 << 30).unwrap();
        let file = fs::File::create(tree.path().join("all")).unwrap();
        file.set_len(1 << 20).unwrap();
        let mut all = options.to_vec();
        all.extend_from_slice(&["-b", "4096"]);
        let image = Image::make(&all, "32M", Some(tree.path()));
        let ext4 = image.open().unwrap();
        for (name, at) in [("middle", 8192), ("start", 0), ("end", 8192), ("all", 0)] {
            assert_eq!(
                ext4.locate(name),
                Err(Ext4Error::Map(FileMapError::Hole { at })),
                "{options:?} {name}"
            );
        }
    }
}

#[test]
fn unwritten_extents() {
    let tree = tempfile::tempdir().unwrap();
    let data = noise(20_000, 1);
    fs::write(tree.path().join("kept"), &data).unwrap();
    fs::write(tree.path().join("grown"), &data).unwrap();
    let image = Image::make(&["-t", "ext4", "-b", "4096"], "32M", Some(tree.path()));
    // Preallocation behind the end (fallocate --keep-size) is no part of the
    // file; inside it reads as zeros on the mounted volume alone.
    image.debugfs(
        b"fallocate kept 5 20\nfallocate grown 5 20\nset_inode_field grown size 40000\n\
          set_inode_field kept size 20000\n",
    );
    let ext4 = image.open().unwrap();
    assert!(contents(&image, &ext4, "kept") == data);
    let error = ext4.locate("grown").unwrap_err();
    assert_eq!(error, Ext4Error::Unwritten { at: 20480 });
    assert!(error.to_string().contains("offset 20480"), "{error}");
}

#[test]
fn flags_that_hide_the_data() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("secret")).unwrap();
    for name in ["locked", "packed", "secret/file", "sealed"] {
        fs::write(tree.path().join(name), noise(5000, 1)).unwrap();
    }
    let image = Image::make(
        &["-t", "ext4", "-O", "encrypt,verity"],
        "32M",
        Some(tree.path()),
    );
    image.debugfs(
        b"set_inode_field locked flags 0x80800\nset_inode_field secret flags 0x80800\n\
          set_inode_field packed flags 0x80004\nset_inode_field sealed flags 0x180000\n",
    );
    let ext4 = image.open().unwrap();
    let encrypted = |path: &str| Ext4Error::Encrypted { path: path.into() };
    assert_eq!(ext4.locate("locked"), Err(encrypted("locked")));
    assert_eq!(ext4.locate("secret/file"), Err(encrypted("/secret")));
    assert_eq!(ext4.entries("secret"), Err(encrypted("secret")));
    assert_eq!(
        ext4.locate("packed"),
        Err(Ext4Error::Compressed {
            path: "packed".into()
        })
    );
    // fs-verity keeps the data plain; its tree lies behind the end.
    assert!(contents(&image, &ext4, "sealed") == noise(5000, 1));
}

#[test]
fn paths_that_lead_nowhere() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("a/b")).unwrap();
    fs::write(tree.path().join("a/file"), noise(5000, 1)).unwrap();
    symlink("loop", tree.path().join("loop")).unwrap();
    symlink("a/gone", tree.path().join("dangling")).unwrap();
    symlink("a/file", tree.path().join("link0")).unwrap();
    for index in 0..9 {
        let link = tree.path().join(format!("link{}", index + 1));
        symlink(format!("link{index}"), link).unwrap();
    }
    let image = Image::make(&["-t", "ext4"], "32M", Some(tree.path()));
    let ext4 = image.open().unwrap();
    let not_found = |path: &str| Ext4Error::NotFound { path: path.into() };
    let no_directory = |path: &str| Ext4Error::NotADirectory { path: path.into() };
    let no_file = |path: &str| Ext4Error::NotAFile { path: path.into() };
    let too_many = |path: &str| Ext4Error::TooManyLinks { path: path.into() };
    for (path, error) in [
        ("gone", not_found("/gone")),
        ("a/b/gone/file", not_found("/a/b/gone")),
        ("dangling", not_found("/a/gone")),
        ("a/FILE", not_found("/a/FILE")),
        ("a/file/more", no_directory("/a/file")),
        ("a/file/.", no_directory("/a/file")),
        ("a", no_file("a")),
        ("", no_file("")),
        ("loop", too_many("loop")),
        ("link8", too_many("link8")),
    ] {
        assert_eq!(ext4.locate(path), Err(error), "{path}");
    }
    assert_eq!(ext4.entries("a/file"), Err(no_directory("a/file")));
    assert!(contents(&image, &ext4, "link7") == noise(5000, 1));
    let endless = "a/../".repeat(100) + "a/file";
    assert_eq!(ext4.locate(&endless), Err(too_many(&endless)));
}
