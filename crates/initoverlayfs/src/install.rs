//! `install`: puts a built set on a boot partition.

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
    let rows: Vec<Vec<String>> = report
        .files
        .iter()
        .map(|file| {
            let action = match file.action {
                Action::Written => "written",
                Action::AlreadyThere => "already there",
                Action::WouldWrite => "would be written",
            };
            vec![
                file.path.display().to_string(),
                ui::size(file.size),
                action.into(),
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

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new("cannot write the result as JSON").source(error)
    }
}
