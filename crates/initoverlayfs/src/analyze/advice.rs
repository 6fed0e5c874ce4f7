//! What would make the next boot shorter, and by how much.
//!
//! A saving is what the record itself bears out: time in which nothing else was
//! at work but what the advice takes away. Where loads overlap the gain may be
//! more, since they also share CPUs; it is not guessed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::drivers;
use super::firmware::Firmware;
use super::record::{Load, Record};
use super::spans::{Span, only_in, within};
use super::timeline;
use crate::ui;

/// A thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Advice {
    /// What took the time.
    pub(super) what: String,
    /// What to do about it.
    pub(super) advice: String,
    /// What that saves, in microseconds.
    pub(super) saves_us: u64,
    /// Whether it is the most that can be saved, and not the least.
    pub(super) at_most: bool,
}

/// Less is not worth a change.
const LEAST_US: u64 = 5_000;

/// A hundredth of the boot up to the next init is not either.
const LEAST_PART: u64 = 100;

/// EEXIST: another way to be loaded.
const LOADED_ALREADY: u8 = 17;

/// How many modules are named.
const NAMED: usize = 6;

/// Everything that is worth it, what saves most first. `others` are modules that
/// the boot disk does not need, where that is known.
pub(super) fn advise(
    record: &Record,
    firmware: Option<&Firmware>,
    others: Option<&BTreeSet<String>>,
) -> Vec<Advice> {
    let mut list: Vec<Advice> = [
        modules(record, others),
        packs(record),
        loop_device(record),
        second_try(record),
        appended(record),
        firmware.and_then(menu),
        firmware.and_then(uki),
    ]
    .into_iter()
    .flatten()
    .collect();
    let least = LEAST_US.max(record.end() / LEAST_PART);
    list.retain(|advice| advice.saves_us >= least);
    list.sort_by_key(|advice| std::cmp::Reverse(advice.saves_us));
    list
}

/// The time in which only loads that `chosen` picks were at work.
fn alone(record: &Record, window: Span, chosen: impl Fn(&Load, bool) -> bool) -> u64 {
    let modules = record.modules.iter().map(|load| (load, false));
    let packs = record.packs.iter().map(|load| (load, true));
    let (these, rest): (Vec<_>, Vec<_>) = modules
        .chain(packs)
        .partition(|&(load, is_pack)| chosen(load, is_pack));
    let spans = |loads: Vec<(&Load, bool)>| {
        let spans = loads.into_iter().filter_map(|(load, _)| load.span());
        within(spans, window)
    };
    only_in(&spans(these), &spans(rest))
}

/// Modules that found nothing, and those of other devices.
fn modules(record: &Record, others: Option<&BTreeSet<String>>) -> Option<Advice> {
    let failed = |load: &Load| load.errno != 0 && load.errno != LOADED_ALREADY;
    let idle = |load: &Load| {
        let name = drivers::plain(load.name.as_str());
        failed(load) || others.is_some_and(|others| others.contains(&name))
    };
    let mut loads: Vec<&Load> = record.modules.iter().filter(|load| idle(load)).collect();
    loads.sort_by_key(|load| std::cmp::Reverse(load.us));
    let refused = loads.iter().filter(|load| failed(load)).count();
    let mut names: Vec<&str> = loads.iter().map(|load| load.name.as_str()).collect();
    let unnamed = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = match unnamed {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = match (loads.len(), refused) {
        (0, _) => return None,
        (all, refused) if all == refused => format!(
            "loaded for nothing, the kernel refused it: {}",
            super::count(all, "module")
        ),
        (all, 0) => format!(
            "loaded for other devices than the boot disk: {}",
            super::count(all, "module")
        ),
        (all, refused) => format!(
            "{all} modules were loaded for nothing: {refused} the kernel refused, {} serve \
             other devices than the boot disk",
            all - refused
        ),
    };
    Some(Advice {
        what: format!("{what} ({}{more})", names.join(", ")),
        advice: "`initoverlayfs hint record` has the disk's own loaded first; \
                 `build --modules host` leaves the others out"
            .into(),
        saves_us: alone(record, timeline::search(record), |load, is_pack| {
            !is_pack && idle(load)
        }),
        at_most: false,
    })
}

fn packs(record: &Record) -> Option<Advice> {
    let count = record.packs.len();
    (count > 0).then(|| Advice {
        what: format!("unpacked: {} of drivers", super::count(count, "pack")),
        advice: "`build --modules host` has this machine's drivers outside of packs".into(),
        saves_us: alone(record, timeline::search(record), |_, is_pack| is_pack),
        at_most: false,
    })
}

fn loop_device(record: &Record) -> Option<Advice> {
    let mut modules = record.modules.iter();
    let file = record.image.as_ref().and_then(|image| image.file.as_ref());
    let used = file.is_some() && modules.any(|load| load.name.as_str() == "loop");
    used.then(|| Advice {
        what: "the image is a file, which takes the module loop".into(),
        advice: "`build --image-on partition` does without, on a partition of its own".into(),
        saves_us: alone(record, (0, record.end()), |load, is_pack| {
            !is_pack && load.name.as_str() == "loop"
        }),
        at_most: false,
    })
}

/// An image that was found and could not be used.
fn second_try(record: &Record) -> Option<Advice> {
    let mut devices = record.stages.iter().filter(|s| s.name.as_str() == "device");
    let first = devices.next()?.us;
    let last = devices.next_back()?.us;
    Some(Advice {
        what: "an image was found that could not be used, before the one that was".into(),
        advice: "`journalctl -k` says which and why; `initoverlayfs verify` checks an image".into(),
        saves_us: last.saturating_sub(first),
        at_most: false,
    })
}

fn appended(record: &Record) -> Option<Advice> {
    let (from, to) = (record.stage("mount")?, record.stage("handover")?);
    Some(Advice {
        what: "what the boot loader appended to the initramfs was copied into the image's root"
            .into(),
        advice: "append less: files that every boot has belong in the image".into(),
        saves_us: to.saturating_sub(from),
        at_most: true,
    })
}

fn menu(firmware: &Firmware) -> Option<Advice> {
    Some(Advice {
        what: "the boot loader showed its menu before it loaded the kernel".into(),
        advice: "`bootctl set-timeout 0` skips it (a key pressed at power-on still shows it)"
            .into(),
        saves_us: firmware.menu_us?,
        at_most: true,
    })
}

/// What of the UKI's loading the initramfs in it took, by its size.
fn uki(firmware: &Firmware) -> Option<Advice> {
    let (uki, took) = (firmware.uki.as_ref()?, firmware.loading_us?);
    let part = u128::from(took) * u128::from(uki.initrd) / u128::from(uki.size.max(1));
    Some(Advice {
        what: format!(
            "the boot loader read a UKI of {} in {} at most, {} of it the initramfs",
            ui::size(uki.size),
            super::chart::time(took),
            ui::size(uki.initrd)
        ),
        advice: "`build --uki --modules host` makes the initramfs smaller".into(),
        saves_us: u64::try_from(part).unwrap_or(took),
        at_most: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::firmware::Uki;
    use crate::analyze::record::tests::record;

    const STAGES: &str = r#"{"name":"start","us":1000000},{"name":"plan","us":1001000},
        {"name":"device","us":1500000},{"name":"modules","us":1600000},
        {"name":"mount","us":1700000},{"name":"handover","us":1701000},
        {"name":"exec","us":1702000}"#;

    fn load(name: &str, at: u64, us: u64, errno: u8) -> String {
        format!(r#"{{"name":"{name}","at":{at},"us":{us},"errno":{errno}}}"#)
    }

    fn of(stages: &str, modules: &[String], packs: &[String]) -> Record {
        let text = record(stages, &modules.join(","), &packs.join(","));
        Record::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_time_alone_is_saved() {
        let modules = [
            load("virtio_blk", 1_100_000, 100_000, 0),
            // 50 ms of it beside virtio_blk, 100 ms alone.
            load("foo", 1_150_000, 150_000, 19),
            // All of it beside the others.
            load("bar", 1_120_000, 60_000, 0),
        ];
        let record = of(STAGES, &modules, &[]);
        let list = advise(&record, None, None);
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!(list[0].saves_us, 100_000);
        assert!(
            list[0].what.ends_with("refused it: 1 module (foo)"),
            "{list:?}"
        );
        let others: BTreeSet<String> = ["bar".to_owned()].into();
        let list = advise(&record, None, Some(&others));
        assert!(list[0].what.contains("(foo, bar)"), "{list:?}");
        assert!(
            list[0].what.contains("1 the kernel refused, 1 serve"),
            "{list:?}"
        );
        assert_eq!(list[0].saves_us, 100_000);
    }

    #[test]
    fn nothing_is_advised_for_nothing() {
        let modules = [
            load("virtio_blk", 1_100_000, 100_000, 0),
            load("foo", 1_100_000, 99_000, 19),
            load("bar", 1_250_000, 100_000, LOADED_ALREADY),
        ];
        assert_eq!(advise(&of(STAGES, &modules, &[]), None, None), []);
    }

    #[test]
    fn packs_loop_and_second_tries_are_seen() {
        let stages = r#"{"name":"start","us":1000000},{"name":"plan","us":1001000},
            {"name":"device","us":1200000},{"name":"modules","us":1250000},
            {"name":"device","us":1450000},{"name":"exec","us":1500000}"#;
        let modules = [load("loop", 1_210_000, 30_000, 0)];
        let packs = [load("p1", 1_100_000, 40_000, 0)];
        let list = advise(&of(stages, &modules, &packs), None, None);
        let saved: Vec<u64> = list.iter().map(|advice| advice.saves_us).collect();
        assert_eq!(saved, [250_000, 40_000, 30_000], "{list:?}");
    }

    #[test]
    fn firmware_is_advised_about() {
        let record = of(STAGES, &[], &[]);
        let mut firmware = Firmware {
            source: "efi",
            loader_us: 1_000_000,
            kernel_us: 5_000_000,
            menu_us: Some(3_000_000),
            loading_us: None,
            uki: Some(Uki {
                size: 40 << 20,
                initrd: 10 << 20,
            }),
        };
        let list = advise(&record, Some(&firmware), None);
        assert_eq!(list[0].saves_us, 3_000_000);
        assert!(list[0].at_most && list.len() == 1, "{list:?}");
        firmware.menu_us = None;
        firmware.loading_us = Some(4_000_000);
        let list = advise(&record, Some(&firmware), None);
        assert_eq!(list[0].saves_us, 1_000_000);
        assert!(list[0].what.contains("UKI of 40.0 MiB"), "{list:?}");
    }
}
