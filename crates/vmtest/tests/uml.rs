//! The user-mode-linux tier: storage-init's own logic, faults, tampering.
//!
//! `IOFS_VM_TESTS=1 cargo test -p vmtest --test uml [FILTER]`
//!
//! Each test boots a real kernel as a program, with disks made for it and a
//! mini-initramfs from the builder; the init in the image is `testinit`, which
//! does what the kernel command line says. storage-init and run-init are built
//! first, or taken from the folder that `IOFS_DIST` names.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not see that this is a test: it has no harness"
)]

#[path = "uml/anatomy.rs"]
mod anatomy;
#[path = "uml/appended.rs"]
mod appended;
#[path = "uml/direct.rs"]
mod direct;
#[path = "uml/embedded.rs"]
mod embedded;
#[path = "uml/extensions.rs"]
mod extensions;
#[path = "uml/faults.rs"]
mod faults;
#[path = "uml/ground.rs"]
mod ground;
#[path = "uml/handover.rs"]
mod handover;
#[path = "uml/hotplug.rs"]
mod hotplug;
#[path = "uml/kernel_mounts.rs"]
mod kernel_mounts;
#[path = "uml/names.rs"]
mod names;
#[path = "uml/places.rs"]
mod places;
#[path = "uml/record.rs"]
mod record;
#[path = "uml/refused.rs"]
mod refused;
#[path = "uml/stay.rs"]
mod stay;
#[path = "uml/support.rs"]
mod support;
#[path = "uml/tamper.rs"]
mod tamper;
#[path = "uml/trust.rs"]
mod trust;
#[path = "uml/usr.rs"]
mod usr;
#[path = "uml/volumes.rs"]
mod volumes;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use support::Ground;
use vmtest::tier::Tier;

/// A test by its name.
struct Test {
    name: &'static str,
    run: fn(&Ground) -> Result<(), Failed>,
}

impl Test {
    const fn new(name: &'static str, run: fn(&Ground) -> Result<(), Failed>) -> Self {
        Self { name, run }
    }
}

const TESTS: &[&[Test]] = &[
    ground::TESTS,
    places::TESTS,
    hotplug::TESTS,
    names::TESTS,
    handover::TESTS,
    record::TESTS,
    direct::TESTS,
    usr::TESTS,
    stay::TESTS,
    kernel_mounts::TESTS,
    embedded::TESTS,
    appended::TESTS,
    faults::TESTS,
    trust::TESTS,
    tamper::TESTS,
    refused::TESTS,
    extensions::TESTS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One kernel a processor; most of its second is spent in one thread.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let tier = Tier::from_env();
    tier.explain();
    let tests = if tier == Tier::Later { &[] } else { TESTS };
    // A failed test shows a console, which is long enough without a backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    // Not a static: its folder goes when the last test has run.
    let ground = Arc::new(OnceLock::new());
    let trials = tests
        .iter()
        .copied()
        .flatten()
        .map(|test| {
            let ground = Arc::clone(&ground);
            Trial::test(test.name, move || {
                (test.run)(ground.get_or_init(Ground::new))
            })
            .with_ignored_flag(tier.ignores())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
