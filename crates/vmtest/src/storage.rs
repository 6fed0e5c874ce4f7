//! The guest of [`crate::guest`] with the tools for every kind of root: LUKS,
//! LVM, MD, btrfs, XFS, iSCSI, TPM.
//!
//! A copy of that guest's tree into which apt installs them; then both of
//! Debian's generators make an initramfs that can do all of it, and what a root
//! needs of the tree becomes a root file system of [`ROOT_SIZE`] bytes, to be
//! copied to what [`crate::stack`] makes. Takes one and a half minutes on idle
//! processors and 1.1 GiB. The kernel is that guest's.
//!
//! Before the usual facts it prints `below-root` (lsblk), `mdstat` and, when
//! asked to, what the TPM seals: see `guest/storage-report`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Chroot;
use crate::guest::{Guest, ROOT_LABEL, ROOT_UUID};
use crate::{Error, cache, command};

/// Size of the root file system in bytes.
pub const ROOT_SIZE: u64 = 320 << 20;

/// What opens the LUKS volumes, typed.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// Where the root has [`PASSPHRASE`], for `iofs-storage.enrol`.
const PASSPHRASE_FILE: &str = "etc/iofs-passphrase";

/// Runs a script in the tree under a user-mode kernel: see [`crate::stack`].
pub(crate) const PROVISION: &str = "/usr/libexec/initoverlayfs-test/provision";

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

const PACKAGES: &[&str] = &[
    "btrfs-progs",
    "cryptsetup",
    "cryptsetup-initramfs",
    "dracut-network",
    "iproute2",
    // Loaded by name, so that no package depends on them.
    "libfido2-1",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "lvm2",
    "mdadm",
    "open-iscsi",
    "systemd-cryptsetup",
    // Not used at boot, but without it dracut leaves tpm2-tss out.
    "tpm2-tools",
    "xfsprogs",
];

/// What serves a disk by iSCSI, in user space. Not on the root.
const TARGET_PACKAGES: &[&str] = &["tgt"];

/// dracut's modules beyond those that it takes by itself.
const DRACUT_MODULES: &str = "crypt lvm mdraid btrfs tpm2-tss fido2 iscsi";

/// What of the tree a root does without: twice its size.
const LEFT_OUT: &[&str] = &[
    "boot",
    "usr/lib/dracut",
    "usr/lib/python3",
    "usr/lib/python3.13",
    "usr/share/doc",
    "usr/share/initramfs-tools",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/python3",
    "usr/share/zoneinfo",
    "var/cache/apt",
    "var/lib/apt/lists",
];

/// The same of its kernel's modules. kvm is useless there, and udev wants it.
const MODULES_LEFT_OUT: &[&str] = &[
    "arch/x86/kvm",
    "drivers/gpu",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "net/bluetooth",
    "net/mac80211",
    "sound",
];

/// Units that are not started: housekeeping, which takes an emulated processor
/// longer than all else after the hand-over.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "lvm2-monitor.service",
    "xfs_scrub_all.timer",
];

const FILES: &[(&str, &str, u32)] = &[
    (
        "usr/libexec/initoverlayfs-test/provision",
        include_str!("../guest/provision"),
        0o755,
    ),
    (
        "usr/libexec/initoverlayfs-test/storage-report",
        include_str!("../guest/storage-report"),
        0o755,
    ),
    (
        "etc/systemd/system/initoverlayfs-storage.service",
        include_str!("../guest/storage-report.service"),
        0o644,
    ),
    (PASSPHRASE_FILE, PASSPHRASE, 0o600),
];

/// The cached guest.
#[derive(Debug)]
pub struct Storage {
    entry: cache::Entry,
}

impl Storage {
    /// The guest, made if it is not in the cache. `progress` gets a line for
    /// each step.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`], [`Error::Program`] if a step fails (the end of its
    /// output is in it).
    pub fn ensure(guest: &Guest, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        // The name of that guest's entry has the hash of its recipe.
        let base = guest.tree();
        let base = base.as_os_str().as_encoded_bytes();
        let lists = [
            PACKAGES,
            TARGET_PACKAGES,
            LEFT_OUT,
            MODULES_LEFT_OUT,
            MASKED,
        ];
        let lists = lists.map(|list| list.join(","));
        let mut recipe = vec![RECIPE_VERSION, base, DRACUT_MODULES.as_bytes()];
        recipe.extend(lists.iter().map(String::as_bytes));
        recipe.extend(FILES.iter().map(|(_, text, _)| text.as_bytes()));
        let entry = cache::entry("debian-13-storage", &recipe, |dir| {
            make(dir, guest, progress)
        })?;
        Ok(Self { entry })
    }

    /// The whole tree, owned by root: to build from and to run programs in. Not
    /// to be changed.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.entry.path.join("tree")
    }

    /// dracut's initramfs for any machine and any root.
    #[must_use]
    pub fn dracut_initrd(&self) -> PathBuf {
        self.entry.path.join("initrd.dracut.img")
    }

    /// initramfs-tools' initramfs with most modules and every hook.
    #[must_use]
    pub fn initramfs_tools_initrd(&self) -> PathBuf {
        self.entry.path.join("initrd.initramfs-tools.img")
    }

    /// An ext4 file system with the root, of [`ROOT_SIZE`] bytes.
    #[must_use]
    pub fn root_image(&self) -> PathBuf {
        self.entry.path.join("root.ext4")
    }
}

fn make(dir: &Path, guest: &Guest, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let log = dir.join("log");
    let tree = dir.join("tree");
    progress("Debian 13: tools for every root");
    command::run_logged(
        Command::new("cp")
            .arg("-a")
            .args([guest.tree(), tree.clone()]),
        &log,
    )?;
    install(&tree, PACKAGES, &log)?;
    for (name, text, mode) in FILES {
        write(&tree.join(name), text, *mode)?;
    }
    // Without a root to look at, its hook would leave cryptsetup out.
    let hook = tree.join("etc/cryptsetup-initramfs/conf-hook");
    write(&hook, "CRYPTSETUP=y\n", 0o644)?;
    let wanted = "etc/systemd/system/multi-user.target.wants/initoverlayfs-storage.service";
    link("../initoverlayfs-storage.service", &tree.join(wanted))?;

    let release = guest.kernel_release();
    progress("Debian 13: dracut for every root");
    let dracut = [
        "dracut",
        "--no-hostonly",
        "--force",
        "--kver",
        release,
        "--add",
        DRACUT_MODULES,
        OUTPUT,
    ];
    generate(&tree, &dracut, &dir.join("initrd.dracut.img"), &log)?;
    progress("Debian 13: mkinitramfs for every root");
    let mkinitramfs = ["mkinitramfs", "-o", OUTPUT, release];
    let to = dir.join("initrd.initramfs-tools.img");
    generate(&tree, &mkinitramfs, &to, &log)?;

    progress("Debian 13: root file system for every root");
    make_root(dir, &tree, release, &log)?;
    install(&tree, TARGET_PACKAGES, &log)
}

/// Installs packages. Nothing is started, and no initramfs is made.
fn install(tree: &Path, packages: &[&str], log: &Path) -> Result<(), Error> {
    let policy = tree.join("usr/sbin/policy-rc.d");
    write(&policy, "#!/bin/sh\nexit 101\n", 0o755)?;
    let inside = Chroot::new(tree).env("DEBIAN_FRONTEND", "noninteractive");
    command::run_logged(&mut inside.command(&["apt-get", "--quiet", "update"]), log)?;
    let mut words = vec!["apt-get", "--quiet", "--yes", "--no-install-recommends"];
    words.push("install");
    words.extend(packages);
    command::run_logged(&mut inside.command(&words), log)?;
    command::run_logged(&mut inside.command(&["apt-get", "clean"]), log)?;
    remove(&tree.join("var/lib/apt/lists"))?;
    fs::remove_file(&policy).map_err(Error::io(format!("removing {}", policy.display())))
}

/// Where a generator writes, in the tree.
const OUTPUT: &str = "/boot/initrd";

fn generate(tree: &Path, args: &[&str], to: &Path, log: &Path) -> Result<(), Error> {
    command::run_logged(&mut Chroot::new(tree).command(args), log)?;
    let from = tree.join(OUTPUT.trim_start_matches('/'));
    fs::rename(&from, to).map_err(Error::io(format!("moving {}", from.display())))?;
    set_mode(to, 0o644)
}

/// The root file system, from what is left of the tree's copy. Its files are the
/// tree's own (hard links): they may be removed and not written to.
fn make_root(dir: &Path, tree: &Path, release: &str, log: &Path) -> Result<(), Error> {
    let root = dir.join("root");
    command::run_logged(
        Command::new("cp").arg("-al").args([tree, root.as_path()]),
        log,
    )?;
    for folder in LEFT_OUT {
        remove(&root.join(folder))?;
    }
    let modules = root.join("usr/lib/modules").join(release).join("kernel");
    for folder in MODULES_LEFT_OUT {
        remove(&modules.join(folder))?;
    }
    // Its order would wait for a network that the initramfs has set up.
    let iscsi = root.join("etc/systemd/system/sysinit.target.wants/open-iscsi.service");
    fs::remove_file(&iscsi).map_err(Error::io(format!("removing {}", iscsi.display())))?;
    for unit in MASKED {
        link("/dev/null", &root.join("etc/systemd/system").join(unit))?;
    }
    let image = dir.join("root.ext4");
    crate::disk::sparse(&image, ROOT_SIZE)?;
    command::run_logged(
        Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-L", ROOT_LABEL, "-U", ROOT_UUID, "-d"])
            .args([&root, &image]),
        log,
    )?;
    remove(&root)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(format!("writing {}", path.display())))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io(format!("setting the mode of {}", path.display())))
}

fn link(target: &str, path: &Path) -> Result<(), Error> {
    symlink(target, path).map_err(Error::io(format!("making {}", path.display())))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}
