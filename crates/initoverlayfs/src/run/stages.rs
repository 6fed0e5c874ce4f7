//! The stages that storage-init reports on the kernel log:
//! `storage-init: [stage NAME] text`.

use std::time::Duration;

use qemu_driver::{ConsoleLine, Outcome};
use serde::Serialize;

use super::End;
use crate::ui;

/// A guest that repeats itself cannot fill the memory.
const MAX: usize = 1000;

/// A stage, with the guest's clock at its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    name: String,
    text: String,
    at: Duration,
}

/// The stages seen so far, in order.
#[derive(Debug, Default)]
pub(super) struct Stages(Vec<Stage>);

impl Stages {
    /// Takes the stage that a console line reports, if it does.
    pub(super) fn see(&mut self, line: &ConsoleLine) {
        let Some((at, message)) = &line.kernel else {
            return;
        };
        let Some((name, text)) = parse(message) else {
            return;
        };
        if self.0.len() < MAX {
            self.0.push(Stage {
                name: name.into(),
                text: text.into(),
                at: *at,
            });
        }
    }

    /// Name of the last one.
    pub(super) fn last(&self) -> Option<&str> {
        self.0.last().map(|stage| stage.name.as_str())
    }
}

fn parse(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("storage-init: [stage ")?;
    let (name, text) = rest.split_once(']')?;
    Some((name, text.trim()))
}

/// The table for people.
pub(super) fn print(stages: &Stages, outcome: &Outcome) {
    let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
    // The console may have left the cursor inside a line.
    anstream::println!("\n");
    if stages.0.is_empty() {
        ui::warn(
            "no stage of storage-init was on the console; \
             `quiet` and `loglevel=` in the kernel arguments hide them",
        );
    } else {
        let mut before = Duration::ZERO;
        let rows: Vec<Vec<String>> = stages
            .0
            .iter()
            .map(|stage| {
                let since = stage.at.saturating_sub(before);
                before = stage.at;
                vec![
                    stage.name.clone(),
                    seconds(stage.at),
                    seconds(since),
                    stage.text.clone(),
                ]
            })
            .collect();
        ui::table(&["stage", "at, s", "took, s", ""], &rows);
    }
    for disk in outcome
        .disks
        .iter()
        .filter(|d| d.device.starts_with("disk"))
    {
        anstream::println!(
            "{}: {} read in {} requests",
            disk.device,
            ui::size(disk.read_bytes),
            disk.read_operations
        );
    }
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    end: &'static str,
    wall_ms: u64,
    stages: Vec<JsonStage<'a>>,
    disks: Vec<JsonDisk<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonStage<'a> {
    name: &'a str,
    us: u64,
    text: &'a str,
}

#[derive(Debug, Serialize)]
struct JsonDisk<'a> {
    device: &'a str,
    read_bytes: u64,
    read_operations: u64,
    written_bytes: u64,
}

impl<'a> Json<'a> {
    pub(super) fn new(stages: &'a Stages, outcome: &'a Outcome, end: &End) -> Self {
        let whole = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        let stage = |stage: &'a Stage| JsonStage {
            name: &stage.name,
            us: whole(stage.at.as_micros()),
            text: &stage.text,
        };
        let disks = outcome.disks.iter().map(|disk| JsonDisk {
            device: &disk.device,
            read_bytes: disk.read_bytes,
            read_operations: disk.read_operations,
            written_bytes: disk.written_bytes,
        });
        Self {
            end: end.name(),
            wall_ms: whole(outcome.wall.as_millis()),
            stages: stages.0.iter().map(stage).collect(),
            disks: disks.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_lines_are_told_from_others() {
        let mut stages = Stages::default();
        for raw in [
            "[    1.912345] storage-init: [stage start] version 0.1.0\r",
            "[    1.950000] storage-init: loading erofs",
            "storage-init: [stage fake] printed by no kernel",
            "[    2.500000] storage-init: [stage device] /dev/vda1 after 550 ms",
            "[    2.600000] other: [stage x] y",
        ] {
            stages.see(&ConsoleLine::new(Duration::ZERO, raw.as_bytes()));
        }
        let seen: Vec<(&str, u128)> = stages
            .0
            .iter()
            .map(|s| (s.name.as_str(), s.at.as_micros()))
            .collect();
        assert_eq!(seen, [("start", 1_912_345), ("device", 2_500_000)]);
        assert_eq!(stages.last(), Some("device"));
    }
}
