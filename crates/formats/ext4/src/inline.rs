//! Data inside an inode (`inline_data`): the 60 bytes of `i_block`, then the
//! value of the attribute `system.data` in the rest of the inode.

use crate::bytes::{le16, le32, part};
use crate::error::Result;
use crate::volume::Inode;

const BLOCK_AREA: usize = 60;
const ATTRIBUTE_MAGIC: u32 = 0xea02_0000;
/// `EXT4_XATTR_INDEX_SYSTEM`.
const INDEX_SYSTEM: u8 = 7;
const NAME: &[u8] = b"data";
const ENTRY: usize = 16;

/// The two areas that hold an inline directory's entries. The first four bytes
/// of `i_block` are the parent's inode number, not an entry.
pub(crate) fn directory_areas(inode: &Inode) -> Result<[&[u8]; 2]> {
    let rest = rest(inode, inode.size)?;
    Ok([part(inode.block_area(), 4, BLOCK_AREA), rest])
}

/// The two halves of an inline symbolic link's target.
pub(crate) fn target(inode: &Inode) -> Result<[&[u8]; 2]> {
    let rest = rest(inode, inode.size)?;
    // A size beyond what is there leaves the shorter of the two.
    let head = usize::try_from(inode.size)
        .unwrap_or(usize::MAX)
        .min(BLOCK_AREA);
    Ok([part(inode.block_area(), 0, head), rest])
}

/// What of `size` bytes of data does not fit `i_block`.
fn rest(inode: &Inode, size: u64) -> Result<&[u8]> {
    let Some(wanted) = usize::try_from(size)
        .ok()
        .and_then(|size| size.checked_sub(BLOCK_AREA))
    else {
        return Ok(&[]);
    };
    if wanted == 0 {
        return Ok(&[]);
    }
    let value = attribute(inode).ok_or_else(|| inode.corrupt("its inline data is missing"))?;
    value
        .get(..wanted)
        .ok_or_else(|| inode.corrupt("its inline data is shorter than its size"))
}

/// The value of `system.data`. An attribute whose value lies in an inode of
/// its own is not what the kernel writes here, and is not found.
fn attribute(inode: &Inode) -> Option<&[u8]> {
    let extra = usize::from(le16(&inode.raw, 0x80));
    let body = inode.raw.get(0x80 + extra..)?;
    if le32(body, 0) != ATTRIBUTE_MAGIC {
        return None;
    }
    // Offsets of values count from the first entry.
    let entries = body.get(4..)?;
    let mut at: usize = 0;
    loop {
        let entry = entries.get(at..at + ENTRY)?;
        // The list ends with four zero bytes.
        if le32(entry, 0) == 0 {
            return None;
        }
        let name_len = usize::from(*entry.first()?);
        let name = entries.get(at + ENTRY..at + ENTRY + name_len)?;
        if entry.get(1) == Some(&INDEX_SYSTEM) && name == NAME && le32(entry, 4) == 0 {
            let start = usize::from(le16(entry, 2));
            let len = usize::try_from(le32(entry, 8)).ok()?;
            return entries.get(start..start.checked_add(len)?);
        }
        at += ENTRY + name_len.next_multiple_of(4);
    }
}
