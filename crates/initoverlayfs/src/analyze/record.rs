//! `/run/initoverlayfs/boot.json`, read as what it may be: anybody's file.
//!
//! Format version 1; the crate `storage-init` writes it (`boot_json.rs`). Times
//! are microseconds since the kernel started. Rejected are files over
//! [`MAX_LEN`], other versions, times beyond [`MAX_US`], and stages that are not
//! in the order of time. Texts lose what could steer a terminal.

use serde::{Deserialize, Deserializer, Serialize, de};

/// A record has an entry a module; more than this is none.
pub(super) const MAX_LEN: u64 = 4 << 20;

/// Eleven days: no boot takes as long, and sums of a record's times stay far
/// below what a number holds.
const MAX_US: u64 = 1_000_000_000_000;

/// A path may have 4095 bytes; what is longer is cut.
const MAX_TEXT: usize = 4095;

/// A record that has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Record {
    pub(super) storage_init: Text,
    pub(super) kernel: Text,
    pub(super) product: Text,
    pub(super) auth: Text,
    /// `initrd`, `direct` or `stay`; the first records did not say.
    #[serde(default)]
    pub(super) mode: Option<Text>,
    /// Nothing where the boot went to the root directly.
    pub(super) image: Option<Image>,
    #[serde(default)]
    pub(super) root: Option<Root>,
    pub(super) init: Text,
    pub(super) stages: Vec<Stage>,
    pub(super) modules: Vec<Load>,
    #[serde(default)]
    pub(super) packs: Vec<Load>,
}

/// Where the image was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    /// Nothing where it was packed into the mini-initramfs.
    pub(super) partition: Option<Text>,
    pub(super) file: Option<Text>,
    pub(super) extents: u64,
    pub(super) layout: Text,
}

/// The root that was booted without the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) partition: Text,
    pub(super) file_system: Text,
    /// A /usr of its own.
    #[serde(default)]
    pub(super) usr: Option<Text>,
}

/// A stage that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Stage {
    pub(super) name: Text,
    #[serde(deserialize_with = "time")]
    pub(super) us: u64,
}

/// A module that was loaded, or a pack that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Load {
    pub(super) name: Text,
    /// When it began; the first records did not say.
    #[serde(default, deserialize_with = "perhaps_time")]
    pub(super) at: Option<u64>,
    /// How long it took.
    #[serde(deserialize_with = "time")]
    pub(super) us: u64,
    /// 0 for success, [`NO_ERRNO`] for what was given up.
    pub(super) errno: u8,
    /// It had not ended when the next init was executed.
    #[serde(default)]
    pub(super) running: bool,
}

impl Record {
    /// The partition that was booted from, if the record has one.
    pub(super) fn partition(&self) -> Option<&Text> {
        let image = self
            .image
            .as_ref()
            .and_then(|image| image.partition.as_ref());
        image.or(self.root.as_ref().map(|root| &root.partition))
    }
}

/// A module that was killed, given up, or kept away by one that it needs.
pub(super) const NO_ERRNO: u8 = 255;

impl Load {
    /// From when to when, where that is known.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        self.at.map(|at| (at, at.saturating_add(self.us)))
    }
}

/// A text that can be printed: on one line, without control characters and marks
/// of direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Text(String);

impl Text {
    fn new(text: &str) -> Self {
        let steers = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        let clean = |c| if steers(c) { '\u{fffd}' } else { c };
        Self(text.chars().take(MAX_TEXT).map(clean).collect())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let us = u64::deserialize(deserializer)?;
    match us <= MAX_US {
        true => Ok(us),
        false => Err(de::Error::custom(format!("{us} us is no time of a boot"))),
    }
}

fn perhaps_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    time(deserializer).map(Some)
}

/// `/run/initoverlayfs/prefetch.json`: what was read ahead beside the image's init. Format
/// version 1; storage-init's process for it writes it when it ends (`prefetch.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prefetch {
    /// When it began.
    #[serde(rename(serialize = "at_us"), deserialize_with = "time")]
    pub(super) at: u64,
    /// How long it asked.
    #[serde(deserialize_with = "time")]
    pub(super) us: u64,
    pub(super) files: u32,
    pub(super) bytes: u64,
    /// Whether gaps were closed as for a disk with a head.
    pub(super) rotational: bool,
}

impl Prefetch {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence's end.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        check_version(text)?;
        serde_json::from_slice(text).map_err(|e| e.to_string())
    }
}

fn check_version(text: &[u8]) -> Result<(), String> {
    let Version { version } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    match version {
        1 => Ok(()),
        _ => Err(format!(
            "it is of format version {version}, this program knows version 1"
        )),
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Record {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence's end.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if u64::try_from(text.len()).map_or(true, |len| len > MAX_LEN) {
            return Err(format!("it has more than {MAX_LEN} bytes"));
        }
        check_version(text)?;
        let record: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if record.stages.is_empty() {
            return Err("it has no stages".into());
        }
        if record.image.is_none() && record.root.is_none() {
            return Err("it has neither image nor root".into());
        }
        for pair in record.stages.windows(2) {
            if let [before, after] = pair {
                if before.us > after.us {
                    return Err(format!(
                        "stage {} is at {} us, before stage {}",
                        after.name, after.us, before.name
                    ));
                }
            }
        }
        Ok(record)
    }

    /// When the last stage of that name was reached.
    pub(super) fn stage(&self, name: &str) -> Option<u64> {
        let found = self.stages.iter().rev().find(|s| s.name.as_str() == name);
        found.map(|stage| stage.us)
    }

    /// When the last stage was reached.
    pub(super) fn end(&self) -> u64 {
        self.stages.last().map_or(0, |stage| stage.us)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record that is right, with these lists.
    pub(in super::super) fn record(stages: &str, modules: &str, packs: &str) -> String {
        format!(
            r#"{{"version":1,"storage_init":"0.1.0","kernel":"6.12.1","product":"test",
            "auth":"sealed","root_hash":null,"image":{{"candidate":"esp",
            "partition":"/dev/vda1","partuuid":"x","file":"/image.raw","extents":1,
            "uuid":"y","size":1,"device":"/dev/dm-0","layout":"dm-verity over /dev/loop0"}},
            "init":"/init","stages":[{stages}],"modules":[{modules}],"packs":[{packs}]}}"#
        )
    }

    const START: &str = r#"{"name":"start","us":1000}"#;

    fn why(text: &str) -> String {
        Record::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn records_of_reading_ahead_are_checked() {
        let good = r#"{"version":1,"at":5,"us":4,"files":3,"bytes":2,"rotational":false}"#;
        let read = Prefetch::parse(good.as_bytes()).unwrap();
        assert_eq!((read.at, read.us, read.files, read.bytes), (5, 4, 3, 2));
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"at\":5", "\"at\":1000000000001"),
            ("\"files\":3", "\"files\":-3"),
            ("}", ""),
        ] {
            let bad = good.replace(from, to);
            assert!(Prefetch::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn records_of_both_ages_are_read() {
        let new = r#"{"name":"erofs","at":7,"us":5,"errno":0}"#;
        let old = r#"{"name":"erofs","us":5,"errno":0}"#;
        let read = Record::parse(record(START, &format!("{new},{old}"), "").as_bytes()).unwrap();
        assert_eq!(read.modules[0].span(), Some((7, 12)));
        assert_eq!(read.modules[1].span(), None);
        assert_eq!(read.stage("start"), Some(1000));
        assert_eq!(read.stage("exec"), None);
    }

    #[test]
    fn an_embedded_image_was_on_no_partition() {
        let text = record(START, "", "")
            .replace(r#""/dev/vda1""#, "null")
            .replace(r#""/image.raw""#, "null");
        let read = Record::parse(text.as_bytes()).unwrap();
        assert!(read.partition().is_none());
        assert!(read.image.unwrap().file.is_none());
    }

    #[test]
    fn a_direct_boot_has_a_root_and_no_image() {
        let text = record(START, "", "");
        let (before, rest) = text.split_once(r#""image":"#).unwrap();
        let (_, after) = rest.split_once("},").unwrap();
        let root = r#""image":null,"root":{"partition":"/dev/vda2","file_system":"ext4"},"#;
        let read = Record::parse(format!("{before}{root}{after}").as_bytes()).unwrap();
        assert_eq!(read.partition().unwrap().as_str(), "/dev/vda2");
        assert!(read.image.is_none());
        let neither = format!(r#"{before}"image":null,{after}"#);
        assert!(why(&neither).contains("neither image nor root"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(why("").contains("EOF"));
        assert!(why("[]").contains("missing field") || why("[]").contains("invalid"));
        assert!(why(r#"{"version":2}"#).contains("version 2"));
        assert!(why(r#"{"version":1}"#).contains("missing field"));
        assert!(why(&record("", "", "")).contains("no stages"));
        let late = r#"{"name":"plan","us":999}"#;
        assert!(why(&record(&format!("{START},{late}"), "", "")).contains("plan is at 999"));
        let long = r#"{"name":"a","us":1000000000001,"errno":0}"#;
        assert!(why(&record(START, long, "")).contains("no time of a boot"));
        let at = r#"{"name":"a","at":18446744073709551615,"us":1,"errno":0}"#;
        assert!(why(&record(START, at, "")).contains("no time of a boot"));
        let errno = r#"{"name":"a","us":1,"errno":256}"#;
        assert!(why(&record(START, errno, "")).contains("256"));
        let minus = r#"{"name":"a","us":-1,"errno":0}"#;
        assert!(why(&record(START, minus, "")).contains("-1"));
        let deep = "[".repeat(100_000);
        assert!(why(&deep).contains("recursion") || why(&deep).contains("invalid"));
        let len = usize::try_from(MAX_LEN).unwrap() + 1;
        assert!(why(&" ".repeat(len)).contains("more than"));
    }

    #[test]
    fn texts_cannot_steer_a_terminal() {
        let name = r#"{"name":"\u001b[2J\r\n\u202ex\u009b","us":1}"#;
        let read = Record::parse(record(name, "", "").as_bytes()).unwrap();
        let fffd = '\u{fffd}';
        let want = format!("{fffd}[2J{fffd}{fffd}{fffd}x{fffd}");
        assert_eq!(read.stages[0].name.as_str(), want);
        let long = format!(r#"{{"name":"{}","us":1}}"#, "x".repeat(5000));
        let read = Record::parse(record(&long, "", "").as_bytes()).unwrap();
        assert_eq!(read.stages[0].name.as_str().len(), MAX_TEXT);
    }

    proptest! {
        /// Bytes changed anywhere: an error or a record, never a panic, and what is
        /// read can be analysed and drawn.
        #[test]
        fn any_record_is_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut bytes = include_bytes!("../../tests/data/analyze/boot.json").to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(record) = Record::parse(&bytes) {
                super::super::tests::draw_everything(record);
            }
        }

        /// Any numbers where numbers belong.
        #[test]
        fn any_times_are_read_or_refused(
            stages in prop::collection::vec(any::<u64>(), 0..5),
            loads in prop::collection::vec((0u64..2_000_000_000_000, 0u64..2_000_000_000_000, any::<u8>()), 0..5),
        ) {
            let stages: Vec<String> = stages
                .iter()
                .zip(["start", "plan", "device", "modules", "exec"])
                .map(|(us, name)| format!(r#"{{"name":"{name}","us":{us}}}"#))
                .collect();
            let loads: Vec<String> = loads
                .iter()
                .map(|(at, us, errno)| format!(r#"{{"name":"m","at":{at},"us":{us},"errno":{errno}}}"#))
                .collect();
            let text = record(&stages.join(","), &loads.join(","), &loads.join(","));
            if let Ok(record) = Record::parse(text.as_bytes()) {
                super::super::tests::draw_everything(record);
            }
        }
    }
}
