//! Touching pages of files as a boot does: by system calls and as mapped memory.

use core::ffi::c_void;
use core::ptr;

use linux_raw_sys::general::__NR_mincore;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

use crate::arch::syscall5;
use crate::process::raw_errno;
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
    mapped(file, first, len, |place| {
        #[allow(unsafe_code, reason = "memory maps are what this is about")]
        // SAFETY: all of the place is mapped, and populating it changes nothing there.
        unsafe {
            rustix::mm::madvise(place, len, Advice::LinuxPopulateRead)
        }
    })
    .map_err(failed)
}

/// Maps `len` bytes of a file, from page `first` on, for as long as `work` takes.
fn mapped(
    file: BorrowedFd<'_>,
    first: u32,
    len: usize,
    work: impl FnOnce(*mut c_void) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let offset = u64::from(first) * PAGE as u64;
    let (access, flags) = (ProtFlags::READ, MapFlags::PRIVATE);
    #[allow(unsafe_code, reason = "memory maps are what this is about")]
    // SAFETY: the kernel chooses a place where nothing is. Nobody but `work` learns of
    // it, which does not read there, and it is gone before this returns.
    unsafe {
        let place = rustix::mm::mmap(ptr::null_mut(), len, access, flags, file, offset)?;
        let result = work(place);
        let unmapped = rustix::mm::munmap(place, len);
        result.and(unmapped)
    }
}

/// Pages that [`cached`] asks of at once: 16 MiB of a file.
const WINDOW: usize = 4096;

/// Hands over the pages of a regular file that are in the kernel's cache, in
/// ascending order (mincore(2)). Nothing is read. For others' files that takes
/// `CAP_FOWNER`, without which all pages seem to be there.
///
/// # Errors
/// The kernel's; EOPNOTSUPP where its pages are not of [`PAGE`] bytes.
pub fn cached(file: BorrowedFd<'_>, each: &mut dyn FnMut(u32)) -> Result<()> {
    let failed = |errno| Error::new("looking for", "a file's pages", errno);
    if !are_ours() {
        return Err(failed(Errno::OPNOTSUPP));
    }
    let size = rustix::fs::fstat(file).map_err(failed)?.st_size;
    let size = u64::try_from(size).map_err(|_| failed(Errno::INVAL))?;
    let pages = u32::try_from(size.div_ceil(PAGE as u64)).map_err(|_| failed(Errno::FBIG))?;
    let mut there = [0_u8; WINDOW];
    let mut first = 0;
    while first < pages {
        let count = (pages - first).min(WINDOW as u32);
        look(file, first, count as usize, &mut there).map_err(failed)?;
        for (page, state) in (first..).zip(there.iter().take(count as usize)) {
            // The other bits are reserved.
            if state & 1 != 0 {
                each(page);
            }
        }
        first += count;
    }
    Ok(())
}

/// Whether the kernel's pages are as small as [`PAGE`].
#[must_use]
#[allow(unsafe_code, reason = "memory maps are what this is about")]
pub fn are_ours() -> bool {
    let odd = ptr::without_provenance_mut(PAGE);
    // SAFETY: msync(2) of no bytes: it only looks whether the address, of which nothing
    // has to be there, is one of a page.
    unsafe { rustix::mm::msync(odd, 0, MsyncFlags::ASYNC) }.is_ok()
}

/// A window of that.
fn look(
    file: BorrowedFd<'_>,
    first: u32,
    count: usize,
    there: &mut [u8; WINDOW],
) -> rustix::io::Result<()> {
    let len = count.min(WINDOW) * PAGE;
    mapped(file, first, len, |place| {
        let args = [place.addr(), len, there.as_mut_ptr().addr(), 0, 0];
        #[allow(unsafe_code, reason = "rustix does not have mincore")]
        // SAFETY: mincore(2) writes a byte a page of at least 4096 bytes, for which
        // `there` has room.
        match unsafe { syscall5(__NR_mincore, args) } {
            0 => Ok(()),
            result => Err(raw_errno(result)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::string::String;

    #[test]
    fn this_machine_has_the_usual_pages() {
        let size = std::process::Command::new("getconf")
            .arg("PAGESIZE")
            .output();
        let text = String::from_utf8(size.unwrap().stdout).unwrap();
        assert_eq!(are_ours(), text.trim() == "4096", "{text}");
    }

    #[test]
    fn pages_in_the_cache_are_told_from_others() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(100 << 20).unwrap();
        let cached = || {
            let mut pages = std::vec::Vec::new();
            super::cached(file.as_fd(), &mut |page| pages.push(page)).unwrap();
            pages
        };
        assert!(cached().is_empty());
        for page in [3, 4, 4095, 4096, 25_599] {
            file.write_all_at(&[1], page * PAGE as u64).unwrap();
        }
        assert_eq!(cached(), [3, 4, 4095, 4096, 25_599]);
        let empty = tempfile::tempfile().unwrap();
        super::cached(empty.as_fd(), &mut |page| panic!("page {page}")).unwrap();
        let pipe = std::io::pipe().unwrap().0;
        super::cached(pipe.as_fd(), &mut |page| panic!("page {page}")).unwrap();
    }

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
