//! From what the kernel noted of a boot to a profile.

use super::{Profile, ProfileFile, VERSION};
use crate::error::{Error, ErrorKind, Result};
use iofs_erofs::tree::{FileType, Tree};
use iofs_prefetch::trace::Line;
use iofs_prefetch::{MAX_FILES, MAX_RANGES, PAGE, PrefetchList, Range, opened, ranges_of};
use iofs_source::ReadAt;
use std::collections::{HashMap, HashSet};

/// The most pages of all files that are noted: 4 GiB.
const MAX_PAGES: usize = 1 << 20;

/// Where `build` keeps its second names of the hot files.
pub(super) const HOT_FOLDER: &str = "!hot";

/// Reads what the kernel noted.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The files by their inode number, in the order of the first touch.
    order: Vec<u64>,
    pages: HashMap<u64, Vec<u32>>,
    count: usize,
    lost: u64,
    left_out: u64,
}

/// A profile, and what it is without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The profile.
    pub profile: Profile,
    /// Events, or files, that there was no room for.
    pub lost: u64,
    /// Files that were read and cannot be in a profile, or are not in the image.
    pub left_out: u64,
}

impl Recorder {
    /// Takes a line of the trace; `dev` is the mounted file system's device.
    pub fn line(&mut self, line: &str, dev: (u32, u32)) {
        let event = match Line::parse(line) {
            Line::Event(event) if event.dev == dev => event,
            Line::Lost(events) => {
                self.lost = self.lost.saturating_add(events);
                return;
            }
            _ => return,
        };
        self.pages(event.ino, event.page, event.pages);
    }

    /// Takes a line of a record by fanotify; whether it was the last.
    fn opened(&mut self, line: &str, names: &Names) -> bool {
        let known = match opened::Line::parse(line) {
            Some(opened::Line::End) => return true,
            Some(opened::Line::Lost(files)) => {
                self.lost = self.lost.saturating_add(files);
                return false;
            }
            Some(opened::Line::File { path, ranges }) => {
                names.by_path.get(path).map(|&nid| (nid, ranges))
            }
            None => None,
        };
        let Some((nid, ranges)) = known else {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        };
        for Range { start, len } in ranges {
            self.pages(nid, u64::from(start), u64::from(len));
        }
        false
    }

    /// Notes pages of a file.
    fn pages(&mut self, ino: u64, start: u64, count: u64) {
        let pages = self.pages.entry(ino).or_insert_with(|| {
            self.order.push(ino);
            Vec::new()
        });
        for page in start..start.saturating_add(count) {
            let Ok(page) = u32::try_from(page) else {
                return;
            };
            if self.count == MAX_PAGES {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.count += 1;
            pages.push(page);
        }
    }

    /// The profile of what was read of the image with this tree.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if the image is damaged.
    pub fn finish<S: ReadAt>(
        self,
        tree: &Tree<S>,
        root_hash: Option<String>,
        kernel_release: String,
    ) -> Result<Recording> {
        Ok(self.named(&Names::of(tree)?, tree, root_hash, kernel_release))
    }

    fn named<S: ReadAt>(
        mut self,
        names: &Names,
        tree: &Tree<S>,
        root_hash: Option<String>,
        kernel_release: String,
    ) -> Recording {
        let (mut files, mut left_out) = (Vec::new(), self.left_out);
        let mut budget = MAX_RANGES;
        for nid in std::mem::take(&mut self.order) {
            let mut pages = self.pages.remove(&nid).unwrap_or_default();
            let Some((path, size)) = names.by_nid.get(&nid) else {
                // Folders have pages too.
                left_out += u64::from(!names.others.contains(&nid));
                continue;
            };
            pages.retain(|&page| u64::from(page) < size.div_ceil(PAGE));
            let ranges = ranges_of(pages, 0);
            if files.len() == MAX_FILES || ranges.len() > budget {
                left_out += 1;
                continue;
            }
            budget -= ranges.len();
            files.push(ProfileFile {
                path: path.clone(),
                size: *size,
                pages: ranges.iter().map(|r| [r.start, r.len]).collect(),
            });
        }
        Recording {
            profile: names.profile(files, tree, root_hash, kernel_release),
            lost: self.lost,
            left_out,
        }
    }
}

impl Recording {
    /// The profile of what a record by fanotify has ([`opened`]).
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if the image is damaged, or the record not whole.
    pub fn of_opened<S: ReadAt>(
        record: &str,
        tree: &Tree<S>,
        root_hash: Option<String>,
        kernel_release: String,
    ) -> Result<Self> {
        let names = Names::of(tree)?;
        let mut recorder = Recorder::default();
        if !record.lines().any(|line| recorder.opened(line, &names)) {
            return Err(Error::new(
                ErrorKind::Input,
                "the record of what was opened is not whole",
            ));
        }
        Ok(recorder.named(&names, tree, root_hash, kernel_release))
    }
}

/// The names of an image's files.
#[derive(Default)]
struct Names {
    /// A name and the size of each file that a profile can name.
    by_nid: HashMap<u64, (String, u64)>,
    /// Every name of those.
    by_path: HashMap<String, u64>,
    /// What is no file.
    others: HashSet<u64>,
    /// Size of all files.
    bytes: u64,
}

impl Names {
    fn of<S: ReadAt>(tree: &Tree<S>) -> Result<Self> {
        let mut names = Self::default();
        let mut counted = HashSet::new();
        for node in tree.walk() {
            let node = node.map_err(|error| {
                Error::new(ErrorKind::Input, "the image's tree cannot be read").source(error)
            })?;
            let (nid, size) = (node.inode.nid, node.inode.size);
            if node.inode.kind != FileType::Regular {
                names.others.insert(nid);
                continue;
            }
            if counted.insert(nid) {
                names.bytes = names.bytes.saturating_add(size);
            }
            let Ok(path) = std::str::from_utf8(node.path.get(1..).unwrap_or_default()) else {
                continue;
            };
            // The builder's own names are others in each image.
            if path.split('/').next() == Some(HOT_FOLDER) || !PrefetchList::is_path(path) {
                continue;
            }
            names.by_path.insert(path.to_owned(), nid);
            names
                .by_nid
                .entry(nid)
                .or_insert_with(|| (path.to_owned(), size));
        }
        Ok(names)
    }

    fn profile<S: ReadAt>(
        &self,
        files: Vec<ProfileFile>,
        tree: &Tree<S>,
        root_hash: Option<String>,
        kernel_release: String,
    ) -> Profile {
        Profile {
            version: VERSION,
            root_hash,
            uuid: tree.superblock().uuid,
            kernel_release,
            image_bytes: self.bytes,
            files,
        }
    }
}
