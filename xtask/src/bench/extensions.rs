//! `cargo xtask bench extensions`: what extensions add to a boot.
//!
//! The boot of an image in a file on the ESP, with extensions beside it, one change a
//! row. Those that are for a boot's own use are of a hundred files; the one with firmware
//! has 300 MiB that do not compress and that no boot touches. The image's init is the
//! marker init: all that is measured is over when it starts. On the clock that counts
//! instructions, in rounds; to the first init, and between the stages before and after
//! the extensions, which the noise of a whole boot does not reach.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_driver::{Accel, Idle};
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::set::Set;

use super::chart::Chart;
use super::parts::{self, Goal};
use super::report::{Bound, Column, Report, Row, Table};
use super::{Ground, Options};
use crate::boots::{Cost, Way};

/// Lines of stages before and after the extensions.
const BEFORE: &str = "storage-init: [stage mount]";
const AFTER: &str = "storage-init: [stage handover]";

/// How often each boot is measured.
const RUNS: u32 = 5;

/// The extension that nobody uses, in MiB.
const UNUSED_MIB: usize = 300;

/// What the project promises: seconds that three extensions add, and an unused one.
const BOUND_THREE: f64 = 0.060;
const BOUND_UNUSED: f64 = 0.005;

const NONE: &str = "no extension";
const ALLOWED: &str = "allowed, none there";
const ONE: &str = "one";
const THREE: &str = "three";
const FOUR: &str = "three and a confext";
const LARGE: &str = "one of 300 MiB, merged";
const FOREIGN: &str = "one of 300 MiB, not for this image";
const SEALED_ONE: &str = "one, sealed";
const SEALED_THREE: &str = "three, sealed";
const SEALED_LARGE: &str = "one of 300 MiB, merged, sealed";

/// How the plan knows the extensions that it allows.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    /// It allows none.
    Not,
    /// By who signed them.
    Signed,
    /// By their root hashes; they are not signed.
    Sealed,
}

/// A row: its name, how the plan knows extensions, and those that are there.
type Variant = (&'static str, Known, &'static [&'static str]);

const TOOLS: &[&str] = &["tools-1", "tools-2", "tools-3"];

const VARIANTS: [Variant; 10] = [
    (NONE, Known::Not, &[]),
    (ALLOWED, Known::Signed, &[]),
    (ONE, Known::Signed, &["tools-1"]),
    (THREE, Known::Signed, TOOLS),
    (
        FOUR,
        Known::Signed,
        &["tools-1", "tools-2", "tools-3", "site"],
    ),
    (LARGE, Known::Signed, &["firmware"]),
    (FOREIGN, Known::Signed, &["foreign"]),
    (SEALED_ONE, Known::Sealed, &["tools-1"]),
    (SEALED_THREE, Known::Sealed, TOOLS),
    (SEALED_LARGE, Known::Sealed, &["firmware"]),
];

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let runs = options.runs.unwrap_or(RUNS);
    let maker = Maker::new(ground, folder.path())?;
    let mut ways = Vec::new();
    for (name, known, extensions) in VARIANTS {
        // All is compared with the first.
        if name == NONE || options.wants(name) {
            println!("making: {name}");
            ways.push(maker.way(name, known, extensions)?);
        }
    }
    let mut least = vec![[f64::INFINITY; 2]; ways.len()];
    for round in 1..=runs {
        for (way, least) in ways.iter().zip(&mut least) {
            let times = measure(ground, way)?;
            let [first, span] = times;
            let span = span * 1000.0;
            println!(
                "{} {round}/{runs}: first init {first:.4} s, of that {span:.1} ms",
                way.name
            );
            for (least, time) in least.iter_mut().zip(times) {
                *least = least.min(time);
            }
        }
    }
    let names = ways.into_iter().map(|way| way.name);
    let rows: Vec<Timed> = names.zip(least).collect();
    report(ground, options, runs, &rows)
}

/// Makes extensions and boots with them.
struct Maker<'a> {
    ground: &'a Ground,
    dir: &'a Path,
}

impl<'a> Maker<'a> {
    fn new(ground: &'a Ground, dir: &'a Path) -> Result<Self, Box<dyn Error>> {
        let maker = Self { ground, dir };
        command::output(
            maker
                .program()
                .args(["keygen", "--type", "p256"])
                .arg(dir.join("ext")),
        )?;
        let image = maker.image_tree();
        fs::create_dir_all(image.join("etc"))?;
        fs::create_dir_all(image.join("usr/lib"))?;
        fs::create_dir(dir.join("plain"))?;
        fs::write(image.join("etc/os-release"), "ID=debian\nVERSION_ID=13\n")?;
        fs::copy(ground.guest.mark(), image.join("init"))?;
        let tree = |name: &str| dir.join(format!("{name}.tree"));
        for name in ["tools-1", "tools-2", "tools-3"] {
            let folder = tree(name).join("usr/share").join(name);
            fs::create_dir_all(&folder)?;
            for number in 0..100 {
                let text = format!("{name} {number}\n").repeat(100);
                fs::write(folder.join(number.to_string()), text)?;
            }
            maker.build(name, "sysext", &["--id", "_any", "--scope", "initrd"])?;
        }
        fs::create_dir_all(tree("site").join("etc/site"))?;
        fs::write(tree("site").join("etc/site/conf"), "site\n")?;
        maker.build("site", "confext", &["--id", "_any", "--scope", "initrd"])?;
        let firmware = tree("firmware").join("usr/lib/firmware/bench");
        parts::random_files(&firmware, UNUSED_MIB)?;
        maker.build("firmware", "sysext", &["--id", "_any", "--scope", "initrd"])?;
        fs::rename(tree("firmware"), tree("foreign"))?;
        maker.build("foreign", "sysext", &["--id", "other", "--scope", "initrd"])?;
        fs::remove_dir_all(tree("foreign"))?;
        Ok(maker)
    }

    fn program(&self) -> Command {
        Command::new(self.ground.dist.join("initoverlayfs"))
    }

    fn image_tree(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn file(&self, name: &str, known: Known) -> PathBuf {
        let folder = match known {
            Known::Sealed => self.dir.join("plain"),
            Known::Signed | Known::Not => self.dir.to_owned(),
        };
        folder.join(format!("{name}.raw"))
    }

    fn build(&self, name: &str, kind: &str, release: &[&str]) -> Result<(), Box<dyn Error>> {
        for known in [Known::Signed, Known::Sealed] {
            let mut program = self.program();
            program
                .args(["build-extension", "--name", name, "--kind", kind])
                .args(release)
                .arg("--root")
                .arg(self.dir.join(format!("{name}.tree")))
                .arg("--output")
                .arg(self.file(name, known));
            if known == Known::Signed {
                program.arg("--key").arg(self.dir.join("ext.key"));
                program.arg("--certificate").arg(self.dir.join("ext.crt"));
            }
            command::output(&mut program)?;
        }
        Ok(())
    }

    fn way(&self, name: &str, known: Known, extensions: &[&str]) -> Result<Way, Box<dyn Error>> {
        let dir = self.dir.join(parts::slug(name));
        let guest = &self.ground.guest;
        let mut program = self.program();
        program
            .args(["build", "--modules", "virtio-blk", "--root"])
            .arg(self.image_tree())
            .arg("--sysroot")
            .arg(guest.tree())
            .arg("--output")
            .arg(&dir);
        match known {
            Known::Not => {}
            Known::Signed => {
                program.arg("--extension-certificate");
                program.arg(self.dir.join("ext.crt"));
            }
            Known::Sealed => {
                for name in extensions {
                    program.arg("--extension").arg(self.file(name, known));
                }
            }
        }
        command::output(&mut program)?;
        let set = Set::open(&dir)?;
        let image = set.image_path.clone().ok_or("the image is no file")?;
        let folder = image.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = folder.trim_start_matches('/');
        let entries = extensions
            .iter()
            .map(|name| {
                Entry::new(
                    &format!("{folder}/extensions/{name}.raw"),
                    self.file(name, known),
                )
            })
            .collect();
        let disk = dir.join("disk");
        set.disk_with(&disk, &self.ground.guest, 512, entries)?;
        Ok(Way {
            disk,
            ..parts::plain(&self.ground.guest, name, set.mini_initramfs())
        })
    }
}

/// A row's name, when its first init began, and what lies between the stages around the
/// extensions; in seconds.
type Timed = (String, [f64; 2]);

fn measure(ground: &Ground, way: &Way) -> Result<[f64; 2], Box<dyn Error>> {
    let machine = way.machine(&ground.guest, Accel::Tcg, Some(Idle::RealTime));
    let goal = Goal {
        family: "extensions",
        what: "the image's init",
    };
    let found = parts::tried(&way.name, &machine, &goal, |outcome| {
        let cost = Cost::of(outcome);
        cost.mark?;
        let span = outcome
            .time_of(AFTER)?
            .checked_sub(outcome.time_of(BEFORE)?)?;
        Some([cost.first_init?, span].map(|time| time.as_secs_f64()))
    })?;
    found.map_err(|failure| format!("{} {failure}", way.name).into())
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    rows: &[Timed],
) -> Result<Report, Box<dyn Error>> {
    let span = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| row.1[1]);
    let Some(&(_, [first, _])) = rows.first() else {
        return Err("nothing was measured".into());
    };
    let mut bounds = Vec::new();
    if let (Some(none), Some(three)) = (span(NONE), span(THREE)) {
        let name = "three extensions, between the stages";
        bounds.push(Bound::new(name, three - none, BOUND_THREE, "s"));
    }
    if let (Some(one), Some(large)) = (span(ONE), span(LARGE)) {
        let name = "300 MiB that are not used, against an extension of 100 files";
        bounds.push(Bound::new(name, large - one, BOUND_UNUSED, "s"));
    }
    let lines = rows
        .iter()
        .map(|(name, [seconds, span])| {
            let cells = [*seconds, (seconds - first) * 1000.0, span * 1000.0];
            Row::new(name, cells.map(Into::into).to_vec())
        })
        .collect();
    let bars = rows
        .iter()
        .map(|(name, [_, span])| (name.clone(), vec![Some(*span)]));
    Ok(Report {
        name: "extensions".to_owned(),
        title: "What extensions add to a boot".to_owned(),
        command: options.command("extensions", runs, ""),
        notes: vec![
            format!(
                "A small image in a file on a FAT32 ESP, one CPU, `-icount \
                 shift=0,sleep=on`. The least of {runs} runs, made in rounds; `more` is \
                 against the first row, and two boots that do the same differ by 1 to 2 %. \
                 `around them` is what lies between the stages `mount` and `handover`, and is \
                 what the bounds are about. Each extension is signed (P-256), proven, mounted \
                 through dm-verity and, where it fits, merged. The kernel has no key of the \
                 signer's."
            ),
            "Sealed: not signed, the plan has the root hashes. One that is not for the image is \
             told by its extension-release, before anything of it is proven. What 300 MiB cost \
             more is the chain of their clusters on FAT, 76,800 entries of it, and a level of the \
             hash tree."
                .to_owned(),
        ],
        versions: ground.versions()?,
        tables: vec![Table {
            title: "extensions".to_owned(),
            columns: vec![
                Column::new("first init", "s", 4),
                Column::new("more", "ms", 1),
                Column::new("around them", "ms", 1),
            ],
            rows: lines,
        }],
        bounds,
        charts: vec![Chart::Bars {
            axis: "seconds around the extensions, a nanosecond an instruction".to_owned(),
            series: vec!["around them".to_owned()],
            bars: bars.collect(),
        }],
    })
}
