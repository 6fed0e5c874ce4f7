//! Debian trees: making one, running programs in one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, command, mirror};

/// The release that guests and the old compiler come from: Debian 13.
pub const SUITE: &str = "trixie";

/// Makes a minimal Debian in `tree`, from the mirror that apt uses here.
///
/// # Errors
/// [`Error::NeedsRoot`]; [`Error::Program`] if debootstrap fails.
pub fn bootstrap(tree: &Path, packages: &[&str], log: &Path) -> Result<(), Error> {
    if !command::is_root() {
        return Err(Error::NeedsRoot {
            what: "making a Debian 13 tree",
        });
    }
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", "--include"])
        .arg(packages.join(","))
        .arg(SUITE)
        .arg(tree);
    if let Some(mirror) = mirror::configured() {
        debootstrap.arg(mirror);
    }
    command::run_logged(&mut debootstrap, log)?;
    // Packages that were unpacked are not wanted again.
    for folder in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let entries = std::fs::read_dir(tree.join(folder));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.path().is_file() {
                // What stays costs space only.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}

/// A command to run in a tree, with /proc, /sys and /dev of its own, which go
/// away with it.
#[derive(Debug, Clone)]
pub struct Chroot {
    tree: PathBuf,
    binds: Vec<(PathBuf, String)>,
    env: Vec<String>,
}

/// `sh -c SCRIPT sh TREE (FROM TO)... -- COMMAND...`
const SCRIPT: &str = "set -e
cd \"$1\"; shift
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
while [ \"$1\" != -- ]; do
    mkdir -p \".$2\"
    mount --bind \"$1\" \".$2\"
    shift 2
done
shift
exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C \"$@\"";

impl Chroot {
    /// Commands in `tree`.
    #[must_use]
    pub fn new(tree: impl Into<PathBuf>) -> Self {
        Self {
            tree: tree.into(),
            binds: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Shows the folder `from` at `to` (absolute) in the tree.
    #[must_use]
    pub fn bind(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.binds.push((from.into(), to.to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// The command that runs `args`.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["--propagation", "private", "sh", "-c", SCRIPT, "sh"])
            .arg(&self.tree);
        for (from, to) in &self.binds {
            command.arg(from).arg(to);
        }
        command.arg("--").args(&self.env).args(args);
        command
    }
}
