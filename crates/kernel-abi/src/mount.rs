//! Mounts, and the switch to another root.

pub use rustix::mount::MountFlags as Flags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::Result;
use crate::error::{c_string, on_path};

/// Mounts `source` as `fstype` on `target` (mount(2)).
///
/// # Errors
/// The kernel's; ENODEV when it has no such file system.
pub fn mount(source: &str, target: &str, fstype: &str, flags: Flags, data: &str) -> Result<()> {
    on_path("mounting", target, |target| {
        let source = c_string(source.as_bytes())?;
        let fstype = c_string(fstype.as_bytes())?;
        let data = c_string(data.as_bytes())?;
        rustix::mount::mount(&*source, target, &*fstype, flags, &*data)
    })
}

/// Moves the mount at `from` to `to` (MS_MOVE).
///
/// # Errors
/// The kernel's; EINVAL when `from` is no mount point or is shared.
pub fn move_mount(from: &str, to: &str) -> Result<()> {
    on_path("moving mount", from, |from| {
        rustix::mount::mount_move(from, &*c_string(to.as_bytes())?)
    })
}

/// Takes the mount at `target` out of the tree; it goes when its last user does
/// (MNT_DETACH).
///
/// # Errors
/// The kernel's.
pub fn detach(target: &str) -> Result<()> {
    on_path("unmounting", target, |target| {
        rustix::mount::unmount(target, UnmountFlags::DETACH)
    })
}

/// Makes the mount at `target` and all below private.
///
/// # Errors
/// The kernel's.
pub fn make_private(target: &str) -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    on_path("making private", target, |target| {
        rustix::mount::mount_change(target, private)
    })
}

/// Moves the mount at the current folder onto `/` and makes it this process's
/// root. The old root stays below, out of reach.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn move_to_root() -> Result<()> {
    move_mount(".", "/")?;
    on_path("changing root to", ".", |path| {
        rustix::process::chroot(path)
    })?;
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
    on_path("pivoting root to", ".", |path| {
        rustix::process::pivot_root(path, path)
    })?;
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
    on_path("entering", path, |path| rustix::process::chdir(path))
}
