//! Every layout that mke2fs can make, read back and compared with the tree it
//! was made from, with ext4-view and with what dumpe2fs says.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use iofs_ext4::{EntryKind, Ext4};
use support::{Disk, Image, contents, noise, run, tool};

/// A tree with what a boot partition has, and what it should not have.
fn plant(root: &Path) {
    for dir in ["EFI/Linux", "initoverlayfs/deep/er/and/deeper", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let files: &[(&str, usize)] = &[
        ("vmlinuz", 700_001),
        ("initoverlayfs/init.img", 3_000_000),
        ("initoverlayfs/deep/er/and/deeper/file", 4096),
        ("EFI/Linux/one-byte", 1),
        ("EFI/Linux/small", 100),
        ("nothing", 0),
    ];
    for (seed, (name, len)) in files.iter().enumerate() {
        fs::write(root.join(name), noise(*len, seed as u64)).unwrap();
    }
    symlink("initoverlayfs/init.img", root.join("fast")).unwrap();
    symlink("/initoverlayfs/init.img", root.join("EFI/absolute")).unwrap();
    symlink("../vmlinuz", root.join("EFI/up")).unwrap();
    let slow = format!("{}vmlinuz", "./".repeat(100));
    symlink(slow, root.join("slow")).unwrap();
    for index in 0..40 {
        let name = format!("empty/{index:03}{}", "n".repeat(index * 5));
        fs::write(root.join(name), []).unwrap();
    }
}

/// All paths under `path`, with their kinds, by our reader.
fn walk(ext4: &Ext4<Disk>, path: &str, found: &mut BTreeMap<String, EntryKind>) {
    for entry in ext4.entries(path).unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        let full = format!("{path}/{name}");
        if entry.kind == EntryKind::Directory {
            walk(ext4, &full, found);
        }
        found.insert(full, entry.kind);
    }
}

fn expected(root: &Path) -> BTreeMap<String, EntryKind> {
    let mut paths = BTreeMap::from([("/lost+found".to_string(), EntryKind::Directory)]);
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let path = entry.path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            let kind = if kind.is_dir() {
                todo.push(path);
                EntryKind::Directory
            } else if kind.is_symlink() {
                EntryKind::Symlink
            } else {
                EntryKind::File
            };
            paths.insert(name, kind);
        }
    }
    paths
}

fn check_against_dumpe2fs(image: &Image, ext4: &Ext4<Disk>) {
    let text = tool("dumpe2fs", &["-h", image.path.to_str().unwrap()]).stdout;
    let text = String::from_utf8(text).unwrap();
    let maybe = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let field = |name: &str| maybe(name).unwrap_or_else(|| panic!("dumpe2fs shows no {name}"));
    let info = ext4.info();
    assert_eq!(info.uuid.to_string(), field("Filesystem UUID"));
    assert_eq!(info.label, field("Filesystem volume name"));
    assert_eq!(info.block_size.to_string(), field("Block size"));
    // Not shown for revision 0, where it is fixed.
    assert_eq!(
        info.inode_size.to_string(),
        maybe("Inode size").unwrap_or("128")
    );
    let blocks: u64 = field("Block count").parse().unwrap();
    assert_eq!(info.size, blocks * u64::from(info.block_size));
    let mut ours: Vec<String> = info
        .features
        .to_string()
        .split(' ')
        .map(Into::into)
        .collect();
    let mut theirs: Vec<String> = field("Filesystem features")
        .replace("(none)", "")
        .split(' ')
        .map(Into::into)
        .collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

fn check_against_ext4_view(image: &Image, paths: &BTreeMap<String, EntryKind>) {
    // It refuses inodes of 128 bytes and does not know every feature; the tree
    // itself is the oracle then.
    let small_inodes = image.open().unwrap().info().inode_size == 128;
    let Ok(view) = ext4_view::Ext4::load_from_path(&image.path) else {
        return;
    };
    if small_inodes {
        return;
    }
    for (path, kind) in paths {
        let metadata = view.symlink_metadata(path.as_str()).unwrap();
        assert_eq!(metadata.is_dir(), *kind == EntryKind::Directory, "{path}");
        assert_eq!(metadata.is_symlink(), *kind == EntryKind::Symlink, "{path}");
    }
}

/// One layout: every name, every byte.
fn check(options: &[&str], size: &str, filetype: bool, inline: bool) {
    let tree = tempfile::tempdir().unwrap();
    plant(tree.path());
    let mut all = vec!["-L", "boot"];
    all.extend_from_slice(options);
    let image = Image::make(&all, size, Some(tree.path()));
    let ext4 = image
        .open()
        .unwrap_or_else(|error| panic!("{options:?}: {error}"));
    check_against_dumpe2fs(&image, &ext4);
    let paths = expected(tree.path());
    if filetype {
        let mut found = BTreeMap::new();
        walk(&ext4, "", &mut found);
        assert_eq!(found, paths, "{options:?}");
        check_against_ext4_view(&image, &paths);
    }
    for (path, _) in paths.iter().filter(|(_, kind)| **kind == EntryKind::File) {
        let original = fs::read(tree.path().join(&path[1..])).unwrap();
        if inline && original.len() < 150 {
            let error = ext4.locate(path).unwrap_err().to_string();
            assert!(error.contains("inside its inode"), "{path}: {error}");
            continue;
        }
        assert!(
            contents(&image, &ext4, path) == original,
            "{options:?} {path}"
        );
    }
    let big = fs::read(tree.path().join("initoverlayfs/init.img")).unwrap();
    for link in ["fast", "EFI/absolute", "EFI/Linux/../../fast", "//fast"] {
        assert!(contents(&image, &ext4, link) == big, "{options:?} {link}");
    }
    let kernel = fs::read(tree.path().join("vmlinuz")).unwrap();
    for link in ["slow", "EFI/up", "../../EFI/up"] {
        assert!(
            contents(&image, &ext4, link) == kernel,
            "{options:?} {link}"
        );
    }
}

#[test]
fn block_sizes() {
    for size in ["1024", "2048", "4096"] {
        check(&["-t", "ext4", "-b", size], "32M", true, false);
    }
    check(&["-t", "ext4", "-b", "65536"], "128M", true, false);
    check(
        &["-t", "ext4", "-b", "65536", "-O", "^metadata_csum"],
        "128M",
        true,
        false,
    );
}

#[test]
fn older_file_systems() {
    check(&["-t", "ext2", "-b", "1024"], "32M", true, false);
    check(
        &["-t", "ext2", "-O", "none", "-b", "4096"],
        "32M",
        false,
        false,
    );
    check(
        &["-t", "ext2", "-r", "0", "-b", "1024"],
        "32M",
        false,
        false,
    );
    check(&["-t", "ext3", "-b", "1024"], "32M", true, false);
    check(
        &["-t", "ext4", "-O", "^extents,^64bit", "-b", "1024"],
        "32M",
        true,
        false,
    );
    check(&["-t", "ext4", "-I", "128"], "32M", true, false);
}

#[test]
fn descriptors_and_checksums() {
    for features in [
        "^64bit",
        "^metadata_csum",
        "^metadata_csum,uninit_bg",
        "metadata_csum_seed",
        "large_dir",
        "sparse_super2",
        "^sparse_super,^resize_inode",
        "^flex_bg",
        "mmp",
        "ea_inode,quota,project",
        "orphan_file",
        "encrypt,casefold,verity",
    ] {
        if features == "orphan_file" && !run("mke2fs", &["-V"]).stderr.starts_with(b"mke2fs 1.47") {
            continue;
        }
        check(&["-t", "ext4", "-O", features], "32M", true, false);
    }
    check(
        &["-t", "ext4", "-O", "bigalloc", "-C", "65536"],
        "64M",
        true,
        false,
    );
    check(
        &["-t", "ext4", "-O", "bigalloc", "-b", "1024", "-C", "16384"],
        "64M",
        true,
        false,
    );
    check(&["-t", "ext4", "-T", "small"], "32M", true, false);
}

/// So few inodes a group that the tree's inodes are in many groups, and so
/// many groups that their descriptors take several blocks.
#[test]
fn many_groups() {
    for features in [
        "^flex_bg",
        "flex_bg",
        "meta_bg,^resize_inode",
        "meta_bg,^resize_inode,^flex_bg",
        "meta_bg,^resize_inode,^64bit,^sparse_super",
        "meta_bg,^resize_inode,sparse_super2",
    ] {
        check(
            &["-t", "ext4", "-b", "1024", "-N", "512", "-O", features],
            "520M",
            true,
            false,
        );
    }
}

#[test]
fn inline_data() {
    check(&["-t", "ext4", "-O", "inline_data"], "32M", true, true);
    check(
        &[
            "-t",
            "ext4",
            "-O",
            "inline_data,^metadata_csum",
            "-b",
            "1024",
        ],
        "32M",
        true,
        true,
    );
}

/// Hash-indexed directories, with one and with two levels of index.
#[test]
fn large_directories() {
    for (count, options) in [
        (300, ["-t", "ext4", "-b", "4096", "-O", "metadata_csum"]),
        (2000, ["-t", "ext4", "-b", "1024", "-O", "metadata_csum"]),
        (2000, ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"]),
    ] {
        let tree = tempfile::tempdir().unwrap();
        for index in 0..count {
            let name = format!("{index:05}-{}", "long-name-".repeat(8));
            fs::write(tree.path().join(name), format!("{index}")).unwrap();
        }
        let mut all = options.to_vec();
        all.extend_from_slice(&["-N", "8000"]);
        let image = Image::make(&all, "64M", Some(tree.path()));
        // Rebuilds the directories as hash trees. Whether it then exits with 0
        // or 1 is the tool's own affair.
        run("e2fsck", &["-fyD", image.path.to_str().unwrap()]);
        image.assert_clean();
        let depth = image.ask("htree_dump /");
        let levels = if count > 1000 {
            "Indirect levels: 1"
        } else {
            "Indirect levels: 0"
        };
        assert!(depth.contains(levels), "not the tree that was asked for");

        let ext4 = image.open().unwrap();
        let mut names: Vec<Vec<u8>> = ext4
            .entries("/")
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        names.sort();
        let view = ext4_view::Ext4::load_from_path(&image.path).unwrap();
        let mut theirs: Vec<Vec<u8>> = view
            .read_dir("/")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().as_ref().to_vec())
            .filter(|name| name != b"." && name != b"..")
            .collect();
        theirs.sort();
        assert_eq!(names.len(), count + 1);
        assert_eq!(names, theirs);
        for index in [0, 1, count / 2, count - 1] {
            let name = format!("{index:05}-{}", "long-name-".repeat(8));
            assert!(contents(&image, &ext4, &name) == format!("{index}").into_bytes());
        }
    }
}
