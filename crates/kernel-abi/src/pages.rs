//! Touching pages of files as a boot does: by system calls and as mapped memory.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::{Error, Result};

/// The unit, in bytes.
pub const PAGE: usize = 4096;

/// Reads `buffer` full of a file, from page `first` on; how many bytes there were.
///
/// # Errors
/// The kernel's.
pub fn read(file: BorrowedFd<'_>, first: u32, buffer: &mut [u8]) -> Result<usize> {
    let mut offset = u64::from(first) * PAGE as u64;
    let mut len = 0;
    while let Some(room) = buffer.get_mut(len..).filter(|room| !room.is_empty()) {
        match rustix::io::pread(file, room, offset) {
            Ok(0) => break,
            Ok(count) => {
                len += count;
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("reading", "a file's pages", errno)),
        }
    }
    Ok(len)
}

/// Maps `count` pages of a file, has each faulted in as its first use would, and
/// takes the mapping away (madvise(2), `MADV_POPULATE_READ`; Linux 5.14).
///
/// # Errors
/// The kernel's: EFAULT for pages that cannot be read or lie behind the end.
pub fn fault(file: BorrowedFd<'_>, first: u32, count: u32) -> Result<()> {
    let failed = |errno| Error::new("mapping", "a file's pages", errno);
    let len = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(PAGE))
        .ok_or_else(|| failed(Errno::OVERFLOW))?;
    let offset = u64::from(first) * PAGE as u64;
    #[allow(unsafe_code, reason = "memory maps are what this is about")]
    // SAFETY: the kernel chooses a place where nothing is. Nobody else learns of
    // it, nothing is read through it here, and it is gone before this returns.
    unsafe {
        let place = rustix::mm::mmap(
            core::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            file,
            offset,
        )
        .map_err(failed)?;
        let populated = rustix::mm::madvise(place, len, Advice::LinuxPopulateRead);
        let unmapped = rustix::mm::munmap(place, len);
        populated.and(unmapped).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn pages_are_read_and_faulted_up_to_the_end() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        let mut buffer = [0; 2 * PAGE];
        assert_eq!(read(file.as_fd(), 1, &mut buffer).unwrap(), 10_000 - PAGE);
        assert!(buffer[..10_000 - PAGE].iter().all(|&byte| byte == 7));
        assert_eq!(read(file.as_fd(), 9, &mut buffer).unwrap(), 0);
        fault(file.as_fd(), 0, 3).unwrap();
        fault(file.as_fd(), 2, 1).unwrap();
        assert_eq!(fault(file.as_fd(), 3, 1).unwrap_err().errno(), Errno::FAULT);
        assert_eq!(fault(file.as_fd(), 0, 0).unwrap_err().errno(), Errno::INVAL);
    }
}
