//! What the running system booted from, as `storage-init` wrote it down.

use std::fs::File;
use std::io::{self, Read};

use iofs_plan::Uuid;
use iofs_verity::RootHash;
use serde::Deserialize;

use crate::error::{ErrorKind, InstallError};
use crate::system::System;

/// A record has an entry a module; more than this is none.
const MAX_LEN: u64 = 4 << 20;

/// What of `/run/initoverlayfs/boot.json` says which partitions are in use.
#[derive(Debug, Deserialize)]
pub(crate) struct Booted {
    root_hash: Option<String>,
    image: Image,
}

#[derive(Debug, Deserialize)]
struct Image {
    partuuid: String,
}

impl Booted {
    /// Reads it; `None` where the system was booted by something else.
    pub(crate) fn read(system: &System) -> Result<Option<Self>, InstallError> {
        let path = system.run.join("initoverlayfs/boot.json");
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut text));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(InstallError::io("read", &path, e)),
            Ok(_) => {}
        }
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            InstallError::new(
                ErrorKind::Invalid,
                format!(
                    "{} does not say which image the running system booted from",
                    path.display()
                ),
            )
            .with_source(e)
            .with_hint(
                "without it nothing tells the image in use from a spare one; restart the \
                        machine, or install from another system",
            )
        })
    }

    /// What it uses the partition of that GUID for.
    pub(crate) fn uses(&self, guid: Uuid) -> Option<String> {
        let root = self.root_hash.as_deref();
        let root = root.and_then(|text| RootHash::from_hex(text).ok());
        let tree = root.map(|root| root.verity_part_uuid());
        let signature = root.map(|root| ddi::signature_part_uuid(&root));
        let use_of = match guid {
            guid if Uuid::parse_str(&self.image.partuuid) == Ok(guid) => "its image",
            guid if root.is_some_and(|root| root.data_part_uuid() == guid) => "its image",
            guid if tree == Some(guid) => "its image's hash tree",
            guid if signature == Some(guid) => "its image's signature",
            _ => return None,
        };
        Some(format!("PARTUUID={guid} is {use_of}"))
    }
}
