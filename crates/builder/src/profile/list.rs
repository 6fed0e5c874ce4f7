//! The list that goes with a finished file system, and how it gets behind it.

use super::{Hot, Wanted};
use crate::error::{Error, ErrorKind};
use crate::image::ImageFile;
use iofs_erofs::tree::{Entry, FileType, Inode, Layout, Tree, TreeError};
use iofs_prefetch::{FileRanges, PAGE, PrefetchError, PrefetchList, close_gaps, ranges_of};
use iofs_source::ReadAt;
use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Gaps of so many pages between ranges of a file are closed, the next one if the
/// list is too long with the one before.
const GAPS: [u32; 4] = [0, 3, 15, 255];

/// How many links a path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// Makes the list for the image that lies alone in `file`, and appends it. Returns
/// the list and its length.
pub(crate) fn append(file: &Path, hot: &Hot) -> Result<Option<(PrefetchList, u64)>, Error> {
    if hot.is_empty() {
        return Ok(None);
    }
    let source = ImageFile::open(file)?;
    let list = make(&source, &hot.files).map_err(|error| {
        Error::new(
            ErrorKind::Verify,
            "the image that was written cannot be read",
        )
        .source(error)
    })?;
    let (list, bytes) = encode(list)?;
    let place = PrefetchList::place(list.size).unwrap_or(u64::MAX);
    let whole = place.saturating_add(bytes.len() as u64);
    let end = whole.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut out| {
            // What is skipped reads as zeros.
            out.set_len(place)?;
            out.seek(SeekFrom::Start(place))?;
            out.write_all(&bytes)?;
            out.set_len(end)
        })
        .map_err(Error::io("writing the prefetch list to", file))?;
    Ok(Some((list, end - place)))
}

/// The list and its bytes; exact if there is room for that.
fn encode(list: PrefetchList) -> Result<(PrefetchList, Vec<u8>), Error> {
    let failed = |error: PrefetchError| {
        Error::new(ErrorKind::Limit, "the prefetch list cannot be made").source(error)
    };
    let mut list = list;
    for gap in GAPS {
        for file in &mut list.files {
            file.ranges = close_gaps(file.ranges.drain(..), gap);
        }
        match list.encode() {
            Ok(bytes) => return Ok((list, bytes)),
            Err(PrefetchError::Length) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    // What was touched first is worth most, but the list is in the disk's order,
    // which is the same where the files were staged.
    while !list.files.is_empty() {
        list.files.truncate(list.files.len() / 2);
        if let Ok(bytes) = list.encode() {
            return Ok((list, bytes));
        }
    }
    Err(failed(PrefetchError::Length))
}

/// The list of these files of an image. Those that lie behind their inodes
/// altogether are metadata.
fn make<S: ReadAt>(source: S, wanted: &[Wanted]) -> Result<PrefetchList, TreeError> {
    let tree = Tree::open(source)?;
    let (uuid, size) = (tree.superblock().uuid, tree.superblock().size_bytes());
    let mut pages = Pages::default();
    // The superblock.
    pages.add(0..PAGE);
    let mut files = Vec::new();
    let mut reached = Reached::default();
    for file in wanted {
        let inode = reach(&tree, &file.path, &mut pages, &mut reached)?;
        if let Some(blocks) = tree.blocks(&inode)? {
            if inode.kind == FileType::Regular && !file.ranges.is_empty() {
                files.push((blocks.start, file));
            }
        } else if inode.size > 0 && inode.layout == Layout::ChunkBased {
            files.push((u64::MAX, file));
        }
    }
    links(&tree, &mut pages, &mut reached)?;
    // Stable: where the place is not known, the order of the first touch.
    files.sort_by_key(|&(start, _)| start);
    let metadata = ranges_of(pages.0, 0);
    Ok(PrefetchList {
        uuid,
        size,
        metadata,
        files: files
            .into_iter()
            .map(|(_, file)| FileRanges {
                path: file.path.clone(),
                ranges: file.ranges.clone(),
            })
            .collect(),
    })
}

#[derive(Default)]
struct Pages(Vec<u32>);

impl Pages {
    fn add(&mut self, bytes: std::ops::Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        // 16 TiB of pages can be counted; an image has 2^32 blocks at most.
        for page in bytes.start / PAGE..=(bytes.end - 1) / PAGE {
            self.0.extend(u32::try_from(page));
        }
    }

    fn touch<S: ReadAt>(&mut self, tree: &Tree<S>, inode: &Inode) -> Result<(), TreeError> {
        for range in tree.metadata(inode)? {
            self.add(range);
        }
        Ok(())
    }
}

/// Goes to a path as the kernel does, and notes what that touches.
fn reach<S: ReadAt>(
    tree: &Tree<S>,
    path: &str,
    pages: &mut Pages,
    reached: &mut Reached,
) -> Result<Inode, TreeError> {
    let mut inode = tree.inode(tree.superblock().root_nid)?;
    reached.enter(tree, &inode, pages)?;
    for name in path.split('/') {
        let nid = reached.names.get(&inode.nid).and_then(|names| {
            let at = names.binary_search_by(|entry| entry.name.as_slice().cmp(name.as_bytes()));
            names.get(at.ok()?).map(|entry| entry.nid)
        });
        let Some(nid) = nid else {
            return Err(TreeError::NotFound { path: path.into() });
        };
        inode = tree.inode(nid)?;
        reached.enter(tree, &inode, pages)?;
    }
    Ok(inode)
}

/// The inodes that were gone through.
#[derive(Default)]
struct Reached {
    nids: HashSet<u64>,
    /// The entries of the folders among them.
    names: HashMap<u64, Vec<Entry>>,
}

impl Reached {
    fn enter<S: ReadAt>(
        &mut self,
        tree: &Tree<S>,
        inode: &Inode,
        pages: &mut Pages,
    ) -> Result<(), TreeError> {
        if self.nids.insert(inode.nid) {
            pages.touch(tree, inode)?;
            if inode.kind == FileType::Directory {
                self.names.insert(inode.nid, tree.entries(inode)?);
            }
        }
        Ok(())
    }
}

/// What lies at a path.
struct Place {
    nid: u64,
    target: Option<Vec<u8>>,
}

/// Notes the symbolic links that lead to what was reached: a boot goes through
/// `/lib`, `libc.so.6` and the folders of wanted units.
fn links<S: ReadAt>(
    tree: &Tree<S>,
    pages: &mut Pages,
    reached: &mut Reached,
) -> Result<(), TreeError> {
    let mut places = HashMap::new();
    let mut links = Vec::new();
    for node in tree.walk() {
        let node = node?;
        let target = match node.inode.kind {
            FileType::Symlink => Some(tree.link_target(&node.inode)?),
            _ => None,
        };
        let path = node.path.get(1..).unwrap_or_default().to_vec();
        if target.is_some() {
            links.push(path.clone());
        }
        let nid = node.inode.nid;
        places.insert(path, Place { nid, target });
    }
    let ends: HashSet<u64> = reached.nids.iter().copied().collect();
    for path in links {
        let led = resolve(&places, &path).is_some_and(|nid| ends.contains(&nid));
        if let Some(path) = std::str::from_utf8(&path).ok().filter(|_| led) {
            reach(tree, path, pages, reached)?;
        }
    }
    Ok(())
}

/// The inode that a path leads to, every link followed.
fn resolve(places: &HashMap<Vec<u8>, Place>, path: &[u8]) -> Option<u64> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&byte| byte == b'/')
            .rev()
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut todo = parts(path);
    let mut at: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.truncate(at.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let mut next = at.clone();
        if !next.is_empty() {
            next.push(b'/');
        }
        next.extend_from_slice(&name);
        match &places.get(&next)?.target {
            None => at = next,
            Some(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.starts_with(b"/") {
                    at.clear();
                }
                todo.extend(parts(target));
            }
        }
    }
    places.get(&at).map(|place| place.nid)
}
