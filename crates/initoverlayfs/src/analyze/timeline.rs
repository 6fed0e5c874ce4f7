//! The boot as phases one after another, and what the loading of modules came to.

use serde::Serialize;

use super::firmware::Firmware;
use super::record::Record;
use super::spans::{Span, covered, within};
use super::systemd::Systemd;

/// Whose time a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    Firmware,
    Loader,
    Kernel,
    StorageInit,
    Image,
    System,
}

/// A stretch of the boot. A stage of storage-init ends the phase of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) part: Part,
    /// When it began, in microseconds since the kernel started; negative before.
    pub(super) at_us: i64,
    pub(super) us: u64,
}

/// What the modules came to, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Loading {
    pub(super) modules: usize,
    pub(super) packs: usize,
    /// All loads and unpackings, each for itself.
    pub(super) sum_us: u64,
    /// While at least one was at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elapsed_us: Option<u64>,
    /// While the image's device was awaited and none was at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle_us: Option<u64>,
}

/// The phases, and what had to be left out, as sentences.
pub(super) fn phases(
    record: &Record,
    firmware: Option<&Firmware>,
    systemd: Option<&Systemd>,
) -> (Vec<Phase>, Vec<String>) {
    let mut line = Line::default();
    let mut notes = Vec::new();
    if let Some(firmware) = firmware {
        let since_power_on = signed(firmware.kernel_us);
        line.at = -since_power_on;
        line.until(
            "firmware",
            Part::Firmware,
            signed(firmware.loader_us) - since_power_on,
        );
        line.until("loader", Part::Loader, 0);
    }
    for (index, stage) in record.stages.iter().enumerate() {
        // What is before the first stage is the kernel.
        match index {
            0 => line.until("kernel", Part::Kernel, signed(stage.us)),
            _ => line.until(stage.name.as_str(), Part::StorageInit, signed(stage.us)),
        }
    }
    if let Some(systemd) = systemd {
        let times = [
            ("init", Part::Image, systemd.initrd_us),
            (
                if systemd.initrd_us.is_some() {
                    "initrd"
                } else {
                    "init"
                },
                Part::Image,
                systemd.userspace_us,
            ),
            ("system", Part::System, systemd.finish_us),
        ];
        let times: Vec<_> = times
            .into_iter()
            .filter_map(|(name, part, us)| Some((name, part, signed(us?))))
            .collect();
        let mut before = line.at;
        let in_order = times.iter().all(|&(_, _, us)| {
            let right = before <= us;
            before = us;
            right
        });
        if in_order {
            for (name, part, us) in times {
                line.until(name, part, us);
            }
            if systemd.finish_us.is_none() {
                notes.push("systemd is still starting units: the end is not known yet".into());
            }
        } else {
            notes.push("systemd's times are not of the boot that was recorded: left out".into());
        }
    }
    (line.phases, notes)
}

/// Phases without gaps.
#[derive(Default)]
struct Line {
    at: i64,
    phases: Vec<Phase>,
}

impl Line {
    fn until(&mut self, name: &str, part: Part, end: i64) {
        self.phases.push(Phase {
            name: name.into(),
            part,
            at_us: self.at,
            us: u64::try_from(end.saturating_sub(self.at)).unwrap_or(0),
        });
        self.at = end;
    }
}

/// Times are bounded far below.
fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

/// When modules were loaded for the search: from the plan to the last of them.
pub(super) fn search(record: &Record) -> Span {
    let from = record.stage("plan").unwrap_or(0);
    let to = record.stage("modules").or(record.stage("device"));
    (from, to.unwrap_or(from))
}

/// Every load and unpacking whose time is known.
pub(super) fn spans(record: &Record) -> Vec<Span> {
    let all = record.modules.iter().chain(&record.packs);
    all.filter_map(super::record::Load::span).collect()
}

pub(super) fn loading(record: &Record) -> Loading {
    let all = record.modules.iter().chain(&record.packs);
    let sum_us = all
        .clone()
        .fold(0u64, |sum, load| sum.saturating_add(load.us));
    let known = all.clone().count() > 0 && all.clone().all(|load| load.at.is_some());
    let spans = spans(record);
    let awaited = (
        record.stage("plan").unwrap_or(0),
        record.stage("device").unwrap_or(0),
    );
    let busy = covered(&within(spans.iter().copied(), awaited));
    Loading {
        modules: record.modules.len(),
        packs: record.packs.len(),
        sum_us,
        elapsed_us: known.then(|| covered(&spans)),
        idle_us: known.then(|| awaited.1.saturating_sub(awaited.0).saturating_sub(busy)),
    }
}
