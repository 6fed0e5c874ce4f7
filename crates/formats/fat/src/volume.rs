//! The volume: paths to files.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use iofs_source::{FileMap, ReadAt};

use crate::boot::{self, BOOT_LEN, Geometry, Root};
use crate::chain::FatTable;
use crate::dir::{self, Entry, Go, Wanted};
use crate::error::Result;
use crate::{FatError, FatKind, Info, name};

/// The most components that a path may have.
pub const MAX_DEPTH: usize = 64;

/// A FAT volume on `S`.
#[derive(Debug, Clone)]
pub struct Fat<S> {
    source: S,
    geometry: Geometry,
}

/// What a path led to.
enum Node {
    Directory(FileMap),
    File { cluster: u32, size: u32 },
}

impl<S: ReadAt> Fat<S> {
    /// Opens the volume that begins at offset 0 of `source`, with one read of
    /// 512 bytes.
    ///
    /// # Errors
    /// [`FatError::NotFat`], or [`FatError::BootSector`] for a volume whose
    /// boot sector is wrong.
    pub fn open(source: S) -> Result<Self, FatError> {
        let mut sector = [0; BOOT_LEN];
        source.read_at(0, &mut sector).map_err(FatError::Read)?;
        let geometry = boot::parse(&sector, source.size()).map_err(|error| *error)?;
        Ok(Self { source, geometry })
    }

    /// What the boot sector says about the volume.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.geometry.info
    }

    /// The volume label: the one in the root directory, which is what blkid and
    /// udev show.
    ///
    /// # Errors
    /// If the root directory cannot be read.
    pub fn label(&self) -> Result<Option<String>, FatError> {
        let mut table = FatTable::new(&self.source, &self.geometry);
        self.root(&mut table)
            .and_then(|root| dir::label(&self.source, &root))
            .map_err(|error| *error)
    }

    /// Where the file at `path` lies.
    ///
    /// Components are separated by `/` or `\`; empty ones and `.` are passed
    /// over. A component matches the long or the short name without regard to
    /// case, in ASCII, Latin-1, Latin Extended-A, Greek and Cyrillic letters;
    /// others match as they are. Of several matches the first counts.
    ///
    /// # Errors
    /// If there is no such file, or its directories or its chain are damaged.
    pub fn locate(&self, path: &str) -> Result<FileMap, FatError> {
        self.map_file(path).map_err(|error| *error)
    }

    fn map_file(&self, path: &str) -> Result<FileMap> {
        let mut table = FatTable::new(&self.source, &self.geometry);
        match self.resolve(&mut table, path)? {
            Node::Directory(_) => Err(FatError::IsADirectory { path: path.into() }.into()),
            Node::File { cluster, size } => {
                let map = table.file(cluster, size)?;
                map.check(self.info().volume_size, u64::from(self.info().sector_size))?;
                Ok(map)
            }
        }
    }

    /// The files and subdirectories of the directory at `path`, in the order
    /// in which they are stored. `/` is the root.
    ///
    /// # Errors
    /// If there is no such directory, or it is damaged.
    pub fn entries(&self, path: &str) -> Result<Vec<Entry>, FatError> {
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
    ) -> Result<(), FatError> {
        self.list(path, visit).map_err(|error| *error)
    }

    fn list(&self, path: &str, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let mut table = FatTable::new(&self.source, &self.geometry);
        match self.resolve(&mut table, path)? {
            Node::Directory(map) => dir::visit(&self.source, &map, visit),
            Node::File { .. } => Err(FatError::NotADirectory { path: path.into() }.into()),
        }
    }

    fn root(&self, table: &mut FatTable<'_, S>) -> Result<FileMap> {
        match self.geometry.root {
            Root::Chain { cluster } => table.directory(cluster),
            Root::Fixed { offset, len } => {
                let mut map = FileMap {
                    size: len,
                    extents: Vec::new(),
                };
                map.push(offset, len)?;
                Ok(map)
            }
        }
    }

    fn resolve(&self, table: &mut FatTable<'_, S>, path: &str) -> Result<Node> {
        let components = || {
            path.split(['/', '\\'])
                .filter(|component| !component.is_empty() && *component != ".")
        };
        if components().count() > MAX_DEPTH || components().any(|component| component == "..") {
            return Err(FatError::Path { path: path.into() }.into());
        }
        let mut node = Node::Directory(self.root(table)?);
        let mut walked = String::new();
        for component in components() {
            let Node::Directory(map) = &node else {
                return Err(FatError::NotADirectory { path: walked }.into());
            };
            walked.push('/');
            walked.push_str(component);
            node = match self.child(map, component)? {
                None => return Err(FatError::NotFound { path: walked }.into()),
                Some(Child::Directory { cluster }) => Node::Directory(table.directory(cluster)?),
                Some(Child::File { cluster, size }) => Node::File { cluster, size },
            };
        }
        Ok(node)
    }

    fn child(&self, map: &FileMap, component: &str) -> Result<Option<Child>> {
        let fat32 = self.info().kind == FatKind::Fat32;
        let wanted = name::folded(component);
        let mut found = None;
        dir::scan(&self.source, map, Wanted::Files, |slot| {
            if !slot.is_named(&wanted) {
                return Go::On;
            }
            let cluster = slot.cluster(fat32);
            found = Some(if slot.is_dir() {
                Child::Directory { cluster }
            } else {
                Child::File {
                    cluster,
                    size: slot.size(),
                }
            });
            Go::Stop
        })?;
        Ok(found)
    }
}

/// What a directory entry points at.
enum Child {
    Directory { cluster: u32 },
    File { cluster: u32, size: u32 },
}
