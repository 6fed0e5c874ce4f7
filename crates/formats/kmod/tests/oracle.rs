//! modprobe(8) and depmod(8) agree with us about real kernels: that of the
//! package user-mode-linux, and the one in the root directory that the variable
//! IOFS_TEST_MODULES_ROOT names, if it is set.

// In tests, helpers included.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use iofs_kmod::{ConfigFile, Index, ModInfo, Texts, dep_index, is_signed, rewrite_dep};

/// A kernel's modules as modprobe sees them: `root/lib/modules/release`.
struct Tree {
    root: tempfile::TempDir,
    release: String,
}

impl Tree {
    /// Links the modules in `modules` (a folder with one folder a release) into
    /// a root of their own, with this configuration.
    fn new(modules: &Path, config: &str) -> Self {
        let release = fs::read_dir(modules)
            .unwrap_or_else(|error| panic!("{}: {error}", modules.display()))
            .map(|entry| entry.unwrap())
            .find(|entry| entry.path().join("modules.order").is_file())
            .unwrap_or_else(|| panic!("no kernel's modules in {}", modules.display()));
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/modules").join(release.file_name());
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(release.path()).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        fs::create_dir(root.path().join("config")).unwrap();
        fs::write(root.path().join("config/test.conf"), config).unwrap();
        let release = release.file_name().into_string().unwrap();
        let tree = Self { root, release };
        if !folder.join("modules.dep.bin").is_file() {
            let output = run(Command::new("depmod")
                .arg("-b")
                .arg(tree.root.path())
                .arg(&tree.release));
            assert!(output.status.success());
        }
        tree
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("lib/modules").join(&self.release)
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.folder().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn index(&self) -> Index {
        let config = fs::read_to_string(self.root.path().join("config/test.conf")).unwrap();
        Index::new(&Texts {
            dep: &self.read("modules.dep"),
            alias: &self.read("modules.alias"),
            softdep: &self.read("modules.softdep"),
            weakdep: &self.read("modules.weakdep"),
            builtin: &self.read("modules.builtin"),
            builtin_modinfo: &self.read("modules.builtin.modinfo"),
            config: vec![ConfigFile {
                name: "test.conf",
                text: &config,
            }],
            all_softdeps: false,
        })
    }

    fn modprobe(&self, args: &[&str]) -> Vec<String> {
        let output = run(Command::new("modprobe")
            .arg("-d")
            .arg(self.root.path())
            .arg("-C")
            .arg(self.root.path().join("config"))
            .args(["-S", &self.release])
            .args(args));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.trim_end().to_string())
            .collect()
    }

    /// The paths that `modprobe --show-depends` names, each once.
    fn show_depends(&self, name: &str) -> Vec<String> {
        let folder = format!("{}/", self.folder().display());
        let mut seen = BTreeSet::new();
        self.modprobe(&["--show-depends", name])
            .iter()
            .filter_map(|line| line.strip_prefix("insmod "))
            .map(|line| line.split(' ').next().unwrap())
            .map(|path| path.strip_prefix(&folder).unwrap().to_string())
            .filter(|path| seen.insert(path.clone()))
            .collect()
    }
}

fn run(command: &mut Command) -> Output {
    command
        .env("LC_ALL", "C")
        .output()
        .expect("this test needs modprobe and depmod: apt-get install kmod")
}

/// What user-mode-linux has, and whatever else there is.
fn trees(config: &str) -> Vec<Tree> {
    let uml = Path::new("/usr/lib/uml/modules");
    assert!(
        uml.is_dir(),
        "this test needs a kernel's modules: apt-get install user-mode-linux"
    );
    let mut trees = vec![Tree::new(uml, config)];
    if let Some(root) = std::env::var_os("IOFS_TEST_MODULES_ROOT") {
        let root = PathBuf::from(root);
        trees.push(Tree::new(&root.join("usr/lib/modules"), config));
    }
    trees
}

#[test]
fn every_module_loads_in_the_order_of_modprobe() {
    for tree in trees("") {
        let index = tree.index();
        assert!(index.modules().len() > 500, "{}", tree.release);
        assert_eq!(index.warnings(), []);
        for module in index.modules() {
            let ours: Vec<_> = index
                .load_order(&[&module.name])
                .unwrap()
                .iter()
                .map(|module| module.path.clone())
                .collect();
            assert_eq!(ours, tree.show_depends(&module.name), "{}", module.name);
        }
    }
}

#[test]
fn aliases_resolve_as_modprobe_resolves_them() {
    let config = "alias my-alias-* loop\nalias my-alias-2 no-such-module\nalias char-major-10-* dm-mod\n\
                  install fs-xfs /bin/true\n";
    for tree in trees(config) {
        let index = tree.index();
        let mut names: BTreeSet<String> = [
            "my-alias-1",
            "my_alias_2",
            "char-major-10-200",
            "virtio-blk",
            "ext4",
            "no-such-module",
            "symbol:nothing",
            "[",
        ]
        .map(String::from)
        .into();
        // Every eleventh alias, with something in the place of its wildcards.
        let fill = |(alias, _): (&str, &str)| -> Option<String> {
            (!alias.contains('[')).then(|| alias.replace('*', "0").replace('?', "1"))
        };
        names.extend(index.aliases().step_by(11).take(4000).filter_map(fill));
        names.extend(
            tree.read("modules.builtin")
                .lines()
                .take(40)
                .map(iofs_kmod::module_name),
        );
        for name in names {
            let ours: BTreeSet<String> = index
                .resolve(&name)
                .into_iter()
                .map(|resolved| match resolved {
                    iofs_kmod::Resolved::Module(module) => module.name.clone(),
                    iofs_kmod::Resolved::Builtin(name) => name.into(),
                })
                .collect();
            // modprobe names modules that are not there, too.
            let theirs: BTreeSet<String> = tree
                .modprobe(&["--resolve-alias", &name])
                .into_iter()
                .filter(|name| index.module(name).is_some() || index.is_builtin(name))
                .collect();
            assert_eq!(ours, theirs, "{name} of {}", tree.release);
        }
    }
}

#[test]
fn configuration_is_obeyed_as_modprobe_obeys_it() {
    let config = "# comment\noptions overlay a=1 \\\n b=\"x y\"\noptions overlay c\n\
                  softdep overlay pre: loop dm-mod post: virtio-rng isofs\n\
                  softdep overlay pre: ntfs3\nsoftdep l[o]op foo pre: fat\n";
    for tree in trees(config) {
        let index = tree.index();
        let ours: Vec<_> = index
            .load_order(&["overlay"])
            .unwrap()
            .iter()
            .map(|module| module.path.clone())
            .collect();
        assert_eq!(ours, tree.show_depends("overlay"));
        assert!(ours.len() > 3, "{ours:?}");
        let lines = tree.modprobe(&["--show-depends", "overlay"]);
        let line = lines.iter().find(|line| line.contains("/overlay.ko"));
        let theirs = line.unwrap().split_once(".ko").unwrap().1;
        let theirs = theirs.split_once(' ').unwrap().1;
        assert_eq!(index.options("overlay"), theirs);
    }
}

#[test]
fn modprobe_reads_our_binary_index_of_renamed_modules() {
    for tree in trees("") {
        let before = tree.read("modules.dep");
        let after = rewrite_dep(&before, |path| path.replacen("kernel/", "moved/", 1));
        let bytes = dep_index(&after).unwrap();
        let folder = tree.folder();
        // libkmod looks whether dependencies are there.
        fs::rename(folder.join("kernel"), folder.join("moved")).unwrap();
        for (name, bytes) in [
            ("modules.dep", after.as_bytes()),
            ("modules.dep.bin", &bytes[..]),
        ] {
            fs::remove_file(folder.join(name)).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
        let index = tree.index();
        for module in index.modules().iter().step_by(7) {
            let paths = tree.show_depends(&module.name);
            assert!(paths.contains(&module.path), "{}: {paths:?}", module.name);
            assert!(paths.iter().all(|path| path.starts_with("moved/")));
            let ours = index.load_order(&[&module.name]).unwrap();
            assert_eq!(ours.len(), paths.len());
        }
    }
}

#[test]
fn modules_say_of_themselves_what_modinfo_says() {
    let tree = trees("").swap_remove(0);
    let index = tree.index();
    for module in index.modules().iter().step_by(9) {
        let path = tree.folder().join(&module.path);
        let bytes = fs::read(&path).unwrap();
        let info = ModInfo::parse(&bytes).unwrap();
        for field in [
            "name", "alias", "depends", "vermagic", "softdep", "firmware", "license",
        ] {
            let output = run(Command::new("modinfo").args(["-F", field]).arg(&path));
            let theirs = String::from_utf8(output.stdout).unwrap();
            let ours: String = info.all(field).map(|value| format!("{value}\n")).collect();
            assert_eq!(ours, theirs, "{field} of {}", module.name);
        }
        assert!(!is_signed(&bytes), "user-mode-linux signs no modules");
        let known: BTreeSet<_> = info.depends().map(iofs_kmod::module_name).collect();
        assert!(
            known
                .iter()
                .all(|name| module.needs.contains(name) || index.is_builtin(name))
        );
    }
}
