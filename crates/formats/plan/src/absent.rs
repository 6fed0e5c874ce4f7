//! Drivers that this kernel has and the mini-initramfs does not: what a report
//! of a failed boot names beside the devices that nothing drives.
//!
//! It lies as [`ABSENT`] beside the plan, as one zstd frame, since only a boot
//! that has failed reads it. Whoever reads it allows its content no more than
//! [`MAX_ABSENT`] bytes.
//!
//! # Format
//! Little-endian, no padding. The magic `IOFSABSE`, a u16 count of modules and
//! each name as a u8 length and that many bytes of UTF-8, then to the end an
//! [`AliasTable`] whose targets are indices of the names. A name that is empty,
//! a target without a name and bytes that are not as said are refused.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::aliases::{AliasError, AliasTable};

/// Where it lies in the mini-initramfs, if there are such drivers.
pub const ABSENT: &str = "/initoverlayfs/absent.zst";

/// The greatest size of the frame's content, in bytes. All storage drivers of a
/// distribution's kernel take about 100 KB.
pub const MAX_ABSENT: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"IOFSABSE";

/// Why bytes are not a list of absent drivers, or a list cannot become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentError {
    /// It does not begin with the magic.
    Magic,
    /// It ends early, or a name is empty or no UTF-8.
    Name {
        /// Offset of the name, in bytes.
        at: usize,
    },
    /// The table of aliases.
    Aliases(AliasError),
    /// It has more than [`MAX_ABSENT`] bytes, more than 65535 names, or a name
    /// of more than 255 bytes.
    TooLong,
}

impl fmt::Display for AbsentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("this is no list of absent drivers (no IOFSABSE)"),
            Self::Name { at } => {
                write!(
                    f,
                    "the list of absent drivers has no valid name at byte {at}"
                )
            }
            Self::Aliases(_) => f.write_str("the list of absent drivers has no valid aliases"),
            Self::TooLong => f.write_str("the list of absent drivers is too long"),
        }
    }
}

impl core::error::Error for AbsentError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Aliases(error) => Some(error),
            _ => None,
        }
    }
}

/// The drivers of this kernel that the mini-initramfs does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Absent {
    /// Names of modules, as `lsmod` shows them.
    pub modules: Vec<String>,
    /// What they serve: [`crate::Alias::module`] is an index of a name.
    pub aliases: AliasTable,
}

impl Absent {
    /// The bytes, not compressed.
    ///
    /// # Errors
    /// [`AbsentError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, AbsentError> {
        let mut out = MAGIC.to_vec();
        let count = u16::try_from(self.modules.len()).map_err(|_| AbsentError::TooLong)?;
        out.extend_from_slice(&count.to_le_bytes());
        for name in &self.modules {
            let len = u8::try_from(name.len()).map_err(|_| AbsentError::TooLong)?;
            out.push(len);
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(self.aliases.to_bytes());
        match out.len() <= MAX_ABSENT {
            true => Ok(out),
            false => Err(AbsentError::TooLong),
        }
    }

    /// Reads the bytes, decompressed.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, AbsentError> {
        if bytes.len() > MAX_ABSENT {
            return Err(AbsentError::TooLong);
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(AbsentError::Magic)?;
        let bad = |rest: &[u8]| AbsentError::Name {
            at: bytes.len() - rest.len(),
        };
        let (count, mut rest) = rest.split_first_chunk().ok_or(bad(rest))?;
        let mut modules = Vec::new();
        for _ in 0..u16::from_le_bytes(*count) {
            let (&len, after) = rest.split_first().ok_or(bad(rest))?;
            let (name, after) = after.split_at_checked(len.into()).ok_or(bad(rest))?;
            let name = core::str::from_utf8(name).map_err(|_| bad(rest))?;
            if name.is_empty() {
                return Err(bad(rest));
            }
            modules.push(name.into());
            rest = after;
        }
        let aliases = AliasTable::from_bytes(rest, modules.len()).map_err(AbsentError::Aliases)?;
        Ok(Self { modules, aliases })
    }

    /// The modules that would serve a device with this modalias, each once.
    #[must_use]
    pub fn modules_for(&self, modalias: &str) -> Vec<&str> {
        let mut names = Vec::new();
        for target in self.aliases.matches(modalias) {
            let name = self.modules.get(usize::from(target)).map(String::as_str);
            names.extend(name.filter(|name| !names.contains(name)));
        }
        names
    }
}
