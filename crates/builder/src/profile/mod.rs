//! What a boot reads of its image: recorded or guessed, and how it goes into the
//! next one.
//!
//! A [`Profile`] is a recorded boot. The builder uses it twice: the files that it
//! names come first in the image, in its order, and the image carries a
//! [`PrefetchList`] of them ([`list`]). Without a profile the files are guessed
//! ([`generic`]).

mod elf;
mod generic;
mod list;
mod record;
mod stage;

pub(crate) use list::append;
pub use record::{Recorder, Recording};
pub(crate) use stage::{Hot, stage};

use crate::Uuid;
use crate::error::{Error, ErrorKind, Result};
use iofs_prefetch::{FileRanges, MAX_FILES, MAX_RANGES, PAGE, PrefetchList, Range};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// The greatest size of a profile's file, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// What decides which files come first in an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HotFiles {
    /// Nothing: natural order, no list.
    #[default]
    None,
    /// What the image's own programs let expect.
    Generic,
    /// A recorded boot; a guess if none of its files is in the image.
    Recorded(Profile),
}

/// A recorded boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// [`VERSION`].
    pub version: u32,
    /// Root hash of the image that was booted, if it was proven.
    pub root_hash: Option<String>,
    /// UUID of its file system.
    #[serde(with = "uuid_text")]
    pub uuid: Uuid,
    /// The kernel's release.
    pub kernel_release: String,
    /// Size of all files of the image in bytes, hard links counted once.
    pub image_bytes: u64,
    /// What was read, in the order of the first touch.
    pub files: Vec<ProfileFile>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFile {
    /// Its path, relative to the image's root.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// The pages of 4096 bytes that were read, in ascending order: the first
    /// one and how many.
    pub pages: Vec<[u32; 2]>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Limit`], or as [`Self::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(Error::io("reading the profile", path))?;
        Self::parse(&bytes).map_err(|error| error.about(path.display()))
    }

    /// Reads a profile from the bytes of its file.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] for more than a list may hold,
    /// [`ErrorKind::Input`] for what is no profile, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let input = |message: String| Error::new(ErrorKind::Input, message);
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("the profile has more than {MAX_BYTES} bytes"),
            ));
        }
        let version = serde_json::from_slice::<serde_json::Value>(bytes)
            .ok()
            .and_then(|value| value.get("version")?.as_u64());
        if let Some(other) = version.filter(|&version| version != u64::from(VERSION)) {
            return Err(input(format!(
                "the profile has version {other}, this program reads {VERSION}"
            ))
            .hint("Record it anew with `initoverlayfs profile record`."));
        }
        let profile: Self = serde_json::from_slice(bytes)
            .map_err(|error| input("this is no boot profile".into()).source(error))?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<()> {
        let ranges: usize = self.files.iter().map(|file| file.pages.len()).sum();
        if self.files.len() > MAX_FILES || ranges > MAX_RANGES {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "the profile has {} files and {ranges} ranges, at most {MAX_FILES} and {MAX_RANGES} can be used",
                    self.files.len()
                ),
            ));
        }
        let mut seen = HashSet::new();
        for file in &self.files {
            let bad = |what: &str| {
                Err(Error::new(
                    ErrorKind::Input,
                    format!("the profile's file {:?} {what}", file.path),
                ))
            };
            if !PrefetchList::is_path(&file.path) {
                return bad("has no path below the image's root");
            }
            if !seen.insert(&file.path) {
                return bad("is there twice");
            }
            let mut end = 0;
            for (index, range) in file.ranges().enumerate() {
                let apart = index == 0 || range.start > end;
                if range.len == 0 || !apart || range.start.checked_add(range.len).is_none() {
                    return bad("has ranges that are not in order");
                }
                end = range.end();
            }
            if u64::from(end) > file.size.div_ceil(PAGE) {
                return bad("has pages behind its end");
            }
        }
        Ok(())
    }

    /// How many bytes of files were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let ranges = self.files.iter().flat_map(ProfileFile::ranges);
        ranges.fold(0, |sum, range| sum.saturating_add(range.bytes()))
    }
}

impl ProfileFile {
    /// The pages that were read.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.pages.iter().map(|&[start, len]| Range { start, len })
    }
}

/// A UUID as its usual text. The crate's own support would come into PID 1's
/// dependencies, too.
mod uuid_text {
    use crate::Uuid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(uuid: &Uuid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(uuid)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Uuid, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// All pages of a file of this size; `None` if they cannot be counted.
fn whole(size: u64) -> Option<Range> {
    let len = u32::try_from(size.div_ceil(PAGE)).ok()?;
    Some(Range { start: 0, len })
}

/// What the image is to carry of a file.
type Wanted = FileRanges;

#[cfg(test)]
mod tests;
