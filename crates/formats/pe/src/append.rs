//! Adding sections to an image, as ukify does (`pe_add_sections`).

use alloc::vec::Vec;

use crate::MAX_SECTIONS;
use crate::error::AppendError;
use crate::read::{
    Characteristics, DLL_CHARACTERISTICS, Image, NX_COMPAT, Name, SECTION_HEADER, Section, u32_at,
};

/// `IMAGE_FILE_LOCAL_SYMS_STRIPPED`, a characteristic of the file.
const LOCAL_SYMS_STRIPPED: u8 = 0x08;

/// Bytes of a symbol in a COFF symbol table.
const SYMBOL: u64 = 18;

/// What a new section is said to hold. Both are read-only and not executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Initialised data.
    Data,
    /// Code. Only the kernel is: stubs before systemd 257 may execute it in place,
    /// and ukify still marks it so.
    Code,
}

/// An image that sections are added to.
#[derive(Debug, Clone)]
pub struct Appender {
    bytes: Vec<u8>,
    image: Image,
    /// Offset that the section table may not go beyond.
    limit: u64,
    /// The sections that were there.
    original: usize,
}

impl Appender {
    /// Takes the image `stub`.
    ///
    /// Its symbol table goes (images should have none; stubs before systemd 254
    /// do), and `SizeOfHeaders` is rounded up to the file's alignment, for room.
    ///
    /// # Errors
    /// [`AppendError`]'s [`Image`](AppendError::Image),
    /// [`Signed`](AppendError::Signed), [`Empty`](AppendError::Empty),
    /// [`Order`](AppendError::Order), [`Unaligned`](AppendError::Unaligned) and
    /// [`SymbolTable`](AppendError::SymbolTable).
    pub fn new(stub: &[u8]) -> Result<Self, AppendError> {
        let mut image = Image::read(stub)?;
        if image.is_signed() {
            return Err(AppendError::Signed);
        }
        let mut bytes = stub.to_vec();
        strip_symbols(&mut bytes, &mut image)?;
        let limit = check_layout(&image)?;
        let headers = u64::from(image.size_of_headers)
            .next_multiple_of(u64::from(image.file_alignment))
            .min(limit);
        let original = image.sections.len();
        image.size_of_headers = u32::try_from(headers).unwrap_or(image.size_of_headers);
        Ok(Self {
            bytes,
            image,
            limit: headers,
            original,
        })
    }

    /// The headers as they are now.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Adds the section `name` of these bytes, at the next aligned address behind
    /// the last section.
    ///
    /// # Errors
    /// [`AppendError`]'s [`Name`](AppendError::Name),
    /// [`Duplicate`](AppendError::Duplicate), [`NoBytes`](AppendError::NoBytes),
    /// [`NoHeaderRoom`](AppendError::NoHeaderRoom) and
    /// [`TooLarge`](AppendError::TooLarge); the image is as it was then.
    pub fn append(&mut self, name: &str, data: &[u8], content: Content) -> Result<(), AppendError> {
        let printed = name;
        let name = new_name(name)?;
        if self.image.section(printed).is_some() {
            return Err(AppendError::Duplicate { name });
        }
        if data.is_empty() {
            return Err(AppendError::NoBytes { name });
        }
        let header = self.image.table + (self.image.sections.len() * SECTION_HEADER) as u64;
        let header_end = header + SECTION_HEADER as u64;
        let full = self.image.sections.len() >= usize::from(MAX_SECTIONS);
        if full || header_end > self.limit || !self.is_zero(header, header_end) {
            return Err(AppendError::NoHeaderRoom {
                name,
                limit: self.limit,
            });
        }
        let section = self.place(name, data, content)?;
        let too_large = |_| AppendError::TooLarge { name };
        let start = usize::try_from(section.file_offset).map_err(too_large)?;
        let end = usize::try_from(section.file_end()).map_err(too_large)?;
        self.bytes
            .reserve_exact(end.saturating_sub(self.bytes.len()));
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(end, 0);
        self.image.initialized_data = self
            .image
            .initialized_data
            .saturating_add(section.virtual_size);
        self.image.sections.push(section);
        Ok(())
    }

    /// Where a new section goes.
    fn place(&self, name: Name, data: &[u8], content: Content) -> Result<Section, AppendError> {
        let too_large = AppendError::TooLarge { name };
        let fits = |value: u64| u32::try_from(value).map_err(|_| too_large.clone());
        let size = data.len() as u64;
        let file_alignment = u64::from(self.image.file_alignment);
        let file_offset = (self.bytes.len() as u64).next_multiple_of(file_alignment);
        let file_size = size
            .checked_next_multiple_of(file_alignment)
            .ok_or(too_large.clone())?;
        let behind = self.image.sections.last().map_or(0, Section::memory_end);
        let virtual_address = behind.next_multiple_of(u64::from(self.image.section_alignment));
        // The image's end, rounded up, has to fit SizeOfImage.
        let end = virtual_address.saturating_add(size);
        fits(end.saturating_add(u64::from(self.image.section_alignment)))?;
        fits(file_offset.saturating_add(file_size))?;
        Ok(Section {
            name,
            virtual_address: fits(virtual_address)?,
            virtual_size: fits(size)?,
            file_offset: fits(file_offset)?,
            file_size: fits(file_size)?,
            characteristics: Characteristics::READ
                | match content {
                    Content::Data => Characteristics::INITIALIZED_DATA,
                    Content::Code => Characteristics::CODE,
                },
        })
    }

    /// Replaces what is in a section that the image came with, in its place.
    ///
    /// # Errors
    /// [`AppendError::Missing`]; [`AppendError::NoRoom`] if the new bytes would go
    /// into another section, in the file or in memory; the image is as it was then.
    pub fn replace(&mut self, name: &str, data: &[u8]) -> Result<(), AppendError> {
        let printed = name;
        let name = new_name(name)?;
        let index = self
            .image
            .sections
            .iter()
            .take(self.original)
            .position(|section| section.name == printed)
            .ok_or(AppendError::Missing { name })?;
        let next = self.image.sections.get(index + 1).copied();
        let Some(section) = self.image.sections.get_mut(index) else {
            return Err(AppendError::Missing { name });
        };
        let memory = next.map_or(u64::MAX, |next| {
            u64::from(next.virtual_address).saturating_sub(u64::from(section.virtual_address))
        });
        let room = memory.min(u64::from(section.file_size));
        let size = data.len() as u64;
        let no_room = AppendError::NoRoom { name, size, room };
        if size > room {
            return Err(no_room);
        }
        let place = usize::try_from(section.file_offset)
            .ok()
            .zip(usize::try_from(section.file_end()).ok())
            .and_then(|(start, end)| self.bytes.get_mut(start..end))
            .ok_or(no_room.clone())?;
        place.fill(0);
        for (to, from) in place.iter_mut().zip(data) {
            *to = *from;
        }
        section.virtual_size = u32::try_from(size).map_err(|_| no_room)?;
        Ok(())
    }

    /// Says no more that the image runs where no memory is both writable and
    /// executable: for a kernel that does not.
    pub fn clear_nx_compatible(&mut self) {
        self.image.dll_characteristics &= !NX_COMPAT;
    }

    /// The image with its new headers. The checksum is 0, as UEFI ignores it;
    /// signing tools set it.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`], which cannot be behind [`Self::append`].
    pub fn finish(mut self) -> Result<Vec<u8>, AppendError> {
        let Some(last) = self.image.sections.last().copied() else {
            return Err(AppendError::Empty);
        };
        let size_of_image = last
            .memory_end()
            .next_multiple_of(u64::from(self.image.section_alignment));
        let too_large = AppendError::TooLarge { name: last.name };
        let size_of_image = u32::try_from(size_of_image).map_err(|_| too_large.clone())?;
        let count = u16::try_from(self.image.sections.len()).map_err(|_| too_large)?;
        let (coff, optional) = (self.image.coff, self.image.optional);
        self.put(coff + 6, &count.to_le_bytes());
        self.put(optional + 8, &self.image.initialized_data.to_le_bytes());
        self.put(optional + 56, &size_of_image.to_le_bytes());
        self.put(optional + 60, &self.image.size_of_headers.to_le_bytes());
        self.put(optional + 64, &[0; 4]);
        let dll_characteristics = self.image.dll_characteristics.to_le_bytes();
        self.put(optional + DLL_CHARACTERISTICS, &dll_characteristics);
        let original = self.original;
        let sections = core::mem::take(&mut self.image.sections);
        for (index, section) in sections.iter().enumerate() {
            let at = self.image.table + (index * SECTION_HEADER) as u64;
            self.put(at + 8, &section.virtual_size.to_le_bytes());
            // What else a linker wrote about its own sections stays.
            if index >= original {
                self.put(at, &section.name.0);
                self.put(at + 12, &section.virtual_address.to_le_bytes());
                self.put(at + 16, &section.file_size.to_le_bytes());
                self.put(at + 20, &section.file_offset.to_le_bytes());
                self.put(at + 36, &section.characteristics.bits().to_le_bytes());
            }
        }
        Ok(self.bytes)
    }

    /// Writes into the headers; nothing happens outside of the image, where no
    /// header that was read can be.
    fn put(&mut self, at: u64, field: &[u8]) {
        put(&mut self.bytes, at, field);
    }

    fn is_zero(&self, start: u64, end: u64) -> bool {
        usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| self.bytes.get(start..end))
            .is_some_and(|bytes| bytes.iter().all(|&b| b == 0))
    }
}

fn put(bytes: &mut [u8], at: u64, field: &[u8]) {
    let place = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at..));
    for (to, from) in place.into_iter().flatten().zip(field) {
        *to = *from;
    }
}

/// Takes a symbol table and the string table behind it off the image's end.
fn strip_symbols(bytes: &mut Vec<u8>, image: &mut Image) -> Result<(), AppendError> {
    let (offset, count) = image.symbols;
    if offset == 0 {
        return Ok(());
    }
    let refused = AppendError::SymbolTable { offset };
    let Ok(start) = usize::try_from(offset) else {
        return Err(refused);
    };
    let strings = u64::from(offset) + SYMBOL * u64::from(count);
    let strings_len = usize::try_from(strings)
        .ok()
        .and_then(|at| bytes.get(at..))
        .map_or(0, |tail| u32_at(tail, 0));
    let inside = |section: &Section| section.file_end() > u64::from(offset);
    let at_end = strings + u64::from(strings_len) == bytes.len() as u64;
    if !at_end || image.sections.iter().any(inside) || u64::from(offset) < image.table {
        return Err(refused);
    }
    bytes.truncate(start);
    put(bytes, image.coff + 12, &[0; 8]);
    let flags = usize::try_from(image.coff + 22).ok();
    if let Some(flags) = flags.and_then(|at| bytes.get_mut(at)) {
        *flags |= LOCAL_SYMS_STRIPPED;
    }
    image.symbols = (0, 0);
    Ok(())
}

/// Checks that there is a place behind the last section; gives the offset that
/// headers may not go beyond.
fn check_layout(image: &Image) -> Result<u64, AppendError> {
    if image.sections.is_empty() {
        return Err(AppendError::Empty);
    }
    let mut limit = u64::MAX;
    let mut memory = u64::from(image.size_of_headers);
    for section in &image.sections {
        let name = section.name;
        if u64::from(section.virtual_address) < memory {
            return Err(AppendError::Order { name });
        }
        if section.file_size > 0 {
            let aligned = section.file_offset % image.file_alignment == 0
                && section.file_size % image.file_alignment == 0;
            if !aligned {
                return Err(AppendError::Unaligned { name });
            }
            if section.file_offset < image.size_of_headers {
                return Err(AppendError::Order { name });
            }
            limit = limit.min(u64::from(section.file_offset));
        }
        limit = limit.min(u64::from(section.virtual_address));
        memory = section.memory_end();
    }
    Ok(limit)
}

fn new_name(name: &str) -> Result<Name, AppendError> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 8 || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(AppendError::Name);
    }
    let mut padded = [0; 8];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    Ok(Name(padded))
}
