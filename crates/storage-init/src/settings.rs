//! Step 2: the boot plan, and the kernel command line over it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Arguments;

use iofs_cmdline::{Cmdline, Mode, Overrides, Record, RootWords};
use iofs_plan::{Auth, BootPlan, Candidate, MAX_LEN};
use kernel_abi::{clock, file, process};

use crate::log::Log;
use crate::paths::Paths;
use crate::report::{DEFAULT_WAIT_MS, Failure, join};

/// The longest command line that any architecture's kernel takes, and some.
pub(crate) const MAX_CMDLINE: usize = 65_536;

/// Where systemd-stub puts the credential `initoverlayfs.hint` of the ESP's
/// folder `/loader/credentials`, below `/.extra`.
const HINT_CREDENTIAL: &str = "global_credentials/initoverlayfs.hint.cred";

/// The same of the credential by which `initoverlayfs profile record` asks for one
/// boot to be recorded: `until=` and the seconds since 1970 at which that is over.
const PROFILE_CREDENTIAL: &str = "global_credentials/initoverlayfs.profile.cred";

/// How far ahead that may be, in seconds: a clock that is wrong by more does not
/// slow every boot.
const RECORD_WITHIN: u64 = 2 * 3600;

/// The longest hint, in bytes.
const MAX_HINT: usize = 2048;

/// The plan with the command line's choices applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The plan; its limits and failure action are the chosen ones.
    pub plan: BootPlan,
    /// Indices of the candidates to try, in order.
    pub candidates: Vec<usize>,
    /// Drivers to try first: by the command line, else as the last good boot
    /// left them on the ESP.
    pub hint: Vec<String>,
    /// How many modules are loaded at once, if the command line says so.
    pub workers: Option<u32>,
    /// Whether what the image says that boots read is read ahead.
    pub prefetch: bool,
    /// Whether this boot is recorded, and how.
    pub record: Option<Record>,
    /// How the command line wants it to go on, if it says so.
    pub mode: Option<Mode>,
    /// What the command line says of the root.
    pub root: RootWords,
    /// Whether detail is logged.
    pub debug: bool,
}

impl Settings {
    /// Reads both, and warns of what in the command line has no effect. Without
    /// a plan that can be obeyed there is a failure, too, and the settings say
    /// how to end: that much of the command line holds in any case.
    pub fn read(paths: &Paths, log: &mut Log) -> (Self, Result<(), Failure>) {
        let (overrides, root) = read_cmdline(paths, log);
        let (plan, read) = match read_plan(paths) {
            Ok(plan) => (plan, Ok(())),
            Err(failure) => {
                let plan = BootPlan {
                    failure_wait_ms: DEFAULT_WAIT_MS,
                    ..BootPlan::default()
                };
                (plan, Err(failure))
            }
        };
        let mut settings = Self::choose(plan, &overrides);
        if settings.hint.is_empty() {
            settings.hint = recorded_hint(paths);
        }
        if settings.record.is_none() && is_armed(paths, clock::unix_seconds()) {
            settings.record = Some(Record::Best);
        }
        // What is read ahead would be taken for wanted.
        settings.prefetch &= settings.record.is_none();
        settings.root = root;
        let settings = settings;
        log.debug = settings.debug;
        let result = read.and_then(|()| settings.check(overrides.image.as_deref()));
        if result.is_ok() {
            settings.warn(log);
        }
        (settings, result)
    }

    fn choose(mut plan: BootPlan, overrides: &Overrides) -> Self {
        let named = |candidate: &Candidate| match &overrides.image {
            Some(name) => candidate.name == *name,
            None => true,
        };
        let candidates = (0..plan.candidates.len())
            .filter(|&index| plan.candidates.get(index).is_some_and(named))
            .collect();
        if let Some(time) = overrides.device_timeout_ms {
            plan.device_timeout_ms = time;
        }
        if let Some(action) = overrides.on_failure {
            plan.on_failure = action;
        }
        if let Some(time) = overrides.failure_wait_ms {
            plan.failure_wait_ms = time;
        }
        Self {
            plan,
            candidates,
            hint: overrides.hint.clone(),
            workers: overrides.workers,
            prefetch: overrides.prefetch.unwrap_or(true),
            record: overrides.record,
            mode: overrides.mode,
            root: RootWords::default(),
            debug: overrides.debug,
        }
    }

    /// Whether there is anything to try; `image` is what the command line chose.
    fn check(&self, image: Option<&str>) -> Result<(), Failure> {
        if !self.candidates.is_empty() {
            return Ok(());
        }
        let names = join(
            &mut self.plan.candidates.iter().map(|c| c.name.clone()),
            ", ",
        );
        let failure = match image {
            Some(name) => Failure::new(format_args!(
                "initoverlayfs.image={name} names none of the plan's candidates"
            )),
            None => Failure::new(format_args!("the boot plan names no place for an image")),
        };
        Err(failure
            .seen(vec![format!("candidates in the plan: {names}")])
            .advise(
                "remove initoverlayfs.image= from the kernel command line, or name one of these",
            ))
    }

    fn warn(&self, log: &mut Log) {
        let running = process::kernel_release();
        if !self.plan.modules.is_empty() && self.plan.kernel_release != running {
            log.warn(format_args!(
                "this mini-initramfs has modules for kernel {}, but {running} is running: \
                 they will not load; rebuild it for this kernel",
                self.plan.kernel_release
            ));
        }
        if self.plan.auth == Auth::None {
            log.warn(format_args!(
                "auth=none in the boot plan: the image is NOT authenticated"
            ));
        }
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

fn read_cmdline(paths: &Paths, log: &mut Log) -> (Overrides, RootWords) {
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
    (overrides, RootWords::from_cmdline(&cmdline))
}

/// The hint that systemd-stub found among the credentials on the ESP, as
/// `initoverlayfs hint` puts it there. Anybody could have: one that makes no
/// sense is none.
fn recorded_hint(paths: &Paths) -> Vec<String> {
    let path = file::join(&paths.extra, HINT_CREDENTIAL);
    file::read(&path, MAX_HINT)
        .ok()
        .and_then(|bytes| iofs_cmdline::hints(core::str::from_utf8(&bytes).ok()?))
        .unwrap_or_default()
}

/// Whether a credential asks for this boot to be recorded. Anybody could have put
/// it on the ESP: what it does is to make one boot slower.
fn is_armed(paths: &Paths, now: u64) -> bool {
    let path = file::join(&paths.extra, PROFILE_CREDENTIAL);
    let until = file::read(&path, 64).ok().and_then(|bytes| {
        let text = core::str::from_utf8(&bytes).ok()?;
        text.trim().strip_prefix("until=")?.parse::<u64>().ok()
    });
    until.is_some_and(|until| (now..now.saturating_add(RECORD_WITHIN)).contains(&until))
}

fn read_plan(paths: &Paths) -> Result<BootPlan, Failure> {
    let bytes =
        file::read(&paths.plan, MAX_LEN).map_err(|error| no_plan(format_args!("{error}")))?;
    BootPlan::decode(&bytes).map_err(|error| no_plan(format_args!("{}: {error}", paths.plan)))
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
            auth: Auth::None,
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
        let (settings, result) = Settings::read(&paths, &mut log);
        (result.map(|()| settings), log)
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
    fn without_a_plan_the_command_line_still_says_how_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let cmdline = dir.path().join("cmdline");
        let paths = Paths {
            plan: "/no/such/plan".into(),
            cmdline: cmdline.to_str().unwrap().into(),
            ..Paths::kernel()
        };
        for (words, action, wait) in [
            ("quiet", OnFailure::Reboot, DEFAULT_WAIT_MS),
            (
                "initoverlayfs.on_failure=halt initoverlayfs.failure_wait=2",
                OnFailure::Halt,
                2000,
            ),
        ] {
            std::fs::write(&cmdline, words).unwrap();
            let (settings, result) = Settings::read(&paths, &mut Log::new());
            let failure = result.unwrap_err();
            assert!(failure.lines(&Log::new(), "")[0].contains("/no/such/plan"));
            assert_eq!(settings.plan.on_failure, action);
            assert_eq!(settings.plan.failure_wait_ms, wait);
        }
    }

    #[test]
    fn a_credential_arms_one_hour() {
        let dir = tempfile::tempdir().unwrap();
        let credential = dir.path().join(PROFILE_CREDENTIAL);
        std::fs::create_dir_all(credential.parent().unwrap()).unwrap();
        let paths = Paths {
            extra: dir.path().to_str().unwrap().to_string(),
            ..Paths::kernel()
        };
        let armed = |text: &str, now| {
            std::fs::write(&credential, text).unwrap();
            is_armed(&paths, now)
        };
        assert!(armed("until=5000\n", 1400));
        assert!(armed("until=5000", 5000));
        assert!(!armed("until=5000\n", 5001));
        // A clock that was never set.
        assert!(!armed("until=1700000000\n", 60));
        for text in [
            "",
            "until=",
            "until=-1",
            "until=99999999999999999999",
            "record",
        ] {
            assert!(!armed(text, 0), "{text}");
        }
        std::fs::remove_file(&credential).unwrap();
        assert!(!is_armed(&paths, 0));
    }

    #[test]
    fn a_recorded_boot_reads_nothing_ahead() {
        let chosen = |words| {
            let (settings, _) = read(words);
            let settings = settings.unwrap();
            (settings.record, settings.prefetch)
        };
        assert_eq!(chosen(""), (None, true));
        assert_eq!(chosen("initoverlayfs.prefetch=off"), (None, false));
        let (best, opens) = (Some(Record::Best), Some(Record::Opens));
        assert_eq!(chosen("initoverlayfs.profile=record"), (best, false));
        assert_eq!(chosen("initoverlayfs.profile=fanotify"), (opens, false));
        assert_eq!(chosen("initoverlayfs.profile=other"), (None, true));
    }
}
