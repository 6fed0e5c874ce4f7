//! The QEMU tier: Debian 13's own kernel, real buses, real second stages.
//!
//! `IOFS_VM_TESTS=1 cargo test -p vmtest --test qemu [FILTER]`

#![allow(
    clippy::unwrap_used,
    reason = "clippy does not see that this is a test: it has no harness"
)]

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Exit, Machine, RunOptions, Vm};
use vmtest::guest::{self, Guest};
use vmtest::tier::Tier;

struct Test {
    name: &'static str,
    slow: bool,
    run: fn(&Guest) -> Result<(), Failed>,
}

const TESTS: &[Test] = &[Test {
    name: "plain_dracut_reaches_multi_user",
    slow: false,
    run: plain_dracut,
}];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two at once only make each other run into their limits.
    arguments.test_threads = Some(1);
    let tier = Tier::from_env();
    tier.explain();
    let tests = if tier == Tier::Later { &[] } else { TESTS };
    let trials = tests
        .iter()
        .map(|test| {
            Trial::test(test.name, || {
                let guest = Guest::ensure(&mut |line| eprintln!("{line}"))?;
                (test.run)(&guest)
            })
            .with_ignored_flag(tier.ignores(test.slow))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The guest on its own: what fails here is not storage-init's fault.
fn plain_dracut(guest: &Guest) -> Result<(), Failed> {
    let mut machine = Machine::new(
        Arch::X86_64,
        Accel::detect()?,
        Boot::Direct {
            kernel: guest.kernel(),
            initrd: Some(guest.dracut_initrd()),
            append: format!(
                "console=ttyS0 panic=-1 root=LABEL={} rw iofs-test.facts=mounts,failed",
                guest::ROOT_LABEL
            ),
        },
    );
    machine
        .disks
        .push(Disk::scratch(guest.root_image(), Bus::VirtioBlk));
    let vm = Vm::start(&machine, RunOptions::default())?;
    let outcome = vm.finish(Duration::from_secs(240))?;
    if outcome.exit != Exit::PowerOff || outcome.find(guest::REACHED).is_none() {
        return Err(format!("{:?} without {}", outcome.exit, guest::REACHED).into());
    }
    if let Some(failed) = outcome.find("INITOVERLAYFS-FACT failed:") {
        return Err(failed.text.as_str().into());
    }
    let root = outcome.find("INITOVERLAYFS-FACT mount: / /dev/vda ext4");
    root.map(drop)
        .ok_or_else(|| "the root is not /dev/vda".into())
}
