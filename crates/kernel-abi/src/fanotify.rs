//! Being told of the files that anybody opens (fanotify(7)).

use core::mem::MaybeUninit;

use linux_raw_sys::general::{__NR_fanotify_init, __NR_fanotify_mark};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::arch::syscall5;
use crate::error::on_path;
use crate::process::raw_errno;
use crate::{Error, Result};

// include/uapi/linux/fanotify.h
const FAN_OPEN: usize = 0x20;
const FAN_Q_OVERFLOW: u64 = 0x4000;
const FAN_CLOEXEC: usize = 0x1;
const FAN_NONBLOCK: usize = 0x2;
const FAN_MARK_ADD: usize = 0x1;
const FAN_MARK_FILESYSTEM: usize = 0x100;
const METADATA_VERSION: u8 = 3;
/// The fixed part of an event: length (32 bits), version, a reserved byte, the fixed
/// part's length (16), mask (64), descriptor and process (32 each).
const METADATA_LEN: usize = 24;

/// Events that are taken at a time; each holds a descriptor until it is looked at.
const AT_ONCE: usize = 64;

/// A group of file systems whose opened files are told of.
#[derive(Debug)]
pub struct Opens(OwnedFd);

/// What is told.
#[derive(Debug)]
pub enum Event {
    /// A file was opened: here it is, for reading.
    Opened(OwnedFd),
    /// The kernel had no room for some (`fs.fanotify.max_queued_events`), or could not
    /// hand one over.
    Lost,
}

impl Opens {
    /// An empty group.
    ///
    /// # Errors
    /// The kernel's: ENOSYS where it has no fanotify.
    #[allow(unsafe_code, reason = "rustix does not have fanotify")]
    pub fn new() -> Result<Self> {
        // A FIFO would wait for its other end when its event is read.
        let files = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::LARGEFILE;
        let flags = FAN_CLOEXEC | FAN_NONBLOCK;
        // SAFETY: fanotify_init(2) takes two numbers.
        let result =
            unsafe { syscall5(__NR_fanotify_init, [flags, files.bits() as usize, 0, 0, 0]) };
        let number = i32::try_from(result)
            .ok()
            .filter(|&number| number >= 0)
            .ok_or_else(|| Error::new("using", "fanotify", raw_errno(result)))?;
        // SAFETY: the kernel has just made it, for this call.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Adds the file system that is mounted at `path`, whichever way its files are
    /// reached (Linux 4.20).
    ///
    /// # Errors
    /// The kernel's.
    #[allow(unsafe_code, reason = "rustix does not have fanotify")]
    pub fn watch(&self, path: &str) -> Result<()> {
        let number = usize::try_from(self.0.as_raw_fd()).unwrap_or(usize::MAX);
        let flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM;
        // The path is absolute; the folder that it would count from, none.
        let nowhere = usize::MAX;
        on_path("watching", path, |path| {
            let args = [number, flags, FAN_OPEN, nowhere, path.as_ptr().addr()];
            // SAFETY: fanotify_mark(2) reads the path, which ends in NUL and outlives
            // the call; the rest are numbers.
            match unsafe { syscall5(__NR_fanotify_mark, args) } {
                0 => Ok(()),
                result => Err(raw_errno(result)),
            }
        })
    }

    /// Hands over what has come, without waiting, or the first 4096 of it; whether that
    /// was all.
    ///
    /// # Errors
    /// The kernel's, EBADMSG for events of a form that it should not use.
    pub fn take(&self, each: &mut dyn FnMut(Event)) -> Result<bool> {
        let failed = |errno| Error::new("reading", "fanotify's events", errno);
        let mut buffer = [MaybeUninit::uninit(); AT_ONCE * METADATA_LEN];
        // Whoever opens files all the time must not keep the caller here.
        for _ in 0..AT_ONCE {
            let mut events: &[u8] = match rustix::io::read(&self.0, &mut buffer) {
                Ok((events, _)) => events,
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => continue,
                Err(errno @ (Errno::BADF | Errno::INVAL | Errno::FAULT)) => {
                    return Err(failed(errno));
                }
                // The file could not be opened again: the kernel has dropped the event.
                Err(_) => {
                    each(Event::Lost);
                    continue;
                }
            };
            while !events.is_empty() {
                let (mask, number, rest) = split(events).ok_or_else(|| failed(Errno::BADMSG))?;
                events = rest;
                if let Some(file) = adopt(number) {
                    each(Event::Opened(file));
                }
                if mask & FAN_Q_OVERFLOW != 0 {
                    each(Event::Lost);
                }
            }
        }
        Ok(false)
    }
}

impl AsFd for Opens {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Mask and descriptor of the first event, and what follows it.
fn split(events: &[u8]) -> Option<(u64, i32, &[u8])> {
    let word = |at: usize| Some(i32::from_ne_bytes(events.get(at..at + 4)?.try_into().ok()?));
    let len = usize::try_from(word(0)?).ok()?;
    let rest = events.get(len..)?;
    if len < METADATA_LEN || *events.get(4)? != METADATA_VERSION {
        return None;
    }
    let mask = u64::from_ne_bytes(events.get(8..16)?.try_into().ok()?);
    Some((mask, word(16)?, rest))
}

/// The descriptor of an event; there is none where events were lost.
#[allow(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn adopt(number: i32) -> Option<OwnedFd> {
    // SAFETY: the kernel made it for this event, which is read once.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn an_opened_file_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let opens = Opens::new().unwrap();
        opens.watch(dir.path().to_str().unwrap()).unwrap();
        while !opens.take(&mut |_| {}).unwrap() {}
        drop(std::fs::File::open(&path).unwrap());
        // Others may open files of that file system, too.
        let inode = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_ino;
        let mut seen = Vec::new();
        let mut each = |event| match event {
            Event::Opened(file) => seen.push(inode(&file)),
            Event::Lost => panic!("events were lost"),
        };
        while !opens.take(&mut each).unwrap() {}
        let wanted = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        assert!(seen.contains(&wanted), "{seen:?}");
        assert_eq!(opens.watch("/no/such").unwrap_err().errno(), Errno::NOENT);
    }

    #[test]
    fn events_are_cut_apart() {
        let event = |len: u32, mask: u64, fd: i32| {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend([3, 0, 24, 0]);
            bytes.extend(mask.to_ne_bytes());
            bytes.extend(fd.to_ne_bytes());
            bytes.extend(1_i32.to_ne_bytes());
            bytes
        };
        let two = [event(24, 0x20, 5), event(24, FAN_Q_OVERFLOW, -1)].concat();
        let (mask, number, rest) = split(&two).unwrap();
        assert_eq!((mask, number), (0x20, 5));
        assert_eq!(split(rest).unwrap(), (FAN_Q_OVERFLOW, -1, &[][..]));
        assert!(adopt(-1).is_none());
        for bad in [
            &two[..23],
            &event(23, 0, 1)[..],
            &event(25, 0, 1),
            &event(u32::MAX, 0, 1),
        ] {
            assert!(split(bad).is_none(), "{bad:?}");
        }
        let mut other = two.clone();
        other[4] = 2;
        assert!(split(&other).is_none());
    }
}
