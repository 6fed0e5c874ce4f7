//! CRC-32C as ext4 and JBD2 use it: chained over several ranges from a seed,
//! never inverted at the end (`ext4_chksum`, `jbd2_chksum`).

pub(crate) use iofs_source::crc32c;

/// The seed where nothing came before.
pub(crate) const START: u32 = u32::MAX;
