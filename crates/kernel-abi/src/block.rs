//! Block devices, read in place.

use alloc::string::{String, ToString};

use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::on_path;
use crate::{Error, Result, file};

/// A block device (or a file that stands for one in tests), open for reading.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    path: String,
    size: u64,
}

impl Device {
    /// Opens `path` read-only. It does not claim the device.
    ///
    /// # Errors
    /// The kernel's; ENXIO or ENOMEDIUM for a drive without a medium.
    pub fn open(path: &str) -> Result<Self> {
        Self::from_fd(file::open(path, OFlags::RDONLY)?, path)
    }

    /// What is open as `fd`, a device or a file that stands for one; `path` is
    /// for messages.
    ///
    /// # Errors
    /// The kernel's.
    pub fn from_fd(fd: OwnedFd, path: &str) -> Result<Self> {
        // Works for devices and files alike, unlike BLKGETSIZE64.
        let size = rustix::fs::seek(&fd, SeekFrom::End(0))
            .map_err(|errno| Error::new("measuring", path, errno))?;
        Ok(Self {
            fd,
            path: path.to_string(),
            size,
        })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ReadAt for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> core::result::Result<(), ReadError> {
        let len = buf.len() as u64;
        let error = |kind| ReadError { offset, len, kind };
        match offset.checked_add(len) {
            Some(end) if end <= self.size => {}
            _ => return Err(error(ReadErrorKind::OutOfBounds { size: self.size })),
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            match rustix::io::pread(&self.fd, &mut *rest, at) {
                Ok(0) => return Err(error(ReadErrorKind::OutOfBounds { size: self.size })),
                Ok(count) => {
                    at = at.saturating_add(count as u64);
                    rest = rest.get_mut(count..).unwrap_or(&mut []);
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(error(ReadErrorKind::Io {
                        errno: errno.raw_os_error(),
                    }));
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Major and minor number as the kernel prints and parses them: `253:0`.
///
/// # Errors
/// The kernel's; ENOTBLK if `path` is no block device.
pub fn device_number(path: &str) -> Result<(u32, u32)> {
    let stat = on_path("looking at", path, |path| rustix::fs::stat(path))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
        return Err(Error::new("looking at", path, Errno::NOTBLK));
    }
    Ok((
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_for_a_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"0123456789").unwrap();
        let device = Device::open(file.path().to_str().unwrap()).unwrap();
        assert_eq!(device.size(), 10);
        let mut buf = [0; 4];
        device.read_at(6, &mut buf).unwrap();
        assert_eq!(&buf, b"6789");
        assert!(device.read_at(7, &mut buf).is_err());
        assert_eq!(
            device_number(file.path().to_str().unwrap())
                .unwrap_err()
                .errno(),
            Errno::NOTBLK
        );
    }
}
