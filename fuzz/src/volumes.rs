//! File systems.

use core::ops::ControlFlow;

use iofs_erofs::Superblock;
use iofs_erofs::tree::{FileType, Tree};
use iofs_ext4::{EntryKind, Ext4};
use iofs_fat::{Fat, FatError, MAX_DIRECTORY};
use iofs_source::{Limited, ReadAt, ReadError, ReadErrorKind};

/// Size of the medium that a volume lies on, in bytes.
pub(crate) const MEDIUM: u64 = 4 << 20;

/// What a lookup on a medium of that size may read. A chain that jumps about
/// costs 4 KiB a cluster: the worst there is.
const LOOKUP: u64 = 256 << 20;

/// How many directories and files are looked at.
const NODES: u32 = 48;
const DEPTH: u32 = 3;

/// Bytes, and zeros up to [`MEDIUM`].
struct Padded<'a>(&'a [u8]);

impl ReadAt for Padded<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > MEDIUM) {
            let kind = ReadErrorKind::OutOfBounds { size: MEDIUM };
            return Err(ReadError { offset, len, kind });
        }
        let here = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or(&[]);
        let (filled, zeros) = buf.split_at_mut(here.len().min(buf.len()));
        filled.copy_from_slice(&here[..filled.len()]);
        zeros.fill(0);
        Ok(())
    }

    fn size(&self) -> u64 {
        MEDIUM
    }
}

/// FAT volumes.
///
/// Input: the first bytes of a medium of 4 MiB.
///
/// Invariants:
/// * no panic, and every lookup ends: it reads less than 256 MiB;
/// * what is opened has its FATs, root and clusters inside the medium;
/// * a directory has at most 65536 entries, all with a name that may be joined
///   to a path;
/// * a visit that breaks off has seen the first entry and no more;
/// * a file's map keeps what `FileMap` promises, and its size is the one that
///   the directory states.
pub fn fat(data: &[u8]) {
    let medium = Padded(data);
    let Ok(volume) = Fat::open(&medium) else {
        return;
    };
    let info = volume.info();
    assert!(info.volume_size <= MEDIUM);
    assert!(u64::from(info.clusters) * u64::from(info.cluster_size) <= info.volume_size);
    if let Err(error) = volume.label() {
        drop(error.to_string());
    }
    let mut nodes = NODES;
    visit_fat(&medium, "", DEPTH, &mut nodes);
}

fn visit_fat(medium: &Padded<'_>, path: &str, depth: u32, nodes: &mut u32) {
    // Each lookup with a limit of its own.
    let limited = Limited::new(medium, LOOKUP);
    let Ok(volume) = Fat::open(&limited) else {
        return;
    };
    let entries = match volume.entries(path) {
        Ok(entries) => entries,
        Err(error) => return fat_refused(&error),
    };
    assert!(entries.len() as u64 <= MAX_DIRECTORY / 32);
    // An error can only be that the limit is used up.
    let mut first = None;
    let stopped = volume.visit(path, &mut |entry| {
        assert!(first.replace(entry).is_none());
        ControlFlow::Break(())
    });
    assert!(stopped.is_err() || first.as_ref() == entries.first());
    for entry in &entries {
        assert!(!matches!(&*entry.name, "" | "." | ".."));
        assert!(
            !entry
                .name
                .contains(|c: char| c < ' ' || c == '/' || c == '\\')
        );
    }
    for entry in &entries {
        if *nodes == 0 {
            return;
        }
        *nodes -= 1;
        let child = format!("{path}/{}", entry.name);
        if entry.is_dir {
            if depth > 0 {
                visit_fat(medium, &child, depth - 1, nodes);
            }
            continue;
        }
        let limited = Limited::new(medium, LOOKUP);
        match Fat::open(&limited).and_then(|volume| {
            let map = volume.locate(&child)?;
            Ok((volume.info().clone(), map))
        }) {
            Ok((info, map)) => {
                let checked = map.check(info.volume_size, info.sector_size.into());
                assert_eq!(checked, Ok(()));
                // Another file of the same name may stand before it.
                let mut same = entries.iter().filter(|other| other.size == map.size);
                assert!(same.next().is_some());
            }
            Err(error) => fat_refused(&error),
        }
    }
}

fn fat_refused(error: &FatError) {
    if let FatError::Read(error) = error {
        assert!(!matches!(error.kind, ReadErrorKind::LimitReached { .. }));
    }
    drop(error.to_string());
}

/// ext2, ext3 and ext4 volumes.
///
/// Input: the first bytes of a medium of 4 MiB.
///
/// Invariants:
/// * no panic; what is read is bounded from outside, as PID 1 does it;
/// * names have 1 to 255 bytes, without NUL and slash;
/// * a file's map keeps what `FileMap` promises.
pub fn ext4(data: &[u8]) {
    let mut nodes = NODES;
    visit_ext4(&Padded(data), "", DEPTH, &mut nodes);
}

fn visit_ext4(medium: &Padded<'_>, path: &str, depth: u32, nodes: &mut u32) {
    let limit = 16 * MEDIUM;
    let limited = Limited::new(medium, limit);
    let volume = match Ext4::open(&limited) {
        Ok(volume) => volume,
        Err(error) => return drop(error.to_string()),
    };
    drop(volume.info());
    let entries = match volume.entries(path) {
        Ok(entries) => entries,
        Err(error) => return drop(error.to_string()),
    };
    // An error can only be that the limit is used up.
    let mut first = None;
    let stopped = volume.visit(path, &mut |entry| {
        assert!(first.replace(entry).is_none());
        ControlFlow::Break(())
    });
    assert!(stopped.is_err() || first.as_ref() == entries.first());
    for entry in &entries {
        assert!((1..=255).contains(&entry.name.len()));
        assert!(!entry.name.contains(&0) && !entry.name.contains(&b'/'));
    }
    for entry in entries {
        if *nodes == 0 {
            return;
        }
        *nodes -= 1;
        let Ok(name) = core::str::from_utf8(&entry.name) else {
            continue;
        };
        let child = format!("{path}/{name}");
        if depth > 0 && entry.kind == EntryKind::Directory {
            visit_ext4(medium, &child, depth - 1, nodes);
        }
        let limited = Limited::new(medium, limit);
        match Ext4::open(&limited).and_then(|volume| volume.locate(&child)) {
            Ok(map) => assert_eq!(map.check(MEDIUM, 512), Ok(())),
            Err(error) => drop(error.to_string()),
        }
    }
}

/// EROFS superblocks and trees.
///
/// Input: the first bytes of a medium of 4 MiB.
///
/// Invariants:
/// * no panic, and no more read for it than the superblock and its block;
/// * what is accepted has a block size that the kernel knows and is large
///   enough for its superblock. Whether the medium is as large is the caller's
///   to ask;
/// * paths in the tree are absolute, without `.` and `..`, and each is found
///   again by its path;
/// * the blocks of a file lie inside the file system.
pub fn erofs(data: &[u8]) {
    read_erofs(data);
    walk_erofs(data);
    // Again without the checksum, which would end most inputs: bit 0 of the
    // compatible features, byte 1024 + 8.
    let mut unsealed = data.to_vec();
    if let Some(byte) = unsealed.get_mut(1024 + 8) {
        *byte &= !1;
        read_erofs(&unsealed);
        walk_erofs(&unsealed);
    }
}

fn read_erofs(data: &[u8]) {
    let limited = Limited::new(Padded(data), 128 + (64 << 10));
    match Superblock::read(&limited) {
        Ok(superblock) => {
            assert!((9..=16).contains(&superblock.block_bits));
            assert!(superblock.size_bytes() >= 1024 + u64::from(superblock.len));
            drop(superblock.features.to_string());
            assert!(superblock.algorithms().count() <= 4);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                !text.contains("of metadata would have to be read"),
                "{text}"
            );
        }
    }
}

fn walk_erofs(data: &[u8]) {
    let limited = Limited::new(Padded(data), 16 * MEDIUM);
    let Ok(tree) = Tree::open(&limited) else {
        return;
    };
    for node in tree.walk().take(NODES as usize) {
        let node = match node {
            Ok(node) => node,
            Err(error) => return drop(error.to_string()),
        };
        assert!(node.path.starts_with(b"/"));
        let mut components = node.path.split(|&byte| byte == b'/');
        assert!(components.all(|c| !matches!(c, b"." | b"..")));
        if let Ok(path) = core::str::from_utf8(&node.path) {
            let found = tree.lookup(path).map(|inode| inode.nid);
            // The limit may be reached between the two.
            assert!(found.is_err() || found == Ok(node.inode.nid));
        }
        drop(tree.xattrs(&node.inode));
        if let Ok(ranges) = tree.metadata(&node.inode) {
            assert!(ranges.iter().all(|range| range.start <= range.end));
        }
        if let Ok(Some(blocks)) = tree.blocks(&node.inode) {
            let size = tree.superblock().size_bytes();
            assert!(blocks.start < blocks.end);
            assert!(blocks.end <= size >> tree.superblock().block_bits);
        }
        match node.inode.kind {
            FileType::Symlink => drop(tree.link_target(&node.inode)),
            FileType::Regular => {
                let mut buf = [0; 512];
                let offset = node.inode.size.saturating_sub(512);
                drop(tree.read(&node.inode, offset, &mut buf));
            }
            _ => {}
        }
    }
}
