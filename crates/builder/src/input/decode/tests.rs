use super::*;
use proptest::prelude::*;

/// LZ4's legacy format, one block for each slice.
fn legacy(blocks: &[&[u8]]) -> Vec<u8> {
    let mut out = LZ4_LEGACY_MAGIC.to_vec();
    for block in blocks {
        let packed = lz4_flex::block::compress(block);
        out.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

fn read(format: Compression, bytes: &[u8]) -> io::Result<(Vec<u8>, &[u8])> {
    let mut decoder = Decoder::new(format, bytes).map_err(|_| io::ErrorKind::Unsupported)?;
    let mut out = Vec::new();
    decoder.read_to_end(&mut out)?;
    Ok((out, decoder.rest()))
}

fn all(mut reader: impl Read) -> Vec<u8> {
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    out
}

#[test]
fn the_legacy_format_ends_where_no_length_can_be() {
    for (behind, left) in [
        (&b""[..], &b""[..]),
        (b"\0\0\0\x00070701", b"\0\0\0\x00070701"),
        (b"070701rest", b"070701rest"),
        (b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd"),
        (b"\0\0", b"\0\0"),
    ] {
        let mut bytes = legacy(&[b"first", b"second"]);
        bytes.extend_from_slice(behind);
        let (out, rest) = read(Compression::Lz4Legacy, &bytes).unwrap();
        assert_eq!((out.as_slice(), rest), (&b"firstsecond"[..], left));
    }
    // As `cat a.lz4 b.lz4` makes it.
    let bytes = [legacy(&[b"one"]), legacy(&[b"two"])].concat();
    assert_eq!(read(Compression::Lz4Legacy, &bytes).unwrap().0, b"onetwo");
    let bytes = legacy(&[b"cut off in the middle"]);
    read(Compression::Lz4Legacy, &bytes[..bytes.len() - 3]).unwrap_err();
}

#[test]
fn a_decoder_stops_at_its_member() {
    let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    io::Write::write_all(&mut frame, &data).unwrap();
    let gzip = flate2::bufread::GzEncoder::new(data.as_slice(), flate2::Compression::fast());
    let bzip2 = bzip2::bufread::BzEncoder::new(data.as_slice(), bzip2::Compression::fast());
    let members = [
        (
            Compression::Zstd,
            zstd::encode_all(data.as_slice(), 1).unwrap(),
        ),
        (Compression::Lz4Frame, frame.finish().unwrap()),
        (Compression::Gzip, all(gzip)),
        (Compression::Bzip2, all(bzip2)),
        (
            Compression::Xz,
            liblzma::encode_all(data.as_slice(), 1).unwrap(),
        ),
    ];
    for (format, packed) in members {
        for behind in [&b""[..], b"070701", &packed.clone()] {
            let bytes = [packed.as_slice(), behind].concat();
            let (out, rest) = read(format, &bytes).unwrap();
            assert!(out == data, "{}", format.name());
            assert_eq!(rest, behind, "{}", format.name());
        }
        assert!(decode_all(format, &packed, data.len() as u64).unwrap() == data);
        let limit = data.len() as u64 - 1;
        let error = decode_all(format, &packed, limit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        let twice = [packed.as_slice(), &packed].concat();
        assert_eq!(
            decode_all(format, &twice, u64::MAX).unwrap_err().kind(),
            ErrorKind::Input
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Errors are fine, panics are bugs.
    #[test]
    fn any_bytes_are_survived(
        magic in prop::sample::select(vec![
            &b"\x1f\x8b\x08"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x5d\0\0", b"BZh9",
            b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [magic, &tail].concat();
        if let Some(format) = Compression::detect(&bytes) {
            let _ = decode_all(format, &bytes, 1 << 20);
        }
    }
}
