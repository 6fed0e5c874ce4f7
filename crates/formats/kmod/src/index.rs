//! Everything that is known of a kernel's modules, and the resolution of names.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use iofs_plan::glob_match;

use crate::config::{Command, Config, ConfigFile, Warning};
use crate::text::{self, module_name, normalize};

/// The texts that an [`Index`] is built from. A file that is not there is an
/// empty text. Bytes that are not UTF-8 (in modules.builtin.modinfo, in
/// comments) may be replaced.
#[derive(Debug, Clone, Default)]
pub struct Texts<'a> {
    /// modules.dep.
    pub dep: &'a str,
    /// modules.alias.
    pub alias: &'a str,
    /// modules.softdep.
    pub softdep: &'a str,
    /// modules.weakdep. It has no bearing on the order in which modules load.
    pub weakdep: &'a str,
    /// modules.builtin.
    pub builtin: &'a str,
    /// modules.builtin.modinfo.
    pub builtin_modinfo: &'a str,
    /// The files of modprobe.d whose names end in `.conf`, those of
    /// /etc/modprobe.d first, then /run, /usr/local/lib, /usr/lib, /lib: of two
    /// with the same name the first holds. Their order is that of their names.
    pub config: Vec<ConfigFile<'a>>,
    /// Obey every softdep line that fits a module. libkmod obeys only the first
    /// one, which drops most of what btrfs asks for.
    pub all_softdeps: bool,
}

/// A loadable module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name as `lsmod` shows it (underscores).
    pub name: String,
    /// Path of the file, as modules.dep has it: relative to the folder of the
    /// kernel's modules.
    pub path: String,
    /// Names of the modules that it needs, and that those need, in an order in
    /// which they can be loaded.
    pub needs: Vec<String>,
}

/// What a name or alias stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// A module that can be loaded.
    Module(&'a Module),
    /// A module of this name that is part of the kernel.
    Builtin(&'a str),
}

impl<'a> Resolved<'a> {
    /// The module, if it is not part of the kernel.
    #[must_use]
    pub fn module(self) -> Option<&'a Module> {
        match self {
            Self::Module(module) => Some(module),
            Self::Builtin(_) => None,
        }
    }
}

/// A kernel's modules.
#[derive(Debug, Clone)]
pub struct Index {
    modules: Vec<Module>,
    by_name: BTreeMap<String, usize>,
    aliases: Vec<(String, String)>,
    builtins: BTreeSet<String>,
    builtin_aliases: Vec<(String, String)>,
    config: Config,
    all_softdeps: bool,
}

impl Index {
    /// Reads the texts.
    #[must_use]
    pub fn new(texts: &Texts<'_>) -> Self {
        let mut modules = Vec::new();
        let mut by_name = BTreeMap::new();
        for (path, needs) in text::dep(texts.dep) {
            let name = module_name(path);
            by_name.entry(name.clone()).or_insert(modules.len());
            modules.push(Module {
                name,
                path: path.into(),
                // depmod writes the direct ones first.
                needs: needs.rev().map(module_name).collect(),
            });
        }
        let mut aliases = Config::default();
        aliases.parse(&ConfigFile {
            name: "modules.alias",
            text: texts.alias,
        });
        let builtin_aliases = text::parse_builtin_modinfo(texts.builtin_modinfo)
            .filter(|&(_, key, _)| key == "alias")
            .filter_map(|(module, _, alias)| Some((normalize(alias)?, module.replace('-', "_"))))
            .collect();
        let config = read_config(texts, core::mem::take(&mut aliases.warnings));
        Self {
            modules,
            by_name,
            aliases: aliases.aliases,
            builtins: text::parse_order(texts.builtin).map(module_name).collect(),
            builtin_aliases,
            config,
            all_softdeps: texts.all_softdeps,
        }
    }

    /// The modules, in the order of modules.dep.
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module of that very name (`-` and `_` are the same).
    #[must_use]
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.position(name).and_then(|at| self.modules.get(at))
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        match self.by_name.get(name) {
            Some(&at) => Some(at),
            None => self.by_name.get(&name.replace('-', "_")).copied(),
        }
    }

    /// Whether a module of that name is part of the kernel.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtins.contains(&name.replace('-', "_"))
    }

    /// Every alias of modules.alias with the name of its module, in that order,
    /// `-` replaced by `_` outside brackets.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases
            .iter()
            .map(|(alias, module)| (alias.as_str(), module.as_str()))
    }

    /// The modules that a name or an alias (such as a device's modalias) stands
    /// for, each once, best first. Empty if there are none; an alias in
    /// modprobe.d for a module that is not there (`off`) hides others.
    #[must_use]
    pub fn resolve<'s>(&'s self, name: &str) -> Vec<Resolved<'s>> {
        let Some(name) = normalize(name) else {
            return Vec::new();
        };
        let by_config = matching(&self.config.aliases, &name);
        if !by_config.is_empty() {
            return self.named(by_config);
        }
        if let Some(module) = self.module(&name) {
            return [Resolved::Module(module)].into();
        }
        if self.is_command(&name) {
            return Vec::new();
        }
        let by_alias = matching(&self.aliases, &name);
        if !by_alias.is_empty() {
            return self.named(by_alias);
        }
        if let Some(builtin) = self.builtins.get(&name) {
            return [Resolved::Builtin(builtin)].into();
        }
        self.named(matching(&self.builtin_aliases, &name))
    }

    fn named<'s>(&'s self, names: Vec<&'s str>) -> Vec<Resolved<'s>> {
        let mut seen = BTreeSet::new();
        names
            .into_iter()
            .filter(|name| seen.insert(*name))
            .filter_map(|name| match self.module(name) {
                Some(module) => Some(Resolved::Module(module)),
                None => self.builtins.get(name).map(|name| Resolved::Builtin(name)),
            })
            .collect()
    }

    /// The parameters that modprobe.d gives a module, joined with spaces.
    #[must_use]
    pub fn options(&self, module: &str) -> String {
        let module = module.replace('-', "_");
        let mut all = String::new();
        for (name, options) in &self.config.options {
            if *name == module {
                if !all.is_empty() {
                    all.push(' ');
                }
                all.push_str(options);
            }
        }
        all
    }

    /// Whether modprobe.d keeps a module from being loaded by its aliases. By
    /// its name it may still be.
    #[must_use]
    pub fn is_blacklisted(&self, module: &str) -> bool {
        let module = module.replace('-', "_");
        self.config.blacklist.contains(&module)
    }

    /// Whether modprobe.d keeps a module from being loaded at all: by an `install`
    /// line whose command [does nothing](crate::blocks).
    #[must_use]
    pub fn is_blocked(&self, module: &str) -> bool {
        let module = module.replace('-', "_");
        self.install_command(&module)
            .is_some_and(|install| crate::blocks(&install.command))
    }

    /// The `remove` lines that fit a module, as file and number of the line.
    pub fn remove_lines<'s>(&'s self, module: &'s str) -> impl Iterator<Item = (&'s str, usize)> {
        self.config
            .remove
            .iter()
            .filter(|remove| glob_match(remove.name.as_bytes(), module.as_bytes()))
            .map(|remove| (remove.file.as_str(), remove.line))
    }

    /// The modules that a module wants to be loaded before it, softly. One that
    /// is not there, or is part of the kernel, is left out.
    #[must_use]
    pub fn soft_pre(&self, module: &Module) -> Vec<&Module> {
        self.soft(module, |softdep| &softdep.pre)
    }

    /// The modules that a module wants to be loaded after it, softly.
    #[must_use]
    pub fn soft_post(&self, module: &Module) -> Vec<&Module> {
        self.soft(module, |softdep| &softdep.post)
    }

    fn soft(
        &self,
        module: &Module,
        list: impl Fn(&crate::config::Softdep) -> &Vec<String>,
    ) -> Vec<&Module> {
        let limit = if self.all_softdeps { usize::MAX } else { 1 };
        self.config
            .softdeps
            .iter()
            .filter(|softdep| glob_match(softdep.name.as_bytes(), module.name.as_bytes()))
            .take(limit)
            .flat_map(list)
            .flat_map(|name| self.resolve(name))
            .filter_map(Resolved::module)
            .collect()
    }

    /// The modules that are of use beside a module without being needed
    /// (`weakdep`), by name or alias.
    pub fn weakdeps<'s>(&'s self, module: &'s Module) -> impl Iterator<Item = &'s str> {
        self.config
            .weakdeps
            .iter()
            .filter(|(name, _)| glob_match(name.as_bytes(), module.name.as_bytes()))
            .take(1)
            .flat_map(|(_, names)| names)
            .map(String::as_str)
    }

    /// The command that modprobe.d puts in the place of loading a module.
    pub(crate) fn install_command(&self, module: &str) -> Option<&Command> {
        self.config
            .install
            .iter()
            .find(|install| glob_match(install.name.as_bytes(), module.as_bytes()))
    }

    /// Whether modprobe.d has a command for a name that is no module: libkmod
    /// then looks for no alias.
    fn is_command(&self, name: &str) -> bool {
        let mut commands = self.config.install.iter().chain(&self.config.remove);
        commands.any(|command| command.name == name)
    }

    /// The lines of the configuration that were passed over.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.config.warnings
    }
}

/// The second of each pair whose first, a pattern, matches, in order.
fn matching<'s>(aliases: &'s [(String, String)], name: &str) -> Vec<&'s str> {
    aliases
        .iter()
        .filter(|(pattern, _)| glob_match(pattern.as_bytes(), name.as_bytes()))
        .map(|(_, module)| module.as_str())
        .collect()
}

/// Reads modprobe.d and the files of the same syntax in the order in which
/// libkmod does: sorted by file name, modules.softdep among them.
fn read_config(texts: &Texts<'_>, warnings: Vec<Warning>) -> Config {
    let mut config = Config {
        warnings,
        ..Config::default()
    };
    let own = [
        ConfigFile {
            name: "modules.softdep",
            text: texts.softdep,
        },
        ConfigFile {
            name: "modules.weakdep",
            text: texts.weakdep,
        },
    ];
    let mut files = BTreeMap::new();
    for file in own.iter().chain(&texts.config) {
        let base = file.name.rsplit('/').next().unwrap_or(file.name);
        files.entry(base).or_insert(file);
    }
    for file in files.into_values() {
        config.parse(file);
    }
    config
}
