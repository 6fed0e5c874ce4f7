//! `install`: puts a built set on a boot partition, or its image into partitions.

use installer::{Action, BuiltSet, Options, Report};

use crate::cli::InstallArgs;
use crate::error::{CliError, Result};
use crate::ui;

pub(crate) fn run(args: &InstallArgs) -> Result<()> {
    let set = BuiltSet::open(&args.from)?;
    let options = Options {
        esp: args.esp.clone(),
        boot: args.boot.clone(),
        entry_token: args.entry_token.clone(),
        cmdline: args.cmdline.clone(),
        image_partitions: args.image_partitions.clone(),
        dry_run: args.dry_run,
    };
    let bars = ui::Bars::default();
    let report = installer::install(&args.root, &set, &options, &bars);
    bars.end();
    let report = report?;
    if args.json {
        return ui::print_json(&report);
    }
    for note in &report.notes {
        ui::warn(note);
    }
    print(&report, args.dry_run);
    Ok(())
}

fn print(report: &Report, dry_run: bool) {
    print_partitions(report);
    let rows: Vec<Vec<String>> = report
        .files
        .iter()
        .map(|file| {
            vec![
                file.path.display().to_string(),
                ui::size(file.size),
                said(file.action).into(),
            ]
        })
        .collect();
    ui::table(&["file", "size", ""], &rows);
    let id = &report.entry_id;
    if report.already_installed() {
        anstream::println!("{id} is already installed.");
    } else if dry_run && report.entry.is_empty() {
        anstream::println!("{id} would be installed as a UKI.");
    } else if dry_run {
        anstream::println!(
            "{id} would be installed with this entry:\n\n{}",
            report.entry
        );
    } else {
        anstream::println!(
            "{id} is installed; the default entry is as before. \
             Try it once with: bootctl set-oneshot {}",
            report.entry_file
        );
    }
}

fn print_partitions(report: &Report) {
    let rows: Vec<Vec<String>> = report
        .partitions
        .iter()
        .map(|part| {
            let read_only = if part.read_only { ", read-only" } else { "" };
            vec![
                part.node.display().to_string(),
                part.holds.clone(),
                ui::size(part.size),
                format!("PARTUUID={}{read_only}", part.partuuid),
                said(part.action).into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        ui::table(&["partition", "holds", "size", "name", ""], &rows);
        anstream::println!();
    }
}

fn said(action: Action) -> &'static str {
    match action {
        Action::Written => "written",
        Action::AlreadyThere => "already there",
        Action::WouldWrite => "would be written",
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new("cannot write the result as JSON").source(error)
    }
}
