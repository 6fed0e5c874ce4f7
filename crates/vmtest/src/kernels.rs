//! Kernels of other Debian releases: an image and a tree of modules, nothing
//! else of the release.
//!
//! Which package has them is apt's answer to `linux-image-amd64`: one in Debian
//! 12; since 7.x the image, the modules and the lists of what is built in are
//! packages of their own. Takes some ten seconds and 50 (cloud), 90 (forky) or
//! 270 MB. [`recompress`] gives modules another compression than theirs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Archive;
use crate::{Error, cache, command};

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

/// What the folder of modules has beside them that depmod reads.
const LISTS: &[&str] = &[
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.order",
];

/// Beginnings of the names of the packages with files of a kernel.
const PARTS: &[&str] = &[
    "linux-image-",
    "linux-binary-",
    "linux-modules-",
    "linux-base-",
];

/// Modules that no test wants and on which nothing else stands: a third of all.
const LEFT_OUT: &[&str] = &[
    "drivers/gpu",
    "drivers/media",
    "drivers/net/wireless",
    "sound",
];

/// Folders that [`recompress`] takes: all that a disk needs.
const STORAGE: &[&str] = &[
    "arch",
    "block",
    "crypto",
    "drivers/ata",
    "drivers/block",
    "drivers/dax",
    "drivers/md",
    "drivers/message",
    "drivers/mmc",
    "drivers/nvme",
    "drivers/scsi",
    "drivers/usb",
    "drivers/virtio",
    "fs/erofs",
    "fs/netfs",
    "fs/overlayfs",
    "lib",
];

/// A Debian release whose kernel can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, kernel 6.1: dm-verity asks neither the platform keyring nor
    /// one of its own; EROFS reads lz4 only.
    Debian12,
    /// Debian 13's kernel for clouds: without the drivers of most hardware.
    Debian13Cloud,
    /// Debian forky, kernel 7.x: dm-verity has a keyring of its own.
    Forky,
}

impl Release {
    /// Its name in the archive.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13Cloud => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "Debian 12",
            Self::Debian13Cloud => "Debian 13 cloud",
            Self::Forky => "Debian forky",
        }
    }

    /// The package that stands for its kernel.
    fn meta(self) -> &'static str {
        match self {
            Self::Debian12 | Self::Forky => "linux-image-amd64",
            Self::Debian13Cloud => "linux-image-cloud-amd64",
        }
    }

    /// The kind of its entry in the cache.
    fn kind(self) -> &'static str {
        match self {
            Self::Debian12 => "kernel-bookworm",
            Self::Debian13Cloud => "kernel-trixie-cloud",
            Self::Forky => "kernel-forky",
        }
    }
}

/// A cached kernel.
#[derive(Debug)]
pub struct Kernel {
    entry: cache::Entry,
    release: String,
}

impl Kernel {
    /// The kernel of `release`, fetched if it is not in the cache. `progress`
    /// gets a line for each step. Does not need root.
    ///
    /// # Errors
    /// [`Error::NoMirror`], [`Error::Program`] if apt or depmod fails,
    /// [`Error::Disk`] if the packages hold no kernel.
    pub fn ensure(release: Release, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let left_out = LEFT_OUT.join(",");
        let suite = release.suite();
        let recipe = [RECIPE_VERSION, suite.as_bytes(), left_out.as_bytes()];
        let entry = cache::entry(release.kind(), &recipe, |dir| make(dir, release, progress))?;
        let path = entry.path.join("kernel-release");
        let release = fs::read_to_string(&path)
            .map_err(Error::io(format!("reading {}", path.display())))?
            .trim()
            .to_owned();
        Ok(Self { entry, release })
    }

    /// The kernel image.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.entry.path.join("vmlinuz")
    }

    /// The root under which `usr/lib/modules/RELEASE` lies, with modules.dep.
    /// Not to be changed.
    #[must_use]
    pub fn modules_root(&self) -> PathBuf {
        self.entry.path.join("root")
    }

    /// What `uname -r` prints under it.
    #[must_use]
    pub fn kernel_release(&self) -> &str {
        &self.release
    }
}

/// How module files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: `.ko`.
    None,
    /// gzip: `.ko.gz`.
    Gzip,
    /// zstd: `.ko.zst`.
    Zstd,
}

/// Copies those modules that a disk needs from `modules` (the folder of a
/// release, with `.ko` and `.ko.xz` files), compressed in this way, to a new
/// `root`, where `usr/lib/modules/RELEASE` gets them and depmod's lists.
///
/// # Errors
/// [`Error::Program`] if xz, gzip, zstd or depmod fails, [`Error::Io`].
pub fn recompress(modules: &Path, how: Compression, root: &Path) -> Result<(), Error> {
    let release = modules.file_name().unwrap_or_default();
    let to = root.join("usr/lib/modules").join(release);
    for folder in STORAGE {
        let from = modules.join("kernel").join(folder);
        let parent = to.join("kernel").join(folder);
        if from.is_dir() {
            make_folder(parent.parent().unwrap_or(&to))?;
            command::output(Command::new("cp").arg("-a").args([&from, &parent]))?;
        }
    }
    for list in LISTS {
        let from = modules.join(list);
        if from.is_file() {
            fs::copy(&from, to.join(list)).map_err(Error::io(format!("copying {list}")))?;
        }
    }
    each_module(&to, ".ko.xz", &["xz", "--decompress"])?;
    symlink("usr/lib", root.join("lib")).map_err(Error::io("making lib"))?;
    let mut depmod = Command::new("/usr/sbin/depmod");
    command::output(depmod.arg("-b").arg(root).arg(release))?;
    // Debian's depmod is built without zlib and finds no `.ko.gz`: the paths in
    // its list are those of the plain files, and changed with them.
    let (program, end): (&[&str], &str) = match how {
        Compression::None => return Ok(()),
        Compression::Gzip => (&["gzip", "-1"], ".ko.gz"),
        Compression::Zstd => (&["zstd", "--quiet", "--rm"], ".ko.zst"),
    };
    each_module(&to, ".ko", program)?;
    let list = to.join("modules.dep");
    let text = fs::read_to_string(&list).map_err(Error::io("reading modules.dep"))?;
    fs::write(&list, text.replace(".ko", end)).map_err(Error::io("writing modules.dep"))
}

/// Runs a program, which replaces files, on all whose names end so.
fn each_module(folder: &Path, end: &str, program: &[&str]) -> Result<(), Error> {
    let Some((name, arguments)) = program.split_first() else {
        return Ok(());
    };
    let mut find = Command::new("find");
    find.arg(folder).args(["-type", "f", "-name"]);
    find.arg(format!("*{end}")).arg("-exec");
    find.arg(name).args(arguments).args(["{}", "+"]);
    command::output(&mut find).map(|_| ())
}

fn make(dir: &Path, release: Release, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    progress(&format!("{}: kernel", release.name()));
    let log = dir.join("log");
    let apt = dir.join("apt");
    let archive = Archive::open(&apt, release.suite(), &log)?;
    let packages = parts(&archive.depends(release.meta())?)?;
    archive.fetch(&packages)?;
    let unpacked = dir.join("unpacked");
    archive.unpack(&unpacked)?;

    let root = dir.join("root");
    let modules = root.join("usr/lib/modules");
    make_folder(&root.join("usr/lib"))?;
    rename(
        &first_of(&unpacked, &["usr/lib/modules", "lib/modules"])?,
        &modules,
    )?;
    // depmod looks for lib/modules under its base folder.
    symlink("usr/lib", root.join("lib")).map_err(Error::io("making lib"))?;
    let release = only_folder(&modules)?;
    let inside = modules.join(&release);
    let image = match inside.join("vmlinuz") {
        image if image.is_file() => image,
        _ => unpacked.join(format!("boot/vmlinuz-{release}")),
    };
    rename(&image, &dir.join("vmlinuz"))?;
    for folder in LEFT_OUT {
        remove(&inside.join("kernel").join(folder))?;
    }
    remove(&unpacked)?;
    remove(&apt)?;
    command::run_logged(
        Command::new("/usr/sbin/depmod")
            .arg("-b")
            .arg(&root)
            .arg(&release),
        &log,
    )?;
    let path = dir.join("kernel-release");
    fs::write(&path, &release).map_err(Error::io(format!("writing {}", path.display())))
}

/// Of all that the meta package needs, what has files of the kernel.
fn parts(packages: &[String]) -> Result<Vec<String>, Error> {
    let of_kernel = |name: &&String| {
        PARTS
            .iter()
            .filter_map(|part| name.strip_prefix(part))
            .any(|release| release.starts_with(|c: char| c.is_ascii_digit()))
    };
    let found: Vec<String> = packages.iter().filter(of_kernel).cloned().collect();
    if found.is_empty() {
        let text = "the release's kernel package needs none with files of a kernel";
        return Err(Error::Disk(text.to_owned()));
    }
    Ok(found)
}

fn first_of(root: &Path, names: &[&str]) -> Result<PathBuf, Error> {
    names
        .iter()
        .map(|name| root.join(name))
        .find(|path| path.is_dir())
        .ok_or_else(|| Error::Disk(format!("no modules in {}", root.display())))
}

fn only_folder(folder: &Path) -> Result<String, Error> {
    let names: Vec<String> = fs::read_dir(folder)
        .map_err(Error::io(format!("reading {}", folder.display())))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(Error::Disk(format!(
            "{} kernels instead of one in {}",
            names.len(),
            folder.display()
        ))),
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io(format!("moving {}", from.display())))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_those_of_one_version() {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let forky = strings(&[
            "dracut",
            "linux-base",
            "linux-base-7.2.12+deb14-amd64",
            "linux-base-amd64",
            "linux-binary-7.2.12+deb14-amd64",
            "linux-image-7.2.12+deb14-amd64",
            "linux-image-amd64",
            "linux-modules-7.2.12+deb14-amd64",
        ]);
        assert_eq!(
            parts(&forky).unwrap(),
            strings(&[
                "linux-base-7.2.12+deb14-amd64",
                "linux-binary-7.2.12+deb14-amd64",
                "linux-image-7.2.12+deb14-amd64",
                "linux-modules-7.2.12+deb14-amd64",
            ])
        );
        assert!(parts(&strings(&["linux-base", "linux-image-amd64"])).is_err());
    }
}
