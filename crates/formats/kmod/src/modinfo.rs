//! What a module says of itself: the section `.modinfo` of its ELF file.

use alloc::vec::Vec;
use core::fmt;

/// Whether a module file (not compressed) ends with a signature, whoever made
/// it.
#[must_use]
pub fn is_signed(module: &[u8]) -> bool {
    module.ends_with(b"~Module signature appended~\n")
}

/// Why a file is not a module that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModInfoError {
    /// No ELF file. A compressed module must be decompressed first.
    NotElf,
    /// Neither 32 nor 64 bits, or not little-endian.
    UnsupportedClass,
    /// What the file says about its parts does not lie inside it.
    Truncated {
        /// Offset of what is missing, in bytes.
        offset: u64,
        /// Its length, in bytes.
        len: u64,
    },
    /// It has no `.modinfo`: an ELF file, but no kernel module.
    NoModInfo,
}

impl fmt::Display for ModInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "this is no ELF file (is the module still compressed?)"),
            Self::UnsupportedClass => {
                write!(f, "only little-endian ELF files of 32 or 64 bits are read")
            }
            Self::Truncated { offset, len } => write!(
                f,
                "the module is cut short: {len} bytes at offset {offset} are missing"
            ),
            Self::NoModInfo => write!(f, "this ELF file is no kernel module (no .modinfo)"),
        }
    }
}

impl core::error::Error for ModInfoError {}

/// The entries of `.modinfo`, in order; a key may come more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModInfo<'a> {
    entries: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> ModInfo<'a> {
    /// Reads a module that is not compressed.
    ///
    /// # Errors
    /// What [`ModInfoError`] names.
    pub fn parse(module: &'a [u8]) -> Result<Self, ModInfoError> {
        let section = Elf::new(module)?.section(b".modinfo")?;
        let entries = section
            .split(|&byte| byte == 0)
            .filter_map(|entry| {
                let equals = entry.iter().position(|&byte| byte == b'=')?;
                Some((entry.get(..equals)?, entry.get(equals + 1..)?))
            })
            .collect();
        Ok(Self { entries })
    }

    /// Every entry, `(key, value)`.
    pub fn entries(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + '_ {
        self.entries.iter().copied()
    }

    /// The values of a key that are UTF-8 (authors' names need not be): `alias`,
    /// `softdep`, `firmware`, `parm`, `license`.
    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.entries()
            .filter(move |(k, _)| *k == key.as_bytes())
            .filter_map(|(_, value)| core::str::from_utf8(value).ok())
    }

    /// The first value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    /// The module's name; modules before Linux 4.13 do not say it.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.get("name")
    }

    /// The kernel that it was built for.
    #[must_use]
    pub fn vermagic(&self) -> Option<&'a str> {
        self.get("vermagic")
    }

    /// Names of the modules that it needs itself.
    pub fn depends(&self) -> impl Iterator<Item = &'a str> {
        self.get("depends")
            .unwrap_or("")
            .split(',')
            .filter(|name| !name.is_empty())
    }

    /// The firmware files that it may ask for, below /lib/firmware.
    pub fn firmware(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.all("firmware")
    }
}

/// Section headers of an ELF file.
struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
    table: u64,
    entry_len: u64,
    count: u64,
    names: u64,
}

/// The fields of a section header that matter here.
struct Section {
    name: u64,
    offset: u64,
    len: u64,
    link: u64,
}

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, ModInfoError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ModInfoError::NotElf);
        }
        let wide = match bytes.get(4..6) {
            Some([1, 1]) => false,
            Some([2, 1]) => true,
            _ => return Err(ModInfoError::UnsupportedClass),
        };
        let mut elf = Self {
            bytes,
            wide,
            table: 0,
            entry_len: 0,
            count: 0,
            names: 0,
        };
        elf.table = elf.word(if wide { 0x28 } else { 0x20 })?;
        let sizes = if wide { 0x3a } else { 0x2e };
        elf.entry_len = elf.number(sizes, 2)?;
        elf.count = elf.number(sizes + 2, 2)?;
        elf.names = elf.number(sizes + 4, 2)?;
        // Too many for 16 bits: the first header has the numbers.
        if elf.count == 0 && elf.table != 0 {
            elf.count = elf.header(0)?.len;
        }
        if elf.names == 0xffff {
            elf.names = elf.header(0)?.link;
        }
        Ok(elf)
    }

    fn slice(&self, offset: u64, len: u64) -> Result<&'a [u8], ModInfoError> {
        usize::try_from(offset)
            .ok()
            .zip(usize::try_from(len).ok())
            .and_then(|(start, len)| self.bytes.get(start..start.checked_add(len)?))
            .ok_or(ModInfoError::Truncated { offset, len })
    }

    /// The little-endian number of `len` bytes, at most 8, at `offset`.
    fn number(&self, offset: u64, len: u64) -> Result<u64, ModInfoError> {
        let bytes = self.slice(offset, len)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// An address-sized number.
    fn word(&self, offset: u64) -> Result<u64, ModInfoError> {
        self.number(offset, if self.wide { 8 } else { 4 })
    }

    fn header(&self, index: u64) -> Result<Section, ModInfoError> {
        let needed = if self.wide { 64 } else { 40 };
        let at = index
            .checked_mul(self.entry_len)
            .and_then(|offset| self.table.checked_add(offset))
            .filter(|at| self.entry_len >= needed && at.checked_add(needed).is_some())
            .ok_or(ModInfoError::Truncated {
                offset: self.table,
                len: needed,
            })?;
        let (offset, len, link) = if self.wide {
            (0x18, 0x20, 0x28)
        } else {
            (0x10, 0x14, 0x18)
        };
        self.slice(at, needed)?;
        Ok(Section {
            name: self.number(at, 4)?,
            offset: self.word(at + offset)?,
            len: self.word(at + len)?,
            link: self.number(at + link, 4)?,
        })
    }

    fn section(&self, name: &[u8]) -> Result<&'a [u8], ModInfoError> {
        let names = self.header(self.names)?;
        let names = self.slice(names.offset, names.len)?;
        for index in 0..self.count {
            let header = self.header(index)?;
            let own_name = usize::try_from(header.name)
                .ok()
                .and_then(|at| names.get(at..))
                .and_then(|rest| rest.strip_prefix(name));
            if own_name.is_some_and(|rest| rest.first() == Some(&0)) {
                return self.slice(header.offset, header.len);
            }
        }
        Err(ModInfoError::NoModInfo)
    }
}
