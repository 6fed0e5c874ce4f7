//! The end of the machine's run: reboot(2).

use rustix::system::{RebootCommand, reboot};

/// What to do with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Restart it.
    Restart,
    /// Turn it off.
    Off,
    /// Stop it where it is.
    Halt,
}

/// Does it. Returns only if the kernel refuses (not root).
pub fn act(power: Power) {
    rustix::fs::sync();
    let _ = reboot(match power {
        Power::Restart => RebootCommand::Restart,
        Power::Off => RebootCommand::PowerOff,
        Power::Halt => RebootCommand::Halt,
    });
}
