//! The user-mode-linux tier: storage-init's own logic, faults, tampering.
//!
//! `IOFS_VM_TESTS=1 cargo test -p vmtest --test uml [FILTER]`

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use vmtest::tier::Tier;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = Vec::new();
    Tier::from_env().explain();
    libtest_mimic::run(&arguments, trials).exit_code()
}
