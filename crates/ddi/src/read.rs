//! Finding an image's partitions, and proving them.

use alloc::boxed::Box;
use core::ops::Range;

use iofs_gpt::{GptError, Partition, Table};
use iofs_source::{ReadAt, Window};
use iofs_verity::{
    Fault, RootHash, SUPERBLOCK_LEN, Signature, Superblock, SuperblockError, Verifier,
};
use uuid::Uuid;

use crate::{Arch, DdiError, Role, disk_guid};

/// Attribute bit by which a partition is not to be found by its type.
const NO_AUTO: u64 = 1 << 63;

/// What image files are written for: that of every medium that they are
/// attached to by a loop device or device-mapper.
pub(crate) const BLOCK_SIZE: u32 = 512;

/// A partition of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Number, from 1.
    pub number: u32,
    /// Offset in the image, in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Its PARTUUID.
    pub part_guid: Uuid,
}

impl Part {
    /// The partition as a source of its own.
    fn window<'a, S: ReadAt + ?Sized>(
        &self,
        image: &'a S,
        role: Role,
    ) -> Result<Window<&'a S>, DdiError> {
        Window::new(image, self.start, self.len).map_err(|error| DdiError::Read { role, error })
    }
}

/// An image's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddi {
    /// The architecture whose partition types were looked for.
    pub arch: Arch,
    /// The disk GUID.
    pub disk_guid: Uuid,
    /// The root file system.
    pub root: Part,
    /// Its dm-verity superblock and tree.
    pub verity: Part,
    /// The root hash's signature, if there is one.
    pub signature: Option<Part>,
}

/// What is needed to set up dm-verity, once it is known to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trees {
    /// The verity partition's superblock.
    pub superblock: Superblock,
    /// The root hash that it is to be set up with.
    pub root: RootHash,
}

impl Ddi {
    /// Finds the partitions of `image` for `arch`.
    ///
    /// # Errors
    /// If there is no good primary GPT, a partition is missing or one too many.
    pub fn read<S: ReadAt + ?Sized>(image: &S, arch: Arch) -> Result<Self, DdiError> {
        let table = match Table::read(image, BLOCK_SIZE) {
            Err(GptError::OtherBlockSize { table, .. }) => Table::read(image, table),
            other => other,
        }
        .map_err(DdiError::Gpt)?;
        if let Some(error) = table.primary_error {
            return Err(DdiError::PrimaryDamaged(error));
        }
        let find = |role| find(&table.partitions, arch, role);
        let need = |role| find(role)?.ok_or(DdiError::Missing { role, arch });
        Ok(Self {
            arch,
            disk_guid: table.disk_guid,
            root: need(Role::Root)?,
            verity: need(Role::Verity)?,
            signature: find(Role::Signature)?,
        })
    }

    /// Reads the signature of the root hash; `None` if the image has none. It
    /// is not checked.
    ///
    /// # Errors
    /// [`DdiError::Signature`].
    pub fn signature<S: ReadAt + ?Sized>(&self, image: &S) -> Result<Option<Signature>, DdiError> {
        let Some(part) = &self.signature else {
            return Ok(None);
        };
        let offset = part.start;
        Signature::read(&part.window(image, Role::Signature)?)
            .map(Some)
            .map_err(|error| DdiError::Signature { offset, error })
    }

    /// Whether this is the image with that root hash, as far as its GPT says.
    ///
    /// # Errors
    /// [`DdiError::PartUuid`].
    pub fn check_root_hash(&self, root: &RootHash) -> Result<(), DdiError> {
        for (role, found, expected) in [
            (Role::Root, self.root.part_guid, root.data_part_uuid()),
            (Role::Verity, self.verity.part_guid, root.verity_part_uuid()),
        ] {
            if found != expected {
                return Err(DdiError::PartUuid {
                    role,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Reads what dm-verity is set up with: all that can be checked without
    /// hashing. The kernel proves the rest.
    ///
    /// # Errors
    /// If PARTUUIDs or signature are of another root hash, or the superblock
    /// is refused or describes more than the partitions hold.
    pub fn trees<S: ReadAt + ?Sized>(&self, image: &S, root: &RootHash) -> Result<Trees, DdiError> {
        self.check_root_hash(root)?;
        if let Some(signature) = self.signature(image)? {
            if signature.root != *root {
                return Err(DdiError::SignedRoot {
                    signed: Box::new(signature.root),
                    expected: Box::new(*root),
                });
            }
        }
        let hashes = self.verity.window(image, Role::Verity)?;
        let bytes = self.verity.start..self.verity.start.saturating_add(SUPERBLOCK_LEN as u64);
        let superblock = Superblock::read(&hashes).map_err(|error| match error {
            SuperblockError::Read(error) => DdiError::Read {
                role: Role::Verity,
                error,
            },
            error => DdiError::Superblock {
                bytes: bytes.clone(),
                error,
            },
        })?;
        // Nothing proves the UUID, but in our own images nothing else can be there.
        let expected = root.verity_part_uuid();
        if self.disk_guid == disk_guid(root) && superblock.uuid != expected {
            return Err(DdiError::SuperblockUuid {
                bytes,
                found: superblock.uuid,
                expected,
            });
        }
        let trees = Trees {
            superblock,
            root: *root,
        };
        self.verifier(image, &trees)?;
        Ok(trees)
    }

    /// The image's data and tree, to be proven.
    ///
    /// # Errors
    /// If the superblock describes more than the partitions hold.
    pub fn verifier<'a, S: ReadAt + ?Sized>(
        &self,
        image: &'a S,
        trees: &'a Trees,
    ) -> Result<Verifier<'a, Window<&'a S>, Window<&'a S>>, DdiError> {
        let params = &trees.superblock.params;
        Verifier::new(
            params,
            trees.root,
            params.tree_start(),
            self.root.window(image, Role::Root)?,
            self.verity.window(image, Role::Verity)?,
        )
        .map_err(DdiError::Unfit)
    }

    /// Proves every block of the root file system and of its tree against
    /// `root`. Reports the number of data blocks done. The signature is only
    /// checked to be of this root hash.
    ///
    /// # Errors
    /// The first range of bytes that is wrong.
    pub fn verify<S: ReadAt + ?Sized>(
        &self,
        image: &S,
        root: &RootHash,
        done: impl FnMut(u64),
    ) -> Result<(), DdiError> {
        let trees = self.trees(image, root)?;
        self.verifier(image, &trees)?
            .verify(0..u64::MAX, done)
            .map_err(|fault| self.locate(fault))
    }

    /// [`Self::verify`] on all processors; `done` gets numbers of blocks to be
    /// added up.
    ///
    /// # Errors
    /// The same.
    #[cfg(feature = "write")]
    pub fn verify_all<S: ReadAt + Sync + ?Sized>(
        &self,
        image: &S,
        root: &RootHash,
        done: impl Fn(u64) + Sync,
    ) -> Result<(), DdiError> {
        let trees = self.trees(image, root)?;
        self.verifier(image, &trees)?
            .verify_all(done)
            .map_err(|fault| self.locate(fault))
    }

    /// A fault with its place in the image.
    #[must_use]
    pub fn locate(&self, fault: Fault) -> DdiError {
        let within = |part: &Part, bytes: &Range<u64>| {
            // Both lie inside the image, whose size is a u64.
            part.start.saturating_add(bytes.start)..part.start.saturating_add(bytes.end)
        };
        let bytes = match &fault {
            Fault::Read { .. } => None,
            Fault::Data { bytes, .. } => Some(within(&self.root, bytes)),
            Fault::Hash { bytes, .. } | Fault::Surplus { bytes, .. } => {
                Some(within(&self.verity, bytes))
            }
        };
        DdiError::Fault { bytes, fault }
    }
}

/// The one partition with a role.
fn find(partitions: &[Partition], arch: Arch, role: Role) -> Result<Option<Part>, DdiError> {
    let wanted = arch.type_guid(role);
    let mut found: Option<Part> = None;
    for partition in partitions {
        if partition.type_guid != wanted || partition.attributes & NO_AUTO != 0 {
            continue;
        }
        if let Some(other) = found {
            return Err(DdiError::Twice {
                role,
                numbers: [other.number, partition.number],
            });
        }
        found = Some(Part {
            number: partition.number,
            start: partition.start,
            len: partition.len,
            part_guid: partition.part_guid,
        });
    }
    Ok(found)
}
