//! Where the boot looks for the image, as the user writes it.

use std::fmt;
use std::str::FromStr;

use iofs_gpt::types;
use iofs_plan::{Candidate, Expect, Selector, Uuid};

/// A value of `--image-on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceArg {
    /// A file on the EFI system partition.
    Esp,
    /// A file on the extended boot loader partition.
    Xbootldr,
    /// A file below /boot on the root partition.
    Boot,
    /// A file on another partition.
    File(Selector),
    /// The partition is the image; without a selector, that with the PARTUUID
    /// that follows from the root hash.
    Partition(Option<Selector>),
    /// Memory that firmware or boot loader fill.
    Pmem {
        /// Whether pages are used where they lie.
        dax: bool,
    },
    /// The mini-initramfs.
    Embedded,
}

impl FromStr for PlaceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "esp" => return Ok(Self::Esp),
            "xbootldr" => return Ok(Self::Xbootldr),
            "boot" => return Ok(Self::Boot),
            "partition" => return Ok(Self::Partition(None)),
            "pmem" => return Ok(Self::Pmem { dax: false }),
            "pmem:dax" => return Ok(Self::Pmem { dax: true }),
            "embedded" => return Ok(Self::Embedded),
            _ => {}
        }
        match text.split_once(':') {
            Some(("file", which)) => selector(which).map(Self::File),
            Some(("partition", which)) => selector(which).map(Some).map(Self::Partition),
            _ => Err(
                "use esp, xbootldr, boot, file:SELECTOR, partition, partition:SELECTOR, pmem, \
                 pmem:dax or embedded"
                    .into(),
            ),
        }
    }
}

fn selector(text: &str) -> Result<Selector, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a selector is PARTLABEL=NAME, PARTUUID=GUID or TYPE=GUID")?;
    let guid = || {
        Uuid::parse_str(value)
            .map_err(|e| format!("{value:?} is no GUID: {e}"))
            .and_then(|guid| match guid.is_nil() {
                true => Err("the nil GUID names no partition".into()),
                false => Ok(guid),
            })
    };
    match key.to_ascii_uppercase().as_str() {
        "PARTLABEL" | "LABEL" => match value.encode_utf16().count() {
            1..=36 => Ok(Selector::PartLabel(value.into())),
            _ => Err("a partition's name has 1 to 36 UTF-16 units".into()),
        },
        "PARTUUID" => guid().map(Selector::PartUuid),
        "TYPE" => match types::from_name(value) {
            Some(guid) => Ok(Selector::TypeGuid(guid)),
            None => guid().map(Selector::TypeGuid),
        },
        _ => Err(format!(
            "{key} is no selector; use PARTLABEL, PARTUUID or TYPE"
        )),
    }
}

impl fmt::Display for PlaceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PlaceArg {
    fn name(&self) -> &'static str {
        match self {
            Self::Esp => "esp",
            Self::Xbootldr => "xbootldr",
            Self::Boot => "boot",
            Self::File(_) => "file",
            Self::Partition(_) => "partition",
            Self::Pmem { .. } => "pmem",
            Self::Embedded => "embedded",
        }
    }

    /// Whether the image is in memory before the kernel starts.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Self::Pmem { .. } | Self::Embedded)
    }

    /// The plan's candidate; `path` is the image's path inside the boot folder,
    /// `by_hash` the partition that a partition without a selector means.
    fn candidate(&self, name: String, path: &str, by_hash: Option<Uuid>) -> Candidate {
        let file = |path: String| Some(path);
        let (partition, file) = match self {
            Self::Esp => (Selector::TypeGuid(types::ESP), file(path.into())),
            Self::Xbootldr => (Selector::TypeGuid(types::XBOOTLDR), file(path.into())),
            Self::Boot => (
                Selector::TypeGuid(root_type()),
                file(format!("/boot{path}")),
            ),
            Self::File(selector) => (selector.clone(), file(path.into())),
            Self::Partition(Some(selector)) => (selector.clone(), None),
            Self::Pmem { dax } => (Selector::Pmem { dax: *dax }, None),
            Self::Embedded => (Selector::Embedded, None),
            // The nil GUID names no partition, and no plan is made of it.
            Self::Partition(None) => (Selector::PartUuid(by_hash.unwrap_or_default()), None),
        };
        Candidate {
            name,
            partition,
            file,
            expect: Expect::default(),
        }
    }
}

/// The root partition's type on this architecture.
fn root_type() -> Uuid {
    if cfg!(target_arch = "aarch64") {
        types::ROOT_ARM64
    } else {
        types::ROOT_X86_64
    }
}

/// The plan's candidates, each with a name of its own. Those in memory come last: they
/// are always there, and are as old as the mini-initramfs or the loader's memory of it.
pub(crate) fn candidates(places: &[PlaceArg], path: &str, by_hash: Option<Uuid>) -> Vec<Candidate> {
    let mut made: Vec<Candidate> = Vec::new();
    let (memory, disks): (Vec<_>, Vec<_>) = places.iter().partition(|place| place.is_memory());
    for place in disks.into_iter().chain(memory) {
        let kind = place.name();
        let same = made.iter().filter(|c| c.name.starts_with(kind)).count();
        let name = match same {
            0 => kind.to_owned(),
            _ => format!("{kind}-{}", same + 1),
        };
        made.push(place.candidate(name, path, by_hash));
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let guid = "0fc63daf-8483-4772-8e79-3d69d8477de4";
        assert_eq!("esp".parse(), Ok(PlaceArg::Esp));
        assert_eq!(
            "partition:LABEL=init".parse(),
            Ok(PlaceArg::Partition(Some(Selector::PartLabel(
                "init".into()
            ))))
        );
        assert_eq!(
            format!("file:PARTUUID={guid}").parse(),
            Ok(PlaceArg::File(Selector::PartUuid(
                Uuid::parse_str(guid).unwrap()
            )))
        );
        assert_eq!(
            "partition:TYPE=linux-generic".parse(),
            Ok(PlaceArg::Partition(Some(Selector::TypeGuid(
                types::LINUX_GENERIC
            ))))
        );
        for bad in [
            "",
            "usb",
            "file:",
            "partition:x",
            "partition:UUID=1",
            "partition:PARTUUID=1",
            "partition:PARTUUID=00000000-0000-0000-0000-000000000000",
            "partition:PARTLABEL=",
            "partition:PARTLABEL=0123456789012345678901234567890123456",
        ] {
            assert!(bad.parse::<PlaceArg>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_in_memory_is_the_fallback() {
        let places = ["embedded", "pmem:dax", "esp"].map(|text| text.parse().unwrap());
        let made = candidates(&places, "/image.raw", None);
        let names: Vec<&str> = made.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["esp", "embedded", "pmem"]);
        assert_eq!(made[1].partition, Selector::Embedded);
        assert_eq!(made[2].partition, Selector::Pmem { dax: true });
        assert!(made[1].file.is_none() && made[2].file.is_none());
        assert!("pmem:x".parse::<PlaceArg>().is_err());
    }

    #[test]
    fn candidates_have_names_of_their_own_and_boots_path() {
        let places = [
            PlaceArg::Esp,
            PlaceArg::Boot,
            PlaceArg::File(Selector::PartLabel("a".into())),
            PlaceArg::File(Selector::PartLabel("b".into())),
            PlaceArg::Partition(None),
        ];
        let made = candidates(&places, "/p/1/image.erofs", Some(types::ESP));
        let names: Vec<&str> = made.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["esp", "boot", "file", "file-2", "partition"]);
        assert_eq!(made[0].file.as_deref(), Some("/p/1/image.erofs"));
        assert_eq!(made[4].partition, Selector::PartUuid(types::ESP));
        assert_eq!(made[1].file.as_deref(), Some("/boot/p/1/image.erofs"));
    }
}
