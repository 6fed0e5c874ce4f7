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
        match errno_name(*errno) {
            Some((name, text)) => write!(f, "{text} ({name})"),
            None => write!(f, "errno {}", errno.raw_os_error()),
        }
    }
}

impl core::error::Error for Error {}

/// Name and meaning of the errnos that a boot can meet; without a libc nobody
/// else knows them.
#[must_use]
pub fn errno_name(errno: Errno) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        Errno::PERM => ("EPERM", "operation not permitted"),
        Errno::NOENT => ("ENOENT", "no such file or directory"),
        Errno::INTR => ("EINTR", "interrupted"),
        Errno::IO => ("EIO", "input/output error"),
        Errno::NXIO => ("ENXIO", "no such device or address"),
        Errno::TOOBIG => ("E2BIG", "too big"),
        Errno::NOEXEC => ("ENOEXEC", "not an executable or module of this kernel"),
        Errno::BADF => ("EBADF", "bad file descriptor"),
        Errno::AGAIN => ("EAGAIN", "try again"),
        Errno::NOMEM => ("ENOMEM", "out of memory"),
        Errno::ACCESS => ("EACCES", "permission denied"),
        Errno::NOTBLK => ("ENOTBLK", "not a block device"),
        Errno::BUSY => ("EBUSY", "device or resource busy"),
        Errno::EXIST => ("EEXIST", "already exists"),
        Errno::XDEV => ("EXDEV", "on another file system"),
        Errno::NODEV => ("ENODEV", "no such device, or its driver is missing"),
        Errno::NOTDIR => ("ENOTDIR", "not a directory"),
        Errno::ISDIR => ("EISDIR", "is a directory"),
        Errno::INVAL => ("EINVAL", "invalid argument"),
        Errno::MFILE => ("EMFILE", "too many open files"),
        Errno::FBIG => ("EFBIG", "file too large"),
        Errno::NOSPC => ("ENOSPC", "no space left"),
        Errno::ROFS => ("EROFS", "read-only file system"),
        Errno::RANGE => ("ERANGE", "out of range"),
        Errno::NAMETOOLONG => ("ENAMETOOLONG", "name too long"),
        Errno::NOSYS => ("ENOSYS", "this kernel has no such system call"),
        Errno::NOTEMPTY => ("ENOTEMPTY", "directory not empty"),
        Errno::LOOP => ("ELOOP", "too many symbolic links"),
        Errno::NOBUFS => ("ENOBUFS", "the kernel dropped messages"),
        Errno::NODATA => ("ENODATA", "no data available"),
        Errno::BADMSG => ("EBADMSG", "bad message"),
        Errno::OVERFLOW => ("EOVERFLOW", "value too large"),
        Errno::ILSEQ => ("EILSEQ", "invalid bytes"),
        Errno::OPNOTSUPP => ("EOPNOTSUPP", "not supported"),
        Errno::TIMEDOUT => ("ETIMEDOUT", "timed out"),
        Errno::STALE => ("ESTALE", "stale file handle"),
        Errno::UCLEAN => ("EUCLEAN", "the file system is corrupt"),
        Errno::NOKEY => ("ENOKEY", "the signing key is not known to the kernel"),
        Errno::KEYREJECTED => ("EKEYREJECTED", "the signature was rejected"),
        _ => return None,
    })
}
