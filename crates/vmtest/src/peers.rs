//! Initramfs files of other generators and with other options, for the benches.
//!
//! They are made in a copy of the guest's tree, with packages of the guest's
//! release added; only the files stay in the cache: two minutes, 230 MB.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Chroot;
use crate::guest::Guest;
use crate::{Error, cache, command};

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

const PACKAGES: &[&str] = &[
    "dracut-squash",
    "erofs-utils",
    "squashfs-tools",
    "tiny-initramfs-core",
];

/// What a drive and a root of the guest need, where a generator has to be told: a
/// chroot is no host to look at.
const DRIVERS: &str = "virtio_blk ext4";

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// initramfs-tools, most modules, lz4 (the guest has zstd's).
    InitramfsToolsLz4,
    /// dracut for one host.
    DracutHostonly,
    /// dracut for any machine, with its own shell init.
    DracutNoSystemd,
    /// dracut for any machine, its files in a squashfs.
    DracutSquashfs,
    /// The same in an EROFS.
    DracutErofs,
    /// tiny-initramfs with the drivers of one machine.
    Tiny,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::InitramfsToolsLz4,
        Self::DracutHostonly,
        Self::DracutNoSystemd,
        Self::DracutSquashfs,
        Self::DracutErofs,
        Self::Tiny,
    ];

    /// Its name, and that of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InitramfsToolsLz4 => "initramfs-tools-lz4",
            Self::DracutHostonly => "dracut-hostonly",
            Self::DracutNoSystemd => "dracut-no-systemd",
            Self::DracutSquashfs => "dracut-squashfs",
            Self::DracutErofs => "dracut-erofs",
            Self::Tiny => "tiny-initramfs",
        }
    }

    /// The shell command that makes it, with `$1` as output and `$2` as kernel
    /// release.
    #[must_use]
    pub fn script(self) -> String {
        let dracut = |options: &str| format!("dracut --force {options} --kver \"$2\" \"$1\"");
        match self {
            Self::InitramfsToolsLz4 => "mkinitramfs -c lz4 -o \"$1\" \"$2\"".to_owned(),
            Self::DracutHostonly => dracut(&format!(
                "--hostonly --no-hostonly-cmdline --no-hostonly-default-device \
                 --add-drivers '{DRIVERS}' --filesystems ext4"
            )),
            Self::DracutNoSystemd => format!(
                "omit=$(ls /usr/lib/dracut/modules.d | sed 's/^..//' | grep systemd | tr '\\n' ' '); {}",
                dracut("--no-hostonly --omit \"$omit\"")
            ),
            Self::DracutSquashfs => without_busybox(&dracut("--no-hostonly --add squash-squashfs")),
            Self::DracutErofs => without_busybox(&dracut("--no-hostonly --add squash-erofs")),
            Self::Tiny => format!(
                "mktirfs -m no -M no --include-modules={} -o \"$1\" \"$2\"",
                DRIVERS.replace(' ', ",")
            ),
        }
    }
}

/// dracut 106 takes busybox for the outer archive where there is one, but not the
/// libraries that Debian's is linked with: `Failed to execute /init`.
fn without_busybox(script: &str) -> String {
    let move_it = |from, to| format!("mv /usr/bin/{from} /usr/bin/{to}");
    format!(
        "{}; {script}; {}",
        move_it("busybox", "busybox.aside"),
        move_it("busybox.aside", "busybox")
    )
}

/// The cached files.
#[derive(Debug)]
pub struct Peers {
    entry: cache::Entry,
}

impl Peers {
    /// The files for the guest's kernel, made if they are not in the cache.
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
        let scripts: Vec<String> = Peer::ALL.iter().map(|peer| peer.script()).collect();
        let scripts = scripts.join("\n");
        let recipe = [
            RECIPE_VERSION,
            base,
            packages.as_bytes(),
            scripts.as_bytes(),
        ];
        let entry = cache::entry("debian-13-peers", &recipe, |dir| make(dir, guest, progress))?;
        Ok(Self { entry })
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self, peer: Peer) -> PathBuf {
        self.entry.path.join(peer.name())
    }

    /// The generators' packages and their versions.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn versions(&self) -> Result<String, Error> {
        let path = self.entry.path.join("versions");
        let text =
            fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        Ok(text.lines().collect::<Vec<_>>().join(", "))
    }
}

fn make(dir: &Path, guest: &Guest, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    if !command::is_root() {
        return Err(Error::NeedsRoot {
            what: "making other generators' initramfs files",
        });
    }
    let log = dir.join("log");
    let tree = dir.join("tree");
    progress("Debian 13: other generators");
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
    let format = "-f=${Package} ${Version}\\n";
    let mut words = vec![
        "dpkg-query",
        "-W",
        format,
        "dracut-core",
        "initramfs-tools-core",
    ];
    words.extend(PACKAGES);
    let versions = command::output(&mut inside.command(&words))?;
    let path = dir.join("versions");
    fs::write(&path, versions).map_err(Error::io(format!("writing {}", path.display())))?;
    for peer in Peer::ALL {
        progress(&format!("Debian 13: {}", peer.name()));
        let output = format!("/boot/{}", peer.name());
        let script = peer.script();
        let words = ["sh", "-ec", &script, "sh", &output, guest.kernel_release()];
        command::run_logged(&mut inside.command(&words), &log)?;
        let from = tree.join(output.trim_start_matches('/'));
        fs::rename(&from, dir.join(peer.name()))
            .map_err(Error::io(format!("moving {}", from.display())))?;
    }
    fs::remove_dir_all(&tree).map_err(Error::io(format!("removing {}", tree.display())))
}
