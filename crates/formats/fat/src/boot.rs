//! The boot sector and the geometry that it describes.

use alloc::string::String;
use core::fmt;

use crate::error::{BootSectorError, FatError};
use crate::name;

/// What is read of the boot sector, whatever the sector size.
pub(crate) const BOOT_LEN: usize = 512;
/// Length of a directory entry, in bytes.
pub(crate) const ENTRY_LEN: u64 = 32;

/// Width of the FAT's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FatKind {
    /// 12 bits an entry.
    Fat12,
    /// 16 bits an entry.
    Fat16,
    /// 32 bits an entry, 28 of them used.
    Fat32,
}

impl FatKind {
    /// The most clusters, by the specification's chapter 3.5: above lie the
    /// reserved values, "bad" and "end".
    fn max_clusters(self) -> u32 {
        match self {
            Self::Fat12 => 4084,
            Self::Fat16 => 65524,
            Self::Fat32 => 0x0fff_fff5,
        }
    }

    /// Length of a FAT with that many entries, in bytes.
    fn fat_len(self, entries: u64) -> u64 {
        match self {
            Self::Fat12 => entries.saturating_mul(3).div_ceil(2),
            Self::Fat16 => entries.saturating_mul(2),
            Self::Fat32 => entries.saturating_mul(4),
        }
    }
}

impl fmt::Display for FatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        })
    }
}

/// What the boot sector says about the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Width of the FAT's entries.
    pub kind: FatKind,
    /// Bytes a sector.
    pub sector_size: u32,
    /// Bytes a cluster.
    pub cluster_size: u32,
    /// Number of clusters; they are numbered from 2.
    pub clusters: u32,
    /// Size of the volume, in bytes; the partition may be larger.
    pub volume_size: u64,
    /// Length of a FAT, in bytes.
    pub fat_size: u64,
    /// Number of FATs.
    pub fats: u8,
    /// Volume ID, `blkid`'s UUID as a number: 0x1234abcd is `1234-ABCD`.
    pub volume_id: u32,
    /// The boot sector's copy of the label, code page 437; `None` if it says
    /// `NO NAME` or nothing. [`crate::Fat::label`] reads the label proper.
    pub label: Option<String>,
    /// Whether Linux had it mounted for writing and did not unmount it.
    pub dirty: bool,
}

/// The root directory's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// Between the FATs and the clusters (FAT12, FAT16).
    Fixed { offset: u64, len: u64 },
    /// In a chain (FAT32).
    Chain { cluster: u32 },
}

/// Where everything is, in bytes from the start of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) info: Info,
    /// The active FAT.
    pub(crate) fat_offset: u64,
    /// The part of it that says something about clusters.
    pub(crate) fat_used: u64,
    /// Cluster 2.
    pub(crate) data_offset: u64,
    pub(crate) root: Root,
}

impl Geometry {
    /// The highest cluster number.
    pub(crate) fn last_cluster(&self) -> u32 {
        // At most 0x0fff_fff5 clusters.
        self.info.clusters + 1
    }

    pub(crate) fn has_cluster(&self, cluster: u32) -> bool {
        (2..=self.last_cluster()).contains(&cluster)
    }

    /// Offset of an existing cluster.
    pub(crate) fn cluster_offset(&self, cluster: u32) -> u64 {
        let index = u64::from(cluster.saturating_sub(2));
        // Below the volume's size, which is a u32 of sectors.
        self.data_offset + index * u64::from(self.info.cluster_size)
    }
}

fn u16_at(sector: &[u8; BOOT_LEN], at: usize) -> u16 {
    u16::from_le_bytes([sector[at], sector[at + 1]])
}

fn u32_at(sector: &[u8; BOOT_LEN], at: usize) -> u32 {
    u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]])
}

/// Tells apart what else has a boot sector or lies on boot partitions.
fn recognise(sector: &[u8; BOOT_LEN]) -> crate::error::Result<()> {
    let found = match &sector[3..11] {
        b"EXFAT   " => Some("exFAT"),
        b"NTFS    " => Some("NTFS"),
        b"-FVE-FS-" => Some("BitLocker"),
        _ if sector.starts_with(b"LUKS\xba\xbe") => Some("LUKS"),
        _ if sector.starts_with(b"XFSB") => Some("XFS"),
        _ => None,
    };
    // The jump is what the specification and the firmware ask for, and what
    // tells a boot sector from an MBR.
    let jump = matches!(sector[0], 0xeb | 0xe9);
    let signed = sector[510..] == [0x55, 0xaa];
    if found.is_some() || !jump || !signed {
        return Err(FatError::NotFat { found }.into());
    }
    Ok(())
}

/// The fields that all kinds have in common.
struct Layout {
    sector_size: u32,
    cluster_sectors: u32,
    reserved: u64,
    fats: u8,
    fat_sectors: u64,
    root_entries: u16,
    total_sectors: u32,
    fat32: bool,
}

impl Layout {
    fn parse(sector: &[u8; BOOT_LEN]) -> Result<Self, BootSectorError> {
        let sector_size = u16_at(sector, 11);
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return Err(BootSectorError::SectorSize { found: sector_size });
        }
        let cluster_sectors = sector[13];
        if !cluster_sectors.is_power_of_two() {
            return Err(BootSectorError::SectorsPerCluster {
                found: cluster_sectors,
            });
        }
        let reserved = u16_at(sector, 14);
        if reserved == 0 {
            return Err(BootSectorError::ReservedSectors);
        }
        let fats = sector[16];
        if fats == 0 {
            return Err(BootSectorError::NoFats);
        }
        let fat32 = u16_at(sector, 22) == 0;
        let fat_sectors = match u16_at(sector, 22) {
            0 => u32_at(sector, 36),
            small => small.into(),
        };
        if fat_sectors == 0 {
            return Err(BootSectorError::FatSize);
        }
        let root_entries = u16_at(sector, 17);
        let root_len = u64::from(root_entries) * ENTRY_LEN;
        if fat32 != (root_entries == 0) || root_len % u64::from(sector_size) != 0 {
            return Err(BootSectorError::RootEntries {
                found: root_entries,
            });
        }
        let total_sectors = match u16_at(sector, 19) {
            0 => u32_at(sector, 32),
            small => small.into(),
        };
        Ok(Self {
            sector_size: sector_size.into(),
            cluster_sectors: cluster_sectors.into(),
            reserved: reserved.into(),
            fats,
            fat_sectors: fat_sectors.into(),
            root_entries,
            total_sectors,
            fat32,
        })
    }

    /// Sectors before cluster 2: below 2^41, from fields of at most 32 bits.
    fn metadata_sectors(&self) -> u64 {
        self.root_sector() + u64::from(self.root_entries) * ENTRY_LEN / u64::from(self.sector_size)
    }

    fn root_sector(&self) -> u64 {
        self.reserved + u64::from(self.fats) * self.fat_sectors
    }

    /// Kind and number of clusters.
    fn clusters(&self) -> Result<(FatKind, u32), BootSectorError> {
        let clusters = u64::from(self.total_sectors)
            .checked_sub(self.metadata_sectors())
            .map(|sectors| sectors / u64::from(self.cluster_sectors))
            .filter(|&clusters| clusters > 0)
            .ok_or(BootSectorError::TotalSectors {
                found: self.total_sectors,
                metadata: self.metadata_sectors(),
            })?;
        let kind = if self.fat32 {
            FatKind::Fat32
        } else if clusters <= u64::from(FatKind::Fat12.max_clusters()) {
            FatKind::Fat12
        } else {
            FatKind::Fat16
        };
        u32::try_from(clusters)
            .ok()
            .filter(|&clusters| clusters <= kind.max_clusters())
            .map(|clusters| (kind, clusters))
            .ok_or(BootSectorError::TooManyClusters {
                kind,
                found: clusters,
            })
    }
}

/// Reads the boot sector of a volume on a medium of `medium` bytes.
pub(crate) fn parse(sector: &[u8; BOOT_LEN], medium: u64) -> crate::error::Result<Geometry> {
    recognise(sector)?;
    geometry(sector, medium).map_err(|error| FatError::BootSector(error).into())
}

fn geometry(sector: &[u8; BOOT_LEN], medium: u64) -> Result<Geometry, BootSectorError> {
    let layout = Layout::parse(sector)?;
    let (kind, clusters) = layout.clusters()?;
    let in_bytes = |sectors: u64| sectors * u64::from(layout.sector_size);

    let volume_size = in_bytes(layout.total_sectors.into());
    if volume_size > medium {
        return Err(BootSectorError::Medium {
            volume: volume_size,
            medium,
        });
    }
    let fat_size = in_bytes(layout.fat_sectors);
    let fat_used = kind.fat_len(u64::from(clusters) + 2);
    if fat_used > fat_size {
        return Err(BootSectorError::FatTooShort {
            len: fat_size,
            needed: fat_used,
        });
    }
    let (active, root) = if layout.fat32 {
        let cluster = root_cluster(sector, clusters)?;
        (active_fat(sector, layout.fats)?, Root::Chain { cluster })
    } else {
        let offset = in_bytes(layout.root_sector());
        let len = u64::from(layout.root_entries) * ENTRY_LEN;
        (0, Root::Fixed { offset, len })
    };
    let record = ExtendedRecord::parse(sector, layout.fat32);
    Ok(Geometry {
        info: Info {
            kind,
            sector_size: layout.sector_size,
            cluster_size: layout.sector_size * layout.cluster_sectors,
            clusters,
            volume_size,
            fat_size,
            fats: layout.fats,
            volume_id: record.volume_id,
            label: record.label,
            dirty: record.dirty,
        },
        fat_offset: in_bytes(layout.reserved) + u64::from(active) * fat_size,
        fat_used,
        data_offset: in_bytes(layout.metadata_sectors()),
        root,
    })
}

/// What stands behind the common fields, which are longer on FAT32.
struct ExtendedRecord {
    volume_id: u32,
    label: Option<String>,
    dirty: bool,
}

impl ExtendedRecord {
    fn parse(sector: &[u8; BOOT_LEN], fat32: bool) -> Self {
        let at = if fat32 { 64 } else { 36 };
        // 0x28 has the volume ID only, 0x29 label and type as well.
        let signature = sector[at + 2];
        Self {
            volume_id: match signature {
                0x28 | 0x29 => u32_at(sector, at + 3),
                _ => 0,
            },
            label: match signature {
                0x29 => name::label(&sector[at + 7..at + 18]).filter(|label| label != "NO NAME"),
                _ => None,
            },
            dirty: sector[at + 1] & 1 != 0,
        }
    }
}

/// Where the root directory starts on FAT32.
fn root_cluster(sector: &[u8; BOOT_LEN], clusters: u32) -> Result<u32, BootSectorError> {
    let cluster = u32_at(sector, 44);
    // At most 0x0fff_fff5 clusters.
    if (2..clusters + 2).contains(&cluster) {
        Ok(cluster)
    } else {
        Err(BootSectorError::RootCluster {
            found: cluster,
            last: clusters + 1,
        })
    }
}

/// Which FAT counts on FAT32. With mirroring (bit 7 clear) all are the same.
fn active_fat(sector: &[u8; BOOT_LEN], fats: u8) -> Result<u8, BootSectorError> {
    let version = u16_at(sector, 42);
    if version != 0 {
        return Err(BootSectorError::Version { found: version });
    }
    let flags = sector[40];
    let active = if flags & 0x80 == 0 { 0 } else { flags & 0x0f };
    if active >= fats {
        return Err(BootSectorError::ActiveFat {
            found: active,
            fats,
        });
    }
    Ok(active)
}
