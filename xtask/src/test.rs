//! `cargo xtask test`: everything that CI runs.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::counts::Counts;
use crate::debian;
use crate::step::{self, Finished, cargo};
use vmtest::dist::DIST_ENV;
use vmtest::tier::ENABLE_ENV;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run the slow tests too.
    #[arg(long)]
    all: bool,
    /// Run only the steps whose name contains this; if there is none, only the
    /// tests whose name does.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
}

type Work = fn(&Args, Option<&str>, &Path) -> Result<Finished, Box<dyn Error>>;

struct Step {
    name: &'static str,
    /// Whether it runs tests, which can be filtered and are counted.
    tests: bool,
    work: Work,
}

const STEPS: &[Step] = &[
    step("packages", false, |_, _, log| {
        vmtest::packages::ensure(log, &mut |_| {})?;
        Ok(done("everything is installed"))
    }),
    step("rustfmt", false, |_, _, log| {
        execute(cargo(&["fmt", "--all", "--check"]), log)
    }),
    step("clippy", false, |_, _, log| {
        execute(
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ]),
            log,
        )
    }),
    step("clippy of the freestanding programs", false, |_, _, log| {
        execute(
            cargo(&[
                "clippy",
                "--package",
                "storage-init",
                "--package",
                "iofs-mark",
                "--package",
                "iofs-minimal",
                "--package",
                "iofs-replay",
                "--package",
                "iofs-testinit",
                "--package",
                "iofs-ticks",
                "--features",
                "freestanding",
                "--profile",
                "pid1",
                "--",
                "--deny",
                "warnings",
            ]),
            log,
        )
    }),
    step("Debian 13 guest", false, |_, _, _| {
        let guest = vmtest::guest::Guest::ensure(&mut |_| {})?;
        Ok(done(guest.kernel_release()))
    }),
    step(
        "unit, oracle and fuzz smoke tests",
        true,
        |_, filter, log| unit_tests(filter, log),
    ),
    step("release programs", false, |_, _, log| {
        vmtest::dist::build(log)?;
        Ok(done("target/dist"))
    }),
    step("build with Debian 13's Rust", false, |_, _, log| {
        debian::build(log)
    }),
    step(
        "modprobe's answers for every kernel",
        true,
        |args, filter, log| machine_tests("kmod", args, filter, log),
    ),
    step("user-mode-linux tests", true, |args, filter, log| {
        machine_tests("uml", args, filter, log)
    }),
    step("QEMU tests", true, |args, filter, log| {
        machine_tests("qemu", args, filter, log)
    }),
];

const fn step(name: &'static str, tests: bool, work: Work) -> Step {
    Step { name, tests, work }
}

/// Longer than any step takes; the whole run is bounded by its caller.
const LIMIT: Duration = Duration::from_secs(2700);

fn execute(command: Command, log: &Path) -> Result<Finished, Box<dyn Error>> {
    Ok(step::run(command, log, LIMIT)?)
}

fn done(what: &str) -> Finished {
    Finished {
        success: true,
        output: what.to_owned(),
    }
}

/// The tests that start no virtual machine. Those against a real distribution
/// find it in the variables that they name: a kernel's modules, what its
/// generators made, a tree to run the generators in, and one with systemd's tools.
fn unit_tests(filter: Option<&str>, log: &Path) -> Result<Finished, Box<dyn Error>> {
    let guest = vmtest::guest::Guest::ensure(&mut |_| {})?;
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(guest.tree()).arg(&root);
    let copied = step::run(copy, log, LIMIT)?;
    if !copied.success {
        return Ok(copied);
    }
    let uki_root = scratch.path().join("uki-root");
    let copied = copy_uki_root(&guest, &uki_root, log)?;
    if !copied.success {
        return Ok(copied);
    }
    let initrds = std::env::join_paths([guest.dracut_initrd(), guest.initramfs_tools_initrd()])?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command
        .args(filter)
        .env("IOFS_TEST_MODULES_ROOT", guest.tree())
        .env("IOFS_TEST_INITRDS", initrds)
        .env("IOFS_TEST_GENERATOR_ROOT", &root)
        .env("IOFS_TEST_UKI_ROOT", &uki_root)
        .env(ENABLE_ENV, "later");
    execute(command, log)
}

/// Makes the tree that the tests of UKIs look into: systemd's tools, and of the
/// guest's kernel what tells its release.
fn copy_uki_root(
    guest: &vmtest::guest::Guest,
    to: &Path,
    log: &Path,
) -> Result<Finished, Box<dyn Error>> {
    let tools = vmtest::tools::Tools::ensure(&mut |_| {})?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(tools.tree()).arg(to);
    let copied = step::run(copy, log, LIMIT)?;
    let modules = to.join("usr/lib/modules").join(guest.kernel_release());
    std::fs::create_dir_all(&modules)?;
    std::fs::copy(guest.kernel(), modules.join("vmlinuz"))?;
    std::fs::copy(
        guest.modules().join("modules.dep"),
        modules.join("modules.dep"),
    )?;
    Ok(copied)
}

fn machine_tests(
    tier: &str,
    args: &Args,
    filter: Option<&str>,
    log: &Path,
) -> Result<Finished, Box<dyn Error>> {
    // Built already, unless only this step runs.
    let programs = vmtest::dist::build(log)?;
    let mut command = cargo(&["test", "--package", "vmtest", "--test", tier]);
    command
        .args(filter)
        .env(DIST_ENV, programs)
        .env(ENABLE_ENV, if args.all { "all" } else { "1" });
    execute(command, log)
}

/// Runs the steps; a failing one does not keep the later ones from running.
fn run_steps(args: &Args) -> io::Result<(Counts, Vec<&'static str>)> {
    let wanted = args.only.as_deref();
    let named = |step: &&Step| wanted.is_none_or(|text| step.name.contains(text));
    let mut steps: Vec<&Step> = STEPS.iter().filter(named).collect();
    let mut filter = None;
    if steps.is_empty() {
        filter = wanted;
        steps = STEPS.iter().filter(|step| step.tests).collect();
    }
    let logs = step::logs()?;
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        print!("[{:>2}/{}] {} ...", index + 1, steps.len(), step.name);
        io::stdout().flush()?;
        let log = log_path(&logs, step.name);
        // A log of an earlier run; there may be none.
        let _ = std::fs::remove_file(&log);
        let start = Instant::now();
        let finished = (step.work)(args, filter, &log).unwrap_or_else(|error| Finished {
            success: false,
            output: error.to_string(),
        });
        let mut own = Counts::default();
        if step.tests {
            own = Counts::of(&finished.output);
        }
        // What fails without a failed test is counted as one: a build, a lint.
        if !finished.success && own.failed == 0 {
            own.failed = 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let word = if finished.success { "ok" } else { "FAILED" };
        if step.tests {
            println!(" {word}, {seconds:.1} s, {}", own.summary());
        } else {
            println!(" {word}, {seconds:.1} s");
        }
        if !finished.success {
            failed.push(step.name);
            print!("{}", step::tail(&finished.output));
            println!("    the whole output: {}", log.display());
        }
        counts += own;
    }
    Ok((counts, failed))
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    let file: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    folder.join(format!("{file}.log"))
}

/// Runs the steps and closes with the count.
fn run_all(args: &Args) -> io::Result<bool> {
    let start = Instant::now();
    let (counts, failed) = run_steps(args)?;
    println!();
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    println!("{}", counts.summary());
    Ok(failed.is_empty() && counts.failed == 0)
}

/// The task.
pub(crate) fn run(args: &Args) -> ExitCode {
    match run_all(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
