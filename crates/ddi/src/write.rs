//! Making images.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use std::io::{self, Write};

use iofs_erofs::ErofsError;
use iofs_gpt::{Layout, LayoutError, NewPartition};
use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use iofs_verity::build::HashTree;
use iofs_verity::{Algorithm, Params, ParamsError, RootHash, Signature};
use uuid::Uuid;

use crate::derive::digest;
use crate::read::BLOCK_SIZE;
use crate::{Arch, Role, disk_guid, signature_part_uuid};

/// Data and hash blocks, in bytes: the page size that every kernel can map.
const VERITY_BLOCK: u32 = 4096;

/// Attribute bit by which a partition is mounted read-only. The bit to grow
/// its file system (59) stays clear.
const READ_ONLY: u64 = 1 << 60;

/// Least size of a signature partition, in bytes, systemd-repart's.
const SIGNATURE_SIZE: usize = 16 << 10;

/// How much of the file system is copied at once, in bytes.
const COPY: usize = 1 << 20;

/// Why an image cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The file system is none that this crate packs.
    Erofs(ErofsError),
    /// The file is shorter than its file system.
    Truncated {
        /// Its size, in bytes.
        size: u64,
        /// The file system's, in bytes.
        needed: u64,
    },
    /// The salt is too long, or the file system too large.
    Params(ParamsError),
    /// The file system could not be read.
    Read(ReadError),
    /// The signature is of another root hash.
    Signature {
        /// The root hash that it is of.
        signed: Box<RootHash>,
        /// The image's.
        expected: Box<RootHash>,
    },
    /// The partitions cannot be laid out: a label is too long, for instance.
    Layout(LayoutError),
    /// The image could not be written.
    Write(io::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Erofs(error) => error.fmt(f),
            Self::Truncated { size, needed } => write!(
                f,
                "the file has {size} bytes, but its EROFS file system {needed}: it is truncated"
            ),
            Self::Params(error) => error.fmt(f),
            Self::Read(error) => write!(f, "the file system cannot be read: {error}"),
            Self::Signature { signed, expected } => write!(
                f,
                "the signature is of the root hash {signed}, the image has {expected}"
            ),
            Self::Layout(error) => error.fmt(f),
            Self::Write(error) => write!(f, "the image cannot be written: {error}"),
        }
    }
}

impl std::error::Error for WriteError {}

/// What an image is made with besides its file system.
#[derive(Debug, Clone)]
pub struct Options {
    /// The architecture, for the partition types.
    pub arch: Arch,
    /// The root partition's label, which the others' begin with; at most 25
    /// UTF-16 code units. `root-x86-64` or `root-arm64` if there is none.
    pub label: Option<String>,
    /// The verity salt, at most 256 bytes. It follows from the file system's
    /// UUID and size if there is none.
    pub salt: Option<Vec<u8>>,
}

impl Options {
    /// With everything left to this crate.
    #[must_use]
    pub fn new(arch: Arch) -> Self {
        Self {
            arch,
            label: None,
            salt: None,
        }
    }
}

/// An image that is ready to be signed and written.
#[derive(Debug)]
pub struct Image<'a, S: ?Sized> {
    erofs: &'a S,
    options: Options,
    params: Params,
    tree: HashTree,
    signature: Option<Vec<u8>>,
}

/// A partition of an image, for an existing partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it is for.
    pub role: Role,
    /// Its partition type.
    pub type_guid: Uuid,
    /// Its PARTUUID.
    pub part_guid: Uuid,
    /// Its label.
    pub label: String,
    /// Its attribute bits.
    pub attributes: u64,
    /// Its size in bytes, a multiple of 4096; a larger partition does too.
    pub size: u64,
}

impl<'a, S: ReadAt + Sync + ?Sized> Image<'a, S> {
    /// Hashes `erofs`. Reports data blocks hashed, to be added up.
    ///
    /// # Errors
    /// If a label is too long, this is no EROFS file system, or it cannot be
    /// read.
    pub fn new(
        erofs: &'a S,
        options: Options,
        done: impl Fn(u64) + Sync,
    ) -> Result<Self, WriteError> {
        if let Some(label) = &options.label {
            check_label(label)?;
        }
        let superblock = iofs_erofs::Superblock::read(erofs).map_err(WriteError::Erofs)?;
        let size = erofs.size();
        let needed = superblock
            .blocks
            .saturating_mul(1 << superblock.block_bits.min(16));
        if size < needed {
            return Err(WriteError::Truncated { size, needed });
        }
        let salt = options.salt.clone().unwrap_or_else(|| {
            let mut identity = superblock.uuid.as_bytes().to_vec();
            identity.extend_from_slice(&size.to_le_bytes());
            digest("initoverlayfs verity salt", &identity).to_vec()
        });
        let blocks = size.div_ceil(VERITY_BLOCK.into());
        let params = Params::new(Algorithm::Sha256, VERITY_BLOCK, VERITY_BLOCK, blocks, salt)
            .map_err(WriteError::Params)?;
        let tree = HashTree::build(&params, &Padded(erofs), done).map_err(WriteError::Read)?;
        Ok(Self {
            erofs,
            options,
            params,
            tree,
            signature: None,
        })
    }

    /// The root hash, which a signature is made over (as lower-case
    /// hexadecimal digits).
    #[must_use]
    pub fn root_hash(&self) -> &RootHash {
        &self.tree.root
    }

    /// What the tree was made with.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Puts a signature into the image.
    ///
    /// # Errors
    /// [`WriteError::Signature`] if it is of another root hash. It is not
    /// checked otherwise.
    pub fn sign(&mut self, signature: &Signature) -> Result<(), WriteError> {
        if signature.root != self.tree.root {
            return Err(WriteError::Signature {
                signed: Box::new(signature.root),
                expected: Box::new(self.tree.root),
            });
        }
        let mut bytes = signature.encode();
        bytes.resize(bytes.len().max(SIGNATURE_SIZE), 0);
        self.signature = Some(bytes);
        Ok(())
    }

    /// The partitions, in order: two, or three once signed.
    #[must_use]
    pub fn partitions(&self) -> Vec<Planned> {
        let Options { arch, label, .. } = &self.options;
        let root = &self.tree.root;
        let label = label
            .clone()
            .unwrap_or_else(|| format!("root-{}", arch.name()));
        let planned = |role: Role, part_guid, size| Planned {
            role,
            type_guid: arch.type_guid(role),
            part_guid,
            label: format!("{label}{}", role.suffix()),
            attributes: READ_ONLY,
            size,
        };
        let hash_device = u64::from(VERITY_BLOCK) + self.tree.blocks.len() as u64;
        let mut partitions = vec![
            planned(Role::Root, root.data_part_uuid(), self.params.data_len()),
            planned(Role::Verity, root.verity_part_uuid(), hash_device),
        ];
        if let Some(bytes) = &self.signature {
            let part_guid = signature_part_uuid(root);
            partitions.push(planned(Role::Signature, part_guid, bytes.len() as u64));
        }
        partitions
    }

    /// Writes a partition's contents: as many bytes as [`Planned::size`] says,
    /// none for a signature that is not there.
    ///
    /// # Errors
    /// If reading or writing fails.
    pub fn write_partition(&self, role: Role, out: &mut impl Write) -> Result<(), WriteError> {
        match role {
            Role::Root => self.copy_root(out),
            Role::Verity => {
                let uuid = self.tree.root.verity_part_uuid();
                out.write_all(&self.tree.hash_device(&self.params, uuid))
                    .map_err(WriteError::Write)
            }
            Role::Signature => out
                .write_all(self.signature.as_deref().unwrap_or_default())
                .map_err(WriteError::Write),
        }
    }

    /// Writes the image from first to last byte, for media with logical blocks
    /// of 512 bytes, and returns its size in bytes.
    ///
    /// # Errors
    /// If reading or writing fails.
    pub fn write(&self, out: &mut impl Write) -> Result<u64, WriteError> {
        let planned = self.partitions();
        let sizes = planned.iter().map(|partition| partition.size);
        let size = Layout::disk_size_for(sizes, BLOCK_SIZE);
        let mut layout = Layout::new(size, BLOCK_SIZE, disk_guid(&self.tree.root))
            .map_err(WriteError::Layout)?;
        for partition in &planned {
            layout
                .add(&NewPartition {
                    type_guid: partition.type_guid,
                    part_guid: partition.part_guid,
                    name: &partition.label,
                    size: partition.size,
                    attributes: partition.attributes,
                })
                .map_err(WriteError::Layout)?;
        }
        let gpt = layout.runs();
        let gpt = gpt.iter().map(|(at, bytes)| (*at, Piece::Gpt(bytes)));
        let contents = planned.iter().zip(layout.partitions());
        let contents = contents.map(|(partition, placed)| (placed.start, Piece::Of(partition)));
        let mut pieces: Vec<_> = gpt.chain(contents).collect();
        pieces.sort_by_key(|&(start, _)| start);

        let mut at = 0;
        for (start, piece) in pieces {
            zeros(out, start.saturating_sub(at))?;
            let len = match piece {
                Piece::Gpt(bytes) => {
                    out.write_all(bytes).map_err(WriteError::Write)?;
                    bytes.len() as u64
                }
                Piece::Of(partition) => {
                    self.write_partition(partition.role, out)?;
                    partition.size
                }
            };
            at = start.saturating_add(len);
        }
        Ok(at)
    }

    fn copy_root(&self, out: &mut impl Write) -> Result<(), WriteError> {
        let mut buffer = vec![0; COPY];
        let len = self.params.data_len();
        let mut at = 0;
        while at < len {
            let now = usize::try_from(len - at).map_or(COPY, |left| left.min(COPY));
            let bytes = &mut buffer[..now];
            Padded(self.erofs)
                .read_at(at, bytes)
                .map_err(WriteError::Read)?;
            out.write_all(bytes).map_err(WriteError::Write)?;
            at += now as u64;
        }
        Ok(())
    }
}

/// Refuses a label that would be too long once the image is signed.
fn check_label(label: &str) -> Result<(), WriteError> {
    const NAME_UNITS: usize = 36;
    let name = format!("{label}{}", Role::Signature.suffix());
    if name.contains('\0') || name.encode_utf16().count() > NAME_UNITS {
        return Err(WriteError::Layout(LayoutError::Name { name }));
    }
    Ok(())
}

/// A piece of an image, at its place.
enum Piece<'a> {
    /// Of the partition table.
    Gpt(&'a [u8]),
    /// A partition's contents.
    Of(&'a Planned),
}

fn zeros(out: &mut impl Write, mut count: u64) -> Result<(), WriteError> {
    let block = [0; 4096];
    while count > 0 {
        let now = usize::try_from(count).map_or(block.len(), |left| left.min(block.len()));
        out.write_all(&block[..now]).map_err(WriteError::Write)?;
        count -= now as u64;
    }
    Ok(())
}

/// A source with zeros up to a whole verity block behind it.
struct Padded<'a, S: ?Sized>(&'a S);

impl<S: ReadAt + ?Sized> ReadAt for Padded<'_, S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => {}
            _ => {
                return Err(ReadError {
                    offset,
                    len,
                    kind: ReadErrorKind::OutOfBounds { size: self.size() },
                });
            }
        }
        let real = self.0.size().saturating_sub(offset);
        let real = usize::try_from(real).map_or(buf.len(), |real| real.min(buf.len()));
        let (head, tail) = buf.split_at_mut(real);
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        self.0.read_at(offset, head)
    }

    fn size(&self) -> u64 {
        let size = self.0.size();
        size.checked_next_multiple_of(VERITY_BLOCK.into())
            .unwrap_or(size)
    }
}
