//! `run`: boots a built set in QEMU, shows the console, then the stages.

mod disk;
mod esp;
mod plan;
mod stages;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use qemu_driver::{ConsoleLine, Error, Exit, Outcome, RunOptions, Stdin, Vm};

use crate::cli::RunArgs;
use crate::error::{CliError, Result};
use crate::ui;
use plan::RunPlan;
use stages::Stages;

pub(crate) fn run(args: RunArgs) -> Result<()> {
    let json = args.json;
    let plan = RunPlan::resolve(args)?;
    let bars = ui::Bars::default();
    bars.begin("making the boot disk".into(), None, false);
    let prepared = plan.prepare();
    bars.end();
    let (machine, _files) = prepared?;

    let console: Box<dyn Write + Send> = match json {
        true => Box::new(std::io::stderr()),
        false => Box::new(std::io::stdout()),
    };
    let typed = std::io::stdin().is_terminal();
    let options = RunOptions {
        tee: Some(console),
        stdin: if typed { Stdin::Inherit } else { Stdin::Null },
        answers: Vec::new(),
        count_memory: false,
        // The wait has the limit; this one only covers what follows it.
        limit: Some(plan.timeout.saturating_add(Duration::from_secs(30))),
    };
    let vm = Vm::start(&machine, options)?;
    let (stages, end, outcome) = watch(vm, &plan)?;
    if json {
        ui::print_json(&stages::Json::new(&stages, &outcome, &end))?;
    } else {
        stages::print(&stages, &outcome);
    }
    end.into_result(&plan, &stages)
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The awaited line came.
    Reached,
    /// The guest turned itself off.
    PowerOff,
    /// The guest restarted or panicked.
    Reset,
    /// The time was over.
    TimedOut,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::TimedOut => "timed-out",
        }
    }

    fn into_result(self, plan: &RunPlan, stages: &Stages) -> Result<()> {
        let last = match stages.last() {
            Some(stage) => format!("the last stage was {stage}"),
            None => "storage-init did not report any stage".into(),
        };
        match (self, &plan.until) {
            (Self::Reached, _) | (Self::PowerOff, None) => Ok(()),
            (Self::TimedOut, until) => Err(CliError::new(format!(
                "{} did not come within {} s; {last}",
                match until {
                    Some(text) => format!("the line {text:?}"),
                    None => "the guest's end".into(),
                },
                plan.timeout.as_secs()
            ))
            .hint("give it more time with --timeout")),
            (Self::PowerOff | Self::Reset, Some(text)) => Err(CliError::new(format!(
                "the guest ended before the line {text:?} came; {last}"
            ))),
            (Self::Reset, None) => Err(CliError::new(format!(
                "the guest restarted instead of turning itself off; {last}"
            ))
            .hint("the console above says why; a failed boot restarts the machine")),
        }
    }
}

fn watch(mut vm: Vm, plan: &RunPlan) -> Result<(Stages, End, Outcome)> {
    let mut stages = Stages::default();
    let what = plan
        .until
        .clone()
        .unwrap_or_else(|| "the guest's end".into());
    let waited = vm.wait_for(&what, plan.timeout, |line: &ConsoleLine| {
        stages.see(line);
        plan.until
            .as_deref()
            .is_some_and(|text| line.text.contains(text))
    });
    let (end, outcome) = match waited {
        Ok(_) => (End::Reached, vm.stop()?),
        Err(Error::TimedOut { .. }) => (End::TimedOut, vm.stop()?),
        Err(Error::Ended { .. }) => {
            let outcome = vm.finish(Duration::from_secs(10))?;
            let end = match outcome.exit {
                Exit::PowerOff | Exit::Stopped => End::PowerOff,
                Exit::Reset | Exit::Panicked => End::Reset,
            };
            (end, outcome)
        }
        Err(error) => return Err(error.into()),
    };
    Ok((stages, end, outcome))
}
