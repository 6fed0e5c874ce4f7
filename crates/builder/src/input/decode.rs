//! Decompression of one segment of an initramfs, or of one kernel module.
//!
//! Each decoder reads exactly one member (frame, stream) from a byte slice and
//! gives the rest of the slice back, since segments follow each other without a
//! directory. Magic numbers: lib/decompress.c of the kernel; LZ4's legacy
//! format: lib/decompress_unlz4.c and the lz4 project's frame format document.

use crate::error::{Error, ErrorKind, Result};
use iofs_cpio::Compression;
use liblzma::stream::Stream;
use std::io::{self, Read};

/// What an xz or lzma stream may ask for as its dictionary and tables, in
/// bytes: `xz -9` needs 65 MiB.
const LZMA_MEMORY: u64 = 512 << 20;

/// Uncompressed size of a block in LZ4's legacy format, in bytes.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Says that lzop has no decoder here.
fn lzop() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the data is compressed with lzop, which is not supported",
    )
    .hint("Unpack it with lzop -d, or make the initramfs with zstd.")
}

/// Reads one compressed member that `bytes` begin with.
pub(crate) enum Decoder<'a> {
    Gzip(flate2::bufread::GzDecoder<&'a [u8]>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
    Xz(liblzma::bufread::XzDecoder<&'a [u8]>),
    Bzip2(bzip2::bufread::BzDecoder<&'a [u8]>),
    Lz4Legacy(Lz4Legacy<'a>),
    Lz4Frame(Box<lz4_flex::frame::FrameDecoder<&'a [u8]>>),
}

impl<'a> Decoder<'a> {
    /// # Errors
    /// [`ErrorKind::Unsupported`] for lzop, [`ErrorKind::Input`] if the decoder
    /// cannot be set up.
    pub(crate) fn new(format: Compression, bytes: &'a [u8]) -> Result<Self> {
        if format == Compression::Lzop {
            return Err(lzop());
        }
        Self::open(format, bytes).map_err(|source| damaged(format, source))
    }

    fn open(format: Compression, bytes: &'a [u8]) -> io::Result<Self> {
        Ok(match format {
            Compression::Lzop => return Err(io::ErrorKind::Unsupported.into()),
            Compression::Gzip => Self::Gzip(flate2::bufread::GzDecoder::new(bytes)),
            Compression::Zstd => {
                Self::Zstd(zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame())
            }
            Compression::Xz => Self::Xz(liblzma::bufread::XzDecoder::new_stream(
                bytes,
                Stream::new_stream_decoder(LZMA_MEMORY, 0)?,
            )),
            Compression::Lzma => Self::Xz(liblzma::bufread::XzDecoder::new_stream(
                bytes,
                Stream::new_lzma_decoder(LZMA_MEMORY)?,
            )),
            Compression::Bzip2 => Self::Bzip2(bzip2::bufread::BzDecoder::new(bytes)),
            Compression::Lz4Legacy => Self::Lz4Legacy(Lz4Legacy::new(bytes)),
            Compression::Lz4Frame => {
                Self::Lz4Frame(Box::new(lz4_flex::frame::FrameDecoder::new(bytes)))
            }
        })
    }

    /// What follows the member; only meaningful after the end was read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        match self {
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
            Self::Xz(decoder) => decoder.get_ref(),
            Self::Bzip2(decoder) => decoder.get_ref(),
            Self::Lz4Legacy(decoder) => decoder.input,
            Self::Lz4Frame(decoder) => decoder.get_ref(),
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
            Self::Xz(decoder) => decoder.read(buf),
            Self::Bzip2(decoder) => decoder.read(buf),
            Self::Lz4Legacy(decoder) => decoder.read(buf),
            Self::Lz4Frame(decoder) => decoder.read(buf),
        }
    }
}

/// LZ4's legacy format: the magic, then blocks of a little-endian u32 length
/// and that many bytes, each of which decompresses to at most 8 MiB. It has no
/// end mark: as in the kernel, it ends where no block length can be, which the
/// zero padding and the magic of whatever follows are.
pub(crate) struct Lz4Legacy<'a> {
    input: &'a [u8],
    block: Vec<u8>,
    at: usize,
    len: usize,
}

impl<'a> Lz4Legacy<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            input: bytes,
            block: Vec::new(),
            at: 0,
            len: 0,
        }
    }

    /// Decompresses the next block; false at the end of the member.
    fn next_block(&mut self) -> io::Result<bool> {
        // A new magic begins another stream of the same segment.
        while let Some(rest) = self.input.strip_prefix(&LZ4_LEGACY_MAGIC) {
            self.input = rest;
        }
        let Some((head, rest)) = self.input.split_first_chunk::<4>() else {
            return Ok(false);
        };
        let len = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if len == 0 || len > lz4_flex::block::get_maximum_output_size(LZ4_LEGACY_BLOCK) {
            return Ok(false);
        }
        let block = rest
            .get(..len)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "lz4 block is cut off"))?;
        self.block.resize(LZ4_LEGACY_BLOCK, 0);
        self.len = lz4_flex::block::decompress_into(block, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.at = 0;
        self.input = &rest[len..];
        Ok(true)
    }
}

impl Read for Lz4Legacy<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.len {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let mut ready = &self.block[self.at..self.len];
        let taken = ready.read(buf)?;
        self.at += taken;
        Ok(taken)
    }
}

/// Decompresses a whole file of one member, such as a kernel module, to at most
/// `limit` bytes.
///
/// # Errors
/// [`ErrorKind::Limit`] beyond the limit, [`ErrorKind::Input`] for damaged data
/// or bytes after the member.
pub(crate) fn decode_all(format: Compression, bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new(format, bytes)?;
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(5).min(16 << 20));
    decoder
        .by_ref()
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|source| damaged(format, source))?;
    if out.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::Limit,
            format!(
                "the {} data decompresses to more than {limit} bytes",
                format.name()
            ),
        ));
    }
    // zstd and xz allow padding and several members; a module has one.
    if decoder.rest().iter().any(|&byte| byte != 0) {
        return Err(Error::new(
            ErrorKind::Input,
            format!("something follows the {} data", format.name()),
        ));
    }
    Ok(out)
}

pub(crate) fn damaged(format: Compression, source: io::Error) -> Error {
    Error::new(
        ErrorKind::Input,
        format!("the {} data is damaged or cut off", format.name()),
    )
    .source(source)
}

/// A reader that fails once more than a number of bytes came through, shared by
/// all segments of an input.
pub(crate) struct Budget<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Budget<R> {
    pub(crate) fn new(inner: R, left: u64, limit: u64) -> Self {
        Self { inner, left, limit }
    }

    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }
}

/// Marks the error of a [`Budget`] inside an [`io::Error`].
#[derive(Debug)]
pub(crate) struct OverBudget(pub(crate) u64);

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it decompresses to more than {} bytes", self.0)
    }
}

impl std::error::Error for OverBudget {}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(buf)?;
        match self.left.checked_sub(taken as u64) {
            Some(left) => {
                self.left = left;
                Ok(taken)
            }
            None => Err(io::Error::other(OverBudget(self.limit))),
        }
    }
}

#[cfg(test)]
mod tests;
