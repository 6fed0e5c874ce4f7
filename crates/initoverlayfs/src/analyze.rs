//! `analyze`: where the time of this boot went, and what would help.
//!
//! storage-init's record is the middle of it. Before come firmware and loader, by
//! EFI variables or ACPI; after it the image's init and the system, by systemd.
//! What is missing is said and left out.

mod advice;
mod chart;
mod drivers;
mod firmware;
mod record;
mod spans;
mod svg;
mod systemd;
mod timeline;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use iofs_plan::Selector;
use serde::Serialize;

use crate::cli::AnalyzeArgs;
use crate::error::{CliError, Result};
use crate::ui;
use advice::Advice;
use chart::{Row, Style};
use firmware::Firmware;
use record::{Image, Load, NO_ERRNO, Prefetch, Record, Root, Text};
use svg::{Colour, Panel};
use systemd::Systemd;
use timeline::{Loading, Part, Phase};

/// Where storage-init leaves it.
const RECORD: &str = "/run/initoverlayfs/boot.json";

/// Beside it, what was read ahead.
const PREFETCH: &str = "prefetch.json";

/// Where `profile collect` leaves what a boot read.
const PROFILE: &str = "/var/lib/initoverlayfs/profile.json";

/// So many modules and packs are listed without `--all`.
const LISTED: usize = 15;

/// The output of `--json`. Times are microseconds since the kernel started.
#[derive(Debug, Serialize)]
struct Analysis {
    storage_init: Text,
    kernel: Text,
    product: Text,
    auth: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Image>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Root>,
    init: Text,
    firmware: Option<Firmware>,
    systemd: Option<Systemd>,
    phases: Vec<Phase>,
    loading: Loading,
    modules: Vec<Loaded>,
    packs: Vec<Loaded>,
    /// What was read ahead beside the image's init.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch: Option<Prefetch>,
    advice: Vec<Advice>,
    /// What is not known, and why.
    notes: Vec<String>,
}

/// A module or a pack.
#[derive(Debug, Clone, Serialize)]
struct Loaded {
    name: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_us: Option<u64>,
    us: u64,
    errno: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// It had not ended when the next init was executed.
    running: bool,
    /// It drives other devices than the boot disk's.
    for_others: bool,
}

pub(crate) fn run(args: &AnalyzeArgs) -> Result<()> {
    let path = args.boot_json.as_deref().unwrap_or(Path::new(RECORD));
    let record = read(path)?;
    let prefetch = prefetched(&path.with_file_name(PREFETCH));
    let analysis = Analysis::new(record, prefetch, &Witnesses::ask(args)?);
    if let Some(file) = &args.svg {
        let text = analysis
            .svg()
            .map_err(|why| CliError::new("the chart cannot be drawn").source(why))?;
        std::fs::write(file, text).map_err(|e| CliError::io("write", file, e))?;
    }
    if args.json {
        return ui::print_json(&analysis);
    }
    anstream::print!("{}", analysis.text(Style::of_output(), args.all));
    Ok(())
}

fn read(path: &Path) -> Result<Record> {
    let mut text = Vec::new();
    let limit = record::MAX_LEN + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => CliError::io("read", path, e).hint(
                "only a boot through storage-init leaves this record; see `inspect` and `install`",
            ),
            _ => CliError::io("read", path, e),
        })?;
    Record::parse(&text).map_err(|why| {
        CliError::new(format!("{} is no record of a boot", path.display())).source(why)
    })
}

/// What was read ahead, if anything is known of that: boots directly or with
/// `initoverlayfs.prefetch=off` leave nothing, those without a list, or that have not ended
/// reading ahead, an empty file. initramfs-tools mounts a `/run` of its own over it.
fn prefetched(path: &Path) -> Option<std::result::Result<Prefetch, String>> {
    let text = firmware::bounded(path, 1 << 12).filter(|text| !text.is_empty())?;
    let refused = |why| format!("{} says nothing of it: {why}", path.display());
    Some(Prefetch::parse(&text).map_err(refused))
}

/// What is known beside the record; each, or why not.
#[derive(Debug)]
struct Witnesses {
    firmware: std::result::Result<Firmware, String>,
    systemd: std::result::Result<Systemd, String>,
    /// Where the boot disk's drivers are looked for.
    sysfs: Option<PathBuf>,
    /// Whether this machine has a profile of a boot; `None` if another is meant.
    profile: Option<bool>,
}

impl Witnesses {
    /// Asks those that were given, and this machine for the rest, unless the record
    /// was given too: then it may be another machine's.
    fn ask(args: &AnalyzeArgs) -> Result<Self> {
        let here = args.boot_json.is_none();
        let sysfs = match (&args.sysfs, here) {
            (Some(dir), _) => Some(dir.clone()),
            (None, true) => Some("/sys".into()),
            (None, false) => None,
        };
        let esp = match &args.esp {
            Some(dir) => vec![dir.clone()],
            None if here => ["/efi", "/boot/efi", "/boot"].map(PathBuf::from).into(),
            None => Vec::new(),
        };
        let firmware = match &sysfs {
            Some(sysfs) => Firmware::read(sysfs, &esp),
            None => Err("firmware and loader are not asked about a record that was named".into()),
        };
        let systemd = match &args.systemd_times {
            Some(path) => {
                let text = firmware::bounded(path, 1 << 16)
                    .ok_or_else(|| CliError::usage(format!("{} cannot be read", path.display())))?;
                Systemd::parse(&String::from_utf8_lossy(&text))
            }
            None if here => Systemd::ask(),
            None => Err("systemd is not asked about a record that was named".into()),
        };
        Ok(Self {
            firmware,
            systemd,
            sysfs,
            profile: here.then(|| Path::new(PROFILE).exists()),
        })
    }
}

impl Analysis {
    fn new(
        record: Record,
        prefetch: Option<std::result::Result<Prefetch, String>>,
        witnesses: &Witnesses,
    ) -> Self {
        let mut notes = Vec::new();
        let prefetch = prefetch.and_then(|read| {
            read.map_err(|why| notes.push(format!("what was read ahead: {why}")))
                .ok()
        });
        let place = record.partition().map_or_else(String::new, Text::to_string);
        let mut known = |why: &String| notes.push(why.clone());
        let firmware = witnesses.firmware.as_ref().map_err(&mut known).ok();
        let systemd = witnesses.systemd.as_ref().map_err(&mut known).ok();
        let (phases, left_out) = timeline::phases(&record, firmware, systemd);
        notes.extend(left_out);
        let sysfs = witnesses.sysfs.as_deref();
        let others = sysfs.and_then(|sysfs| drivers::for_others(sysfs, &record));
        if others.is_none() {
            notes.push(format!(
                "which modules serve {place} is not known: no sysfs that has it"
            ));
        }
        let loading = timeline::loading(&record);
        let slow = u64::max(100_000, record.end() / 20);
        if let Some(idle) = loading.idle_us.filter(|&idle| idle >= slow) {
            notes.push(format!(
                "for {} the boot's device was awaited and no driver was loading: the disk of {place} \
                 itself took as long to appear and to be read",
                chart::time(idle)
            ));
        }
        let after: u64 = phases
            .iter()
            .filter(|phase| phase.part == Part::Image)
            .fold(0, |sum, phase| sum.saturating_add(phase.us));
        if witnesses.profile == Some(false) && after > 0 {
            notes.push(format!(
                "no boot was recorded, so the image's hot files are a guess: `initoverlayfs \
                 profile record` may shorten the {} of the image's init; by how much only the \
                 drive can say",
                chart::time(after)
            ));
        }
        let advice = advice::advise(&record, firmware, others.as_ref());
        let loaded = |loads: Vec<Load>| -> Vec<Loaded> {
            let loads = loads.into_iter();
            loads
                .map(|load| Loaded::new(load, others.as_ref()))
                .collect()
        };
        Self {
            storage_init: record.storage_init,
            kernel: record.kernel,
            product: record.product,
            auth: record.auth,
            mode: record.mode,
            image: record.image,
            root: record.root,
            init: record.init,
            firmware: firmware.cloned(),
            systemd: systemd.copied(),
            phases,
            loading,
            modules: loaded(record.modules),
            packs: loaded(record.packs),
            prefetch,
            advice,
            notes,
        }
    }

    /// One line about what booted.
    fn title(&self) -> String {
        let place = match (&self.image, &self.root) {
            (Some(image), _) => match (&image.file, &image.partition) {
                (Some(file), Some(partition)) => format!("{file} on {partition} ({})", self.auth),
                (None, Some(partition)) => format!("{partition} ({})", self.auth),
                (_, None) => format!("{} ({})", Selector::Embedded, self.auth),
            },
            (None, Some(root)) => {
                let usr = root.usr.as_ref();
                let usr = usr.map_or_else(String::new, |usr| format!(", /usr {usr}"));
                format!("{} on {}{usr}, directly", root.file_system, root.partition)
            }
            (None, None) => "nobody knows what".into(),
        };
        let stays = match self.mode.as_ref().map(Text::as_str) {
            Some("stay") => ", as the system",
            _ => "",
        };
        format!("{}, Linux {}, {place}{stays}", self.product, self.kernel)
    }

    /// The whole boot: storage-init is one row.
    fn overview(&self) -> Vec<(Row, Colour)> {
        let mut rows: Vec<(Row, Colour)> = Vec::new();
        for phase in &self.phases {
            let (label, colour) = match phase.part {
                Part::StorageInit => ("storage-init", Colour::Own),
                Part::Firmware | Part::Loader | Part::Kernel => {
                    (phase.name.as_str(), Colour::Before)
                }
                Part::Image | Part::System => (phase.name.as_str(), Colour::After),
            };
            match rows.last_mut() {
                Some((last, _)) if last.label == label => {
                    last.us = last.us.saturating_add(phase.us);
                }
                _ => rows.push((row(label, phase), colour)),
            }
        }
        rows
    }

    fn stages(&self) -> Vec<Row> {
        let own = self
            .phases
            .iter()
            .filter(|phase| phase.part == Part::StorageInit);
        own.map(|phase| row(&phase.name, phase)).collect()
    }

    /// The `limit` slowest modules and packs, in the order of their starts, and
    /// how many others there are.
    fn loads(&self, limit: usize) -> (Vec<(Row, Colour)>, usize) {
        let packs = self.packs.iter().map(|load| (load, "pack "));
        let mut all: Vec<_> = self
            .modules
            .iter()
            .map(|load| (load, ""))
            .chain(packs)
            .collect();
        all.sort_by_key(|(load, _)| std::cmp::Reverse(load.us));
        let left = all.len().saturating_sub(limit);
        all.truncate(limit);
        all.sort_by_key(|(load, _)| load.at_us);
        let rows = all.into_iter().map(|(load, kind)| {
            let remark = match (load.errno, load.for_others) {
                (0, false) if load.running => "(not ended)",
                (0, false) => "",
                (0, true) => "(other device)",
                (NO_ERRNO, _) => "(given up)",
                (_, _) => "(refused)",
            };
            let row = Row {
                label: format!("{kind}{}", load.name),
                at_us: load
                    .at_us
                    .and_then(|at| i64::try_from(at).ok())
                    .unwrap_or(0),
                us: load.us,
                remark: remark.into(),
            };
            let colour = match load.errno == 0 && !load.for_others {
                true => Colour::Useful,
                false => Colour::Useless,
            };
            (row, colour)
        });
        (rows.collect(), left)
    }

    /// How the loads went, in a sentence.
    fn loading(&self) -> String {
        let Loading {
            modules,
            packs,
            sum_us,
            ..
        } = self.loading;
        let sum = chart::time(sum_us);
        let what = match packs {
            0 => count(modules, "module"),
            _ => format!("{} and {}", count(modules, "module"), count(packs, "pack")),
        };
        match self.loading.elapsed_us {
            Some(elapsed) if elapsed > 0 => {
                let times = u128::from(sum_us) * 10 / u128::from(elapsed);
                format!(
                    "{what}, {sum} one by one, in {}: {}.{} side by side",
                    chart::time(elapsed),
                    times / 10,
                    times % 10
                )
            }
            _ => format!("{what}, {sum} one by one"),
        }
    }

    fn text(&self, style: Style, all: bool) -> String {
        let plain = |rows: Vec<(Row, Colour)>| -> Vec<Row> {
            rows.into_iter().map(|(row, _)| row).collect()
        };
        let mut out = format!("{}\n\n", self.title());
        out += &style.draw("boot", &plain(self.overview()));
        out += "\n";
        out += &style.draw("storage-init", &self.stages());
        if self.loading.modules + self.loading.packs > 0 {
            let (rows, left) = self.loads(if all { usize::MAX } else { LISTED });
            out += &format!("\n{}\n", style.draw("modules", &plain(rows)).trim_end());
            if left > 0 {
                out += &format!("and {left} quicker ones (--all)\n");
            }
            out += &format!("{}\n", self.loading());
        }
        for load in self.modules.iter().chain(&self.packs) {
            if let Some(error) = &load.error {
                out += &format!("  {}: {error}\n", load.name);
            }
        }
        if let Some(prefetch) = &self.prefetch {
            out += &format!("\n{}\n", read_ahead(prefetch));
        }
        out += "\nwhat would help\n";
        if self.advice.is_empty() {
            out += "  nothing that is known here would save a hundredth of the boot\n";
        }
        for advice in &self.advice {
            let bound = if advice.at_most {
                "at most"
            } else {
                "at least"
            };
            out += &format!(
                "  {bound} {}: {}\n    {}\n",
                chart::time(advice.saves_us),
                advice.what,
                advice.advice
            );
        }
        if !self.notes.is_empty() {
            out += "\nnot known, or not to be computed\n";
        }
        for note in &self.notes {
            out += &format!("  {note}\n");
        }
        out
    }

    fn svg(&self) -> std::result::Result<String, String> {
        let stages = self.stages().into_iter().map(|row| (row, Colour::Own));
        let (loads, left) = self.loads(svg::MAX_ROWS);
        let mut panels = vec![
            Panel {
                title: "boot".into(),
                rows: self.overview(),
            },
            Panel {
                title: "storage-init".into(),
                rows: stages.take(svg::MAX_ROWS).collect(),
            },
        ];
        if !loads.is_empty() {
            let more = if left > 0 {
                format!("; {left} quicker ones left out")
            } else {
                String::new()
            };
            panels.push(Panel {
                title: format!("modules: {}{more}", self.loading()),
                rows: loads,
            });
        }
        svg::draw(&self.title(), &panels)
    }
}

impl Loaded {
    fn new(load: Load, others: Option<&BTreeSet<String>>) -> Self {
        let name = drivers::plain(load.name.as_str());
        Self {
            at_us: load.at,
            us: load.us,
            errno: load.errno,
            running: load.running,
            error: match load.errno {
                0 => None,
                NO_ERRNO => Some("given up, or what it needs is missing".into()),
                errno => Some(std::io::Error::from_raw_os_error(errno.into()).to_string()),
            },
            for_others: others.is_some_and(|others| others.contains(&name)),
            name: load.name,
        }
    }
}

/// What was read ahead, in a sentence.
fn read_ahead(prefetch: &Prefetch) -> String {
    format!(
        "read ahead beside the image's init: {} KiB, of {} and of metadata, asked for within {} \
         from {} on",
        prefetch.bytes >> 10,
        count(prefetch.files.try_into().unwrap_or(usize::MAX), "file"),
        chart::time(prefetch.us),
        chart::time(prefetch.at)
    )
}

/// `1 module`, `2 modules`.
fn count(number: usize, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

fn row(label: &str, phase: &Phase) -> Row {
    Row {
        label: label.into(),
        at_us: phase.at_us,
        us: phase.us,
        remark: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was read can be shown in every way.
    pub(super) fn draw_everything(record: Record) {
        let witnesses = Witnesses {
            firmware: Err("none".into()),
            systemd: Ok(Systemd {
                initrd_us: None,
                userspace_us: Some(20_000_000),
                finish_us: Some(30_000_000),
            }),
            sysfs: None,
            profile: Some(false),
        };
        let prefetch = Prefetch::parse(
            br#"{"version":1,"at":2700000,"us":4000,"files":1,"bytes":2097152,"rotational":true}"#,
        );
        let analysis = Analysis::new(record, Some(prefetch), &witnesses);
        let style = Style {
            width: 80,
            unicode: false,
        };
        let text = analysis.text(style, true);
        assert!(text.contains("what would help"));
        assert!(text.contains("2048 KiB, of 1 file and"), "{text}");
        assert!(analysis.svg().unwrap().ends_with("</svg>\n"));
        assert!(serde_json::to_string(&analysis).is_ok());
    }
}
