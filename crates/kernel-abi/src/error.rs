//! The one error of this crate.

use alloc::string::String;
use core::fmt;

use rustix::io::Errno;

/// Result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// A kernel operation that failed: what, on what, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was being done, as a verb phrase: `mounting`.
    pub op: &'static str,
    /// The path, device or name that it was done to.
    pub on: String,
    /// The kernel's answer.
    pub errno: Errno,
}

impl Error {
    /// An error of `op` on `on`.
    pub fn new(op: &'static str, on: impl Into<String>, errno: Errno) -> Self {
        Self {
            op,
            on: on.into(),
            errno,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.op, self.on)?;
        match errno_name(self.errno) {
            Some((name, text)) => write!(f, "{text} ({name})"),
            None => write!(f, "errno {}", self.errno.raw_os_error()),
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
