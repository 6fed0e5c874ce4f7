//! The one error of this crate.

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::string::String;
use core::ffi::CStr;
use core::fmt;

use rustix::io::Errno;

/// Result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// A kernel operation that failed: what, on what, why.
///
/// Boxed, since nearly every step of PID 1 returns it: a pointer is passed on in
/// a register, where five words would be copied at every `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Details>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Details {
    op: &'static str,
    on: String,
    errno: Errno,
}

impl Error {
    /// An error of `op`, a verb phrase such as `mounting`, on the path, device
    /// or name `on`.
    #[must_use]
    #[cold]
    #[inline(never)]
    pub fn new(op: &'static str, on: &str, errno: Errno) -> Self {
        Self(Box::new(Details {
            op,
            on: on.into(),
            errno,
        }))
    }

    /// What it was done to: a path, device or name.
    #[must_use]
    pub fn on(&self) -> &str {
        &self.0.on
    }

    /// The kernel's answer.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.0.errno
    }
}

/// `text` as the kernel takes it. A NUL inside is an invalid argument.
///
/// rustix converts by itself, but with a buffer and a slow path that are copied
/// into every call.
#[inline(never)]
pub(crate) fn c_string(text: &[u8]) -> rustix::io::Result<CString> {
    CString::new(text).map_err(|_| Errno::INVAL)
}

/// Makes one kernel call on `path`; the error says that it was for `op`.
pub(crate) fn on_path<T>(
    op: &'static str,
    path: &str,
    call: impl FnOnce(&CStr) -> rustix::io::Result<T>,
) -> Result<T> {
    match c_string(path.as_bytes()).and_then(|path| call(&path)) {
        Ok(value) => Ok(value),
        Err(errno) => Err(Error::new(op, path, errno)),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { op, on, errno } = &*self.0;
        write!(f, "{op} {on}: ")?;
        match errno_text(*errno) {
            Some(text) => f.write_str(text),
            None => write!(f, "errno {}", errno.raw_os_error()),
        }
    }
}

impl core::error::Error for Error {}

/// Meaning and name of the errnos that a boot can meet: `no such file or
/// directory (ENOENT)`. Without a libc nobody else knows them.
#[must_use]
pub fn errno_text(errno: Errno) -> Option<&'static str> {
    let known = ERRNOS.iter().find(|(known, _)| *known == errno);
    known.map(|(_, text)| *text)
}

static ERRNOS: [(Errno, &str); 39] = [
    (Errno::PERM, "operation not permitted (EPERM)"),
    (Errno::NOENT, "no such file or directory (ENOENT)"),
    (Errno::INTR, "interrupted (EINTR)"),
    (Errno::IO, "input/output error (EIO)"),
    (Errno::NXIO, "no such device or address (ENXIO)"),
    (Errno::TOOBIG, "too big (E2BIG)"),
    (
        Errno::NOEXEC,
        "not an executable or module of this kernel (ENOEXEC)",
    ),
    (Errno::BADF, "bad file descriptor (EBADF)"),
    (Errno::AGAIN, "try again (EAGAIN)"),
    (Errno::NOMEM, "out of memory (ENOMEM)"),
    (Errno::ACCESS, "permission denied (EACCES)"),
    (Errno::NOTBLK, "not a block device (ENOTBLK)"),
    (Errno::BUSY, "device or resource busy (EBUSY)"),
    (Errno::EXIST, "already exists (EEXIST)"),
    (Errno::XDEV, "on another file system (EXDEV)"),
    (
        Errno::NODEV,
        "no such device, or its driver is missing (ENODEV)",
    ),
    (Errno::NOTDIR, "not a directory (ENOTDIR)"),
    (Errno::ISDIR, "is a directory (EISDIR)"),
    (Errno::INVAL, "invalid argument (EINVAL)"),
    (Errno::MFILE, "too many open files (EMFILE)"),
    (Errno::FBIG, "file too large (EFBIG)"),
    (Errno::NOSPC, "no space left (ENOSPC)"),
    (Errno::ROFS, "read-only file system (EROFS)"),
    (Errno::RANGE, "out of range (ERANGE)"),
    (Errno::NAMETOOLONG, "name too long (ENAMETOOLONG)"),
    (Errno::NOSYS, "this kernel has no such system call (ENOSYS)"),
    (Errno::NOTEMPTY, "directory not empty (ENOTEMPTY)"),
    (Errno::LOOP, "too many symbolic links (ELOOP)"),
    (Errno::NOBUFS, "the kernel dropped messages (ENOBUFS)"),
    (Errno::NODATA, "no data available (ENODATA)"),
    (Errno::BADMSG, "bad message (EBADMSG)"),
    (Errno::OVERFLOW, "value too large (EOVERFLOW)"),
    (Errno::ILSEQ, "invalid bytes (EILSEQ)"),
    (Errno::OPNOTSUPP, "not supported (EOPNOTSUPP)"),
    (Errno::TIMEDOUT, "timed out (ETIMEDOUT)"),
    (Errno::STALE, "stale file handle (ESTALE)"),
    (Errno::UCLEAN, "the file system is corrupt (EUCLEAN)"),
    (
        Errno::NOKEY,
        "the signing key is not known to the kernel (ENOKEY)",
    ),
    (
        Errno::KEYREJECTED,
        "the signature was rejected (EKEYREJECTED)",
    ),
];
