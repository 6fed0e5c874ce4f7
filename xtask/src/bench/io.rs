//! `cargo xtask bench io`: what a boot reads of its image, and how long that takes
//! on drives of all kinds.
//!
//! A boot of Debian is recorded once in QEMU ([`recorded`]): which pages of the
//! image it reads. The same pages are then read again, in the same order, in
//! user-mode-linux, through what storage-init makes of the image (dm-verity, EROFS,
//! overlay) and beside its reader-ahead, from a disk that takes as long as a model
//! of a drive says ([`vmtest::drive`]). Only the layout of the image and the reader
//! ahead differ. That runs at the machine's own speed, so times are the host's, and
//! what is compared is boots that were made one after the other.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vmtest::command;
use vmtest::disk;
use vmtest::drive::served::{Asked, Served};
use vmtest::drive::{DRIVES, Drive, NONE};
use vmtest::guest;
use vmtest::initramfs;
use vmtest::set::{Recipe, Set, taken_apart};
use vmtest::uml::{self, Uml, UmlOutcome};

use super::chart::Chart;
use super::report::{Bound, Column, Report, Row, Table};
use super::{Ground, Options, median, mib};
use crate::step;

mod recorded;

/// How often each drive has its turn.
const RUNS: u32 = 5;

/// The limit on one boot.
const LIMIT: Duration = Duration::from_secs(90);

const DISK_GUID: iofs_gpt::Uuid =
    iofs_gpt::Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0010);

/// Files that programs map; all others are read.
const MAPPED: [&str; 5] = [
    ".so",
    "bin/",
    "libexec/",
    "usr/lib/systemd/systemd",
    "ld-linux",
];

/// What is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    /// The profile of a boot of the guest's dracut image, instead of recording one.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Microseconds that a boot computes at each file before it reads it.
    #[arg(long, value_name = "US", default_value_t = 0)]
    think: u32,
    /// Further words on the kernel command line, of storage-init or iofs-replay:
    /// `replay.read_ahead=KIB`, `replay.spins=0`.
    #[arg(long, value_name = "WORDS", default_value = "")]
    words: String,
}

/// An image and what reads it ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    layout: Layout,
    ahead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    Natural,
    Guessed,
    Recorded,
}

const NATURAL: Variant = Variant {
    name: "natural order",
    layout: Layout::Natural,
    ahead: false,
};

const HOT: Variant = Variant {
    name: "by profile",
    layout: Layout::Recorded,
    ahead: false,
};

/// The first is what the others are compared with, the last what the bounds are
/// on.
const VARIANTS: [Variant; 4] = [
    NATURAL,
    Variant {
        name: "by a guess, read ahead",
        layout: Layout::Guessed,
        ahead: true,
    },
    HOT,
    Variant {
        name: "by profile, read ahead",
        layout: Layout::Recorded,
        ahead: true,
    },
];

/// One boot.
#[derive(Debug, Clone)]
struct Sample {
    /// From the verified device to the last page, in seconds.
    time: f64,
    /// How much of that was before the first page.
    start: f64,
    asked: Asked,
    /// What the reader-ahead said.
    ahead: Option<String>,
}

struct Io {
    _folder: TempDir,
    /// Initramfs and disk.
    disks: BTreeMap<Layout, (PathBuf, PathBuf)>,
    /// On every kernel command line.
    words: String,
}

/// The family, as `bench all` runs it.
pub(super) fn run_default(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let args = Args {
        options: options.clone(),
        ..Args::default()
    };
    run(ground, &args)
}

/// The family.
pub(super) fn run(ground: &Ground, args: &Args) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let profile = match &args.profile {
        Some(path) => path.clone(),
        None => {
            println!("recording a boot");
            recorded::profile(ground, folder.path())?
        }
    };
    let profile = fs::canonicalize(profile)?;
    let json: Value = serde_json::from_slice(&fs::read(&profile)?)?;
    let list = list(&json)?;
    println!("building images");
    let mut io = Io::prepare(ground, folder, &profile, &list)?;
    let runs = args.options.runs.unwrap_or(RUNS);
    let needed = io.needed()?;
    io.words = format!("replay.think={} {}", args.think, args.words);
    let mut drives = Vec::new();
    for drive in DRIVES
        .iter()
        .chain([&NONE])
        .filter(|d| args.options.wants(d.name))
    {
        drives.push(io.drive(drive, runs)?);
    }
    report(ground, args, runs, &list, &needed, &drives)
}

/// A drive's boots: a round each, a sample a variant.
struct Measured {
    drive: &'static Drive,
    rounds: Vec<Vec<Sample>>,
}

impl Measured {
    fn median_of(&self, figure: impl Fn(&[Sample]) -> Option<f64>) -> f64 {
        let mut figures: Vec<f64> = self.rounds.iter().filter_map(|r| figure(r)).collect();
        figures.sort_by(f64::total_cmp);
        median(&figures).unwrap_or(f64::NAN)
    }

    fn time(&self, variant: usize) -> f64 {
        self.median_of(|round| Some(round.get(variant)?.time))
    }

    /// Against the first variant of the same round.
    fn ratio(&self, variant: usize) -> f64 {
        self.median_of(|round| Some(round.get(variant)?.time / round.first()?.time))
    }
}

/// What reading without any read-ahead takes, by layout.
struct Needed {
    natural: Asked,
    recorded: Asked,
}

impl Io {
    fn prepare(
        ground: &Ground,
        folder: TempDir,
        profile: &Path,
        list: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let log = step::logs()?.join("io.log");
        let program = guest::build_freestanding("iofs-replay", &log)?;
        let release = Uml::release()?;
        let modules = Path::new(uml::MODULES).join(&release);
        let dir = folder.path();
        let first = dir.join("first");
        fs::create_dir_all(first.join("replay"))?;
        fs::create_dir_all(first.join(".extra"))?;
        fs::create_dir_all(dir.join("init"))?;
        fs::copy(&program, first.join("replay/first"))?;
        fs::copy(&program, dir.join("init/init"))?;
        fs::copy(
            modules.join("kernel/drivers/block/virtio_blk.ko"),
            first.join("replay/virtio_blk.ko"),
        )?;
        fs::write(first.join(".extra/replay"), list)?;
        let appended = dir.join("appended");
        let names = [
            "replay",
            "replay/first",
            "replay/virtio_blk.ko",
            ".extra",
            ".extra/replay",
        ];
        initramfs::of_files(&appended, &first, &names)?;
        let init = dir.join("init.cpio");
        initramfs::of_files(&init, &dir.join("init"), &["init"])?;
        let tools = dir.join("tools.cpio");
        recovery_tools(&ground.guest.tree(), &tools)?;
        let initrd = dir.join("initrd");
        // What dracut chose stands over what the root has.
        joined(&[&tools, &ground.guest.dracut_initrd(), &init], &initrd)?;
        fs::remove_file(&tools)?;
        let kernel = dir.join("vmlinuz");
        fs::write(&kernel, header_of(&release))?;

        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (kernel, modules, profile) = (text(&kernel), text(&modules), text(profile));
        let mut disks = BTreeMap::new();
        for (layout, wanted) in [
            (Layout::Natural, "none"),
            (Layout::Guessed, "auto"),
            (Layout::Recorded, &profile),
        ] {
            let name = format!("{layout:?}");
            let options = [
                "--kernel",
                &kernel,
                "--modules-dir",
                &modules,
                "--image-on",
                "partition",
                "--profile",
                wanted,
            ];
            let set: Set = Recipe {
                dist: &ground.dist,
                guest: &ground.guest,
                initrd: &initrd,
                modules: "virtio-blk",
                options: &options,
            }
            .build(&dir.join(&name))?;
            let archive = dir.join(format!("{name}.initrd"));
            joined(&[&set.mini_initramfs(), &appended], &archive)?;
            let disk = dir.join(format!("{name}.disk"));
            let parts = dir.join(format!("{name}.parts"));
            fs::create_dir_all(&parts)?;
            disk::make(&disk, 512, DISK_GUID, &taken_apart(&set.image, &parts)?)?;
            fs::remove_dir_all(&parts)?;
            disks.insert(layout, (archive, disk));
        }
        Ok(Self {
            _folder: folder,
            disks,
            words: String::new(),
        })
    }

    /// Without read-ahead of any kind, from a drive that does not matter.
    fn needed(&self) -> Result<Needed, Box<dyn Error>> {
        let read = |variant| {
            let sample = self.boot(variant, &NONE, "replay.read_ahead=0")?;
            Ok::<Asked, Box<dyn Error>>(sample.asked)
        };
        Ok(Needed {
            natural: read(NATURAL)?,
            recorded: read(HOT)?,
        })
    }

    fn drive(&self, drive: &'static Drive, runs: u32) -> Result<Measured, Box<dyn Error>> {
        println!("{}", drive.name);
        let mut rounds = Vec::new();
        for _ in 0..runs {
            let mut round = Vec::new();
            for variant in VARIANTS {
                let sample = self.boot(variant, drive, "")?;
                println!(
                    "  {:<24}{:8.3} s ({:.3} to exec) {:5} requests {:6.1} MiB  {}",
                    variant.name,
                    sample.time,
                    sample.start,
                    sample.asked.requests(),
                    mib(sample.asked.bytes()),
                    sample.ahead.as_deref().unwrap_or("")
                );
                round.push(sample);
            }
            rounds.push(round);
        }
        Ok(Measured { drive, rounds })
    }

    fn boot(&self, variant: Variant, drive: &Drive, words: &str) -> Result<Sample, Box<dyn Error>> {
        let (archive, disk) = self
            .disks
            .get(&variant.layout)
            .ok_or("an image is missing")?;
        let served = Served::start(disk, *drive)?;
        let mut uml = Uml::new(archive);
        uml.memory_mib = 512;
        uml.append = format!(
            "{} rdinit=/replay/first replay.spins={} {} {words}{}",
            served.word(),
            u8::from(drive.spins.is_some()),
            self.words,
            if variant.ahead {
                ""
            } else {
                " initoverlayfs.prefetch=off"
            }
        );
        let outcome = uml.run_until("the report of the replay", LIMIT, |line| {
            line.text.contains("REPLAY end")
        })?;
        let asked = served.asked();
        sample(&outcome, asked).ok_or_else(|| {
            format!(
                "{} on {}: no report in\n{}",
                variant.name,
                drive.name,
                outcome.text()
            )
            .into()
        })
    }
}

/// What a boot reported; `None` if it failed.
fn sample(outcome: &UmlOutcome, asked: Asked) -> Option<Sample> {
    let report = outcome.find("REPLAY begun=")?.message().to_owned();
    let number = |name: &str| -> Option<u64> {
        let text = report.split(' ').find_map(|w| w.strip_prefix(name))?;
        text.strip_prefix('=')?.parse().ok()
    };
    if number("failed")? != 0 || outcome.find("REPLAY failed").is_some() {
        return None;
    }
    let boot: String = outcome
        .lines
        .iter()
        .filter_map(|line| line.message().strip_prefix("REPLAY-BOOT "))
        .collect();
    let boot: Value = serde_json::from_str(&boot).ok()?;
    let mounted = boot
        .get("stages")?
        .as_array()?
        .iter()
        .find(|stage| stage["name"] == "image")?
        .get("us")?
        .as_u64()?;
    let ahead = outcome
        .find("read ahead: ")
        .and_then(|line| line.text.split_once("read ahead: "))
        .map(|(_, text)| text.to_owned());
    let since_mount =
        |name: &str| -> Option<f64> { Some(number(name)?.saturating_sub(mounted) as f64 / 1e6) };
    Some(Sample {
        time: since_mount("ended")?,
        start: since_mount("begun")?,
        asked,
        ahead,
    })
}

/// The list for iofs-replay: each file's pages where the boot first came to it.
fn list(profile: &Value) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let files = profile["files"].as_array().ok_or("no boot profile")?;
    for file in files {
        let path = file["path"].as_str().ok_or("a file without a path")?;
        let how = if MAPPED.iter().any(|part| path.contains(part)) {
            'm'
        } else {
            'r'
        };
        let mut shown = path;
        for range in file["pages"].as_array().into_iter().flatten() {
            let number = |at: usize| range.get(at).and_then(Value::as_u64);
            let (first, count) = number(0).zip(number(1)).ok_or("a range without numbers")?;
            text.push_str(&format!("{how} {first} {count} {shown}\n"));
            shown = "";
        }
    }
    Ok(text)
}

/// An archive of the root's programs, libraries, drivers and data, as an image with
/// complete recovery tools has them. The configuration is left out: it would have
/// systemd and udev read more than the recorded boot did.
fn recovery_tools(tree: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    const PARTS: [&str; 4] = ["usr/bin", "usr/sbin", "usr/lib", "usr/share"];
    const NOT: [&str; 3] = ["usr/lib/systemd/*", "usr/lib/udev/*", "usr/lib/*.d/*"];
    let mut find = Command::new("find");
    find.args(PARTS).current_dir(tree);
    for pattern in NOT {
        find.args(["-not", "-path", pattern]);
    }
    let names = command::output(&mut find)?;
    let archive = command::output_with_input(
        Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(tree),
        names.as_ref(),
    )?;
    fs::write(to, archive)?;
    Ok(())
}

/// Initramfs archives in one, each at a multiple of 512 bytes.
fn joined(parts: &[&Path], to: &Path) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend(fs::read(part)?);
    }
    fs::write(to, bytes)
}

/// The header of an x86 kernel (Documentation/arch/x86/boot.rst): all that the
/// builder looks at, for a kernel that is a program.
fn header_of(release: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    let mut put = |at: usize, data: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + data.len()) {
            place.copy_from_slice(data);
        }
    };
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    // Less 0x200, where the release is.
    put(0x20e, &0x100_u16.to_le_bytes());
    put(0x300, release.as_bytes());
    bytes
}

fn report(
    ground: &Ground,
    args: &Args,
    runs: u32,
    list: &str,
    needed: &Needed,
    drives: &[Measured],
) -> Result<Report, Box<dyn Error>> {
    let last = VARIANTS.len() - 1;
    let mut columns = vec![Column::new("natural order", "s", 3)];
    for variant in VARIANTS.iter().skip(1) {
        columns.push(Column::new(variant.name, "s", 3));
    }
    for variant in VARIANTS.iter().skip(1) {
        columns.push(Column::new(
            &format!("{}, against natural order", variant.name),
            "",
            2,
        ));
    }
    let times = drives.iter().map(|measured| {
        let cells = (0..VARIANTS.len())
            .map(|at| measured.time(at).into())
            .chain((1..VARIANTS.len()).map(|at| measured.ratio(at).into()))
            .collect();
        Row::new(measured.drive.name, cells)
    });
    let mut bounds = Vec::new();
    for measured in drives.iter().filter(|m| m.drive.name != NONE.name) {
        let name = measured.drive.name;
        let most = match name {
            "eMMC" | "SD card" => 1.0 / 1.8,
            "HDD" => 1.0 / 5.0,
            _ => 1.0,
        };
        let text = format!("{name}: by profile and read ahead, against natural order");
        bounds.push(Bound::new(&text, measured.ratio(last), most, ""));
    }
    let mut read = vec![
        read_row(
            "natural order, no read-ahead of the kernel's",
            &needed.natural,
        ),
        read_row(
            "by profile, no read-ahead of the kernel's",
            &needed.recorded,
        ),
    ];
    let emmc = drives.first();
    let first_round = emmc.and_then(|measured| measured.rounds.first());
    for (variant, sample) in VARIANTS.iter().zip(first_round.into_iter().flatten()) {
        let least = match variant.layout {
            Layout::Recorded => needed.recorded.bytes(),
            Layout::Natural | Layout::Guessed => needed.natural.bytes(),
        };
        read.push(read_row(variant.name, &sample.asked));
        let text = format!("bytes read against bytes needed, {}", variant.name);
        let ratio = sample.asked.bytes() as f64 / least as f64;
        bounds.push(Bound::new(&text, ratio, 1.2, ""));
    }
    let mut options = String::new();
    if let Some(profile) = &args.profile {
        options.push_str(&format!(" --profile {}", profile.display()));
    }
    if args.think > 0 {
        options.push_str(&format!(" --think {}", args.think));
    }
    let pages: u64 = list
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .sum();
    if !args.words.is_empty() {
        options.push_str(&format!(" --words '{}'", args.words));
    }
    let mut versions = ground.versions()?;
    versions.push(format!("user-mode-linux {}", Uml::release()?));
    let seconds = VARIANTS.iter().enumerate().map(|(at, _)| at);
    Ok(Report {
        name: "io".to_owned(),
        title: "What a boot reads, and how long it takes".to_owned(),
        command: args.options.command("io", runs, &options),
        notes: notes(pages),
        versions,
        tables: vec![
            Table {
                title: "drive".to_owned(),
                columns,
                rows: times.collect(),
            },
            waiting(drives),
            Table {
                title: "read of the drive".to_owned(),
                columns: vec![
                    Column::new("requests", "", 0),
                    Column::new("not where the last ended", "", 0),
                    Column::new("data", "MiB", 1),
                ],
                rows: read,
            },
        ],
        bounds,
        charts: drives
            .iter()
            .map(|measured| Chart::Bars {
                axis: format!("{}: s", measured.drive.name),
                series: vec!["from the mount to the last page".to_owned()],
                bars: seconds
                    .clone()
                    .filter_map(|at| {
                        let name = VARIANTS.get(at)?.name.to_owned();
                        Some((name, vec![Some(measured.time(at))]))
                    })
                    .collect(),
            })
            .collect(),
    })
}

/// What each drive adds to the times of the drive that takes none.
fn waiting(drives: &[Measured]) -> Table {
    let columns = VARIANTS.iter().map(|v| Column::new(v.name, "s", 3));
    let none = drives.iter().find(|m| m.drive.name == NONE.name);
    let rows = drives
        .iter()
        .filter(|m| m.drive.name != NONE.name)
        .map(|measured| {
            let cells = (0..VARIANTS.len())
                .map(|at| none.map(|none| measured.time(at) - none.time(at)).into())
                .collect();
            Row::new(measured.drive.name, cells)
        });
    Table {
        title: "waiting for the drive".to_owned(),
        columns: columns.collect(),
        rows: rows.collect(),
    }
}

fn read_row(name: &str, asked: &Asked) -> Row {
    let figures = [
        asked.requests() as f64,
        asked.jumps() as f64,
        mib(asked.bytes()),
    ];
    Row::new(name, figures.map(Into::into).to_vec())
}

fn notes(pages: u64) -> Vec<String> {
    let mut notes = vec![
        format!(
            "The pages of the image that a boot of Debian 13 with dracut's initramfs read, {:.1} \
             MiB, are read again in that order without a pause: from a partition, through \
             dm-verity, EROFS (lz4hc, 64 KiB) and the overlay, beside storage-init's \
             reader-ahead. The image holds dracut's initramfs and, as complete recovery tools, the \
             root's own programs, libraries, drivers and data, which the boot does not read. Programs and libraries are mapped, the rest is read. Folders that were \
             only listed are not.",
            mib(pages * 4096)
        ),
        "A time runs from when the verified device is there to the last page, by the guest's \
         clock: mounting, hand-over and exec are in it. Median; ratios are of boots made one \
         after the other, then the median."
            .to_owned(),
        "Data and requests are all that the disk was asked for since power-on, the partition \
         table and the proof included, on the first drive."
            .to_owned(),
        "The drive `none` takes no time: what is left is the computer's own work, decompression \
         and hashing above all, which no order of the image changes. user-mode-linux makes much \
         of that: each page that EROFS maps to decompress into is a system call of the host. \
         Waiting is what a drive adds to it."
            .to_owned(),
        "A command of the drives' models costs a latency, its bytes the bandwidth; the HDD has an \
         arm, turns and looks ahead. What flash controllers read ahead by themselves is not \
         modelled."
            .to_owned(),
    ];
    notes.extend(DRIVES.iter().map(|d| format!("{}: {}.", d.name, d.source)));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_becomes_a_list() {
        let profile = serde_json::json!({"files": [
            {"path": "usr/bin/sh", "pages": [[0, 3], [7, 1]]},
            {"path": "etc/passwd", "pages": [[0, 1]]},
        ]});
        assert_eq!(
            list(&profile).unwrap(),
            "m 0 3 usr/bin/sh\nm 7 1 \nr 0 1 etc/passwd\n"
        );
        assert!(list(&serde_json::json!({})).is_err());
        let broken = serde_json::json!({"files": [{"path": "a", "pages": [[0]]}]});
        assert!(list(&broken).is_err());
    }

    #[test]
    fn a_header_says_the_release() {
        let bytes = header_of("6.1.0-test");
        assert_eq!(&bytes[0x202..0x206], b"HdrS");
        let at = usize::from(u16::from_le_bytes([bytes[0x20e], bytes[0x20f]])) + 0x200;
        assert!(bytes[at..].starts_with(b"6.1.0-test\0"));
    }
}
