//! CRC-32C as ext4 and JBD2 use it: chained over several ranges from a seed,
//! never inverted at the end (`ext4_chksum`, `jbd2_chksum`).

use crc::{Algorithm, Crc, Table};

const RAW: Algorithm<u32> = Algorithm {
    xorout: 0,
    ..crc::CRC_32_ISCSI
};

static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&RAW);

/// The seed where nothing came before.
pub(crate) const START: u32 = u32::MAX;

/// The checksum of `bytes` after what `seed` covers.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // The crate takes the initial value before reflection.
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_castagnoli_polynomial_and_chains() {
        assert_eq!(!crc32c(START, b"123456789"), 0xe306_9283);
        assert_eq!(
            crc32c(crc32c(START, b"1234"), b"56789"),
            crc32c(START, b"123456789")
        );
    }
}
