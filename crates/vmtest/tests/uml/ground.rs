//! The ground itself: what fails here is not storage-init's fault.

use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::ConsoleLine;
use vmtest::uml::{Uml, UmlExit};
use vmtest::{guest, initramfs};

use crate::Test;
use crate::support::Ground;

pub(crate) const TESTS: &[Test] = &[Test::new(
    "a_program_alone_runs_and_turns_the_machine_off",
    program_alone,
)];

fn program_alone(_: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let mark = guest::build_freestanding("iofs-mark", &log)?;
    let initrd = dir.path().join("initrd");
    initramfs::of_program(&initrd, &mark)?;
    let mut uml = Uml::new(&initrd);
    uml.append = "iofs-test.facts".to_owned();
    let outcome = uml.run(Duration::from_secs(60))?;
    for text in [guest::MARKED, "INITOVERLAYFS-FACT cmdline:", "FACT end"] {
        if outcome.find(text).is_none() {
            return Err(format!("{text} is missing:\n{}", outcome.text()).into());
        }
    }
    if outcome.exit != UmlExit::Off {
        return Err(format!("{}\n{:?}", outcome.text(), outcome.exit).into());
    }
    uml.append = "iofs-test.stay".to_owned();
    let marked = |line: &ConsoleLine| line.text.contains(guest::MARKED);
    let outcome = uml.run_until("the mark", Duration::from_secs(60), marked)?;
    match outcome.exit {
        UmlExit::Stopped => Ok(()),
        exit => Err(format!("a guest that is to stay ends: {exit:?}").into()),
    }
}
