//! Step 3: kernel modules.
//!
//! # Why it is done like this
//!
//! Loading modules is most of what PID 1 waits for. Each costs some 45 million
//! instructions, nearly all of them in the kernel's check of the module's
//! signature, whatever its size. So:
//!
//! 1. *Fewer modules.* Those that the plan knows the way to the image to need
//!    are loaded at once. What else could carry storage is loaded only when a
//!    device asks for it. Mapping modules come when a mapping is built.
//! 2. *Several at a time.* finit_module(2) checks signatures in the caller's
//!    context, so workers on several CPUs really work in parallel. Workers are
//!    processes: PID 1 has no threads, a fork of its few pages costs about a
//!    five-hundredth of the load itself, an exit status is wide enough for an
//!    errno, and a worker that the kernel kills or never wakes again takes
//!    nobody along. Threads were the alternative: they would need stacks, a
//!    futex and shared state, for no gain that could be measured.
//! 3. *At least two at a time*, on one CPU too: some drivers sleep in their init
//!    function for their hardware, and another module can be checked meanwhile.
//! 4. *Each once, in an order worked out at build time.* The plan's dependencies
//!    form a DAG of indices; [`crate::schedule`] hands out whatever is ready, in
//!    the order in which it was asked for, so the boot disk's chain goes first.
//! 5. *With a limit.* A module whose init does not return in [`STUCK_AFTER_US`]
//!    is named in the log and left to its worker; the boot goes on without it.
//!    After [`ALL_STUCK_AFTER_US`] nothing further is started.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_cmdline::{Cmdline, Param};
use iofs_plan::{BootPlan, Role};
use kernel_abi::process::{self, Child, Ended};
use kernel_abi::{Errno, clock, file, module};

use crate::log::Log;
use crate::paths::Paths;
use crate::schedule::{Schedule, State};
use crate::settings::MAX_CMDLINE;

/// How long a module may take before the boot goes on without it, in
/// microseconds. SCSI host adapters can take several seconds.
pub const STUCK_AFTER_US: u64 = 30_000_000;

/// How long all modules of one request may take, in microseconds: when several
/// are stuck one after the other, the rest is not started any more.
pub const ALL_STUCK_AFTER_US: u64 = 60_000_000;

/// No more workers than this: past it the kernel's own locks are the limit.
const MAX_WORKERS: usize = 8;

/// Status of a worker that ended by a signal: no errno of module loading.
const KILLED: u8 = 255;

/// What loading a module came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Index in the plan.
    pub index: u16,
    /// How long it took, in microseconds, waiting for a CPU included.
    pub micros: u64,
    /// errno, 0 for success.
    pub errno: u8,
}

struct Job {
    index: u16,
    started: u64,
}

/// Loads the plan's modules.
pub struct Loader<'p> {
    plan: &'p BootPlan,
    folder: String,
    /// The kernel command line, with parameters for modules.
    cmdline: Vec<u8>,
    schedule: Schedule<'p>,
    workers: usize,
    /// Running workers; `children` and `jobs` go in step.
    children: Vec<Child>,
    jobs: Vec<Job>,
    /// What has been loaded or refused, in the order of their ends.
    pub records: Vec<Record>,
}

impl core::fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Loader")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl<'p> Loader<'p> {
    /// A loader for the modules of `plan`.
    #[must_use]
    pub fn new(plan: &'p BootPlan, paths: &Paths) -> Self {
        Self {
            plan,
            folder: paths.modules.clone(),
            // Whether it can be read has been said with the settings.
            cmdline: file::read(&paths.cmdline, MAX_CMDLINE).unwrap_or_default(),
            schedule: Schedule::new(plan),
            workers: process::cpus().clamp(2, MAX_WORKERS),
            children: Vec::new(),
            jobs: Vec::new(),
            records: Vec::new(),
        }
    }

    /// The boot disk's chain, then what every image needs.
    pub fn load_first(&mut self, log: &mut Log) {
        for role in [Role::Disk, Role::Image] {
            self.want_role(role);
        }
        self.finish(log);
    }

    /// Everything that could carry storage. Returns how many modules were new.
    pub fn load_all_buses(&mut self, log: &mut Log) -> usize {
        let count = self.want_role(Role::Bus);
        self.finish(log);
        count
    }

    /// What serves these devices. Returns how many modules were new.
    pub fn load_for<'a>(
        &mut self,
        modaliases: impl IntoIterator<Item = &'a str>,
        log: &mut Log,
    ) -> usize {
        let plan = self.plan;
        let mut count = 0;
        for modalias in modaliases {
            for index in plan.modules_for(modalias) {
                let new = self.schedule.want(index);
                if new > 0 {
                    log.debug(format_args!("{} asks for {}", modalias, self.name(index)));
                }
                count += new;
            }
        }
        self.finish(log);
        count
    }

    /// A module by its name, if the plan has it; one that it does not have is
    /// taken to be built into the kernel.
    pub fn load_named(&mut self, name: &str, log: &mut Log) {
        let found = self.plan.modules.iter().position(|m| m.name == name);
        if let Some(index) = found.and_then(|index| u16::try_from(index).ok()) {
            self.schedule.want(index);
            self.finish(log);
        }
    }

    /// Loads whatever serves any device that is there now. Returns how many
    /// modules were new.
    pub fn coldplug(&mut self, sys: &str, log: &mut Log) -> usize {
        let modaliases = modaliases(sys);
        self.load_for(modaliases.iter().map(String::as_str), log)
    }

    /// One line for the log.
    #[must_use]
    pub fn summary(&self) -> String {
        let loaded = self.records.iter().filter(|r| r.errno == 0).count();
        format!("{loaded} of {} modules loaded", self.plan.modules.len())
    }

    /// The name of module `index`.
    #[must_use]
    pub fn name(&self, index: u16) -> &'p str {
        self.plan
            .modules
            .get(usize::from(index))
            .map_or("", |module| module.name.as_str())
    }

    fn want_role(&mut self, role: Role) -> usize {
        let plan = self.plan;
        let mut count = 0;
        for (index, module) in (0..=u16::MAX).zip(&plan.modules) {
            if module.role == role {
                count += self.schedule.want(index);
            }
        }
        count
    }

    /// Runs until nothing that is wanted is left, or only what is stuck.
    fn finish(&mut self, log: &mut Log) {
        let deadline = clock::micros().saturating_add(ALL_STUCK_AFTER_US);
        loop {
            while clock::micros() < deadline && self.children.len() < self.workers {
                let Some(index) = self.schedule.take_ready() else {
                    break;
                };
                self.start(index, log);
            }
            let Some(oldest) = self.jobs.iter().map(|job| job.started).min() else {
                break;
            };
            let now = clock::micros();
            let left = oldest.saturating_add(STUCK_AFTER_US).saturating_sub(now);
            match process::wait_first(&self.children, left) {
                Some((at, ended)) => self.ended(at, ended, log),
                None if left == 0 => self.abandon_oldest(log),
                None => {}
            }
        }
        self.report_blocked(log);
    }

    fn start(&mut self, index: u16, log: &mut Log) {
        let Some(module) = self.plan.modules.get(usize::from(index)) else {
            return;
        };
        let path = file::join(&self.folder, &module.file);
        let params = params(&module.name, &module.params, &self.cmdline);
        let started = clock::micros();
        match process::fork(|| exit_status(module::load(&path, &params))) {
            Ok(child) => {
                self.children.push(child);
                self.jobs.push(Job { index, started });
            }
            Err(error) => {
                // Without workers there is still this process.
                log.warn(format_args!("{error}; loading {} here", module.name));
                let errno = exit_status(module::load(&path, &params));
                self.settle(Job { index, started }, errno, log);
            }
        }
    }

    fn ended(&mut self, at: usize, ended: Ended, log: &mut Log) {
        self.children.swap_remove(at);
        let job = self.jobs.swap_remove(at);
        let errno = match ended {
            Ended::Exited(errno) => errno,
            Ended::Signalled => KILLED,
        };
        self.settle(job, errno, log);
    }

    fn settle(&mut self, job: Job, errno: u8, log: &mut Log) {
        self.schedule.finished(job.index, errno);
        let micros = clock::micros().saturating_sub(job.started);
        let Some(module) = self.plan.modules.get(usize::from(job.index)) else {
            return;
        };
        if errno == 0 {
            log.debug(format_args!("module {}: {micros} us", module.name));
        } else {
            let (name, why) = (&module.name, explain(errno));
            // A driver without its hardware is how a generic image looks.
            if Errno::from_raw_os_error(i32::from(errno)) == Errno::NODEV || !module.required {
                log.debug(format_args!("module {name}: {why}"));
            } else {
                log.error(format_args!("module {name}: {why}"));
            }
        }
        self.records.push(Record {
            index: job.index,
            micros,
            errno,
        });
    }

    fn abandon_oldest(&mut self, log: &mut Log) {
        let oldest = self
            .jobs
            .iter()
            .enumerate()
            .min_by_key(|(_, job)| job.started)
            .map(|(at, _)| at);
        if let Some(at) = oldest {
            self.children.swap_remove(at);
            let job = self.jobs.swap_remove(at);
            log.error(format_args!(
                "module {} has not returned in {} s; going on without it",
                self.name(job.index),
                STUCK_AFTER_US / 1_000_000
            ));
            self.settle(job, KILLED, log);
        }
    }

    fn report_blocked(&mut self, log: &mut Log) {
        for (index, module) in (0..=u16::MAX).zip(&self.plan.modules) {
            if let State::Blocked(by) = self.schedule.state(index) {
                if self.records.iter().all(|record| record.index != index) {
                    log.error(format_args!(
                        "module {} is not loaded: it needs {}, which failed",
                        module.name,
                        self.name(by)
                    ));
                    self.records.push(Record {
                        index,
                        micros: 0,
                        errno: KILLED,
                    });
                }
            }
        }
        // Only what waits for a stuck module, or what there was no time for.
        if self.schedule.has_wanted() {
            log.error(format_args!(
                "not every module was loaded in {} s; going on",
                ALL_STUCK_AFTER_US / 1_000_000
            ));
            self.schedule.drop_wanted();
        }
    }
}

/// A module's parameters: the plan's, then those that the kernel command line
/// has as `MODULE.NAME=VALUE`, of which the kernel itself takes only those of
/// what is built in. The last one wins, as with modprobe; for dm-verity that is
/// the plan's, since its parameters are about trust.
fn params(module: &str, planned: &str, cmdline: &[u8]) -> String {
    let plan_wins = module == "dm_verity";
    let mut params = String::from(if plan_wins { "" } else { planned });
    for param in Cmdline::parse(cmdline).iter() {
        let Some(dot) = param.name.iter().position(|&byte| byte == b'.') else {
            continue;
        };
        let (owner, name) = param.name.split_at(dot);
        let owner = Param {
            name: owner,
            value: None,
        };
        let name = core::str::from_utf8(name.get(1..).unwrap_or_default());
        let (true, Ok(name)) = (owner.is(module), name) else {
            continue;
        };
        if !params.is_empty() {
            params.push(' ');
        }
        params.push_str(name);
        match (param.value, param.value_str()) {
            (None, _) => {}
            (_, Some(value)) if value.contains(char::is_whitespace) => {
                params += &format!("=\"{value}\"");
            }
            (_, value) => params += &format!("={}", value.unwrap_or_default()),
        }
    }
    if plan_wins && !planned.is_empty() {
        if !params.is_empty() {
            params.push(' ');
        }
        params.push_str(planned);
    }
    params
}

/// An errno as a worker's exit status.
fn exit_status(result: kernel_abi::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => u8::try_from(error.errno().raw_os_error()).unwrap_or(KILLED),
    }
}

/// What the kernel means by an errno of finit_module(2).
fn explain(errno: u8) -> String {
    let text = match Errno::from_raw_os_error(i32::from(errno)) {
        Errno::NOENT => "its file is missing, or a symbol that it needs is (ENOENT)",
        Errno::NOEXEC => "it is not a module of this kernel (ENOEXEC)",
        Errno::KEYREJECTED | Errno::NOKEY => {
            "its signature is missing or not trusted by this kernel"
        }
        Errno::NODEV => "no device for it (ENODEV)",
        other => {
            return match kernel_abi::errno_text(other) {
                Some(text) => text.into(),
                None if errno == KILLED => "its loading did not end".into(),
                None => format!("errno {errno}"),
            };
        }
    };
    text.into()
}

/// Every modalias of the devices that are there: what udev's coldplug would
/// trigger. A device without one (or that goes meanwhile) is passed over.
#[must_use]
pub fn modaliases(sys: &str) -> Vec<String> {
    let mut all = Vec::new();
    let buses = file::join(sys, "bus");
    for (bus, _) in file::list(&buses).unwrap_or_default() {
        let devices = format!("{buses}/{bus}/devices");
        for (device, _) in file::list(&devices).unwrap_or_default() {
            let path = format!("{devices}/{device}/modalias");
            if let Ok(modalias) = file::read_line(&path) {
                if !modalias.is_empty() {
                    all.push(modalias);
                }
            }
        }
    }
    iofs_source::sort_compactly(&mut all, |a, b| a < b);
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modaliases_are_collected_from_every_bus() {
        let dir = tempfile::tempdir().unwrap();
        for (device, modalias) in [
            ("bus/pci/devices/0000:00:03.0", "pci:v1AF4\n"),
            ("bus/virtio/devices/virtio0", "virtio:d2v1AF4\n"),
            ("bus/virtio/devices/virtio1", "virtio:d2v1AF4\n"),
            ("bus/acpi/devices/LNXSYSTM", "\n"),
        ] {
            let path = dir.path().join(device);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("modalias"), modalias).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("bus/usb/devices/usb1")).unwrap();
        assert_eq!(
            modaliases(dir.path().to_str().unwrap()),
            ["pci:v1AF4", "virtio:d2v1AF4"]
        );
        assert!(modaliases("/no/such/sys").is_empty());
    }

    #[test]
    fn parameters_come_from_the_plan_and_from_the_command_line() {
        let line = b"dm_verity.require_signatures=1 dm-verity.x=\"a b\" quiet dm_mod.y=2 \
                     dm_verity.flag .=1 dm_verity -- dm_verity.z=1";
        assert_eq!(
            params("dm_verity", "keyring_unsealed=1", line),
            "require_signatures=1 x=\"a b\" flag keyring_unsealed=1"
        );
        assert_eq!(params("dm_mod", "y=1", line), "y=1 y=2");
        assert_eq!(params("dm_verity", "a=1", b""), "a=1");
        assert_eq!(params("dm_verity", "", b"dm_verity.a=1"), "a=1");
        assert_eq!(params("dm_verity", "", b""), "");
    }

    #[test]
    fn a_refusal_is_explained() {
        assert!(explain(8).contains("not a module of this kernel"));
        assert!(explain(129).contains("signature"));
        assert!(explain(12).contains("ENOMEM"));
        assert!(explain(200).contains("errno 200"));
    }
}
