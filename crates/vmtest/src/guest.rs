//! A real Debian 13, made once and cached.
//!
//! debootstrap makes the tree; both of Debian's generators make their generic
//! initramfs in it, with its own tools; mkfs.ext4 turns it into a root file
//! system without mounting anything. Takes two to three minutes and 1.2 GiB.
//!
//! The guest knows its root by label, has no fstab, root has no password. At
//! multi-user it prints [`REACHED`], the facts that the kernel command line
//! asks for (see `guest/report`), and turns itself off.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Chroot};
use crate::{Error, cache, command};

/// The line in the guest's kernel log when multi-user.target is reached.
pub const REACHED: &str = "INITOVERLAYFS-TEST multi-user reached";

/// The line in the kernel log when the program [`MARK`] runs.
pub const MARKED: &str = "INITOVERLAYFS-MARK next-init";

/// The shortest init (crate `iofs-mark`) on the guest's root, for `init=`.
pub const MARK: &str = "/sbin/iofs-mark";

/// Begins each line that states a fact: `INITOVERLAYFS-FACT name: text`.
pub const FACT: &str = "INITOVERLAYFS-FACT ";

/// Label of the root file system.
pub const ROOT_LABEL: &str = "iofs-root";

/// UUID of the root file system.
pub const ROOT_UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a01";

/// Size of the root file system's image in bytes; it is sparse.
pub const ROOT_SIZE: u64 = 1 << 30;

const PACKAGES: &[&str] = &[
    "busybox",
    "dbus",
    "dracut-core",
    "e2fsprogs",
    "initramfs-tools",
    "kmod",
    "linux-image-amd64",
    "lz4",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

const REPORT: &str = include_str!("../guest/report");
const REPORT_UNIT: &str = include_str!("../guest/report.service");
const MARK_SOURCE: &[u8] = include_bytes!("../mark/src/main.rs");

/// The cached guest.
#[derive(Debug)]
pub struct Guest {
    entry: cache::Entry,
    kernel_release: String,
}

impl Guest {
    /// The guest, made if it is not in the cache. `progress` gets a line for
    /// each step.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`], [`Error::Program`] if a step fails (the end of its
    /// output is in it).
    pub fn ensure(progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let packages = PACKAGES.join(",");
        let recipe = [
            RECIPE_VERSION,
            debian::SUITE.as_bytes(),
            packages.as_bytes(),
            REPORT.as_bytes(),
            REPORT_UNIT.as_bytes(),
            MARK_SOURCE,
        ];
        let entry = cache::entry("debian-13", &recipe, |dir| make(dir, progress))?;
        let kernel_release = read(&entry.path.join("kernel-release"))?;
        Ok(Self {
            entry,
            kernel_release,
        })
    }

    /// The root tree, owned by root. Not to be changed.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.entry.path.join("tree")
    }

    /// `uname -r` of its kernel.
    #[must_use]
    pub fn kernel_release(&self) -> &str {
        &self.kernel_release
    }

    /// The kernel image.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.entry.path.join("vmlinuz")
    }

    /// The folder with `kernel/` and modules.dep.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.tree()
            .join("usr/lib/modules")
            .join(&self.kernel_release)
    }

    /// dracut's initramfs for any machine.
    #[must_use]
    pub fn dracut_initrd(&self) -> PathBuf {
        self.entry.path.join("initrd.dracut.img")
    }

    /// initramfs-tools' initramfs with most modules.
    #[must_use]
    pub fn initramfs_tools_initrd(&self) -> PathBuf {
        self.entry.path.join("initrd.initramfs-tools.img")
    }

    /// The ext4 root file system, without a partition table.
    #[must_use]
    pub fn root_image(&self) -> PathBuf {
        self.entry.path.join("root.ext4")
    }

    /// The program [`MARK`], for other images.
    #[must_use]
    pub fn mark(&self) -> PathBuf {
        self.entry.path.join("iofs-mark")
    }
}

fn make(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let log = dir.join("log");
    let tree = dir.join("tree");
    progress("building the marker init");
    let mark = build_freestanding("iofs-mark", &log)?;
    copy(&mark, &dir.join("iofs-mark"))?;

    progress("Debian 13: debootstrap");
    debian::bootstrap(&tree, PACKAGES, &log)?;
    configure(&tree, &dir.join("iofs-mark"))?;
    let release = kernel_release(&tree)?;
    write(&dir.join("kernel-release"), &release)?;
    copy(
        &tree.join(format!("boot/vmlinuz-{release}")),
        &dir.join("vmlinuz"),
    )?;

    progress("Debian 13: dracut");
    let inside = Chroot::new(&tree);
    let output = "/boot/initrd";
    command::run_logged(
        &mut inside.command(&[
            "dracut",
            "--no-hostonly",
            "--force",
            "--kver",
            &release,
            output,
        ]),
        &log,
    )?;
    take(&tree.join("boot/initrd"), &dir.join("initrd.dracut.img"))?;

    progress("Debian 13: mkinitramfs");
    command::run_logged(
        &mut inside.command(&["mkinitramfs", "-o", output, &release]),
        &log,
    )?;
    take(
        &tree.join("boot/initrd"),
        &dir.join("initrd.initramfs-tools.img"),
    )?;

    progress("Debian 13: root file system");
    clean(&tree, &release)?;
    let image = dir.join("root.ext4");
    fs::File::create(&image)
        .and_then(|file| file.set_len(ROOT_SIZE))
        .map_err(Error::io(format!("making {}", image.display())))?;
    command::run_logged(
        Command::new("mkfs.ext4")
            .args(["-q", "-L", ROOT_LABEL, "-U", ROOT_UUID, "-d"])
            .args([&tree, &image]),
        &log,
    )
}

/// Has sha2 without unrolled rounds where the CPU has no instructions for it: a
/// twentieth of PID 1. Cargo has no place for it in a profile yet.
const SMALL_SHA2: &str = "--cfg sha2_backend_soft=\"compact\"";

/// Builds a program without a libc from this workspace.
///
/// # Errors
/// [`Error::Program`] if cargo fails.
pub fn build_freestanding(package: &str, log: &Path) -> Result<PathBuf, Error> {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command::run_logged(
        cargo()
            .args(["build", "--package", package])
            .args(["--features", "freestanding", "--profile", "pid1"])
            .env("RUSTFLAGS", format!("{flags} {SMALL_SHA2}")),
        log,
    )?;
    Ok(target_dir().join("pid1").join(package))
}

/// A cargo command in the workspace.
#[must_use]
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace());
    command
}

/// Where cargo puts what it builds from this workspace.
#[must_use]
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace().join(dir),
        _ => workspace().join("target"),
    }
}

/// The root of this workspace's sources.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn configure(tree: &Path, mark: &Path) -> Result<(), Error> {
    let script = tree.join("usr/libexec/initoverlayfs-test/report");
    let unit = tree.join("etc/systemd/system/initoverlayfs-test.service");
    write(&script, REPORT)?;
    set_mode(&script, 0o755)?;
    write(&unit, REPORT_UNIT)?;
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).map_err(Error::io(format!("making {}", wants.display())))?;
    let link = wants.join("initoverlayfs-test.service");
    symlink("/etc/systemd/system/initoverlayfs-test.service", &link)
        .map_err(Error::io(format!("making {}", link.display())))?;

    let target = tree.join("usr/sbin/iofs-mark");
    copy(mark, &target)?;
    set_mode(&target, 0o755)?;

    write(&tree.join("etc/hostname"), "guest\n")?;
    // A known id: no first boot, which would enable and disable units.
    write(
        &tree.join("etc/machine-id"),
        "9a3c6f2d1c0e4d149a3c6f2d1c0e0a02\n",
    )?;
    let shadow = tree.join("etc/shadow");
    let text = read_whole(&shadow)?;
    let open: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("root:*:") {
            Some(rest) => format!("root::{rest}"),
            None => line.to_owned(),
        })
        .collect();
    write(&shadow, &(open.join("\n") + "\n"))
}

/// Takes away what a guest does not need on its disk.
fn clean(tree: &Path, release: &str) -> Result<(), Error> {
    // Made by the kernel package's hook; ours are outside.
    let initrd = tree.join(format!("boot/initrd.img-{release}"));
    if initrd.exists() {
        fs::remove_file(&initrd).map_err(Error::io(format!("removing {}", initrd.display())))?;
    }
    // Newer than /usr: systemd has nothing to bring up to date at first boot.
    for stamp in ["etc/.updated", "var/.updated"] {
        write(&tree.join(stamp), "")?;
    }
    Ok(())
}

fn kernel_release(tree: &Path) -> Result<String, Error> {
    let folder = tree.join("usr/lib/modules");
    let mut releases: Vec<String> = fs::read_dir(&folder)
        .map_err(Error::io(format!("reading {}", folder.display())))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    releases.sort();
    releases
        .pop()
        .ok_or_else(|| Error::Disk(format!("no kernel in {}", folder.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(format!("making {}", folder.display())))?;
    }
    fs::write(path, text).map_err(Error::io(format!("writing {}", path.display())))
}

fn read(path: &Path) -> Result<String, Error> {
    Ok(read_whole(path)?.trim().to_owned())
}

fn read_whole(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io(format!("reading {}", path.display())))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to)
        .map(drop)
        .map_err(Error::io(format!("copying {}", from.display())))
}

fn take(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io(format!("moving {}", from.display())))?;
    set_mode(to, 0o644)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io(format!("setting the mode of {}", path.display())))
}
