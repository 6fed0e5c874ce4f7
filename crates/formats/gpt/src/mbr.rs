//! The MBR in front of a GPT, or in place of one.

/// What block 0 holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MbrKind {
    /// No MBR, or one without partitions.
    None,
    /// One entry that protects the GPT, as the specification asks for.
    Protective,
    /// A protective entry and others, for firmware without GPT.
    Hybrid,
    /// Partitions, and none that protects a GPT.
    Partitions,
}

/// Where the disk's own number is, which Windows and later all others put before the
/// entries (UEFI 2.10, table 5.1).
const DISK_SIGNATURE: core::ops::Range<usize> = 440..444;
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const ENTRIES: core::ops::Range<usize> = 446..510;
const ENTRY_LEN: usize = 16;
const TYPE_PROTECTIVE: u8 = 0xee;

/// Classifies the first 512 bytes of a disk.
pub(crate) fn classify(block: &[u8]) -> MbrKind {
    if block.get(510..512) != Some(&BOOT_SIGNATURE) {
        return MbrKind::None;
    }
    let entries = block.get(ENTRIES).unwrap_or(&[]);
    let (mut protective, mut others, mut plausible) = (false, false, true);
    for entry in entries.chunks_exact(ENTRY_LEN) {
        // A file system's boot sector has the signature too, and code or text
        // where the entries would be: a boot flag is 0 or 0x80.
        plausible &= entry[0] & 0x7f == 0;
        let os_type = entry[4];
        let blocks = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        if os_type == TYPE_PROTECTIVE {
            protective = true;
        } else if os_type != 0 && blocks != 0 {
            others = true;
        }
    }
    match (protective, others) {
        (true, false) => MbrKind::Protective,
        (true, true) => MbrKind::Hybrid,
        (false, true) if plausible => MbrKind::Partitions,
        (false, _) => MbrKind::None,
    }
}

/// The number by which the kernel names the partitions of a disk without GPT
/// (block/partitions/msdos.c: `PARTUUID=%08x-%02x`, it and the partition's number), from
/// the disk's first 512 bytes. `None` if they have no partitions, or protect a GPT.
#[must_use]
pub fn disk_signature(block: &[u8]) -> Option<u32> {
    if classify(block) != MbrKind::Partitions {
        return None;
    }
    let bytes = block.get(DISK_SIGNATURE)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The protective MBR of a disk whose last block is `last_lba`: 512 bytes.
pub(crate) fn protective(last_lba: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let entry = &mut block[ENTRIES.start..ENTRIES.start + ENTRY_LEN];
    // UEFI 2.10, table 5.4: CHS 0/0/2 to "cannot be said", LBA 1 to the end.
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = TYPE_PROTECTIVE;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    let blocks = u32::try_from(last_lba).unwrap_or(u32::MAX);
    entry[12..16].copy_from_slice(&blocks.to_le_bytes());
    block[510..].copy_from_slice(&BOOT_SIGNATURE);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let pmbr = protective(1 << 40);
        assert_eq!(classify(&pmbr), MbrKind::Protective);
        assert_eq!(pmbr[458..462], [0xff; 4]);

        let mut hybrid = pmbr;
        hybrid[446 + 16 + 4] = 0x0c;
        hybrid[446 + 16 + 12] = 1;
        assert_eq!(classify(&hybrid), MbrKind::Hybrid);

        let mut plain = hybrid;
        plain[446 + 4] = 0x83;
        plain[440..444].copy_from_slice(&[0x78, 0x56, 0x34, 0x12]);
        assert_eq!(classify(&plain), MbrKind::Partitions);
        assert_eq!(disk_signature(&plain), Some(0x1234_5678));
        assert_eq!(disk_signature(&hybrid), None);
        assert_eq!(disk_signature(&[]), None);
        // Boot code in place of a boot flag.
        plain[446] = 0xeb;
        assert_eq!(classify(&plain), MbrKind::None);

        let mut unsigned = pmbr;
        unsigned[510] = 0;
        assert_eq!(classify(&unsigned), MbrKind::None);
        assert_eq!(classify(&[]), MbrKind::None);
    }
}
