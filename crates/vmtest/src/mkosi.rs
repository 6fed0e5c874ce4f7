//! An initramfs made by mkosi-initrd: of Debian 13's packages, not of the files
//! of a system.
//!
//! mkosi runs in a copy of the guest's tree, fetches what it puts into the
//! initramfs from the guest's mirror and leaves only that file in the cache: 130
//! MB, half a minute of processor time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Chroot;
use crate::guest::Guest;
use crate::{Error, cache, command};

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

const PACKAGES: &[&str] = &["ca-certificates", "mkosi"];

/// The cached initramfs.
#[derive(Debug)]
pub struct Mkosi {
    entry: cache::Entry,
}

impl Mkosi {
    /// The initramfs for the guest's kernel, made if it is not in the cache.
    /// `progress` gets a line for each step.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`], [`Error::Program`] if a step fails (the end of its
    /// output is in it).
    pub fn ensure(guest: &Guest, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        // The name of the guest's entry has the hash of its recipe.
        let base = guest.tree();
        let base = base.as_os_str().as_encoded_bytes();
        let packages = PACKAGES.join(",");
        let recipe = [RECIPE_VERSION, base, packages.as_bytes()];
        let entry = cache::entry("debian-13-mkosi", &recipe, |dir| make(dir, guest, progress))?;
        Ok(Self { entry })
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.entry.path.join("initrd")
    }
}

fn make(dir: &Path, guest: &Guest, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    if !command::is_root() {
        return Err(Error::NeedsRoot {
            what: "running mkosi-initrd",
        });
    }
    progress("Debian 13: mkosi-initrd");
    let log = dir.join("log");
    let tree = dir.join("tree");
    command::run_logged(
        Command::new("cp")
            .arg("-a")
            .args([guest.tree(), tree.clone()]),
        &log,
    )?;
    let inside = Chroot::new(&tree).env("DEBIAN_FRONTEND", "noninteractive");
    command::run_logged(&mut inside.command(&["apt-get", "--quiet", "update"]), &log)?;
    let mut words = vec!["apt-get", "--quiet", "--yes", "--no-install-recommends"];
    words.push("install");
    words.extend(PACKAGES);
    command::run_logged(&mut inside.command(&words), &log)?;
    // It wants both folders to be there.
    for folder in ["usr/lib/firmware", "work"] {
        let path = tree.join(folder);
        fs::create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
    }
    let mkosi = inside.command(&[
        "mkosi-initrd",
        "--kernel-version",
        guest.kernel_release(),
        "--output-dir",
        "/work",
    ]);
    command::run_logged(&mut on_a_mount(&tree, &mkosi), &log)?;
    let to = dir.join("initrd");
    fs::copy(tree.join("work/initrd"), &to).map_err(Error::io("copying the initramfs"))?;
    fs::remove_dir_all(&tree).map_err(Error::io(format!("removing {}", tree.display())))
}

/// The command with the tree mounted on itself: mkosi's sandbox moves the root's
/// mount away, and a plain chroot has none.
fn on_a_mount(tree: &Path, inner: &Command) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$1\" \"$1\" && shift && exec \"$@\"")
        .arg("sh")
        .arg(tree)
        .arg(inner.get_program())
        .args(inner.get_args());
    command
}
