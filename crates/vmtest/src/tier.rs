//! What the two tiers of VM tests share: whether they run, and where.

use std::env;

/// Set to 1 to run the tests that start virtual machines.
pub const ENABLE_ENV: &str = "IOFS_VM_TESTS";

/// Whether virtual machines are to be started.
#[must_use]
pub fn enabled() -> bool {
    env::var_os(ENABLE_ENV).is_some_and(|value| value == "1")
}

/// Why a test is shown as ignored where [`enabled`] is false.
pub const WHY_IGNORED: &str = "starts a virtual machine; run cargo xtask test";
