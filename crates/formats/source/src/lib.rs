//! Positioned reads, the one way in which format readers see a medium.
//!
//! A reader is handed a [`ReadAt`] (a disk, a partition, a file, a byte slice)
//! and never does I/O of its own, so that the same code runs in PID 1, in the
//! builder, in tests over byte slices and under a fuzzer. Offsets and lengths
//! are bytes. Nothing here panics: a read outside the source is an error.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod checksum;
mod sort;

pub use checksum::{crc32, crc32c};
pub use sort::sort_compactly;

use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

/// Why a positioned read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadErrorKind {
    /// The range does not lie inside the source (its size is given, in bytes).
    OutOfBounds {
        /// Size of the source, in bytes.
        size: u64,
    },
    /// The medium failed with this errno.
    Io {
        /// The positive errno value that the kernel returned.
        errno: i32,
    },
    /// The reader has used up what it may read (see [`Limited`]).
    LimitReached {
        /// The limit, in bytes.
        limit: u64,
    },
}

/// A failed positioned read: where, how much, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadError {
    /// Offset of the read in the source, in bytes.
    pub offset: u64,
    /// Length of the read, in bytes.
    pub len: u64,
    /// The reason.
    pub kind: ReadErrorKind,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading {} bytes at offset {}: ", self.len, self.offset)?;
        match self.kind {
            ReadErrorKind::OutOfBounds { size } => {
                write!(f, "beyond the end (the medium has {size} bytes)")
            }
            ReadErrorKind::Io { errno } => write!(f, "input/output failed (errno {errno})"),
            ReadErrorKind::LimitReached { limit } => {
                write!(
                    f,
                    "more than {limit} bytes of metadata would have to be read"
                )
            }
        }
    }
}

impl core::error::Error for ReadError {}

/// A medium that can be read at any offset.
pub trait ReadAt {
    /// Fills `buf` from `offset` (bytes), whole or not at all.
    ///
    /// # Errors
    /// [`ReadErrorKind::OutOfBounds`] if the range is not inside the source,
    /// [`ReadErrorKind::Io`] if the medium fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;

    /// Size of the source in bytes.
    fn size(&self) -> u64;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        (**self).size()
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .and_then(|range| self.get(range));
        match range {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(ReadError {
                offset,
                len: buf.len() as u64,
                kind: ReadErrorKind::OutOfBounds { size: self.size() },
            }),
        }
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.as_slice().read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A part of another source, as a partition is of a disk.
#[derive(Debug, Clone, Copy)]
pub struct Window<S> {
    source: S,
    start: u64,
    len: u64,
}

impl<S: ReadAt> Window<S> {
    /// The `len` bytes of `source` from `start`.
    ///
    /// # Errors
    /// [`ReadErrorKind::OutOfBounds`] if they do not lie inside `source`.
    pub fn new(source: S, start: u64, len: u64) -> Result<Self, ReadError> {
        let size = source.size();
        match start.checked_add(len) {
            Some(end) if end <= size => Ok(Self { source, start, len }),
            _ => Err(ReadError {
                offset: start,
                len,
                kind: ReadErrorKind::OutOfBounds { size },
            }),
        }
    }
}

impl<S: ReadAt> ReadAt for Window<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let out_of_bounds = ReadError {
            offset,
            len: buf.len() as u64,
            kind: ReadErrorKind::OutOfBounds { size: self.len },
        };
        let end = offset.checked_add(buf.len() as u64).ok_or(out_of_bounds)?;
        if end > self.len {
            return Err(out_of_bounds);
        }
        // `start + len` was checked in `new`, so this cannot overflow.
        self.source.read_at(self.start + offset, buf)
    }

    fn size(&self) -> u64 {
        self.len
    }
}

/// A source that refuses to be read for more than a number of bytes in all.
///
/// The bound on time for hostile metadata: a directory tree or an extent chain
/// that never ends runs into it whatever its structure.
#[derive(Debug)]
pub struct Limited<S> {
    source: S,
    limit: u64,
    used: Cell<u64>,
}

impl<S: ReadAt> Limited<S> {
    /// Lets at most `limit` bytes be read from `source`.
    pub fn new(source: S, limit: u64) -> Self {
        Self {
            source,
            limit,
            used: Cell::new(0),
        }
    }
}

impl<S: ReadAt> ReadAt for Limited<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        let used = self.used.get().saturating_add(len);
        if used > self.limit {
            return Err(ReadError {
                offset,
                len,
                kind: ReadErrorKind::LimitReached { limit: self.limit },
            });
        }
        self.used.set(used);
        self.source.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.source.size()
    }
}

/// A run of a file's bytes that lie next to each other on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub logical: u64,
    /// Offset in the volume (the partition, not the disk), in bytes.
    pub physical: u64,
    /// Length in bytes, never 0.
    pub len: u64,
}

/// Where a file's bytes lie: its size and its extents in file order.
///
/// The extents start at 0, leave no gap and cover at least `size` bytes (the
/// last one may run to the end of an allocation unit). A file with holes or
/// unwritten extents cannot be described so; readers refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMap {
    /// Size of the file in bytes.
    pub size: u64,
    /// Its extents.
    pub extents: Vec<Extent>,
}

/// Why a list of extents does not describe a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMapError {
    /// The bytes from this offset on are not on the medium (a hole).
    Hole {
        /// Offset in the file, in bytes.
        at: u64,
    },
    /// An extent leaves the volume.
    OutOfVolume {
        /// Offset in the volume, in bytes.
        physical: u64,
        /// Length of the extent, in bytes.
        len: u64,
        /// Size of the volume, in bytes.
        volume: u64,
    },
    /// An extent does not begin or end on a sector.
    Unaligned {
        /// Offset in the volume, in bytes.
        physical: u64,
        /// The sector size, in bytes.
        sector: u64,
    },
    /// The file is in more pieces than a device-mapper table may have lines.
    TooFragmented {
        /// The greatest allowed number of extents.
        limit: usize,
    },
}

impl fmt::Display for FileMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hole { at } => write!(
                f,
                "the file has a hole at offset {at}; copy it anew without holes \
                 (cp --sparse=never)"
            ),
            Self::OutOfVolume {
                physical,
                len,
                volume,
            } => write!(
                f,
                "an extent of {len} bytes at offset {physical} leaves the volume of {volume} bytes"
            ),
            Self::Unaligned { physical, sector } => write!(
                f,
                "an extent at offset {physical} is not aligned to sectors of {sector} bytes"
            ),
            Self::TooFragmented { limit } => {
                write!(f, "the file is in more than {limit} pieces; copy it anew")
            }
        }
    }
}

impl core::error::Error for FileMapError {}

impl FileMap {
    /// The most extents a file may have: more would make a device-mapper table
    /// whose every line costs kernel memory and lookup time.
    pub const MAX_EXTENTS: usize = 65_536;

    /// Adds the run of `len` bytes at `physical`, joined to the last extent if
    /// it follows it on the volume.
    ///
    /// # Errors
    /// [`FileMapError::TooFragmented`] beyond [`Self::MAX_EXTENTS`].
    pub fn push(&mut self, physical: u64, len: u64) -> Result<(), FileMapError> {
        let logical = match self.extents.last_mut() {
            Some(last) if last.physical.checked_add(last.len) == Some(physical) => {
                last.len = last.len.saturating_add(len);
                return Ok(());
            }
            Some(last) => last.logical.saturating_add(last.len),
            None => 0,
        };
        if self.extents.len() == Self::MAX_EXTENTS {
            return Err(FileMapError::TooFragmented {
                limit: Self::MAX_EXTENTS,
            });
        }
        self.extents.push(Extent {
            logical,
            physical,
            len,
        });
        Ok(())
    }

    /// Checks what [`FileMap`] promises, for a volume of `volume` bytes.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn check(&self, volume: u64, sector: u64) -> Result<(), FileMapError> {
        let mut at = 0u64;
        for extent in &self.extents {
            if extent.logical != at || extent.len == 0 {
                return Err(FileMapError::Hole { at });
            }
            match extent.physical.checked_add(extent.len) {
                Some(end) if end <= volume => {}
                _ => {
                    return Err(FileMapError::OutOfVolume {
                        physical: extent.physical,
                        len: extent.len,
                        volume,
                    });
                }
            }
            if sector == 0 || extent.physical % sector != 0 || extent.len % sector != 0 {
                return Err(FileMapError::Unaligned {
                    physical: extent.physical,
                    sector,
                });
            }
            at = at.saturating_add(extent.len);
        }
        if at < self.size {
            return Err(FileMapError::Hole { at });
        }
        Ok(())
    }
}

/// Reads a mapped file through its extents.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'a, S> {
    volume: S,
    map: &'a FileMap,
}

impl<'a, S: ReadAt> Mapped<'a, S> {
    /// The file that `map` describes on `volume`.
    pub fn new(volume: S, map: &'a FileMap) -> Self {
        Self { volume, map }
    }
}

impl<S: ReadAt> ReadAt for Mapped<'_, S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let out_of_bounds = ReadError {
            offset,
            len: buf.len() as u64,
            kind: ReadErrorKind::OutOfBounds {
                size: self.map.size,
            },
        };
        let end = offset.checked_add(buf.len() as u64).ok_or(out_of_bounds)?;
        if end > self.map.size {
            return Err(out_of_bounds);
        }
        let mut at = offset;
        let mut rest = buf;
        let first = self
            .map
            .extents
            .partition_point(|e| e.logical.saturating_add(e.len) <= offset);
        for extent in self.map.extents.get(first..).unwrap_or(&[]) {
            if rest.is_empty() {
                break;
            }
            let skip = at.checked_sub(extent.logical).ok_or(out_of_bounds)?;
            let room = extent.len.checked_sub(skip).ok_or(out_of_bounds)?;
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.volume
                .read_at(extent.physical.saturating_add(skip), now)?;
            at = at.saturating_add(take as u64);
            rest = later;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(out_of_bounds)
        }
    }

    fn size(&self) -> u64 {
        self.map.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_slice_refuses_what_it_does_not_hold() {
        let bytes: &[u8] = &[1, 2, 3, 4];
        let mut buf = [0; 2];
        bytes.read_at(2, &mut buf).unwrap();
        assert_eq!(buf, [3, 4]);
        for offset in [3, 4, u64::MAX] {
            let error = bytes.read_at(offset, &mut buf).unwrap_err();
            assert_eq!(error.kind, ReadErrorKind::OutOfBounds { size: 4 });
        }
    }

    #[test]
    fn a_window_cannot_be_left() {
        let bytes: &[u8] = &[0, 1, 2, 3, 4, 5];
        let window = Window::new(bytes, 2, 3).unwrap();
        let mut buf = [0; 3];
        window.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, [2, 3, 4]);
        assert!(window.read_at(1, &mut buf).is_err());
        assert!(window.read_at(u64::MAX, &mut buf).is_err());
        assert!(Window::new(bytes, 4, 3).is_err());
        assert!(Window::new(bytes, u64::MAX, 2).is_err());
    }

    #[test]
    fn a_limit_counts_every_read() {
        let bytes: &[u8] = &[0; 16];
        let limited = Limited::new(bytes, 8);
        let mut buf = [0; 4];
        limited.read_at(0, &mut buf).unwrap();
        limited.read_at(0, &mut buf).unwrap();
        let error = limited.read_at(0, &mut buf).unwrap_err();
        assert_eq!(error.kind, ReadErrorKind::LimitReached { limit: 8 });
    }

    #[test]
    fn neighbours_join_and_holes_are_seen() {
        let mut map = FileMap {
            size: 3000,
            extents: vec![],
        };
        map.push(4096, 1024).unwrap();
        map.push(5120, 1024).unwrap();
        map.push(1024, 512).unwrap();
        assert_eq!(map.extents.len(), 2);
        assert_eq!(map.check(65536, 512), Err(FileMapError::Hole { at: 2560 }));
        map.push(512, 512).unwrap();
        assert_eq!(map.check(65536, 512), Ok(()));
        assert_eq!(
            map.check(65536, 1024),
            Err(FileMapError::Unaligned {
                physical: 1024,
                sector: 1024
            })
        );
        assert!(matches!(
            map.check(4096, 512),
            Err(FileMapError::OutOfVolume { .. })
        ));
    }

    #[test]
    fn a_mapped_file_reads_across_its_extents() {
        let mut volume = vec![0u8; 64];
        volume[32..40].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        volume[8..12].copy_from_slice(&[9, 10, 11, 12]);
        let mut map = FileMap {
            size: 11,
            extents: vec![],
        };
        map.push(32, 8).unwrap();
        map.push(8, 4).unwrap();
        let file = Mapped::new(&volume, &map);
        let mut buf = [0; 5];
        file.read_at(6, &mut buf).unwrap();
        assert_eq!(buf, [7, 8, 9, 10, 11]);
        assert!(file.read_at(7, &mut buf).is_err());
    }
}
