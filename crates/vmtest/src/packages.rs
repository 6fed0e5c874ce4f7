//! The Debian packages that tests, demo and benches stand on.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::{Error, command};

/// A package and a file of it that shows that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name in Debian.
    pub name: &'static str,
    /// A program in the search path or an absolute path.
    pub shown_by: &'static str,
}

const fn package(name: &'static str, shown_by: &'static str) -> Package {
    Package { name, shown_by }
}

/// All of them. qemu-utils is not needed and not wanted: disks are raw.
pub const PACKAGES: &[Package] = &[
    package("binutils", "strip"),
    package("btrfs-progs", "mkfs.btrfs"),
    package("bzip2", "bzip2"),
    package("cpio", "cpio"),
    package("cryptsetup-bin", "veritysetup"),
    package("debootstrap", "debootstrap"),
    package("dosfstools", "mkfs.vfat"),
    package("e2fsprogs", "debugfs"),
    package("erofs-utils", "mkfs.erofs"),
    package("fdisk", "sfdisk"),
    package("gcc", "cc"),
    package("gdisk", "sgdisk"),
    package("kmod", "modprobe"),
    package("libc6-dev", "/usr/include/stdio.h"),
    package("lz4", "lz4"),
    package("mtools", "mcopy"),
    package("openssl", "openssl"),
    package("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
    package("qemu-system-common", "qemu-storage-daemon"),
    package("qemu-system-x86", "qemu-system-x86_64"),
    package("sbsigntool", "sbsign"),
    package("swtpm", "swtpm"),
    package("user-mode-linux", "linux.uml"),
    package("util-linux", "unshare"),
    package("xfsprogs", "mkfs.xfs"),
    package("xz-utils", "xz"),
    package("zstd", "zstd"),
];

/// The packages of [`PACKAGES`] that are not installed.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|package| !is_present(package.shown_by))
        .map(|package| package.name)
        .collect()
}

/// The path of a program, looked for in PATH and in the system folders, which
/// are not always in a user's.
#[must_use]
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Installs what is missing when root. `progress` gets a line for each step.
///
/// # Errors
/// [`Error::MissingPackages`] with the line to run, if not root;
/// [`Error::Program`] if apt-get fails.
pub fn ensure(log: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !command::is_root() || find_program("apt-get").is_none() {
        return Err(Error::MissingPackages {
            packages: missing.iter().map(ToString::to_string).collect(),
            command: format!(
                "apt-get install --no-install-recommends {}",
                missing.join(" ")
            ),
        });
    }
    progress(&format!("installing {}", missing.join(", ")));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    command::run_logged(apt().arg("update"), log)?;
    command::run_logged(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
        log,
    )
}

fn is_present(shown_by: &str) -> bool {
    if shown_by.starts_with('/') {
        Path::new(shown_by).exists()
    } else {
        find_program(shown_by).is_some()
    }
}
