//! Partition tables.

use iofs_gpt::{GptError, HeaderError, MAX_ENTRIES, Table};
use iofs_source::{Limited, ReadAt, ReadError, ReadErrorKind};

/// Size of the disk that a table is looked for on, in bytes.
pub(crate) const DISK: u64 = 64 << 20;

/// Set in the first byte: checksums are mended before the table is read.
pub(crate) const RESEAL: u8 = 0x80;

/// A disk of [`DISK`] bytes of which only both ends are not zero.
struct Ends {
    front: Vec<u8>,
    back: Vec<u8>,
}

impl ReadAt for Ends {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > DISK) {
            let kind = ReadErrorKind::OutOfBounds { size: DISK };
            return Err(ReadError { offset, len, kind });
        }
        buf.fill(0);
        overlay(buf, offset, &self.back, DISK - self.back.len() as u64);
        overlay(buf, offset, &self.front, 0);
        Ok(())
    }

    fn size(&self) -> u64 {
        DISK
    }
}

/// Copies what `part`, which lies at `start`, has of the bytes of `buf`, which
/// lies at `offset`.
pub(crate) fn overlay(buf: &mut [u8], offset: u64, part: &[u8], start: u64) {
    let distance = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).ok();
    let place = distance(offset, start).and_then(|at| buf.get_mut(at..));
    let bytes = distance(start, offset).and_then(|at| part.get(at..));
    if let (Some(place), Some(bytes)) = (place, bytes) {
        let len = place.len().min(bytes.len());
        place[..len].copy_from_slice(&bytes[..len]);
    }
}

/// GUID partition tables.
///
/// Input: a byte whose low two bits choose the block size (512 to 4096) and
/// whose high bit mends the checksums; then the first and the last bytes of a
/// disk, half each.
///
/// Invariants:
/// * no panic, and no more read than both headers and the largest entry arrays;
/// * partitions are numbered upwards, at most 1024, none is empty, all lie in
///   the usable range and that in the disk, and none overlap;
/// * the backup is taken exactly if the primary has an error.
pub fn gpt(data: &[u8]) {
    let Some((&options, rest)) = data.split_first() else {
        return;
    };
    let block_size = 512u32 << (options & 3);
    let (front, back) = rest.split_at(rest.len() / 2);
    let mut disk = Ends {
        front: front.to_vec(),
        back: back.to_vec(),
    };
    if options & RESEAL != 0 {
        reseal(&mut disk, block_size as usize);
    }
    let limit = 2 * (2 * 4096 + u64::from(MAX_ENTRIES) * 1024) + 64;
    match Table::read(&Limited::new(&disk, limit), block_size) {
        Ok(table) => check(&table, block_size),
        Err(GptError::Damaged { primary, backup }) => {
            for error in [primary, backup] {
                if let HeaderError::Read(error) = error {
                    let kind = error.kind;
                    assert!(!matches!(kind, ReadErrorKind::LimitReached { .. }));
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

fn check(table: &Table, block_size: u32) {
    assert_eq!(table.block_size, block_size);
    assert_eq!(
        table.copy == iofs_gpt::Copy::Backup,
        table.primary_error.is_some()
    );
    assert!(table.usable.start < table.usable.end && table.usable.end <= DISK);
    let mut by_start: Vec<_> = table.partitions.iter().collect();
    for partition in &by_start {
        assert!(partition.len > 0);
        assert!((1..=MAX_ENTRIES).contains(&partition.number));
        assert!(partition.start >= table.usable.start);
        assert!(partition.end() <= table.usable.end);
        assert!(partition.name.chars().count() <= 36);
    }
    assert!(by_start.windows(2).all(|p| p[0].number < p[1].number));
    by_start.sort_by_key(|partition| partition.start);
    assert!(by_start.windows(2).all(|p| p[0].end() <= p[1].start));
}

/// Mends the checksums of both headers and entry arrays, as far as they lie in
/// the bytes that are there.
fn reseal(disk: &mut Ends, block: usize) {
    let back_start = DISK - disk.back.len() as u64;
    let back_header = disk.back.len().checked_sub(block);
    for (bytes, start, header) in [
        (&mut disk.front, 0, Some(block)),
        (&mut disk.back, back_start, back_header),
    ] {
        if let Some(header) = header {
            reseal_one(bytes, start, header, block as u64);
        }
    }
}

/// `bytes` lie at `start` of the disk, the header at `header` in them.
pub(crate) fn reseal_one(bytes: &mut [u8], start: u64, header: usize, block: u64) -> Option<()> {
    let field = |at: usize| bytes.get(header + at..)?.first_chunk::<8>().copied();
    let lba = u64::from_le_bytes(field(72)?);
    let count_and_len = u64::from_le_bytes(field(80)?);
    let len = (count_and_len & 0xffff_ffff).checked_mul(count_and_len >> 32)?;
    let entries = lba
        .checked_mul(block)
        .and_then(|offset| offset.checked_sub(start))
        .and_then(|offset| usize::try_from(offset).ok());
    if let (Some(at), Ok(len)) = (entries, usize::try_from(len)) {
        // Beyond the bytes that are there the disk is zero.
        if len <= 1 << 20 && at <= bytes.len() {
            let here = &bytes[at..bytes.len().min(at + len)];
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(here);
            checksum.update(&vec![0; len - here.len()]);
            let checksum = checksum.finalize().to_le_bytes();
            bytes
                .get_mut(header + 88..header + 92)?
                .copy_from_slice(&checksum);
        }
    }
    bytes.get_mut(header + 16..header + 20)?.fill(0);
    let checksum = crc32fast::hash(bytes.get(header..header + 92)?).to_le_bytes();
    bytes[header + 16..header + 20].copy_from_slice(&checksum);
    Some(())
}

/// Where the second part of a superblock's input lies on its device: btrfs has its
/// superblock there.
const FAR: usize = 0x1_0000;

/// How much of that input lies at the device's beginning.
pub(crate) const NEAR: usize = 8192;

/// Superblocks.
///
/// Input: the first 8 KiB of a device, then what it has from 64 KiB on.
///
/// Invariants:
/// * no panic;
/// * a label has no NUL and is no longer than any file system's.
pub fn superblock(data: &[u8]) {
    let mut device = data.to_vec();
    if let Some(far) = data.get(NEAR..) {
        device.truncate(NEAR);
        device.resize(FAR, 0);
        device.extend_from_slice(far);
    }
    if let Some(found) = iofs_superblock::Superblock::read(&device[..]) {
        assert!(found.label.len() <= 256 && !found.label.contains('\0'));
        assert!(found.kind.is_file_system() || found.uuid.is_nil());
    }
}
