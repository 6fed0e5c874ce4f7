//! `cargo xtask bench build`: what making image and mini-initramfs costs, against the
//! least that an image can cost (mkfs.erofs alone) and other generators.
//!
//! Wall time and the processor time of all that is started, in rounds in which
//! everything runs once: what slows the host slows all of it, and the ratios are of
//! the same round. All files are in memory, where distributions have /tmp: on a disk,
//! what was removed a minute ago can make the next file cost ten times as much (ext4
//! without a journal), and the figures would be of that.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use vmtest::command;
use vmtest::debian::Chroot;
use vmtest::peers::{Peer, Peers};
use vmtest::set::Recipe;

use super::chart::Chart;
use super::report::{Bound, Column, Report, Row, Table};
use super::{Ground, Options};

/// How many rounds.
const RUNS: u32 = 3;

/// What a build may take of mkfs.erofs alone, and the mini-initramfs in seconds.
const BOUND_BUILD: f64 = 1.3;
const BOUND_MINI: f64 = 2.0;

/// A build whose image costs nothing.
const MINI: &str = "mini-initramfs, with an image of one file";

const MKFS: &str = "mkfs.erofs alone";
const BUILD: &str = "initoverlayfs build";
const DRACUT: &str = "dracut, generic";

/// Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Effort {
    wall: f64,
    cpu: f64,
}

/// Something that is run once a round.
struct Job {
    name: &'static str,
    run: Run,
    efforts: Vec<Effort>,
}

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let (folder, place) = in_memory()?;
    let runs = options.runs.unwrap_or(RUNS);
    let mut jobs = jobs(ground, folder.path())?;
    jobs.retain(|job| options.wants(job.name));
    let scratch = folder.path().join("scratch");
    let mut steps: Vec<(String, Vec<f64>)> = Vec::new();
    for round in 1..=runs {
        for job in &mut jobs {
            fs::create_dir_all(&scratch)?;
            let effort = measure(|| (job.run)(&scratch))?;
            println!(
                "{} {round}/{runs}: {:.2} s, processor {:.2} s",
                job.name, effort.wall, effort.cpu
            );
            job.efforts.push(effort);
            if job.name == BUILD {
                add_steps(&mut steps, &fs::read(scratch.join(SAID))?)?;
            }
            fs::remove_dir_all(&scratch)?;
        }
    }
    report(ground, options, runs, &jobs, &steps, &place)
}

/// A folder for all files, in memory if there is room, and what it lies on.
fn in_memory() -> Result<(TempDir, String), Box<dyn Error>> {
    let memory = Path::new(MEMORY);
    if let Ok(found) = rustix::fs::statvfs(memory) {
        if found.f_bavail.saturating_mul(found.f_frsize) >= ROOM {
            let folder = tempfile::tempdir_in(memory)?;
            return Ok((folder, "All files are in memory (tmpfs).".to_owned()));
        }
    }
    let place = "Files are on the disk: there was no room in memory.";
    Ok((tempfile::tempdir()?, place.to_owned()))
}

/// Where POSIX shared memory is, a tmpfs, and how much of it has to be free: two trees
/// of a guest, its images.
const MEMORY: &str = "/dev/shm";
const ROOM: u64 = 6 << 30;

/// Where a build's report is left.
const SAID: &str = "said.json";

fn jobs(ground: &Ground, folder: &Path) -> Result<Vec<Job>, Box<dyn Error>> {
    println!("making: what mkfs.erofs is given");
    let mkfs = Mkfs::overheard(ground, &folder.join("mkfs"))?;
    println!("making: a tree for dracut and mkinitramfs");
    let tree = folder.join("tree");
    command::output(
        Command::new("cp")
            .arg("-a")
            .args([ground.guest.tree(), tree.clone()]),
    )?;
    println!("making: a set to install");
    let set = folder.join("set");
    recipe(ground, &ground.guest.dracut_initrd(), "generic", &[]).build(&set)?;

    let one_file = folder.join("one-file");
    fs::create_dir_all(one_file.join("sbin"))?;
    fs::write(one_file.join("sbin/init"), "")?;
    let mut mini = Command::new(ground.dist.join("initoverlayfs"));
    mini.args([
        "build",
        "--modules",
        "generic",
        "--output",
        "built",
        "--root",
    ]);
    mini.arg(&one_file)
        .arg("--sysroot")
        .arg(ground.guest.tree())
        .env("TMPDIR", folder);
    let build = |name, modules: &'static str, options: &'static [&'static str]| {
        let mut command = recipe(ground, &ground.guest.dracut_initrd(), modules, options)
            .command(Path::new("built"));
        command.arg("--json").env("TMPDIR", folder);
        let run = repeat(&command, move |command, scratch| {
            let said = command::output(command.current_dir(scratch))?;
            Ok(fs::write(scratch.join(SAID), said)?)
        });
        job(name, run)
    };
    let inside = |name, script: &str| {
        let words = ["sh", "-ec", script, "sh", ground.guest.kernel_release()];
        let command = Chroot::new(&tree).command(&words);
        job(name, repeat(&command, quiet))
    };
    let mut install = Command::new(ground.dist.join("initoverlayfs"));
    install.arg("install").arg("--from").arg(&set);
    install.args(["--esp", "esp", "--root", "root"]);
    install.args(["--entry-token", "product", "--cmdline", "root=LABEL=root"]);
    Ok(vec![
        job(
            MKFS,
            Box::new(move |scratch| quiet(&mut mkfs.command(scratch), scratch)),
        ),
        build(BUILD, "generic", &[]),
        job(MINI, repeat(&mini, quiet)),
        build("with drivers of one bus", "virtio-blk", &[]),
        build("without profile", "generic", &["--profile", "none"]),
        build(
            "image not compressed",
            "generic",
            &["--image-compress", "none"],
        ),
        job(
            "initoverlayfs install, into folders",
            repeat(&install, |command, scratch| {
                for name in ["esp", "root"] {
                    fs::create_dir(scratch.join(name))?;
                }
                quiet(command, scratch)
            }),
        ),
        inside(
            DRACUT,
            "dracut --force --no-hostonly --kver \"$1\" /boot/bench",
        ),
        inside(
            "dracut, hostonly",
            &Peer::DracutHostonly
                .script()
                .replace("$1", "/boot/bench")
                .replace("$2", "$1"),
        ),
        inside(
            "mkinitramfs, zstd",
            "mkinitramfs -c zstd -o /boot/bench \"$1\"",
        ),
    ])
}

fn recipe<'a>(
    ground: &'a Ground,
    initrd: &'a Path,
    modules: &'a str,
    options: &'a [&'a str],
) -> Recipe<'a> {
    Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd,
        modules,
        options,
    }
}

type Run = Box<dyn Fn(&Path) -> Result<(), Box<dyn Error>>>;

fn job(name: &'static str, run: Run) -> Job {
    Job {
        name,
        run,
        efforts: Vec::new(),
    }
}

/// Runs the same command each time: one cannot be cloned.
fn repeat(
    command: &Command,
    run: impl Fn(&mut Command, &Path) -> Result<(), Box<dyn Error>> + 'static,
) -> Run {
    let program = command.get_program().to_owned();
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut variables = Vec::new();
    for (name, value) in command.get_envs() {
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    Box::new(move |scratch| {
        let mut command = Command::new(&program);
        command.args(&words).envs(variables.iter().cloned());
        run(&mut command, scratch)
    })
}

fn quiet(command: &mut Command, scratch: &Path) -> Result<(), Box<dyn Error>> {
    command::output(command.current_dir(scratch))?;
    Ok(())
}

/// The command that a build gives mkfs.erofs, and the tree that it is about.
#[derive(Debug)]
struct Mkfs {
    words: Vec<String>,
    tree: PathBuf,
}

/// Stands in mkfs.erofs's place: keeps the tree (the last argument) with its hard
/// links, which decide on the order of the image, and the words; then does its work.
const LISTEN: &str = r#"#!/bin/sh
case $1 in -*help | -V) exec "$MKFS" "$@" ;; esac
for last; do :; done
cp -a "$last" "$KEEP/tree"
for word; do
    case $word in --compress-hints=*) cp "${word#*=}" "$KEEP/hints" ;; esac
    printf '%s\n' "$word" >>"$KEEP/words"
done
exec "$MKFS" "$@"
"#;

impl Mkfs {
    fn overheard(ground: &Ground, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let programs = folder.join("bin");
        fs::create_dir_all(&programs)?;
        let listener = programs.join("mkfs.erofs");
        fs::write(&listener, LISTEN)?;
        fs::set_permissions(&listener, fs::Permissions::from_mode(0o755))?;
        let found = command::output(Command::new("sh").args(["-c", "command -v mkfs.erofs"]))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let initrd = ground.guest.dracut_initrd();
        let mut build = recipe(ground, &initrd, "generic", &[]).command(&folder.join("built"));
        build
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("MKFS", String::from_utf8(found)?.trim())
            .env("KEEP", folder);
        command::output(&mut build)?;
        fs::remove_dir_all(folder.join("built"))?;
        let words = fs::read_to_string(folder.join("words"))?;
        Ok(Self {
            words: words_of(&words, folder),
            tree: folder.join("tree"),
        })
    }

    fn command(&self, scratch: &Path) -> Command {
        let mut command = Command::new("mkfs.erofs");
        command
            .env("LC_ALL", "C")
            .args(&self.words)
            .arg(scratch.join("image"))
            .arg(&self.tree);
        command
    }
}

/// The options among the words, with the hints that were kept.
fn words_of(words: &str, folder: &Path) -> Vec<String> {
    let options = words.lines().filter(|word| word.starts_with('-'));
    options
        .map(|word| match word.split_once('=') {
            Some((name @ "--compress-hints", _)) => {
                format!("{name}={}", folder.join("hints").display())
            }
            _ => word.to_owned(),
        })
        .collect()
}

/// Wall time, and the processor time of all that `work` starts and waits for.
fn measure(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Effort, Box<dyn Error>> {
    let before = children()?;
    let start = Instant::now();
    work()?;
    let wall = start.elapsed().as_secs_f64();
    Ok(Effort {
        wall,
        cpu: children()? - before,
    })
}

/// Processor time of this process's children that have ended, in seconds.
fn children() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = children_ticks(&stat).ok_or("/proc/self/stat is not understood")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// cutime and cstime, fields 16 and 17; the second, the program's name, may hold
/// blanks and brackets.
fn children_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Adds what a build's report says of its steps, in seconds.
fn add_steps(steps: &mut Vec<(String, Vec<f64>)>, said: &[u8]) -> Result<(), Box<dyn Error>> {
    let said: Value = serde_json::from_slice(said)?;
    let mut add = |name: &str, seconds: f64| match steps.iter_mut().find(|(n, _)| n == name) {
        Some((_, times)) => times.push(seconds),
        None => steps.push((name.to_owned(), vec![seconds])),
    };
    for part in ["image", "mini"] {
        let times = said.pointer(&format!("/{part}/times"));
        let times = times.and_then(Value::as_array);
        for time in times.ok_or("the build reports no times")? {
            let name = time.get("step").and_then(Value::as_str);
            let ms = time.get("ms").and_then(Value::as_u64);
            let (name, ms) = name.zip(ms).ok_or("the build reports no time of a step")?;
            add(&format!("{part}: {name}"), ms as f64 / 1000.0);
        }
    }
    Ok(())
}

fn middle(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    super::median(&values)
}

/// The median of the ratios of the same round.
fn ratio(jobs: &[Job], of: &Job, to: &str, time: fn(&Effort) -> f64) -> Option<f64> {
    let base = jobs.iter().find(|job| job.name == to)?;
    let pairs = of.efforts.iter().zip(&base.efforts);
    middle(pairs.map(|(a, b)| time(a) / time(b)))
}

fn wall(effort: &Effort) -> f64 {
    effort.wall
}

fn cpu(effort: &Effort) -> f64 {
    effort.cpu
}

fn bounds(jobs: &[Job]) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let build = jobs.iter().find(|job| job.name == BUILD);
    if let Some(ratio) = build.and_then(|build| ratio(jobs, build, MKFS, wall)) {
        let name = format!("{BUILD}, against {MKFS}");
        bounds.push(Bound::new(&name, ratio, BOUND_BUILD, ""));
    }
    let mini = jobs.iter().find(|job| job.name == MINI);
    if let Some(seconds) = mini.and_then(|mini| middle(mini.efforts.iter().map(wall))) {
        let name = "mini-initramfs, any machine's drivers";
        bounds.push(Bound::new(name, seconds, BOUND_MINI, "s"));
    }
    bounds
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    jobs: &[Job],
    steps: &[(String, Vec<f64>)],
    place: &str,
) -> Result<Report, Box<dyn Error>> {
    let rows = jobs.iter().map(|job| {
        let cells = vec![
            middle(job.efforts.iter().map(wall)).into(),
            middle(job.efforts.iter().map(cpu)).into(),
            ratio(jobs, job, MKFS, wall).into(),
            ratio(jobs, job, MKFS, cpu).into(),
            ratio(jobs, job, DRACUT, wall).into(),
        ];
        Row::new(job.name, cells)
    });
    let step_rows = steps.iter().map(|(name, times)| {
        let cells = vec![middle(times.iter().copied()).into()];
        Row::new(name, cells)
    });
    let bars = jobs.iter().map(|job| {
        let median = middle(job.efforts.iter().map(wall));
        (job.name.to_owned(), vec![median])
    });
    let mut versions = ground.versions()?;
    versions.push(Peers::ensure(&ground.guest, &mut |line| println!("{line}"))?.versions()?);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tables = vec![Table {
        title: "what is made".to_owned(),
        columns: vec![
            Column::new("wall", "s", 2),
            Column::new("processor", "s", 2),
            Column::new(&format!("wall against {MKFS}"), "", 2),
            Column::new("processor against it", "", 2),
            Column::new(&format!("wall against {DRACUT}"), "", 2),
        ],
        rows: rows.collect(),
    }];
    if !steps.is_empty() {
        tables.push(Table {
            title: format!("steps of {BUILD}"),
            columns: vec![Column::new("wall", "s", 3)],
            rows: step_rows.collect(),
        });
    }
    Ok(Report {
        name: "build".to_owned(),
        title: "What making an image costs".to_owned(),
        command: options.command("build", runs, ""),
        notes: notes(runs, processors, load()?, place),
        versions,
        tables,
        bounds: bounds(jobs),
        charts: vec![Chart::Bars {
            axis: "wall time, s".to_owned(),
            series: vec!["median".to_owned()],
            bars: bars.collect(),
        }],
    })
}

/// How many processes wanted a processor in the last five minutes, on average.
fn load() -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let load = text.split_ascii_whitespace().nth(1);
    Ok(load.ok_or("/proc/loadavg is empty")?.parse()?)
}

fn notes(runs: u32, processors: usize, load: f64, place: &str) -> Vec<String> {
    vec![
        format!(
            "The host's load average was {load:.1} at the end, the bench's own work included: what \
             is above the number of processors makes wall times longer, and most so those of steps \
             that use every processor."
        ),
        format!(
            "{runs} rounds, in each of which everything is made once, one after the other, with \
             {processors} processors; medians. Ratios are of the same round, then the median. \
             Processor time is that of all processes that were started. {place}"
        ),
        format!(
            "{BUILD}: of dracut's generic initramfs, sealed, `--modules generic`, with what is \
             read ahead by a guess; further rows differ in what they say. Modules are packed \
             beside the work on the image (steps `mini` up to `pack-modules`), at low priority. \
             {MINI}: what the mini-initramfs takes where nothing else is to be done."
        ),
        format!(
            "{MKFS}: the very command that this build runs (its options, its tree with hard links), \
             without what comes before and after: unpacking the initramfs and its .ko.xz modules, \
             scanning, checking, the hash tree, the disk image and its proof."
        ),
        "dracut and mkinitramfs: in a chroot of Debian 13. They collect a system's files, which \
         a build of an existing initramfs does not; a new kernel costs both, one after the \
         other. dracut, hostonly: with the drivers of a virtio disk and ext4."
            .to_owned(),
        "install: image, mini-initramfs, kernel and boot entry onto folders of this host, synced."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &'static str, walls: &[f64]) -> Job {
        let effort = |&wall| Effort { wall, cpu: wall };
        Job {
            efforts: walls.iter().map(effort).collect(),
            ..job(name, Box::new(|_| Ok(())))
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let jobs = [
            made(MKFS, &[1.0, 2.0, 10.0]),
            made(BUILD, &[1.2, 2.2, 20.0]),
            made(MINI, &[3.0, 1.0, 2.5]),
        ];
        assert_eq!(ratio(&jobs, &jobs[1], MKFS, wall), Some(1.2));
        assert_eq!(ratio(&jobs, &jobs[1], DRACUT, cpu), None);
        let bounds = bounds(&jobs);
        let figures: Vec<_> = bounds.iter().map(|b| (b.figure, b.met())).collect();
        assert_eq!(figures, [(1.2, true), (2.5, false)]);
        assert!(super::bounds(&[]).is_empty());
    }

    #[test]
    fn steps_are_added_up_over_rounds() {
        let said = br#"{"image": {"times": [{"step": "stage", "ms": 1500}]},
            "mini": {"times": [{"step": "read", "ms": 200}, {"step": "write", "ms": 300}]}}"#;
        let mut steps = Vec::new();
        for _ in 0..2 {
            add_steps(&mut steps, said).unwrap();
        }
        let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["image: stage", "mini: read", "mini: write"]);
        assert_eq!(steps[0].1, [1.5, 1.5]);
        assert_eq!(steps[2].1, [0.3, 0.3]);
        assert!(add_steps(&mut steps, b"{}").is_err());
    }

    #[test]
    fn the_time_of_children_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4 100 2000 0 0 11 12 130 14 20 0 1 0 5 6";
        assert_eq!(children_ticks(stat), Some(144));
        assert_eq!(children_ticks("7 (a) S 1"), None);
        let effort = measure(|| {
            let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
            quiet(Command::new("sh").args(["-c", script]), Path::new("."))
        });
        let effort = effort.unwrap();
        assert!(effort.cpu > 0.0 && effort.wall > 0.0, "{effort:?}");
    }

    #[test]
    fn options_are_kept_but_not_what_they_were_about() {
        let words = "-zlz4hc,9\n-T1\n--compress-hints=/tmp/x/compress-hints\n/tmp/x/i\n/tmp/x/s\n";
        let kept = words_of(words, Path::new("/kept"));
        assert_eq!(kept, ["-zlz4hc,9", "-T1", "--compress-hints=/kept/hints"]);
    }
}
