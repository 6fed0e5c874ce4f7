//! The checksums of on-disk formats, each with one table of 1 KiB in the whole
//! program: faster implementations bring 16 KiB and code for every CPU, which
//! PID 1 would carry to check a few blocks once.

use crc::{Algorithm, Crc, Table};

static CRC32: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&crc::CRC_32_ISO_HDLC);

/// CRC-32C that is not inverted at the end.
const RAW: Algorithm<u32> = Algorithm {
    xorout: 0,
    ..crc::CRC_32_ISCSI
};
static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&RAW);

/// CRC-32 of IEEE 802.3, as GPT has it: that of `bytes` behind those whose
/// checksum is `before`, 0 if there are none.
#[must_use]
pub fn crc32(before: u32, bytes: &[u8]) -> u32 {
    // The crate takes the initial value before reflection.
    let mut digest = CRC32.digest_with_initial((!before).reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// CRC-32C (Castagnoli) as the kernel's file systems chain it: never inverted,
/// from `seed`, which is mostly [`u32::MAX`].
#[must_use]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_the_catalogues_check_values_and_chain() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
        let start = crc32c(u32::MAX, b"1234");
        assert_eq!(!crc32c(start, b"56789"), 0xe306_9283);
    }
}
