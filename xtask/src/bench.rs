//! `cargo xtask bench boot`: what a boot costs, on the clock that counts
//! instructions.
//!
//! Each boot ends at the same program on the root, the marker init: a static
//! program that writes one line to the kernel log, whose timestamp is the
//! figure. The first init is what storage-init executes in the image, after its
//! line `[stage exec]`, or the initramfs's own. With `-icount
//! shift=0,sleep=off` a nanosecond is an instruction. Where the guest waits for
//! the disk, which answers in real time, its clock jumps to its next timer:
//! that only ever adds, so the least of several runs stands beside the median.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_driver::{Accel, Idle};
use serde_json::Value;
use vmtest::dist;
use vmtest::guest::{self, Guest};
use vmtest::initramfs;
use vmtest::set::{Recipe, Set};

use crate::boots::{Cost, Way};
use crate::step;
use crate::table::{mib, render};

/// How the boots are measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each boot is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// What the clock does while the guest waits for its disk: jump to the next
    /// timer, as the bounds are stated, or follow the host's.
    #[arg(long, value_enum, default_value_t = IdleArg::Jump)]
    idle: IdleArg,
    /// Only the boots whose name contains this.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Write the figures to docs/benchmarks/boot.md.
    #[arg(long)]
    record: bool,
}

/// See [`Idle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum IdleArg {
    /// `-icount shift=0,sleep=off`
    Jump,
    /// `-icount shift=0,sleep=on`
    Real,
}

/// How much is added to the image that must cost nothing, in MiB.
const PADDING_MIB: u64 = 512;

/// The project's bounds on the first init, in seconds: with the image as a file on
/// the ESP, and as partitions.
const BOUND_FILE: f64 = 3.15;
const BOUND_PARTITIONS: f64 = 3.05;

/// The task.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    step::packages()?;
    println!("building the programs");
    let dist = dist::build(&step::logs()?.join("dist.log"))?;
    let guest = step::guest()?;
    let folder = tempfile::tempdir()?;
    let bench = Bench {
        dist: &dist,
        guest: &guest,
        folder: folder.path(),
        idle: match args.idle {
            IdleArg::Jump => Idle::Jump,
            IdleArg::Real => Idle::RealTime,
        },
    };
    let mut report = bench.sizes()?;
    let mut rows = vec![vec![
        "s, by instructions".to_owned(),
        "first init".to_owned(),
        "least".to_owned(),
        "root's init".to_owned(),
        "least".to_owned(),
        "initrd".to_owned(),
        "read".to_owned(),
        "RAM touched".to_owned(),
    ]];
    let wanted = |name: &str| args.only.as_deref().is_none_or(|text| name.contains(text));
    let ways: [(&str, MakeWay<'_>); 8] = [
        ("kernel alone", Bench::kernel_alone),
        ("initramfs-tools", Bench::initramfs_tools),
        ("dracut", Bench::dracut),
        ("initoverlayfs", Bench::initoverlayfs),
        ("initoverlayfs, in partitions", Bench::partitions),
        ("initoverlayfs, signed", Bench::signed),
        ("initoverlayfs, not authenticated", Bench::unproven),
        ("initoverlayfs, image + 512 MiB", Bench::padded),
    ];
    for (name, make) in ways.into_iter().filter(|(name, _)| wanted(name)) {
        let way = make(&bench, name)?;
        rows.push(row(&way, bench.measure(&way, args.runs)?)?);
    }
    report.push(String::new());
    report.extend(render(&rows).lines().map(str::to_owned));
    println!();
    for line in &report {
        println!("{line}");
    }
    println!(
        "\nbounds: first init of initoverlayfs at most {BOUND_FILE:.2} s, from partitions \
         {BOUND_PARTITIONS:.2} s"
    );
    if args.record {
        let path = record(args, &guest, &report)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Writes the figures to docs/benchmarks, with how they were taken.
fn record(args: &Args, guest: &Guest, report: &[String]) -> Result<PathBuf, Box<dyn Error>> {
    let idle = match args.idle {
        IdleArg::Jump => "sleep=off",
        IdleArg::Real => "sleep=on",
    };
    let text = format!(
        "# What a boot costs\n\n\
         Written by `cargo xtask bench boot --idle {} --runs {} --record`.\n\n\
         ```text\n{}\n```\n\n\
         * Guest: Debian 13, kernel {}, one CPU, q35, a virtio disk, no `quiet`.\n\
         * Clock: `-icount shift=0,{idle}`: a nanosecond is an instruction. The median \
         of {} runs, and the least.\n\
         * First init: storage-init's exec of the image's init; the image is sealed by its root \
         hash and a file on the ESP, where nothing else is said. For the others the start of the initramfs's own `/init`.\n\
         * Root's init: a static program that writes one line, on the ext4 root. \
         initoverlayfs gets there through dracut's initramfs as its image.\n\
         * Read: from the disk, up to there. The initrd is beside that: the loader reads \
         it whole. RAM touched: pages of the guest's memory that were ever written or read.\n\
         * {}; {}.\n",
        match args.idle {
            IdleArg::Jump => "jump",
            IdleArg::Real => "real",
        },
        args.runs,
        report.join("\n").trim_end(),
        guest.kernel_release(),
        args.runs,
        version("qemu-system-x86_64")?,
        version("mkfs.erofs")?,
    );
    let path = guest::workspace().join("docs/benchmarks/boot.md");
    fs::create_dir_all(path.with_file_name(""))?;
    fs::write(&path, text)?;
    Ok(path)
}

/// The first line of what a program says of itself.
pub(crate) fn version(program: &str) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok(text.lines().next().unwrap_or(program).trim().to_owned())
}

type MakeWay<'a> = fn(&Bench<'a>, &str) -> Result<Way, Box<dyn Error>>;

struct Bench<'a> {
    dist: &'a Path,
    guest: &'a Guest,
    folder: &'a Path,
    idle: Idle,
}

impl<'a> Bench<'a> {
    /// Sizes, and how long the mini-initramfs takes to make.
    fn sizes(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let storage_init = fs::metadata(self.dist.join("storage-init"))?.len();
        let mut lines = vec![format!(
            "storage-init                 {:.1} KiB",
            storage_init as f64 / 1024.0
        )];
        for modules in ["virtio-blk", "generic"] {
            let initrd = self.guest.dracut_initrd();
            let recipe = self.recipe(&initrd, modules);
            let (set, report) = recipe.build_with_report(&self.folder.join(modules))?;
            let millis: u64 = report
                .pointer("/mini/times")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|time| time.get("ms").and_then(Value::as_u64))
                .sum();
            let size = fs::metadata(set.mini_initramfs())?.len();
            lines.push(format!(
                "mini-initramfs, {modules:<11}  {}, made in {:.2} s",
                mib(size),
                Duration::from_millis(millis).as_secs_f64()
            ));
        }
        Ok(lines)
    }

    fn recipe<'b>(&'b self, initrd: &'b Path, modules: &'b str) -> Recipe<'b> {
        Recipe {
            dist: self.dist,
            guest: self.guest,
            initrd,
            modules,
            options: &[],
        }
    }

    /// A set of virtio-blk's drivers, built once a name.
    fn set(&self, name: &str, initrd: &Path, options: &[&str]) -> Result<Set, vmtest::Error> {
        let dir = self.folder.join(name);
        if dir.is_dir() {
            return Set::open(&dir);
        }
        let recipe = self.recipe(initrd, "virtio-blk");
        Recipe { options, ..recipe }.build(&dir)
    }

    fn plain(&self, name: &str, initrd: PathBuf) -> Way {
        Way {
            name: name.to_owned(),
            initrd,
            append: format!("init={}", guest::MARK),
            disk: self.guest.root_image(),
        }
    }

    fn kernel_alone(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let initrd = self.folder.join("mark.cpio");
        initramfs::of_program(&initrd, &self.guest.mark())?;
        Ok(self.plain(name, initrd))
    }

    fn initramfs_tools(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        Ok(self.plain(name, self.guest.initramfs_tools_initrd()))
    }

    fn dracut(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        Ok(self.plain(name, self.guest.dracut_initrd()))
    }

    fn initoverlayfs(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let set = self.set("virtio-blk", &self.guest.dracut_initrd(), &[])?;
        self.through(name, &set, "disk.img")
    }

    /// File system and hash tree as partitions of the disk.
    fn partitions(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let options = ["--image-on", "partition"];
        let set = self.set("partitions", &self.guest.dracut_initrd(), &options)?;
        self.through(name, &set, "partitions.img")
    }

    /// Trusted for its signature, which storage-init checks.
    fn signed(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let name_of_key = self.folder.join("bench");
        let mut keygen = Command::new(self.dist.join("initoverlayfs"));
        vmtest::command::output(keygen.arg("keygen").arg(&name_of_key))?;
        let [key, certificate] =
            ["key", "crt"].map(|end| name_of_key.with_extension(end).display().to_string());
        let options = ["--key", &key, "--certificate", &certificate];
        let set = self.set("signed", &self.guest.dracut_initrd(), &options)?;
        self.through(name, &set, "signed.img")
    }

    /// The bare file system, which proves nothing.
    fn unproven(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let options = ["--auth", "none"];
        let set = self.set("unproven", &self.guest.dracut_initrd(), &options)?;
        self.through(name, &set, "unproven.img")
    }

    /// The same with random data that nobody reads in the image.
    fn padded(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let initrd = self.folder.join("padded.img");
        self.pad(&initrd)?;
        let set = self.set("padded", &initrd, &[])?;
        fs::remove_file(&initrd)?;
        self.through(name, &set, "padded-disk.img")
    }

    fn through(&self, name: &str, set: &Set, disk: &str) -> Result<Way, Box<dyn Error>> {
        let disk = self.folder.join(disk);
        set.disk(&disk, self.guest, 512)?;
        Ok(Way {
            initrd: set.mini_initramfs(),
            disk,
            ..self.plain(name, PathBuf::new())
        })
    }

    /// dracut's initramfs and, behind it, an archive with random files.
    fn pad(&self, initrd: &Path) -> Result<(), Box<dyn Error>> {
        let files = self.folder.join("padding");
        fs::create_dir(&files)?;
        let mut random = fs::File::open("/dev/urandom")?;
        let mut names = String::from("padding\n");
        for index in 0..PADDING_MIB / 16 {
            let name = format!("padding/{index:03}");
            let mut file = fs::File::create(self.folder.join(&name))?;
            io::copy(&mut io::Read::take(&mut random, 16 << 20), &mut file)?;
            names.push_str(&name);
            names.push('\n');
        }
        let archive = vmtest::command::output_with_input(
            Command::new("cpio")
                .args(["--create", "--format=newc", "--quiet"])
                .current_dir(self.folder),
            names.as_bytes(),
        )?;
        let mut bytes = fs::read(self.guest.dracut_initrd())?;
        // The kernel wants an uncompressed archive to begin at a multiple of 4.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(archive);
        fs::write(initrd, bytes)?;
        fs::remove_dir_all(&files)?;
        Ok(())
    }

    fn measure(&self, way: &Way, runs: u32) -> Result<Vec<Cost>, Box<dyn Error>> {
        let mut costs = Vec::new();
        for run in 1..=runs {
            let outcome = way.boot(self.guest, Accel::Tcg, Some(self.idle), None)?;
            let cost = Cost::of(&outcome);
            if cost.mark.is_none() {
                let log = step::logs()?.join("bench.log");
                let lines: Vec<_> = outcome.lines.iter().map(|l| l.text.as_str()).collect();
                fs::write(&log, lines.join("\n"))?;
                return Err(format!(
                    "{}: the marker init did not run; its console: {}",
                    way.name,
                    log.display()
                )
                .into());
            }
            println!(
                "{} {run}/{runs}: first init {}, root's init {}",
                way.name,
                seconds(cost.first_init),
                seconds(cost.mark)
            );
            costs.push(cost);
        }
        Ok(costs)
    }
}

fn row(way: &Way, costs: Vec<Cost>) -> Result<Vec<String>, Box<dyn Error>> {
    let first = sorted(costs.iter().filter_map(|cost| cost.first_init).collect());
    let mark = sorted(costs.iter().filter_map(|cost| cost.mark).collect());
    let read = sorted(costs.iter().map(|cost| cost.read).collect());
    let touched = sorted(costs.iter().map(|cost| cost.touched).collect());
    Ok(vec![
        way.name.clone(),
        seconds(median(&first)),
        seconds(first.first().copied()),
        seconds(median(&mark)),
        seconds(mark.first().copied()),
        mib(fs::metadata(&way.initrd)?.len()),
        median(&read).map_or("-".to_owned(), mib),
        median(&touched).map_or("-".to_owned(), mib),
    ])
}

pub(crate) fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

pub(crate) fn median<T: Copy>(sorted: &[T]) -> Option<T> {
    sorted.get(sorted.len() / 2).copied()
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.3}", time.as_secs_f64()))
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
}
