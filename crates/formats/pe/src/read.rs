//! Headers, section table, certificate table.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use bitflags::bitflags;
use iofs_source::ReadAt;

use crate::error::PeError;
use crate::{MAX_FILE_ALIGNMENT, MAX_OPTIONAL_HEADER, MAX_SECTIONS};

const DOS_HEADER: usize = 64;
/// Offset in the DOS header of the u32 that says where `PE\0\0` is.
const E_LFANEW: usize = 0x3c;
/// `PE\0\0` and the COFF file header.
const COFF_HEADER: usize = 24;
pub(crate) const SECTION_HEADER: usize = 40;
/// Which data directory is the certificate table (of file offsets, unlike all
/// others).
const SECURITY: usize = 4;

bitflags! {
    /// Characteristics of a section (`IMAGE_SCN_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Characteristics: u32 {
        /// Code.
        const CODE = 0x20;
        /// Initialised data.
        const INITIALIZED_DATA = 0x40;
        /// Zeros that are not in the file.
        const UNINITIALIZED_DATA = 0x80;
        /// Not needed once loaded.
        const DISCARDABLE = 0x0200_0000;
        /// May be executed.
        const EXECUTE = 0x2000_0000;
        /// May be read.
        const READ = 0x4000_0000;
        /// May be written.
        const WRITE = 0x8000_0000;
        // Whatever else a linker sets is kept.
        const _ = !0;
    }
}

/// `IMAGE_FILE_MACHINE_*`: for which processor an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine(pub u16);

impl Machine {
    /// x86-64.
    pub const AMD64: Self = Self(0x8664);
    /// 64-bit Arm.
    pub const ARM64: Self = Self(0xaa64);
    /// 32-bit x86.
    pub const I386: Self = Self(0x014c);
    /// 64-bit RISC-V.
    pub const RISCV64: Self = Self(0x5064);
    /// 64-bit LoongArch.
    pub const LOONGARCH64: Self = Self(0x6264);

    /// UEFI's short name of it, as in `BOOTX64.EFI` and `linuxx64.efi.stub`, in
    /// lower case.
    #[must_use]
    pub fn efi_name(self) -> Option<&'static str> {
        match self {
            Self::AMD64 => Some("x64"),
            Self::ARM64 => Some("aa64"),
            Self::I386 => Some("ia32"),
            Self::RISCV64 => Some("riscv64"),
            Self::LOONGARCH64 => Some("loongarch64"),
            _ => None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.efi_name() {
            Some(name) => f.write_str(name),
            None => write!(f, "machine {:#06x}", self.0),
        }
    }
}

/// A section's name: up to 8 bytes, those from the first NUL on do not count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(pub(crate) [u8; 8]);

impl Name {
    /// The bytes of the name; in any image of a good linker printable ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(8);
        self.0.get(..len).unwrap_or_default()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

/// As text; bytes that are not printable ASCII as escapes.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A section of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: Name,
    /// Where it is loaded, relative to the image.
    pub virtual_address: u32,
    /// Its size in memory.
    pub virtual_size: u32,
    /// Where its bytes are in the file (`PointerToRawData`).
    pub file_offset: u32,
    /// How many bytes it has in the file (`SizeOfRawData`): padding included.
    pub file_size: u32,
    /// What it holds and what may be done with it.
    pub characteristics: Characteristics,
}

impl Section {
    /// Where its content is in the file, without the padding up to the file's
    /// alignment, and without what is only in memory. Inside the file for every
    /// section that [`Image::read`] gives.
    #[must_use]
    pub fn data(&self) -> Range<u64> {
        let start = u64::from(self.file_offset);
        start..start + u64::from(self.virtual_size.min(self.file_size))
    }

    /// Where its bytes end in the file, padding included.
    pub(crate) fn file_end(&self) -> u64 {
        u64::from(self.file_offset) + u64::from(self.file_size)
    }

    /// Where it ends in memory.
    pub(crate) fn memory_end(&self) -> u64 {
        u64::from(self.virtual_address) + u64::from(self.virtual_size)
    }
}

/// The headers of an image. Every offset and range in it lies inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The processor.
    pub machine: Machine,
    /// Alignment of sections in memory, a power of two.
    pub section_alignment: u32,
    /// Alignment of sections in the file, a power of two.
    pub file_alignment: u32,
    /// Size in memory, headers included (`SizeOfImage`).
    pub size_of_image: u32,
    /// Size of everything before the first section's bytes (`SizeOfHeaders`).
    pub size_of_headers: u32,
    /// What kind of program it is; 10 is a UEFI application.
    pub subsystem: u16,
    /// `DllCharacteristics`; see [`Self::nx_compatible`].
    pub dll_characteristics: u16,
    /// The sections, in the order of the section table.
    pub sections: Vec<Section>,
    /// Where in the file the certificate table (the signatures) is, if there is one.
    pub certificates: Option<Range<u64>>,
    /// Offset of `PE\0\0`.
    pub(crate) coff: u64,
    /// Offset of the optional header.
    pub(crate) optional: u64,
    /// Offset of the section table.
    pub(crate) table: u64,
    /// `PointerToSymbolTable` and `NumberOfSymbols`.
    pub(crate) symbols: (u32, u32),
    /// `SizeOfInitializedData`.
    pub(crate) initialized_data: u32,
}

/// The offset of `DllCharacteristics` in the optional header.
pub(crate) const DLL_CHARACTERISTICS: u64 = 70;
/// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`.
pub(crate) const NX_COMPAT: u16 = 0x0100;

impl Image {
    /// Reads the headers of `source`, which may be a byte slice.
    ///
    /// # Errors
    /// Whatever the crate's documentation lists as refused; [`PeError::Read`] if
    /// the medium fails.
    pub fn read(source: &(impl ReadAt + ?Sized)) -> Result<Self, PeError> {
        let size = source.size();
        let mut dos = [0; DOS_HEADER];
        if size < DOS_HEADER as u64 {
            return Err(PeError::NoDosHeader);
        }
        source.read_at(0, &mut dos)?;
        if !dos.starts_with(b"MZ") {
            return Err(PeError::NoDosHeader);
        }
        let coff = u64::from(u32_at(&dos, E_LFANEW));
        let mut header = [0; COFF_HEADER];
        if coff + COFF_HEADER as u64 > size {
            return Err(PeError::NoPeHeader { offset: coff });
        }
        source.read_at(coff, &mut header)?;
        if !header.starts_with(b"PE\0\0") {
            return Err(PeError::NoPeHeader { offset: coff });
        }
        let optional = coff + COFF_HEADER as u64;
        let optional_size = u16_at(&header, 20);
        let fields = Optional::read(source, optional, optional_size)?;
        let table = optional + u64::from(optional_size);
        let count = u16_at(&header, 6);
        if count > MAX_SECTIONS {
            return Err(PeError::Sections { count });
        }
        let table_end = table + u64::from(count) * SECTION_HEADER as u64;
        let headers = u64::from(fields.size_of_headers);
        if headers > size || table_end > headers {
            return Err(PeError::Headers {
                size: fields.size_of_headers,
            });
        }
        let mut sections = vec![0; usize::from(count) * SECTION_HEADER];
        source.read_at(table, &mut sections)?;
        let sections = sections
            .chunks_exact(SECTION_HEADER)
            .map(|header| section(header, size))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            machine: Machine(u16_at(&header, 4)),
            section_alignment: fields.section_alignment,
            file_alignment: fields.file_alignment,
            size_of_image: fields.size_of_image,
            size_of_headers: fields.size_of_headers,
            subsystem: fields.subsystem,
            dll_characteristics: fields.dll_characteristics,
            sections,
            certificates: certificates(fields.certificates, size)?,
            coff,
            optional,
            table,
            symbols: (u32_at(&header, 12), u32_at(&header, 16)),
            initialized_data: fields.initialized_data,
        })
    }

    /// The first section of this name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether there is a certificate table. Says nothing about whether what is in
    /// it is a good signature.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.certificates.is_some()
    }

    /// Whether the image says that it runs where no memory is both writable and
    /// executable (`NX_COMPAT`).
    #[must_use]
    pub fn nx_compatible(&self) -> bool {
        self.dll_characteristics & NX_COMPAT != 0
    }
}

/// What is needed of the optional header.
struct Optional {
    initialized_data: u32,
    section_alignment: u32,
    file_alignment: u32,
    size_of_image: u32,
    size_of_headers: u32,
    subsystem: u16,
    dll_characteristics: u16,
    /// Offset in the file and size.
    certificates: (u32, u32),
}

impl Optional {
    fn read(source: &(impl ReadAt + ?Sized), offset: u64, size: u16) -> Result<Self, PeError> {
        let bad_size = PeError::OptionalHeader { offset, size };
        if !(2..=MAX_OPTIONAL_HEADER).contains(&size) {
            return Err(bad_size);
        }
        if offset + u64::from(size) > source.size() {
            return Err(bad_size);
        }
        let mut bytes = vec![0; usize::from(size)];
        source.read_at(offset, &mut bytes)?;
        // PE32+ has an ImageBase of 8 bytes, no BaseOfData, and four sizes of
        // stack and heap of 8 bytes.
        let directories = match u16_at(&bytes, 0) {
            0x010b => 96,
            0x020b => 112,
            found => return Err(PeError::Magic { offset, found }),
        };
        if bytes.len() < directories {
            return Err(bad_size);
        }
        let count = u32_at(&bytes, directories - 4);
        if count > 16 {
            return Err(PeError::Directories { count });
        }
        if bytes.len() < directories + 8 * count as usize {
            return Err(bad_size);
        }
        let (section_alignment, file_alignment) = (u32_at(&bytes, 32), u32_at(&bytes, 36));
        let good = section_alignment.is_power_of_two() && file_alignment.is_power_of_two();
        if !good || file_alignment > MAX_FILE_ALIGNMENT {
            return Err(PeError::Alignment {
                section: section_alignment,
                file: file_alignment,
            });
        }
        let certificates = directories + 8 * SECURITY;
        Ok(Self {
            initialized_data: u32_at(&bytes, 8),
            section_alignment,
            file_alignment,
            size_of_image: u32_at(&bytes, 56),
            size_of_headers: u32_at(&bytes, 60),
            subsystem: u16_at(&bytes, 68),
            dll_characteristics: u16_at(&bytes, 70),
            certificates: if count as usize > SECURITY {
                (
                    u32_at(&bytes, certificates),
                    u32_at(&bytes, certificates + 4),
                )
            } else {
                (0, 0)
            },
        })
    }
}

fn section(header: &[u8], size: u64) -> Result<Section, PeError> {
    let mut name = [0; 8];
    for (to, from) in name.iter_mut().zip(header) {
        *to = *from;
    }
    let name = Name(name);
    let mut section = Section {
        name,
        virtual_size: u32_at(header, 8),
        virtual_address: u32_at(header, 12),
        file_size: u32_at(header, 16),
        file_offset: u32_at(header, 20),
        characteristics: Characteristics::from_bits_retain(u32_at(header, 36)),
    };
    if section.memory_end() > u64::from(u32::MAX) {
        return Err(PeError::SectionMemory { name });
    }
    if section.file_size == 0 {
        // Linkers leave anything there.
        section.file_offset = 0;
    }
    if section.file_end() > size {
        return Err(PeError::SectionData {
            name,
            offset: section.file_offset,
            size: section.file_size,
        });
    }
    Ok(section)
}

fn certificates((offset, len): (u32, u32), size: u64) -> Result<Option<Range<u64>>, PeError> {
    if offset == 0 && len == 0 {
        return Ok(None);
    }
    let end = u64::from(offset) + u64::from(len);
    if end > size {
        return Err(PeError::Certificates { offset, size: len });
    }
    Ok(Some(u64::from(offset)..end))
}

/// The u32 at `at`; 0 beyond the end, which callers rule out.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(field) => u32::from_le_bytes(*field),
        None => 0,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(field) => u16::from_le_bytes(*field),
        None => 0,
    }
}
