//! Finds files on ext2, ext3 and ext4 volumes: where their bytes lie, so that
//! dm-linear can map them. It never writes and the kernel never mounts.
//!
//! # Format
//! Specification: the kernel's Documentation/filesystems/ext4 and fs/ext4,
//! fs/jbd2 where it is silent. Little-endian; the journal is big-endian.
//! Offsets and sizes are bytes, block numbers count blocks of 1 to 64 KiB.
//!
//! # Supported
//! Block maps and extent trees, 32- and 64-bit descriptors, `flex_bg`,
//! `meta_bg`, `bigalloc`, `metadata_csum` (every structure read is verified),
//! linear, indexed and inline directories, symbolic links. After a power cut
//! (`needs_recovery`) the JBD2 journal is replayed in memory: each block is
//! read from its newest committed copy. Directories are matched byte by byte,
//! `casefold` ones too.
//!
//! # Rejected
//! Unknown incompatible features, by name. Files with holes, unwritten
//! extents, encryption, e2compr, inline data, or data that only the journal
//! has. External journals, and fast commits that wait for replay. Directories
//! over 16 MiB, block maps of more than 16,384 nodes, paths of more than 128
//! names or 8 links, and whatever contradicts itself. Wrap the source in
//! [`iofs_source::Limited`] to bound what is read in all.
//!
//! # Cost
//! A read for the superblock, and for each name on the path one for its inode,
//! one a 32 KiB of directory, and now and then one for a group descriptor; then
//! one for each extent node of the file. Nothing is read twice but inodes'
//! neighbours; nothing is kept between calls.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod checksum;
mod dir;
mod error;
mod features;
mod inline;
mod journal;
mod path;
mod runs;
mod superblock;
mod volume;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;

pub use error::{Checked, Ext4Error};
pub use features::Features;
use iofs_source::{FileMap, FileMapError, ReadAt};
pub use journal::JournalError;
pub use uuid::Uuid;
use volume::{FLAG_COMPRESSED, FLAG_ENCRYPTED, FLAG_INLINE_DATA, Volume};

/// An ext2, ext3 or ext4 volume.
#[derive(Debug)]
pub struct Ext4<S> {
    volume: Volume<S>,
}

/// What the superblock says about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The volume's UUID, as in `UUID=`.
    pub uuid: Uuid,
    /// Its label, as in `LABEL=`; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// Size of a block, in bytes.
    pub block_size: u32,
    /// Size of the file system, in bytes.
    pub size: u64,
    /// Size of an inode, in bytes.
    pub inode_size: u16,
    /// The features.
    pub features: Features,
    /// Whether the volume was not unmounted cleanly, so that the journal was
    /// replayed in memory.
    pub needs_recovery: bool,
    /// How many blocks were found to be newer in the journal.
    pub replayed_blocks: usize,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: 1 to 255 bytes, without NUL and `/`, in no set encoding.
    pub name: Vec<u8>,
    /// The inode's number.
    pub inode: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What a directory says that an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Special,
    /// The volume does not record it (no `filetype` feature).
    Unknown,
}

impl EntryKind {
    /// From `EXT4_FT_*` (fs/ext4/ext4.h).
    fn from_raw(kind: u8) -> Self {
        match kind {
            1 => Self::File,
            2 => Self::Directory,
            3..=6 => Self::Special,
            7 => Self::Symlink,
            _ => Self::Unknown,
        }
    }
}

impl<S: ReadAt> Ext4<S> {
    /// Reads the superblock of the volume that fills `source`, and the journal
    /// if the volume was not unmounted cleanly.
    ///
    /// # Errors
    /// [`Ext4Error::NoSuperblock`] if this is another file system; else what
    /// makes the volume unreadable as a whole.
    pub fn open(source: S) -> Result<Self, Ext4Error> {
        let volume = Volume::open(source).map_err(|error| *error)?;
        Ok(Self { volume })
    }

    /// What the superblock says.
    #[must_use]
    pub fn info(&self) -> Info {
        let superblock = &self.volume.superblock;
        let replayed = self.volume.overlay.as_ref();
        Info {
            uuid: superblock.uuid,
            label: superblock.label.clone(),
            block_size: superblock.block_size,
            // Checked to fit when it was parsed.
            size: superblock.size_bytes().unwrap_or(u64::MAX),
            inode_size: superblock.inode_size,
            features: superblock.features,
            needs_recovery: replayed.is_some(),
            replayed_blocks: replayed.map_or(0, journal::Overlay::len),
        }
    }

    /// Where the bytes of the regular file at `path` lie on the volume.
    /// Symbolic links are followed; `path` starts at the volume's root, with or
    /// without a slash. The last extent ends with the file's last block.
    ///
    /// # Errors
    /// The path leads nowhere or not to a file, or the file cannot be mapped
    /// whole; what on the way is damaged.
    pub fn locate(&self, path: &str) -> Result<FileMap, Ext4Error> {
        self.map_file(path).map_err(|error| *error)
    }

    fn map_file(&self, path: &str) -> error::Result<FileMap> {
        let inode = path::resolve(&self.volume, path)?;
        let path = || path.into();
        if !inode.is_regular() {
            return Err(Ext4Error::NotAFile { path: path() }.into());
        }
        if inode.has(FLAG_ENCRYPTED) {
            return Err(Ext4Error::Encrypted { path: path() }.into());
        }
        if inode.has(FLAG_COMPRESSED) {
            return Err(Ext4Error::Compressed { path: path() }.into());
        }
        if inode.has(FLAG_INLINE_DATA) {
            return Err(Ext4Error::Inline { path: path() }.into());
        }
        let block_size = u64::from(self.volume.superblock.block_size);
        let mut map = FileMap {
            size: inode.size,
            extents: Vec::new(),
        };
        let mut next = 0;
        runs::visit_runs(
            &self.volume,
            &inode,
            inode.size.div_ceil(block_size),
            &mut |run| {
                // No overflow: logical blocks are below 2^43, physical ones
                // inside the volume, whose size in bytes fits.
                let at = next * block_size;
                if run.logical != next {
                    return Err(FileMapError::Hole { at }.into());
                }
                if !run.written {
                    return Err(Ext4Error::Unwritten { at }.into());
                }
                if let Some(block) = self.newer_in_journal(run) {
                    return Err(Ext4Error::OnlyInJournal {
                        at: at + (block - run.physical) * block_size,
                    }
                    .into());
                }
                map.push(run.physical * block_size, run.len * block_size)?;
                next = run.logical + run.len;
                Ok(ControlFlow::Continue(()))
            },
        )?;
        map.check(self.volume.source.size(), 512)?;
        Ok(map)
    }

    /// The first block of `run` that the journal has a newer copy of.
    fn newer_in_journal(&self, run: runs::Run) -> Option<u64> {
        self.volume
            .overlay
            .as_ref()?
            .first_in(run.physical, run.len)
    }

    /// The names in the directory at `path`, without `.` and `..`, in the
    /// order in which they are on the volume.
    ///
    /// # Errors
    /// The path leads nowhere or not to a directory; what on the way is
    /// damaged.
    pub fn entries(&self, path: &str) -> Result<Vec<Entry>, Ext4Error> {
        let mut entries = Vec::new();
        self.visit(path, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Shows `visit` what [`Self::entries`] would collect, one after the other,
    /// until it breaks off: a folder may have more than somebody wants in memory.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn visit(
        &self,
        path: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), Ext4Error> {
        let inode = path::resolve(&self.volume, path).map_err(|error| *error)?;
        if !inode.is_directory() {
            return Err(Ext4Error::NotADirectory { path: path.into() });
        }
        if inode.has(FLAG_ENCRYPTED) {
            return Err(Ext4Error::Encrypted { path: path.into() });
        }
        dir::visit(&self.volume, &inode, visit).map_err(|error| *error)
    }
}
