//! The tree, against what mkfs.erofs was given and what dump.erofs says.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use iofs_erofs::tree::{FileType, Inode, Layout, Node, Tree, TreeError};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use support::{Image, field, noise, paths, plant};

const OPTIONS: &[&[&str]] = &[
    &[],
    &["-T1700000000", "-Eforce-inode-extended"],
    &["-T1700000000", "-Eforce-inode-compact", "--all-root"],
    &["-Enoinline_data"],
    &["-zlz4hc,9", "-C65536"],
    &["-zlz4hc", "-Elegacy-compress"],
    &["-zlz4", "-Eztailpacking,fragments", "-C65536"],
    &["-x1"],
    &["-x-1"],
    &["--chunksize=4096"],
    &["--chunksize=65536", "-Eforce-chunk-indexes"],
];

fn walk(bytes: &[u8]) -> (Tree<&[u8]>, Vec<Node>) {
    let tree = Tree::open(bytes).unwrap();
    let nodes = tree.walk().collect::<Result<_, _>>().unwrap();
    (tree, nodes)
}

fn read_all(tree: &Tree<&[u8]>, inode: &Inode) -> Result<Vec<u8>, TreeError> {
    let mut bytes = vec![0; usize::try_from(inode.size).unwrap()];
    tree.read(inode, 0, &mut bytes)?;
    Ok(bytes)
}

fn check_node(root: &Path, options: &[&str], tree: &Tree<&[u8]>, node: &Node, meta: &fs::Metadata) {
    let inode = &node.inode;
    let shown = format!("{options:?} {}", String::from_utf8_lossy(&node.path));
    let local = root.join(std::ffi::OsStr::from_bytes(&node.path[1..]));
    assert_eq!(u32::from(inode.mode), meta.mode(), "{shown}");
    let owner = if options.contains(&"--all-root") {
        (0, 0)
    } else {
        (meta.uid(), meta.gid())
    };
    assert_eq!((inode.uid, inode.gid), owner, "{shown}");
    assert_eq!(u64::from(inode.nlink), meta.nlink(), "{shown}");
    if inode.extended && !options.contains(&"-T1700000000") {
        assert_eq!(
            i128::from(inode.mtime.0),
            i128::from(meta.mtime()),
            "{shown}"
        );
    }
    match inode.kind {
        FileType::Regular => {
            assert_eq!(inode.size, meta.size(), "{shown}");
            let original = fs::read(local).unwrap();
            match read_all(tree, inode) {
                Ok(bytes) => assert!(bytes == original, "{shown}"),
                Err(error) => {
                    assert_eq!(error, TreeError::Compressed { nid: inode.nid }, "{shown}");
                    assert!(inode.layout.is_compressed() && inode.compressed_blocks.is_some());
                }
            }
        }
        FileType::Symlink => {
            let target = fs::read_link(local).unwrap();
            assert_eq!(
                tree.link_target(inode).unwrap(),
                target.as_os_str().as_bytes()
            );
        }
        FileType::CharDevice | FileType::BlockDevice => {
            let device = (libc_major(meta.rdev()), libc_minor(meta.rdev()));
            assert_eq!(inode.device, Some(device), "{shown}");
        }
        _ => assert_eq!(inode.device, None, "{shown}"),
    }
}

fn libc_major(device: u64) -> u32 {
    u32::try_from(device >> 8 & 0xfff).unwrap()
}

fn libc_minor(device: u64) -> u32 {
    u32::try_from(device & 0xff | device >> 12 & 0xf_ff00).unwrap()
}

#[test]
fn every_path_of_every_kind_of_image() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    let expected = paths(root.path());
    let mut layouts = Vec::new();
    for options in OPTIONS {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let (tree, nodes) = walk(&bytes);
        let found: Vec<_> = nodes.iter().map(|node| &node.path).collect();
        let wanted: Vec<_> = expected.iter().map(|(path, _)| path).collect();
        assert!(found == wanted, "{options:?}");
        for (node, (_, meta)) in nodes.iter().zip(&expected) {
            check_node(root.path(), options, &tree, node, meta);
            if !layouts.contains(&node.inode.layout) {
                layouts.push(node.inode.layout);
            }
        }
        let one = tree.lookup("usr/bin/tool").unwrap();
        for name in ["/usr/bin/again", "!hot/0001"] {
            assert_eq!(tree.lookup(name).unwrap().nid, one.nid, "{options:?}");
        }
    }
    // mkfs.erofs made what was asked for.
    for layout in [
        Layout::FlatPlain,
        Layout::FlatInline,
        Layout::CompressedFull,
        Layout::CompressedCompact,
        Layout::ChunkBased,
    ] {
        assert!(layouts.contains(&layout), "no inode is {layout:?}");
    }
}

#[test]
fn single_inodes_agree_with_dump_erofs() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    for options in [&["-T1"][..], &["-zlz4hc", "-C65536"]] {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let tree = Tree::open(&bytes[..]).unwrap();
        for path in ["!hot/0001", "usr/bin/noise", "etc/deep/100", "etc", "bin"] {
            let inode = tree.lookup(path).unwrap();
            let text = image.dump(&["--nid", &inode.nid.to_string()]);
            assert_eq!(field(&text, "File").trim_start_matches('/'), path);
            let line = |name: &str| {
                let at = text
                    .find(name)
                    .unwrap_or_else(|| panic!("no {name} in {text}"));
                let word = text[at + name.len()..].split_whitespace().next();
                word.unwrap().parse::<u64>().unwrap()
            };
            assert_eq!(line("Size:"), inode.size, "{text}");
            assert_eq!(line("On-disk size:"), on_disk(&inode), "{text}");
            assert_eq!(line("NID:"), inode.nid);
            assert_eq!(line("Links:"), u64::from(inode.nlink));
            assert_eq!(line("Layout:"), layout_number(inode.layout), "{text}");
            assert_eq!(line("Inode size:"), if inode.extended { 64 } else { 32 });
            assert_eq!(line("Uid:"), u64::from(inode.uid));
            assert_eq!(line("Gid:"), u64::from(inode.gid));
        }
    }
}

fn on_disk(inode: &Inode) -> u64 {
    match inode.compressed_blocks {
        Some(blocks) => u64::from(blocks) * 4096,
        None => inode.size,
    }
}

fn layout_number(layout: Layout) -> u64 {
    match layout {
        Layout::FlatPlain => 0,
        Layout::CompressedFull => 1,
        Layout::FlatInline => 2,
        Layout::CompressedCompact => 3,
        Layout::ChunkBased => 4,
    }
}

/// The attributes that the kernel shows, in their own and in the shared place.
#[test]
fn extended_attributes() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    for (options, shared) in [(&[][..], true), (&["-x100"], false), (&["-x-1"], false)] {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let (tree, nodes) = walk(&bytes);
        let mut count = 0;
        for node in &nodes {
            let attributes = tree.xattrs(&node.inode).unwrap();
            if options == ["-x-1"] {
                assert!(attributes.is_empty());
                continue;
            }
            count += attributes
                .iter()
                .filter(|attribute| attribute.shared)
                .count();
            let ours: BTreeMap<_, _> = attributes
                .into_iter()
                .map(|attribute| (String::from_utf8(attribute.name).unwrap(), attribute.value))
                .collect();
            let local = root
                .path()
                .join(std::ffi::OsStr::from_bytes(&node.path[1..]));
            assert_eq!(
                ours,
                local_attributes(&local),
                "{options:?} {}",
                local.display()
            );
        }
        assert_eq!(count > 0, shared, "{options:?}");
    }
}

fn local_attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = llistxattr(path, &mut names).unwrap();
    String::from_utf8(names[..len].to_vec())
        .unwrap()
        .split_terminator('\0')
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = lgetxattr(path, name, &mut value).unwrap();
            value.truncate(len);
            (name.to_string(), value)
        })
        .collect()
}

/// mkfs.erofs 1.5 writes no long prefixes: one is made by hand, in a block of
/// its own behind the image.
#[test]
fn long_prefixes_of_attributes() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"x").unwrap();
    lsetxattr(&file, "user.own", b"value", XattrFlags::empty()).unwrap();
    let mut bytes = Image::make(&["-Enosbcrc"], root.path()).bytes();
    let entry = bytes.windows(3).position(|bytes| bytes == b"own").unwrap() - 4;
    let start = u32::try_from(bytes.len()).unwrap();
    // Two records, padded to four bytes: `trusted.` and nothing, `security.long.`.
    bytes.extend_from_slice(&[1, 0, 4, 0]);
    bytes.extend_from_slice(&[6, 0, 6, b'l', b'o', b'n', b'g', b'.']);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let blocks = u32::try_from(bytes.len() / 4096).unwrap();
    bytes[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    bytes[1024 + 80] |= 0x40;
    bytes[1024 + 91] = 2;
    bytes[1024 + 92..1024 + 96].copy_from_slice(&(start / 4).to_le_bytes());
    for (index, name) in [(0x80, &b"trusted.own"[..]), (0x81, b"security.long.own")] {
        bytes[entry + 1] = index;
        let tree = Tree::open(&bytes[..]).unwrap();
        let attributes = tree.xattrs(&tree.lookup("file").unwrap()).unwrap();
        assert_eq!(attributes.len(), 1);
        assert_eq!(attributes[0].name, name);
        assert_eq!(attributes[0].value, b"value");
    }
    bytes[entry + 1] = 0x82;
    let tree = Tree::open(&bytes[..]).unwrap();
    assert!(tree.xattrs(&tree.lookup("file").unwrap()).is_err());
}

#[test]
fn reads_at_any_offset() {
    let root = tempfile::tempdir().unwrap();
    let data = noise(70_001, 3);
    fs::write(root.path().join("file"), &data).unwrap();
    for options in [&[][..], &["--chunksize=4096"], &["-Enoinline_data"]] {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let tree = Tree::open(&bytes[..]).unwrap();
        let inode = tree.lookup("file").unwrap();
        for (at, len) in [
            (0, 1),
            (4095, 2),
            (65_535, 4466),
            (69_632, 369),
            (70_001, 0),
        ] {
            let mut buf = vec![0; len];
            tree.read(&inode, at as u64, &mut buf).unwrap();
            assert!(buf == data[at..at + len], "{options:?} {at}");
        }
        let beyond = tree.read(&inode, 70_000, &mut [0; 2]).unwrap_err();
        assert_eq!(
            beyond,
            TreeError::BeyondEnd {
                nid: inode.nid,
                size: 70_001
            }
        );
        assert!(tree.read(&inode, u64::MAX, &mut [0; 2]).is_err());
    }
}

#[test]
fn paths_that_lead_nowhere() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    let bytes = Image::make(&[], root.path()).bytes();
    let tree = Tree::open(&bytes[..]).unwrap();
    assert_eq!(
        tree.lookup("etc/gone/file"),
        Err(TreeError::NotFound {
            path: "/etc/gone".into()
        })
    );
    assert_eq!(
        tree.lookup("etc/null/x"),
        Err(TreeError::NotADirectory {
            path: "/etc/null".into()
        })
    );
    assert_eq!(tree.lookup("").unwrap().nid, tree.superblock().root_nid);
    let file = tree.lookup("etc/deep/100").unwrap();
    assert!(tree.entries(&file).is_err() && tree.link_target(&file).is_err());
    let short = &bytes[..bytes.len() - 1];
    assert_eq!(
        Tree::open(short).unwrap_err(),
        TreeError::Truncated {
            expected: bytes.len() as u64,
            actual: bytes.len() as u64 - 1
        }
    );
}
