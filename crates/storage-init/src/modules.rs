//! Step 3: kernel modules.
//!
//! # Why it is done like this
//!
//! Loading modules is most of what PID 1 waits for. Each costs some 45 million
//! instructions, nearly all of them in the kernel's check of the module's
//! signature, whatever its size. So:
//!
//! 1. *Fewer modules.* Those that the plan knows the way to the image to need
//!    are loaded at once. What else could carry storage is unpacked and loaded
//!    only when a device asks for it, what takes the fewest modules first, and
//!    no further once the image is found: the next init's udev does the rest.
//!    Mapping modules come when a mapping is built.
//! 2. *Several at a time.* finit_module(2) checks signatures in the caller's
//!    context, so workers on several CPUs really work in parallel. Workers are
//!    processes: PID 1 has no threads, a fork of its few pages costs about a
//!    five-hundredth of the load itself, an exit status is wide enough for an
//!    errno, and a worker that the kernel kills or never wakes again takes
//!    nobody along. Threads were the alternative: they would need stacks, a
//!    futex and shared state, for no gain that could be measured.
//! 3. *Several on one CPU, too*: half of a load is waiting, for grace periods of
//!    the kernel's and for hardware. What heads the longest chain starts first.
//!    Of drivers that may turn out not to be needed, no more are loaded at once
//!    than there are CPUs: they would take time from what is. One that has not
//!    returned in a while ([`SLEEPS_AFTER_US`]) waits for its hardware and does
//!    not count.
//! 4. *Each once, in an order worked out at build time.* The plan's dependencies
//!    form a DAG of indices; [`crate::schedule`] hands out whatever is ready, the
//!    boot disk's chain first.
//! 5. *Beside everything else.* [`Loader::turn`] waits for workers and for
//!    devices at once: a disk that appears is looked at while drivers of others
//!    still load.
//! 6. *With a limit.* A module whose init does not return in [`STUCK_AFTER_US`]
//!    is named in the log and left to its worker; the boot goes on without it.
//!    [`ALL_STUCK_AFTER_US`] is the most that is waited for what one step needs.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iofs_cmdline::Cmdline;
use iofs_plan::{BootPlan, Role};
use kernel_abi::process::{self, Child, Ended, Woken};
use kernel_abi::{BorrowedFd, Errno, clock, file, module};

use crate::log::Log;
use crate::pack;
use crate::paths::Paths;
use crate::schedule::{Node, Schedule, State, Urgency};
use crate::settings::MAX_CMDLINE;

/// How long a module may take before the boot goes on without it, in
/// microseconds. SCSI host adapters can take several seconds.
pub const STUCK_AFTER_US: u64 = 30_000_000;

/// How long all modules that one step of the boot needs may take, in
/// microseconds: when several are stuck one after the other, the rest is not
/// started any more.
pub const ALL_STUCK_AFTER_US: u64 = 60_000_000;

/// How long a module computes at most on a CPU of its own, in microseconds: the
/// check of its signature and linking take a fifth of that.
pub const SLEEPS_AFTER_US: u64 = 250_000;

/// No more workers than this: past it the kernel's own locks are the limit, and
/// on one CPU there is nothing left to wait for.
const MAX_WORKERS: usize = 8;

/// Status of a worker that ended by a signal: no errno of module loading.
const KILLED: u8 = 255;

/// What loading a module or unpacking a pack came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub node: Node,
    /// When it was begun, in microseconds since the kernel started.
    pub at: u64,
    /// How long it took, in microseconds, waiting for a CPU included.
    pub micros: u64,
    /// errno, 0 for success.
    pub errno: u8,
}

/// What a [`Loader::turn`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A driver is in: its disks may be there, since probing is often
    /// synchronous.
    Driver,
    /// Something else has ended.
    Other,
    /// There is something to read.
    Readable,
    /// Nothing happened in time.
    Timeout,
}

struct Job {
    node: Node,
    urgency: Urgency,
    started: u64,
}

/// Loads the plan's modules.
pub struct Loader<'p> {
    plan: &'p BootPlan,
    modules: String,
    packs: String,
    /// Parameters from the kernel command line: of which module, and what.
    params: Vec<(String, String)>,
    schedule: Schedule<'p>,
    /// What the image needs, as far as it is known before it is found.
    for_image: Vec<u16>,
    cpus: usize,
    /// How many workers there are at once, at most.
    workers: usize,
    /// Running workers; `children` and `jobs` go in step.
    children: Vec<Child>,
    jobs: Vec<Job>,
    /// What has been loaded, unpacked or refused, in the order of their ends.
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
        // Whether it can be read has been said with the settings.
        let cmdline = file::read(&paths.cmdline, MAX_CMDLINE).unwrap_or_default();
        Self {
            plan,
            modules: paths.modules.clone(),
            packs: paths.packs.clone(),
            params: module_params(&cmdline),
            schedule: Schedule::new(plan),
            for_image: Vec::new(),
            cpus: process::cpus().clamp(1, MAX_WORKERS),
            workers: MAX_WORKERS,
            children: Vec::new(),
            jobs: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Loads no more than `workers` modules at once.
    pub fn limit(&mut self, workers: u32) {
        let workers = usize::try_from(workers).unwrap_or(MAX_WORKERS);
        self.workers = workers.clamp(1, MAX_WORKERS);
    }

    /// Asks for the boot disk's chain, and for what the last boot's disk needed
    /// (`hint`, names of modules; nothing but the order depends on it).
    pub fn want_disks(&mut self, hint: &[String]) {
        self.want_role(Role::Disk, Urgency::Disk);
        for name in hint {
            if let Some(index) = self.index_of(name) {
                self.schedule.want(index, Urgency::Disk);
            }
        }
    }

    /// Asks for the disks, as [`Self::want_disks`], and for what every image needs.
    pub fn want_first(&mut self, hint: &[String]) {
        self.want_disks(hint);
        for (index, module) in (0..=u16::MAX).zip(&self.plan.modules) {
            if module.role == Role::Image {
                self.want_image(index);
            }
        }
    }

    /// Asks for what proves an image, and for nothing that mounts it.
    pub fn want_proof(&mut self) {
        for (index, module) in (0..=u16::MAX).zip(&self.plan.modules) {
            let mounts = matches!(module.name.as_str(), "erofs" | "overlay");
            if module.role == Role::Image && !mounts {
                self.want_image(index);
            }
        }
    }

    /// Asks for a module that the image needs where it is.
    pub fn want_for_image(&mut self, name: &str) {
        if let Some(index) = self.index_of(name) {
            self.want_image(index);
        }
    }

    fn want_image(&mut self, index: u16) {
        self.schedule.want(index, Urgency::Image);
        self.for_image.push(index);
    }

    /// Asks for everything that could carry storage. Returns how many modules
    /// were new.
    pub fn want_all_buses(&mut self) -> usize {
        self.want_role(Role::Bus, Urgency::Suspicion)
    }

    /// Asks for what serves these devices; what says that it is storage goes
    /// first, and of the rest what takes the fewest modules.
    pub fn want_for<'a>(&mut self, modaliases: impl IntoIterator<Item = &'a str>, log: &mut Log) {
        let plan = self.plan;
        let mut asked: Vec<(Urgency, usize, u16)> = Vec::new();
        for modalias in modaliases {
            let urgency = urgency_of(modalias);
            for index in plan.modules_for(modalias) {
                if self.schedule.state(Node::Module(index)) == State::Idle {
                    log.debug(format_args!("{} asks for {}", modalias, self.name(index)));
                }
                asked.push((urgency, self.schedule.cost(index), index));
            }
        }
        iofs_source::sort_compactly(&mut asked, |a, b| a < b);
        for (urgency, _, index) in asked {
            self.schedule.want(index, urgency);
        }
    }

    /// Asks for whatever serves any device that is there now.
    pub fn coldplug(&mut self, sys: &str, log: &mut Log) {
        let modaliases = modaliases(sys);
        self.want_for(modaliases.iter().map(String::as_str), log);
    }

    /// Whether anything that is at least this urgent is wanted or being loaded.
    #[must_use]
    pub fn is_busy(&self, urgency: Urgency) -> bool {
        self.schedule.wants(urgency) || self.jobs.iter().any(|job| job.urgency <= urgency)
    }

    /// Loads a module by its name, if the plan has it, before all else; one that
    /// it does not have is taken to be built into the kernel.
    pub fn load_named(&mut self, name: &str, log: &mut Log) {
        if let Some(index) = self.index_of(name) {
            self.load(&[index], log);
        }
    }

    /// Loads what the root's file system needs, and what was wanted for an image, and
    /// nothing else any more.
    pub fn load_for_root(&mut self, kind: &str, log: &mut Log) {
        let wanted: Vec<u16> = self
            .for_image
            .iter()
            .copied()
            .chain(self.index_of(kind))
            .collect();
        self.schedule.drop_wanted();
        self.load(&wanted, log);
    }

    /// Loads what the image needs and nothing else any more.
    pub fn finish_image(&mut self, log: &mut Log) {
        self.schedule.drop_wanted();
        let wanted = self.for_image.clone();
        self.load(&wanted, log);
    }

    /// Starts what can be started and waits until `until` (microseconds since
    /// the kernel started) for a worker to end or for `input` to have something.
    pub fn turn(&mut self, input: Option<BorrowedFd<'_>>, until: u64, log: &mut Log) -> Turn {
        loop {
            self.start_ready(log);
            let now = clock::micros();
            let oldest = self.jobs.iter().map(|job| job.started).min();
            let stuck = oldest.map(|started| started.saturating_add(STUCK_AFTER_US));
            // When one at work turns out to sleep, another can be started.
            let sleeps = self
                .jobs
                .iter()
                .map(|job| self.sleeps_at(job))
                .filter(|&at| at > now && self.schedule.wants(Urgency::Suspicion))
                .min();
            let wake = [stuck, sleeps].into_iter().flatten().fold(until, u64::min);
            match process::wait(&self.children, input, wake.saturating_sub(now)) {
                Woken::Ended(at, ended) => return self.ended(at, ended, log),
                Woken::Readable => return Turn::Readable,
                Woken::Timeout if stuck.is_some_and(|stuck| stuck <= clock::micros()) => {
                    self.abandon_oldest(log);
                    return Turn::Other;
                }
                Woken::Timeout if clock::micros() >= until => return Turn::Timeout,
                Woken::Timeout => {}
            }
        }
    }

    /// What workers are still at: a driver may have made the disk known and not have
    /// returned. Each as if it ended now.
    pub fn running(&self) -> impl Iterator<Item = Record> {
        let now = clock::micros();
        self.jobs.iter().map(move |job| Record {
            node: job.node,
            at: job.started,
            micros: now.saturating_sub(job.started),
            errno: 0,
        })
    }

    /// One line for the log.
    #[must_use]
    pub fn summary(&self) -> String {
        let loaded = self
            .records
            .iter()
            .filter(|record| record.errno == 0 && matches!(record.node, Node::Module(_)))
            .count();
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

    /// The name of a module, or of a pack's file.
    #[must_use]
    pub fn node_name(&self, node: Node) -> &'p str {
        match node {
            Node::Module(index) => self.name(index),
            Node::Pack(index) => self
                .plan
                .packs
                .get(usize::from(index))
                .map_or("", |pack| pack.file.as_str()),
        }
    }

    fn index_of(&self, name: &str) -> Option<u16> {
        let found = self.plan.modules.iter().position(|m| m.name == name);
        found.and_then(|index| u16::try_from(index).ok())
    }

    fn want_role(&mut self, role: Role, urgency: Urgency) -> usize {
        let plan = self.plan;
        let mut count = 0;
        for (index, module) in (0..=u16::MAX).zip(&plan.modules) {
            if module.role == role {
                count += self.schedule.want(index, urgency);
            }
        }
        count
    }

    /// Loads these before all else, and returns when each is in, refused or
    /// given up.
    fn load(&mut self, wanted: &[u16], log: &mut Log) {
        for &index in wanted {
            self.schedule.want(index, Urgency::Disk);
        }
        let until = clock::micros().saturating_add(ALL_STUCK_AFTER_US);
        let open = |loader: &Self| {
            wanted.iter().any(|&index| {
                let state = loader.schedule.state(Node::Module(index));
                matches!(state, State::Wanted | State::Running)
            })
        };
        while open(self) {
            if self.turn(None, until, log) == Turn::Timeout {
                log.error(format_args!(
                    "not every module was loaded in {} s; going on",
                    ALL_STUCK_AFTER_US / 1_000_000
                ));
                self.schedule.drop_wanted();
                return;
            }
        }
    }

    fn start_ready(&mut self, log: &mut Log) {
        loop {
            let now = clock::micros();
            // A worker that sleeps leaves its CPU to another.
            if self.jobs.len() >= self.workers {
                break;
            }
            let guesses = self
                .jobs
                .iter()
                .filter(|job| is_guess(job.urgency) && now < self.sleeps_at(job))
                .count();
            // With several CPUs, disks and image are prepared side by side.
            let image_first = guesses > 0;
            let least = if guesses < self.cpus {
                Urgency::Suspicion
            } else {
                Urgency::Image
            };
            let next = self.schedule.take_ready(image_first, least);
            self.report_blocked(log);
            let Some((node, urgency)) = next else {
                break;
            };
            self.start(node, urgency, log);
        }
    }

    /// When a job can be taken to sleep. The CPUs are shared.
    fn sleeps_at(&self, job: &Job) -> u64 {
        let share = self.jobs.len().div_ceil(self.cpus) as u64;
        let computes = SLEEPS_AFTER_US.saturating_mul(share);
        job.started.saturating_add(computes)
    }

    fn start(&mut self, node: Node, urgency: Urgency, log: &mut Log) {
        let job = Job {
            node,
            urgency,
            started: clock::micros(),
        };
        // Said before: a driver can take the machine with it.
        log.debug(format_args!("loading {}", self.node_name(node)));
        match process::fork(|| self.work(node)) {
            Ok(child) => {
                self.children.push(child);
                self.jobs.push(job);
            }
            Err(error) => {
                // Without workers there is still this process.
                log.warn(format_args!(
                    "{error}; loading {} here",
                    self.node_name(node)
                ));
                let errno = self.work(node);
                self.settle(&job, errno, log);
            }
        }
    }

    /// What a worker does; its errno, 0 for success.
    fn work(&self, node: Node) -> u8 {
        match node {
            Node::Module(index) => {
                let Some(module) = self.plan.modules.get(usize::from(index)) else {
                    return KILLED;
                };
                let path = file::join(&self.modules, &module.file);
                let params = params(&module.name, &module.params, &self.params);
                exit_status(module::load(&path, &params).map_err(|error| error.errno()))
            }
            Node::Pack(index) => {
                exit_status(pack::unpack(self.plan, index, &self.packs, &self.modules))
            }
        }
    }

    fn ended(&mut self, at: usize, ended: Ended, log: &mut Log) -> Turn {
        self.children.swap_remove(at);
        let job = self.jobs.swap_remove(at);
        let errno = match ended {
            Ended::Exited(errno) => errno,
            Ended::Signalled => KILLED,
        };
        self.settle(&job, errno, log);
        match job.node {
            Node::Module(index) if self.is_driver(index) => Turn::Driver,
            _ => Turn::Other,
        }
    }

    fn is_driver(&self, index: u16) -> bool {
        let module = self.plan.modules.get(usize::from(index));
        module.is_some_and(|module| matches!(module.role, Role::Disk | Role::Bus))
    }

    fn settle(&mut self, job: &Job, errno: u8, log: &mut Log) {
        self.schedule.finished(job.node, errno);
        let micros = clock::micros().saturating_sub(job.started);
        let kind = match job.node {
            Node::Module(_) => "module",
            Node::Pack(_) => "pack",
        };
        let name = self.node_name(job.node);
        if errno == 0 {
            log.debug(format_args!("{kind} {name}: {micros} us"));
        } else if self.matters(job.node, errno) {
            log.error(format_args!("{kind} {name}: {}", explain(job.node, errno)));
        } else {
            log.debug(format_args!("{kind} {name}: {}", explain(job.node, errno)));
        }
        self.records.push(Record {
            node: job.node,
            at: job.started,
            micros,
            errno,
        });
    }

    /// Whether a failure is one. A driver without its hardware is how a generic
    /// image looks.
    fn matters(&self, node: Node, errno: u8) -> bool {
        let no_device = i32::from(errno) == Errno::NODEV.raw_os_error();
        match node {
            Node::Pack(_) => true,
            Node::Module(index) => {
                let module = self.plan.modules.get(usize::from(index));
                module.is_some_and(|module| module.required) && !no_device
            }
        }
    }

    /// Whether what keeps a module away is a failure at its root, and not only a
    /// bus that this machine does not have.
    fn blocked_by_failure(&self, mut by: Node) -> bool {
        // Each is blocked by one that it needs: the chain has no more links than
        // there are modules.
        for _ in 0..=self.plan.modules.len() {
            match self.schedule.state(by) {
                State::Blocked(next) => by = next,
                State::Failed(errno) => return self.matters(by, errno),
                _ => break,
            }
        }
        true
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
                self.node_name(job.node),
                STUCK_AFTER_US / 1_000_000
            ));
            self.settle(&job, KILLED, log);
        }
    }

    fn report_blocked(&mut self, log: &mut Log) {
        for index in self.schedule.take_blocked() {
            if let State::Blocked(by) = self.schedule.state(Node::Module(index)) {
                let (name, by_name) = (self.name(index), self.node_name(by));
                if self.blocked_by_failure(by) {
                    log.error(format_args!(
                        "module {name} is not loaded: it needs {by_name}, which failed"
                    ));
                } else {
                    log.debug(format_args!(
                        "module {name} is not loaded: it needs {by_name}, which found no device"
                    ));
                }
                self.records.push(Record {
                    node: Node::Module(index),
                    at: clock::micros(),
                    micros: 0,
                    errno: KILLED,
                });
            }
        }
    }
}

/// Whether a module is wanted for a device that may not be the boot disk.
fn is_guess(urgency: Urgency) -> bool {
    !matches!(urgency, Urgency::Disk | Urgency::Image)
}

/// How soon a device's driver is wanted: at once if the device says that it is
/// storage.
fn urgency_of(modalias: &str) -> Urgency {
    if is_storage(modalias) {
        Urgency::Storage
    } else {
        Urgency::Bus
    }
}

/// Whether a device says that it is storage: PCI has a base class for it (01),
/// USB an interface class (08), virtio two types; SCSI and MMC have little else.
#[must_use]
pub fn is_storage(modalias: &str) -> bool {
    let (bus, rest) = modalias.split_once(':').unwrap_or_default();
    match bus {
        "pci" => rest.contains("bc01"),
        "usb" => rest.contains("ic08"),
        "virtio" => ["d00000002v", "d00000008v"]
            .iter()
            .any(|kind| rest.starts_with(kind)),
        "scsi" | "mmc" | "nd" | "ccw" => true,
        _ => false,
    }
}

/// The parameters that the kernel command line has for modules, as
/// `MODULE.NAME=VALUE`, of which the kernel itself takes only those of what is
/// built in: of which module (with underscores), and the parameter.
fn module_params(cmdline: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for param in Cmdline::parse(cmdline).iter() {
        let Some(dot) = param.name.iter().position(|&byte| byte == b'.') else {
            continue;
        };
        let (owner, name) = param.name.split_at(dot);
        let (Ok(owner), Ok(name)) = (
            core::str::from_utf8(owner),
            core::str::from_utf8(name.get(1..).unwrap_or_default()),
        ) else {
            continue;
        };
        let text = match (param.value, param.value_str()) {
            (None, _) => name.to_string(),
            (_, Some(value)) if value.contains(char::is_whitespace) => {
                format!("{name}=\"{value}\"")
            }
            (_, value) => format!("{name}={}", value.unwrap_or_default()),
        };
        found.push((owner.replace('-', "_"), text));
    }
    found
}

/// A module's parameters: the plan's, then the command line's. The last one
/// wins, as with modprobe; for dm-verity that is the plan's, since its
/// parameters are about trust.
fn params(module: &str, planned: &str, cmdline: &[(String, String)]) -> String {
    let given = cmdline
        .iter()
        .filter(|(owner, _)| owner == module)
        .map(|(_, param)| param.as_str());
    let plan_wins = module == "dm_verity";
    let (before, behind) = match plan_wins {
        true => ("", planned),
        false => (planned, ""),
    };
    let mut params = String::new();
    for part in [before].into_iter().chain(given).chain([behind]) {
        if !params.is_empty() && !part.is_empty() {
            params.push(' ');
        }
        params.push_str(part);
    }
    params
}

/// An errno as a worker's exit status.
fn exit_status(result: Result<(), Errno>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(errno) => u8::try_from(errno.raw_os_error()).unwrap_or(KILLED),
    }
}

/// What an errno means that a module's load or a pack's unpacking ended with.
fn explain(node: Node, errno: u8) -> String {
    if let Node::Pack(_) = node {
        return pack::explain(errno);
    }
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
        let params = |module: &str, planned: &str, line: &[u8]| {
            params(module, planned, &module_params(line))
        };
        assert_eq!(
            params("dm_verity", "keyring_unsealed=1", line),
            "require_signatures=1 x=\"a b\" flag keyring_unsealed=1"
        );
        assert_eq!(params("dm_mod", "y=1", line), "y=1 y=2");
        assert_eq!(params("dm_verity", "a=1", b""), "a=1");
        assert_eq!(params("dm_verity", "", b"dm_verity.a=1"), "a=1");
        assert_eq!(params("dm_verity", "", b""), "");
    }

    /// A plan of modules with these roles and needs.
    fn plan(modules: &[(&str, Role, &[u16])]) -> BootPlan {
        BootPlan {
            modules: modules
                .iter()
                .map(|&(name, role, needs)| iofs_plan::Module {
                    name: name.into(),
                    file: format!("{name}.ko"),
                    packed: None,
                    params: String::new(),
                    role,
                    needs: needs.to_vec(),
                    required: true,
                    fallback_for: Vec::new(),
                })
                .collect(),
            ..BootPlan::default()
        }
    }

    #[test]
    fn a_hint_goes_first_and_nonsense_is_passed_over() {
        let plan = plan(&[
            ("erofs", Role::Image, &[]),
            ("libata", Role::Dependency, &[]),
            ("ahci", Role::Bus, &[1]),
            ("nvme", Role::Bus, &[]),
        ]);
        let mut loader = Loader::new(&plan, &Paths::kernel());
        loader.want_first(&["nonsense".into(), "ahci".into()]);
        let mut order = Vec::new();
        while let Some((node, _)) = loader.schedule.take_ready(false, Urgency::Suspicion) {
            order.push(loader.node_name(node));
            loader.schedule.finished(node, 0);
        }
        assert_eq!(order, ["libata", "ahci", "erofs"]);
    }

    #[test]
    fn a_bus_that_is_not_there_is_no_failure() {
        let plan = plan(&[
            ("hv_vmbus", Role::Dependency, &[]),
            ("pci_hyperv", Role::Bus, &[0]),
            ("child", Role::Bus, &[1]),
        ]);
        let mut loader = Loader::new(&plan, &Paths::kernel());
        let vmbus = Node::Module(0);
        for (errno, failure) in [(19, false), (8, true)] {
            loader.schedule = Schedule::new(&plan);
            loader.schedule.want(2, Urgency::Bus);
            assert_eq!(
                loader.schedule.take_ready(false, Urgency::Bus),
                Some((vmbus, Urgency::Bus))
            );
            loader.schedule.finished(vmbus, errno);
            assert_eq!(loader.schedule.take_ready(false, Urgency::Bus), None);
            for index in loader.schedule.take_blocked() {
                let State::Blocked(by) = loader.schedule.state(Node::Module(index)) else {
                    panic!("{index} is not blocked");
                };
                assert_eq!(loader.blocked_by_failure(by), failure);
            }
        }
    }

    #[test]
    fn storage_is_told_from_what_may_carry_it() {
        for storage in [
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
            "virtio:d00000002v00001AF4",
            "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00",
        ] {
            assert_eq!(urgency_of(storage), Urgency::Storage, "{storage}");
        }
        for other in [
            "pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30",
            "usb:v46F4p0001d0000dc00dsc00dp00ic09isc00ip00in00",
            "virtio:d00000001v00001AF4",
            "",
        ] {
            assert_eq!(urgency_of(other), Urgency::Bus, "{other}");
        }
    }

    #[test]
    fn a_refusal_is_explained() {
        let explain = |errno| explain(Node::Module(0), errno);
        assert!(explain(8).contains("not a module of this kernel"));
        assert!(explain(129).contains("signature"));
        assert!(explain(12).contains("ENOMEM"));
        assert!(explain(200).contains("errno 200"));
    }
}
