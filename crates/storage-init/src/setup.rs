//! Step 1: the kernel's own file systems.

use kernel_abi::mount::{Flags, mount};
use kernel_abi::{Errno, file, process};

use crate::log::Log;
use crate::report::Failure;

/// Mounts `/dev`, `/proc`, `/sys` and `/run` where they are not yet, and gives
/// the standard streams something to stand on.
///
/// # Errors
/// If one cannot be mounted: no boot is possible without them.
pub fn mount_kernel_file_systems(log: &mut Log) -> Result<(), Failure> {
    let flags = Flags::NOSUID | Flags::NOEXEC;
    for (target, fstype, flags, data) in [
        // First, so that the log works. Devices live there, so no NODEV.
        ("/dev", "devtmpfs", Flags::NOSUID, "mode=0755"),
        ("/proc", "proc", flags | Flags::NODEV, ""),
        ("/sys", "sysfs", flags | Flags::NODEV, ""),
        (
            "/run",
            "tmpfs",
            Flags::NOSUID | Flags::NODEV,
            "mode=0755,size=20%",
        ),
    ] {
        file::mkdir(target)?;
        match mount(fstype, target, fstype, flags, data) {
            Ok(()) => {}
            // CONFIG_DEVTMPFS_MOUNT, or a mini-initramfs inside another.
            Err(error) if error.errno() == Errno::BUSY => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Err(error) = process::ensure_standard_streams() {
        log.warn(format_args!("no standard streams: {error}"));
    }
    Ok(())
}
