//! The inodes, directories and attributes of an image (feature `tree`).

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use iofs_source::ReadAt;

use crate::Superblock;
use crate::features::{Features, INCOMPAT_48BIT, INCOMPAT_METABOX};

mod data;
mod dir;
mod error;
mod extent;
mod inode;
mod walk;
mod xattr;

pub use dir::Entry;
pub use error::TreeError;
pub use inode::{FileType, Inode, Layout};
pub use walk::{Node, Walk};
pub use xattr::Xattr;

/// Longest target of a symbolic link, in bytes (`PATH_MAX`).
const MAX_TARGET: u64 = 4096;

/// An EROFS image whose inodes can be read.
#[derive(Debug)]
pub struct Tree<S> {
    source: S,
    superblock: Superblock,
}

impl<S: ReadAt> Tree<S> {
    /// Reads the superblock of the image that begins `source`.
    ///
    /// # Errors
    /// [`TreeError::Superblock`] if this is no valid image,
    /// [`TreeError::Truncated`] if a part of it is missing,
    /// [`TreeError::Unsupported`] if its inodes are laid out in a way that is
    /// not known here (`48bit`, `metabox`, and what is newer).
    pub fn open(source: S) -> Result<Self, TreeError> {
        let superblock = Superblock::read(&source)?;
        let features = superblock.features;
        let refused =
            features.unknown_incompat() | features.incompat & (INCOMPAT_48BIT | INCOMPAT_METABOX);
        if refused != 0 {
            return Err(TreeError::Unsupported {
                features: Features {
                    compat: 0,
                    incompat: refused,
                },
            });
        }
        let (expected, actual) = (superblock.size_bytes(), source.size());
        if expected > actual {
            return Err(TreeError::Truncated { expected, actual });
        }
        Ok(Self { source, superblock })
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The inode with this node id.
    ///
    /// # Errors
    /// It lies outside the image or is none.
    pub fn inode(&self, nid: u64) -> Result<Inode, TreeError> {
        inode::read(self, nid)
    }

    /// The inode at `path`, from the root, with or without a slash. Symbolic
    /// links are not followed; `.` and `..` are names like others.
    ///
    /// # Errors
    /// [`TreeError::NotFound`], [`TreeError::NotADirectory`], or what on the
    /// way is damaged.
    pub fn lookup(&self, path: &str) -> Result<Inode, TreeError> {
        let mut inode = self.inode(self.superblock.root_nid)?;
        let mut walked = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if inode.kind != FileType::Directory {
                return Err(TreeError::NotADirectory { path: walked });
            }
            walked.push('/');
            walked.push_str(name);
            let entries = self.entries(&inode)?;
            match entries.binary_search_by(|entry| entry.name.as_slice().cmp(name.as_bytes())) {
                Ok(index) => {
                    // `binary_search_by` returns an index that exists.
                    let nid = entries.get(index).map_or(u64::MAX, |entry| entry.nid);
                    inode = self.inode(nid)?;
                }
                Err(_) => return Err(TreeError::NotFound { path: walked }),
            }
        }
        Ok(inode)
    }

    /// The entries of a directory, in ascending order of their names; `.` and
    /// `..` are among them.
    ///
    /// # Errors
    /// [`TreeError::Corrupt`] if it is no directory or is damaged.
    pub fn entries(&self, directory: &Inode) -> Result<Vec<Entry>, TreeError> {
        if directory.kind != FileType::Directory {
            return Err(directory.corrupt("it is no directory"));
        }
        dir::read(self, directory)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`TreeError::Corrupt`] if it is none or longer than 4096 bytes.
    pub fn link_target(&self, link: &Inode) -> Result<Vec<u8>, TreeError> {
        if link.kind != FileType::Symlink {
            return Err(link.corrupt("it is no symbolic link"));
        }
        data::read_all(self, link, MAX_TARGET)
    }

    /// Fills `buf` from `offset` (bytes) in a regular file.
    ///
    /// # Errors
    /// [`TreeError::BeyondEnd`] if the file has no such bytes,
    /// [`TreeError::Compressed`] and [`TreeError::OtherDevice`] if they are
    /// out of reach, or what is damaged.
    pub fn read(&self, file: &Inode, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        if file.kind != FileType::Regular {
            return Err(file.corrupt("it is no regular file"));
        }
        data::read(self, file, offset, buf)
    }

    /// The extended attributes of an inode: its own, then the shared ones.
    ///
    /// # Errors
    /// What is damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, TreeError> {
        xattr::read(self, inode)
    }

    /// Where on the medium, in bytes, that lies which opening the inode and finding
    /// its data takes: the inode, its attributes, its index; the contents too of a
    /// directory or symbolic link. The ranges may overlap.
    ///
    /// # Errors
    /// What is damaged.
    pub fn metadata(&self, inode: &Inode) -> Result<Vec<Range<u64>>, TreeError> {
        extent::metadata(self, inode)
    }

    /// The blocks of the file system that the data of an inode takes; `None` if it
    /// takes none, or none that lie in a row (chunks, fragments). What lies behind
    /// the inode is not among them.
    ///
    /// # Errors
    /// What is damaged.
    pub fn blocks(&self, inode: &Inode) -> Result<Option<Range<u64>>, TreeError> {
        extent::blocks(self, inode)
    }

    /// Every path with its inode, depth first, a directory before what is in
    /// it, names ascending. It ends after the first error: directories in a
    /// loop or in two places, entries that contradict their inodes.
    #[must_use]
    pub fn walk(&self) -> Walk<'_, S> {
        Walk::new(self)
    }
}
