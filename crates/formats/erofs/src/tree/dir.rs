//! Directories: blocks of entries, each followed by the block's names.

use alloc::vec;
use alloc::vec::Vec;

use iofs_source::ReadAt;

use super::{FileType, Inode, Tree, TreeError, data};
use crate::bytes::{byte, le16, le64};

/// Length of an entry (`struct erofs_dirent`), in bytes.
const ENTRY: usize = 12;
const MAX_NAME: usize = 255;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, 1 to 255 bytes without NUL and `/`.
    pub name: Vec<u8>,
    /// Node id of its inode.
    pub nid: u64,
    /// What the directory says that it is.
    pub kind: FileType,
}

/// Reads a whole directory, `.` and `..` included if it has them, and checks
/// that the names ascend, as the kernel's binary search needs them to.
pub(super) fn read<S: ReadAt>(tree: &Tree<S>, inode: &Inode) -> Result<Vec<Entry>, TreeError> {
    if inode.size > tree.superblock.size_bytes() {
        return Err(inode.corrupt("the directory is longer than the image"));
    }
    let block = u64::from(tree.superblock.block_size());
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    let mut buf = vec![0; tree.superblock.block_size() as usize];
    while at < inode.size {
        // At most a block.
        let len = usize::try_from((inode.size - at).min(block)).unwrap_or(0);
        let bytes = buf.get_mut(..len).unwrap_or(&mut []);
        data::read(tree, inode, at, bytes)?;
        read_block(inode, bytes, &mut entries)?;
        at += block;
    }
    Ok(entries)
}

fn read_block(inode: &Inode, block: &[u8], entries: &mut Vec<Entry>) -> Result<(), TreeError> {
    let first = usize::from(le16(block, 8));
    if first < ENTRY || first % ENTRY != 0 || first >= block.len() {
        return Err(inode.corrupt("a directory block has no whole number of entries"));
    }
    let count = first / ENTRY;
    for index in 0..count {
        let at = ENTRY * index;
        let start = usize::from(le16(block, at + 8));
        let is_last = index + 1 == count;
        let end = if is_last {
            block.len()
        } else {
            usize::from(le16(block, at + ENTRY + 8))
        };
        // Names follow the entries and each other.
        let mut name = match block.get(start..end) {
            Some(name) if start >= first => name,
            _ => return Err(inode.corrupt("the names of a directory block are out of order")),
        };
        if is_last {
            let len = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            name = name.get(..len).unwrap_or(name);
        }
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|&b| b == 0 || b == b'/') {
            return Err(inode.corrupt("a directory entry has an impossible name"));
        }
        if entries
            .last()
            .is_some_and(|last| last.name.as_slice() >= name)
        {
            return Err(inode.corrupt("the names of the directory do not ascend"));
        }
        let kind = FileType::from_entry(byte(block, at + 10))
            .ok_or_else(|| inode.corrupt("a directory entry has an unknown type"))?;
        entries.push(Entry {
            name: name.to_vec(),
            nid: le64(block, at),
            kind,
        });
    }
    Ok(())
}
