//! Kernels of other Debian releases: an image and a tree of modules, nothing
//! else of the release.
//!
//! Which package has them is apt's answer to `linux-image-amd64`: one in Debian
//! 12; since 7.x the image, the modules and the lists of what is built in are
//! packages of their own. Takes some ten seconds and 90 (forky) or 270 MB.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Archive;
use crate::{Error, cache, command};

/// Raised when a step below changes in a way that the hashed parts do not show.
const RECIPE_VERSION: &[u8] = b"1";

/// The package that stands for a release's usual kernel.
const META: &str = "linux-image-amd64";

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

/// A Debian release whose kernel can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, kernel 6.1: dm-verity asks neither the platform keyring nor
    /// one of its own; EROFS reads lz4 only.
    Debian12,
    /// Debian forky, kernel 7.x: dm-verity has a keyring of its own.
    Forky,
}

impl Release {
    /// Its name in the archive.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Forky => "forky",
        }
    }

    /// The kind of its entry in the cache.
    fn kind(self) -> &'static str {
        match self {
            Self::Debian12 => "kernel-bookworm",
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
        let entry = cache::entry(release.kind(), &recipe, |dir| make(dir, suite, progress))?;
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

fn make(dir: &Path, suite: &str, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    progress(&format!("Debian {suite}: kernel"));
    let log = dir.join("log");
    let apt = dir.join("apt");
    let archive = Archive::open(&apt, suite, &log)?;
    let packages = parts(&archive.depends(META)?)?;
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
        return Err(Error::Disk(format!("{META} needs no kernel package")));
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
