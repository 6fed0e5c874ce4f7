//! Kernel modules: finit_module(2).

use alloc::ffi::CString;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Loads the module in `path` (uncompressed) with `params` as modprobe.d's
/// `options` gives them. A module that is loaded already is no error.
///
/// # Errors
/// What the kernel says: ENOENT for unknown symbols (a dependency is missing),
/// ENODEV where the hardware for a driver is absent, ENOEXEC for a module of
/// another kernel, EKEYREJECTED for a missing signature under lockdown.
pub fn load(path: &str, params: &str) -> Result<()> {
    let error = |errno| Error::new("loading module", path, errno);
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(error)?;
    let params = CString::new(params).map_err(|_| error(Errno::INVAL))?;
    match rustix::system::finit_module(&file, &params, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(error(errno)),
    }
}
