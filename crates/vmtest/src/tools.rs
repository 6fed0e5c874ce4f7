//! Debian 13's tools beside which ours must stand: ukify, systemd-repart,
//! systemd-dissect, systemd-measure, systemd-pcrlock and what they need, in a
//! tree to chroot into.
//!
//! Apart from [`crate::guest`]'s, so that neither what the generators put into
//! an initramfs nor the recorded figures depend on them. The packages are
//! unpacked, not installed ([`crate::apt`]): ten seconds, 150 MB. So it is
//! no system to boot, and what maintainer scripts make is not there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::Archive;
use crate::debian::{self, Chroot};
use crate::{Error, cache};

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "binutils",
    "coreutils",
    "cryptsetup-bin",
    "dash",
    "dosfstools",
    "erofs-utils",
    "fdisk",
    // Loaded by name, so that no package depends on them.
    "libcryptsetup12",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "mtools",
    "openssl",
    "sbsigntool",
    "systemd",
    "systemd-boot",
    "systemd-boot-efi",
    "systemd-container",
    "systemd-repart",
    "systemd-ukify",
    "tpm2-tools",
    "udev",
];

/// Folders of no use to a program.
const LEFT_OUT: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale"];

/// The cached tree.
#[derive(Debug)]
pub struct Tools {
    entry: cache::Entry,
}

impl Tools {
    /// The tree, made if it is not in the cache. `progress` gets a line for
    /// each step.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`], [`Error::NoMirror`], [`Error::Program`] if apt or
    /// dpkg-deb fails.
    pub fn ensure(progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let packages = PACKAGES.join(",");
        let left_out = LEFT_OUT.join(",");
        let recipe = [
            RECIPE_VERSION,
            debian::SUITE.as_bytes(),
            packages.as_bytes(),
            left_out.as_bytes(),
        ];
        let entry = cache::entry("debian-13-tools", &recipe, |dir| make(dir, progress))?;
        Ok(Self { entry })
    }

    /// The root tree. Not to be changed.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.entry.path.join("tree")
    }

    /// A command in the tree that sees `folder` at `/work`: for its input and
    /// its output.
    #[must_use]
    pub fn chroot(&self, folder: &Path) -> Chroot {
        Chroot::new(self.tree()).bind(folder, WORK)
    }

    /// systemd-stub for x86-64.
    #[must_use]
    pub fn stub(&self) -> PathBuf {
        self.tree()
            .join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    }

    /// systemd-boot for x86-64.
    #[must_use]
    pub fn systemd_boot(&self) -> PathBuf {
        self.tree()
            .join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    }
}

/// Where [`Tools::chroot`] shows its folder.
pub const WORK: &str = "/work";

fn make(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    if !crate::command::is_root() {
        return Err(Error::NeedsRoot {
            what: "making a tree of Debian 13's tools",
        });
    }
    progress("Debian 13: tools");
    let log = dir.join("log");
    let apt = dir.join("apt");
    let tree = dir.join("tree");
    let archive = Archive::open(&apt, debian::SUITE, &log)?;
    archive.fetch_with_needs(PACKAGES)?;
    archive.unpack(&tree)?;
    for folder in LEFT_OUT {
        remove(&tree.join(folder))?;
    }
    remove(&apt)?;
    for folder in ["dev", "proc", "sys", "run", "tmp", "work"] {
        let path = tree.join(folder);
        fs::create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
    }
    // base-passwd's script would make these.
    for (name, line) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
    ] {
        let path = tree.join("etc").join(name);
        fs::write(&path, line).map_err(Error::io(format!("writing {}", path.display())))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}
