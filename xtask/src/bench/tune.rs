//! `cargo xtask bench tune`: what one change at a time does to a boot.
//!
//! The boot is that from partitions of the family `boot`, with one thing changed a
//! row: a module loaded earlier, an option of dm-verity's, words on the kernel
//! command line, modules without signatures. Each is measured on the clock that
//! counts instructions, in rounds, so that what changes on the host changes for all.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_driver::{Accel, Idle};
use vmtest::command;
use vmtest::guest;
use vmtest::set::{Recipe, Set};

use super::chart::Chart;
use super::parts::{self, Goal};
use super::report::{Column, Report, Row, Table};
use super::{Ground, Options};
use crate::boots::{Cost, Way};

/// How often each boot is measured.
const RUNS: u32 = 3;

/// A boot of the image in partitions, with something changed.
struct Variant {
    name: &'static str,
    /// Modules of the mini-initramfs.
    modules: &'static str,
    /// Further options of `initoverlayfs build`.
    options: &'static [&'static str],
    /// Further words on the kernel command line.
    words: &'static str,
    /// Modules that are kept away.
    without: &'static [&'static str],
    /// Whether the modules' signatures are taken off.
    unsigned: bool,
}

const BASE: Variant = Variant {
    name: "as it is",
    modules: "virtio-blk",
    options: &[],
    words: "",
    without: &[],
    unsigned: false,
};

const VARIANTS: [Variant; 13] = [
    BASE,
    Variant {
        name: "modules one by one",
        words: "initoverlayfs.workers=1",
        ..BASE
    },
    Variant {
        name: "two modules at once",
        words: "initoverlayfs.workers=2",
        ..BASE
    },
    Variant {
        name: "short grace periods to the end",
        words: "rcupdate.rcu_expedited=1",
        ..BASE
    },
    Variant {
        name: "nothing read ahead",
        words: "initoverlayfs.prefetch=off",
        ..BASE
    },
    Variant {
        name: "natural order, nothing read ahead",
        options: &["--profile", "none"],
        ..BASE
    },
    Variant {
        name: "SHA-256 without vector instructions",
        without: &["sha256_ssse3"],
        ..BASE
    },
    Variant {
        name: "dm_verity.prefetch_cluster=0",
        words: "dm_verity.prefetch_cluster=0",
        ..BASE
    },
    Variant {
        name: "dm_verity.prefetch_cluster=1048576",
        words: "dm_verity.prefetch_cluster=1048576",
        ..BASE
    },
    Variant {
        name: "recorded",
        words: "initoverlayfs.profile=record",
        ..BASE
    },
    Variant {
        name: "recorded by what is opened",
        words: "initoverlayfs.profile=fanotify",
        ..BASE
    },
    Variant {
        name: "any machine's drivers",
        modules: "generic",
        ..BASE
    },
    Variant {
        name: "modules without signatures (information only)",
        unsigned: true,
        ..BASE
    },
];

/// What ends a module that is signed (kernel/module/signing.c).
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// The structure before it: the last four of its bytes are the signature's length,
/// big-endian.
const SIGNATURE_INFO: usize = 12;

/// The least of several boots, in seconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    first: f64,
    root: f64,
    multi_user: f64,
}

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let runs = options.runs.unwrap_or(RUNS);
    let mut ways = Vec::new();
    for variant in VARIANTS
        .iter()
        // All is compared with the first.
        .filter(|variant| variant.name == BASE.name || options.wants(variant.name))
    {
        println!("making: {}", variant.name);
        let dir = folder.path().join(ways.len().to_string());
        ways.push(way(ground, variant, &dir)?);
    }
    let mut least = vec![None; ways.len()];
    for round in 1..=runs {
        for (way, least) in ways.iter().zip(&mut least) {
            let times = measure(ground, way)?;
            println!(
                "{} {round}/{runs}: first init {:.3} s, root's init {:.3} s, multi-user {:.3} s",
                way.name, times.first, times.root, times.multi_user
            );
            *least = Some(least.map_or(times, |least: Times| least.least(times)));
        }
    }
    let rows: Vec<(String, Times)> = ways
        .into_iter()
        .zip(least)
        .filter_map(|(way, times)| Some((way.name, times?)))
        .collect();
    report(ground, options, runs, &rows)
}

impl Times {
    fn least(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            root: self.root.min(other.root),
            multi_user: self.multi_user.min(other.multi_user),
        }
    }
}

fn way(ground: &Ground, variant: &Variant, dir: &Path) -> Result<Way, Box<dyn Error>> {
    let mut options = vec!["--image-on", "partition"];
    options.extend(variant.options);
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &ground.guest.dracut_initrd(),
        modules: variant.modules,
        options: &options,
    }
    .build(dir)?;
    let way = parts::through(&ground.guest, variant.name, &set, dir.join("disk"))?;
    let initrd = if variant.unsigned {
        repacked(&set, &dir.join("unsigned"), |bytes, _| {
            without_signature(bytes).map(<[u8]>::to_vec)
        })?
    } else if variant.without.is_empty() {
        way.initrd
    } else {
        repacked(&set, &dir.join("without"), |_, name| {
            variant.without.contains(&name).then(Vec::new)
        })?
    };
    Ok(Way {
        initrd,
        append: variant.words.to_owned(),
        ..way
    })
}

/// The mini-initramfs with other modules: what `change` makes of one's bytes and
/// name, if anything.
fn repacked(
    set: &Set,
    folder: &Path,
    change: impl Fn(&[u8], &str) -> Option<Vec<u8>>,
) -> Result<PathBuf, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let plain = command::output(Command::new("zstd").arg("-dcq").arg(set.mini_initramfs()))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--extract", "--quiet", "--make-directories"])
        .current_dir(folder);
    command::output_with_input(&mut cpio, &plain)?;
    let mut changed = 0;
    for entry in fs::read_dir(folder.join("initoverlayfs/modules"))? {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(module) = change(&bytes, &name) {
            fs::write(&path, module)?;
            changed += 1;
        }
    }
    if changed == 0 {
        return Err("the mini-initramfs has no such module".into());
    }
    let names = command::output(Command::new("find").arg(".").current_dir(folder))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet"])
        .current_dir(folder);
    let archive = command::output_with_input(&mut cpio, &names)?;
    let packed = command::output_with_input(Command::new("zstd").args(["-19", "-cq"]), &archive)?;
    let path = folder.with_extension("img");
    fs::write(&path, packed)?;
    Ok(path)
}

/// The module itself, if it ends with a signature.
fn without_signature(bytes: &[u8]) -> Option<&[u8]> {
    let signed = bytes.strip_suffix(SIGNED)?;
    let (signed, info) = signed.split_at_checked(signed.len().checked_sub(SIGNATURE_INFO)?)?;
    let len = u32::from_be_bytes(info.last_chunk().copied()?);
    signed.get(..signed.len().checked_sub(usize::try_from(len).ok()?)?)
}

fn measure(ground: &Ground, way: &Way) -> Result<Times, Box<dyn Error>> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let mark = Way {
        append: format!("{} init={}", way.append, guest::MARK),
        ..way.clone()
    };
    let (first, root) = boot(ground, &mark, "the root's init", |cost| {
        seconds(cost.first_init).zip(seconds(cost.mark))
    })?;
    let multi_user = boot(ground, way, "multi-user", |cost| seconds(cost.multi_user))?;
    Ok(Times {
        first,
        root,
        multi_user,
    })
}

fn boot<T>(
    ground: &Ground,
    way: &Way,
    what: &str,
    figures: impl Fn(&Cost) -> Option<T>,
) -> Result<T, Box<dyn Error>> {
    let machine = way.machine(&ground.guest, Accel::Tcg, Some(Idle::RealTime));
    let goal = Goal {
        family: "tune",
        what,
    };
    let found = parts::tried(&way.name, &machine, &goal, |outcome| {
        figures(&Cost::of(outcome))
    })?;
    found.map_err(|failure| format!("{} {failure}", way.name).into())
}

fn report(
    ground: &Ground,
    options: &Options,
    runs: u32,
    rows: &[(String, Times)],
) -> Result<Report, Box<dyn Error>> {
    let Some((_, base)) = rows.first().cloned() else {
        return Err("nothing was measured".into());
    };
    let lines = rows.iter().map(|(name, times)| {
        let cells = [
            times.first,
            times.first - base.first,
            times.root,
            times.root - base.root,
            times.multi_user,
            times.multi_user - base.multi_user,
        ];
        Row::new(name, cells.map(Into::into).to_vec())
    });
    let bars = rows.iter().map(|(name, times)| {
        let values = [times.first, times.root, times.multi_user];
        (name.clone(), values.map(Some).to_vec())
    });
    Ok(Report {
        name: "tune".to_owned(),
        title: "What one change does to a boot".to_owned(),
        command: options.command("tune", runs, ""),
        notes: notes(runs),
        versions: ground.versions()?,
        tables: vec![Table {
            title: "change".to_owned(),
            columns: vec![
                Column::new("first init", "s", 3),
                Column::new("more", "s", 3),
                Column::new("root's init", "s", 3),
                Column::new("more", "s", 3),
                Column::new("multi-user", "s", 3),
                Column::new("more", "s", 3),
            ],
            rows: lines.collect(),
        }],
        bounds: Vec::new(),
        charts: vec![Chart::Bars {
            axis: "seconds since the kernel's start, a nanosecond an instruction".to_owned(),
            series: ["first init", "root's init", "multi-user"]
                .map(str::to_owned)
                .to_vec(),
            bars: bars.collect(),
        }],
    })
}

fn notes(runs: u32) -> Vec<String> {
    vec![
        format!(
            "The boot of `bench boot`'s row for partitions, with one change a row; one CPU, \
             `-icount shift=0,sleep=on`. The least of {runs} runs, made in rounds; `more` is \
             against the first row. Two boots that do the same differ by 1 to 2 %."
        ),
        "SHA-256 without vector instructions: dm-verity takes the best of what is there before \
         it. In this row the module with the CPU's own instructions is not (an empty file in its \
         place, which the kernel refuses). udev loads it later anyway. The emulator counts a \
         vector instruction as one; it has none of the SHA instructions."
            .to_owned(),
        "Recorded: the boot notes what it reads of its image, page by page and without \
         read-ahead, for `profile collect`; that is one boot, when it was asked for. By what is \
         opened: as on a kernel that cannot trace."
            .to_owned(),
        "Order and parallelism of the module loads: `bench boot` has the same modules loaded one \
         after the other by a hand-made init. dm-verity has no work queue to turn off, as dm-crypt \
         has (`no_read_workqueue`)."
            .to_owned(),
        "Modules without signatures: what the kernel's checks cost. It marks itself tainted for \
         each; under Secure Boot it refuses them. Nothing here makes such an image."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_off() {
        let mut bytes = b"module".to_vec();
        bytes.extend(b"sig");
        bytes.extend([0; 8]);
        bytes.extend(3_u32.to_be_bytes());
        bytes.extend(SIGNED);
        assert_eq!(without_signature(&bytes), Some(&b"module"[..]));
        assert_eq!(without_signature(b"module"), None);
        let mut long = vec![0; 8];
        long.extend(99_u32.to_be_bytes());
        long.extend(SIGNED);
        assert_eq!(without_signature(&long), None);
        assert_eq!(without_signature(SIGNED), None);
    }

    #[test]
    fn the_least_is_of_each_figure() {
        let times = |first, root, multi_user| Times {
            first,
            root,
            multi_user,
        };
        let least = times(1.0, 5.0, 9.0).least(times(2.0, 4.0, 8.0));
        assert_eq!((least.first, least.root, least.multi_user), (1.0, 4.0, 8.0));
    }
}
