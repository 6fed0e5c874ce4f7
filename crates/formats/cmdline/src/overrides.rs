//! The keys by which a command line chooses among what the boot plan allows.

use alloc::string::String;
use core::fmt;
use core::ops::RangeInclusive;

use alloc::vec::Vec;
use iofs_plan::OnFailure;

use crate::{Cmdline, Param, names_equal};

const PREFIX: &[u8] = b"initoverlayfs.";
const TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=600;
/// The most modules that a hint may name.
pub const MAX_HINTS: usize = 16;

const HINTS: &str = "names of kernel modules with commas between them, 16 at most";
const WORKERS: RangeInclusive<u32> = 1..=8;
const FAILURE_WAIT_SECONDS: RangeInclusive<u32> = 0..=600;

/// What the command line asks for, over the boot plan. Nothing in it can weaken
/// authentication: the command line of a type 1 entry is not signed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// `initoverlayfs.image=NAME`: only the candidate of that name.
    pub image: Option<String>,
    /// `initoverlayfs.timeout=SECONDS`: how long to wait for the image's
    /// device, in milliseconds.
    pub device_timeout_ms: Option<u32>,
    /// `initoverlayfs.on_failure=ACTION`.
    pub on_failure: Option<OnFailure>,
    /// `initoverlayfs.failure_wait=SECONDS`: how long the report stays on the
    /// screen, in milliseconds.
    pub failure_wait_ms: Option<u32>,
    /// `initoverlayfs.hint=MODULE,...`: drivers to try first, those that the
    /// last good boot needed. At most [`MAX_HINTS`]; only the order depends on
    /// them.
    pub hint: Vec<String>,
    /// `initoverlayfs.workers=NUMBER`: how many modules are loaded at once, at most.
    pub workers: Option<u32>,
    /// `initoverlayfs.prefetch=off`: read nothing ahead. `None` if not said.
    pub prefetch: Option<bool>,
    /// `initoverlayfs.profile=record|fanotify`: note what this boot reads of its image.
    pub record: Option<Record>,
    /// `initoverlayfs.mode=initrd|direct`. The second only where the plan has it.
    pub mode: Option<Mode>,
    /// `initoverlayfs.debug`: log every step.
    pub debug: bool,
}

/// How a boot is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// `record`: by the kernel's tracing, or as it can be.
    Best,
    /// `fanotify`: by the files that are opened, also where the kernel can trace.
    Opens,
}

/// How a boot goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through the image's init.
    Initrd,
    /// To the root file system itself.
    Direct,
}

impl Mode {
    /// The word for it on command lines and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::Direct => "direct",
        }
    }
}

/// A parameter that was passed over. A typo must not stop a boot, so it is
/// logged and that is all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// No such key.
    UnknownKey {
        /// The whole name, as it was given, controls and what is not UTF-8 replaced.
        key: String,
    },
    /// The value is missing or not one that the key takes.
    BadValue {
        /// The whole name.
        key: String,
        /// The value; `None` if there was no `=`.
        value: Option<String>,
        /// What the key takes, in words.
        allowed: &'static str,
    },
    /// Someone asked for another authentication.
    Authentication {
        /// The value; `None` if there was no `=`.
        value: Option<String>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key } => write!(
                f,
                "\"{key}\" on the kernel command line is not known and is ignored; known are \
                 initoverlayfs.image, .timeout, .on_failure, .failure_wait, \
                 .hint, .workers, .prefetch, .profile, .mode and .debug"
            ),
            Self::BadValue {
                key,
                value: Some(value),
                allowed,
            } => write!(
                f,
                "{key}=\"{value}\" on the kernel command line is ignored: the value must be {allowed}"
            ),
            Self::BadValue {
                key,
                value: None,
                allowed,
            } => write!(
                f,
                "{key} on the kernel command line is ignored: it needs a value, {allowed}"
            ),
            Self::Authentication { value } => write!(
                f,
                "initoverlayfs.auth={} on the kernel command line is ignored: authentication is \
                 chosen when the boot plan is built, never on the command line",
                value.as_deref().unwrap_or("")
            ),
        }
    }
}

impl core::error::Error for Warning {}

impl Overrides {
    /// Reads the `initoverlayfs.*` keys. Of several good values of a key the
    /// last one holds; each bad one gives a warning and changes nothing.
    #[must_use]
    pub fn from_cmdline(cmdline: &Cmdline<'_>) -> (Self, Vec<Warning>) {
        let mut overrides = Self::default();
        let warnings = cmdline
            .iter()
            .filter_map(|param| {
                let (prefix, key) = param.name.split_at_checked(PREFIX.len())?;
                if !names_equal(prefix, PREFIX) {
                    return None;
                }
                let refusal = overrides.take(key, param).err()?;
                Some(refusal.warning(param))
            })
            .collect();
        (overrides, warnings)
    }

    fn take(&mut self, key: &[u8], param: Param<'_>) -> Result<(), Refusal> {
        let is = |name: &str| names_equal(key, name.as_bytes());
        if is("image") {
            let name = param.value_str().filter(|name| !name.is_empty());
            let name = name.ok_or(Refusal::BadValue(
                "the name of one of the plan's candidates",
            ))?;
            self.image = Some(name.into());
        } else if is("timeout") {
            let time = milliseconds(param, &TIMEOUT_SECONDS);
            self.device_timeout_ms = Some(time.ok_or(Refusal::BadValue("1 to 600 seconds"))?);
        } else if is("on_failure") {
            let action = param.value_str().and_then(OnFailure::from_name);
            self.on_failure = Some(action.ok_or(Refusal::BadValue("reboot, poweroff or halt"))?);
        } else if is("failure_wait") {
            let time = milliseconds(param, &FAILURE_WAIT_SECONDS);
            self.failure_wait_ms = Some(time.ok_or(Refusal::BadValue("0 to 600 seconds"))?);
        } else if is("hint") {
            let names = param.value_str().ok_or(Refusal::BadValue(HINTS))?;
            self.hint = hints(names).ok_or(Refusal::BadValue(HINTS))?;
        } else if is("workers") {
            let number = digits(param).filter(|number| WORKERS.contains(number));
            self.workers = Some(number.ok_or(Refusal::BadValue("1 to 8"))?);
        } else if is("prefetch") {
            let wanted = switch(param).ok_or(Refusal::BadValue("yes or no, or left out"))?;
            self.prefetch = Some(wanted);
        } else if is("profile") {
            self.record = Some(match param.value_str() {
                Some("record") => Record::Best,
                Some("fanotify") => Record::Opens,
                _ => return Err(Refusal::BadValue("record or fanotify")),
            });
        } else if is("mode") {
            let modes = [Mode::Initrd, Mode::Direct];
            let mode = modes
                .into_iter()
                .find(|mode| param.value_str() == Some(mode.name()));
            self.mode = Some(mode.ok_or(Refusal::BadValue("initrd or direct"))?);
        } else if is("debug") {
            self.debug = switch(param).ok_or(Refusal::BadValue("yes or no, or left out"))?;
        } else if is("auth") {
            return Err(Refusal::Authentication);
        } else {
            return Err(Refusal::UnknownKey);
        }
        Ok(())
    }
}

/// The modules that a hint names, by the commas, blanks and line ends between
/// them, with underscores; `None` if they are too many or one is no module's name.
#[must_use]
pub fn hints(text: &str) -> Option<Vec<String>> {
    let names: Vec<String> = text
        .split([',', ' ', '\t', '\n'])
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect();
    let is_name = |name: &String| {
        name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    (names.len() <= MAX_HINTS && names.iter().all(is_name)).then_some(names)
}

/// Why a parameter is passed over.
enum Refusal {
    UnknownKey,
    /// What the key takes, in words.
    BadValue(&'static str),
    Authentication,
}

impl Refusal {
    fn warning(self, param: Param<'_>) -> Warning {
        let key = text(param.name);
        let value = param.value.map(text);
        match self {
            Self::UnknownKey => Warning::UnknownKey { key },
            Self::BadValue(allowed) => Warning::BadValue {
                key,
                value,
                allowed,
            },
            Self::Authentication => Warning::Authentication { value },
        }
    }
}

/// Bytes of the command line for a message, cut where a screen would be lost,
/// without what a terminal would obey.
fn text(bytes: &[u8]) -> String {
    const SHOWN: usize = 128;
    String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes))
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A number without a sign, which `parse` would take.
fn digits(param: Param<'_>) -> Option<u32> {
    let value = param.value_str()?;
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits)
}

fn milliseconds(param: Param<'_>, seconds: &RangeInclusive<u32>) -> Option<u32> {
    let value = digits(param)?;
    seconds.contains(&value).then(|| value.saturating_mul(1000))
}

/// A switch is on without a value, and takes the words that the kernel's
/// `kstrtobool` and systemd take.
fn switch(param: Param<'_>) -> Option<bool> {
    if param.value.is_none() {
        return Some(true);
    }
    match param.value_str()? {
        "1" | "y" | "yes" | "on" | "true" => Some(true),
        "0" | "n" | "no" | "off" | "false" => Some(false),
        _ => None,
    }
}
