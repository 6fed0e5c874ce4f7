//! Step 1: the kernel's own file systems.

use kernel_abi::mount::{Flags, mount};
use kernel_abi::{Errno, file, process};

use crate::log::Log;
use crate::report::Failure;

const PLAIN: Flags = Flags::NOSUID.union(Flags::NODEV);

/// Where, what, how, and the options.
static FILE_SYSTEMS: [(&str, &str, Flags, &str); 4] = [
    // First, so that the log works.
    ("/dev", "devtmpfs", Flags::NOSUID, "mode=0755"),
    ("/proc", "proc", PLAIN.union(Flags::NOEXEC), ""),
    ("/sys", "sysfs", PLAIN.union(Flags::NOEXEC), ""),
    ("/run", "tmpfs", PLAIN, "mode=0755,size=20%"),
];

/// Mounts `/dev`, `/proc`, `/sys` and `/run` where they are not yet, and gives
/// the standard streams something to stand on.
///
/// # Errors
/// If one cannot be mounted: no boot is possible without them.
pub fn mount_kernel_file_systems(log: &mut Log) -> Result<(), Failure> {
    for &(target, fstype, flags, data) in &FILE_SYSTEMS {
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
