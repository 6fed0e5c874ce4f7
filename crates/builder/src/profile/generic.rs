//! What a boot surely reads, guessed from the image's own files: the programs
//! that every boot runs with all that they are linked with, and what these read.

use super::elf;
use super::stage::{Found, Hot};
use crate::error::{Error, Result};
use crate::stage::Stage;
use iofs_prefetch::{PAGE, Range, close_gaps};
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

/// More than this is not guessed, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The greatest program or library that is looked into, in bytes.
const MAX_PROGRAM: u64 = 64 << 20;

/// A library that only other libraries need and that is greater than this, in
/// bytes, is linked by every boot but hardly used: of it, what linking touches.
const SELDOM: u64 = 512 << 10;

/// What is run, in about this order. sulogin and what else only a failed boot
/// starts is not here.
const PROGRAMS: [&str; 20] = [
    "init",
    "sbin/init",
    "usr/lib/systemd/systemd",
    "usr/lib/systemd/systemd-executor",
    "usr/lib/systemd/systemd-journald",
    "usr/lib/systemd/systemd-udevd",
    "usr/bin/udevadm",
    "usr/bin/kmod",
    "usr/lib/systemd/systemd-modules-load",
    "usr/lib/systemd/systemd-sysctl",
    "usr/bin/systemd-tmpfiles",
    "usr/bin/systemctl",
    "usr/bin/mount",
    "usr/bin/sh",
    "usr/bin/busybox",
    "usr/bin/dracut-cmdline",
    "usr/lib/systemd/systemd-sysroot-fstab-check",
    "usr/lib/systemd/systemd-fsck",
    "usr/bin/run-init",
    "usr/lib/klibc/bin/run-init",
];

/// Libraries that these open by themselves when they need them, and they do.
const OPENED: [&str; 2] = ["libkmod.so.2", "libmount.so.1"];

/// Files that these read.
const FILES: [&str; 16] = [
    "etc/ld.so.cache",
    "etc/initrd-release",
    "usr/lib/initrd-release",
    "usr/lib/os-release",
    "etc/passwd",
    "etc/group",
    "etc/nsswitch.conf",
    "etc/machine-id",
    "etc/fstab",
    "etc/crypttab",
    "etc/hostname",
    "conf/arch.conf",
    "conf/initramfs.conf",
    "scripts/functions",
    "scripts/local",
    "usr/lib/dracut-lib.sh",
];

/// Folders of which they read every file with one of these endings.
const FOLDERS: [(&str, &[&str]); 13] = [
    ("usr/lib/systemd/system-generators", &[""]),
    (
        "usr/lib/systemd/system",
        &[
            ".target", ".service", ".socket", ".mount", ".path", ".slice",
        ],
    ),
    ("etc/systemd/system", &[".target", ".service", ".mount"]),
    ("etc/systemd", &[".conf"]),
    ("etc/modprobe.d", &[".conf"]),
    ("usr/lib/modprobe.d", &[".conf"]),
    ("usr/lib/modules-load.d", &[".conf"]),
    ("usr/lib/sysctl.d", &[".conf"]),
    ("usr/lib/tmpfiles.d", &[".conf"]),
    ("usr/lib/udev/rules.d", &[".rules"]),
    ("etc/udev/rules.d", &[".rules"]),
    ("scripts/init-top", &[""]),
    ("scripts/init-bottom", &[""]),
];

/// What kmod reads of each kernel's modules. Of modules.symbols.bin it reads the
/// first page.
const MODULE_INDICES: [&str; 6] = [
    "modules.dep.bin",
    "modules.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.alias.bin",
    "modules.softdep",
    "modules.devname",
];

/// Where libraries are that no path leads to.
const LIBRARY_FOLDERS: [&str; 5] = ["usr/lib64", "lib64", "usr/lib", "lib", "usr/lib/systemd"];

/// The files, in the order in which they are likely to be read.
pub(super) fn guess(stage: &Stage) -> Result<Hot> {
    let mut guess = Guess {
        stage,
        found: Found::default(),
        looked_into: HashSet::new(),
        folders: library_folders(stage)?,
    };
    for program in PROGRAMS {
        guess.program(program)?;
    }
    // Only with who opens them.
    if stage.exists("usr/lib/systemd/systemd")? {
        for library in OPENED {
            guess.library(library, &[], Path::new(""))?;
        }
    }
    for file in FILES {
        guess.file(file)?;
    }
    for kernel in list(stage, "usr/lib/modules")? {
        for index in MODULE_INDICES {
            guess.file(&format!("usr/lib/modules/{kernel}/{index}"))?;
        }
    }
    for (folder, endings) in FOLDERS {
        for name in list(stage, folder)? {
            if !endings.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            let path = format!("{folder}/{name}");
            match endings {
                [""] => guess.program(&path)?,
                _ => drop(guess.file(&path)?),
            }
        }
    }
    guess.found.hot.generic = true;
    Ok(guess.found.hot)
}

struct Guess<'a> {
    stage: &'a Stage,
    found: Found,
    /// Programs and libraries by their paths in the stage.
    looked_into: HashSet<String>,
    folders: Vec<String>,
}

impl Guess<'_> {
    fn file(&mut self, path: &str) -> Result<bool> {
        if self.found.bytes >= MAX_BYTES {
            return Ok(false);
        }
        self.found.add_whole(self.stage, path)
    }

    /// A program or library, then what it needs, breadth first: as ld.so goes.
    fn program(&mut self, path: &str) -> Result<()> {
        let mut todo = std::collections::VecDeque::from([(path.to_owned(), 0)]);
        while let Some((path, depth)) = todo.pop_front() {
            let Some((inside, bytes)) = self.enter(&path, depth)? else {
                continue;
            };
            let needs = elf::needs(&bytes);
            todo.extend(needs.interpreter.map(|path| (path, 1)));
            let folder = Path::new(&inside).parent().unwrap_or(Path::new(""));
            for name in needs.libraries {
                let found = self.find(&name, &needs.folders, folder)?;
                todo.extend(found.map(|path| (path, depth + 1)));
            }
        }
        Ok(())
    }

    fn library(&mut self, name: &str, folders: &[String], origin: &Path) -> Result<()> {
        match self.find(name, folders, origin)? {
            Some(path) => self.program(&path),
            None => Ok(()),
        }
    }

    /// Adds what is so deep below a program; its path without links and its bytes
    /// if it was not looked into before.
    fn enter(&mut self, path: &str, depth: u32) -> Result<Option<(String, Vec<u8>)>> {
        let inside = self.stage.resolve(path)?.and_then(|file| {
            let inside = file.strip_prefix(self.stage.path()).ok()?.to_str()?;
            (file.is_file() && self.looked_into.insert(inside.to_owned()))
                .then(|| inside.to_owned())
        });
        let Some(inside) = inside.filter(|_| self.found.bytes < MAX_BYTES) else {
            return Ok(None);
        };
        let bytes = self.read(&inside)?;
        let seldom = depth > 1 && bytes.len() as u64 > SELDOM;
        let linked = match seldom {
            true => elf::linked(&bytes),
            false => Vec::new(),
        };
        let added = match pages(&linked) {
            Some(ranges) => {
                let ranges = |_| Some(ranges);
                self.found.add(self.stage, &inside, |_| true, ranges)?
            }
            None => self.file(&inside)?,
        };
        Ok(added.then_some((inside, bytes)))
    }

    fn read(&self, inside: &str) -> Result<Vec<u8>> {
        let path = self.stage.path().join(inside);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_PROGRAM).read_to_end(&mut bytes))
            .map_err(Error::io("reading", &path))?;
        Ok(bytes)
    }

    fn find(&self, name: &str, folders: &[String], origin: &Path) -> Result<Option<String>> {
        if name.contains('/') {
            return Ok(Some(name.to_owned()));
        }
        let origin = origin.to_str().unwrap_or("");
        let own = folders.iter().map(|folder| {
            folder
                .replace("${ORIGIN}", origin)
                .replace("$ORIGIN", origin)
        });
        for folder in own.chain(self.folders.iter().cloned()) {
            let path = format!("{folder}/{name}");
            if self.stage.exists(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// The pages of these parts of a file, in ascending order; `None` if there are none
/// or more than a list can name.
fn pages(parts: &[(u64, u64)]) -> Option<Vec<Range>> {
    let mut ranges = Vec::new();
    for &(offset, len) in parts {
        let end = offset.checked_add(len)?.div_ceil(PAGE);
        let start = u32::try_from(offset / PAGE).ok()?;
        let len = u32::try_from(end).ok()?.checked_sub(start)?;
        ranges.push(Range { start, len });
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let ranges = close_gaps(ranges, 0);
    (!ranges.is_empty()).then_some(ranges)
}

/// The usual folders of libraries, those of the architecture (`x86_64-linux-gnu`)
/// first.
fn library_folders(stage: &Stage) -> Result<Vec<String>> {
    let mut folders = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let names = list(stage, parent)?;
        let multiarch = names.iter().filter(|name| name.contains("-linux-"));
        folders.extend(multiarch.map(|name| format!("{parent}/{name}")));
    }
    folders.extend(LIBRARY_FOLDERS.map(String::from));
    Ok(folders)
}

/// The names in a folder of the stage, sorted; none if it is not there.
fn list(stage: &Stage, folder: &str) -> Result<Vec<String>> {
    let Some(path) = stage.resolve(folder)?.filter(|path| path.is_dir()) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(Error::io("reading the folder", &path))? {
        let entry = entry.map_err(Error::io("reading the folder", &path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
