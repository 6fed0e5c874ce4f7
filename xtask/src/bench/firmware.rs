//! `cargo xtask bench firmware`: what the bytes of a UKI cost before the kernel runs.
//!
//! Firmware reads the whole file, hashes it where Secure Boot is on, and where there
//! is a TPM the firmware, systemd-stub and the kernel's EFI stub measure what is in it;
//! all that before anything of the kernel's own clock. So the init of these boots
//! reads the processor's counter, which runs since the machine's reset, and the
//! kernel's time of that line is taken away. With `-icount shift=0` the counter counts
//! instructions, a nanosecond each.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_driver::{
    Accel, Arch, Boot, Bus, Disk, Firmware, FirmwareKind, Idle, Machine, Outcome, Snakeoil, Tpm,
};
use vmtest::command;
use vmtest::disk::{Entry, fat};
use vmtest::guest;
use vmtest::initramfs;
use vmtest::mkosi::Mkosi;
use vmtest::peers::Peers;
use vmtest::set::Recipe;
use vmtest::tools::Tools;

use super::chart::Chart;
use super::parts::{self, Goal, Padding, side_by_side};
use super::report::{Cell, Column, Report, Row, Table};
use super::{Ground, Options, mib, scale};
use crate::step;

/// How often each boot is measured. They repeat within a thousandth.
const RUNS: u32 = 1;

/// What is added to a UKI with nothing else, in MiB: ends of a line.
const PADDED: [u64; 3] = [96, 192, 288];

/// Room for the file, the program that is loaded, what stub and kernel copy of it, and
/// the unpacked archive at once.
const MEMORY_MIB: u32 = 3072;

/// Room on the ESP beside the UKI, and the least that FAT32 takes, in bytes.
const ESP_SLACK: u64 = 8 << 20;
const ESP_LEAST: u64 = 40 << 20;

/// What firmware's drivers are often seen to read, in bytes a second: behind USB or
/// eMMC, and from NVMe without interrupts and queues.
const SLOW: f64 = 20e6;
const FAST: f64 = 100e6;

const KERNEL: &str = "kernel alone";

/// What firmware does with what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It reads it.
    Plain,
    /// It checks its signature.
    SecureBoot,
    /// It is measured.
    Measured,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Plain, Self::SecureBoot, Self::Measured];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SecureBoot => "Secure Boot",
            Self::Measured => "TPM",
        }
    }

    fn kind(self) -> FirmwareKind {
        match self {
            Self::SecureBoot => FirmwareKind::SecureBoot,
            Self::Plain | Self::Measured => FirmwareKind::Plain,
        }
    }
}

/// A UKI to boot, and what that took.
#[derive(Debug)]
struct Subject {
    name: String,
    /// How much was added, where it is there for that.
    padding: Option<u64>,
    /// The UKI and the same signed.
    uki: PathBuf,
    signed: PathBuf,
    bytes: u64,
    /// Seconds, the least for each of [`Mode::ALL`].
    seconds: [Option<f64>; 3],
    failures: Vec<String>,
}

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let bench = Bench::prepare(ground, folder.path())?;
    let runs = options.runs.unwrap_or(RUNS);
    let mut subjects = Vec::new();
    for (name, make) in ukis() {
        if options.wants(name) {
            println!("making: {name}");
            let initrd = make(&bench)?;
            subjects.push(bench.subject(name.to_owned(), None, initrd.as_deref())?);
        }
    }
    let padded = PADDED.map(|added| (added, format!("kernel and {added} MiB")));
    if padded.iter().any(|(_, name)| options.wants(name)) {
        println!("making: padded");
        let most = PADDED.iter().copied().max().unwrap_or(0);
        let padding = Padding::make(&bench.folder.join("to-pad"), most)?;
        for (added, name) in padded.into_iter().filter(|(_, name)| options.wants(name)) {
            let archive = bench.folder.join("archive");
            padding.archive(&archive, added)?;
            subjects.push(bench.subject(name, Some(added), Some(&archive))?);
        }
    }
    side_by_side(&mut subjects, |subject| bench.count(subject, runs))?;
    report(ground, &bench, options, runs, &subjects)
}

type MakeInitrd<'a> = fn(&Bench<'a>) -> Result<Option<PathBuf>, Box<dyn Error>>;

/// The rows that are somebody's: name and initramfs.
fn ukis<'a>() -> [(&'static str, MakeInitrd<'a>); 6] {
    [
        (KERNEL, |_| Ok(None)),
        ("initoverlayfs, virtio-blk", |b| b.ours("virtio-blk")),
        ("initoverlayfs, generic", |b| b.ours("generic")),
        ("initramfs-tools, zstd", |b| {
            Ok(Some(b.ground.guest.initramfs_tools_initrd()))
        }),
        ("dracut, generic", |b| {
            Ok(Some(b.ground.guest.dracut_initrd()))
        }),
        ("mkosi-initrd", |b| {
            let mkosi = Mkosi::ensure(&b.ground.guest, &mut |line| println!("{line}"))?;
            Ok(Some(mkosi.initrd()))
        }),
    ]
}

struct Bench<'a> {
    ground: &'a Ground,
    folder: &'a Path,
    tools: Tools,
    /// The archive with the program that reads the counter.
    ticks: PathBuf,
    /// That signs for Secure Boot.
    key: PathBuf,
    certificate: PathBuf,
}

impl<'a> Bench<'a> {
    fn prepare(ground: &'a Ground, folder: &'a Path) -> Result<Self, Box<dyn Error>> {
        let program = guest::build_freestanding("iofs-ticks", &step::logs()?.join("ticks.log"))?;
        let files = folder.join("files");
        fs::create_dir_all(files.join("dev"))?;
        fs::copy(program, files.join("ticks"))?;
        let ticks = folder.join("ticks.cpio");
        initramfs::of_files(&ticks, &files, &[".", "dev", "ticks"])?;
        fs::copy(ground.guest.kernel(), folder.join("vmlinuz"))?;
        let snakeoil = Snakeoil::find()?;
        let key = folder.join("snakeoil.key");
        command::output(
            Command::new("openssl")
                .args(["pkey", "-passin"])
                .arg(format!("pass:{}", Snakeoil::PASSPHRASE))
                .arg("-in")
                .arg(snakeoil.key)
                .arg("-out")
                .arg(&key),
        )?;
        Ok(Self {
            ground,
            folder,
            tools: Tools::ensure(&mut |line| println!("{line}"))?,
            ticks,
            key,
            certificate: snakeoil.certificate,
        })
    }

    /// The mini-initramfs with these drivers.
    fn ours(&self, modules: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
        let recipe = Recipe {
            dist: &self.ground.dist,
            guest: &self.ground.guest,
            initrd: &self.ground.guest.dracut_initrd(),
            modules,
            options: &[],
        };
        let set = recipe.build(&self.folder.join(modules))?;
        Ok(Some(set.mini_initramfs()))
    }

    /// The UKI of the kernel and this initramfs, the program before it.
    fn subject(
        &self,
        name: String,
        padding: Option<u64>,
        initrd: Option<&Path>,
    ) -> Result<Subject, Box<dyn Error>> {
        let slug = parts::slug(&name);
        let joined = self.folder.join(format!("{slug}.initrd"));
        let archives: Vec<&Path> = std::iter::once(self.ticks.as_path())
            .chain(initrd)
            .collect();
        parts::joined(&archives, &joined)?;
        let inside = |end: &str| format!("/work/{slug}.{end}");
        command::output(&mut self.tools.chroot(self.folder).command(&[
            "ukify",
            "build",
            "--linux=/work/vmlinuz",
            &format!("--initrd={}", inside("initrd")),
            "--cmdline=console=ttyS0 panic=-1 rdinit=/ticks",
            "--os-release=ID=bench",
            &format!("--uname={}", self.ground.guest.kernel_release()),
            &format!("--output={}", inside("efi")),
        ]))?;
        fs::remove_file(&joined)?;
        let uki = self.folder.join(format!("{slug}.efi"));
        let signed = self.folder.join(format!("{slug}.signed.efi"));
        command::output(
            Command::new("sbsign")
                .arg("--key")
                .arg(&self.key)
                .arg("--cert")
                .arg(&self.certificate)
                .arg("--output")
                .args([&signed, &uki]),
        )?;
        Ok(Subject {
            name,
            padding,
            bytes: fs::metadata(&uki)?.len(),
            uki,
            signed,
            seconds: [None; 3],
            failures: Vec::new(),
        })
    }

    fn count(&self, subject: &mut Subject, runs: u32) -> io::Result<()> {
        for (mode, least) in Mode::ALL.into_iter().zip(&mut subject.seconds) {
            let uki = match mode {
                Mode::SecureBoot => &subject.signed,
                Mode::Plain | Mode::Measured => &subject.uki,
            };
            let name = format!("{}, {}", subject.name, mode.name());
            let machine = self.machine(uki, mode).map_err(io::Error::other)?;
            let goal = Goal {
                family: "firmware",
                what: "the program that reads the counter",
            };
            for run in 1..=runs {
                match parts::tried(&name, &machine, &goal, before_kernel)? {
                    Ok(seconds) => {
                        println!("{name} {run}/{runs}: {seconds:.3} s");
                        *least = Some(least.map_or(seconds, |least| least.min(seconds)));
                    }
                    Err(failure) => {
                        subject.failures.push(format!("{name} {failure}."));
                        break;
                    }
                }
            }
            for disk in &machine.disks {
                fs::remove_file(&disk.path)?;
            }
        }
        Ok(())
    }

    /// One that boots this UKI, from a disk and with variables of its own.
    fn machine(&self, uki: &Path, mode: Mode) -> Result<Machine, Box<dyn Error + Send + Sync>> {
        let esp = uki.with_extension("esp");
        let size = fs::metadata(uki)?.len() + ESP_SLACK;
        let entries = [Entry::new("EFI/BOOT/BOOTX64.EFI", uki)];
        fat::make(&esp, fat::Format::new(size.max(ESP_LEAST)), &entries)?;
        let vars = uki.with_extension(format!("{mode:?}.vars"));
        let firmware = Boot::Firmware(Firmware::prepare(mode.kind(), &vars)?);
        let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, firmware);
        machine.memory_mib = MEMORY_MIB;
        machine.icount = Some(Idle::Jump);
        machine.disks.push(Disk::scratch(esp, Bus::VirtioBlk));
        machine.tpm = (mode == Mode::Measured).then(Tpm::new);
        Ok(machine)
    }
}

/// What the program in the initramfs says.
const TICKS: &str = "INITOVERLAYFS-TICKS ";

/// Seconds from the machine's reset to the start of the kernel's clock.
fn before_kernel(outcome: &Outcome) -> Option<f64> {
    let kernel = outcome.lines.iter().filter_map(|line| line.kernel.as_ref());
    kernel
        .filter_map(|(time, text)| {
            let ticks: u64 = text.strip_prefix(TICKS)?.trim().parse().ok()?;
            // A nanosecond a tick: see the module's documentation.
            let whole = std::time::Duration::from_nanos(ticks);
            Some(whole.checked_sub(*time)?.as_secs_f64())
        })
        .next()
}

/// What a MiB of UKI takes, in ms, by the padded ones.
fn per_mib(subjects: &[Subject], mode: usize) -> Option<f64> {
    scale::slope(&points(subjects, mode)).map(|seconds| seconds * 1000.0)
}

/// Size in MiB and seconds of the UKIs that are there for their size.
fn points(subjects: &[Subject], mode: usize) -> Vec<(f64, f64)> {
    let padded = subjects
        .iter()
        .filter(|s| s.padding.is_some() || s.name == KERNEL);
    padded
        .filter_map(|subject| {
            let seconds = subject.seconds.get(mode).copied().flatten()?;
            Some((mib(subject.bytes), seconds))
        })
        .collect()
}

fn row(subject: &Subject) -> Row {
    let bytes = subject.bytes as f64;
    let mut cells: Vec<Cell> = vec![mib(subject.bytes).into()];
    cells.extend(subject.seconds.map(Cell::from));
    cells.extend([FAST, SLOW].map(|rate| Cell::from(bytes / rate)));
    Row::new(&subject.name, cells)
}

fn report(
    ground: &Ground,
    bench: &Bench<'_>,
    options: &Options,
    runs: u32,
    subjects: &[Subject],
) -> Result<Report, Box<dyn Error>> {
    let mut columns = vec![Column::new("UKI", "MiB", 2)];
    columns.extend(Mode::ALL.map(|mode| Column::new(mode.name(), "s", 3)));
    columns.push(Column::new("to read at 100 MB/s", "s", 2));
    columns.push(Column::new("at 20 MB/s", "s", 2));
    let modes = Mode::ALL.into_iter().enumerate();
    let slopes = modes
        .clone()
        .map(|(at, mode)| Row::new(mode.name(), vec![per_mib(subjects, at).into()]));
    let bars = subjects.iter().filter(|s| s.padding.is_none());
    let charts = vec![
        Chart::Bars {
            axis: "seconds from reset to the kernel's clock, a nanosecond an instruction"
                .to_owned(),
            series: Mode::ALL.map(|mode| mode.name().to_owned()).to_vec(),
            bars: bars.map(|s| (s.name.clone(), s.seconds.to_vec())).collect(),
        },
        Chart::Lines {
            x: "size of the UKI, MiB".to_owned(),
            y: "seconds, a nanosecond an instruction".to_owned(),
            lines: modes
                .map(|(at, mode)| (mode.name().to_owned(), points(subjects, at)))
                .collect(),
        },
    ];
    let mut notes = notes(runs);
    notes.extend(subjects.iter().flat_map(|s| s.failures.iter().cloned()));
    let mut versions = ground.versions()?;
    versions.push(Peers::ensure(&ground.guest, &mut |line| println!("{line}"))?.versions()?);
    versions.push(bench.versions()?);
    Ok(Report {
        name: "firmware".to_owned(),
        title: "What a UKI costs before the kernel".to_owned(),
        command: options.command("firmware", runs, ""),
        notes,
        versions,
        tables: vec![
            Table {
                title: "UKI with".to_owned(),
                columns,
                rows: subjects.iter().map(row).collect(),
            },
            Table {
                title: "for each MiB".to_owned(),
                columns: vec![Column::new("takes", "ms", 2)],
                rows: slopes.collect(),
            },
        ],
        bounds: Vec::new(),
        charts,
    })
}

impl Bench<'_> {
    fn versions(&self) -> Result<String, Box<dyn Error>> {
        let ukify = self.tools.chroot(self.folder);
        let output = command::output(&mut ukify.command(&["ukify", "--version"]))?;
        let ovmf = command::output(Command::new("dpkg-query").args([
            "-W",
            "-f=${Package} ${Version}, ",
            "ovmf",
            "swtpm",
        ]));
        // Where there is no dpkg the rest still says much.
        let ovmf = ovmf.unwrap_or_default();
        Ok(format!(
            "{}{}",
            String::from_utf8_lossy(&ovmf),
            String::from_utf8_lossy(&output).trim()
        ))
    }
}

fn notes(runs: u32) -> Vec<String> {
    vec![
        "From the machine's reset to the start of the kernel's clock: OVMF's own start, reading \
         the UKI, systemd-stub, the kernel's EFI stub and its decompression. The first program \
         says how far the processor's counter is, less the kernel's time of that line. The \
         initramfs is in the UKI but its init does not run; unpacking it is not in the figures."
            .to_owned(),
        format!(
            "Counted in instructions (`-icount shift=0,sleep=off`: a nanosecond each), the least of \
             {runs} runs; they repeat within a thousandth. Two boots at once, where there are two \
             processors. q35, {MEMORY_MIB} MiB; the UKI is `EFI/BOOT/BOOTX64.EFI` on a FAT volume, \
             a virtio disk."
        ),
        "These are a processor's work alone: QEMU's disk answers in no time of the guest's. \
         Firmware reads with drivers of its own, without interrupts and queues, often 20 to \
         100 MB/s: the last two columns are bytes divided by that and come on top."
            .to_owned(),
        "Secure Boot: firmware with test keys, the UKI signed with one of them. TPM: swtpm with the \
         banks that it begins with, no Secure Boot. Which part is hashed how often was not traced; \
         the slopes are of all that is done. A real processor does more than one instruction in \
         a nanosecond, and firmware with SHA instructions or fewer banks needs fewer."
            .to_owned(),
        "Kernel and N MiB: nothing but that program and random bytes, uncompressed, as initrd. \
         For each MiB: the slope of the line nearest to these points (least squares)."
            .to_owned(),
        "initoverlayfs's image is beside the UKI and is not read by firmware. The others' \
         initramfs files hold all that a boot may need."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qemu_driver::{ConsoleLine, Exit};

    use super::*;

    fn subject(name: &str, padding: Option<u64>, mib: u64, seconds: f64) -> Subject {
        Subject {
            name: name.to_owned(),
            padding,
            uki: PathBuf::new(),
            signed: PathBuf::new(),
            bytes: mib << 20,
            seconds: [Some(seconds), None, Some(2.0 * seconds)],
            failures: Vec::new(),
        }
    }

    #[test]
    fn the_kernels_own_time_is_taken_away() {
        let outcome = |text: &[u8]| Outcome {
            exit: Exit::PowerOff,
            wall: Duration::ZERO,
            lines: vec![
                ConsoleLine::new(Duration::ZERO, b"BdsDxe: starting"),
                ConsoleLine::new(Duration::ZERO, text),
            ],
            disks: Vec::new(),
            touched_bytes: None,
        };
        let of = |text| before_kernel(&outcome(text));
        assert_eq!(
            of(b"[    2.000000] INITOVERLAYFS-TICKS 5500000000"),
            Some(3.5)
        );
        assert_eq!(of(b"[    2.000000] INITOVERLAYFS-TICKS 1"), None);
        assert_eq!(of(b"[    2.000000] INITOVERLAYFS-TICKS "), None);
        assert_eq!(of(b"INITOVERLAYFS-TICKS 5500000000"), None);
    }

    #[test]
    fn a_mib_is_what_the_padded_ones_differ_by() {
        let subjects = [
            subject(KERNEL, None, 12, 3.0),
            subject("dracut", None, 47, 99.0),
            subject("kernel and 100 MiB", Some(100), 112, 3.5),
            subject("kernel and 200 MiB", Some(200), 212, 4.0),
        ];
        assert_eq!(points(&subjects, 0).len(), 3);
        assert_eq!(points(&subjects, 1), []);
        assert!((per_mib(&subjects, 0).unwrap() - 5.0).abs() < 1e-9);
        assert!((per_mib(&subjects, 2).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(per_mib(&subjects, 1), None);
        assert_eq!(per_mib(&subjects[..1], 0), None);
    }

    #[test]
    fn reading_takes_as_long_as_its_bytes() {
        let cells = row(&subject("", None, 100, 1.0)).cells;
        assert_eq!(cells.len(), 6);
        assert_eq!(cells[2], Cell::Nothing);
        assert_eq!(cells[4], Cell::Number(1.048_576));
        assert_eq!(cells[5], Cell::Number(5.242_88));
    }

    #[test]
    fn rows_are_told_apart_also_as_files() {
        let mut slugs = ukis().map(|(name, _)| parts::slug(name)).to_vec();
        slugs.sort();
        slugs.dedup();
        assert_eq!(slugs.len(), ukis().len());
    }
}
