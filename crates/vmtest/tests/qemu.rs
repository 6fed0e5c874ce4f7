//! The QEMU tier: Debian 13's own kernel, real buses, real second stages.
//!
//! `IOFS_VM_TESTS=1 cargo test -p vmtest --test qemu [FILTER]`
//!
//! The tests boot the cached guest or an init of their own. Where KVM does not work a boot to
//! multi-user takes half a minute to two minutes, so there are few of them; the
//! buses are booted only to the root's init.

#[path = "qemu/analyze.rs"]
mod analyze;
#[path = "qemu/boots.rs"]
mod boots;
#[path = "qemu/buses.rs"]
mod buses;
#[path = "qemu/direct.rs"]
mod direct;
#[path = "qemu/extensions.rs"]
mod extensions;
#[path = "qemu/ground.rs"]
mod ground;
#[path = "qemu/handover.rs"]
mod handover;
#[path = "qemu/interop.rs"]
mod interop;
#[path = "qemu/kernels.rs"]
mod kernels;
#[path = "qemu/look.rs"]
mod look;
#[path = "qemu/memory.rs"]
mod memory;
#[path = "qemu/net_roots.rs"]
mod net_roots;
#[path = "qemu/portable.rs"]
mod portable;
#[path = "qemu/profile.rs"]
mod profile;
#[path = "qemu/program.rs"]
mod program;
#[path = "qemu/roots.rs"]
mod roots;
#[path = "qemu/sealed_roots.rs"]
mod sealed_roots;
#[path = "qemu/stay.rs"]
mod stay;
#[path = "qemu/support.rs"]
mod support;
#[path = "qemu/trust.rs"]
mod trust;
#[path = "qemu/twins.rs"]
mod twins;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use support::Ground;
use vmtest::matrix;
use vmtest::tier::Tier;

/// A test by its name.
struct Test {
    name: &'static str,
    slow: bool,
    run: fn(&Ground) -> Result<(), Failed>,
}

impl Test {
    const fn new(name: &'static str, run: fn(&Ground) -> Result<(), Failed>) -> Self {
        Self {
            name,
            slow: false,
            run,
        }
    }

    const fn slow(name: &'static str, run: fn(&Ground) -> Result<(), Failed>) -> Self {
        Self {
            name,
            slow: true,
            run,
        }
    }
}

const TESTS: &[&[Test]] = &[
    ground::TESTS,
    boots::TESTS,
    analyze::TESTS,
    direct::TESTS,
    memory::TESTS,
    portable::TESTS,
    profile::TESTS,
    buses::TESTS,
    kernels::TESTS,
    program::TESTS,
    trust::TESTS,
    handover::TESTS,
    interop::TESTS,
    roots::TESTS,
    sealed_roots::TESTS,
    net_roots::TESTS,
    twins::TESTS,
    extensions::TESTS,
    stay::TESTS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two at once only make each other run into their limits.
    arguments.test_threads = Some(1);
    let tier = Tier::from_env();
    tier.explain();
    // Not a static: its folder goes when the last test has run.
    let ground = Arc::new(OnceLock::new());
    let trials = TESTS
        .iter()
        .copied()
        .flatten()
        .filter(|test| tier.shows(test.slow))
        .map(|test| {
            let ground = Arc::clone(&ground);
            Trial::test(test.name, move || {
                matrix::forget(test.name)?;
                let made: &Result<Ground, String> =
                    ground.get_or_init(|| Ground::new().map_err(|error| error.to_string()));
                match made {
                    Ok(ground) => (test.run)(ground),
                    Err(error) => Err(error.as_str().into()),
                }
            })
            .with_ignored_flag(tier.ignores())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
