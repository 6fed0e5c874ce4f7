//! What a boot is going to read: the list in the image, and the trace that it comes
//! from.

use iofs_prefetch::opened;
use iofs_prefetch::trace::Line;
use iofs_prefetch::{HEADER_LEN, PAGE, PrefetchList, Uuid};

/// Prefetch lists.
///
/// Input: a list; its length field and checksum are mended, and it is read for the
/// file system that it says it is of.
///
/// Invariants:
/// * no panic;
/// * a list that is accepted can be encoded, and is the same afterwards;
/// * its metadata lies inside the file system, its paths below a folder.
pub fn prefetch(data: &[u8]) {
    let mut bytes = data.to_vec();
    let (Some(body), Ok(total)) = (bytes.len().checked_sub(4), u32::try_from(bytes.len())) else {
        return;
    };
    if body < HEADER_LEN {
        return drop(PrefetchList::decode(data, Uuid::nil(), 0).map_err(|e| e.to_string()));
    }
    bytes[12..16].copy_from_slice(&total.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.to_le_bytes());
    let (mut uuid, mut size) = ([0; 16], [0; 8]);
    uuid.copy_from_slice(&bytes[16..32]);
    size.copy_from_slice(&bytes[32..40]);
    let (uuid, size) = (Uuid::from_bytes(uuid), u64::from_le_bytes(size));
    let list = match PrefetchList::decode(&bytes, uuid, size) {
        Ok(list) => list,
        Err(error) => return drop(error.to_string()),
    };
    let again = list.encode().expect("what was read can be written");
    assert_eq!(PrefetchList::decode(&again, uuid, size).as_ref(), Ok(&list));
    let end = list.metadata.last().map_or(0, |range| range.end());
    assert!(u64::from(end) <= size.div_ceil(PAGE));
    for file in &list.files {
        assert!(!file.path.starts_with('/'));
        assert!(file.path.split('/').all(|part| part != ".."));
    }
    let _ = list.bytes();
}

/// The kernel's traces, and the records of files that were opened.
///
/// Input: either.
///
/// Invariants:
/// * no panic;
/// * an event has pages, not more than a folio can have;
/// * a file's pages ascend, and what is read is written the same.
pub fn trace(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        if let Line::Event(event) = Line::parse(line) {
            assert!((1..=1 << 18).contains(&event.pages));
            assert!(event.page <= u64::MAX / PAGE);
        }
        let Some(read) = opened::Line::parse(line) else {
            continue;
        };
        if let opened::Line::File { path, ranges } = &read {
            assert!(opened::can_name(path));
            let apart = ranges.windows(2).all(|two| two[0].end() < two[1].start);
            assert!(apart && ranges.iter().all(|range| range.len > 0));
        }
        assert_eq!(opened::Line::parse(&read.to_string()), Some(read));
    }
}
