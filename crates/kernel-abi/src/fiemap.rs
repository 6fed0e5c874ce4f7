//! Where a file's bytes lie on its device, as the file system says
//! (FS_IOC_FIEMAP; kernel: Documentation/filesystems/fiemap.rst,
//! include/uapi/linux/fiemap.h).

use alloc::vec::Vec;
use core::ffi::c_void;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::{Error, Result};

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where in the file, in bytes.
    pub logical: u64,
    /// Where on the device, in bytes.
    pub physical: u64,
    /// How long, in bytes.
    pub len: u64,
}

/// Extents a call asks for.
const BATCH: usize = 64;

/// FIEMAP_FLAG_SYNC: what was written is given its place first.
const SYNC: u32 = 1;

/// FIEMAP_EXTENT_LAST.
const LAST: u32 = 0x1;

/// Flags of extents that are not the file's bytes, as they are, at a known place:
/// UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE,
/// DATA_TAIL, UNWRITTEN.
const NOT_PLAIN: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    len: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Request {
    start: u64,
    len: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// The size of a file and the runs up to there, in the order of the file, at
/// most `limit`. The last may reach further; what the file system keeps behind
/// the end, for the file to grow into, is not asked for.
///
/// # Errors
/// The kernel's; EOPNOTSUPP if the file system does not say where files lie or if
/// the file is compressed, encrypted, inline or not written yet; EFBIG if it is
/// in too many pieces. `path` is for messages.
pub fn runs(file: BorrowedFd<'_>, path: &str, limit: usize) -> Result<(u64, Vec<Run>)> {
    let error = |errno| Error::new("mapping", path, errno);
    let stat = rustix::fs::fstat(file).map_err(error)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut runs = Vec::new();
    let mut start = 0;
    while start < size {
        let answer = ask(file, start, size - start).map_err(error)?;
        let mapped = usize::try_from(answer.mapped).unwrap_or(BATCH).min(BATCH);
        let extents = answer.extents.get(..mapped).unwrap_or(&[]);
        for extent in extents {
            if extent.flags & NOT_PLAIN != 0 {
                return Err(error(Errno::OPNOTSUPP));
            }
            if runs.len() == limit {
                return Err(error(Errno::FBIG));
            }
            runs.push(Run {
                logical: extent.logical,
                physical: extent.physical,
                len: extent.len,
            });
        }
        match extents.last() {
            Some(last) if last.flags & LAST == 0 => {
                let next = last.logical.saturating_add(last.len);
                // A file system that gives the same answer again would be asked
                // for ever.
                if next <= start {
                    return Err(error(Errno::IO));
                }
                start = next;
            }
            _ => break,
        }
    }
    Ok((size, runs))
}

#[allow(unsafe_code, reason = "ioctl(2) is unsafe to the last")]
fn ask(file: BorrowedFd<'_>, start: u64, len: u64) -> rustix::io::Result<Request> {
    let empty = RawExtent {
        logical: 0,
        physical: 0,
        len: 0,
        reserved64: [0; 2],
        flags: 0,
        reserved: [0; 3],
    };
    let mut request = Request {
        start,
        len,
        flags: SYNC,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [empty; BATCH],
    };
    // SAFETY: the request below carries what fs/ioctl.c defines for its opcode.
    unsafe { rustix::ioctl::ioctl(file, Fiemap(&mut request)) }?;
    Ok(request)
}

struct Fiemap<'a>(&'a mut Request);

#[allow(unsafe_code, reason = "the trait is unsafe to implement")]
// SAFETY: FS_IOC_FIEMAP reads a `struct fiemap`, which is the first 32 bytes of
// the request, and writes it and as many `struct fiemap_extent` behind it as its
// count says: those that the request has room for. All are plain numbers.
unsafe impl Ioctl for Fiemap<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        /// `struct fiemap` without its extents.
        type Head = [u64; 4];
        opcode::read_write::<Head>(b'f', 11)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::io::Write;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<RawExtent>(), 56);
        assert_eq!(core::mem::offset_of!(Request, extents), 32);
    }

    #[test]
    fn a_files_runs_cover_it() {
        // On disk: tmpfs does not say where files lie.
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&std::vec![7; 300_000]).unwrap();
        file.as_file().sync_all().unwrap();
        let runs = |limit| runs(file.as_file().as_fd(), "a file", limit);
        match runs(1000) {
            Ok((size, found)) => {
                assert_eq!(size, 300_000);
                let mut at = 0;
                for run in found {
                    assert_eq!(run.logical, at);
                    at += run.len;
                }
                assert!(at >= size);
                assert_eq!(runs(0).unwrap_err().errno(), Errno::FBIG);
            }
            // An overlay or network file system below the target folder.
            Err(error) => assert_eq!(error.errno(), Errno::OPNOTSUPP),
        }
    }

    #[test]
    fn room_behind_the_end_is_not_the_files() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&std::vec![7; 300_000]).unwrap();
        let runs = || runs(file.as_file().as_fd(), "a file", 1000);
        let behind = rustix::fs::FallocateFlags::KEEP_SIZE;
        let room = |_| rustix::fs::fallocate(file.as_file(), behind, 1 << 20, 1 << 20);
        match runs().map_err(|error| error.errno()).and_then(room) {
            Ok(()) => {}
            // As above, or a file system that keeps no room.
            Err(Errno::OPNOTSUPP) => return,
            Err(error) => panic!("{error}"),
        }
        file.as_file().sync_all().unwrap();
        let (size, found) = runs().unwrap();
        assert_eq!(size, 300_000);
        let end = found.last().map(|run| run.logical + run.len).unwrap();
        assert!((300_000..1 << 20).contains(&end), "{found:?}");
    }

    #[test]
    fn what_says_nothing_is_an_error() {
        // In memory there is no place on a device.
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, b"bytes").unwrap();
        let error = runs(file.as_fd(), "file", 10).unwrap_err();
        assert_eq!(error.errno(), Errno::OPNOTSUPP);
    }
}
