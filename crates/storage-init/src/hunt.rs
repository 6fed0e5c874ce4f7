//! Waiting for devices: for the image's, and for the root's where a boot is direct.
//!
//! What is there is looked at first; drivers are loaded for what asks for them;
//! then uevents say when to look again. There is no polling and no sleep. Time
//! decides only three things: when something further down a list may be taken
//! although a better one could still appear, when every storage driver is loaded
//! on suspicion, and when to give up.

use kernel_abi::uevent::{Taken, Uevent, Uevents};
use kernel_abi::{AsFd, clock};

use crate::log::Log;
use crate::modules::{Loader, Turn};
use crate::paths::Paths;
use crate::report::Failure;
use crate::schedule::Urgency;

/// When every storage driver is loaded, asked for or not, in microseconds; less
/// if the limit is short.
const SUSPICION_US: u64 = 5_000_000;

/// What is looked for. Times are microseconds since the kernel started.
pub trait Hunt {
    /// What is found.
    type Found;

    /// What it is, for the log: `image`.
    fn what(&self) -> &'static str;

    /// When it began, and how long it may take at most.
    fn span(&self) -> (u64, u64);

    /// Looks at what is there and was not looked at before.
    fn look(&mut self, modules: &mut Loader<'_>, log: &mut Log) -> Option<Self::Found>;

    /// When to give up.
    fn deadline(&self) -> u64;

    /// When to look again although nothing has happened, if that is to come.
    fn next_look(&self, now: u64) -> Option<u64>;

    /// Looks anew, next time, at the block device that this event is about.
    fn forget(&mut self, event: &Uevent);

    /// Looks anew at all: events were lost.
    fn forget_all(&mut self);

    /// Why it was not found.
    fn failure(&self, modules: &Loader<'_>, now: u64) -> Failure;
}

/// Waits until it is found.
///
/// # Errors
/// [`Hunt::failure`] when the time is over.
pub fn find<H: Hunt>(
    hunt: &mut H,
    uevents: &Uevents,
    paths: &Paths,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<H::Found, Failure> {
    let mut coldplugged = false;
    let mut suspected = false;
    let mut news = true;
    let (started, limit) = hunt.span();
    loop {
        if core::mem::take(&mut news) {
            if let Some(found) = hunt.look(modules, log) {
                return Ok(found);
            }
        }
        // First the expected disk's own drivers, then those that the devices
        // ask for.
        if !coldplugged && !modules.is_busy(Urgency::Disk) {
            coldplugged = true;
            modules.coldplug(&paths.sys, log);
        }
        let now = clock::micros();
        let suspicion = started + SUSPICION_US.min(limit / 2);
        if !suspected && now >= suspicion {
            suspected = true;
            let count = modules.want_all_buses();
            log.info(format_args!(
                "still no {}; loading {count} further modules on suspicion",
                hunt.what()
            ));
        }
        if now >= hunt.deadline() {
            return Err(hunt.failure(modules, now));
        }
        let again = hunt.next_look(now);
        let until = [Some(hunt.deadline()), again]
            .into_iter()
            .flatten()
            .chain((!suspected).then_some(suspicion))
            .min()
            .unwrap_or(now);
        match modules.turn(Some(uevents.as_fd()), until, log) {
            Turn::Other => {}
            Turn::Driver => news = true,
            // A better candidate has had its time.
            Turn::Timeout => news = again.is_some(),
            Turn::Readable => match uevents.take() {
                Taken::Events(events) => news = obey(hunt, &events, modules, log),
                Taken::Lost => {
                    hunt.forget_all();
                    modules.coldplug(&paths.sys, log);
                    news = true;
                }
            },
        }
    }
}

/// Asks for what new devices ask for and marks changed disks. Returns whether
/// there are disks to look at.
fn obey<H: Hunt>(hunt: &mut H, events: &[Uevent], modules: &mut Loader<'_>, log: &mut Log) -> bool {
    let mut news = false;
    for event in events {
        if event.subsystem == "block" && event.action != "bind" {
            news = true;
            hunt.forget(event);
        }
    }
    let wanted = events
        .iter()
        .filter(|event| event.action == "add" || event.action == "change")
        .filter_map(|event| event.modalias.as_deref());
    modules.want_for(wanted, log);
    news
}
