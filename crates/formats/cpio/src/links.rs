//! Hard links, resolved as the kernel resolves them while it unpacks.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{Entry, FileType, TYPE_MASK};

/// What an entry turns out to be once all of its archive has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'a> {
    /// Index of the entry that comes first of those that are the same file; the
    /// entry's own index if it is that one or has no other name.
    pub first: usize,
    /// Index of the one that comes last: its mode, owner and time hold, since
    /// they are set after the others'.
    pub last: usize,
    /// The file's contents: those of the last of its entries that has any (GNU
    /// cpio gives them to the last only, others to the first).
    pub data: &'a [u8],
}

/// Resolves the hard links among the entries of one archive (a trailer forgets
/// them): same inode, device and file type, more than one name. Only what the
/// kernel links is linked, so directories and symbolic links are not. The
/// answer has one item for each entry.
#[must_use]
pub fn resolve_links<'a>(entries: &[Entry<'a>]) -> Vec<Link<'a>> {
    let mut links: Vec<Link<'a>> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| Link {
            first: index,
            last: index,
            data: entry.data,
        })
        .collect();
    let mut files = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let linkable = !matches!(
            entry.file_type(),
            FileType::Directory | FileType::Symlink | FileType::Unknown
        );
        if entry.nlink < 2 || !linkable {
            continue;
        }
        let key = (entry.dev, entry.ino, entry.mode & TYPE_MASK);
        let file = files.entry(key).or_insert(Link {
            first: index,
            last: index,
            data: &[],
        });
        file.last = index;
        if !entry.data.is_empty() {
            file.data = entry.data;
        }
        if let Some(link) = links.get_mut(index) {
            link.first = file.first;
        }
    }
    let by_first: BTreeMap<usize, Link<'a>> =
        files.into_values().map(|file| (file.first, file)).collect();
    for link in &mut links {
        if let Some(file) = by_first.get(&link.first) {
            *link = *file;
        }
    }
    links
}
