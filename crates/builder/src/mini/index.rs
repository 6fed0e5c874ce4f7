//! A kernel's module metadata, read from its folder and from modprobe.d.

use super::catalogue;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel;
use crate::request::Kernel;
use iofs_kmod::{ConfigFile, Index, Module, Texts};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The greatest size of one metadata file, in bytes. Debian's largest has 1.6 MB.
const MAX_TEXT: u64 = 64 << 20;

/// Folders of modprobe.d(5), most important first.
const CONFIG_FOLDERS: [&str; 5] = [
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
];

/// A kernel's modules.
#[derive(Debug)]
pub(crate) struct KernelModules {
    pub(crate) index: Index,
    /// Every alias as modules.alias has it, with its module's name. [`Index`]
    /// keeps them with `_` for `-`, but devices announce themselves by `-`.
    pub(crate) aliases: Vec<(String, String)>,
    /// The paths of what is part of the kernel.
    pub(crate) builtins: Vec<String>,
    folder: PathBuf,
    sysroot: PathBuf,
}

impl KernelModules {
    /// Reads them. `loadable` says whether there must be modules to load.
    pub(crate) fn open(kernel: &Kernel, loadable: bool) -> Result<Self> {
        let folder = match &kernel.modules_dir {
            Some(folder) => folder.clone(),
            None => kernel::modules_dir(&kernel.sysroot, &kernel.release)?,
        };
        let (needed, hint) = match loadable {
            true => ("modules.dep", "Run depmod for this kernel."),
            false => (
                "modules.builtin",
                "The kernel's build makes it: make modules_install.",
            ),
        };
        if !folder.join(needed).is_file() {
            return Err(Error::new(
                ErrorKind::Modules,
                format!("{} has no {needed}", folder.display()),
            )
            .hint(hint));
        }
        let text = |name: &str| read_text(&folder.join(name));
        let (dep, alias, softdep) = (
            text("modules.dep")?,
            text("modules.alias")?,
            text("modules.softdep")?,
        );
        let (builtin, modinfo) = (text("modules.builtin")?, text("modules.builtin.modinfo")?);
        let config = read_config(&kernel.sysroot)?;
        let index = Index::new(&Texts {
            dep: &dep,
            alias: &alias,
            softdep: &softdep,
            weakdep: &text("modules.weakdep")?,
            builtin: &builtin,
            builtin_modinfo: &modinfo,
            config: config
                .iter()
                .map(|(name, text)| ConfigFile { name, text })
                .collect(),
            // What libkmod passes over may be what makes a boot work.
            all_softdeps: true,
        });
        let aliases = alias
            .lines()
            .filter_map(|line| {
                let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
                Some((pattern.trim().to_owned(), module.replace('-', "_")))
            })
            .collect();
        Ok(Self {
            index,
            aliases,
            builtins: iofs_kmod::parse_order(&builtin)
                .map(str::to_owned)
                .collect(),
            folder,
            sysroot: kernel.sysroot.clone(),
        })
    }

    /// Each alias by which a device on a storage bus asks for a module that
    /// modprobe.d does not keep away, with the module's name.
    pub(crate) fn storage_aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases
            .iter()
            .map(|(pattern, module)| (pattern.as_str(), module.as_str()))
            .filter(|(pattern, _)| catalogue::storage_alias(pattern))
            .filter(|(_, module)| !self.index.is_blacklisted(module))
            .filter(|(_, module)| !self.index.is_blocked(module))
    }

    /// Where a module's file is.
    pub(crate) fn file(&self, module: &Module) -> PathBuf {
        match module.path.strip_prefix('/') {
            // depmod before 2008, and some vendors' trees.
            Some(path) => self.sysroot.join(path),
            None => self.folder.join(&module.path),
        }
    }
}

/// A metadata file; empty if it is not there. Bytes that are not UTF-8 are
/// replaced: modules.builtin.modinfo has authors' names in whatever encoding.
fn read_text(path: &Path) -> Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(Error::io("opening", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("reading", path))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("{} has more than {MAX_TEXT} bytes", path.display()),
        ));
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The files of modprobe.d as (path, text), most important folder first, by
/// name within a folder.
fn read_config(sysroot: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for folder in CONFIG_FOLDERS {
        let Ok(entries) = sysroot.join(folder).read_dir() else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "conf"))
            .collect();
        paths.sort();
        for path in paths {
            // A link to /dev/null masks a file of the same name: an empty text.
            let text = if path.is_file() {
                read_text(&path)?
            } else {
                String::new()
            };
            files.push((path.to_string_lossy().into_owned(), text));
        }
    }
    Ok(files)
}
