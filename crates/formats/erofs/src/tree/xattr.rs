//! Extended attributes, behind the inode or shared.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use iofs_source::ReadAt;

use super::{Inode, Tree, TreeError, data};
use crate::bytes::{byte, le16, le32};
use crate::features::INCOMPAT_FRAGMENTS;

const HEADER: usize = 12;
const ENTRY: usize = 4;
const LONG_PREFIX: u8 = 0x80;
/// Where `.` and the shared area's ids count in units of 4 bytes.
const WORD: u64 = 4;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// The whole name: `security.capability`.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Whether it is stored once for several inodes.
    pub shared: bool,
}

/// The attributes of `inode`, those of its own first.
pub(super) fn read<S: ReadAt>(tree: &Tree<S>, inode: &Inode) -> Result<Vec<Xattr>, TreeError> {
    let mut attributes = Vec::new();
    if inode.xattr_len == 0 {
        return Ok(attributes);
    }
    // At most 12 + 4 * 65534.
    let len = usize::try_from(inode.xattr_len).unwrap_or(0);
    let mut area = vec![0; len];
    tree.source
        .read_at(inode.xattr_offset(tree), &mut area)
        .map_err(|_| inode.corrupt("its attributes lie outside the image"))?;
    let shared = usize::from(byte(&area, 4));
    let own = HEADER + 4 * shared;
    let mut rest = area
        .get(own..)
        .ok_or_else(|| inode.corrupt("it refers to more shared attributes than it has room for"))?;
    while rest.len() >= ENTRY {
        // The area may end in padding.
        if rest.iter().all(|&b| b == 0) {
            break;
        }
        let (name_len, value_len, whole) = lengths(rest);
        let entry = rest
            .get(ENTRY..ENTRY + name_len + value_len)
            .ok_or_else(|| inode.corrupt("an attribute is cut off"))?;
        attributes.push(parse(tree, inode, byte(rest, 1), entry, name_len, false)?);
        rest = rest.get(whole..).unwrap_or(&[]);
    }
    for index in 0..shared {
        let id = le32(&area, HEADER + 4 * index);
        attributes.push(read_shared(tree, inode, id)?);
    }
    Ok(attributes)
}

/// Where the attributes are that the inode shares with others, in bytes on the
/// medium. Those of its own lie behind it.
pub(super) fn shared_ranges<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    ranges: &mut Vec<Range<u64>>,
) -> Result<(), TreeError> {
    if inode.xattr_len == 0 {
        return Ok(());
    }
    let outside = |_| inode.corrupt("its attributes lie outside the image");
    let mut header = [0; HEADER];
    let at = inode.xattr_offset(tree);
    tree.source.read_at(at, &mut header).map_err(outside)?;
    let shared = usize::from(byte(&header, 4));
    // At most 255 of four bytes.
    let mut ids = vec![0; 4 * shared];
    tree.source
        .read_at(at.saturating_add(HEADER as u64), &mut ids)
        .map_err(outside)?;
    for index in 0..shared {
        let at = shared_offset(tree, le32(&ids, 4 * index));
        let mut head = [0; ENTRY];
        tree.source.read_at(at, &mut head).map_err(outside)?;
        let (_, _, whole) = lengths(&head);
        ranges.push(at..at.saturating_add(whole as u64));
    }
    Ok(())
}

fn shared_offset<S>(tree: &Tree<S>, id: u32) -> u64 {
    let area = u64::from(tree.superblock.xattr_block) << tree.superblock.block_bits;
    area.saturating_add(u64::from(id) * WORD)
}

/// Lengths of the name, of the value, and of the padded whole.
fn lengths(entry: &[u8]) -> (usize, usize, usize) {
    let name = usize::from(byte(entry, 0));
    let value = usize::from(le16(entry, 2));
    (name, value, (ENTRY + name + value).next_multiple_of(4))
}

fn read_shared<S: ReadAt>(tree: &Tree<S>, inode: &Inode, id: u32) -> Result<Xattr, TreeError> {
    let at = shared_offset(tree, id);
    let outside = |_| inode.corrupt("a shared attribute lies outside the image");
    let mut head = [0; ENTRY];
    tree.source.read_at(at, &mut head).map_err(outside)?;
    let (name_len, value_len, _) = lengths(&head);
    let mut entry = vec![0; name_len + value_len];
    tree.source
        .read_at(at.saturating_add(ENTRY as u64), &mut entry)
        .map_err(outside)?;
    parse(tree, inode, head[1], &entry, name_len, true)
}

fn parse<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    index: u8,
    entry: &[u8],
    name_len: usize,
    shared: bool,
) -> Result<Xattr, TreeError> {
    let (suffix, value) = entry
        .split_at_checked(name_len)
        .ok_or_else(|| inode.corrupt("an attribute is cut off"))?;
    let mut name = if index & LONG_PREFIX == 0 {
        short_prefix(index).map(<[u8]>::to_vec)
    } else {
        long_prefix(tree, inode, index & !LONG_PREFIX)?
    }
    .ok_or_else(|| inode.corrupt("an attribute's name has an unknown prefix"))?;
    name.extend_from_slice(suffix);
    Ok(Xattr {
        name,
        value: value.to_vec(),
        shared,
    })
}

fn short_prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        0 => b"",
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        5 => b"lustre.",
        6 => b"security.",
        _ => return None,
    })
}

/// The `wanted`th long prefix, from the packed inode if there is one. The
/// records (length, index of a short prefix, what follows it) are padded to 4
/// bytes and must be walked from the first.
fn long_prefix<S: ReadAt>(
    tree: &Tree<S>,
    inode: &Inode,
    wanted: u8,
) -> Result<Option<Vec<u8>>, TreeError> {
    let superblock = &tree.superblock;
    if wanted >= superblock.xattr_prefixes {
        return Ok(None);
    }
    let packed =
        if superblock.features.has_incompat(INCOMPAT_FRAGMENTS) && superblock.packed_nid != 0 {
            Some(tree.inode(superblock.packed_nid)?)
        } else {
            None
        };
    let read = |at: u64, buf: &mut [u8]| match &packed {
        Some(packed) => data::read(tree, packed, at, buf),
        None => tree.source.read_at(at, buf).map_err(Into::into),
    };
    let mut at = u64::from(superblock.xattr_prefix_start) * WORD;
    for index in 0..=wanted {
        let mut len = [0; 2];
        read(at, &mut len)?;
        let len = u16::from_le_bytes(len);
        if index == wanted {
            let mut record = vec![0; usize::from(len)];
            read(at + 2, &mut record)?;
            let Some((&base, infix)) = record.split_first() else {
                return Err(inode.corrupt("a long prefix of attributes is empty"));
            };
            return Ok(short_prefix(base).map(|base| [base, infix].concat()));
        }
        at += (2 + u64::from(len)).next_multiple_of(WORD);
    }
    Ok(None)
}
