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
use vmtest::guest::{self, Guest};
use vmtest::initramfs;
use vmtest::set::{Recipe, Set};

use super::chart::Chart;
use super::report::{Bound, Cell, Column, Report, Row, Table};
use super::{Ground, Options, median, mib, sorted};
use crate::boots::{Cost, Way};
use crate::step;

/// How the boots are measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    /// What the clock does while the guest waits for its disk: jump to the next
    /// timer, as the bounds are stated, or follow the host's.
    #[arg(long, value_enum, default_value_t = IdleArg::Jump)]
    idle: IdleArg,
}

/// How often each boot is measured.
const RUNS: u32 = 3;

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

/// The family with its own options.
pub(super) fn run_default(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let args = Args {
        options: options.clone(),
        idle: IdleArg::Jump,
    };
    run(ground, &args)
}

/// The family.
pub(super) fn run(ground: &Ground, args: &Args) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let bench = Bench {
        dist: &ground.dist,
        guest: &ground.guest,
        folder: folder.path(),
        idle: match args.idle {
            IdleArg::Jump => Idle::Jump,
            IdleArg::Real => Idle::RealTime,
        },
    };
    let runs = args.options.runs.unwrap_or(RUNS);
    let ways: [(&str, MakeWay<'_>); 8] = [
        ("kernel alone", Bench::kernel_alone),
        ("initramfs-tools", Bench::initramfs_tools),
        ("dracut", Bench::dracut),
        (FILE, Bench::initoverlayfs),
        (PARTITIONS, Bench::partitions),
        ("initoverlayfs, signed", Bench::signed),
        ("initoverlayfs, not authenticated", Bench::unproven),
        ("initoverlayfs, image + 512 MiB", Bench::padded),
    ];
    let mut rows = Vec::new();
    for (name, make) in ways
        .into_iter()
        .filter(|(name, _)| args.options.wants(name))
    {
        let way = make(&bench, name)?;
        rows.push(row(&way, bench.measure(&way, runs)?)?);
    }
    report(ground, args, runs, rows)
}

const FILE: &str = "initoverlayfs";
const PARTITIONS: &str = "initoverlayfs, in partitions";

fn report(
    ground: &Ground,
    args: &Args,
    runs: u32,
    rows: Vec<Row>,
) -> Result<Report, Box<dyn Error>> {
    let figure = |name: &str, column: usize| {
        let row = rows.iter().find(|row| row.name == name)?;
        match row.cells.get(column)? {
            Cell::Number(number) => Some(*number),
            _ => None,
        }
    };
    let bounds = [(FILE, BOUND_FILE), (PARTITIONS, BOUND_PARTITIONS)]
        .into_iter()
        .filter_map(|(name, bound)| {
            let what = format!("{name}, first init");
            Some(Bound::new(&what, figure(name, 0)?, bound, "s"))
        })
        .collect();
    let bars = rows
        .iter()
        .map(|row| {
            let values = [0, 2].map(|column| figure(&row.name, column));
            (row.name.clone(), values.to_vec())
        })
        .collect();
    let (idle, sleep) = match args.idle {
        IdleArg::Jump => ("jump", "off"),
        IdleArg::Real => ("real", "on"),
    };
    Ok(Report {
        name: "boot".to_owned(),
        title: "What a boot costs".to_owned(),
        command: args
            .options
            .command("boot", runs, &format!(" --idle {idle}")),
        notes: vec![
            "Guest: one CPU, q35, a virtio disk, no `quiet`.".to_owned(),
            format!(
                "Clock: `-icount shift=0,sleep={sleep}`: a nanosecond is an instruction. The \
                 median of {runs} runs, and the least."
            ),
            "First init: storage-init's exec of the image's init; the image is sealed by its root \
             hash and a file on the ESP, where nothing else is said. For the others the start of \
             the initramfs's own `/init`."
                .to_owned(),
            "Root's init: a static program that writes one line, on the ext4 root. initoverlayfs \
             gets there through dracut's initramfs as its image."
                .to_owned(),
            "Read: from the disk, up to there. The initrd is beside that: the loader reads it \
             whole. RAM touched: pages of the guest's memory that were ever written or read."
                .to_owned(),
        ],
        versions: ground.versions()?,
        tables: vec![Table {
            title: "by instructions".to_owned(),
            columns: vec![
                Column::new("first init", "s", 3),
                Column::new("least", "s", 3),
                Column::new("root's init", "s", 3),
                Column::new("least", "s", 3),
                Column::new("initrd", "MiB", 2),
                Column::new("read", "MiB", 2),
                Column::new("RAM touched", "MiB", 2),
            ],
            rows,
        }],
        bounds,
        charts: vec![Chart::Bars {
            axis: "seconds since the kernel's start, a nanosecond an instruction".to_owned(),
            series: vec!["first init".to_owned(), "root's init".to_owned()],
            bars,
        }],
    })
}

type MakeWay<'a> = fn(&Bench<'a>, &str) -> Result<Way, Box<dyn Error>>;

struct Bench<'a> {
    dist: &'a Path,
    guest: &'a Guest,
    folder: &'a Path,
    idle: Idle,
}

impl<'a> Bench<'a> {
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

fn row(way: &Way, costs: Vec<Cost>) -> Result<Row, Box<dyn Error>> {
    let first = sorted(costs.iter().filter_map(|cost| cost.first_init).collect());
    let mark = sorted(costs.iter().filter_map(|cost| cost.mark).collect());
    let read = sorted(costs.iter().map(|cost| cost.read).collect());
    let touched = sorted(costs.iter().map(|cost| cost.touched).collect());
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let cells = vec![
        seconds(median(&first)).into(),
        seconds(first.first().copied()).into(),
        seconds(median(&mark)).into(),
        seconds(mark.first().copied()).into(),
        mib(fs::metadata(&way.initrd)?.len()).into(),
        median(&read).map(mib).into(),
        median(&touched).map(mib).into(),
    ];
    Ok(Row::new(&way.name, cells))
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| {
        format!("{:.3} s", time.as_secs_f64())
    })
}
