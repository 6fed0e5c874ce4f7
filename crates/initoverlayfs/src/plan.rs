//! `plan`: why each module is in a mini-initramfs, and what it costs.
//!
//! What is shown is read from a mini-initramfs, also where none was built yet:
//! then one is made aside, with a stand-in for storage-init.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use builder::{
    Auth, Candidate, Expect, Kernel, MiniRequest, ModuleSummary, RootHash, Selector, Uuid,
};
use iofs_plan::{BootPlan, Module, Role};
use serde::Serialize;

use crate::build;
use crate::cli::PlanArgs;
use crate::error::{CliError, Result};
use crate::inspect::{self, Mini};
use crate::ui;

/// What loading a module costs, in instructions, whatever its size: the check of
/// its signature (Debian 6.12).
const LOAD_INSTRUCTIONS: u64 = 45_000_000;

/// Instructions in a millisecond of the clock that counts them.
const INSTRUCTIONS_PER_MS: u64 = 1_000_000;

/// Everything that is shown. Sizes are bytes.
#[derive(Debug, Serialize)]
struct Report {
    kernel_release: String,
    aliases: usize,
    modules: Vec<Row>,
    packs: Vec<PackRow>,
    every_boot: Total,
    total: Total,
}

/// A module.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    role: &'static str,
    why: String,
    needed_by: Vec<String>,
    /// Its own, without those that they need.
    needs: Vec<String>,
    required: bool,
    /// What does the same better: it is loaded only where none of these can be.
    fallback_for: Vec<String>,
    pack: Option<String>,
    unpacked_bytes: u64,
    /// Its share of what it is compressed with.
    archive_bytes: u64,
    /// How many modules are loaded for it, itself included, besides those of every
    /// boot.
    loads: u64,
    /// The estimate of what that takes.
    load_ms: u64,
    #[serde(skip)]
    every_boot: bool,
}

#[derive(Debug, Serialize)]
struct PackRow {
    file: String,
    modules: usize,
    unpacked_bytes: u64,
    archive_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Total {
    modules: usize,
    unpacked_bytes: u64,
    archive_bytes: u64,
    load_ms: u64,
}

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let report = match &args.file {
        Some(path) => {
            let path = match path.is_dir() {
                true => path.join(build::MINI),
                false => path.clone(),
            };
            report(&read(&path)?, &[])
        }
        None => planned(args)?,
    };
    if args.json {
        return ui::print_json(&report);
    }
    print(&report);
    Ok(())
}

fn read(path: &Path) -> Result<Mini> {
    inspect::mini_in(path)?.ok_or_else(|| {
        CliError::new(format!("{} holds no boot plan", path.display()))
            .hint("name a mini-initramfs, a UKI or the folder of a built set")
    })
}

/// What a build would make: sealed, in a file on the ESP, as by default.
fn planned(args: &PlanArgs) -> Result<Report> {
    let dir = tempfile::tempdir()
        .map_err(|e| CliError::io("make a folder in", &std::env::temp_dir(), e))?;
    let init = dir.path().join("init");
    fs::write(&init, b"\x7fELF").map_err(|e| CliError::io("write", &init, e))?;
    let request = request(args, dir.path().join(build::MINI), init)?;
    let bars = ui::Bars::default();
    let built = builder::build_mini(&request, &bars);
    bars.end();
    let built = built?;
    Ok(report(&read(&request.output)?, &built.summary.modules))
}

fn request(args: &PlanArgs, output: PathBuf, init: PathBuf) -> Result<MiniRequest> {
    let release = match &args.kernel {
        Some(release) => release.clone(),
        None => builder::kernel_release(&args.root)?,
    };
    let kernel = Kernel {
        release,
        sysroot: args.root.clone(),
        modules_dir: None,
    };
    let root = RootHash::from_bytes(&[0; 32]).map_err(|e| CliError::new(e.to_string()))?;
    Ok(MiniRequest {
        modules: build::modules(&args.modules)?,
        auth: Auth::Sealed(root),
        candidates: vec![Candidate {
            name: "esp".into(),
            partition: Selector::TypeGuid(Uuid::nil()),
            file: Some("/image".into()),
            expect: Expect {
                size: 1,
                ..Expect::default()
            },
        }],
        ..MiniRequest::new(output, init, kernel)
    })
}

/// The report on a mini-initramfs. `known` has the builder's own reasons, which a
/// plan does not keep.
fn report(mini: &Mini, known: &[ModuleSummary]) -> Report {
    let plan = &mini.plan;
    let at_once = at_once(plan);
    let reasons: BTreeMap<&str, &str> = known
        .iter()
        .map(|module| (module.name.as_str(), module.reason.as_str()))
        .collect();
    let plain: BTreeMap<&str, u64> = mini
        .modules
        .iter()
        .map(|(file, size)| (file.as_str(), *size))
        .collect();
    let packed: BTreeMap<&str, u64> = mini
        .packs
        .iter()
        .map(|(file, size)| (file.as_str(), *size))
        .collect();
    let users = users(plan);
    let mut rows = Vec::new();
    for (number, module) in plan.modules.iter().enumerate() {
        let users = users.get(number).cloned().unwrap_or_default();
        let every_boot = at_once.get(number).copied().unwrap_or(false);
        let pack = module
            .packed
            .and_then(|packed| plan.packs.get(usize::from(packed.pack)));
        let (unpacked_bytes, archive_bytes) = match (module.packed, pack) {
            (Some(place), Some(pack)) => {
                let file = packed.get(pack.file.as_str()).copied().unwrap_or(0);
                let len = u64::from(place.len);
                (len, share(len, file, pack.size.into()))
            }
            _ => {
                let len = plain.get(module.file.as_str()).copied().unwrap_or(0);
                (len, share(len, mini.base.0, mini.base.1))
            }
        };
        let loads = loads(plan, number, &at_once);
        rows.push(Row {
            name: module.name.clone(),
            role: module.role.name(),
            why: match reasons.get(module.name.as_str()) {
                Some(reason) => (*reason).to_owned(),
                None => why(module, &users),
            },
            needed_by: users,
            needs: names(plan, &module.needs),
            required: module.required,
            fallback_for: names(plan, &module.fallback_for),
            pack: pack.map(|pack| pack.file.clone()),
            unpacked_bytes,
            archive_bytes,
            loads,
            load_ms: loads * LOAD_INSTRUCTIONS / INSTRUCTIONS_PER_MS,
            every_boot,
        });
    }
    Report {
        kernel_release: plan.kernel_release.clone(),
        aliases: plan.aliases.len(),
        packs: packs(plan, &packed),
        every_boot: total(rows.iter().filter(|row| row.every_boot)),
        total: total(rows.iter()),
        modules: rows,
    }
}

fn packs(plan: &BootPlan, files: &BTreeMap<&str, u64>) -> Vec<PackRow> {
    let inside = |number: usize| {
        let places = plan.modules.iter().filter_map(|module| module.packed);
        places
            .filter(|place| usize::from(place.pack) == number)
            .count()
    };
    plan.packs
        .iter()
        .enumerate()
        .map(|(number, pack)| PackRow {
            file: pack.file.clone(),
            modules: inside(number),
            unpacked_bytes: pack.size.into(),
            archive_bytes: files.get(pack.file.as_str()).copied().unwrap_or(0),
        })
        .collect()
}

/// The part of `whole` that `part` of `of` has.
fn share(part: u64, whole: u64, of: u64) -> u64 {
    let share = u128::from(part) * u128::from(whole) / u128::from(of.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Which modules a boot loads without a device that asks for them, where the
/// image is a file.
fn at_once(plan: &BootPlan) -> Vec<bool> {
    let roles = [Role::Disk, Role::Image, Role::Mapping];
    let mut marks: Vec<bool> = plan
        .modules
        .iter()
        .map(|module| roles.contains(&module.role))
        .collect();
    // Backwards: a module stands after those that it needs.
    for (number, module) in plan.modules.iter().enumerate().rev() {
        if marks.get(number) == Some(&true) {
            for &need in &module.needs {
                if let Some(mark) = marks.get_mut(usize::from(need)) {
                    *mark = true;
                }
            }
        }
    }
    marks
}

/// How many modules are loaded for one, besides those of every boot.
fn loads(plan: &BootPlan, number: usize, at_once: &[bool]) -> u64 {
    if at_once.get(number) == Some(&true) {
        return 1;
    }
    let mut wanted = vec![false; number + 1];
    if let Some(own) = wanted.get_mut(number) {
        *own = true;
    }
    let mut count = 0;
    for current in (0..=number).rev() {
        if wanted.get(current) != Some(&true) || at_once.get(current) == Some(&true) {
            continue;
        }
        count += 1;
        let needs = plan.modules.get(current).map(|module| &module.needs);
        for &need in needs.into_iter().flatten() {
            if let Some(slot) = wanted.get_mut(usize::from(need)) {
                *slot = true;
            }
        }
    }
    count
}

/// The names of the modules that need each.
fn users(plan: &BootPlan) -> Vec<Vec<String>> {
    let mut users = vec![Vec::new(); plan.modules.len()];
    for module in &plan.modules {
        for &need in &module.needs {
            if let Some(list) = users.get_mut(usize::from(need)) {
                list.push(module.name.clone());
            }
        }
    }
    users
}

fn names(plan: &BootPlan, numbers: &[u16]) -> Vec<String> {
    numbers
        .iter()
        .filter_map(|&number| plan.modules.get(usize::from(number)))
        .map(|module| module.name.clone())
        .collect()
}

fn why(module: &Module, users: &[String]) -> String {
    match (module.role, users.first()) {
        (Role::Disk, _) => "drives the boot disk".into(),
        (Role::Image, _) => "mounts or proves the image".into(),
        (Role::Mapping, _) => "makes a device of a file".into(),
        (Role::Bus, _) => "drives storage".into(),
        (Role::Dependency, Some(user)) if module.required => format!("needed by {user}"),
        (Role::Dependency, Some(user)) => format!("wanted by {user}"),
        (Role::Dependency, None) => "wanted beside another module".into(),
    }
}

fn total<'r>(rows: impl Iterator<Item = &'r Row>) -> Total {
    rows.fold(Total::default(), |total, row| Total {
        modules: total.modules + 1,
        unpacked_bytes: total.unpacked_bytes + row.unpacked_bytes,
        archive_bytes: total.archive_bytes + row.archive_bytes,
        load_ms: total.load_ms + LOAD_INSTRUCTIONS / INSTRUCTIONS_PER_MS,
    })
}

fn print(report: &Report) {
    let rows: Vec<Vec<String>> = report
        .modules
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                ui::size(row.unpacked_bytes),
                ui::size(row.archive_bytes),
                format!("{} ms", row.load_ms),
                row.role.to_owned(),
                row.pack.clone().unwrap_or_else(|| "-".into()),
                because(row),
            ]
        })
        .collect();
    let head = [
        "module",
        "unpacked",
        "in archive",
        "to load",
        "role",
        "pack",
        "why",
    ];
    ui::table(&head, &rows);
    anstream::println!();
    let line = |name: &str, modules: usize, unpacked: u64, archive: u64, ms: Option<u64>| {
        vec![
            name.to_owned(),
            modules.to_string(),
            ui::size(unpacked),
            ui::size(archive),
            ms.map_or_else(String::new, |ms| format!("{ms} ms to load")),
        ]
    };
    let sum = |name: &str, total: &Total, ms: Option<u64>| {
        line(
            name,
            total.modules,
            total.unpacked_bytes,
            total.archive_bytes,
            ms,
        )
    };
    let mut rows = vec![sum(
        "every boot",
        &report.every_boot,
        Some(report.every_boot.load_ms),
    )];
    rows.extend(report.packs.iter().map(|pack| {
        line(
            &format!("pack {}", pack.file),
            pack.modules,
            pack.unpacked_bytes,
            pack.archive_bytes,
            None,
        )
    }));
    rows.push(sum("in all", &report.total, None));
    ui::table(&["", "modules", "unpacked", "in archive", ""], &rows);
    anstream::println!(
        "Kernel {}, {} aliases. Times to load are estimates: {} million instructions a module.",
        report.kernel_release,
        report.aliases,
        LOAD_INSTRUCTIONS / 1_000_000
    );
}

/// Why it is in, and how many others need it.
fn because(row: &Row) -> String {
    let more = row.needed_by.len().saturating_sub(1);
    match row.role {
        "dependency" if more > 0 => format!("{} and {more} more", row.why),
        _ => row.why.clone(),
    }
}
