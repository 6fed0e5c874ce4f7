//! What the two tiers of VM tests share: whether they run, and which.

use std::env;

/// Says which tests that start virtual machines run; see [`Tier`].
pub const ENABLE_ENV: &str = "IOFS_VM_TESTS";

/// Which tests that start virtual machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// None, and each is shown as ignored: the variable is not set.
    Ignored,
    /// None, and none is shown: `later`. `cargo xtask test` runs them as steps
    /// of their own and must not count them twice.
    Later,
    /// Those that are not slow: `1`.
    Usual,
    /// All: `all`.
    All,
}

impl Tier {
    /// What [`ENABLE_ENV`] says.
    #[must_use]
    pub fn from_env() -> Self {
        match env::var(ENABLE_ENV).as_deref() {
            Ok("later") => Self::Later,
            Ok("1") => Self::Usual,
            Ok("all") => Self::All,
            _ => Self::Ignored,
        }
    }

    /// Whether a test is shown at all. A slow one belongs to the longer matrix; it
    /// is not skipped for want of anything.
    #[must_use]
    pub fn shows(self, slow: bool) -> bool {
        match self {
            Self::Ignored | Self::All => true,
            Self::Later => false,
            Self::Usual => !slow,
        }
    }

    /// Whether the tests that are shown are ignored.
    #[must_use]
    pub fn ignores(self) -> bool {
        self == Self::Ignored
    }

    /// Says why tests are ignored, if they are.
    pub fn explain(self) {
        match self {
            Self::Ignored => eprintln!(
                "ignored: these tests start virtual machines; \
                 cargo xtask test runs them, or {ENABLE_ENV}=1 does"
            ),
            Self::Usual => eprintln!("without the slow tests: {ENABLE_ENV}=all runs them too"),
            Self::Later | Self::All => {}
        }
    }
}
