//! From a path to an inode, through symbolic links.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use iofs_source::ReadAt;

use crate::dir;
use crate::error::{Ext4Error, Result};
use crate::inline;
use crate::runs::visit_runs;
use crate::volume::{FLAG_ENCRYPTED, FLAG_INLINE_DATA, Inode, Volume};

const ROOT: u32 = 2;
/// Most symbolic links followed on one path.
const MAX_LINKS: u32 = 8;
/// Most names looked up on one path, those in link targets included.
const MAX_NAMES: u32 = 128;
/// Longest link target, in bytes (`PATH_MAX`).
const MAX_TARGET: u64 = 4096;
/// Targets shorter than this lie in the inode.
const FAST_TARGET: u64 = 60;

/// The inode that `path` leads to. Paths and absolute link targets start at
/// the volume's root, which `..` does not leave.
pub(crate) fn resolve<S: ReadAt>(volume: &Volume<S>, path: &str) -> Result<Inode> {
    let too_many = || Box::new(Ext4Error::TooManyLinks { path: path.into() });
    let mut here = vec![(volume.inode(ROOT, ROOT)?, Vec::new())];
    let mut todo = components(path.as_bytes());
    let mut links = 0;
    let mut names = 0;
    while let Some(name) = todo.pop() {
        names += 1;
        if names > MAX_NAMES {
            return Err(too_many());
        }
        let Some((directory, _)) = here.last() else {
            // The root is never popped.
            break;
        };
        if !directory.is_directory() {
            return Err(Ext4Error::NotADirectory {
                path: spell(&here, None),
            }
            .into());
        }
        match name.as_slice() {
            b"." => continue,
            b".." => {
                if here.len() > 1 {
                    here.pop();
                }
                continue;
            }
            _ => {}
        }
        if directory.has(FLAG_ENCRYPTED) {
            return Err(Ext4Error::Encrypted {
                path: spell(&here, None),
            }
            .into());
        }
        let number = dir::lookup(volume, directory, &name)?.ok_or_else(|| Ext4Error::NotFound {
            path: spell(&here, Some(&name)),
        })?;
        let inode = volume.inode(number, directory.number)?;
        if !inode.is_symlink() {
            here.push((inode, name));
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(too_many());
        }
        let target = read_link(volume, &inode, || spell(&here, Some(&name)))?;
        if target.first() == Some(&b'/') {
            here.truncate(1);
        }
        todo.append(&mut components(&target));
    }
    here.pop().map(|(inode, _)| inode).ok_or_else(too_many)
}

/// The names of `path`, the last one first. Empty ones mean nothing.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .rev()
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The way walked so far and then `name`, for messages.
fn spell(here: &[(Inode, Vec<u8>)], name: Option<&[u8]>) -> String {
    let mut path = String::new();
    let walked = here.iter().skip(1).map(|(_, name)| name.as_slice());
    for part in walked.chain(name) {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(part));
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

/// The target of a symbolic link; `path` spells the link for messages.
fn read_link<S: ReadAt>(
    volume: &Volume<S>,
    inode: &Inode,
    path: impl Fn() -> String,
) -> Result<Vec<u8>> {
    if inode.has(FLAG_ENCRYPTED) {
        return Err(Ext4Error::Encrypted { path: path() }.into());
    }
    if inode.size == 0 || inode.size > MAX_TARGET {
        return Err(inode.corrupt("the symbolic link has an impossible length"));
    }
    if inode.has(FLAG_INLINE_DATA) {
        return Ok(inline::target(inode)?.concat());
    }
    // At most 4096.
    let len = usize::try_from(inode.size).unwrap_or(0);
    if inode.size < FAST_TARGET {
        return Ok(inode.block_area().get(..len).unwrap_or(&[]).to_vec());
    }
    let mut target = Vec::new();
    let size = volume.block_len();
    let blocks = inode.size.div_ceil(size as u64);
    visit_runs(volume, inode, blocks, &mut |run| {
        if run.written && run.logical * size as u64 == target.len() as u64 {
            // At most 4096 bytes in all, since `blocks` limits the run.
            let bytes = usize::try_from(run.len).unwrap_or(0) * size;
            let start = target.len();
            target.resize(start + bytes, 0);
            if let Some(room) = target.get_mut(start..) {
                volume.read_blocks(run.physical, room)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if target.len() < len {
        return Err(inode.corrupt("the symbolic link has a hole"));
    }
    target.truncate(len);
    Ok(target)
}
