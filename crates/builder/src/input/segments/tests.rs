use super::*;
use iofs_cpio::{Format, NewEntry, Writer};
use proptest::prelude::*;

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Format::Newc);
    for (name, data) in files {
        writer.append(&NewEntry::file(name, 0o644, data)).unwrap();
    }
    writer.finish()
}

fn names(bytes: &[u8]) -> Result<Vec<(Vec<u8>, usize)>> {
    let mut seen = Vec::new();
    let mut consumed = 0;
    read_all(
        bytes,
        0,
        1 << 24,
        &mut |event| {
            if let Event::Entry(entry) = event {
                seen.push((entry.name.to_vec(), entry.data.len()));
            }
            Ok(())
        },
        &mut |by| consumed += by,
    )?;
    assert_eq!(consumed, bytes.len() as u64, "progress adds up");
    Ok(seen)
}

#[test]
fn early_segments_end_where_something_else_begins() {
    let early = archive(&[("kernel/x86/microcode/GenuineIntel.bin".into(), vec![1; 30])]);
    let main = archive(&[("init".into(), vec![2; 30])]);
    let both = [early.as_slice(), &main].concat();
    assert_eq!(early_len(&both), early.len());
    assert_eq!(early_len(&early), early.len());
    assert_eq!(early_len(&main), 0);
    assert_eq!(early_len(&[]), 0);
    // Folders alone, or a marker alone, are none.
    assert_eq!(early_len(&archive(&[("early_cpio".into(), vec![1])])), 0);
    // One foreign file, and the archive is the system's.
    let mixed = archive(&[
        ("kernel/x86/microcode/GenuineIntel.bin".into(), vec![1; 30]),
        ("kernel/x86/microcode/../../../init".into(), vec![1; 30]),
    ]);
    assert_eq!(early_len(&mixed), 0);
    let longer = archive(&[("kernel/x86/microcodes/x".into(), vec![1; 30])]);
    assert_eq!(early_len(&longer), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn wherever_a_chunk_ends_the_entries_are_the_same(
        sizes in prop::collection::vec(0usize..3000, 1..8),
        chunk in 1usize..5000,
        padding in 0usize..40,
    ) {
        let files: Vec<(String, Vec<u8>)> = sizes
            .iter()
            .zip(0u8..)
            .map(|(&size, n)| (format!("file{n}{}", "x".repeat(n.into())), vec![b'0' + n; size]))
            .collect();
        let mut bytes = archive(&files);
        bytes.resize(bytes.len() + padding * 4, 0);
        bytes.extend(archive(&files));
        let mut seen = Vec::new();
        read_stream(
            &mut bytes.as_slice(),
            iofs_cpio::Compression::Zstd,
            0,
            chunk,
            &mut |event| {
                if let Event::Entry(entry) = event {
                    seen.push((entry.name.to_vec(), entry.data.to_vec()));
                }
                Ok(())
            },
        )
        .unwrap();
        let expected: Vec<(Vec<u8>, Vec<u8>)> = files
            .iter()
            .chain(&files)
            .map(|(name, data)| (name.clone().into_bytes(), data.clone()))
            .collect();
        prop_assert_eq!(seen, expected);
    }

    /// Errors are fine, panics are bugs.
    #[test]
    fn a_changed_byte_is_survived(
        size in 0usize..3000,
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
        packed in any::<bool>(),
    ) {
        let mut bytes = archive(&[("a".into(), vec![7; size]), ("b".into(), vec![])]);
        if !packed {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let mut bytes = if packed { zstd::encode_all(bytes.as_slice(), 1).unwrap() } else { bytes };
        if packed {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let _ = early_len(&bytes);
        let _ = names(&bytes);
    }
}
