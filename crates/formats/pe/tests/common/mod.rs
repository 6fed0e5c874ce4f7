//! A small PE32+ image laid out as systemd's stub is, made by hand.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) const COFF: usize = 0x80;
pub(crate) const OPTIONAL: usize = COFF + 24;
pub(crate) const TABLE: usize = OPTIONAL + 240;
pub(crate) const HEADERS: u32 = 0x400;
/// Offset of the data directory of the certificate table.
pub(crate) const SECURITY: usize = OPTIONAL + 112 + 8 * 4;
pub(crate) const SBAT: &[u8] =
    b"sbat,1,SBAT Version,sbat,1,https://example.org\nstub,1,Stub,stub,1,https://example.org\n";

pub(crate) fn put16(image: &mut [u8], at: usize, value: u16) {
    image[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Name, characteristics, content.
type Part<'a> = (&'a str, u32, &'a [u8]);

/// A stub: `.text`, `.sbat`, `.reloc`, 512-byte file alignment, pages in memory.
pub(crate) fn stub() -> Vec<u8> {
    let reloc = [0, 0x10, 0, 0, 8, 0, 0, 0];
    image(&[
        // Returns 0 (EFI_SUCCESS): xor eax, eax; ret.
        (".text", 0x6000_0020, &[0x31, 0xc0, 0xc3]),
        (".sbat", 0x4000_0040, SBAT),
        (".reloc", 0x4200_0040, &reloc),
    ])
}

pub(crate) fn image(parts: &[Part<'_>]) -> Vec<u8> {
    let mut image = vec![0; HEADERS as usize];
    image[..2].copy_from_slice(b"MZ");
    put32(&mut image, 0x3c, COFF as u32);
    image[COFF..COFF + 4].copy_from_slice(b"PE\0\0");
    put16(&mut image, COFF + 4, 0x8664);
    put16(&mut image, COFF + 6, parts.len() as u16);
    put16(&mut image, COFF + 20, 240);
    // Executable, line numbers and symbols stripped, large addresses.
    put16(&mut image, COFF + 22, 0x022e);
    put16(&mut image, OPTIONAL, 0x020b);
    put32(&mut image, OPTIONAL + 16, 0x1000);
    put32(&mut image, OPTIONAL + 20, 0x1000);
    put32(&mut image, OPTIONAL + 32, 0x1000);
    put32(&mut image, OPTIONAL + 36, 0x200);
    put32(&mut image, OPTIONAL + 60, HEADERS);
    put32(&mut image, OPTIONAL + 64, 0xdead);
    put16(&mut image, OPTIONAL + 68, 10);
    put16(&mut image, OPTIONAL + 70, 0x0160);
    put32(&mut image, OPTIONAL + 108, 16);
    let mut address = 0x1000;
    for (index, (name, flags, data)) in parts.iter().enumerate() {
        let (at, size) = (TABLE + 40 * index, data.len().next_multiple_of(512));
        let offset = image.len() as u32;
        image[at..at + name.len()].copy_from_slice(name.as_bytes());
        put32(&mut image, at + 8, data.len() as u32);
        put32(&mut image, at + 12, address);
        put32(&mut image, at + 16, size as u32);
        put32(&mut image, at + 20, offset);
        put32(&mut image, at + 36, *flags);
        image.extend_from_slice(data);
        image.resize(offset as usize + size, 0);
        address = (address + data.len() as u32).next_multiple_of(0x1000);
    }
    put32(&mut image, OPTIONAL + 8, 0x400);
    put32(&mut image, OPTIONAL + 56, address);
    image
}
