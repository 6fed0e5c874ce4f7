//! `cargo xtask bench boot`: what a boot costs, on the clock that counts
//! instructions and on the host's, against other generators' initramfs files and
//! against the least that a hand-made one can do.
//!
//! Each boot ends at the same program on the root, the marker init: a static
//! program that writes one line to the kernel log, whose timestamp is the
//! figure; or, in boots of their own, at multi-user. The first init is what
//! storage-init executes in the image, after its line `[stage exec]`, or the
//! initramfs's own. With `-icount shift=0` a nanosecond is an
//! instruction. Where the guest waits for the disk, which answers in real time,
//! its clock jumps to its next timer: that only ever adds, so the least of
//! several runs is what the bounds are about.

mod row;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_driver::{Accel, Idle};
use vmtest::guest::{self, Guest};
use vmtest::initramfs;
use vmtest::mkosi::Mkosi;
use vmtest::peers::{Peer, Peers};
use vmtest::set::{Recipe, Set};

use super::chart::Chart;
use super::parts::{self, Padding, side_by_side};
use super::report::{Bound, Cell, Column, Report, Table};
use super::{Ground, Options, minimal};
use crate::boots::{Cost, Way};
use row::{Subject, Times, Whose, failures_of_ours, notes_of_failures, row};

/// How the boots are measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    /// What the clock does while the guest waits for its disk: follow the host's, or
    /// jump to the next timer, which may be seconds away.
    #[arg(long, value_enum, default_value_t = IdleArg::Real)]
    idle: IdleArg,
    /// Which clocks: the one that counts instructions, the host's, or each.
    #[arg(long, value_enum, default_value_t = ClockArg::Both)]
    clock: ClockArg,
}

/// See [`Args::clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ClockArg {
    /// Instructions only.
    Instructions,
    /// Wall time only.
    Wall,
    /// One after the other.
    Both,
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

/// The parts of the time above the kernel's own that a boot of ours may take of
/// others' to the root's init, and what it may take of the hand-made init's whole.
const BOUND_MINIMAL: f64 = 1.05;
const BOUND_DRACUT: f64 = 0.11;
const BOUND_INITRAMFS_TOOLS: f64 = 0.16;

/// The project's bounds on a direct boot: to the root's init, in seconds, and to
/// multi-user against others.
const BOUND_DIRECT: f64 = 3.3;
const BOUND_DIRECT_INITRAMFS_TOOLS: f64 = 0.62;
const BOUND_DIRECT_DRACUT: f64 = 0.53;

/// The same of a boot whose image is the system.
const BOUND_STAY_DRACUT: f64 = 0.6;

const KERNEL: &str = "kernel alone";
const MINIMAL: &str = "hand-made, verified partition";
const FILE: &str = "initoverlayfs";
const PARTITIONS: &str = "initoverlayfs, in partitions";
const PREFETCH_OFF: &str = "initoverlayfs, in partitions, prefetch off";
const NO_LIST: &str = "initoverlayfs, in partitions, no list";
const DIRECT: &str = "initoverlayfs, direct";
const STAY: &str = "initoverlayfs, stay";
const INITRAMFS_TOOLS: &str = "initramfs-tools, zstd";
const DRACUT: &str = "dracut, generic";

/// Columns of the first table that the bounds and the plot need.
const FIRST: usize = 0;
const FIRST_LEAST: usize = 1;
const ROOT: usize = 2;
const ROOT_LEAST: usize = 3;
const MULTI_USER: usize = 4;

/// The family with its own options.
pub(super) fn run_default(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let args = Args {
        options: options.clone(),
        idle: IdleArg::Real,
        clock: ClockArg::Both,
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
    };
    let runs = args.options.runs.unwrap_or(RUNS);
    let mut subjects = Vec::new();
    // The others are not measured by wall time.
    let all = args.clock != ClockArg::Wall || args.options.only.is_some();
    let wanted = ways()
        .into_iter()
        .filter(|(name, ..)| args.options.wants(name) && (all || FAR.contains(name)));
    for (name, whose, make) in wanted {
        println!("making: {name}");
        let made = make(&bench, name).map_err(|error| error.to_string());
        let mut subject = Subject::new(name, whose, made);
        subject.far = args.options.only.is_some() || FAR.contains(&name);
        subjects.push(subject);
    }
    let mut tables = Vec::new();
    if args.clock != ClockArg::Wall {
        let idle = match args.idle {
            IdleArg::Jump => Idle::Jump,
            IdleArg::Real => Idle::RealTime,
        };
        tables.push(bench.by_instructions(&mut subjects, idle, runs)?);
    }
    if args.clock != ClockArg::Instructions {
        tables.push(bench.by_wall(&mut subjects, runs)?);
    }
    let mut report = report(ground, args, runs, tables)?;
    report.notes.extend(notes_of_failures(&subjects));
    let ours = failures_of_ours(&subjects);
    if ours.is_empty() {
        return Ok(report);
    }
    // What the others cost was hard to come by, and may say why.
    println!("\n{}", report.text());
    Err(format!("not recorded, since a boot failed: {}", ours.join("; ")).into())
}

/// Each row: its name, whose it is, how it is made.
fn ways<'a>() -> [(&'static str, Whose, MakeWay<'a>); 20] {
    [
        (KERNEL, Whose::Ours, Bench::kernel_alone),
        (MINIMAL, Whose::Ours, Bench::minimal),
        (PARTITIONS, Whose::Ours, Bench::partitions),
        (DIRECT, Whose::Ours, Bench::direct),
        (STAY, Whose::Ours, Bench::stay),
        (PREFETCH_OFF, Whose::Ours, Bench::prefetch_off),
        (NO_LIST, Whose::Ours, Bench::no_list),
        (FILE, Whose::Ours, Bench::initoverlayfs),
        ("initoverlayfs, signed", Whose::Ours, Bench::signed),
        (
            "initoverlayfs, not authenticated",
            Whose::Ours,
            Bench::unproven,
        ),
        ("initoverlayfs, image + 512 MiB", Whose::Ours, Bench::padded),
        ("tiny-initramfs", Whose::Peers, |b, n| b.peer(n, Peer::Tiny)),
        ("initramfs-tools, lz4", Whose::Peers, |b, n| {
            b.peer(n, Peer::InitramfsToolsLz4)
        }),
        (INITRAMFS_TOOLS, Whose::Peers, Bench::initramfs_tools),
        ("dracut, hostonly", Whose::Peers, |b, n| {
            b.peer(n, Peer::DracutHostonly)
        }),
        ("dracut, without systemd", Whose::Peers, |b, n| {
            b.peer(n, Peer::DracutNoSystemd)
        }),
        (DRACUT, Whose::Peers, Bench::dracut),
        ("dracut, squashfs", Whose::Peers, |b, n| {
            b.peer(n, Peer::DracutSquashfs)
        }),
        ("dracut, squash-erofs", Whose::Peers, |b, n| {
            b.peer(n, Peer::DracutErofs)
        }),
        ("mkosi-initrd", Whose::Peers, Bench::mkosi),
    ]
}

/// The rows that are measured to multi-user and by wall time too, where no others are
/// asked for: of the rest, the way to the root's init is what differs, and all of them
/// would take hours.
const FAR: [&str; 11] = [
    PARTITIONS,
    DIRECT,
    STAY,
    PREFETCH_OFF,
    FILE,
    "tiny-initramfs",
    INITRAMFS_TOOLS,
    "dracut, hostonly",
    DRACUT,
    "dracut, squash-erofs",
    "mkosi-initrd",
];

/// A cell's figure.
fn figure(table: &Table, name: &str, column: usize) -> Option<f64> {
    let row = table.rows.iter().find(|row| row.name == name)?;
    match row.cells.get(column)? {
        Cell::Number(number) => Some(*number),
        _ => None,
    }
}

/// What the project promises, as far as its rows were measured.
fn bounds(table: &Table) -> Vec<Bound> {
    let first = |name| figure(table, name, FIRST_LEAST);
    let mut bounds = Vec::new();
    if let (Some(ours), Some(least)) = (first(PARTITIONS), first(MINIMAL)) {
        let name = "exec from a verified partition, against the hand-made init";
        bounds.push(Bound::new(name, ours / least, BOUND_MINIMAL, ""));
    }
    for (peer, bound) in [
        (DRACUT, BOUND_DRACUT),
        (INITRAMFS_TOOLS, BOUND_INITRAMFS_TOOLS),
    ] {
        let peers = figure(table, peer, ROOT_LEAST);
        if let (Some(floor), Some(ours), Some(theirs)) = (first(KERNEL), first(PARTITIONS), peers) {
            let name = format!("exec above the kernel, against {peer}, to the root's init");
            let ratio = (ours - floor) / (theirs - floor);
            bounds.push(Bound::new(&name, ratio, bound, ""));
        }
    }
    for (name, bound) in [(FILE, BOUND_FILE), (PARTITIONS, BOUND_PARTITIONS)] {
        if let Some(ours) = first(name) {
            let name = format!("{name}, first init");
            bounds.push(Bound::new(&name, ours, bound, "s"));
        }
    }
    if let Some(ours) = figure(table, DIRECT, ROOT_LEAST) {
        let name = format!("{DIRECT}, to the root's init");
        bounds.push(Bound::new(&name, ours, BOUND_DIRECT, "s"));
    }
    let multi_user = |name| figure(table, name, MULTI_USER);
    for (peer, bound) in [
        (INITRAMFS_TOOLS, BOUND_DIRECT_INITRAMFS_TOOLS),
        (DRACUT, BOUND_DIRECT_DRACUT),
    ] {
        if let (Some(ours), Some(theirs)) = (multi_user(DIRECT), multi_user(peer)) {
            let name = format!("{DIRECT}, to multi-user, against {peer}");
            bounds.push(Bound::new(&name, ours / theirs, bound, ""));
        }
    }
    if let (Some(ours), Some(theirs)) = (multi_user(STAY), multi_user(DRACUT)) {
        let name = format!("{STAY}, to multi-user, against {DRACUT}");
        bounds.push(Bound::new(&name, ours / theirs, BOUND_STAY_DRACUT, ""));
    }
    bounds
}

/// The stages of every row of a table.
fn chart(table: &Table, axis: &str, columns: &[usize]) -> Chart {
    let bars = table.rows.iter().map(|row| {
        let values = columns.iter().map(|&at| figure(table, &row.name, at));
        (row.name.clone(), values.collect())
    });
    Chart::Bars {
        axis: axis.to_owned(),
        series: ["first init", "root's init", "multi-user"]
            .map(str::to_owned)
            .to_vec(),
        bars: bars.collect(),
    }
}

fn report(
    ground: &Ground,
    args: &Args,
    runs: u32,
    tables: Vec<Table>,
) -> Result<Report, Box<dyn Error>> {
    let (idle, sleep) = match args.idle {
        IdleArg::Jump => ("jump", "off"),
        IdleArg::Real => ("real", "on"),
    };
    let clock = match args.clock {
        ClockArg::Instructions => " --clock instructions",
        ClockArg::Wall => " --clock wall",
        ClockArg::Both => "",
    };
    let mut bounded = Vec::new();
    let mut charts = Vec::new();
    for table in &tables {
        if table.title == BY_INSTRUCTIONS {
            bounded = bounds(table);
            let axis = "seconds since the kernel's start, a nanosecond an instruction";
            charts.push(chart(table, axis, &[FIRST, ROOT, MULTI_USER]));
        } else {
            let axis = "seconds since the kernel's start, wall time";
            charts.push(chart(table, axis, &[0, 1, 2]));
        }
    }
    let mut versions = ground.versions()?;
    versions.push(Peers::ensure(&ground.guest, &mut |line| println!("{line}"))?.versions()?);
    // Each has a page of its own, since hours lie between recording the one and both.
    let (name, title) = match args.clock {
        ClockArg::Wall => ("boot-wall", "What a boot costs, by wall time"),
        ClockArg::Instructions | ClockArg::Both => ("boot", "What a boot costs"),
    };
    Ok(Report {
        name: name.to_owned(),
        title: title.to_owned(),
        command: args
            .options
            .command("boot", runs, &format!(" --idle {idle}{clock}")),
        notes: notes(runs, sleep),
        versions,
        tables,
        bounds: bounded,
        charts,
    })
}

fn notes(runs: u32, sleep: &str) -> Vec<String> {
    let multi = runs.div_ceil(2);
    let rounds = rounds(runs);
    vec![
        "Guest: q35, a virtio disk, no `quiet`, one CPU; the times are its kernel's clock, so \
         neither firmware nor the loading of the initrd is in them."
            .to_owned(),
        format!(
            "By instructions: `-icount shift=0,sleep={sleep}`: a nanosecond is an instruction. The \
             median of {runs} runs, and the least, which the bounds take; multi-user is the least \
             of {multi}, in boots of their own. Two boots at once, where there are two processors. \
             While the guest waits for its disk its clock follows the host's (`sleep=on`), or jumps \
             to the guest's next timer (`sleep=off`), which may be seconds away."
        ),
        format!(
            "By wall time: the emulator without icount, and two CPUs. {rounds} rounds, in each of \
             which every way boots once to either end; medians. Rows of the first table without \
             multi-user are not in the second, unless rows were asked for by name. The ratio is of \
             the times to multi-user of the same round. What the emulator does beside the guest's \
             work is in the figures: translating code, and forgetting translations when their \
             page is written to. What the kernel clears for new programs has held the initrd's, \
             soonest where an image's pages are freed one by one; on a processor that costs \
             nothing. The CPU is `max,-erms,-fsrm`, so that pages are cleared by eight bytes and not \
             by one, each of which the emulator goes through all translations of the page for."
        ),
        "First init: storage-init's exec of the image's init; the image is sealed by its root \
         hash and a file on the ESP, where nothing else is said. For the others the start of the \
         initramfs's own `/init`."
            .to_owned(),
        "Root's init: a static program that writes one line, on the ext4 root. initoverlayfs \
         gets there through dracut's initramfs as its image, directly without it. Multi-user: systemd on that root \
         has reached it."
            .to_owned(),
        "Stay: the guest's whole tree is the image, and the system: its init is the root's. On \
         the same disk, the ext4 root is not used."
            .to_owned(),
        "In partitions, prefetch off: the same disk with `initoverlayfs.prefetch=off` on the \
         command line. No list: an image built with `--profile none`, in natural order."
            .to_owned(),
        "Hand-made: a static init with the drivers of the same verified partition, uncompressed, \
         loaded one after the other; it looks for nothing and reports nothing."
            .to_owned(),
        "dracut, hostonly: made in a chroot, where there is no host to look at but the one that \
         runs the bench: `--no-hostonly-cmdline --no-hostonly-default-device --add-drivers \
         'virtio_blk ext4' --filesystems ext4`. tiny-initramfs has the drivers that it is told, \
         and the root by UUID. dracut's squash files are made with no busybox in the tree, since \
         with Debian's they do not start. No peer authenticates anything."
            .to_owned(),
        "Read: from the disk, up to the root's init. The initrd is beside that: the loader reads \
         it whole. RAM touched: pages of the guest's memory that were ever written or read."
            .to_owned(),
    ]
}

const BY_INSTRUCTIONS: &str = "by instructions";

type MakeWay<'a> = fn(&Bench<'a>, &str) -> Result<Way, Box<dyn Error>>;

struct Bench<'a> {
    dist: &'a Path,
    guest: &'a Guest,
    folder: &'a Path,
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
        parts::plain(self.guest, name, initrd)
    }

    fn peer(&self, name: &str, peer: Peer) -> Result<Way, Box<dyn Error>> {
        let peers = Peers::ensure(self.guest, &mut |line| println!("{line}"))?;
        let mut way = self.plain(name, peers.initrd(peer));
        if peer == Peer::Tiny {
            // It knows no labels.
            way.append = format!("root=UUID={} {}", guest::ROOT_UUID, way.append);
        }
        Ok(way)
    }

    fn mkosi(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let mkosi = Mkosi::ensure(self.guest, &mut |line| println!("{line}"))?;
        Ok(self.plain(name, mkosi.initrd()))
    }

    /// On the disk that `partitions` boots from.
    fn minimal(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let dir = self.folder.join("for-minimal");
        let initrd = self.guest.dracut_initrd();
        let recipe = self.recipe(&initrd, "virtio-blk");
        let options = &["--image-on", "partition"];
        let (set, report) = Recipe { options, ..recipe }.build_with_report(&dir)?;
        let way = self.through(name, &set, "minimal.img")?;
        let initrd = minimal::make(&set, &report, &self.folder.join("minimal"))?;
        Ok(Way { initrd, ..way })
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

    /// To the root itself; the image is there and is not opened.
    fn direct(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let options = ["--image-on", "partition", "--mode", "direct"];
        let set = self.set("direct", &self.guest.dracut_initrd(), &options)?;
        self.through(name, &set, "direct.img")
    }

    /// The guest's whole tree as the image, which is the system.
    fn stay(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let dir = self.folder.join("stay");
        let mut build = Command::new(self.dist.join("initoverlayfs"));
        build.args(["build", "--mode", "stay", "--image-on", "partition"]);
        build.args(["--modules", "virtio-blk", "--root"]);
        build
            .arg(self.guest.tree())
            .arg("--sysroot")
            .arg(self.guest.tree());
        vmtest::command::output(build.arg("--output").arg(&dir))?;
        let way = self.through(name, &Set::open(&dir)?, "stay.img")?;
        // There is no other root whose init could be another.
        Ok(Way {
            append: String::new(),
            ..way
        })
    }

    /// The same disk, and nothing is read ahead.
    fn prefetch_off(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let way = self.partitions(name)?;
        let append = format!("{} initoverlayfs.prefetch=off", way.append);
        Ok(Way { append, ..way })
    }

    /// The image's files in their natural order, without a list of what to read ahead.
    fn no_list(&self, name: &str) -> Result<Way, Box<dyn Error>> {
        let options = ["--image-on", "partition", "--profile", "none"];
        let set = self.set("no-list", &self.guest.dracut_initrd(), &options)?;
        self.through(name, &set, "no-list.img")
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
        Ok(parts::through(self.guest, name, set, disk)?)
    }

    /// dracut's initramfs and, behind it, an archive with random files.
    fn pad(&self, initrd: &Path) -> Result<(), Box<dyn Error>> {
        let folder = self.folder.join("to-pad");
        let padding = Padding::make(&folder, PADDING_MIB)?;
        let archive = folder.join("archive");
        padding.archive(&archive, PADDING_MIB)?;
        parts::joined(&[&self.guest.dracut_initrd(), &archive], initrd)?;
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    /// One boot to `end`; or why there is none.
    fn boot(
        &self,
        way: &Way,
        clock: Option<Idle>,
        (what, end): Goal,
    ) -> io::Result<Result<Cost, String>> {
        let goal = parts::Goal {
            family: "boot",
            what,
        };
        let machine = way.machine(self.guest, Accel::Tcg, clock);
        parts::tried(&way.name, &machine, &goal, |outcome| {
            let cost = Cost::of(outcome);
            end(&cost).map(|_| cost)
        })
    }

    fn by_instructions(
        &self,
        subjects: &mut [Subject],
        idle: Idle,
        runs: u32,
    ) -> Result<Table, Box<dyn Error>> {
        side_by_side(subjects, |subject| self.count(subject, idle, runs))?;
        let rows = subjects.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Table {
            title: BY_INSTRUCTIONS.to_owned(),
            columns: vec![
                Column::new("first init", "s", 3),
                Column::new("least", "s", 3),
                Column::new("root's init", "s", 3),
                Column::new("least", "s", 3),
                Column::new("multi-user", "s", 3),
                Column::new("initrd", "MiB", 2),
                Column::new("read", "MiB", 2),
                Column::new("RAM touched", "MiB", 2),
            ],
            rows,
        })
    }

    /// All boots of one way on the clock that counts instructions.
    fn count(&self, subject: &mut Subject, idle: Idle, runs: u32) -> io::Result<()> {
        for run in 1..=runs {
            let Some(way) = subject.to_root() else { break };
            let stays = subject.name == STAY;
            let goal = if stays { TO_FIRST } else { TO_ROOT };
            match self.boot(way, Some(idle), goal)? {
                Ok(mut cost) => {
                    if stays {
                        cost.mark = cost.first_init;
                    }
                    println!(
                        "{} {run}/{runs}: first init {}, root's init {}",
                        subject.name,
                        seconds(cost.first_init),
                        seconds(cost.mark)
                    );
                    subject.costs.push(cost);
                }
                Err(failure) => subject.no_root = Some(failure),
            }
        }
        for _ in 0..runs.div_ceil(2) {
            let Some(way) = subject.to_multi_user() else {
                break;
            };
            match self.boot(&way, Some(idle), TO_MULTI_USER)? {
                Ok(cost) => {
                    println!("{}: multi-user {}", way.name, seconds(cost.multi_user));
                    subject.ends.extend(cost.multi_user);
                }
                Err(failure) => subject.no_multi_user = Some(failure),
            }
        }
        Ok(())
    }

    /// Rounds, so that what slows the host slows all of them.
    fn by_wall(&self, subjects: &mut [Subject], runs: u32) -> Result<Table, Box<dyn Error>> {
        let mut subjects: Vec<_> = subjects.iter_mut().filter(|s| s.far).collect();
        let mut times = vec![Times::default(); subjects.len()];
        let rounds = rounds(runs);
        for round in 1..=rounds {
            let mut ends = Vec::new();
            for (subject, times) in subjects.iter_mut().zip(&mut times) {
                let end = self.wall_round(subject, times)?;
                if subject.no_root.is_none() {
                    println!(
                        "{} by wall time, round {round}/{rounds}: root's init {}, multi-user {}",
                        subject.name,
                        seconds(times.root.last().copied().map(Duration::from_secs_f64)),
                        seconds(end.map(Duration::from_secs_f64))
                    );
                }
                ends.push(end);
            }
            let base = subjects.iter().position(|subject| subject.name == DRACUT);
            let base = base.and_then(|at| *ends.get(at)?);
            for (end, times) in ends.iter().zip(&mut times) {
                times
                    .ratios
                    .extend(end.zip(base).map(|(end, base)| end / base));
            }
        }
        let rows = subjects.iter().zip(times);
        Ok(Table {
            title: "by wall time".to_owned(),
            columns: vec![
                Column::new("first init", "s", 2),
                Column::new("root's init", "s", 2),
                Column::new("multi-user", "s", 2),
                Column::new(&format!("against {DRACUT}"), "", 2),
            ],
            rows: rows.map(|(subject, times)| times.row(subject)).collect(),
        })
    }

    /// One boot to the root's init and one to multi-user, whose time is returned.
    fn wall_round(
        &self,
        subject: &mut Subject,
        times: &mut Times,
    ) -> Result<Option<f64>, Box<dyn Error>> {
        let Some(way) = subject.to_root() else {
            return Ok(None);
        };
        let stays = subject.name == STAY;
        let goal = if stays { TO_FIRST } else { TO_ROOT };
        match self.boot(way, None, goal)? {
            Ok(mut cost) => {
                if stays {
                    cost.mark = cost.first_init;
                }
                let seconds = |time: Duration| time.as_secs_f64();
                times.first.extend(cost.first_init.map(seconds));
                times.root.extend(cost.mark.map(seconds));
            }
            Err(failure) => subject.no_root = Some(failure),
        }
        let Some(way) = subject.to_multi_user() else {
            return Ok(None);
        };
        match self.boot(&way, None, TO_MULTI_USER)? {
            Ok(cost) => {
                let end = cost.multi_user.map(|time| time.as_secs_f64());
                times.multi_user.extend(end);
                return Ok(end);
            }
            Err(failure) => subject.no_multi_user = Some(failure),
        }
        Ok(None)
    }
}

/// What a boot has to come to: in words, and where it is in what it cost.
type Goal = (&'static str, fn(&Cost) -> Option<Duration>);

const TO_FIRST: Goal = ("the image's init", |cost| cost.first_init);
const TO_ROOT: Goal = ("the root's init", |cost| cost.mark);
const TO_MULTI_USER: Goal = ("multi-user", |cost| cost.multi_user);

/// How many rounds by wall time, for a number of runs.
fn rounds(runs: u32) -> u32 {
    runs.div_ceil(2)
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| {
        format!("{:.3} s", time.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Row;
    use super::*;

    #[test]
    fn bounds_are_of_what_was_measured() {
        let row = |name: &str, first: f64, root: f64| {
            Row::new(name, [first, first, root, root].map(Cell::from).to_vec())
        };
        let mut table = Table {
            rows: vec![
                row(KERNEL, 2.0, 2.0),
                row(PARTITIONS, 3.0, 9.0),
                row(DRACUT, 3.3, 12.0),
            ],
            ..Table::default()
        };
        let figures = |table: &Table| -> Vec<(f64, bool)> {
            let bounds = bounds(table);
            bounds.iter().map(|b| (b.figure, b.met())).collect()
        };
        assert_eq!(figures(&table), [(0.1, true), (3.0, true)]);
        table.rows.push(row(MINIMAL, 2.5, 8.0));
        assert_eq!(figures(&table)[0], (1.2, false));
        table.rows.remove(0);
        assert_eq!(figures(&table), [(1.2, false), (3.0, true)]);
    }

    #[test]
    fn every_row_has_its_own_name_and_bounds_have_their_rows() {
        let rows = ways().map(|(name, whose, _)| (name, whose));
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.0).collect();
        assert_eq!(names.len(), rows.len());
        for name in [KERNEL, MINIMAL, FILE, PARTITIONS] {
            assert!(rows.contains(&(name, Whose::Ours)), "{name}");
        }
        for name in [DRACUT, INITRAMFS_TOOLS] {
            assert!(rows.contains(&(name, Whose::Peers)), "{name}");
        }
        assert!(FAR.iter().all(|name| names.contains(name)));
    }
}
