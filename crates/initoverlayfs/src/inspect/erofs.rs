//! EROFS images.

use std::collections::BTreeSet;

use iofs_erofs::tree::{FileType, Inode, Tree, TreeError};
use iofs_erofs::{ErofsError, Superblock};
use iofs_prefetch::PrefetchList;
use iofs_source::ReadAt;

use super::node::{Fact, Listed, Node};
use super::{Described, MAX_LISTED, View};

/// What a walk over the tree finds. Files with several names count once.
#[derive(Default)]
struct Counts {
    files: u64,
    directories: u64,
    symlinks: u64,
    devices: u64,
    /// Names of files beyond each one's first.
    links: u64,
    /// Size of all files.
    bytes: u64,
    /// Of which stored compressed.
    compressed: u64,
}

pub(super) fn describe(view: &View<'_>) -> Described {
    let sb = match Superblock::read(view.source) {
        Ok(sb) => sb,
        Err(ErofsError::NoMagic { .. }) => return Ok(None),
        // Too short for a superblock of this kind.
        Err(_) if view.bytes(1024, 128).is_none() => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let algorithms: Vec<String> = sb.algorithms().map(|a| a.name().to_owned()).collect();
    let label = (!sb.volume_name.is_empty()).then_some(sb.volume_name.as_str());
    let node = Node::new("erofs")
        .fact("size", Fact::size(sb.size_bytes()))
        .fact("uuid", sb.uuid.to_string())
        .fact_if("label", label)
        .fact("block_size", Fact::size(sb.block_size()))
        .fact("inodes", Fact::number(sb.inodes))
        .fact("compression", algorithms)
        .fact("features", sb.features.to_string())
        .fact("build_time", Fact::number(sb.build_time.0));
    let node = match PrefetchList::read(view.source, sb.uuid, sb.size_bytes()) {
        Ok(None) => node,
        Ok(Some(list)) => node
            .fact("prefetch_files", Fact::number(list.files.len() as u64))
            .fact("prefetch", Fact::size(list.bytes())),
        // A boot does without it.
        Err(error) => node.fact("prefetch", error.to_string()),
    };
    let tree = match Tree::open(view.source) {
        Ok(tree) => tree,
        // A newer layout than this program's: what is known is still said.
        Err(error @ TreeError::Unsupported { .. }) => {
            return Ok(Some(node.fact("tree", error.to_string())));
        }
        Err(error) => return Err(error.to_string()),
    };
    let (counts, files) = walk(&tree, view.list).map_err(|e| format!("its tree: {e}"))?;
    let node = node
        .fact("files", Fact::number(counts.files))
        .fact("directories", Fact::number(counts.directories))
        .fact("symlinks", Fact::number(counts.symlinks))
        .fact("devices", Fact::number(counts.devices))
        .fact("hard_links", Fact::number(counts.links))
        .fact("content", Fact::size(counts.bytes))
        .fact("content_compressed", Fact::size(counts.compressed));
    Ok(Some(node.files(files)))
}

fn walk<S: ReadAt>(tree: &Tree<S>, list: bool) -> Result<(Counts, Vec<Listed>), TreeError> {
    let mut counts = Counts::default();
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for node in tree.walk() {
        let node = node?;
        let inode = &node.inode;
        if inode.nlink > 1 && inode.kind != FileType::Directory && !seen.insert(inode.nid) {
            counts.links += 1;
        } else {
            counts.add(inode);
        }
        if list && files.len() < MAX_LISTED {
            files.push(Listed {
                path: String::from_utf8_lossy(&node.path).into_owned(),
                kind: kind(inode.kind),
                mode: Some(u32::from(inode.mode) & 0o7777),
                size: (inode.kind == FileType::Regular).then_some(inode.size),
                target: target(tree, inode)?,
            });
        }
    }
    Ok((counts, files))
}

impl Counts {
    fn add(&mut self, inode: &Inode) {
        match inode.kind {
            FileType::Regular => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(inode.size);
                if inode.layout.is_compressed() {
                    self.compressed = self.compressed.saturating_add(inode.size);
                }
            }
            FileType::Directory => self.directories += 1,
            FileType::Symlink => self.symlinks += 1,
            FileType::BlockDevice | FileType::CharDevice => self.devices += 1,
            _ => {}
        }
    }
}

fn target<S: ReadAt>(tree: &Tree<S>, inode: &Inode) -> Result<Option<String>, TreeError> {
    if inode.kind == FileType::Symlink {
        let target = tree.link_target(inode)?;
        return Ok(Some(String::from_utf8_lossy(&target).into_owned()));
    }
    Ok(inode
        .device
        .map(|(major, minor)| format!("{major}:{minor}")))
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::BlockDevice => "block-device",
        FileType::CharDevice => "char-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}
