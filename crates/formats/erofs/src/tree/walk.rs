//! Every path of a tree, once.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use iofs_source::ReadAt;

use super::{Entry, FileType, Inode, Tree, TreeError};

/// Longest path, in bytes (`PATH_MAX`): bounds the depth.
const MAX_PATH: usize = 4096;

/// A path and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The path from `/`, in the bytes of the image.
    pub path: Vec<u8>,
    /// The inode; the same one for every name of a hard-linked file.
    pub inode: Inode,
}

/// Walks a tree depth first, in the order of the directories: see
/// [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a, S> {
    tree: &'a Tree<S>,
    /// What is still to be visited, the next one last.
    todo: Vec<Pending>,
    /// Directories met so far: one that is met again is a loop, or has two
    /// names, which no directory may have.
    seen: BTreeSet<u64>,
    /// Bytes of directories that may still be read: those of an image do not
    /// overlap, so all of them are smaller than it.
    allowance: u64,
}

#[derive(Debug)]
struct Pending {
    path: Vec<u8>,
    nid: u64,
    /// The type in the directory entry, and the directory; none for the root.
    from: Option<(FileType, u64)>,
}

impl<'a, S: ReadAt> Walk<'a, S> {
    pub(super) fn new(tree: &'a Tree<S>) -> Self {
        Self {
            tree,
            todo: vec![Pending {
                path: vec![b'/'],
                nid: tree.superblock.root_nid,
                from: None,
            }],
            seen: BTreeSet::new(),
            allowance: tree.superblock.size_bytes(),
        }
    }

    fn visit(&mut self, pending: Pending) -> Result<Node, TreeError> {
        let inode = self.tree.inode(pending.nid)?;
        match pending.from {
            Some((kind, _)) if kind != inode.kind => {
                return Err(inode.corrupt("its directory says that it is something else"));
            }
            None if inode.kind != FileType::Directory => {
                return Err(inode.corrupt("the root is no directory"));
            }
            _ => {}
        }
        if inode.kind == FileType::Directory {
            let parent = pending.from.map_or(inode.nid, |(_, parent)| parent);
            self.enter(&inode, parent, &pending.path)?;
        }
        Ok(Node {
            path: pending.path,
            inode,
        })
    }

    fn enter(&mut self, inode: &Inode, parent: u64, path: &[u8]) -> Result<(), TreeError> {
        if !self.seen.insert(inode.nid) {
            return Err(inode.corrupt("the directory is in two places, or in itself"));
        }
        self.allowance = self
            .allowance
            .checked_sub(inode.size)
            .ok_or_else(|| inode.corrupt("the directories are larger than the image"))?;
        let entries = self.tree.entries(inode)?;
        for Entry { name, nid, kind } in entries.into_iter().rev() {
            let expected = match name.as_slice() {
                b"." => Some(inode.nid),
                b".." => Some(parent),
                _ => None,
            };
            if let Some(expected) = expected {
                if nid != expected {
                    return Err(inode.corrupt("its . or .. leads elsewhere"));
                }
                continue;
            }
            let mut child = path.to_vec();
            if child.last() != Some(&b'/') {
                child.push(b'/');
            }
            child.extend_from_slice(&name);
            if child.len() > MAX_PATH {
                return Err(inode.corrupt("the paths in it are longer than 4096 bytes"));
            }
            self.todo.push(Pending {
                path: child,
                nid,
                from: Some((kind, inode.nid)),
            });
        }
        Ok(())
    }
}

impl<S: ReadAt> Iterator for Walk<'_, S> {
    type Item = Result<Node, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pending = self.todo.pop()?;
        let node = self.visit(pending);
        if node.is_err() {
            // What is wrong in one place is not to be trusted in another.
            self.todo.clear();
        }
        Some(node)
    }
}
