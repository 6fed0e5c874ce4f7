//! The superblock at the start of the hash device.

use alloc::vec::Vec;
use core::fmt;

use iofs_source::{ReadAt, ReadError};
use uuid::Uuid;

use crate::{Algorithm, MAX_SALT, Params, ParamsError};

/// Length of the superblock, in bytes.
pub const SUPERBLOCK_LEN: usize = 512;

const MAGIC: &[u8; 8] = b"verity\0\0";
const VERSION: u32 = 1;
/// The salt goes before the block; 0 is Chrome OS's, with the salt behind it.
const HASH_TYPE: u32 = 1;
const NAME_LEN: usize = 32;
const NAME_AT: usize = 32;
const PADDING_AT: usize = 82;
const SALT_AT: usize = 88;

/// Why there is no usable verity superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperblockError {
    /// It could not be read.
    Read(ReadError),
    /// It does not begin with `verity` and two NULs.
    NoMagic,
    /// A version other than 1.
    Version {
        /// The version.
        found: u32,
    },
    /// A hash type other than 1.
    HashType {
        /// The type; 0 is that of Chrome OS.
        found: u32,
    },
    /// A hash function that is neither sha256 nor sha512.
    Algorithm {
        /// The name's bytes, filled up with NULs.
        name: [u8; NAME_LEN],
    },
    /// Sizes that no tree can have.
    Params(ParamsError),
    /// A byte of the padding is not zero.
    Padding {
        /// Its offset in the superblock, in bytes.
        offset: usize,
    },
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "the verity superblock cannot be read: {error}"),
            Self::NoMagic => f.write_str(
                "there is no verity superblock (it would begin with \"verity\" and two NULs)",
            ),
            Self::Version { found } => write!(
                f,
                "the verity superblock has version {found}, not {VERSION}"
            ),
            Self::HashType { found } => write!(
                f,
                "the verity superblock has hash type {found}, not {HASH_TYPE}"
            ),
            Self::Algorithm { name } => {
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                write!(
                    f,
                    "the verity superblock names the hash function \"{}\", which is neither \
                     sha256 nor sha512",
                    name.escape_ascii()
                )
            }
            Self::Params(error) => write!(f, "the verity superblock cannot be: {error}"),
            Self::Padding { offset } => write!(
                f,
                "byte {offset} of the verity superblock, which is padding, is not zero"
            ),
        }
    }
}

impl core::error::Error for SuperblockError {}

impl From<ReadError> for SuperblockError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<ParamsError> for SuperblockError {
    fn from(error: ParamsError) -> Self {
        Self::Params(error)
    }
}

/// A verity superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The hash device's UUID. No hash covers it.
    pub uuid: Uuid,
    /// What the tree is made with. It is proven only by a tree that matches.
    pub params: Params,
}

impl Superblock {
    /// Reads the superblock that `hashes` begins with.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn read<S: ReadAt + ?Sized>(hashes: &S) -> Result<Self, SuperblockError> {
        let mut bytes = [0; SUPERBLOCK_LEN];
        hashes.read_at(0, &mut bytes)?;
        Self::parse(&bytes)
    }

    /// Reads a superblock from its bytes.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(bytes: &[u8; SUPERBLOCK_LEN]) -> Result<Self, SuperblockError> {
        let u32_at = |at| u32::from_le_bytes(field(bytes, at));
        if !bytes.starts_with(MAGIC) {
            return Err(SuperblockError::NoMagic);
        }
        let version = u32_at(8);
        if version != VERSION {
            return Err(SuperblockError::Version { found: version });
        }
        let hash_type = u32_at(12);
        if hash_type != HASH_TYPE {
            return Err(SuperblockError::HashType { found: hash_type });
        }
        let name = field::<NAME_LEN>(bytes, NAME_AT);
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|&algorithm| name == padded_name(algorithm))
            .ok_or(SuperblockError::Algorithm { name })?;
        let salt_len = usize::from(u16::from_le_bytes(field(bytes, 80)));
        let salt = bytes
            .get(SALT_AT..SALT_AT + MAX_SALT)
            .and_then(|room| room.get(..salt_len))
            .ok_or(ParamsError::Salt { len: salt_len })?;
        let params = Params::new(
            algorithm,
            u32_at(64),
            u32_at(68),
            u64::from_le_bytes(field(bytes, 72)),
            Vec::from(salt),
        )?;
        let padding = (PADDING_AT..SALT_AT).chain(SALT_AT + salt_len..SUPERBLOCK_LEN);
        if let Some(offset) = padding.into_iter().find(|&at| bytes[at] != 0) {
            return Err(SuperblockError::Padding { offset });
        }
        Ok(Self {
            uuid: Uuid::from_bytes(field(bytes, 16)),
            params,
        })
    }

    /// The superblock's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let params = &self.params;
        let mut out = [0; SUPERBLOCK_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &HASH_TYPE.to_le_bytes());
        put(16, self.uuid.as_bytes());
        put(NAME_AT, &padded_name(params.algorithm()));
        put(64, &params.data_block_size().to_le_bytes());
        put(68, &params.hash_block_size().to_le_bytes());
        put(72, &params.data_blocks().to_le_bytes());
        let salt_len = u16::try_from(params.salt().len())
            .expect("Params holds no salt that is longer than 256 bytes");
        put(80, &salt_len.to_le_bytes());
        put(SALT_AT, params.salt());
        out
    }
}

/// The hash function's name as it stands in the superblock.
fn padded_name(algorithm: Algorithm) -> [u8; NAME_LEN] {
    let name = algorithm.name().as_bytes();
    core::array::from_fn(|at| name.get(at).copied().unwrap_or(0))
}

/// `N` bytes at `at`, both constants that lie inside the superblock.
fn field<const N: usize>(bytes: &[u8; SUPERBLOCK_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample(salt: usize) -> Superblock {
        Superblock {
            uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            params: Params::new(Algorithm::Sha256, 4096, 1024, 129, vec![0xa5; salt]).unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for salt in [0, 1, 32, 256] {
            let superblock = sample(salt);
            assert_eq!(Superblock::parse(&superblock.encode()), Ok(superblock));
        }
    }

    #[test]
    fn each_field_is_checked() {
        let good = sample(2).encode();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good;
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            Superblock::parse(&bad).unwrap_err()
        };
        let padding = |offset| SuperblockError::Padding { offset };
        assert_eq!(with(0, b"V"), SuperblockError::NoMagic);
        assert_eq!(with(8, &[2]), SuperblockError::Version { found: 2 });
        assert_eq!(with(12, &[0]), SuperblockError::HashType { found: 0 });
        assert!(matches!(
            with(32, b"sha1\0\0"),
            SuperblockError::Algorithm { .. }
        ));
        // A name that only begins well.
        assert!(matches!(with(39, b"x"), SuperblockError::Algorithm { .. }));
        assert_eq!(
            with(80, &[1, 1]),
            SuperblockError::Params(ParamsError::Salt { len: 257 })
        );
        assert_eq!(
            with(64, &[0; 4]),
            SuperblockError::Params(ParamsError::BlockSize {
                of: "data",
                size: 0
            })
        );
        assert_eq!(
            with(72, &[0xff; 8]),
            SuperblockError::Params(ParamsError::DataBlocks {
                blocks: u64::MAX,
                size: 4096
            })
        );
        for offset in [82, 87, 90, 343, 344, 511] {
            assert_eq!(with(offset, &[1]), padding(offset));
        }
        // A salt that lost its last byte leaves it in the padding.
        assert_eq!(with(80, &[1]), padding(89));
        let short: &[u8] = &good[..511];
        assert!(matches!(
            Superblock::read(short),
            Err(SuperblockError::Read(_))
        ));
    }
}
