//! Which modules the mini-initramfs holds, and in which order they load.

use super::catalogue::{self, COMPANIONS};
use super::host;
use super::index::KernelModules;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{HostDisks, MiniRequest, Modules};
use iofs_kmod::{Index, Module, OrderError, Resolved, blocks};
use iofs_plan::{Auth, Candidate, Role, Selector};
use std::collections::{BTreeMap, BTreeSet};

/// What every boot needs.
const IMAGE: [&str; 2] = ["erofs", "overlay"];

/// What an image that is a file on a partition needs.
const MAPPING: [&str; 2] = ["loop", "dm-mod"];

/// What makes a device of memory that the kernel command line sets apart
/// (`memmap=nn!ss`); PID 1 loads it at once, as no device asks for it early enough.
const MEMORY: [&str; 2] = ["nd-e820", "nd-pmem"];

/// What reads the firmware's variables; PID 1 loads it by its name.
const VARIABLES: &str = "efivarfs";

/// What proves the image, and by what it hashes.
const VERITY: &str = "dm-verity";
const HASH: &str = "sha256";

/// How an alias begins that asks for features of the CPU (include/linux/cpufeature.h).
const CPU: &str = "cpu:type:";

/// Modules by request: the name as it is looked up, when it loads, and why.
#[derive(Debug, Clone)]
struct Root {
    name: String,
    role: Role,
    reason: String,
}

/// A module that was chosen, in load order.
#[derive(Debug)]
pub(crate) struct Chosen<'i> {
    pub(crate) module: &'i Module,
    pub(crate) role: Role,
    pub(crate) reason: String,
    /// False if it is only wanted softly: what wants it loads without it.
    pub(crate) required: bool,
    /// Indices of what must be loaded before; each is less than its own.
    pub(crate) needs: Vec<u16>,
    /// Indices of what does the same better; each is less than its own.
    pub(crate) fallback_for: Vec<u16>,
}

/// Chooses; `warnings` is told what was left out and why.
pub(crate) fn select<'i>(
    kernel: &'i KernelModules,
    request: &MiniRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<Chosen<'i>>> {
    let index = &kernel.index;
    let wanted = &request.modules;
    let mut roots = match wanted {
        Modules::None => return Ok(Vec::new()),
        Modules::Builtin => {
            check_builtins(kernel, request, warnings)?;
            return Ok(Vec::new());
        }
        Modules::Drivers(names) => drivers(index, names)?,
        // Nothing is read from a disk.
        Modules::Host(_) | Modules::Generic if in_memory(request) => Vec::new(),
        Modules::Host(disks) => host_drivers(index, disks, warnings)?,
        Modules::Generic => Vec::new(),
    };
    roots.extend(image(kernel, request));
    if matches!(wanted, Modules::Generic) && !in_memory(request) {
        roots.extend(generic(kernel, warnings)?);
    }
    let order = order(kernel, &mut roots)?;
    for module in &order {
        let lines = index.remove_lines(&module.name);
        warnings.extend(lines.map(|(file, line)| {
            format!(
                "{file} line {line} has a command for the removal of {}, which early boot never \
                 removes: it is not run",
                module.name
            )
        }));
    }
    arrange(kernel, &roots, order)
}

/// What finds, proves and mounts the image on a disk that is there.
fn image(kernel: &KernelModules, request: &MiniRequest) -> Vec<Root> {
    let index = &kernel.index;
    let root = |name: &str, role, reason: &str| Root {
        name: name.to_owned(),
        role,
        reason: reason.to_owned(),
    };
    let mut roots = IMAGE
        .map(|name| root(name, Role::Image, "mounts the image"))
        .to_vec();
    if request.auth != Auth::None || request.extensions.is_some() {
        roots.extend(verity(kernel));
    }
    if needs_mapping(request) {
        roots.extend(MAPPING.map(|name| root(name, Role::Mapping, "makes a device of a file")));
    }
    if needs_pmem(request) {
        roots.extend(
            MEMORY.map(|name| root(name, Role::Disk, "makes a device of memory set apart")),
        );
    }
    for name in &request.kernel_mounts {
        roots.push(root(name, Role::Mapping, "reads the boot partition"));
    }
    for name in request.direct.iter().flat_map(|direct| &direct.kinds) {
        roots.push(root(name, Role::Mapping, "mounts the root"));
    }
    // Of several partitions of a type, that which the firmware booted from.
    let by_type = |candidate: &Candidate| matches!(candidate.partition, Selector::TypeGuid(_));
    if request.candidates.iter().any(by_type) && index.module(VARIABLES).is_some() {
        roots.push(root(
            VARIABLES,
            Role::Dependency,
            "tells which partition the firmware booted from",
        ));
    }
    roots
}

/// Whether some candidate is a file, or extensions may come, which are.
fn needs_mapping(request: &MiniRequest) -> bool {
    let mut candidates = request.candidates.iter();
    request.extensions.is_some()
        || candidates
            .any(|candidate| candidate.file.is_some() || candidate.partition == Selector::Embedded)
}

/// Whether some candidate is memory that the loader fills.
fn needs_pmem(request: &MiniRequest) -> bool {
    let mut candidates = request.candidates.iter();
    candidates.any(|candidate| matches!(candidate.partition, Selector::Pmem { .. }))
}

/// Whether no boot reads from a disk.
fn in_memory(request: &MiniRequest) -> bool {
    let memory = |candidate: &Candidate| {
        matches!(
            candidate.partition,
            Selector::Pmem { .. } | Selector::Embedded
        )
    };
    request.direct.is_none() && request.candidates.iter().all(memory)
}

/// The load order of the roots and all that they need; what is of use to these
/// becomes a root too.
fn order<'i>(kernel: &'i KernelModules, roots: &mut Vec<Root>) -> Result<Vec<&'i Module>> {
    let index = &kernel.index;
    let names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
    let order = index.load_order(&names).map_err(not_loadable)?;
    let weak = weak(index, &order);
    // First, so that they stand before what they are of use to, and what does
    // something better before what does it too.
    let of_use = weak.iter().map(|root| root.name.as_str());
    let late = order.iter().enumerate().flat_map(|(at, module)| {
        let rest = order.get(at..).unwrap_or_default();
        let stands_behind = |better: &&Module| rest.iter().any(|other| other.name == better.name);
        better(kernel, module).into_iter().filter(stands_behind)
    });
    let first: Vec<&str> = of_use
        .chain(late.map(|module| module.name.as_str()))
        .collect();
    if first.is_empty() {
        return Ok(order);
    }
    let names: Vec<&str> = first.into_iter().chain(names).collect();
    let order = index.load_order(&names).map_err(not_loadable)?;
    roots.extend(weak);
    Ok(order)
}

/// What takes the CPU's own instructions for the algorithm that `module` has the
/// generic code of. The kernel's crypto API prefers it wherever it is loaded. Only
/// what the architecture itself brings: that needs no other code of the same
/// algorithm to fall back on, as drivers of crypto hardware do.
fn better<'i>(kernel: &'i KernelModules, module: &Module) -> Vec<&'i Module> {
    let own = |alias: &&(String, String)| alias.1 == module.name;
    let generic = kernel.aliases.iter().filter(own).find_map(|(pattern, _)| {
        let algorithm = pattern.strip_prefix("crypto-")?;
        algorithm.strip_suffix("-generic")
    });
    let Some(algorithm) = generic else {
        return Vec::new();
    };
    let resolved = kernel.index.resolve(&format!("crypto-{algorithm}"));
    let modules = resolved.into_iter().filter_map(Resolved::module);
    let by_cpu = by_cpu(kernel);
    modules
        .filter(|better| better.name != module.name && by_cpu.contains(better.name.as_str()))
        .filter(|better| better.path.contains("/arch/"))
        .collect()
}

/// The modules that ask for features of the CPU.
fn by_cpu(kernel: &KernelModules) -> BTreeSet<&str> {
    let aliases = kernel.aliases.iter();
    aliases
        .filter(|(pattern, _)| pattern.starts_with(CPU))
        .map(|(_, module)| module.as_str())
        .collect()
}

/// What is of use to modules without being needed. The kernel asks for it while
/// it loads the module, and PID 1 answers no such request.
fn weak(index: &Index, order: &[&Module]) -> Vec<Root> {
    let chosen: BTreeSet<&str> = order.iter().map(|module| module.name.as_str()).collect();
    let mut roots: Vec<Root> = Vec::new();
    for module in order {
        for weak in weak_of(index, module) {
            let known = chosen.contains(weak.name.as_str())
                || roots.iter().any(|root| root.name == weak.name);
            if !known && index.load_order(&[&weak.name]).is_ok() {
                roots.push(Root {
                    name: weak.name.clone(),
                    role: Role::Dependency,
                    reason: format!("of use to {}", module.name),
                });
            }
        }
    }
    roots
}

/// dm-verity, a SHA-256 if the kernel has none of its own, and those that take the
/// CPU's own instructions for it, which dm-verity prefers if they are there before
/// it: PID 1 answers no request of the kernel's for modules. On a CPU without these
/// they say ENODEV.
fn verity(kernel: &KernelModules) -> Vec<Root> {
    let index = &kernel.index;
    let root = |name: &str, reason: &str| Root {
        name: name.to_owned(),
        role: Role::Image,
        reason: reason.to_owned(),
    };
    let mut roots = vec![root(VERITY, "proves the image")];
    let hashes = index.resolve(HASH);
    let inside = |hash: &Resolved<'_>| matches!(hash, Resolved::Builtin(_));
    let generic = ["sha256_generic", "sha256"];
    if !hashes.iter().any(inside) && !generic.iter().any(|name| index.is_builtin(name)) {
        let loadable = generic.iter().find(|name| index.module(name).is_some());
        roots.extend(loadable.map(|name| root(name, "hashes for dm-verity")));
    }
    let by_cpu = by_cpu(kernel);
    let faster = hashes
        .iter()
        .filter_map(|hash| hash.module())
        .filter(|module| by_cpu.contains(module.name.as_str()))
        .filter(|module| !index.is_blacklisted(&module.name));
    roots.extend(faster.map(|module| root(&module.name, "hashes faster for dm-verity")));
    roots
}

fn not_loadable(source: OrderError) -> Error {
    let error = Error::new(
        ErrorKind::Modules,
        "the modules that a boot needs cannot be loaded",
    );
    let error = match &source {
        OrderError::NotFound { name } if name == VERITY => error.hint(
            "This kernel has no dm-verity, without which no image can be proven; \
             install the package with its further modules.",
        ),
        OrderError::NotFound { name } if MEMORY.contains(&name.as_str()) => error.hint(
            "This kernel makes no device of memory (CONFIG_X86_PMEM_LEGACY, CONFIG_BLK_DEV_PMEM); \
             put the image on a disk, or into the mini-initramfs (embedded).",
        ),
        OrderError::NotFound { name } if IMAGE.contains(&name.as_str()) => error.hint(format!(
            "This kernel has no {name}; install the package with its further modules."
        )),
        OrderError::NotFound { .. } => {
            error.hint("Check the name; modules that are built in need not be named.")
        }
        _ => error,
    };
    error.source(source)
}

/// Modules that the user names, and what finds the disks behind them.
fn drivers(index: &Index, names: &[String]) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    for name in names {
        roots.push(Root {
            name: name.clone(),
            role: Role::Disk,
            reason: "named by the user".to_owned(),
        });
        let resolved = index.resolve(name);
        for module in resolved.into_iter().filter_map(Resolved::module) {
            roots.extend(companions(index, module, Role::Disk));
        }
    }
    Ok(roots)
}

/// The modules that drive the devices between the disks and the machine.
fn host_drivers(index: &Index, disks: &HostDisks, warnings: &mut Vec<String>) -> Result<Vec<Root>> {
    let links = host::chain(&disks.sysfs, &disks.devices)?;
    let mut roots: Vec<Root> = Vec::new();
    for link in &links {
        let by_driver = link.module.as_deref().and_then(|name| index.module(name));
        let by_alias = link.modalias.iter().flat_map(|alias| index.resolve(alias));
        // An alias may also find what only watches the bus: take from those what
        // drives storage.
        let by_alias = by_alias
            .filter_map(Resolved::module)
            .filter(|module| drives_storage(module) && !index.is_blacklisted(&module.name));
        for module in by_driver.into_iter().chain(by_alias) {
            if roots.iter().any(|root| root.name == module.name) {
                continue;
            }
            roots.push(Root {
                name: module.name.clone(),
                role: Role::Disk,
                reason: format!("drives {}", link.device.display()),
            });
        }
    }
    if links.is_empty() {
        warnings.push(format!(
            "{} shows nothing that {} hang on; the mini-initramfs has no disk driver",
            disks.sysfs.display(),
            disks.devices.join(", ")
        ));
    }
    Ok(roots)
}

/// Every module that drives storage and that devices can ask for, except those
/// that modprobe.d keeps away.
fn generic(kernel: &KernelModules, warnings: &mut Vec<String>) -> Result<Vec<Root>> {
    let index = &kernel.index;
    let asked_for: BTreeSet<&str> = kernel
        .aliases
        .iter()
        .filter(|(pattern, _)| catalogue::storage_alias(pattern))
        .map(|(_, module)| module.as_str())
        .collect();
    let mut roots = Vec::new();
    for module in index.modules() {
        // A library that no driver needs is of no use.
        if !drives_storage(module) || !asked_for.contains(module.name.as_str()) {
            continue;
        }
        if index.is_blacklisted(&module.name) {
            warnings.push(format!("{} is left out: it is blacklisted", module.name));
            continue;
        }
        if let Err(error) = index.load_order(&[&module.name]) {
            // What another command is for cannot be done here, nor guessed.
            if matches!(&error, OrderError::InstallCommand { command, .. } if !blocks(command)) {
                return Err(not_loadable(error));
            }
            warnings.push(format!("{} is left out: {error}", module.name));
            continue;
        }
        roots.push(Root {
            name: module.name.clone(),
            role: Role::Bus,
            reason: "drives storage".to_owned(),
        });
    }
    Ok(roots)
}

/// What must be part of a kernel for which no module is taken along, and is not.
fn missing_builtins<'r>(index: &Index, request: &'r MiniRequest) -> Vec<&'r str> {
    let mut needed = IMAGE.to_vec();
    needed.extend(request.kernel_mounts.iter().map(String::as_str));
    if request.auth != Auth::None || request.extensions.is_some() {
        needed.push(VERITY);
    }
    if needs_mapping(request) {
        needed.extend(MAPPING);
    }
    if needs_pmem(request) {
        needed.extend(MEMORY);
    }
    needed.retain(|name| !index.is_builtin(name));
    needed
}

/// Refuses a kernel that has not all built in.
fn check_builtins(
    kernel: &KernelModules,
    request: &MiniRequest,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let missing = missing_builtins(&kernel.index, request);
    if !missing.is_empty() {
        return Err(Error::new(
            ErrorKind::Modules,
            format!("not built into this kernel: {}", missing.join(", ")),
        )
        .hint("Take its modules along, or build them into the kernel."));
    }
    let drives = |path: &String| {
        let path = path.find("drivers/").and_then(|at| path.get(at..));
        path.is_some_and(|path| catalogue::drives_storage(path, &iofs_kmod::module_name(path)))
    };
    if !in_memory(request) && !kernel.builtins.iter().any(drives) {
        warnings.push("this kernel has no storage driver built in that is known".to_owned());
    }
    Ok(())
}

/// A module's path under `kernel/`, whatever its folder is called otherwise
/// (`updates/`, `extra/` keep the source's folders below or none).
pub(crate) fn drives_storage(module: &Module) -> bool {
    let path = match module.path.find("drivers/") {
        Some(at) => module.path.get(at..).unwrap_or(""),
        None => return false,
    };
    catalogue::drives_storage(path, &module.name)
}

fn companions(index: &Index, module: &Module, role: Role) -> Vec<Root> {
    let Some(at) = module.path.find("drivers/") else {
        return Vec::new();
    };
    let path = module.path.get(at..).unwrap_or("");
    COMPANIONS
        .iter()
        .filter(|(folder, _)| path.starts_with(folder))
        .flat_map(|(_, names)| *names)
        .filter(|name| index.module(name).is_some())
        .map(|name| Root {
            name: (*name).to_owned(),
            role,
            reason: format!("finds the disks of {}", module.name),
        })
        .collect()
}

/// Turns requests and the load order into what the plan says of each module.
fn arrange<'i>(
    kernel: &'i KernelModules,
    roots: &[Root],
    order: Vec<&'i Module>,
) -> Result<Vec<Chosen<'i>>> {
    let index = &kernel.index;
    let mut at: BTreeMap<&str, u16> = BTreeMap::new();
    for (number, module) in order.iter().enumerate() {
        let number = u16::try_from(number).map_err(|_| {
            Error::new(
                ErrorKind::Limit,
                "more modules than a boot plan can hold (65536)",
            )
        })?;
        at.insert(&module.name, number);
    }
    let mut chosen: Vec<Chosen<'i>> = Vec::with_capacity(order.len());
    // What each module needs, directly or not.
    let mut closures: Vec<BTreeSet<u16>> = Vec::with_capacity(order.len());
    for (number, &module) in order.iter().enumerate() {
        let before = |name: &str| at.get(name).copied().filter(|&n| usize::from(n) < number);
        let all: BTreeSet<u16> = module
            .needs
            .iter()
            .filter_map(|name| before(name))
            .chain(
                index
                    .soft_pre(module)
                    .iter()
                    .filter_map(|soft| before(&soft.name)),
            )
            .chain(weak_of(index, module).filter_map(|weak| before(&weak.name)))
            .collect();
        // modules.dep lists dependencies of dependencies; one edge is enough.
        let reached = |need: u16| {
            all.iter().any(|&other| {
                closures
                    .get(usize::from(other))
                    .is_some_and(|closure| closure.contains(&need))
            })
        };
        let needs: Vec<u16> = all.iter().copied().filter(|&need| !reached(need)).collect();
        let mut closure = all.clone();
        for &need in &all {
            closure.extend(closures.get(usize::from(need)).into_iter().flatten());
        }
        closures.push(closure);
        chosen.push(Chosen {
            module,
            role: Role::Dependency,
            reason: String::new(),
            required: false,
            needs,
            fallback_for: Vec::new(),
        });
    }
    assign(index, roots, &at, &mut chosen);
    explain(index, &at, &mut chosen);
    fall_back(kernel, &at, &mut chosen);
    Ok(chosen)
}

/// What is of use to a module, where it can be loaded.
fn weak_of<'i>(index: &'i Index, module: &'i Module) -> impl Iterator<Item = &'i Module> {
    let weak = index.weakdeps(module).flat_map(|name| index.resolve(name));
    weak.filter_map(Resolved::module)
}

/// Gives each module the role of the first request that means it.
fn assign(index: &Index, roots: &[Root], at: &BTreeMap<&str, u16>, chosen: &mut [Chosen<'_>]) {
    for root in roots {
        for module in index
            .resolve(&root.name)
            .into_iter()
            .filter_map(Resolved::module)
        {
            let slot = at
                .get(module.name.as_str())
                .and_then(|&n| chosen.get_mut(usize::from(n)));
            if let Some(slot) = slot.filter(|slot| slot.role == Role::Dependency) {
                slot.role = root.role;
                slot.reason.clone_from(&root.reason);
                // Nothing fails for want of what is only of use.
                slot.required = root.role != Role::Dependency;
            }
        }
    }
}

/// Marks what others need (and not only want) as required, and says of each
/// dependency whose it is.
fn explain(index: &Index, at: &BTreeMap<&str, u16>, chosen: &mut [Chosen<'_>]) {
    // Backwards: a module stands after those that it needs.
    for number in (0..chosen.len()).rev() {
        let (before, rest) = chosen.split_at_mut(number);
        let Some(user) = rest.first() else {
            continue;
        };
        let hard = user.module.needs.iter().map(|name| (name.as_str(), true));
        let soft = index.soft_pre(user.module);
        let soft = soft.iter().map(|module| (module.name.as_str(), false));
        for (name, is_hard) in hard.chain(soft) {
            let slot = at.get(name).and_then(|&n| before.get_mut(usize::from(n)));
            let Some(slot) = slot else {
                continue;
            };
            slot.required |= is_hard;
            if slot.role == Role::Dependency {
                let verb = if is_hard { "needed" } else { "wanted" };
                slot.reason = format!("{verb} by {}", user.module.name);
            }
        }
    }
    for slot in chosen.iter_mut().filter(|slot| slot.reason.is_empty()) {
        "wanted beside another module".clone_into(&mut slot.reason);
    }
}

/// Marks what is only wanted, and only where nothing better is.
fn fall_back(kernel: &KernelModules, at: &BTreeMap<&str, u16>, chosen: &mut [Chosen<'_>]) {
    for (number, slot) in (0..=u16::MAX).zip(chosen) {
        if slot.required || slot.role != Role::Dependency {
            continue;
        }
        let better = better(kernel, slot.module);
        let mut names: Vec<&str> = Vec::new();
        for name in better.iter().map(|better| better.name.as_str()) {
            let before = at.get(name).copied().filter(|&better| better < number);
            if let Some(better) = before {
                slot.fallback_for.push(better);
                names.push(name);
            }
        }
        if !names.is_empty() {
            let cannot = format!(" where {} cannot be loaded", names.join(" or "));
            slot.reason.push_str(&cannot);
        }
    }
}
