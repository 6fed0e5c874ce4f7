//! Extent trees and block maps that are too deep, lead into themselves or out
//! of what 64 bits can say: refused, after a bounded number of reads.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::fs;

use iofs_ext4::{Ext4, Ext4Error};
use iofs_source::{FileMap, ReadAt, ReadError};
use support::{Image, noise};

const BLOCK: usize = 1024;
const FILE: &str = "image";
/// Blocks of the file.
const BLOCKS: u16 = 16;
const SIZE: u64 = BLOCK as u64 * BLOCKS as u64;
/// Where there is nothing on the volume: trees are built there, and the file's
/// blocks are said to be there.
const FIRST: u64 = 4096;

/// The most that is read: 16384 nodes, and what leads to the inode.
const BOUND: u64 = 16_384 * BLOCK as u64 + (64 << 10);

/// A volume without checksums, so that all that it says is believed.
struct Victim {
    bytes: Vec<u8>,
    /// Where the file's inode is, in bytes.
    inode: usize,
}

fn victim(features: &str) -> Victim {
    let tree = tempfile::tempdir().unwrap();
    let data = noise(BLOCK * usize::from(BLOCKS), 1);
    fs::write(tree.path().join(FILE), &data).unwrap();
    let options = ["-t", "ext4", "-b", "1024", "-O", features];
    let image = Image::make(&options, "8M", Some(tree.path()));
    let text = image.ask(&format!("imap {FILE}"));
    let field = |name: &str| {
        let (_, rest) = text.split_once(name).unwrap();
        let end = rest.find(|c: char| !c.is_ascii_hexdigit());
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    let block: usize = field("located at block ").parse().unwrap();
    let offset = usize::from_str_radix(&field("offset 0x"), 16).unwrap();
    assert_eq!(image.open().unwrap().locate(FILE).unwrap().size, SIZE);
    Victim {
        bytes: image.bytes(),
        inode: block * BLOCK + offset,
    }
}

fn extents() -> Victim {
    victim("^metadata_csum,^has_journal,extent,64bit")
}

/// What is found, and how many bytes were read for it.
fn locate(bytes: &[u8]) -> (Result<FileMap, Ext4Error>, u64) {
    struct Meter<'a>(&'a [u8], Cell<u64>);
    impl ReadAt for Meter<'_> {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            self.1.set(self.1.get() + buf.len() as u64);
            self.0.read_at(offset, buf)
        }
        fn size(&self) -> u64 {
            self.0.size()
        }
    }
    let meter = Meter(bytes, Cell::new(0));
    let found = Ext4::open(&meter).and_then(|ext4| ext4.locate(FILE));
    (found, meter.1.get())
}

/// Why the file is refused; never after more reads than are allowed.
fn refused(bytes: &[u8]) -> String {
    let (found, read) = locate(bytes);
    assert!(read <= BOUND, "{read} bytes read");
    found.unwrap_err().to_string()
}

impl Victim {
    fn put(&mut self, at: usize, field: &[u8]) {
        self.bytes[at..at + field.len()].copy_from_slice(field);
    }

    /// Where the inode's block area or a free block is, in bytes.
    fn place(&self, node: Option<u64>) -> usize {
        match node {
            None => self.inode + 40,
            Some(block) => usize::try_from(FIRST + block).unwrap() * BLOCK,
        }
    }

    /// Writes an extent tree node of this depth with one entry that starts at
    /// block 0: `low` to `high` are its last two fields.
    fn node(&mut self, node: Option<u64>, depth: u16, entry: [u8; 8]) {
        let most: u16 = if node.is_none() { 4 } else { 84 };
        let fields = [0xf30a, 1, most, depth];
        let header: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
        let at = self.place(node);
        self.put(at, &header);
        self.put(at + 8, &[0; 8]);
        self.put(at + 16, &entry);
    }

    /// A node whose only child is one of the free blocks.
    fn index(&mut self, node: Option<u64>, depth: u16, child: u64) {
        let block = FIRST + child;
        self.node(node, depth, index_entry(block));
    }

    /// A leaf that maps the whole file to where it lies.
    fn leaf(&mut self, node: Option<u64>) {
        self.node(node, 0, leaf_entry(BLOCKS, FIRST));
    }
}

/// The block's low 32 bits, its high 16, nothing.
fn index_entry(block: u64) -> [u8; 8] {
    let mut entry = [0; 8];
    entry[..6].copy_from_slice(&block.to_le_bytes()[..6]);
    entry
}

/// The length, the block's high 16 bits, its low 32.
fn leaf_entry(len: u16, block: u64) -> [u8; 8] {
    let block = block.to_le_bytes();
    let mut entry = [0; 8];
    entry[..2].copy_from_slice(&len.to_le_bytes());
    entry[2..4].copy_from_slice(&block[4..6]);
    entry[4..].copy_from_slice(&block[..4]);
    entry
}

#[test]
fn extent_trees_deeper_than_five_are_refused() {
    // The deepest that the kernel knows is read, so that the next is refused for
    // its depth.
    for depth in 1..=8u16 {
        let mut victim = extents();
        victim.index(None, depth, 0);
        for below in 1..depth {
            let node = u64::from(below - 1);
            victim.index(Some(node), depth - below, node + 1);
        }
        victim.leaf(Some(u64::from(depth - 1)));
        let (found, read) = locate(&victim.bytes);
        assert!(read <= BOUND);
        match found {
            Ok(map) => {
                assert!(depth <= 5, "depth {depth}");
                let [extent] = map.extents[..] else {
                    panic!("depth {depth}: {:?}", map.extents)
                };
                let physical = FIRST * BLOCK as u64;
                assert_eq!((extent.physical, extent.len), (physical, SIZE));
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    depth > 5 && error.contains("wrong depth"),
                    "{depth}: {error}"
                );
            }
        }
    }
    let mut victim = extents();
    victim.index(None, u16::MAX, 0);
    assert!(refused(&victim.bytes).contains("wrong depth"));
}

#[test]
fn extent_trees_that_loop_are_refused() {
    // A node that is its own child, one that has the root's depth, and two that
    // have each other.
    let mut own = extents();
    own.index(None, 5, 0);
    own.index(Some(0), 4, 0);
    assert!(refused(&own.bytes).contains("wrong depth"));
    own.index(Some(0), 5, 0);
    assert!(refused(&own.bytes).contains("wrong depth"));
    let mut two = extents();
    two.index(None, 5, 0);
    two.index(Some(0), 4, 1);
    two.index(Some(1), 3, 0);
    assert!(refused(&two.bytes).contains("wrong depth"));
    // Every entry of every level leads to the same node below: 84 to the fifth
    // leaves, if they were all visited.
    let mut wide = extents();
    wide.index(None, 5, 0);
    for node in 0..4u64 {
        let depth = u16::try_from(4 - node).unwrap();
        wide.index(Some(node), depth, node + 1);
        let at = wide.place(Some(node));
        wide.put(at + 2, &84u16.to_le_bytes());
        for entry in 0..84u32 {
            let place = at + 12 * (1 + entry as usize);
            let child = index_entry(FIRST + node + 1);
            wide.put(place, &entry.to_le_bytes());
            wide.put(place + 4, &child);
        }
    }
    wide.leaf(Some(4));
    let error = refused(&wide.bytes);
    assert!(error.contains("overlaps the next"), "{error}");
}

#[test]
fn block_maps_that_loop_are_refused() {
    let mut victim = victim("^metadata_csum,^has_journal,^extent,^64bit");
    // All pointers of a block lead to that block, which is the
    // indirect block of each level: 256 to the third ways, were they all taken.
    let first = u32::try_from(FIRST).unwrap();
    let block: Vec<u8> = first.to_le_bytes().repeat(BLOCK / 4);
    let (map, at) = (victim.place(None), victim.place(Some(0)));
    victim.put(at, &block);
    victim.put(map + 48, &first.to_le_bytes().repeat(3));
    // As large as the map can say: (12 + 256 + 256^2 + 256^3) blocks.
    let size = (12 + 256 + (1 << 16) + (1u64 << 24)) * BLOCK as u64;
    let inode = victim.inode;
    victim.put(inode + 4, &size.to_le_bytes()[..4]);
    victim.put(inode + 108, &size.to_le_bytes()[4..]);
    let error = refused(&victim.bytes);
    assert!(error.contains("more than 65536 pieces"), "{error}");
}

#[test]
fn sizes_and_places_that_overflow_64_bits_are_refused() {
    const FARTHEST: u64 = (1 << 48) - 1;
    let mut victim = extents();
    victim.node(None, 0, leaf_entry(BLOCKS, FARTHEST));
    assert!(refused(&victim.bytes).contains("outside the volume"));
    victim.node(None, 1, index_entry(FARTHEST));
    assert!(refused(&victim.bytes).contains("leaves the volume"));
    // Unwritten and written extents of all lengths that end behind block 2^32.
    for len in [1, 0x8000, 0x8001, u16::MAX] {
        victim.node(None, 0, leaf_entry(len, FIRST));
        let at = victim.place(None);
        victim.put(at + 12, &u32::MAX.to_le_bytes());
        let (found, read) = locate(&victim.bytes);
        assert!(read <= BOUND);
        // One block there is the last that there can be; the file does not reach it.
        assert!(found.is_err(), "{len:#x}: {found:?}");
    }
    for size in [u64::MAX, i64::MAX as u64, 1 << 63, 1 << 60] {
        let mut victim = extents();
        let inode = victim.inode;
        victim.put(inode + 4, &size.to_le_bytes()[..4]);
        victim.put(inode + 108, &size.to_le_bytes()[4..]);
        refused(&victim.bytes);
    }
    // The number of blocks, whose high half the feature 64bit allows.
    for high in [u32::MAX, 1 << 31, 1 << 22] {
        let mut victim = extents();
        victim.put(1024 + 0x150, &high.to_le_bytes());
        let error = refused(&victim.bytes);
        assert!(error.contains("blocks_count"), "{high:#x}: {error}");
    }
}
