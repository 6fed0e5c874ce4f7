//! Step 2: the boot plan, and the kernel command line over it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Arguments;

use iofs_cmdline::{Cmdline, Overrides};
use iofs_plan::{Auth, BootPlan, Candidate, MAX_LEN};
use kernel_abi::{file, process};

use crate::log::Log;
use crate::paths::Paths;
use crate::report::{Failure, join};

/// The longest command line that any architecture's kernel takes, and some.
const MAX_CMDLINE: usize = 65_536;

/// The plan with the command line's choices applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The plan; its limits and failure action are the chosen ones.
    pub plan: BootPlan,
    /// Indices of the candidates to try, in order.
    pub candidates: Vec<usize>,
    /// Whether detail is logged.
    pub debug: bool,
}

impl Settings {
    /// Reads both, and warns of what in the command line has no effect.
    ///
    /// # Errors
    /// If there is no plan that can be obeyed.
    pub fn read(paths: &Paths, log: &mut Log) -> Result<Self, Failure> {
        let bytes =
            file::read(&paths.plan, MAX_LEN).map_err(|error| no_plan(format_args!("{error}")))?;
        let plan = BootPlan::decode(&bytes)
            .map_err(|error| no_plan(format_args!("{}: {error}", paths.plan)))?;
        let text = match file::read(&paths.cmdline, MAX_CMDLINE) {
            Ok(text) => text,
            Err(error) => {
                log.warn(format_args!(
                    "the kernel command line is not obeyed: {error}"
                ));
                Vec::new()
            }
        };
        let cmdline = Cmdline::parse(&text);
        let (overrides, warnings) = Overrides::from_cmdline(&cmdline);
        for warning in warnings {
            log.warn(format_args!("{warning}"));
        }
        let settings = Self::choose(plan, overrides)?;
        log.debug = settings.debug;
        let running = process::kernel_release();
        if !settings.plan.modules.is_empty() && settings.plan.kernel_release != running {
            log.warn(format_args!(
                "this mini-initramfs has modules for kernel {}, but {running} is running: \
                 they will not load; rebuild it for this kernel",
                settings.plan.kernel_release
            ));
        }
        if settings.plan.auth == Auth::None {
            log.warn(format_args!(
                "auth=none in the boot plan: the image is NOT authenticated"
            ));
        }
        Ok(settings)
    }

    fn choose(mut plan: BootPlan, overrides: Overrides) -> Result<Self, Failure> {
        let all = 0..plan.candidates.len();
        let candidates: Vec<usize> = match &overrides.image {
            None => all.collect(),
            Some(name) => all
                .filter(|&index| plan.candidates.get(index).is_some_and(|c| c.name == *name))
                .collect(),
        };
        if candidates.is_empty() {
            let names = join(&mut plan.candidates.iter().map(|c| c.name.clone()), ", ");
            let failure = match overrides.image {
                Some(name) => Failure::new(format_args!(
                    "initoverlayfs.image={name} names none of the plan's candidates"
                )),
                None => Failure::new(format_args!("the boot plan names no place for an image")),
            };
            return Err(failure
                .seen(vec![format!("candidates in the plan: {}", names)])
                .advise(
                    "remove initoverlayfs.image= from the kernel command line, or name one of these",
                ));
        }
        if let Some(time) = overrides.device_timeout_ms {
            plan.device_timeout_ms = time;
        }
        if let Some(action) = overrides.on_failure {
            plan.on_failure = action;
        }
        if let Some(time) = overrides.failure_wait_ms {
            plan.failure_wait_ms = time;
        }
        Ok(Self {
            plan,
            candidates,
            debug: overrides.debug,
        })
    }

    /// The candidates to try, in order.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates
            .iter()
            .filter_map(|&index| self.plan.candidates.get(index))
    }

    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let places = join(&mut self.candidates().map(describe_candidate), ", else ");
        format!("{}: image at {places}", self.plan.product)
    }
}

/// Where a candidate is, for messages.
#[must_use]
pub fn describe_candidate(candidate: &Candidate) -> String {
    match &candidate.file {
        Some(file) => format!("{file} on {} ({})", candidate.partition, candidate.name),
        None => format!("{} ({})", candidate.partition, candidate.name),
    }
}

fn no_plan(why: Arguments<'_>) -> Failure {
    Failure::new(format_args!("there is no boot plan: {why}")).advise(
        "this mini-initramfs is damaged or was not made by initoverlayfs; build and install it \
         again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::{Expect, OnFailure, Selector};
    use std::string::ToString;

    fn plan() -> BootPlan {
        let candidate = |name: &str| Candidate {
            name: name.into(),
            partition: Selector::PartLabel(name.into()),
            file: None,
            expect: Expect::default(),
        };
        BootPlan {
            product: "test".into(),
            candidates: vec![candidate("first"), candidate("second")],
            device_timeout_ms: 90_000,
            ..BootPlan::default()
        }
    }

    fn read(cmdline: &str) -> (Result<Settings, Failure>, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        std::fs::write(path("plan"), plan().encode().unwrap()).unwrap();
        std::fs::write(path("cmdline"), cmdline).unwrap();
        let mut log = Log::new();
        let paths = Paths {
            plan: path("plan"),
            cmdline: path("cmdline"),
            ..Paths::kernel()
        };
        (Settings::read(&paths, &mut log), log)
    }

    #[test]
    fn the_command_line_chooses() {
        let (settings, _) = read(
            "root=/dev/vda2 initoverlayfs.image=second initoverlayfs.timeout=7 \
             initoverlayfs.on_failure=poweroff initoverlayfs.failure_wait=0\n",
        );
        let settings = settings.unwrap();
        assert_eq!(settings.candidates, [1]);
        assert_eq!(settings.plan.device_timeout_ms, 7000);
        assert_eq!(settings.plan.on_failure, OnFailure::PowerOff);
        assert_eq!(settings.plan.failure_wait_ms, 0);
    }

    #[test]
    fn an_unknown_candidate_is_named_with_the_known_ones() {
        let failure = read("initoverlayfs.image=third").0.unwrap_err();
        let lines = failure.lines(&Log::new(), "").join("\n");
        assert!(lines.contains("third"));
        assert!(lines.contains("  seen: candidates in the plan: first, second"));
    }

    #[test]
    fn the_lack_of_authentication_is_said_and_cannot_be_chosen() {
        let (settings, log) = read("initoverlayfs.auth=none");
        assert_eq!(settings.unwrap().plan.auth, Auth::None);
        assert!(
            log.complaints
                .iter()
                .any(|c| c.contains("never on the command line"))
        );
        assert!(
            log.complaints
                .iter()
                .any(|c| c.contains("NOT authenticated"))
        );
    }

    #[test]
    fn a_missing_or_damaged_plan_is_a_failure_that_says_so() {
        let paths = Paths {
            plan: "/no/such/plan".into(),
            ..Paths::kernel()
        };
        let failure = Settings::read(&paths, &mut Log::new()).unwrap_err();
        assert!(failure.lines(&Log::new(), "")[0].contains("/no/such/plan"));
    }
}
