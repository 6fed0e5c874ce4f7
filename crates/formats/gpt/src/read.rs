//! Reading a table.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use iofs_source::{ReadAt, crc32};
use uuid::Uuid;

use crate::header::{ENTRY_LEN, Header, SIGNATURE};
use crate::{Copy, GptError, HeaderError, MbrKind, PartitionError, is_block_size, mbr};

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Block size that it is for, in bytes.
    pub block_size: u32,
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// Which of the two tables this is.
    pub copy: Copy,
    /// Why the primary was not taken; `Some` exactly with [`Copy::Backup`].
    pub primary_error: Option<HeaderError>,
    /// What block 0 holds.
    pub mbr: MbrKind,
    /// Where partitions may lie, in bytes from the start of the disk.
    pub usable: Range<u64>,
    /// The partitions in use, by number. None overlap, all lie in `usable`.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1: the N of `/dev/sdaN`.
    pub number: u32,
    /// Partition type; [`crate::types`] has names.
    pub type_guid: Uuid,
    /// The partition's own GUID, as in `PARTUUID=`.
    pub part_guid: Uuid,
    /// Offset on the disk, in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Attribute bits: UEFI 2.10 table 5.8 below bit 48, the type's own above.
    pub attributes: u64,
    /// Name, as in `PARTLABEL=`. UTF-16 up to the first NUL; what is not valid
    /// UTF-16 has become U+FFFD.
    pub name: String,
}

impl Partition {
    /// The first byte behind the partition.
    #[must_use]
    pub fn end(&self) -> u64 {
        // A reader and a layout both keep partitions inside a disk's u64 size.
        self.start.saturating_add(self.len)
    }
}

impl Table {
    /// Reads the table of `disk`, whose logical blocks have `block_size` bytes
    /// (the `BLKSSZGET` ioctl, or `queue/logical_block_size` in sysfs).
    ///
    /// # Errors
    /// If neither table is good, or the good one describes partitions that
    /// cannot be; [`GptError`] says which.
    pub fn read<S: ReadAt + ?Sized>(disk: &S, block_size: u32) -> Result<Self, GptError> {
        if !is_block_size(block_size) {
            return Err(GptError::BlockSize { block_size });
        }
        let size = disk.size();
        let block = u64::from(block_size);
        let last_lba = match (size / block).checked_sub(1) {
            // MBR, header, an entry, a usable block, and the backup's two.
            Some(last) if last >= 5 => last,
            _ => return Err(GptError::TooSmall { size }),
        };

        let mut mbr = MbrKind::None;
        let primary_error = match read_primary(disk, block_size, last_lba, &mut mbr) {
            Ok(_) | Err(_) if mbr == MbrKind::Partitions => return Err(GptError::Mbr),
            Ok(raw) => return raw.table(Copy::Primary, None, mbr),
            Err(error) => error,
        };
        match read_backup(disk, block_size, last_lba) {
            Ok(raw) => raw.table(Copy::Backup, Some(primary_error), mbr),
            Err(backup) => Err(neither(disk, block_size, primary_error, backup)),
        }
    }
}

/// A header that is good and the entry array that it vouches for.
struct Raw {
    block_size: u32,
    header: Header,
    entries: Vec<u8>,
}

fn read_primary<S: ReadAt + ?Sized>(
    disk: &S,
    block_size: u32,
    last_lba: u64,
    mbr: &mut MbrKind,
) -> Result<Raw, HeaderError> {
    let block = to_usize(block_size);
    let mut blocks = vec![0; 2 * block];
    disk.read_at(0, &mut blocks).map_err(HeaderError::Read)?;
    let (first, second) = blocks.split_at(block);
    *mbr = mbr::classify(first);
    let header = Header::parse(second, 1, last_lba)?;
    read_entries(disk, block_size, header)
}

fn read_backup<S: ReadAt + ?Sized>(
    disk: &S,
    block_size: u32,
    last_lba: u64,
) -> Result<Raw, HeaderError> {
    let mut block = vec![0; to_usize(block_size)];
    // `last_lba` came from dividing the disk's size, so the product fits.
    disk.read_at(last_lba * u64::from(block_size), &mut block)
        .map_err(HeaderError::Read)?;
    let header = Header::parse(&block, last_lba, last_lba)?;
    read_entries(disk, block_size, header)
}

fn read_entries<S: ReadAt + ?Sized>(
    disk: &S,
    block_size: u32,
    header: Header,
) -> Result<Raw, HeaderError> {
    let lba = header.entries_lba;
    let mut entries = vec![0; to_usize(header.entries_len())];
    // The header's check has kept the array inside the disk.
    disk.read_at(lba.saturating_mul(block_size.into()), &mut entries)
        .map_err(HeaderError::Read)?;
    if crc32(0, &entries) != header.entries_checksum {
        return Err(HeaderError::EntriesChecksum { lba });
    }
    Ok(Raw {
        block_size,
        header,
        entries,
    })
}

impl Raw {
    fn table(
        &self,
        copy: Copy,
        primary_error: Option<HeaderError>,
        mbr: MbrKind,
    ) -> Result<Table, GptError> {
        let header = &self.header;
        let block = u64::from(self.block_size);
        let mut partitions = Vec::new();
        let entries = self.entries.chunks_exact(to_usize(header.entry_len));
        for (number, entry) in (1u32..).zip(entries) {
            let parsed = parse_entry(entry, number, header, block);
            if let Some(partition) = parsed.map_err(|problem| GptError::Partition {
                copy,
                number,
                problem,
            })? {
                partitions.push(partition);
            }
        }
        refuse_overlap(&partitions, copy)?;
        Ok(Table {
            block_size: self.block_size,
            disk_guid: header.disk_guid,
            copy,
            primary_error,
            mbr,
            // Checked against the disk's last block, so neither overflows.
            usable: header.first_usable * block..(header.last_usable + 1) * block,
            partitions,
        })
    }
}

/// The partition in `entry`, `None` if the entry is unused.
fn parse_entry(
    entry: &[u8],
    number: u32,
    header: &Header,
    block: u64,
) -> Result<Option<Partition>, PartitionError> {
    const LEN: usize = ENTRY_LEN as usize;
    let Some(entry) = entry.first_chunk::<LEN>() else {
        return Ok(None);
    };
    let guid_at = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&entry[at..at + 16]);
        Uuid::from_bytes_le(bytes)
    };
    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&entry[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let type_guid = guid_at(0);
    if type_guid.is_nil() {
        return Ok(None);
    }
    let (first, last) = (u64_at(32), u64_at(40));
    if first > last || first < header.first_usable || last > header.last_usable {
        return Err(PartitionError::Range { first, last });
    }
    let units = entry[56..LEN]
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .take_while(|&unit| unit != 0);
    let mut name = String::new();
    for unit in char::decode_utf16(units) {
        name.push(unit.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Ok(Some(Partition {
        number,
        type_guid,
        part_guid: guid_at(16),
        // Inside the usable blocks, whose end in bytes fits.
        start: first * block,
        len: (last - first + 1) * block,
        attributes: u64_at(48),
        name,
    }))
}

fn refuse_overlap(partitions: &[Partition], copy: Copy) -> Result<(), GptError> {
    let mut by_start: Vec<&Partition> = partitions.iter().collect();
    iofs_source::sort_compactly(&mut by_start, |a, b| {
        (a.start, a.number) < (b.start, b.number)
    });
    for pair in by_start.windows(2) {
        if let [one, two] = pair {
            if one.end() > two.start {
                return Err(GptError::Partition {
                    copy,
                    number: one.number.max(two.number),
                    problem: PartitionError::Overlap {
                        with: one.number.min(two.number),
                    },
                });
            }
        }
    }
    Ok(())
}

/// The error for a disk on which both tables are bad.
fn neither<S: ReadAt + ?Sized>(
    disk: &S,
    block_size: u32,
    primary: HeaderError,
    backup: HeaderError,
) -> GptError {
    let absent = |error: &HeaderError| matches!(error, HeaderError::Signature { .. });
    if !absent(&primary) || !absent(&backup) {
        return GptError::Damaged { primary, backup };
    }
    for other in [512, 1024, 2048, 4096] {
        let mut start = [0; SIGNATURE.len()];
        if other != block_size
            && disk.read_at(u64::from(other), &mut start).is_ok()
            && start == *SIGNATURE
        {
            return GptError::OtherBlockSize {
                block_size,
                table: other,
            };
        }
    }
    GptError::NotPartitioned
}

/// Block and entry array sizes are below 2^21, so this loses nothing on any
/// target with 32-bit addresses.
fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
