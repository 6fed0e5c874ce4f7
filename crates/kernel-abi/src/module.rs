//! Kernel modules: finit_module(2).

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::c_string;
use crate::{Error, Result, file};

/// Loads the module in `path` (uncompressed) with `params` as modprobe.d's
/// `options` gives them. A module that is loaded already is no error.
///
/// # Errors
/// What the kernel says: ENOENT for unknown symbols (a dependency is missing),
/// ENODEV where the hardware for a driver is absent, ENOEXEC for a module of
/// another kernel, EKEYREJECTED for a missing signature under lockdown.
pub fn load(path: &str, params: &str) -> Result<()> {
    let file = file::open(path, OFlags::RDONLY)?;
    let result = c_string(params.as_bytes())
        .and_then(|params| rustix::system::finit_module(&file, &params, 0));
    match result {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::new("loading module", path, errno)),
    }
}
