//! Decompression of one member that a byte slice begins with.
//!
//! The builder has the streaming decoders that a build needs; an inspection
//! looks at whole segments, so that offsets can be reported.

use std::io::{self, Read};

use iofs_cpio::Compression;
use liblzma::stream::Stream;

/// What an xz or lzma stream may ask for, in bytes: `xz -9` needs 65 MiB.
const LZMA_MEMORY: u64 = 512 << 20;

/// A decompressed member.
pub(super) struct Member {
    pub(super) data: Vec<u8>,
    /// Length of its compressed form, in bytes.
    pub(super) consumed: usize,
}

/// Decompresses the member, to at most `limit` bytes.
pub(super) fn member(
    format: Compression,
    bytes: &[u8],
    limit: u64,
) -> std::result::Result<Member, String> {
    let failed = |e: io::Error| format!("the {} data is damaged: {e}", format.name());
    let mut data = Vec::new();
    let mut read = |reader: &mut dyn Read| -> std::result::Result<(), String> {
        let more = limit.saturating_add(1);
        reader.take(more).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 > limit {
            return Err(format!(
                "the {} data unpacks to more than {limit} bytes",
                format.name()
            ));
        }
        Ok(())
    };
    let rest = match format {
        Compression::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            read(&mut decoder)?;
            decoder.into_inner().len()
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(failed)?;
            let mut decoder = decoder.single_frame();
            read(&mut decoder)?;
            decoder.finish().len()
        }
        Compression::Xz | Compression::Lzma => {
            let stream = match format {
                Compression::Xz => Stream::new_stream_decoder(LZMA_MEMORY, 0),
                _ => Stream::new_lzma_decoder(LZMA_MEMORY),
            };
            let stream = stream.map_err(|e| failed(e.into()))?;
            let mut decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
            read(&mut decoder)?;
            decoder.into_inner().len()
        }
        Compression::Bzip2 => {
            let mut decoder = bzip2::bufread::BzDecoder::new(bytes);
            read(&mut decoder)?;
            decoder.into_inner().len()
        }
        Compression::Lz4Frame => {
            let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes);
            read(&mut decoder)?;
            decoder.into_inner().len()
        }
        Compression::Lz4Legacy => return lz4_legacy(bytes, limit),
        Compression::Lzop => return Err("lzop is not supported; unpack it with lzop -d".into()),
    };
    Ok(Member {
        data,
        consumed: bytes.len().saturating_sub(rest),
    })
}

/// LZ4's legacy format (lib/decompress_unlz4.c): the magic, then blocks of a
/// little-endian length and that many bytes, each at most 8 MiB unpacked. It
/// ends where no length can be.
fn lz4_legacy(bytes: &[u8], limit: u64) -> std::result::Result<Member, String> {
    const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    const BLOCK: usize = 8 << 20;
    let mut data = Vec::new();
    let mut block = vec![0; BLOCK];
    let mut rest = bytes;
    loop {
        while let Some(after) = rest.strip_prefix(&MAGIC) {
            rest = after;
        }
        let Some((head, after)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let len = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if len == 0 || len > lz4_flex::block::get_maximum_output_size(BLOCK) {
            break;
        }
        let packed = after.get(..len).ok_or("the lz4 data is cut off")?;
        let size = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|e| format!("the lz4 data is damaged: {e}"))?;
        data.extend_from_slice(block.get(..size).unwrap_or(&[]));
        if data.len() as u64 > limit {
            return Err(format!("the lz4 data unpacks to more than {limit} bytes"));
        }
        rest = after.get(len..).unwrap_or(&[]);
    }
    Ok(Member {
        data,
        consumed: bytes.len().saturating_sub(rest.len()),
    })
}
