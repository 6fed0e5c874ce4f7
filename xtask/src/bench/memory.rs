//! `cargo xtask bench memory`: RAM that nothing gives back, when the first init
//! begins and at multi-user.
//!
//! A script in the place of the first init, and a unit behind multi-user, say what
//! memory is in use before and after the caches are dropped ([`super::look`]). Images
//! are dracut's content, as the initramfs that they are compared with.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use qemu_driver::{Accel, Idle};
use vmtest::guest::Guest;
use vmtest::set::{Recipe, Set};

use super::chart::Chart;
use super::look::{self, Look, Looked};
use super::parts::{self, Goal, side_by_side};
use super::report::{Cell, Column, Report, Row, Table};
use super::{Ground, Options, median, mib};
use crate::boots::Way;

/// How often each boot is measured.
const RUNS: u32 = 3;

const KERNEL: &str = "kernel alone";
const FILE: &str = "initoverlayfs, file on the ESP";
const PARTITIONS: &str = "initoverlayfs, in partitions";
const PREFETCH_OFF: &str = "initoverlayfs, in partitions, prefetch off";
const INITRAMFS_TOOLS: &str = "initramfs-tools, zstd";
const DRACUT: &str = "dracut, generic";

const NAMES: [&str; 6] = [
    KERNEL,
    PARTITIONS,
    PREFETCH_OFF,
    FILE,
    INITRAMFS_TOOLS,
    DRACUT,
];

/// The parameter of storage-init that this bench is about.
const NO_PREFETCH: &str = "initoverlayfs.prefetch=off";

/// A row.
#[derive(Debug)]
struct Subject {
    name: &'static str,
    /// What the loader puts into memory, in MiB.
    initrd: f64,
    /// Up to the script in the place of the first init.
    first: Way,
    /// Up to multi-user; the kernel alone does not get there.
    multi_user: Option<Way>,
    at_first: Vec<Looked>,
    at_multi_user: Vec<Looked>,
}

/// The median of what was seen at a moment.
fn middle(looks: &[Looked], figure: impl Fn(&Looked) -> f64) -> Option<f64> {
    let mut figures: Vec<f64> = looks.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    median(&figures)
}

/// What the kernel pins before anything of an initramfs: its row without the files
/// in it.
fn floor(subjects: &[Subject]) -> Option<f64> {
    let kernel = subjects.iter().find(|subject| subject.name == KERNEL)?;
    middle(&kernel.at_first, |looked| {
        looked.pinned() - looked.in_memory()
    })
}

impl Subject {
    fn row(&self, floor: Option<f64>) -> Row {
        let of = |looks: &[Looked]| -> [Option<f64>; 3] {
            [Looked::pinned, Looked::in_memory, Looked::used].map(|figure| middle(looks, figure))
        };
        let [pinned, files, used] = of(&self.at_first);
        let [end_pinned, end_files, end_used] = of(&self.at_multi_user);
        let above = pinned.zip(floor).map(|(pinned, floor)| pinned - floor);
        let cells: [Cell; 8] = [
            self.initrd.into(),
            pinned.into(),
            above.into(),
            files.into(),
            used.into(),
            end_pinned.into(),
            end_files.into(),
            end_used.into(),
        ];
        Row::new(self.name, cells.to_vec())
    }
}

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let runs = options.runs.unwrap_or(RUNS);
    let bench = Bench {
        ground,
        look: Look::make(folder.path())?,
        folder: folder.path(),
    };
    let mut subjects = Vec::new();
    for name in NAMES.into_iter().filter(|name| options.wants(name)) {
        println!("making: {name}");
        subjects.push(bench.subject(name)?);
    }
    side_by_side(&mut subjects, |subject| {
        measure(&ground.guest, subject, runs)
    })?;
    report(ground, options, runs, &subjects)
}

struct Bench<'a> {
    ground: &'a Ground,
    look: Look,
    folder: &'a Path,
}

impl Bench<'_> {
    fn subject(&self, name: &'static str) -> Result<Subject, Box<dyn Error>> {
        let guest = &self.ground.guest;
        let (first, multi_user, initrd) = match name {
            KERNEL => {
                let alone = self.folder.join("alone.cpio");
                look::of_kernel_alone(&guest.tree(), &self.folder.join("alone"), &alone)?;
                (self.beside(name, &alone)?, None, alone)
            }
            INITRAMFS_TOOLS => self.peer(name, &guest.initramfs_tools_initrd())?,
            DRACUT => self.peer(name, &guest.dracut_initrd())?,
            FILE => self.ours(name, "file", &[])?,
            PREFETCH_OFF => {
                let (first, multi_user, initrd) = self.partitions(name)?;
                let off = |way: Way| Way {
                    append: format!("{} {NO_PREFETCH}", way.append),
                    ..way
                };
                (off(first), multi_user.map(off), initrd)
            }
            _ => self.partitions(name)?,
        };
        Ok(Subject {
            name,
            initrd: mib(fs::metadata(initrd)?.len()),
            first,
            multi_user,
            at_first: Vec::new(),
            at_multi_user: Vec::new(),
        })
    }

    fn partitions(&self, name: &str) -> Result<Ways, Box<dyn Error>> {
        self.ours(name, "partitions", &["--image-on", "partition"])
    }

    /// The image of dracut's content whose init is the script; without its word the
    /// script is dracut's init.
    fn ours(&self, name: &str, kind: &str, options: &[&str]) -> Result<Ways, Box<dyn Error>> {
        let ground = self.ground;
        let dir = self.folder.join(kind);
        let disk = self.folder.join(format!("{kind}.disk"));
        let set = if dir.is_dir() {
            Set::open(&dir)?
        } else {
            let initrd = self.folder.join("initrd");
            let parts = [&ground.guest.dracut_initrd(), &self.look.as_init];
            parts::joined(&parts.map(|path| path.as_path()), &initrd)?;
            let recipe = Recipe {
                dist: &ground.dist,
                guest: &ground.guest,
                initrd: &initrd,
                modules: "virtio-blk",
                options,
            };
            let set = recipe.build(&dir)?;
            set.disk(&disk, &ground.guest, 512)?;
            set
        };
        let way = Way {
            disk,
            ..parts::plain(&ground.guest, name, set.mini_initramfs())
        };
        let multi_user = look::at_multi_user(&way)?;
        Ok((look::in_image(&way), Some(multi_user), way.initrd))
    }

    fn peer(&self, name: &str, initrd: &Path) -> Result<Ways, Box<dyn Error>> {
        let whole = parts::plain(&self.ground.guest, name, initrd.to_owned());
        let multi_user = look::at_multi_user(&whole)?;
        let first = self.beside(name, initrd)?;
        Ok((first, Some(multi_user), initrd.to_owned()))
    }

    /// An initramfs with the script beside its init, up to there.
    fn beside(&self, name: &str, initrd: &Path) -> Result<Way, Box<dyn Error>> {
        let to = self.folder.join(format!("{}.with-look", parts::slug(name)));
        parts::joined(&[initrd, &self.look.beside], &to)?;
        let way = parts::plain(&self.ground.guest, name, to);
        Ok(look::in_initramfs(&way))
    }
}

/// To the first init, to multi-user, and what the loader reads for it.
type Ways = (Way, Option<Way>, std::path::PathBuf);

/// All boots of a row. Any that fails ends the family: it measures no others than
/// those that `boot` boots, too.
fn measure(guest: &Guest, subject: &mut Subject, runs: u32) -> io::Result<()> {
    let name = subject.name;
    let look = |way: &Way, what: &str| -> io::Result<Looked> {
        let machine = way.machine(guest, Accel::Tcg, Some(Idle::Jump));
        let goal = Goal {
            family: "memory",
            what,
        };
        let looked = parts::tried(name, &machine, &goal, Looked::of)?;
        let looked = looked.map_err(|failure| io::Error::other(format!("{name} {failure}")))?;
        println!("{name}, {what}: pinned {:.1} MiB", looked.pinned());
        Ok(looked)
    };
    for _ in 0..runs {
        let looked = look(&subject.first, "the first init")?;
        subject.at_first.push(looked);
        if let Some(way) = &subject.multi_user {
            let looked = look(way, "multi-user")?;
            subject.at_multi_user.push(looked);
        }
    }
    Ok(())
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    subjects: &[Subject],
) -> Result<Report, Box<dyn Error>> {
    let floor = floor(subjects);
    let bars = subjects.iter().map(|subject| {
        let moments = [&subject.at_first, &subject.at_multi_user];
        let values = moments.map(|looks| middle(looks, Looked::pinned));
        (subject.name, values)
    });
    let chart = |axis: &str, at: usize| Chart::Bars {
        axis: axis.to_owned(),
        series: vec!["pinned".to_owned()],
        bars: bars
            .clone()
            .map(|(name, values)| {
                (
                    name.to_owned(),
                    values.get(at).copied().into_iter().collect(),
                )
            })
            .collect(),
    };
    Ok(Report {
        name: "memory".to_owned(),
        title: "Memory that nothing gives back".to_owned(),
        command: options.command("memory", runs, ""),
        notes: notes(runs),
        versions: ground.versions()?,
        tables: vec![Table {
            title: "at the first init, then at multi-user".to_owned(),
            columns: vec![
                Column::new("initrd", "MiB", 2),
                Column::new("pinned", "MiB", 1),
                Column::new("above the kernel", "MiB", 1),
                Column::new("ramfs and tmpfs", "MiB", 1),
                Column::new("in use", "MiB", 1),
                Column::new("multi-user: pinned", "MiB", 1),
                Column::new("ramfs and tmpfs", "MiB", 1),
                Column::new("in use", "MiB", 1),
            ],
            rows: subjects.iter().map(|subject| subject.row(floor)).collect(),
        }],
        bounds: Vec::new(),
        charts: vec![
            chart("MiB pinned at the first init", 0),
            chart("MiB pinned at multi-user", 1),
        ],
    })
}

fn notes(runs: u32) -> Vec<String> {
    vec![
        format!(
            "Guest: one CPU, q35, 2048 MiB, a virtio disk, no `quiet`, `-icount \
             shift=0,sleep=off`. Medians of {runs} runs."
        ),
        look::METHOD.to_owned(),
        "At the first init: in the place of what storage-init executes in the image, or of the \
         initramfs's own /init (`rdinit=`), a shell script looks. The image is dracut's generic \
         initramfs with the script as its init. Others are unchanged, with the script in an \
         archive behind them."
            .to_owned(),
        "At multi-user: a unit behind multi-user.target looks, on the same ext4 root; what came \
         before has been left by then. The images there were left by way of dracut's init."
            .to_owned(),
        "Kernel alone: an initramfs of busybox and libc with the script. Above the kernel: without \
         what the kernel alone pins, its files in ramfs taken off."
            .to_owned(),
        format!("Prefetch off: `{NO_PREFETCH}` on the command line."),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &'static str, at_first: &[Looked]) -> Subject {
        let way = Way {
            name: name.to_owned(),
            initrd: "/initrd".into(),
            append: String::new(),
            disk: "/disk".into(),
        };
        Subject {
            name,
            initrd: 1.0,
            first: way,
            multi_user: None,
            at_first: at_first.to_vec(),
            at_multi_user: Vec::new(),
        }
    }

    #[test]
    fn the_kernels_own_is_without_its_files() {
        let kernel = subject(KERNEL, &[Looked::example(100, 8)]);
        let more = [200, 80, 150].map(|pinned| Looked::example(pinned, 40));
        let ours = subject(PARTITIONS, &more);
        assert_eq!(floor(std::slice::from_ref(&ours)), None);
        let floor = floor(&[ours, kernel]);
        assert_eq!(floor, Some(92.0));
        // The median of what is pinned, above the floor.
        let cells = subject(PARTITIONS, &more).row(floor).cells;
        assert_eq!(cells[1..4], [150.0, 58.0, 40.0].map(Cell::from));
        assert_eq!(cells[5..8], vec![Cell::Nothing; 3]);
    }

    #[test]
    fn every_row_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(names.len(), NAMES.len());
    }
}
