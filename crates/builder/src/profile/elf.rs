//! What a program or library needs before it runs: the interpreter and the
//! libraries that an ELF file (elf(5)) names, or the interpreter of a script.
//!
//! Little-endian, of 32 or 64 bits. Whatever is wrong with a file, it needs
//! nothing: it is a guess.

/// The longest name, in bytes.
const MAX_NAME: usize = 1024;

/// The most entries of a table that are looked at.
const MAX_ENTRIES: u64 = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;

const PF_X: u64 = 1;
const PF_W: u64 = 2;

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What a file needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Path of the interpreter.
    pub(super) interpreter: Option<String>,
    /// Names of libraries.
    pub(super) libraries: Vec<String>,
    /// Where they are looked for first; `$ORIGIN` is the file's own folder.
    pub(super) folders: Vec<String>,
}

/// What the file with these bytes needs.
pub(super) fn needs(bytes: &[u8]) -> Needs {
    if let Some(line) = bytes.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let word = std::str::from_utf8(line.get(..MAX_NAME).unwrap_or(line));
        return Needs {
            interpreter: word
                .ok()
                .and_then(|line| line.split_ascii_whitespace().next())
                .map(str::to_owned),
            ..Needs::default()
        };
    }
    Elf::open(bytes).map(|elf| elf.needs()).unwrap_or_default()
}

/// What linking a library with these bytes touches: where in the file its tables
/// are and what is relocated, as offset and length in bytes. Its code and constants
/// are only read by who calls it. Nothing for a file without such segments.
pub(super) fn linked(bytes: &[u8]) -> Vec<(u64, u64)> {
    let Some(elf) = Elf::open(bytes) else {
        return Vec::new();
    };
    let strings = elf.dynamic().into_iter().find(|(tag, _)| *tag == DT_STRTAB);
    elf.segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD && segment.flags & PF_X == 0)
        .filter(|segment| {
            let tables = strings.is_some_and(|(_, address)| segment.within(address).is_some());
            tables || segment.flags & PF_W != 0
        })
        .map(|segment| (segment.offset, segment.len))
        .collect()
}

struct Elf<'a> {
    bytes: &'a [u8],
    /// Whether it has 64 bits.
    wide: bool,
    segments: Vec<Segment>,
}

struct Segment {
    kind: u64,
    flags: u64,
    offset: u64,
    address: u64,
    len: u64,
}

impl Segment {
    /// How far into the segment an address is that the file has.
    fn within(&self, address: u64) -> Option<u64> {
        address
            .checked_sub(self.address)
            .filter(|&within| within < self.len)
    }
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        let wide = match bytes.get(..6)? {
            b"\x7fELF\x02\x01" => true,
            b"\x7fELF\x01\x01" => false,
            _ => return None,
        };
        let mut elf = Self {
            bytes,
            wide,
            segments: Vec::new(),
        };
        let (table, size, count) = match wide {
            true => (elf.number(32, 8)?, elf.number(54, 2)?, elf.number(56, 2)?),
            false => (elf.number(28, 4)?, elf.number(42, 2)?, elf.number(44, 2)?),
        };
        for index in 0..count.min(MAX_ENTRIES) {
            let at = table.checked_add(index * size)?;
            let field = |offset, len| elf.number(at.checked_add(offset)?, len);
            let segment = match wide {
                true => Segment {
                    kind: field(0, 4)?,
                    flags: field(4, 4)?,
                    offset: field(8, 8)?,
                    address: field(16, 8)?,
                    len: field(32, 8)?,
                },
                false => Segment {
                    kind: field(0, 4)?,
                    flags: field(24, 4)?,
                    offset: field(4, 4)?,
                    address: field(8, 4)?,
                    len: field(16, 4)?,
                },
            };
            elf.segments.push(segment);
        }
        Some(elf)
    }

    /// The number of `len` bytes, at most eight.
    fn number(&self, at: u64, len: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let field = self.bytes.get(at..at.checked_add(len)?)?;
        let fold = |sum, &byte| sum << 8 | u64::from(byte);
        Some(field.iter().rev().fold(0, fold))
    }

    /// The text that ends with a NUL.
    fn text(&self, at: u64) -> Option<String> {
        let rest = self.bytes.get(usize::try_from(at).ok()?..)?;
        let len = rest.iter().take(MAX_NAME).position(|&byte| byte == 0)?;
        std::str::from_utf8(rest.get(..len)?)
            .ok()
            .map(str::to_owned)
    }

    fn segment(&self, kind: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.kind == kind)
    }

    /// Where in the file the byte with this address is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD)
            .find_map(|segment| segment.offset.checked_add(segment.within(address)?))
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs {
            interpreter: self
                .segment(PT_INTERP)
                .and_then(|segment| self.text(segment.offset)),
            ..Needs::default()
        };
        let entries = self.dynamic();
        let names = entries
            .iter()
            .find(|(tag, _)| *tag == DT_STRTAB)
            .and_then(|&(_, address)| self.offset(address));
        let Some(names) = names else {
            return needs;
        };
        for (tag, value) in entries {
            let text = || self.text(names.checked_add(value)?);
            match tag {
                DT_NEEDED => needs.libraries.extend(text()),
                DT_RPATH | DT_RUNPATH => {
                    let text = text().unwrap_or_default();
                    let folders = text.split(':').filter(|folder| !folder.is_empty());
                    needs.folders.extend(folders.map(str::to_owned));
                }
                _ => {}
            }
        }
        needs
    }

    /// The entries of the dynamic section: tags and values.
    fn dynamic(&self) -> Vec<(u64, u64)> {
        let Some(segment) = self.segment(PT_DYNAMIC) else {
            return Vec::new();
        };
        let word = if self.wide { 8 } else { 4 };
        let count = (segment.len / (2 * word)).min(MAX_ENTRIES);
        (0..count)
            .map_while(|index| {
                let at = segment.offset.checked_add(index * 2 * word)?;
                let len = usize::try_from(word).ok()?;
                let tag = self.number(at, len).filter(|&tag| tag != 0)?;
                Some((tag, self.number(at.checked_add(word)?, len)?))
            })
            .collect()
    }
}
