//! Mounts, and the switch to another root.

use alloc::ffi::CString;
use rustix::io::Errno;
pub use rustix::mount::MountFlags as Flags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::{Error, Result};

/// Mounts `source` as `fstype` on `target` (mount(2)).
///
/// # Errors
/// The kernel's; ENODEV when it has no such file system.
pub fn mount(source: &str, target: &str, fstype: &str, flags: Flags, data: &str) -> Result<()> {
    let error = |errno| Error::new("mounting", target, errno);
    let data = CString::new(data).map_err(|_| error(Errno::INVAL))?;
    rustix::mount::mount(source, target, fstype, flags, data.as_c_str()).map_err(error)
}

/// Moves the mount at `from` to `to` (MS_MOVE).
///
/// # Errors
/// The kernel's; EINVAL when `from` is no mount point or is shared.
pub fn move_mount(from: &str, to: &str) -> Result<()> {
    rustix::mount::mount_move(from, to).map_err(|errno| Error::new("moving mount", from, errno))
}

/// Takes the mount at `target` out of the tree; it goes when its last user does
/// (MNT_DETACH).
///
/// # Errors
/// The kernel's.
pub fn detach(target: &str) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH)
        .map_err(|errno| Error::new("unmounting", target, errno))
}

/// Makes the mount at `target` and all below private.
///
/// # Errors
/// The kernel's.
pub fn make_private(target: &str) -> Result<()> {
    rustix::mount::mount_change(
        target,
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| Error::new("making private", target, errno))
}

/// Moves the mount at the current folder onto `/` and makes it this process's
/// root. The old root stays below, out of reach.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn move_to_root() -> Result<()> {
    move_mount(".", "/")?;
    rustix::process::chroot(".").map_err(|errno| Error::new("changing root to", ".", errno))?;
    chdir("/")
}

/// Makes the mount at the current folder the root of this mount namespace, and
/// takes the old root out of it (pivot_root(2), then MNT_DETACH): whatever the
/// old root held is freed.
///
/// # Errors
/// EINVAL where the old root is the initramfs's own rootfs, which cannot be
/// pivoted away before Linux 7.
pub fn pivot_to_root() -> Result<()> {
    rustix::process::pivot_root(".", ".")
        .map_err(|errno| Error::new("pivoting root to", ".", errno))?;
    // Both roots now lie on `/`, the old one on top: taking that away uncovers
    // the new one.
    detach(".")?;
    chdir("/")
}

/// Changes the current folder.
///
/// # Errors
/// The kernel's.
pub fn chdir(path: &str) -> Result<()> {
    rustix::process::chdir(path).map_err(|errno| Error::new("entering", path, errno))
}
