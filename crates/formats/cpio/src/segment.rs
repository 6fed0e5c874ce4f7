//! What an initramfs is made of: archives, compressed archives, padding.

use crate::{CpioError, CpioErrorKind, MAGIC_CRC, MAGIC_NEWC};

/// How a segment is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// xz.
    Xz,
    /// lzma alone, the format before xz.
    Lzma,
    /// bzip2.
    Bzip2,
    /// lz4 in its legacy format (`lz4 -l`), the only lz4 that the kernel takes.
    Lz4Legacy,
    /// lz4's frame format. The kernel does not take it.
    Lz4Frame,
    /// lzop.
    Lzop,
}

impl Compression {
    /// More of each magic than the two bytes that lib/decompress.c looks at.
    const MAGICS: [(&'static [u8], Self); 8] = [
        (&[0x1f, 0x8b, 0x08], Self::Gzip),
        (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
        // Properties (lc=3, lp=0, pb=2) and the low half of a dictionary size,
        // which is a power of two from 64 KiB up.
        (&[0x5d, 0, 0], Self::Lzma),
        (b"BZh", Self::Bzip2),
        (&[0x02, 0x21, 0x4c, 0x18], Self::Lz4Legacy),
        (&[0x04, 0x22, 0x4d, 0x18], Self::Lz4Frame),
        (&[0x89, b'L', b'Z', b'O'], Self::Lzop),
    ];

    /// The compression that `bytes` begins with, by its magic.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        Self::MAGICS
            .iter()
            .find_map(|&(magic, compression)| bytes.starts_with(magic).then_some(compression))
    }

    /// The name of its program, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lz4Legacy => "lz4 (legacy format)",
            Self::Lz4Frame => "lz4 (frame format)",
            Self::Lzop => "lzop",
        }
    }
}

/// What a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// A cpio archive: give it to [`crate::Reader::at`].
    Cpio,
    /// A compressed archive. Where it ends, only its decompressor can say.
    Compressed(Compression),
    /// Nothing follows.
    End,
}

/// The next thing in an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// What it is.
    pub kind: SegmentKind,
    /// Where it begins, in bytes from the start of the initramfs.
    pub start: usize,
    /// How many NULs stood before it.
    pub padding: usize,
}

/// Passes over padding from offset `at` and says what comes then. `bytes` is
/// the whole initramfs, since archives are aligned to its start.
///
/// # Errors
/// [`CpioErrorKind::BadMagic`], [`CpioErrorKind::OldFormat`] or
/// [`CpioErrorKind::Unaligned`].
pub fn next_segment(bytes: &[u8], at: usize) -> Result<Segment, CpioError> {
    let rest = bytes.get(at..).unwrap_or(&[]);
    let padding = rest.iter().take_while(|&&byte| byte == 0).count();
    let rest = rest.get(padding..).unwrap_or(&[]);
    let start = at.saturating_add(padding);
    let kind = if rest.is_empty() {
        SegmentKind::End
    } else if rest.starts_with(b"0") {
        check_magic(rest, start)?;
        SegmentKind::Cpio
    } else {
        SegmentKind::Compressed(Compression::detect(rest).ok_or_else(|| unknown(rest, start))?)
    };
    Ok(Segment {
        kind,
        start,
        padding,
    })
}

/// Checks that `rest`, at `offset`, begins with the magic of an entry.
pub(crate) fn check_magic(rest: &[u8], offset: usize) -> Result<(), CpioError> {
    let kind = match rest.get(..6) {
        Some(magic) if magic == MAGIC_NEWC || magic == MAGIC_CRC => {
            if offset % 4 == 0 {
                return Ok(());
            }
            CpioErrorKind::Unaligned
        }
        Some(b"070707") => CpioErrorKind::OldFormat,
        Some(_) => return Err(unknown(rest, offset)),
        None => CpioErrorKind::TruncatedHeader,
    };
    Err(CpioError { offset, kind })
}

fn unknown(rest: &[u8], offset: usize) -> CpioError {
    let mut found = [0; 6];
    for (to, from) in found.iter_mut().zip(rest) {
        *to = *from;
    }
    CpioError {
        offset,
        kind: CpioErrorKind::BadMagic { found },
    }
}
