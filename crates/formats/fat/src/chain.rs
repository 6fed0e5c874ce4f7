//! Cluster chains.

use alloc::vec::Vec;

use iofs_source::{Extent, FileMap, ReadAt};

use crate::boot::Geometry;
use crate::error::Result;
use crate::{FatError, FatKind, MAX_DIRECTORY};

/// The first piece of the FAT that is read, in bytes.
const FIRST_READ: u64 = 4 << 10;
/// The largest piece, in bytes. The kernel reads ahead of the pieces; to have more memory
/// for larger ones takes longer than to ask more often.
const LARGEST_READ: u64 = 16 << 10;

/// The active FAT, a piece of it in memory.
#[derive(Debug)]
pub(crate) struct FatTable<'a, S> {
    source: &'a S,
    geometry: &'a Geometry,
    /// Offset of `piece` in the FAT.
    start: u64,
    piece: Vec<u8>,
}

/// What a cluster's FAT entry says.
enum Link {
    Next(u32),
    End,
}

impl<'a, S: ReadAt> FatTable<'a, S> {
    pub(crate) fn new(source: &'a S, geometry: &'a Geometry) -> Self {
        Self {
            source,
            geometry,
            start: 0,
            piece: Vec::new(),
        }
    }

    /// `N` bytes at `at` of the FAT.
    fn bytes<const N: usize>(&mut self, at: u64) -> Result<[u8; N]> {
        let held = |start: u64, piece: &[u8]| -> Option<[u8; N]> {
            let skip = usize::try_from(at.checked_sub(start)?).ok()?;
            piece.get(skip..)?.first_chunk().copied()
        };
        if let Some(bytes) = held(self.start, &self.piece) {
            return Ok(bytes);
        }
        self.load(at)?;
        // `load` reads at least 4 KiB or to the end of what the clusters use,
        // and the geometry has made sure that every cluster's entry is inside.
        Ok(held(self.start, &self.piece).unwrap_or([0; N]))
    }

    /// Reads the piece that holds offset `at`: larger ones while they follow
    /// one another, since each read is a system call, small ones for chains
    /// that jump about.
    fn load(&mut self, at: u64) -> Result<()> {
        let held = self.piece.len() as u64;
        let used = self.geometry.fat_used;
        let (start, len) = if self.geometry.info.kind == FatKind::Fat12 {
            // An entry may straddle pieces here; the whole is 6 KiB at most.
            (0, used)
        } else if held > 0 && at == self.start + held {
            (at, (held * 2).min(LARGEST_READ))
        } else {
            (at - at % FIRST_READ, FIRST_READ)
        };
        let len = len.min(used.saturating_sub(start));
        // At most LARGEST_READ.
        self.piece.resize(usize::try_from(len).unwrap_or(0), 0);
        self.start = start;
        let offset = self.geometry.fat_offset + start;
        self.source
            .read_at(offset, &mut self.piece)
            .map_err(|error| {
                self.piece.clear();
                error.into()
            })
    }

    /// The raw entry of an existing cluster, widened so that the reserved
    /// values of all kinds are FAT32's.
    fn entry(&mut self, cluster: u32) -> Result<u32> {
        let index = u64::from(cluster);
        let (value, reserved) = match self.geometry.info.kind {
            FatKind::Fat12 => {
                let pair = u16::from_le_bytes(self.bytes(index + index / 2)?);
                let value = if cluster % 2 == 0 {
                    pair & 0xfff
                } else {
                    pair >> 4
                };
                (u32::from(value), 0xff0)
            }
            FatKind::Fat16 => (u16::from_le_bytes(self.bytes(index * 2)?).into(), 0xfff0),
            FatKind::Fat32 => (
                u32::from_le_bytes(self.bytes(index * 4)?) & 0x0fff_ffff,
                0x0fff_fff0,
            ),
        };
        Ok(if value >= reserved && !self.geometry.has_cluster(value) {
            0x0fff_fff0 | (value & 0xf)
        } else {
            value
        })
    }

    /// How many clusters, at most `most`, follow `cluster` one after the other, as far
    /// as the held piece of a FAT32 says. The chain of a file in one piece is nothing
    /// else, and 300 MiB have 76800 entries: one by one they took 25 ms.
    fn run(&self, cluster: u32, most: u64) -> u32 {
        if self.geometry.info.kind != FatKind::Fat32 {
            return 0;
        }
        let held = (u64::from(cluster) * 4)
            .checked_sub(self.start)
            .and_then(|skip| self.piece.get(usize::try_from(skip).ok()?..));
        let room = self.geometry.last_cluster().saturating_sub(cluster);
        let most = most.min(room.into());
        let mut next = cluster;
        let mut count = 0;
        for entry in held.unwrap_or(&[]).chunks_exact(4) {
            next = next.wrapping_add(1);
            let value = entry.first_chunk().copied().map_or(0, u32::from_le_bytes);
            if u64::from(count) == most || value & 0x0fff_ffff != next {
                break;
            }
            count += 1;
        }
        count
    }

    /// What follows an existing cluster.
    fn link(&mut self, cluster: u32) -> Result<Link> {
        match self.entry(cluster)? {
            0 => Err(FatError::FreeCluster { cluster }.into()),
            0x0fff_fff7 => Err(FatError::BadCluster { cluster }.into()),
            0x0fff_fff8..=0x0fff_ffff => Ok(Link::End),
            next if self.geometry.has_cluster(next) => Ok(Link::Next(next)),
            next => Err(FatError::Link {
                cluster,
                next,
                last: self.geometry.last_cluster(),
            }
            .into()),
        }
    }

    /// Where the file of `size` bytes lies whose first cluster is `first`
    /// (0 for an empty file).
    pub(crate) fn file(&mut self, first: u32, size: u32) -> Result<FileMap> {
        let cluster_size = u64::from(self.geometry.info.cluster_size);
        let size = u64::from(size);
        let mut map = FileMap {
            size,
            extents: Vec::new(),
        };
        if first == 0 {
            return match size {
                0 => Ok(map),
                _ => Err(FatError::ChainTooShort {
                    cluster: 0,
                    size,
                    found: 0,
                }
                .into()),
            };
        }
        let needed = size.div_ceil(cluster_size);
        let mut walk = Walk::start(self.geometry, first)?;
        let mut found = 0;
        while found < needed {
            let Some(cluster) = walk.at else {
                return Err(FatError::ChainTooShort {
                    cluster: walk.last,
                    size,
                    found: found * cluster_size,
                }
                .into());
            };
            let more = walk.skip(self, needed - found - 1);
            let run = u64::from(more) + 1;
            map.push(self.geometry.cluster_offset(cluster), run * cluster_size)?;
            found += run;
            walk.step(self)?;
        }
        match walk.at {
            // A loop that is short beside the size shows here at the latest.
            Some(cluster) if self.is_in(&map, cluster) => Err(FatError::Loop { cluster }.into()),
            Some(cluster) => Err(FatError::ChainTooLong { cluster, size }.into()),
            None => Ok(map),
        }
    }

    fn is_in(&self, map: &FileMap, cluster: u32) -> bool {
        let offset = self.geometry.cluster_offset(cluster);
        let holds = |e: &Extent| (e.physical..e.physical.saturating_add(e.len)).contains(&offset);
        map.extents.iter().any(holds)
    }

    /// Where the directory lies whose first cluster is `first`; its size is
    /// that of its clusters.
    pub(crate) fn directory(&mut self, first: u32) -> Result<FileMap> {
        let cluster_size = u64::from(self.geometry.info.cluster_size);
        let mut map = FileMap {
            size: 0,
            extents: Vec::new(),
        };
        let mut walk = Walk::start(self.geometry, first)?;
        while let Some(cluster) = walk.at {
            map.push(self.geometry.cluster_offset(cluster), cluster_size)?;
            map.size += cluster_size;
            walk.step(self)?;
            if map.size >= MAX_DIRECTORY && walk.at.is_some() {
                return Err(FatError::DirectoryTooLarge {
                    cluster: first,
                    limit: MAX_DIRECTORY,
                }
                .into());
            }
        }
        Ok(map)
    }
}

/// A position in a chain, with Brent's cycle detection: a loop is found after
/// at most three times its length, without memory of the clusters seen.
struct Walk {
    at: Option<u32>,
    /// The cluster before `at`.
    last: u32,
    mark: u32,
    steps: u32,
    until: u32,
}

impl Walk {
    fn start(geometry: &Geometry, first: u32) -> Result<Self> {
        if !geometry.has_cluster(first) {
            return Err(FatError::StartCluster {
                cluster: first,
                last: geometry.last_cluster(),
            }
            .into());
        }
        Ok(Self {
            at: Some(first),
            last: 0,
            mark: first,
            steps: 0,
            until: 1,
        })
    }

    /// Goes on over clusters that follow one another, at most `most`, and not as far as
    /// a cluster that would end a loop; returns over how many.
    fn skip<S: ReadAt>(&mut self, table: &FatTable<'_, S>, most: u64) -> u32 {
        let Some(cluster) = self.at else {
            return 0;
        };
        let most = match self.mark.checked_sub(cluster) {
            None | Some(0) => most,
            Some(ahead) => most.min(u64::from(ahead) - 1),
        };
        let count = table.run(cluster, most);
        // Not beyond the last cluster.
        let here = cluster.saturating_add(count);
        self.at = Some(here);
        self.steps = self.steps.saturating_add(count);
        if self.steps >= self.until {
            self.advance_mark(here);
        }
        count
    }

    fn advance_mark(&mut self, to: u32) {
        self.mark = to;
        self.steps = 0;
        self.until = self.until.saturating_mul(2);
    }

    /// Goes on to the next cluster, if there is one.
    fn step<S: ReadAt>(&mut self, table: &mut FatTable<'_, S>) -> Result<()> {
        let Some(cluster) = self.at else {
            return Ok(());
        };
        self.last = cluster;
        self.at = match table.link(cluster)? {
            Link::End => None,
            Link::Next(next) if next == self.mark => {
                return Err(FatError::Loop { cluster: next }.into());
            }
            Link::Next(next) => {
                self.steps += 1;
                if self.steps >= self.until {
                    self.advance_mark(next);
                }
                Some(next)
            }
        };
        Ok(())
    }
}
