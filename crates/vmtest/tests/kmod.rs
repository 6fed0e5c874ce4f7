//! modprobe's answers: for every module of each kernel that is supported, crate
//! `iofs-kmod` says what `modprobe --show-depends` says.
//!
//! `IOFS_VM_TESTS=1 cargo test -p vmtest --test kmod [FILTER]`
//!
//! modprobe is this machine's, of kmod 30 or later; the kernels are those of the
//! VM tests: Debian 12, 13 and forky. One process for each of some 4000 modules a
//! kernel, twice, on two threads: 20 seconds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not see that this is a test: it has no harness"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;

use iofs_kmod::{ConfigFile, Index, Resolved, Texts, module_name};
use libtest_mimic::{Arguments, Failed, Trial};
use vmtest::guest::Guest;
use vmtest::kernels::{self, Release};
use vmtest::tier::Tier;

/// A kernel's modules, and configuration for them.
struct Tree {
    root: PathBuf,
    release: String,
    config: tempfile::TempDir,
    index: Index,
}

/// Whatever modprobe.d can say of modules that every one of these kernels has.
const CONFIG: &str = "\
options virtio_blk queue_depth=64
options virtio-blk num_request_queues=2 \\
 poll_queues=1
options nvme_core multipath=N
options scsi_mod scan=\"sync\"
options usb-storage quirks=1234:5678:u,abcd:ef01:r
softdep sd_mod pre: virtio-rng crc32c post: isofs loop
softdep sd_mod pre: ntfs3
softdep dm-* pre: crc32_pclmul
softdep usb[-_]storage post: uas
softdep btrfs xor pre: raid6_pq
blacklist nvme
alias my-disk nvme
alias my-disk-* megaraid_sas
alias pci:v00001AF4d00001042* virtio-scsi
alias ext4 no-such-module
install ahci /bin/false
install firewire_* echo $CMDLINE_OPTS && false
install my-command /bin/true
remove libata /bin/true
";

/// A kernel's root and release.
type Place = fn() -> (PathBuf, String);

/// What is compared of it.
type Check = fn(Place) -> Result<(), Failed>;

const KERNELS: &[(&str, Place)] = &[
    ("debian_12", || kernel(Release::Debian12)),
    ("debian_13", || {
        let guest = Guest::ensure(&mut |_| {}).unwrap();
        (guest.tree(), guest.kernel_release().to_owned())
    }),
    ("forky", || kernel(Release::Forky)),
];

fn kernel(release: Release) -> (PathBuf, String) {
    let kernel = kernels::Kernel::ensure(release, &mut |_| {}).unwrap();
    (kernel.modules_root(), kernel.kernel_release().to_owned())
}

impl Tree {
    fn new((root, release): (PathBuf, String), config: &str) -> Self {
        let folder = root.join("usr/lib/modules").join(&release);
        let read = |name: &str| {
            let bytes = fs::read(folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let index = Index::new(&Texts {
            dep: &read("modules.dep"),
            alias: &read("modules.alias"),
            softdep: &read("modules.softdep"),
            weakdep: &read("modules.weakdep"),
            builtin: &read("modules.builtin"),
            builtin_modinfo: &read("modules.builtin.modinfo"),
            config: vec![ConfigFile {
                name: "test.conf",
                text: config,
            }],
            all_softdeps: false,
        });
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("test.conf"), config).unwrap();
        Self {
            root,
            release,
            config: folder,
            index,
        }
    }

    /// The lines of `modprobe --show-depends`, each once, without the folder of
    /// the modules; empty if there is no such module.
    fn theirs(&self, name: &str) -> Vec<String> {
        let output = Command::new("modprobe")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .arg("-d")
            .arg(&self.root)
            .arg("-C")
            .arg(self.config.path())
            .args(["-S", &self.release, "--show-depends", "--", name])
            .output()
            .expect("this test needs modprobe: apt-get install kmod");
        let folder = format!("{}/lib/modules/{}/", self.root.display(), self.release);
        let mut seen = BTreeSet::new();
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.replace(&folder, "").trim_end().to_owned())
            .filter(|line| seen.insert(line.clone()))
            .collect()
    }

    /// The same lines, as far as `iofs_kmod` has an answer. What is built in is
    /// never loaded and has no place in an order.
    fn ours(&self, name: &str) -> Result<Vec<String>, String> {
        let order = self.index.load_order(&[name]);
        let lines = order.map_err(|error| error.to_string())?;
        let line = |module: &iofs_kmod::Module| {
            let options = self.index.options(&module.name);
            format!("insmod {} {options}", module.path)
                .trim_end()
                .to_owned()
        };
        Ok(lines.into_iter().map(line).collect())
    }

    /// Why the two answers to a name differ, if they do.
    fn difference(&self, name: &str, in_order: bool) -> Option<String> {
        let theirs = self.theirs(name);
        let (builtin, mut loaded): (Vec<String>, Vec<String>) = theirs
            .iter()
            .cloned()
            .partition(|line| line.starts_with("builtin "));
        let unknown = builtin.iter().find(|line| {
            let name = line.trim_start_matches("builtin ");
            !self.index.is_builtin(name)
        });
        if let Some(line) = unknown {
            return Some(format!("{name}: {line}, which ours does not know"));
        }
        let commands = loaded.iter().any(|line| line.starts_with("install "));
        let mut ours = match self.ours(name) {
            // A command is refused by its file, whatever else there is to load.
            Err(error) if commands && error.contains("test.conf") => return None,
            // modprobe says nothing of what it does not know.
            Err(_) if theirs.is_empty() => return None,
            Err(error) => return Some(format!("{name}: ours: {error}, modprobe: {theirs:?}")),
            Ok(lines) => lines,
        };
        let resolved = self.index.resolve(name).into_iter();
        let blacklisted = resolved
            .filter_map(Resolved::module)
            .all(|module| self.index.is_blacklisted(&module.name));
        if ours.is_empty() && theirs.is_empty() && !blacklisted {
            return Some(format!("{name}: ours finds it, modprobe does not"));
        }
        if !in_order {
            ours.sort();
            loaded.sort();
        }
        (ours != loaded).then(|| format!("{name}: ours {ours:#?}, modprobe {loaded:#?}"))
    }

    /// Compares the answers to many names.
    fn compare(&self, names: &[String], in_order: bool) -> Result<(), Failed> {
        let half = names.len().div_ceil(2).max(1);
        let differences: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = names
                .chunks(half)
                .map(|names| {
                    scope.spawn(move || {
                        let differ = |name: &String| self.difference(name, in_order);
                        names.iter().filter_map(differ).collect::<Vec<_>>()
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.flatten().collect()
        });
        match differences.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of {} answers differ in {}; the first: {first}",
                differences.len(),
                names.len(),
                self.release
            )
            .into()),
        }
    }

    /// Every name of a module, loadable or built in.
    fn names(&self) -> Vec<String> {
        let builtin = self.root.join("usr/lib/modules").join(&self.release);
        let builtin = fs::read_to_string(builtin.join("modules.builtin")).unwrap();
        let modules = self.index.modules().iter().map(|m| m.name.clone());
        modules.chain(builtin.lines().map(module_name)).collect()
    }
}

/// Every module, by its name, in the order in which modprobe loads them.
fn modules(place: Place) -> Result<(), Failed> {
    let tree = Tree::new(place(), "");
    let names = tree.names();
    if names.len() < 3000 {
        return Err(format!("only {} modules", names.len()).into());
    }
    tree.compare(&names, true)
}

/// Every module once more, with everything that modprobe.d can say.
fn configured(place: Place) -> Result<(), Failed> {
    let tree = Tree::new(place(), CONFIG);
    let mut names = tree.names();
    let more = [
        "my-disk",
        "my_disk",
        "my-disk-1",
        "my-command",
        "no-such-module",
        "[",
    ];
    names.extend(more.map(String::from));
    tree.compare(&names, true)?;
    // The configuration is really in force.
    let virtio = tree.theirs("virtio_blk").concat();
    for word in ["queue_depth=64", "poll_queues=1"] {
        if !virtio.contains(word) {
            return Err(format!("modprobe gives no {word}: {virtio}").into());
        }
    }
    let sd = tree.ours("sd_mod")?.concat();
    match sd.contains("isofs") && !sd.contains("ntfs3") {
        true => Ok(()),
        false => Err(format!("sd_mod: {sd}").into()),
    }
}

/// What devices ask by: every seventeenth alias, with something in the place of
/// its wildcards. Several modules may answer, in an order that means nothing.
fn aliases(place: Place) -> Result<(), Failed> {
    let tree = Tree::new(place(), CONFIG);
    let filled = tree
        .index
        .aliases()
        .step_by(17)
        .map(|(alias, _)| fill(alias));
    let names: Vec<String> = filled.collect();
    if names.len() < 1000 {
        return Err(format!("only {} aliases", names.len()).into());
    }
    let found = |name: &&String| {
        let resolved = tree.index.resolve(name);
        resolved
            .into_iter()
            .filter_map(Resolved::module)
            .next()
            .is_some()
    };
    let answered = names.iter().filter(found).count();
    if answered * 10 < names.len() * 9 {
        return Err(format!("{answered} of {} aliases are found", names.len()).into());
    }
    tree.compare(&names, false)
}

/// The plan of a generic mini-initramfs: whatever device asks for a module gets
/// all that modprobe would load with it, each after what it needs, out of packs
/// that do not stand in each other's way.
fn generic_plan(place: Place) -> Result<(), Failed> {
    let tree = Tree::new(place(), "");
    let plan = generic(&tree)?.plan;
    let files: BTreeSet<&str> = plan.packs.iter().map(|pack| pack.file.as_str()).collect();
    if files.len() != plan.packs.len() || files.is_empty() {
        return Err(format!("packs share names: {:?}", plan.packs).into());
    }
    let modules = &plan.modules;
    // Names of what is loaded for each: itself and all that stands before.
    let mut closures: Vec<BTreeSet<&str>> = Vec::new();
    for module in modules {
        let mut closure = BTreeSet::from([module.name.as_str()]);
        for &need in &module.needs {
            closure.extend(&closures[usize::from(need)]);
        }
        closures.push(closure);
    }
    for (module, closure) in modules.iter().zip(&closures) {
        for line in tree.theirs(&module.name) {
            let Some(path) = line.strip_prefix("insmod ") else {
                continue;
            };
            let name = module_name(path.split(' ').next().unwrap());
            if !closure.contains(name.as_str()) {
                return Err(format!("{} comes without {name}", module.name).into());
            }
        }
    }
    // Every alias of a driver in it finds that driver.
    let drivers: BTreeSet<&str> = modules
        .iter()
        .filter(|module| module.role.name() == "bus")
        .map(|module| module.name.as_str())
        .collect();
    let aliases = tree.root.join("usr/lib/modules").join(&tree.release);
    let text = fs::read_to_string(aliases.join("modules.alias")).unwrap();
    let mut found = 0;
    for (pattern, module) in text.lines().filter_map(|line| {
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        Some((pattern, drivers.get(module)?))
    }) {
        if !["pci:", "usb:", "virtio:", "scsi:"]
            .iter()
            .any(|bus| pattern.starts_with(bus))
        {
            continue;
        }
        found += 1;
        let mut served = plan.modules_for(&fill(pattern));
        if !served.any(|number| modules[usize::from(number)].name == *module) {
            return Err(format!("{pattern} does not find {module}").into());
        }
    }
    match found > 1000 {
        true => Ok(()),
        false => Err(format!("only {found} aliases").into()),
    }
}

fn generic(tree: &Tree) -> Result<builder::BuiltMini, Failed> {
    let folder = tree.config.path();
    let init = folder.join("init");
    fs::write(&init, b"\x7fELF").unwrap();
    let kernel = builder::Kernel {
        release: tree.release.clone(),
        sysroot: tree.root.clone(),
        modules_dir: None,
    };
    let candidate = builder::Candidate {
        name: "esp".into(),
        partition: builder::Selector::PartLabel("ESP".into()),
        file: Some("/image".into()),
        expect: builder::Expect::default(),
    };
    let root = builder::RootHash::from_bytes(&[0; 32]).unwrap();
    let request = builder::MiniRequest {
        auth: builder::Auth::Sealed(root),
        candidates: vec![candidate],
        // As fast as it can be: what is looked at is the plan.
        compression: builder::Compression::ZstdLevel(1),
        ..builder::MiniRequest::new(folder.join("mini"), init, kernel)
    };
    builder::build_mini(&request, &builder::Silent).map_err(|e| e.to_string().into())
}

/// A name that a pattern matches: of brackets the first that is in them.
fn fill(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => out.push('0'),
            '?' => out.push('1'),
            '[' => {
                out.extend(rest.next());
                rest.by_ref().find(|c| *c == ']');
            }
            _ => out.push(c),
        }
    }
    out
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test has two threads of its own.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let tier = Tier::from_env();
    tier.explain();
    let kinds: [(&str, Check); 4] = [
        ("every_module", modules),
        ("every_module_as_configured", configured),
        ("aliases", aliases),
        ("generic_plan", generic_plan),
    ];
    let mut trials = Vec::new();
    for &(kernel, place) in KERNELS.iter().filter(|_| tier != Tier::Later) {
        for (kind, test) in kinds {
            let name = format!("{kernel}::{kind}");
            let trial = Trial::test(name, move || test(place));
            trials.push(trial.with_ignored_flag(tier.ignores()));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
