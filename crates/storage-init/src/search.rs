//! Step 4: finding the image. [`crate::hunt`] says how it is waited for.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_plan::{Candidate, Selector, Uuid};
use kernel_abi::uevent::Uevent;
use kernel_abi::{clock, file};

use crate::disks::{Inventory, Part};
use crate::firmware;
use crate::hunt::Hunt;
use crate::image::{Examiner, Found};
use crate::log::Log;
use crate::memory;
use crate::modules::{ALL_STUCK_AFTER_US, Loader, Turn};
use crate::paths::Paths;
use crate::report::Failure;
use crate::schedule::Urgency;
use crate::settings::{Settings, describe_candidate};
use crate::trust::Trust;
use crate::undriven;

/// How long a better candidate may still appear before the next one is taken,
/// in microseconds: a USB disk needs up to two seconds to be enumerated.
const GRACE_US: u64 = 3_000_000;

/// How long to wait for another partition of the same kind once the one that is
/// there has turned out not to have the image, in microseconds.
const PATIENCE_US: u64 = 30_000_000;

/// How many images that were found are put together before the search ends:
/// disks that come and go under new names could go on for ever.
const MAX_ATTEMPTS: u32 = 8;

/// A candidate that was looked at and is not it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Miss {
    candidate: Candidate,
    part: Part,
    why: String,
    /// When, in microseconds since the kernel started.
    at: u64,
}

/// The search, which can go on after an image that could not be used.
#[derive(Debug)]
pub struct Search<'a> {
    settings: &'a Settings,
    trust: &'a Trust,
    paths: &'a Paths,
    inventory: Inventory,
    misses: Vec<Miss>,
    /// The partition that the firmware booted from, once it was asked.
    firmware: Option<Option<Uuid>>,
    /// Images that were found and could not be used.
    attempts: u32,
    started: u64,
    limit_us: u64,
}

impl<'a> Search<'a> {
    /// A search that begins now.
    #[must_use]
    pub fn new(settings: &'a Settings, trust: &'a Trust, paths: &'a Paths) -> Self {
        Self {
            settings,
            trust,
            paths,
            inventory: Inventory::default(),
            misses: Vec::new(),
            firmware: None,
            attempts: 0,
            started: clock::micros(),
            limit_us: u64::from(settings.plan.device_timeout_ms) * 1000,
        }
    }

    /// Another image in place of `found`, which could not be used because of
    /// `failure`. Only what is there now is looked at: a machine whose image is
    /// damaged is not made to wait for a disk that may not exist.
    ///
    /// # Errors
    /// `failure`, if there is none, or too many were tried or for too long.
    pub fn instead_of(
        &mut self,
        found: Found,
        failure: Failure,
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> Result<Found, Failure> {
        log.error(format_args!(
            "the image {} cannot be used: {}",
            found.part.place(),
            failure.what()
        ));
        self.misses.push(Miss {
            candidate: found.candidate,
            part: found.part,
            why: failure.what().into(),
            at: clock::micros(),
        });
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS || self.is_over() {
            return Err(failure);
        }
        loop {
            if let Some(other) = self.look(modules, log) {
                return Ok(other);
            }
            modules.coldplug(&self.paths.sys, log);
            let until = clock::micros().saturating_add(ALL_STUCK_AFTER_US);
            while modules.is_busy(Urgency::Bus) {
                match modules.turn(None, until, log) {
                    Turn::Driver => break,
                    Turn::Timeout => return Err(failure),
                    Turn::Other | Turn::Readable => {}
                }
            }
            if !modules.is_busy(Urgency::Bus) {
                return self.look(modules, log).ok_or(failure);
            }
        }
    }

    /// The partitions that a candidate means, those on the disk that the firmware
    /// booted from first. `None` while that disk may still come.
    ///
    /// Two disks may have the same kinds of partitions with the same names, one
    /// a copy of the other, or older. Where they all hold the one image that is
    /// sealed and only one is in sight, nobody need be asked.
    fn in_order(
        &mut self,
        candidate: &Candidate,
        mut parts: Vec<Part>,
        modules: &mut Loader<'_>,
        log: &mut Log,
    ) -> Option<Vec<Part>> {
        let by_guid = matches!(candidate.partition, Selector::PartUuid(_))
            || memory::is_memory(&candidate.partition);
        let alone = parts.len() < 2 && matches!(self.trust, Trust::Sealed(_));
        if by_guid || parts.is_empty() || alone {
            return Some(parts);
        }
        let paths = self.paths;
        let firmware = *self
            .firmware
            .get_or_insert_with(|| firmware::booted_from(paths, modules, log));
        let Some(firmware) = firmware else {
            return Some(parts);
        };
        match self.inventory.disk_of(firmware) {
            Some(disk) => {
                let disk = String::from(disk);
                // Few, and in the order of the disks: a stable partition.
                let (mut first, rest): (Vec<Part>, Vec<Part>) =
                    parts.drain(..).partition(|part| part.disk == disk);
                first.extend(rest);
                Some(first)
            }
            None if self.is_early() => None,
            None => Some(parts),
        }
    }

    /// Whether something better may still come.
    fn is_early(&self) -> bool {
        clock::micros() < self.started.saturating_add(GRACE_US)
    }

    /// Whether the time for looking is over.
    fn is_over(&self) -> bool {
        clock::micros() >= self.started.saturating_add(self.limit_us)
    }

    fn was_tried(&self, candidate: &Candidate, part: &Part) -> bool {
        self.misses
            .iter()
            .any(|miss| miss.candidate == *candidate && miss.part == *part)
    }

    fn miss(&mut self, candidate: &Candidate, part: Part, why: String, log: &mut Log) {
        log.error(format_args!("no image {}: {why}", part.place()));
        self.misses.push(Miss {
            candidate: candidate.clone(),
            part,
            why,
            at: clock::micros(),
        });
    }

    /// Whether a candidate was looked at and is not it.
    fn is_settled(&self, candidate: &Candidate) -> bool {
        self.misses.iter().any(|miss| miss.candidate == *candidate)
    }
}

impl Hunt for Search<'_> {
    type Found = Found;

    fn what(&self) -> &'static str {
        "image"
    }

    fn span(&self) -> (u64, u64) {
        (self.started, self.limit_us)
    }

    /// Tries each candidate that may be taken now on each partition that it
    /// means and that was not tried before.
    fn look(&mut self, modules: &mut Loader<'_>, log: &mut Log) -> Option<Found> {
        self.inventory.refresh(self.paths);
        let settings = self.settings;
        let mut better_may_come = false;
        for candidate in settings.candidates() {
            if better_may_come && self.is_early() {
                return None;
            }
            let parts = self.inventory.matching(&candidate.partition, self.paths);
            let Some(parts) = self.in_order(candidate, parts, modules, log) else {
                better_may_come = true;
                continue;
            };
            for part in parts {
                if self.was_tried(candidate, &part) {
                    continue;
                }
                // A table can have a thousand partitions of a type.
                if self.is_over() && !self.misses.is_empty() {
                    return None;
                }
                let examiner = Examiner {
                    inventory: &self.inventory,
                    trust: self.trust,
                    paths: self.paths,
                    kernel_mounts: &settings.plan.kernel_mounts,
                    attempt: self.attempts,
                };
                match examiner.examine(candidate, &part, modules, log) {
                    Ok(found) => return Some(found),
                    Err(why) => self.miss(candidate, part, why, log),
                }
            }
            better_may_come |= !self.is_settled(candidate);
        }
        None
    }

    /// When to give up. Sooner than the limit if every candidate was looked at:
    /// at once where the partition's own GUID was asked for, since no other can
    /// come; after a while where another of its kind may.
    fn deadline(&self) -> u64 {
        let limit = self.started.saturating_add(self.limit_us);
        let mut settled = self.started;
        for candidate in self.settings.candidates() {
            let last = self
                .misses
                .iter()
                .filter(|miss| miss.candidate == *candidate)
                .map(|miss| miss.at)
                .max();
            let patience = match candidate.partition {
                Selector::PartUuid(_) | Selector::Pmem { .. } | Selector::Embedded => 0,
                Selector::TypeGuid(_) | Selector::PartLabel(_) => PATIENCE_US,
            };
            match last {
                Some(at) => settled = settled.max(at.saturating_add(patience)),
                None => return limit,
            }
        }
        settled.min(limit)
    }

    /// When what comes after something better may be taken, if that is to come.
    fn next_look(&self, now: u64) -> Option<u64> {
        let grace = self.started.saturating_add(GRACE_US);
        (grace > now).then_some(grace)
    }

    fn forget(&mut self, event: &Uevent) {
        self.inventory.forget(&event.devpath);
        let name = file::base_name(&event.devpath);
        self.misses.retain(|miss| miss.part.name != name);
    }

    fn forget_all(&mut self) {
        self.inventory = Inventory::default();
    }

    fn failure(&self, modules: &Loader<'_>, now: u64) -> Failure {
        let seconds = now.saturating_sub(self.started) / 1_000_000;
        let awaited = self
            .settings
            .candidates()
            .map(|candidate| format!("the image {}", describe_candidate(candidate)));
        let mut seen: Vec<String> = self.inventory.describe(self.paths);
        if seen.is_empty() {
            seen.push("no disk at all".into());
        }
        seen.extend(
            self.misses
                .iter()
                .map(|miss| format!("{}: {}", miss.part.device(), miss.why)),
        );
        seen.extend(undriven::describe(&self.settings.plan, self.paths));
        seen.push(modules.summary());
        let mut candidates = self.settings.candidates();
        let advice = if candidates.all(|candidate| memory::is_memory(&candidate.partition)) {
            "the image is awaited in memory only: where the boot loader puts it there, the kernel \
             command line has to say where (memmap=SIZE!ADDRESS, as build --memory prints it); \
             else build the mini-initramfs again"
        } else if self.inventory.disks.is_empty() {
            "no storage driver in this mini-initramfs found its device: build it with \
             --modules generic, or name the driver of the disk"
        } else if self
            .settings
            .candidates()
            .any(|candidate| self.inventory.hides(&candidate.partition, self.paths))
        {
            "the kernel does not go by the partition table's backup, as storage-init does: repair \
             the table, or boot with \"gpt\" on the kernel command line"
        } else if self.misses.is_empty() {
            "no partition is the one that was awaited: compare the list above with the plan \
             (initoverlayfs inspect), or reinstall"
        } else {
            "boot another entry or a rescue medium and run initoverlayfs install again"
        };
        let what = "the init image was not found";
        // Where there was nothing to wait for.
        let failure = match seconds {
            0 => Failure::new(format_args!("{what}")),
            seconds => Failure::new(format_args!("{what} within {seconds} s")),
        };
        failure.awaited(awaited).seen(seen).advise(advice)
    }
}
