//! `cargo xtask bench`: one command a table.
//!
//! Each family is a module that measures and hands back a [`Report`], which is
//! printed, and with `--record` written to docs/benchmarks. A new family is a
//! module, a line in [`Bench`] and one in [`Family`].

mod boot;
mod chart;
mod effort;
mod extensions;
mod firmware;
mod io;
mod look;
mod memory;
mod minimal;
mod parts;
mod reach;
mod report;
mod scale;
mod size;
mod tune;

use std::error::Error;
use std::path::PathBuf;

use vmtest::guest::{self, Guest};

use crate::step;
use report::Report;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Boots on the clock that counts instructions: time, bytes read, memory,
    /// against Debian's own initramfs files.
    Boot(boot::Args),
    /// What it costs to boot anywhere: any machine's drivers, forty disks, a stick
    /// that comes late; and what a second processor saves.
    Reach(Options),
    /// What a boot reads of its image, and how long that takes on eMMC, SD card, USB 2
    /// stick, SSDs and disk; with and without profile and reading ahead.
    Io(io::Args),
    /// What bytes cost that nobody reads: time and memory of images and initramfs
    /// archives from 61 MiB to 2 GiB.
    Scale(Options),
    /// Memory that nothing gives back, when the first init begins and at multi-user,
    /// against Debian's own initramfs files.
    Memory(Options),
    /// What a UKI costs before the kernel: reading, hashing and measuring it, by size.
    Firmware(Options),
    /// How large everything is that is made, against other generators' files.
    Size(Options),
    /// What making it costs, against mkfs.erofs alone, dracut and mkinitramfs.
    Build(Options),
    /// What one change at a time does to a boot: modules, options of dm-verity's, words
    /// on the kernel command line.
    Tune(Options),
    /// What extensions add to a boot: one, three, one of 300 MiB that nobody uses.
    Extensions(Options),
    /// All of them, one after the other, each with its own number of runs, written
    /// to docs/benchmarks. Takes hours; the machine should have nothing else to do.
    All,
}

/// What every family is told.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// How often each figure is measured (by default as often as the family needs).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: Option<u32>,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Write the figures to docs/benchmarks: Markdown, JSON and a plot.
    #[arg(long, conflicts_with = "only")]
    record: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|text| name.contains(text))
    }

    /// The command that measures `family` so again.
    fn command(&self, family: &str, runs: u32, options: &str) -> String {
        let mut command = format!("cargo xtask bench {family} --runs {runs}{options}");
        if let Some(only) = &self.only {
            command.push_str(&format!(" --only '{only}'"));
        }
        if self.record {
            command.push_str(" --record");
        }
        command
    }
}

/// What the measurements stand on.
struct Ground {
    /// The programs.
    dist: PathBuf,
    guest: Guest,
}

impl Ground {
    fn prepare() -> Result<Self, Box<dyn Error>> {
        step::packages()?;
        println!("building the programs");
        Ok(Self {
            dist: vmtest::dist::ensure(&step::logs()?.join("dist.log"))?,
            guest: step::guest()?,
        })
    }

    /// What every figure depends on: the guest's kernel, the emulator, the writer.
    fn versions(&self) -> Result<Vec<String>, Box<dyn Error>> {
        Ok(vec![
            format!("Debian 13, kernel {}", self.guest.kernel_release()),
            report::version("qemu-system-x86_64")?,
            report::version("mkfs.erofs")?,
        ])
    }
}

type Family = (
    &'static str,
    fn(&Ground, &Options) -> Result<Report, Box<dyn Error>>,
);

/// What `bench all` runs, in this order.
const ALL: &[Family] = &[
    ("boot", boot::run_default),
    ("reach", reach::run),
    ("io", io::run_default),
    ("scale", scale::run),
    ("memory", memory::run),
    ("firmware", firmware::run),
    ("size", size::run),
    ("build", effort::run),
    ("tune", tune::run),
    ("extensions", extensions::run),
];

/// The task.
pub(crate) fn run(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let ground = Ground::prepare()?;
    match bench {
        Bench::Boot(args) => show(&boot::run(&ground, args)?, args.options.record),
        Bench::Reach(options) => show(&reach::run(&ground, options)?, options.record),
        Bench::Io(args) => show(&io::run(&ground, args)?, args.options.record),
        Bench::Scale(options) => show(&scale::run(&ground, options)?, options.record),
        Bench::Memory(options) => show(&memory::run(&ground, options)?, options.record),
        Bench::Firmware(options) => show(&firmware::run(&ground, options)?, options.record),
        Bench::Size(options) => show(&size::run(&ground, options)?, options.record),
        Bench::Build(options) => show(&effort::run(&ground, options)?, options.record),
        Bench::Extensions(options) => show(&extensions::run(&ground, options)?, options.record),
        Bench::Tune(options) => show(&tune::run(&ground, options)?, options.record),
        Bench::All => all(&ground),
    }
}

fn all(ground: &Ground) -> Result<(), Box<dyn Error>> {
    let options = Options {
        record: true,
        ..Options::default()
    };
    let mut failed = Vec::new();
    for (name, family) in ALL {
        println!("\n== {name}");
        // One that fails does not keep the others from being measured.
        if let Err(error) = family(ground, &options).and_then(|report| show(&report, true)) {
            eprintln!("error: {name}: {error}");
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("not measured: {}", failed.join(", ")).into())
}

fn show(report: &Report, record: bool) -> Result<(), Box<dyn Error>> {
    println!("\n{}", report.text());
    if record {
        report.write(&guest::workspace().join("docs/benchmarks"))?;
    }
    Ok(())
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

fn median<T: Copy>(sorted: &[T]) -> Option<T> {
    sorted.get(sorted.len() / 2).copied()
}

/// Bytes as a figure in MiB.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few() {
        assert_eq!(median(&sorted(vec![3, 1, 2])), Some(2));
        assert_eq!(median(&[7]), Some(7));
        assert_eq!(median::<u8>(&[]), None);
    }

    #[test]
    fn a_command_says_all_that_it_depends_on() {
        let mut options = Options {
            only: Some("in partitions".to_owned()),
            ..Options::default()
        };
        assert_eq!(
            options.command("boot", 3, " --idle jump"),
            "cargo xtask bench boot --runs 3 --idle jump --only 'in partitions'"
        );
        assert!(options.wants("ours, in partitions") && !options.wants("ours"));
        options = Options {
            record: true,
            ..Options::default()
        };
        assert_eq!(
            options.command("reach", 5, ""),
            "cargo xtask bench reach --runs 5 --record"
        );
    }
}
