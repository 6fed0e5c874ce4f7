//! Where files lie, against what dump.erofs says and what reading touches.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use iofs_erofs::tree::{FileType, Tree};
use iofs_source::{ReadAt, ReadError};
use support::{Image, plant};

const OPTIONS: &[&[&str]] = &[
    &[],
    &["-Enoinline_data"],
    &["-zlz4hc,9", "-C65536"],
    &["-zlz4hc", "-C4096"],
    &["-zlz4hc", "-Elegacy-compress"],
    &["-zlz4", "-Eztailpacking", "-C65536"],
    &["-zlz4", "-Efragments", "-C65536"],
    &["--chunksize=4096"],
    &["--chunksize=65536", "-Eforce-chunk-indexes"],
];

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

/// The physical ranges that dump.erofs lists.
fn dumped(image: &Image, nid: u64) -> Vec<Range<u64>> {
    let text = image.dump(&["-e", "--nid", &nid.to_string()]);
    text.lines()
        .filter_map(|line| {
            let (_, physical) = line.split_once('|')?;
            let (_, physical) = physical.split_once(':')?;
            let (range, _) = physical.split_once('|')?;
            let (start, end) = range.split_once("..")?;
            Some(start.trim().parse().ok()?..end.trim().parse().ok()?)
        })
        .collect()
}

#[test]
fn blocks_are_where_dump_erofs_sees_them() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    for options in OPTIONS {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let tree = Tree::open(&bytes[..]).unwrap();
        let mut found = 0;
        for path in [
            "usr/bin/tool",
            "usr/bin/noise",
            "etc/deep/8192",
            "etc/deep/100",
        ] {
            let inode = tree.lookup(path).unwrap();
            let extents = dumped(&image, inode.nid);
            let shown = format!("{options:?} {path} {extents:?}");
            let Some(blocks) = tree.blocks(&inode).unwrap() else {
                let chunks = options[..].iter().any(|option| option.contains("chunk"));
                let fragments = options.contains(&"-Efragments");
                let behind = extents.iter().all(|extent| extent.start % 4096 != 0);
                assert!(chunks || fragments || behind, "{shown}");
                continue;
            };
            found += 1;
            let start = extents.first().unwrap().start;
            assert_eq!(blocks.start * 4096, start, "{shown}");
            let covered = extents
                .iter()
                .filter(|extent| blocks.contains(&(extent.start / 4096)))
                .map(|extent| extent.end - extent.start)
                .sum::<u64>();
            assert_eq!(blocks.end - blocks.start, covered.div_ceil(4096), "{shown}");
        }
        assert!(found > 0 || options[0].contains("chunk"), "{options:?}");
    }
}

#[test]
fn what_reading_touches_is_metadata() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path());
    for options in OPTIONS {
        let image = Image::make(options, root.path());
        let bytes = image.bytes();
        let watched = Watched {
            bytes: &bytes,
            pages: RefCell::default(),
        };
        let tree = Tree::open(&watched).unwrap();
        for node in tree.walk().collect::<Result<Vec<_>, _>>().unwrap() {
            let inode = &node.inode;
            let shown = format!("{options:?} {}", String::from_utf8_lossy(&node.path));
            watched.pages.borrow_mut().clear();
            tree.inode(inode.nid).unwrap();
            tree.xattrs(inode).unwrap();
            match inode.kind {
                FileType::Directory => drop(tree.entries(inode).unwrap()),
                FileType::Symlink => drop(tree.link_target(inode).unwrap()),
                _ => {}
            }
            let touched = watched.pages.take();
            let ranges = tree.metadata(inode).unwrap();
            let listed: BTreeSet<u64> = ranges
                .iter()
                .filter(|range| !range.is_empty())
                .flat_map(|range| range.start / 4096..=(range.end - 1) / 4096)
                .collect();
            assert!(
                touched.is_subset(&listed),
                "{shown}: {touched:?} {listed:?}"
            );
            // Nothing is asked for that has nothing to do with it: what is more
            // than that is the index.
            let more = listed.difference(&touched).count() as u64;
            let index = match inode.kind {
                FileType::Regular => inode.size.div_ceil(4096) * 8 / 4096 + 2,
                _ => 0,
            };
            assert!(more <= index, "{shown}: {touched:?} {listed:?}");
        }
    }
}
