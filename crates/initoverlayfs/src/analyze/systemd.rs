//! When systemd started, in the image and in the system, and when it was done.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// systemd's times in microseconds since the kernel started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Systemd {
    /// When the image's systemd started; none if its init is another.
    pub(super) initrd_us: Option<u64>,
    /// When the system's did.
    pub(super) userspace_us: Option<u64>,
    /// When all that it started with was up.
    pub(super) finish_us: Option<u64>,
}

/// The manager's properties, in the order of the fields above.
const PROPERTIES: [&str; 3] = [
    "InitRDTimestampMonotonic",
    "UserspaceTimestampMonotonic",
    "FinishTimestampMonotonic",
];

impl Systemd {
    /// Asks the running manager.
    ///
    /// # Errors
    /// Why it has nothing to say, as a sentence.
    pub(super) fn ask() -> Result<Self, String> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(
                "systemd does not run here: what came after storage-init is not known".into(),
            );
        }
        let output = Command::new("systemctl")
            .args(["show", "--property", &PROPERTIES.join(",")])
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| format!("systemctl cannot be asked for systemd's times: {e}"))?;
        match output.status.success() {
            true => Self::parse(&String::from_utf8_lossy(&output.stdout)),
            false => Err(format!(
                "systemctl does not tell systemd's times: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }

    /// Reads `systemctl show`'s lines.
    ///
    /// # Errors
    /// They have no time, as a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let time = |name: &str| {
            let values = text.lines().filter_map(|line| line.split_once('='));
            let mut values = values.filter(|(key, _)| *key == name);
            let us = values.next()?.1.parse::<u64>().ok()?;
            // Unset; and no boot takes eleven days.
            (1..=1_000_000_000_000).contains(&us).then_some(us)
        };
        let [initrd, userspace, finish] = PROPERTIES;
        let times = Self {
            initrd_us: time(initrd),
            userspace_us: time(userspace),
            finish_us: time(finish),
        };
        match times == Self::default() {
            true => Err("systemd tells no times".into()),
            false => Ok(times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_and_unknown_times_are_none() {
        let text = "UserspaceTimestampMonotonic=7\nInitRDTimestampMonotonic=0\nx\n=\n";
        let times = Systemd::parse(text).unwrap();
        assert_eq!(times.userspace_us, Some(7));
        assert_eq!((times.initrd_us, times.finish_us), (None, None));
        for text in [
            "",
            "FinishTimestampMonotonic=-1",
            "FinishTimestampMonotonic=99999999999999",
        ] {
            assert!(Systemd::parse(text).is_err(), "{text}");
        }
    }
}
