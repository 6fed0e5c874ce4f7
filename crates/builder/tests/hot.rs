//! Images with hot files: these come first, in order and in a row, and the list
//! behind the file system has every page that reaching them touches.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::profile::{HotFiles, Profile, ProfileFile, Recorder, Recording};
use builder::{BuiltImage, Container, ImageRequest, Silent, Source, build_image};
use common::*;
use iofs_erofs::Superblock;
use iofs_erofs::tree::Tree;
use iofs_prefetch::PrefetchList;
use iofs_source::{ReadAt, ReadError, Window};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The hot files, in the order of the first touch.
const HOT: [&str; 4] = [
    "usr/lib/numbers",
    "usr/bin/tool",
    "etc/os-release",
    "usr/lib/random",
];

fn file(tree: &Path, path: &str, pages: &[[u32; 2]]) -> ProfileFile {
    ProfileFile {
        path: path.into(),
        size: tree.join(path).metadata().unwrap().len(),
        pages: pages.to_vec(),
    }
}

fn profile(tree: &Path) -> Profile {
    Profile {
        version: builder::profile::VERSION,
        root_hash: None,
        uuid: builder::Uuid::from_u128(7),
        kernel_release: "6.12".into(),
        image_bytes: 0,
        files: vec![
            file(tree, HOT[0], &[[0, 3], [10, 20]]),
            file(tree, HOT[1], &[[0, 2]]),
            file(tree, HOT[2], &[[0, 1]]),
            file(tree, HOT[3], &[[5, 1]]),
        ],
    }
}

fn built(tree: &Path, output: &Path, hot: HotFiles, container: Container) -> BuiltImage {
    let request = ImageRequest {
        hot,
        container,
        ..ImageRequest::new(Source::Root(tree.to_owned()), output.to_owned())
    };
    build_image(&request, &Silent).unwrap()
}

fn list_of<S: ReadAt + ?Sized>(image: &S) -> PrefetchList {
    let superblock = Superblock::read(image).unwrap();
    PrefetchList::read(image, superblock.uuid, superblock.size_bytes())
        .unwrap()
        .unwrap()
}

/// A medium that notes which of its pages are read.
struct Watched<'a> {
    bytes: &'a [u8],
    pages: RefCell<BTreeSet<u64>>,
}

impl ReadAt for &Watched<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if let Some(last) = (buf.len() as u64).checked_sub(1) {
            let pages = offset / 4096..=(offset + last) / 4096;
            self.pages.borrow_mut().extend(pages);
        }
        self.bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[test]
fn hot_files_lie_first_in_order_and_in_a_row() {
    need(&["mkfs.erofs", "fsck.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    // A link that leads to a hot file, and one that leads elsewhere.
    std::os::unix::fs::symlink("numbers", tree.join("usr/lib/digits")).unwrap();
    let before = listing(&tree);
    let output = dir.path().join("image");
    let mut wanted = profile(&tree);
    wanted.files.push(ProfileFile {
        path: "usr/bin/gone".into(),
        size: 3,
        pages: Vec::new(),
    });
    let mut other_size = file(&tree, "etc/initrd-release", &[]);
    other_size.size += 1;
    wanted.files.push(other_size);
    let built = built(&tree, &output, HotFiles::Recorded(wanted), Container::None);
    let summary = built.summary.prefetch.unwrap();
    assert!(summary.recorded);
    assert_eq!(summary.skipped, 2);
    let warnings = &built.summary.warnings;
    assert!(
        warnings
            .iter()
            .any(|w| w.starts_with("2 of the boot profile's 6"))
    );

    let bytes = fs::read(&output).unwrap();
    assert_eq!(built.expect.size % 4096, 0);
    assert_eq!(bytes.len() as u64, built.expect.size + summary.list_bytes);
    let list = list_of(&bytes[..]);
    let watched = Watched {
        bytes: &bytes,
        pages: RefCell::default(),
    };
    let image = Tree::open(&watched).unwrap();
    // Of the files with blocks of their own, the first is the first of all.
    let mut end = None;
    let mut on_disk = Vec::new();
    for path in HOT {
        let inode = image.lookup(path).unwrap();
        assert!(inode.nlink >= 2, "{path}");
        if let Some(blocks) = image.blocks(&inode).unwrap() {
            assert!(end.is_none_or(|end| end == blocks.start), "{path}");
            end = Some(blocks.end);
            on_disk.push((path, blocks));
        }
    }
    let first = on_disk[0].1.start;
    let firsts = image.walk().filter_map(|node| {
        let node = node.unwrap();
        let regular = node.inode.kind == iofs_erofs::tree::FileType::Regular;
        let blocks = image.blocks(&node.inode).unwrap().filter(|_| regular)?;
        Some(blocks.start)
    });
    assert_eq!(firsts.min(), Some(first));
    let listed: Vec<_> = list.files.iter().map(|file| file.path.as_str()).collect();
    let expected: Vec<_> = on_disk.iter().map(|(path, _)| *path).collect();
    assert_eq!(listed, expected);
    assert!(
        !listed.contains(&"etc/os-release"),
        "it lies behind its inode"
    );
    let numbers = &list.files[0].ranges;
    let numbers: Vec<_> = numbers.iter().map(|r| [r.start, r.len]).collect();
    assert_eq!(numbers, [[0, 3], [10, 20]]);

    // Everything that is touched on the way is in the list.
    watched.pages.borrow_mut().clear();
    for path in HOT {
        let inode = image.lookup(path).unwrap();
        image.xattrs(&inode).unwrap();
        image.blocks(&inode).unwrap();
    }
    for link in ["usr/lib/digits", "lib"] {
        let inode = image.lookup(link).unwrap();
        image.link_target(&inode).unwrap();
    }
    let touched = watched.pages.take();
    let metadata: BTreeSet<u64> = list
        .metadata
        .iter()
        .flat_map(|range| u64::from(range.start)..u64::from(range.end()))
        .collect();
    assert!(touched.is_subset(&metadata), "{touched:?} {metadata:?}");
    // And not much more: the random bytes alone have 74 blocks.
    assert!(metadata.len() < 24, "{metadata:?}");

    // The tree is what it was, but for the second names.
    sh(dir.path(), "fsck.erofs image");
    let mounted = Mounted::new(&output);
    let mut found = listing_of_image(&mounted.path, &before);
    found.retain(|path, _| !path.starts_with("!hot"));
    let strip = |line: &String| {
        // A name of another link, where there is one, is another.
        let (what, rest) = line.rsplit_once(" =").unwrap();
        format!("{what} {}", rest.split_once(' ').unwrap().1)
    };
    let plain = |listing: &std::collections::BTreeMap<String, String>| {
        listing
            .iter()
            .map(|(path, line)| (path.clone(), strip(line)))
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&found), plain(&before));
    let folder = mounted.path.join("!hot");
    let names: Vec<_> = listing(&folder).into_keys().collect();
    assert_eq!(names, ["", "0001", "0002", "0003", "0004"]);
}

#[test]
fn disk_images_have_it_under_the_root_hash_and_repeat() {
    need(&["mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    let wrapped = || Container::Ddi { signer: None };
    let build = |name: &str, profile: Profile| {
        let output = dir.path().join(name);
        let built = built(&tree, &output, HotFiles::Recorded(profile), wrapped());
        (built, fs::read(&output).unwrap())
    };
    let (first, bytes) = build("first", profile(&tree));
    let (_, again) = build("again", profile(&tree));
    assert!(bytes == again, "the bytes differ");
    let image = ddi::Ddi::read(&bytes[..], ddi::Arch::NATIVE).unwrap();
    let root = Window::new(&bytes[..], image.root.start, image.root.len).unwrap();
    let list = list_of(&root);
    assert_eq!(list.size, first.expect.size);
    assert_eq!(list.files[0].path, HOT[0]);
    // Proven with the rest: a changed byte of it is found.
    let hash = first.root_hash.unwrap();
    image.verify_all(&bytes[..], &hash, |_| {}).unwrap();
    let mut changed = bytes.clone();
    let at = usize::try_from(image.root.start + PrefetchList::place(list.size).unwrap()).unwrap();
    changed[at + 70] ^= 1;
    image.verify_all(&changed[..], &hash, |_| {}).unwrap_err();
    // Another order is another image.
    let mut other = profile(&tree);
    other.files.reverse();
    let (other, _) = build("other", other);
    assert_ne!(other.expect.uuid, first.expect.uuid);
    let mut other = profile(&tree);
    other.files[0].pages = vec![[0, 1]];
    let (other, _) = build("other", other);
    assert_ne!(other.expect.uuid, first.expect.uuid);
}

#[test]
fn without_a_profile_programs_and_libraries_are_guessed() {
    need(&["mkfs.erofs", "ldd"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("usr/lib/modules/6.12/kernel")).unwrap();
    fs::create_dir_all(tree.join("usr/bin")).unwrap();
    fs::write(tree.join("usr/lib/modules/6.12/modules.dep.bin"), [7; 9000]).unwrap();
    fs::write(tree.join("usr/lib/unused"), [8; 50_000]).unwrap();
    // A shell with its libraries where the system has them, and a script.
    sh(
        &tree,
        "ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; mkdir -p usr/lib64
         cp -L /bin/sh usr/bin/sh
         ldd /bin/sh | grep -o '/[^ ]*' | while read -r f; do
             mkdir -p \".$(dirname $f)\"; cp -L \"$f\" \".$f\"; done
         printf '#!/bin/sh\\necho\\n' > init; chmod 755 init",
    );
    let output = dir.path().join("image");
    let built = built(&tree, &output, HotFiles::Generic, Container::None);
    assert!(!built.summary.prefetch.unwrap().recorded);
    let bytes = fs::read(&output).unwrap();
    let list = list_of(&bytes[..]);
    let has = |end: &str| list.files.iter().any(|file| file.path.ends_with(end));
    assert!(has("usr/bin/sh") && has("libc.so.6") && has("modules.dep.bin"));
    assert!(
        list.files
            .iter()
            .any(|file| file.path.contains("/ld-linux"))
    );
    assert!(!has("unused"));
    // A profile of something else is no use: the guess is taken.
    let other = Profile {
        files: vec![ProfileFile {
            path: "opt/elsewhere".into(),
            size: 1,
            pages: Vec::new(),
        }],
        ..profile_of_nothing()
    };
    let other = self::built(&tree, &output, HotFiles::Recorded(other), Container::None);
    let summary = other.summary.prefetch.unwrap();
    assert!(!summary.recorded && summary.skipped == 1);
    assert!(fs::read(&output).unwrap() == bytes);
}

#[test]
fn great_libraries_of_libraries_are_linked_but_not_read_whole() {
    need(&["mkfs.erofs", "cc"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("usr/lib")).unwrap();
    sh(
        &tree,
        "echo 'const char great[600 << 10] = {1}; int deep(int i) { return great[i]; }' >deep.c
         echo 'int deep(int); int near(int i) { return deep(i); }' >near.c
         echo 'int near(int); int main(int n, char **v) { return near(n); }' >init.c
         cc -shared -fPIC -o usr/lib/libdeep.so deep.c
         cc -shared -fPIC -o usr/lib/libnear.so near.c -Lusr/lib -ldeep
         cc -o init init.c -Lusr/lib -lnear -Wl,-rpath-link,usr/lib
         rm ./*.c",
    );
    let output = dir.path().join("image");
    built(&tree, &output, HotFiles::Generic, Container::None);
    let list = list_of(&fs::read(&output).unwrap()[..]);
    let pages = |end: &str| -> u64 {
        let file = list.files.iter().find(|file| file.path.ends_with(end));
        file.unwrap().ranges.iter().map(|r| u64::from(r.len)).sum()
    };
    let size = |path: &str| fs::metadata(tree.join(path)).unwrap().len();
    assert_eq!(
        pages("libnear.so"),
        size("usr/lib/libnear.so").div_ceil(4096)
    );
    let deep = pages("libdeep.so");
    assert!(deep > 0 && deep * 4096 < size("usr/lib/libdeep.so") - (600 << 10) + 3 * 4096);
}

fn profile_of_nothing() -> Profile {
    Profile {
        version: builder::profile::VERSION,
        root_hash: None,
        uuid: builder::Uuid::from_u128(7),
        kernel_release: String::new(),
        image_bytes: 0,
        files: Vec::new(),
    }
}

#[test]
fn a_trace_becomes_a_profile() {
    need(&["mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let tree = sample_tree(dir.path());
    let output = dir.path().join("image");
    let hot = HotFiles::Recorded(profile(&tree));
    let image = built(&tree, &output, hot, Container::None);
    let bytes = fs::read(&output).unwrap();
    let read = Tree::open(&bytes[..]).unwrap();
    let nid = |path: &str| read.lookup(path).unwrap().nid;
    let mut recorder = Recorder::default();
    let mut event = |dev: u32, nid: u64, page: u64| {
        let line = format!(
            " init-1 [000] ..... 1.0: mm_filemap_add_to_page_cache: dev {dev}:3 ino {nid:x} pfn=0x1 ofs={} order=0",
            page * 4096
        );
        recorder.line(&line, (254, 3));
    };
    event(254, nid("usr/lib/random"), 2);
    event(254, nid("usr/lib"), 0);
    event(254, nid("usr/bin/tool-again"), 0);
    event(7, nid("usr/lib/numbers"), 0);
    event(254, nid("usr/lib/random"), 3);
    event(254, nid("usr/lib/random"), 99_999);
    event(254, 0xffff_ffff, 0);
    recorder.line("CPU:0 [LOST 5 EVENTS]", (254, 3));
    let recording = recorder.finish(&read, None, "6.12".into()).unwrap();
    assert_eq!((recording.lost, recording.left_out), (5, 1));
    let recorded = recording.profile;
    assert_eq!(recorded.uuid, image.expect.uuid);
    assert_eq!(recorded.image_bytes, image.summary.raw_bytes);
    let files: Vec<_> = recorded
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.pages.clone()))
        .collect();
    // Any name of the program, but not the builder's own.
    assert_eq!(files[0], ("usr/lib/random", vec![[2, 2]]));
    assert!(files[1].0.contains("tool"), "{files:?}");
    assert_eq!(files.len(), 2);
    let text = serde_json::to_vec(&recorded).unwrap();
    assert_eq!(Profile::parse(&text).unwrap(), recorded);

    let record = "0+3,5+9999 usr/lib/numbers\n0+1 usr/bin/tool\n0+1 usr/bin/tool-again\n\
                  0+1 gone\n0+0 usr/bin/tool\nlost 7\nend\n0+1 usr/lib/random\n";
    let recording = Recording::of_opened(record, &read, None, "6.12".into()).unwrap();
    assert_eq!((recording.left_out, recording.lost), (2, 7));
    let files = &recording.profile.files;
    assert_eq!(files.len(), 2);
    assert_eq!(files[0].path, "usr/lib/numbers");
    let pages = u32::try_from(files[0].size.div_ceil(4096)).unwrap();
    assert_eq!(files[0].pages, [[0, 3], [5, pages - 5]]);
    let early = Recording::of_opened("0+1 usr/bin/tool\n", &read, None, "6.12".into());
    assert!(early.unwrap_err().to_string().contains("not whole"));
}
