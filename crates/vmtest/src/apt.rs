//! Debian packages of any release, unpacked without installing them.
//!
//! apt works on folders of its own here, with this machine's mirror and
//! archive keys: it resolves what to take and checks signatures, and neither
//! its lists nor its state touch the machine's. What it fetched is unpacked by
//! dpkg-deb. No maintainer script runs, no root is needed, and a tree takes
//! seconds where debootstrap takes minutes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, command, mirror};

/// The keys of Debian's archive, of package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Relations that `apt-cache depends` is not to follow.
const NOT_FOLLOWED: &[&str] = &[
    "--no-recommends",
    "--no-suggests",
    "--no-conflicts",
    "--no-breaks",
    "--no-replaces",
    "--no-enhances",
];

/// One release of Debian's archive, as apt sees it from folders of its own.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    log: PathBuf,
}

impl Archive {
    /// Reads the lists of `suite` into `dir`, which is made. What apt says goes
    /// to `log`.
    ///
    /// # Errors
    /// [`Error::NoMirror`] if apt has no Debian mirror here,
    /// [`Error::Program`] if apt-get fails, [`Error::Io`].
    pub fn open(dir: &Path, suite: &str, log: &Path) -> Result<Self, Error> {
        let mirror = mirror::configured().ok_or(Error::NoMirror)?;
        for folder in ["lists/partial", "cache/archives/partial", "etc/parts"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        for (name, text) in [("etc/sources.list", source.as_str()), ("status", "")] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(Error::io(format!("writing {}", path.display())))?;
        }
        let archive = Self {
            dir: dir.to_owned(),
            log: log.to_owned(),
        };
        // `Error-Mode=any`: a list that cannot be had is otherwise a warning.
        command::run_logged(
            archive
                .program("apt-get")
                .args(["--option", "APT::Update::Error-Mode=any", "update"]),
            log,
        )?;
        Ok(archive)
    }

    /// Every package that `package` depends on, directly or not, and itself.
    ///
    /// # Errors
    /// [`Error::Program`], also if there is no such package.
    pub fn depends(&self, package: &str) -> Result<Vec<String>, Error> {
        let output = command::output(
            self.program("apt-cache")
                .args(["depends", "--recurse"])
                .args(NOT_FOLLOWED)
                .arg(package),
        )?;
        Ok(names(&String::from_utf8_lossy(&output)))
    }

    /// Fetches these packages, without what they depend on.
    ///
    /// # Errors
    /// [`Error::Program`] if apt-get fails.
    pub fn fetch(&self, packages: &[String]) -> Result<(), Error> {
        let mut apt = self.program("apt-get");
        apt.current_dir(self.archives()).arg("download");
        command::run_logged(apt.args(packages), &self.log)
    }

    /// Fetches these packages and all that they need, as for an empty system.
    ///
    /// # Errors
    /// [`Error::Program`] if apt-get fails.
    pub fn fetch_with_needs(&self, packages: &[&str]) -> Result<(), Error> {
        let mut apt = self.program("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends"]);
        apt.arg("--download-only").args(packages);
        command::run_logged(&mut apt, &self.log)
    }

    /// Unpacks into `tree` what was fetched.
    ///
    /// # Errors
    /// [`Error::Program`] if dpkg-deb fails, [`Error::Io`].
    pub fn unpack(&self, tree: &Path) -> Result<(), Error> {
        let archives = self.archives();
        let mut packages: Vec<PathBuf> = fs::read_dir(&archives)
            .map_err(Error::io(format!("reading {}", archives.display())))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect();
        // base-files comes first: it has the links from /bin, /lib and /sbin.
        packages.sort();
        packages.sort_by_key(|path| !is_base(path));
        for package in packages {
            command::run_logged(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([package.as_path(), tree]),
                &self.log,
            )?;
        }
        Ok(())
    }

    fn archives(&self) -> PathBuf {
        self.dir.join("cache/archives")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.env("LC_ALL", "C").args(self.options());
        command
    }

    /// On the command line, which wins over every configuration file.
    fn options(&self) -> Vec<OsString> {
        let folder = |key: &str, name: &str| {
            let mut option = OsString::from(format!("{key}="));
            option.push(self.dir.join(name));
            option
        };
        let options = [
            folder("Dir::Etc::SourceList", "etc/sources.list"),
            folder("Dir::Etc::SourceParts", "etc/parts"),
            folder("Dir::Etc::PreferencesParts", "etc/parts"),
            folder("Dir::Etc::Preferences", "etc/preferences"),
            folder("Dir::State", ""),
            folder("Dir::State::Lists", "lists"),
            folder("Dir::State::Status", "status"),
            folder("Dir::Cache", "cache"),
            "APT::Architecture=amd64".into(),
            "APT::Sandbox::User=".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ];
        options
            .into_iter()
            .flat_map(|option| ["--option".into(), option])
            .collect()
    }
}

fn is_base(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("base-files_"))
}

/// The packages in apt-cache's answer: lines that are not indented and not
/// those of a virtual package, `<name>`.
fn names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .map(|line| line.trim_end().to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_from_relations_and_virtual_ones() {
        let text = "linux-image-amd64\n  Depends: linux-image-7.2\n |Depends: dracut\n\
                    linux-image-7.2\n  Depends: <linux-initramfs-tool>\n    dracut\n\
                    <linux-initramfs-tool>\nlinux-image-amd64\n";
        assert_eq!(names(text), ["linux-image-7.2", "linux-image-amd64"]);
    }

    #[test]
    fn every_folder_of_apt_is_private() {
        let archive = Archive {
            dir: "/private".into(),
            log: "/log".into(),
        };
        let options = archive.options();
        let folders = options
            .iter()
            .filter_map(|option| option.to_str())
            .filter_map(|option| option.strip_prefix("Dir::"))
            .filter_map(|option| option.split_once('='));
        let mut count = 0;
        for (key, value) in folders {
            assert!(value.starts_with("/private"), "{key}");
            count += 1;
        }
        assert_eq!(count, 8);
    }
}
