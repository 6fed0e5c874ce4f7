//! Why an image is refused.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;

use iofs_gpt::{GptError, HeaderError};
use iofs_source::ReadError;
use iofs_verity::{Fault, RootHash, SignatureError, SuperblockError, Unfit};
use uuid::Uuid;

use crate::{Arch, Role};

/// Why an image is refused. Offsets are bytes from the image's start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DdiError {
    /// There is no usable partition table.
    Gpt(GptError),
    /// The primary partition table is damaged.
    PrimaryDamaged(HeaderError),
    /// A partition that must be there is not.
    Missing {
        /// Which.
        role: Role,
        /// For which architecture.
        arch: Arch,
    },
    /// There are two partitions of a type.
    Twice {
        /// Which.
        role: Role,
        /// Their numbers, from 1.
        numbers: [u32; 2],
    },
    /// A PARTUUID is not what follows from the root hash.
    PartUuid {
        /// Of which partition.
        role: Role,
        /// What it is.
        found: Uuid,
        /// What it would have to be.
        expected: Uuid,
    },
    /// A partition could not be read.
    Read {
        /// Which.
        role: Role,
        /// Why not.
        error: ReadError,
    },
    /// The verity superblock is refused.
    Superblock {
        /// Its bytes in the image.
        bytes: Range<u64>,
        /// Why.
        error: SuperblockError,
    },
    /// The verity superblock's UUID is not what this project writes into an
    /// image that otherwise is its own.
    SuperblockUuid {
        /// Its bytes in the image.
        bytes: Range<u64>,
        /// What it is.
        found: Uuid,
        /// What it would have to be.
        expected: Uuid,
    },
    /// Root hash, superblock and partitions do not belong together.
    Unfit(Unfit),
    /// A block is not what the root hash says.
    Fault {
        /// Its bytes in the image; `None` where the medium failed.
        bytes: Option<Range<u64>>,
        /// What is wrong.
        fault: Fault,
    },
    /// The signature is refused.
    Signature {
        /// Where its partition starts.
        offset: u64,
        /// Why.
        error: SignatureError,
    },
    /// The signature is of another root hash.
    SignedRoot {
        /// The root hash that it is of.
        signed: Box<RootHash>,
        /// The image's.
        expected: Box<RootHash>,
    },
}

impl fmt::Display for DdiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(GptError::Damaged {
                primary: HeaderError::UsableRange { last, .. },
                ..
            }) => write!(
                f,
                "the image is truncated: by its GPT it reaches behind block {last} (of 512 \
                 bytes); write it anew"
            ),
            Self::Gpt(error) => error.fmt(f),
            Self::PrimaryDamaged(error) => write!(
                f,
                "the image's primary GPT is damaged: {error}; write the image anew"
            ),
            Self::Missing { role, arch } => write!(
                f,
                "the image has no {role} partition for {} (type {})",
                arch.name(),
                arch.type_guid(*role)
            ),
            Self::Twice { role, numbers } => write!(
                f,
                "partitions {} and {} of the image are both {role}",
                numbers[0], numbers[1]
            ),
            Self::PartUuid {
                role,
                found,
                expected,
            } => write!(
                f,
                "the {role} partition has the PARTUUID {found}, but by the root hash it is \
                 {expected}: this is another image, or its GPT was changed"
            ),
            Self::Read { role, error } => {
                write!(f, "the {role} partition cannot be read: {error}")
            }
            Self::Superblock { bytes, error } => write!(f, "{}: {error}", Bytes(bytes)),
            Self::SuperblockUuid {
                bytes,
                found,
                expected,
            } => write!(
                f,
                "{}: the verity superblock has the UUID {found} instead of {expected}",
                Bytes(bytes)
            ),
            Self::Unfit(error) => error.fmt(f),
            Self::Fault {
                bytes: Some(bytes),
                fault,
            } => write!(f, "{}: {fault}", Bytes(bytes)),
            Self::Fault { bytes: None, fault } => fault.fmt(f),
            Self::Signature { offset, error } => {
                write!(
                    f,
                    "{error} (the signature is at byte {offset} of the image)"
                )
            }
            Self::SignedRoot { signed, expected } => write!(
                f,
                "the image's signature is of the root hash {signed}, not of {expected}"
            ),
        }
    }
}

impl core::error::Error for DdiError {}

/// How a range of bytes of the image is written.
struct Bytes<'a>(&'a Range<u64>);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {} of the image", self.0.start, self.0.end)
    }
}
