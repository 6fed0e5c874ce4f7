//! GUIDs that follow from the root hash, so that the same file system gives
//! the same image.

use iofs_verity::RootHash;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

/// The disk GUID of an image with this root hash.
#[must_use]
pub fn disk_guid(root: &RootHash) -> Uuid {
    derive("initoverlayfs disk", root.as_bytes())
}

/// The PARTUUID of the signature partition of an image with this root hash;
/// the specification leaves it open.
#[must_use]
pub fn signature_part_uuid(root: &RootHash) -> Uuid {
    derive("initoverlayfs root-verity-sig", root.as_bytes())
}

/// A UUID of version 8 from a purpose and what it is for.
fn derive(purpose: &str, from: &[u8]) -> Uuid {
    let digest = digest(purpose, from);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// SHA-256 of the purpose, a NUL and what it is for: no two purposes share a
/// digest.
pub(crate) fn digest(purpose: &str, from: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(from)
        .finalize()
        .into()
}
