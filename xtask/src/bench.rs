//! `cargo xtask bench boot`: what a boot costs, on the clock that counts
//! instructions.
//!
//! Each boot ends at the same program, the marker init, so that only the way to
//! it is measured: a static program that writes one line to the kernel log,
//! whose timestamp is the figure. With `-icount shift=0,sleep=off` a
//! nanosecond is an instruction; waits for the disk, which answers in real
//! time, can only add, so the least of several runs is shown beside the median.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Machine, Outcome, RunOptions, Vm};
use vmtest::guest::{self, Guest};

use crate::step;
use crate::table::{mib, render};

/// How the boots are measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each boot is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Only the boots whose name contains this.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
}

/// One way to boot.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) initrd: PathBuf,
    pub(crate) append: String,
    pub(crate) disks: Vec<PathBuf>,
}

/// What a boot cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    pub(crate) read: u64,
    pub(crate) touched: u64,
}

/// The guest's own ways: the kernel's floor and Debian's two generators.
fn plain_ways(guest: &Guest, folder: &Path) -> Result<Vec<Way>, vmtest::Error> {
    let floor = folder.join("mark.cpio");
    vmtest::initramfs::of_program(&floor, &guest.mark())?;
    let way = |name: &str, initrd: PathBuf| Way {
        name: name.to_owned(),
        initrd,
        append: format!("root=LABEL={} rw init={}", guest::ROOT_LABEL, guest::MARK),
        disks: vec![guest.root_image()],
    };
    Ok(vec![
        way("kernel alone, marker as /init", floor),
        way(
            "initramfs-tools, MODULES=most",
            guest.initramfs_tools_initrd(),
        ),
        way("dracut, any host", guest.dracut_initrd()),
    ])
}

/// The task.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    step::packages()?;
    let guest = step::guest()?;
    let folder = tempfile::tempdir()?;
    let mut rows = vec![vec![
        "to the next init".to_owned(),
        "median s".to_owned(),
        "least s".to_owned(),
        "initrd".to_owned(),
        "read".to_owned(),
        "RAM touched".to_owned(),
    ]];
    for way in plain_ways(&guest, folder.path())? {
        if args
            .only
            .as_ref()
            .is_some_and(|only| !way.name.contains(only))
        {
            continue;
        }
        let mut costs = Vec::new();
        for run in 1..=args.runs {
            let cost = measure(&guest, &way)?;
            eprintln!(
                "{} {run}/{}: {:.3} s",
                way.name,
                args.runs,
                cost.time.as_secs_f64()
            );
            costs.push(cost);
        }
        rows.extend(row(&way, &mut costs)?);
    }
    print!("{}", render(&rows));
    Ok(())
}

fn row(way: &Way, costs: &mut [Cost]) -> Result<Option<Vec<String>>, Box<dyn Error>> {
    costs.sort_by_key(|cost| cost.time);
    let (Some(least), Some(median)) = (costs.first(), costs.get(costs.len() / 2)) else {
        return Ok(None);
    };
    Ok(Some(vec![
        way.name.clone(),
        format!("{:.3}", median.time.as_secs_f64()),
        format!("{:.3}", least.time.as_secs_f64()),
        mib(std::fs::metadata(&way.initrd)?.len()),
        mib(median.read),
        mib(median.touched),
    ]))
}

/// Boots once, to the marker.
pub(crate) fn measure(guest: &Guest, way: &Way) -> Result<Cost, Box<dyn Error>> {
    let outcome = boot(guest, way)?;
    let time = outcome
        .time_of(guest::MARKED)
        .ok_or_else(|| format!("{}: the marker init did not run", way.name))?;
    Ok(Cost {
        time,
        read: outcome.disks.iter().map(|disk| disk.read_bytes).sum(),
        touched: outcome.touched_bytes.unwrap_or(0),
    })
}

fn boot(guest: &Guest, way: &Way) -> Result<Outcome, qemu_driver::Error> {
    let mut machine = Machine::new(
        Arch::X86_64,
        Accel::Tcg,
        Boot::Direct {
            kernel: guest.kernel(),
            initrd: Some(way.initrd.clone()),
            append: format!("console=ttyS0 panic=-1 {}", way.append),
        },
    );
    machine.icount = true;
    machine.disks = way
        .disks
        .iter()
        .map(|path| Disk::scratch(path, Bus::VirtioBlk))
        .collect();
    let options = RunOptions {
        count_memory: true,
        ..RunOptions::default()
    };
    Vm::start(&machine, options)?.finish(Duration::from_secs(400))
}
