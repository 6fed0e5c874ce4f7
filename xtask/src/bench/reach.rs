//! `cargo xtask bench reach`: what it costs to be able to boot anywhere.
//!
//! Four questions, each a bound of the project: what the drivers for any machine
//! cost where few are needed, what forty disks cost that are not the one, what a
//! second processor saves, and how soon a stick that comes late boots. Each boot
//! ends at storage-init's exec; its times are the guest kernel's.
//!
//! Three of them are counted in instructions (`-icount`). What two processors
//! do at once cannot be: there the clock is the host's, and only ratios of boots
//! that were made in pairs are compared.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use qemu_driver::{Accel, Arch, Boot, Bus, Crowd, Disk, Idle, Machine, RunOptions, Vm};
use tempfile::TempDir;
use vmtest::guest;
use vmtest::set::{Recipe, Set};

use super::chart::Chart;
use super::report::{Bound, Column, Report, Row as Line, Table};
use super::{Ground, Options, median, sorted};

/// How often each boot, or pair of boots, is measured.
const RUNS: u32 = 5;

/// The drivers of the disk that the guest has: the profile for one machine.
const HOST: &str = "virtio-blk";

/// How many disks are beside the one.
const OTHERS: usize = 40;

/// How late the stick is.
const LATE: Duration = Duration::from_secs(15);

/// The limit on one boot, in wall time.
const LIMIT: Duration = Duration::from_secs(300);

const START: &str = "storage-init: [stage start]";
const EXEC: &str = "storage-init: [stage exec]";
const ATTACHED: &str = "] Attached SCSI";

/// When storage-init began and ended, by the guest's clock.
#[derive(Debug, Clone, Copy)]
struct Times {
    start: Duration,
    exec: Duration,
}

impl Times {
    /// Seconds of storage-init.
    fn own(self) -> f64 {
        self.exec.saturating_sub(self.start).as_secs_f64()
    }

    /// Seconds since power-on.
    fn whole(self) -> f64 {
        self.exec.as_secs_f64()
    }
}

/// A figure and what it may be at most.
struct Row {
    name: String,
    /// What it is compared with, in seconds; none for a time that stands alone.
    base: Option<f64>,
    /// Seconds.
    time: f64,
    /// The figure: a ratio, or seconds where there is no base.
    figure: f64,
    bound: f64,
}

struct Reach<'a> {
    ground: &'a Ground,
    /// For sets and disks; goes away.
    folder: TempDir,
    runs: u32,
}

type Measure<'a> = fn(&Reach<'a>) -> Result<Vec<Row>, Box<dyn Error>>;

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let reach = Reach {
        ground,
        folder: tempfile::tempdir()?,
        runs: options.runs.unwrap_or(RUNS),
    };
    let questions: [(&str, Measure<'_>); 6] = [
        ("any machine's drivers", Reach::profiles),
        ("40 virtio-scsi disks", |r| r.crowd(Bus::VirtioScsi)),
        ("40 virtio-blk disks", |r| r.crowd(Bus::VirtioBlk)),
        ("40 nvme disks", |r| r.crowd(Bus::Nvme)),
        ("two processors", Reach::processors),
        ("usb stick", Reach::late),
    ];
    let mut rows = Vec::new();
    for (name, measure) in questions
        .into_iter()
        .filter(|(name, _)| options.wants(name))
    {
        println!("{name}");
        rows.extend(measure(&reach)?);
    }
    report(ground, options, reach.runs, &rows)
}

impl Reach<'_> {
    /// A machine that boots the set with these drivers, and no disk yet.
    fn machine(&self, modules: &str) -> Result<(Machine, PathBuf), Box<dyn Error>> {
        let dir = self.folder.path().join(modules);
        let disk = self.folder.path().join(format!("{modules}.img"));
        let set = if dir.is_dir() {
            Set::open(&dir)?
        } else {
            let initrd = self.ground.guest.dracut_initrd();
            let recipe = Recipe {
                dist: &self.ground.dist,
                guest: &self.ground.guest,
                initrd: &initrd,
                modules,
                options: &[],
            };
            let set = recipe.build(&dir)?;
            set.disk(&disk, &self.ground.guest, 512)?;
            set
        };
        let boot = Boot::Direct {
            kernel: self.ground.guest.kernel(),
            initrd: Some(set.mini_initramfs()),
            append: format!(
                "console=ttyS0 panic=-1 root=LABEL={} rw init={}",
                guest::ROOT_LABEL,
                guest::MARK
            ),
        };
        let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, boot);
        machine.cpus = 1;
        Ok((machine, disk))
    }

    /// The least of the runs: where the guest waits, its clock only ever jumps
    /// ahead.
    fn least(&self, machine: &Machine) -> Result<(f64, f64), Box<dyn Error>> {
        let mut own = f64::INFINITY;
        let mut whole = f64::INFINITY;
        for _ in 0..self.runs {
            let times = boot(machine)?;
            println!("  own {:.3} s, exec at {:.3} s", times.own(), times.whole());
            own = own.min(times.own());
            whole = whole.min(times.whole());
        }
        Ok((own, whole))
    }

    fn profiles(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let mut measured = Vec::new();
        for modules in [HOST, "generic"] {
            let (mut machine, disk) = self.machine(modules)?;
            machine.icount = Some(Idle::Jump);
            machine.disks.push(Disk::scratch(disk, Bus::VirtioBlk));
            measured.push(self.least(&machine)?);
        }
        let [host, generic] = measured[..] else {
            return Ok(Vec::new());
        };
        Ok(vec![
            Row::ratio(
                "any machine's drivers, PID 1 to exec",
                host.0,
                generic.0,
                1.15,
            ),
            Row::ratio(
                "any machine's drivers, power-on to exec",
                host.1,
                generic.1,
                1.05,
            ),
        ])
    }

    fn crowd(&self, bus: Bus) -> Result<Vec<Row>, Box<dyn Error>> {
        let mut measured = Vec::new();
        for count in [0, OTHERS] {
            let (mut machine, disk) = self.machine("generic")?;
            machine.icount = Some(Idle::Jump);
            machine.crowds.push(Crowd {
                bus,
                count,
                content: None,
            });
            machine.disks.push(Disk::scratch(disk, bus));
            measured.push(self.least(&machine)?);
        }
        let [one, many] = measured[..] else {
            return Ok(Vec::new());
        };
        let name = format!("{OTHERS} more {} disks", bus.name());
        Ok(vec![
            Row::ratio(&format!("{name}, PID 1 to exec"), one.0, many.0, 1.5),
            Row::ratio(&format!("{name}, power-on to exec"), one.1, many.1, 1.5),
        ])
    }

    /// QEMU runs each processor in a thread of its own. The median of the ratios,
    /// each of two boots made one after the other.
    fn processors(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let (mut machine, disk) = self.machine("generic")?;
        machine.disks.push(Disk::scratch(disk, Bus::VirtioBlk));
        let mut pairs = Vec::new();
        for _ in 0..self.runs {
            let mut own = |cpus| {
                machine.cpus = cpus;
                boot(&machine).map(Times::own)
            };
            let (one, two) = (own(1)?, own(2)?);
            println!("  one {one:.3} s, two {two:.3} s: {:.2}", two / one);
            pairs.push((one, two));
        }
        pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (one, two) = median(&pairs).ok_or("nothing was measured")?;
        let name = "two processors, PID 1 to exec (wall)";
        Ok(vec![Row::ratio(name, one, two, 0.75)])
    }

    /// From the kernel's line that the disk is attached, behind the uevents of its
    /// partitions, to exec. The clock follows the host's while the guest waits.
    fn late(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let (mut machine, disk) = self.machine("generic")?;
        machine.icount = Some(Idle::RealTime);
        machine.sockets.push(Bus::Usb);
        let stick = Disk::scratch(disk, Bus::Usb);
        let mut micros = Vec::new();
        for _ in 0..self.runs {
            let mut vm = Vm::start(&machine, RunOptions::default())?;
            time_of(&mut vm, START)?;
            thread::sleep(LATE);
            vm.plug(0, &stick)?;
            let attached = time_of(&mut vm, ATTACHED)?;
            let time = time_of(&mut vm, EXEC)?.saturating_sub(attached);
            vm.stop()?;
            println!("  {:.3} s", time.as_secs_f64());
            micros.push(time);
        }
        let time = median(&sorted(micros)).unwrap_or_default().as_secs_f64();
        Ok(vec![Row {
            name: "USB stick, 15 s late: from attached to exec".to_owned(),
            base: None,
            time,
            figure: time,
            bound: 0.5,
        }])
    }
}

impl Row {
    fn ratio(name: &str, base: f64, time: f64, bound: f64) -> Self {
        Self {
            name: name.to_owned(),
            base: Some(base),
            time,
            figure: time / base,
            bound,
        }
    }
}

/// Boots to storage-init's exec. A kernel that falls before storage-init begins
/// has fallen over the emulator (see the tests' `support.rs`) and is tried again.
fn boot(machine: &Machine) -> Result<Times, Box<dyn Error>> {
    const TRIES: usize = 3;
    let mut last = None;
    for _ in 0..TRIES {
        let mut vm = Vm::start(machine, RunOptions::default())?;
        match time_of(&mut vm, START) {
            Ok(start) => {
                let exec = time_of(&mut vm, EXEC)?;
                vm.stop()?;
                return Ok(Times { start, exec });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| "nothing was booted".into()))
}

/// The guest's clock at its next line with this text.
fn time_of(vm: &mut Vm, text: &str) -> Result<Duration, Box<dyn Error>> {
    let line = vm.wait_for(text, LIMIT, |line| line.text.contains(text))?;
    let (time, _) = line
        .kernel
        .ok_or_else(|| format!("a line without a time: {}", line.text))?;
    Ok(time)
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    rows: &[Row],
) -> Result<Report, Box<dyn Error>> {
    let lines = rows.iter().map(|row| {
        let cells = vec![row.base.into(), row.time.into()];
        Line::new(&row.name, cells)
    });
    let bounds = rows.iter().map(|row| {
        let unit = if row.base.is_some() { "" } else { "s" };
        Bound::new(&row.name, row.figure, row.bound, unit)
    });
    let bars = rows
        .iter()
        .map(|row| (row.name.clone(), vec![Some(row.figure / row.bound)]));
    Ok(Report {
        name: "reach".to_owned(),
        title: "What it costs to boot anywhere".to_owned(),
        command: options.command("reach", runs, ""),
        notes: vec![
            "Guest: q35, no `quiet`; the image is dracut's initramfs, sealed, a file on the ESP."
                .to_owned(),
            "PID 1: from storage-init's first line to its exec. Power-on: the kernel's clock there."
                .to_owned(),
            format!("Any machine's drivers: `--modules generic` against `--modules {HOST}`."),
            format!(
                "{OTHERS} more disks: of zeros, behind the boot disk's kind of controller, before \
                 it."
            ),
            format!(
                "These are counted in instructions (`-icount shift=0,sleep=off`), the least of \
                 {runs} runs."
            ),
            format!(
                "Two processors against one: by the host's clock (QEMU's multi-threaded TCG), the \
                 median of {runs} ratios, each of two boots in a row."
            ),
            "USB stick: from the kernel's line that the disk is attached, `-icount \
             shift=0,sleep=on`, the median."
                .to_owned(),
        ],
        versions: ground.versions()?,
        tables: vec![Table {
            title: "what, against what it is compared with".to_owned(),
            columns: vec![Column::new("against", "s", 3), Column::new("time", "s", 3)],
            rows: lines.collect(),
        }],
        bounds: bounds.collect(),
        charts: vec![Chart::Bars {
            axis: "figure as a part of its bound (1 is the bound)".to_owned(),
            series: vec!["figure / bound".to_owned()],
            bars: bars.collect(),
        }],
    })
}
