//! Which kernel: releases of module folders and of kernel images.

use crate::error::{Error, ErrorKind, Result};
use crate::input::generator::check_release;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Folders of module trees, under a root.
pub(crate) const MODULE_ROOTS: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// The kernel release of `sysroot`, if it has modules for exactly one.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is none, or several (the message lists them).
pub fn kernel_release(sysroot: &Path) -> Result<String> {
    let mut releases = Vec::new();
    for root in MODULE_ROOTS {
        let Ok(folders) = sysroot.join(root).read_dir() else {
            continue;
        };
        for folder in folders.flatten() {
            // A folder without this file is what a removed kernel leaves.
            if folder.path().join("modules.dep").is_file() {
                releases.push(folder.file_name().to_string_lossy().into_owned());
            }
        }
    }
    releases.sort();
    releases.dedup();
    match releases.as_slice() {
        [release] => Ok(release.clone()),
        [] => Err(Error::new(
            ErrorKind::Usage,
            format!("{} has no kernel modules", sysroot.display()),
        )
        .hint("Install a kernel there, or name another root.")),
        several => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "{} has modules of several kernels: {}",
                sysroot.display(),
                several.join(", ")
            ),
        )
        .hint("Say which one is meant.")),
    }
}

/// The folder of a kernel's modules under `sysroot`.
pub(crate) fn modules_dir(sysroot: &Path, release: &str) -> Result<PathBuf> {
    check_release(release)?;
    MODULE_ROOTS
        .iter()
        .map(|root| sysroot.join(root).join(release))
        .find(|folder| {
            // A kernel that has all built in may have no modules.dep.
            let files = ["modules.dep", "modules.builtin"];
            files.iter().any(|file| folder.join(file).is_file())
        })
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Modules,
                format!(
                    "there is no usr/lib/modules/{release}/modules.dep under {}",
                    sysroot.display()
                ),
            )
            .hint("Install that kernel, or run depmod for it.")
        })
}

/// The kernel image file of `release` under `sysroot`: `boot/vmlinuz-RELEASE`,
/// `usr/lib/modules/RELEASE/vmlinuz` or `lib/modules/RELEASE/vmlinuz`.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is none; the message names the places.
pub fn kernel_image(sysroot: &Path, release: &str) -> Result<PathBuf> {
    check_release(release)?;
    let places = [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
    ];
    places
        .iter()
        .map(|place| sysroot.join(place))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!(
                    "no kernel image of {release} under {}: looked for {}",
                    sysroot.display(),
                    places.join(", ")
                ),
            )
        })
}

/// The release of a kernel image file in the x86 boot format (bzImage), as
/// Documentation/arch/x86/boot.rst lays it out: the u16 at 0x20e is the offset
/// of the version string, less 0x200; the release is its first word.
///
/// # Errors
/// [`ErrorKind::Input`] if the file is no such kernel.
pub fn kernel_release_of_image(vmlinuz: &Path) -> Result<String> {
    let not_a_kernel = |why: &str| {
        Error::new(
            ErrorKind::Input,
            format!(
                "{} does not say its kernel release: {why}",
                vmlinuz.display()
            ),
        )
        .hint("Name the release.")
    };
    let file = File::open(vmlinuz).map_err(Error::io("opening", vmlinuz))?;
    let mut header = [0; 0x210];
    file.read_exact_at(&mut header, 0)
        .map_err(|_| not_a_kernel("it is too short"))?;
    if header.get(0x202..0x206) != Some(b"HdrS") {
        return Err(not_a_kernel("it is no x86 bzImage (no HdrS at 0x202)"));
    }
    let pointer = u16::from_le_bytes([header[0x20e], header[0x20f]]);
    if pointer == 0 {
        return Err(not_a_kernel("it was built without a version string"));
    }
    let mut text = [0; 256];
    let got = file
        .read_at(&mut text, u64::from(pointer) + 0x200)
        .map_err(Error::io("reading", vmlinuz))?;
    let release = text
        .get(..got)
        .unwrap_or(&[])
        .split(|&byte| byte == 0 || byte == b' ')
        .next()
        .and_then(|word| std::str::from_utf8(word).ok())
        .filter(|word| check_release(word).is_ok());
    release
        .map(str::to_owned)
        .ok_or_else(|| not_a_kernel("its version string is no release"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_only_kernel_is_found_and_several_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            kernel_release(root.path())
                .unwrap_err()
                .to_string()
                .contains("no kernel modules")
        );
        let modules = root.path().join("usr/lib/modules");
        fs::create_dir_all(modules.join("6.1.0-test")).unwrap();
        fs::write(modules.join("6.1.0-test/modules.dep"), "").unwrap();
        fs::create_dir_all(modules.join("5.0-removed")).unwrap();
        assert_eq!(kernel_release(root.path()).unwrap(), "6.1.0-test");
        fs::create_dir_all(modules.join("6.2.0-test")).unwrap();
        fs::write(modules.join("6.2.0-test/modules.dep"), "").unwrap();
        let error = kernel_release(root.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(
            error.to_string().contains("6.1.0-test, 6.2.0-test"),
            "{error}"
        );
    }

    #[test]
    fn a_bzimage_says_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        let mut image = vec![0u8; 0x4000];
        fs::write(&path, &image).unwrap();
        assert!(
            kernel_release_of_image(&path)
                .unwrap_err()
                .to_string()
                .contains("HdrS")
        );
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x3000u16.to_le_bytes());
        image[0x3200..0x3216].copy_from_slice(b"6.12.1-test (x) #1 SMP");
        fs::write(&path, &image).unwrap();
        assert_eq!(kernel_release_of_image(&path).unwrap(), "6.12.1-test");
        image[0x3200..0x3216].copy_from_slice(b"../../../etc (x) #1 SM");
        fs::write(&path, &image).unwrap();
        assert!(kernel_release_of_image(&path).is_err());
        image[0x20e..0x210].copy_from_slice(&0xffffu16.to_le_bytes());
        fs::write(&path, &image).unwrap();
        assert!(kernel_release_of_image(&path).is_err());
    }
}
