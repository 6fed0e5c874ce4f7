//! `cargo xtask bench scale`: what bytes cost that nobody reads, in an image and in
//! an initramfs.
//!
//! Random files are added to the guest's dracut initramfs: in the image that is made
//! of it, and as an archive that the kernel has to unpack. Each boot ends in the
//! place of the first init, where a script says what memory is in use
//! ([`super::look`]); one more of each image goes on to the root's init, to see what
//! it reads. Time is counted in instructions, as in the family `boot`.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_driver::{Accel, Idle};
use vmtest::guest::Guest;
use vmtest::set::Recipe;

use super::chart::Chart;
use super::look::{self, Look, Sample};
use super::parts::{self, Goal, Padding, side_by_side};
use super::report::{Bound, Cell, Column, Report, Row, Table, version};
use super::{Ground, Options, median, mib};
use crate::boots::{Cost, Way};

/// How often each boot is measured; those of initramfs archives half as often.
const RUNS: u32 = 3;

/// What is added to the image, in MiB. dracut's own content makes 61 MiB.
const ADDED: [u64; 5] = [0, 64, 192, 960, 1984];

/// The same for archives: QEMU puts them below 2 GiB, beside the kernel.
const ADDED_TO_ARCHIVE: [u64; 3] = [64, 192, 960];

/// Of the guest, in every boot: twice the largest archive, and the guest's own.
const MEMORY_MIB: u32 = 4096;

/// The project's bound on what a MiB of image costs, in milliseconds.
const BOUND: f64 = 0.02;

/// What the padding lies in: a line of the plot each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Image,
    /// dracut's initramfs without any, where the lines of archives begin.
    Alone,
    Zstd,
    Lz4,
    Plain,
}

const ARCHIVES: [Form; 3] = [Form::Zstd, Form::Lz4, Form::Plain];

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Alone => "initramfs",
            Self::Zstd => "cpio.zst",
            Self::Lz4 => "cpio.lz4",
            Self::Plain => "cpio, uncompressed",
        }
    }

    /// Whether this one's figures belong to the line of `form`.
    fn is_on(self, form: Self) -> bool {
        self == form || (self == Self::Alone && ARCHIVES.contains(&form))
    }

    /// Makes of the first file the second, as the kernel wants it; `None` leaves it.
    fn compressor(self, from: &Path, to: &Path) -> Option<Command> {
        let mut command = Command::new(match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            _ => return None,
        });
        command.args(["-q", "-f"]);
        match self {
            // The only format that the kernel's decompressor knows.
            Self::Lz4 => command.arg("-l").arg(from).arg(to),
            _ => command.arg(from).arg("-o").arg(to),
        };
        Some(command)
    }
}

/// A row.
#[derive(Debug)]
struct Subject {
    form: Form,
    added: u64,
    /// Of the image or the whole initrd, in MiB.
    size: f64,
    way: Way,
    samples: Vec<Sample>,
    /// The boot to the root's init.
    whole: Option<Cost>,
    /// Why there are no figures.
    failure: Option<String>,
}

impl Subject {
    fn name(form: Form, added: u64) -> String {
        format!("{} + {added} MiB", form.name())
    }

    /// The least of the runs.
    fn first(&self) -> Option<f64> {
        let firsts = self.samples.iter().map(|sample| sample.first);
        firsts.reduce(f64::min)
    }

    fn middle(&self, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut figures: Vec<f64> = self.samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        median(&figures)
    }

    fn pinned(&self) -> Option<f64> {
        self.middle(|sample| sample.looked.pinned())
    }

    fn row(&self) -> Row {
        let cells: [Cell; 8] = [
            self.size.into(),
            self.middle(|sample| sample.first).into(),
            self.first().into(),
            self.pinned().into(),
            self.middle(|sample| mib(sample.touched)).into(),
            self.middle(|sample| mib(sample.read)).into(),
            self.whole.map(|cost| mib(cost.read)).into(),
            self.whole.map(|cost| mib(cost.touched)).into(),
        ];
        Row::new(&Self::name(self.form, self.added), cells.to_vec())
    }
}

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let runs = options.runs.unwrap_or(RUNS);
    let mut subjects = make(ground, options, folder.path())?;
    // The longest first, so that the two that run at once end together.
    subjects.sort_by_key(|subject| std::cmp::Reverse(subject.added));
    side_by_side(&mut subjects, |subject| {
        measure(&ground.guest, subject, runs)
    })?;
    subjects.sort_by_key(|subject| subject.added);
    let ours = subjects.iter().filter(|s| s.form == Form::Image);
    if let Some(failure) = ours.filter_map(|s| s.failure.as_ref()).next() {
        return Err(format!("not recorded, since a boot failed: {failure}").into());
    }
    report(ground, options, runs, &subjects)
}

fn make(ground: &Ground, options: &Options, folder: &Path) -> Result<Vec<Subject>, Box<dyn Error>> {
    let mut wanted = vec![(Form::Alone, 0)];
    wanted.extend(ADDED.map(|added| (Form::Image, added)));
    for form in ARCHIVES {
        wanted.extend(ADDED_TO_ARCHIVE.map(|added| (form, added)));
    }
    wanted.retain(|(form, added)| options.wants(&Subject::name(*form, *added)));
    let most = wanted.iter().map(|(_, added)| *added).max();
    println!("making random files");
    let padding = Padding::make(folder, most.unwrap_or(0))?;
    let look = Look::make(folder)?;
    let mut subjects = Vec::new();
    for (form, added) in wanted {
        let name = Subject::name(form, added);
        println!("making: {name}");
        let archive = folder.join("archive");
        padding.archive(&archive, added)?;
        let (size, way) = match form {
            Form::Image => image(ground, &name, &look, &archive, folder)?,
            _ => initramfs(ground, &name, &look, &compressed(form, &archive)?, folder)?,
        };
        subjects.push(Subject {
            form,
            added,
            size: mib(size),
            way,
            samples: Vec::new(),
            whole: None,
            failure: None,
        });
    }
    Ok(subjects)
}

/// `archive`, or what its compressor makes of it.
fn compressed(form: Form, archive: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let to = archive.with_extension("compressed");
    let Some(mut compressor) = form.compressor(archive, &to) else {
        return Ok(archive.to_owned());
    };
    vmtest::command::output(&mut compressor)?;
    Ok(to)
}

/// File system and hash tree as partitions; the image's size, and the way.
fn image(
    ground: &Ground,
    name: &str,
    look: &Look,
    archive: &Path,
    folder: &Path,
) -> Result<(u64, Way), Box<dyn Error>> {
    let initrd = folder.join("initrd");
    let parts = [&ground.guest.dracut_initrd(), &look.as_init, archive];
    parts::joined(&parts, &initrd)?;
    let dir = folder.join(parts::slug(name));
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &initrd,
        modules: "virtio-blk",
        options: &["--image-on", "partition"],
    }
    .build(&dir)?;
    fs::remove_file(&initrd)?;
    let size = fs::metadata(&set.image)?.len();
    let way = parts::through(&ground.guest, name, &set, dir.join("disk"))?;
    // The disk has it.
    fs::remove_file(&set.image)?;
    Ok((size, way))
}

/// The padding comes last: of lz4's blocks the kernel knows no end but the
/// archive's.
fn initramfs(
    ground: &Ground,
    name: &str,
    look: &Look,
    archive: &Path,
    folder: &Path,
) -> Result<(u64, Way), Box<dyn Error>> {
    let initrd = folder.join(parts::slug(name));
    let parts = [&ground.guest.dracut_initrd(), &look.beside, archive];
    parts::joined(&parts, &initrd)?;
    let size = fs::metadata(&initrd)?.len();
    Ok((size, parts::plain(&ground.guest, name, initrd)))
}

/// All boots of a row.
fn measure(guest: &Guest, subject: &mut Subject, runs: u32) -> io::Result<()> {
    let name = subject.way.name.clone();
    let machine = |way: &Way| {
        let mut machine = way.machine(guest, Accel::Tcg, Some(Idle::Jump));
        machine.memory_mib = MEMORY_MIB;
        machine
    };
    let goal = |what| Goal {
        family: "scale",
        what,
    };
    let (way, runs) = match subject.form {
        Form::Image => (look::in_image(&subject.way), runs),
        _ => (look::in_initramfs(&subject.way), runs.div_ceil(2)),
    };
    for run in 1..=runs {
        match parts::tried(&name, &machine(&way), &goal("the first init"), Sample::of)? {
            Ok(sample) => {
                println!(
                    "{name} {run}/{runs}: first init {:.3} s, pinned {:.1} MiB",
                    sample.first,
                    sample.looked.pinned()
                );
                subject.samples.push(sample);
            }
            Err(failure) => {
                subject.samples.clear();
                subject.failure = Some(format!("{name} {failure}"));
                return Ok(());
            }
        }
    }
    if subject.form != Form::Image {
        return Ok(());
    }
    let to_root = |outcome: &_| Some(Cost::of(outcome)).filter(|cost| cost.mark.is_some());
    let whole = machine(&subject.way);
    match parts::tried(&name, &whole, &goal("the root's init"), to_root)? {
        Ok(cost) => subject.whole = Some(cost),
        Err(failure) => subject.failure = Some(format!("{name} {failure}")),
    }
    Ok(())
}

/// The slope of the line that is nearest to the points (least squares), if they have
/// one.
pub(super) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let both = points.iter().map(|point| (point.0 - x) * (point.1 - y));
    (spread > 0.0).then(|| both.sum::<f64>() / spread)
}

/// A figure of a form's rows over what was added.
fn line(
    subjects: &[Subject],
    form: Form,
    figure: impl Fn(&Subject) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let rows = subjects.iter().filter(|subject| subject.form.is_on(form));
    rows.filter_map(|subject| Some((subject.added as f64, figure(subject)?)))
        .collect()
}

/// What a MiB costs in a form: milliseconds, and MiB of memory.
type Slope = (Form, Option<f64>, Option<f64>);

fn slopes(subjects: &[Subject]) -> Vec<Slope> {
    let mut forms = vec![Form::Image];
    forms.extend(ARCHIVES);
    let row = |form| {
        let time = slope(&line(subjects, form, Subject::first));
        let memory = slope(&line(subjects, form, Subject::pinned));
        (form, time.map(|seconds| seconds * 1000.0), memory)
    };
    forms.into_iter().map(row).collect()
}

fn tables(subjects: &[Subject], slopes: &[Slope]) -> Vec<Table> {
    let columns = |size: &str| {
        vec![
            Column::new(size, "MiB", 1),
            Column::new("first init", "s", 3),
            Column::new("least", "s", 3),
            Column::new("pinned", "MiB", 1),
            Column::new("touched", "MiB", 1),
            Column::new("read", "MiB", 1),
            Column::new("read to the root", "MiB", 1),
            Column::new("touched to the root", "MiB", 1),
        ]
    };
    // The disk of archives has only the root, which their boots do not come to.
    const OF_ARCHIVES: usize = 5;
    let rows = |image: bool| {
        let rows = subjects.iter().filter(|s| (s.form == Form::Image) == image);
        let mut rows: Vec<Row> = rows.map(Subject::row).collect();
        if !image {
            rows.iter_mut()
                .for_each(|row| row.cells.truncate(OF_ARCHIVES));
        }
        rows
    };
    let per_mib = slopes.iter().map(|(form, time, memory)| {
        let cells = vec![(*time).into(), (*memory).into()];
        Row::new(form.name(), cells)
    });
    vec![
        Table {
            title: "in an image, on verified partitions".to_owned(),
            columns: columns("image"),
            rows: rows(true),
        },
        Table {
            title: "in an initramfs".to_owned(),
            columns: columns("initrd").into_iter().take(OF_ARCHIVES).collect(),
            rows: rows(false),
        },
        Table {
            title: "for each MiB".to_owned(),
            columns: vec![
                Column::new("time", "ms", 3),
                Column::new("pinned", "MiB", 3),
            ],
            rows: per_mib.collect(),
        },
    ]
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    subjects: &[Subject],
) -> Result<Report, Box<dyn Error>> {
    let slopes = slopes(subjects);
    let image = slopes.iter().find(|(form, ..)| *form == Form::Image);
    let bound = image
        .and_then(|(_, time, _)| *time)
        .map(|time| Bound::new("time for each MiB of image", time, BOUND, "ms"));
    let chart = |y: &str, figure: fn(&Subject) -> Option<f64>| Chart::Lines {
        x: "added, that nobody reads, MiB".to_owned(),
        y: y.to_owned(),
        lines: slopes
            .iter()
            .map(|(form, ..)| (form.name().to_owned(), line(subjects, *form, figure)))
            .collect(),
    };
    let mut notes = notes(runs);
    let failures = subjects.iter().filter_map(|s| s.failure.as_ref());
    notes.extend(failures.map(|failure| format!("{failure}.")));
    let mut versions = ground.versions()?;
    for program in ["zstd", "lz4"] {
        versions.push(version(program)?.trim_matches(['*', ' ']).to_owned());
    }
    Ok(Report {
        name: "scale".to_owned(),
        title: "What bytes cost that nobody reads".to_owned(),
        command: options.command("scale", runs, ""),
        notes,
        versions,
        tables: tables(subjects, &slopes),
        bounds: bound.into_iter().collect(),
        charts: vec![
            chart("first init, s", Subject::first),
            chart("pinned at the first init, MiB", Subject::pinned),
        ],
    })
}

fn notes(runs: u32) -> Vec<String> {
    let archives = runs.div_ceil(2);
    vec![
        format!(
            "Guest: one CPU, q35, {MEMORY_MIB} MiB, a virtio disk, no `quiet`. Times are its \
             kernel's clock, on which a nanosecond is an instruction (`-icount \
             shift=0,sleep=off`): the median of {runs} runs of each image, {archives} of each \
             archive, and the least."
        ),
        "Added: files of 16 MiB of random data, behind the guest's dracut initramfs, which is the \
         least there is (`+ 0 MiB`). The image is the default one (lz4, where data gets smaller), \
         sealed by its root hash, in partitions of the disk."
            .to_owned(),
        "In an initramfs: the same dracut initramfs, as Debian makes it with zstd, and the files \
         in a cpio archive behind it: `zstd`, `lz4 -l`, or uncompressed. QEMU puts the initrd into \
         memory below 2 GiB before the kernel's clock starts, so the largest is 960 MiB, and what \
         a loader takes to read it comes on top."
            .to_owned(),
        "First init: storage-init's exec of the image's, or the start of the initramfs's own. In \
         its place a script looks at the memory. Read: of the disk until that is done. To the \
         root: one boot of each image with the init that it has, up to a marker program on the \
         ext4 root. Touched: pages of the guest's memory that were ever written or read, the \
         initrd's included."
            .to_owned(),
        look::METHOD.to_owned(),
        "For each MiB: the slope of the line nearest to the points (least squares), of the least \
         times and the medians of pinned memory, over what was added."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_line() {
        let points = [0.0, 64.0, 960.0].map(|x| (x, 3.0 + x * 0.002));
        assert!((slope(&points).unwrap() - 0.002).abs() < 1e-12);
        // What is off to either side of it cancels out.
        let points = [(0.0, 1.0), (1.0, 3.0), (2.0, 1.0)];
        assert!(slope(&points).unwrap().abs() < 1e-12);
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(1.0, 2.0)]), None);
        assert_eq!(slope(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn each_form_has_its_slope() {
        let subject = |form, added: u64, first: f64, pinned: u64| {
            let looked = look::Looked::example(pinned, 0);
            let sample = |first| Sample {
                first,
                looked,
                read: 0,
                touched: 0,
            };
            Subject {
                form,
                added,
                size: added as f64,
                way: Way {
                    name: String::new(),
                    initrd: PathBuf::new(),
                    append: String::new(),
                    disk: PathBuf::new(),
                },
                // The least counts.
                samples: vec![sample(first + 1.0), sample(first)],
                whole: None,
                failure: None,
            }
        };
        let subjects = [
            subject(Form::Alone, 0, 3.0, 90),
            subject(Form::Zstd, 1000, 8.0, 1090),
            subject(Form::Image, 0, 2.5, 20),
            subject(Form::Image, 1000, 2.5, 20),
        ];
        assert_eq!(
            slopes(&subjects),
            [
                (Form::Image, Some(0.0), Some(0.0)),
                (Form::Zstd, Some(5.0), Some(1.0)),
                // One point makes no line.
                (Form::Lz4, None, None),
                (Form::Plain, None, None),
            ]
        );
    }

    #[test]
    fn lines_of_archives_begin_without_any() {
        for form in ARCHIVES {
            assert!(Form::Alone.is_on(form) && form.is_on(form));
            assert!(!Form::Image.is_on(form));
        }
        assert!(!Form::Alone.is_on(Form::Image));
        assert_eq!(Subject::name(Form::Zstd, 64), "cpio.zst + 64 MiB");
    }

    #[test]
    fn what_is_added_is_whole_files() {
        let all = ADDED.iter().chain(&ADDED_TO_ARCHIVE);
        for added in all {
            assert_eq!(added % parts::STEP_MIB, 0);
        }
    }
}
