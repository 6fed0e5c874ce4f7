//! The text of an entry.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The greatest size of an entry, in bytes.
pub const MAX_LEN: usize = 64 << 10;

/// An entry. Paths begin with `/`, the root of the file system that the entry
/// is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// What the menu shows.
    pub title: Option<String>,
    /// Version, mostly the kernel's; newer ones are listed first.
    pub version: Option<String>,
    /// The installation that it belongs to: 32 lower-case hexadecimal digits.
    pub machine_id: Option<String>,
    /// What the menu is sorted by, mostly a distribution's ID.
    pub sort_key: Option<String>,
    /// EFI's name of the architecture: `x64`, `aa64`.
    pub architecture: Option<String>,
    /// Path of the kernel.
    pub linux: Option<String>,
    /// Paths of initramfs images, in order.
    pub initrd: Vec<String>,
    /// Path of an EFI program.
    pub efi: Option<String>,
    /// Path of a unified kernel image.
    pub uki: Option<String>,
    /// Path of a device tree.
    pub devicetree: Option<String>,
    /// Kernel command line, in parts; see [`Self::command_line`].
    pub options: Vec<String>,
    /// Every other key and its value, in order.
    pub other: Vec<(String, String)>,
}

/// Why an entry cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryError {
    /// More than [`MAX_LEN`] bytes.
    TooLong {
        /// The size, in bytes.
        len: usize,
    },
    /// It is not UTF-8 from this byte on.
    NotUtf8 {
        /// Offset in bytes.
        offset: usize,
    },
    /// A path has `..`, a backslash, or (when written) is not absolute and
    /// normalised.
    BadPath {
        /// The key.
        key: &'static str,
        /// The path.
        path: String,
    },
    /// A value that would not be read back: empty, of more than one line, or
    /// with spaces at its ends.
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A machine ID that is not 32 lower-case hexadecimal digits.
    BadMachineId {
        /// The value.
        value: String,
    },
    /// A key in [`Entry::other`] that has a field of its own or is no word.
    BadKey {
        /// The key.
        key: String,
    },
    /// Neither a kernel nor an EFI program: nothing to boot.
    NothingToBoot,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => {
                write!(f, "the boot entry has {len} bytes, more than {MAX_LEN}")
            }
            Self::NotUtf8 { offset } => {
                write!(f, "the boot entry is not UTF-8 at offset {offset}")
            }
            Self::BadPath { key, path } => write!(
                f,
                "the boot entry's {key} \"{}\" must be a path from the root of its file system, \
                 without \"..\" and backslashes",
                path.escape_debug()
            ),
            Self::BadValue { key, value } => write!(
                f,
                "the boot entry's {} \"{}\" must be one line that is not empty, without spaces \
                 at its ends",
                key.escape_debug(),
                value.escape_debug()
            ),
            Self::BadMachineId { value } => write!(
                f,
                "the boot entry's machine-id \"{}\" must be 32 lower-case hexadecimal digits",
                value.escape_debug()
            ),
            Self::BadKey { key } => write!(
                f,
                "\"{}\" cannot be a further key of a boot entry",
                key.escape_debug()
            ),
            Self::NothingToBoot => write!(
                f,
                "the boot entry has none of linux, efi, uki and uki-url: it boots nothing"
            ),
        }
    }
}

impl core::error::Error for EntryError {}

/// The keys that have a field.
const KNOWN: [&str; 11] = [
    "title",
    "version",
    "machine-id",
    "sort-key",
    "architecture",
    "linux",
    "initrd",
    "efi",
    "uki",
    "devicetree",
    "options",
];

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// What [`EntryError`] names, of what concerns reading.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_LEN {
            return Err(EntryError::TooLong { len: bytes.len() });
        }
        let text = core::str::from_utf8(bytes).map_err(|error| EntryError::NotUtf8 {
            offset: error.valid_up_to(),
        })?;
        let mut entry = Self::default();
        for line in text.split('\n') {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.starts_with('#') {
                continue;
            }
            // A key without a value says nothing.
            if let Some((key, value)) = line.split_once([' ', '\t']) {
                entry.take(key, value.trim_start_matches([' ', '\t']))?;
            }
        }
        let boots = entry.linux.is_some()
            || entry.efi.is_some()
            || entry.uki.is_some()
            || entry.other.iter().any(|(key, _)| key == "uki-url");
        if boots {
            Ok(entry)
        } else {
            Err(EntryError::NothingToBoot)
        }
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), EntryError> {
        match key {
            "title" => self.title = Some(value.into()),
            "version" => self.version = Some(value.into()),
            "machine-id" => self.machine_id = Some(value.into()),
            "sort-key" => self.sort_key = Some(value.into()),
            "architecture" => self.architecture = Some(value.into()),
            "linux" => self.linux = Some(read_path("linux", value)?),
            "initrd" => self.initrd.push(read_path("initrd", value)?),
            "efi" => self.efi = Some(read_path("efi", value)?),
            "uki" => self.uki = Some(read_path("uki", value)?),
            "devicetree" => self.devicetree = Some(read_path("devicetree", value)?),
            "options" => self.options.push(value.into()),
            _ => self.other.push((key.into(), value.into())),
        }
        Ok(())
    }

    /// The whole kernel command line: the options, joined with spaces.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.options.join(" ")
    }

    /// The entry's text, keys in a fixed order.
    ///
    /// # Errors
    /// What [`EntryError`] names; nothing that [`Self::parse`] would read
    /// otherwise is written.
    pub fn write(&self) -> Result<String, EntryError> {
        let mut out = String::new();
        if let Some(id) = &self.machine_id {
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if id.len() != 32 || !id.bytes().all(digit) {
                return Err(EntryError::BadMachineId { value: id.clone() });
            }
        }
        for (key, value) in [
            ("title", &self.title),
            ("version", &self.version),
            ("machine-id", &self.machine_id),
            ("sort-key", &self.sort_key),
            ("architecture", &self.architecture),
        ] {
            if let Some(value) = value {
                push_line(&mut out, key, value)?;
            }
        }
        let paths = [("linux", &self.linux)]
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.as_ref()?)))
            .chain(self.initrd.iter().map(|path| ("initrd", path)))
            .chain(
                [
                    ("efi", &self.efi),
                    ("uki", &self.uki),
                    ("devicetree", &self.devicetree),
                ]
                .into_iter()
                .filter_map(|(key, path)| Some((key, path.as_ref()?))),
            );
        for (key, path) in paths {
            check_written_path(key, path)?;
            push_line(&mut out, key, path)?;
        }
        for options in &self.options {
            push_line(&mut out, "options", options)?;
        }
        for (key, value) in &self.other {
            let word =
                !key.is_empty() && !key.starts_with('#') && !key.contains(char::is_whitespace);
            if !word || key.contains('\0') || KNOWN.contains(&key.as_str()) {
                return Err(EntryError::BadKey { key: key.clone() });
            }
            push_line(&mut out, key, value)?;
        }
        Self::parse(out.as_bytes())?;
        Ok(out)
    }
}

fn push_line(out: &mut String, key: &str, value: &str) -> Result<(), EntryError> {
    if value.is_empty() || value.trim() != value || value.contains(['\n', '\r', '\0']) {
        return Err(EntryError::BadValue {
            key: key.into(),
            value: value.into(),
        });
    }
    for part in [key, " ", value, "\n"] {
        out.push_str(part);
    }
    Ok(())
}

/// A path that was read: the slash in front may be missing.
fn read_path(key: &'static str, path: &str) -> Result<String, EntryError> {
    if path.contains(['\\', '\0']) || path.split('/').any(|component| component == "..") {
        return Err(EntryError::BadPath {
            key,
            path: path.into(),
        });
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok([slash, path].concat())
}

fn check_written_path(key: &'static str, path: &str) -> Result<(), EntryError> {
    let normal = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|c| !matches!(c, "" | "." | "..")));
    if normal && !path.contains(['\\', '\0']) {
        return Ok(());
    }
    Err(EntryError::BadPath {
        key,
        path: path.into(),
    })
}
