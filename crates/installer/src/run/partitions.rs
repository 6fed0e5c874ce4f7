//! The writes of an image in partitions.

use std::io::{self, Write};

use ddi::{Arch, Ddi, Role, RootHash};
use iofs_source::ReadAt;
use iofs_verity::{Superblock, Verifier};

use super::{CHUNK, Run};
use crate::error::{ErrorKind, InstallError};
use crate::partitions::{ImageJob, PartitionJob, Reading, window};
use crate::slot::Change;

impl Run<'_> {
    /// 1. The file system's partition loses the PARTUUID by which it was found.
    /// 2. Each partition is written, synced, read back and compared.
    /// 3. All of them together are proven against the root hash.
    /// 4. They get their names, the file system's last.
    pub(super) fn image(&self, image: &ImageJob) -> Result<(), InstallError> {
        let missing: Vec<_> = image.parts.iter().filter(|part| !part.present).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let first = image.parts.first().filter(|part| !part.present);
        if let Some((data, guid)) = first.and_then(|data| Some((data, data.unfinished()?))) {
            self.rename(data, Change::PartUuid(guid))?;
        }
        for part in &missing {
            self.fill(part)?;
        }
        if let Some(root) = &image.root {
            self.prove(image, root)?;
        }
        for part in missing.iter().rev() {
            for change in part.changes() {
                self.rename(part, change)?;
            }
            let entry = part.slot.entry()?;
            if !part.is_named(&entry) {
                return Err(InstallError::new(
                    ErrorKind::ReadBack,
                    format!(
                        "the entry of {} in the partition table is not what was written: \
                         PARTUUID={}, type {}, attributes {:#x}",
                        part.slot, entry.part_guid, entry.type_guid, entry.attributes
                    ),
                )
                .with_hint("the disk is failing, or another program changes its table"));
            }
        }
        Ok(())
    }

    fn rename(&self, part: &PartitionJob, change: Change) -> Result<(), InstallError> {
        self.vfs.rename_partition(&part.slot, change).map_err(|e| {
            InstallError::io("change the partition table's entry of", &part.slot.node, e)
        })
    }

    fn fill(&self, part: &PartitionJob) -> Result<(), InstallError> {
        let node = &part.slot.node;
        self.progress.begin(node, part.size.saturating_mul(2));
        let mut out = self
            .vfs
            .claim(&part.slot)
            .map_err(|e| InstallError::io("open for writing", node, e))?;
        let mut source = window(&part.from, part.offset, part.size)
            .map_err(|e| InstallError::io("read", &part.from, e))?;
        let copied = self.pump(&mut source, &mut *out, &part.from, node)?;
        if copied != (part.size, part.sha256.clone()) {
            return Err(InstallError::new(
                ErrorKind::Set,
                format!("{} changed while it was read", part.from.display()),
            )
            .with_hint("install again, or build the set again"));
        }
        let nuls = vec![0; CHUNK];
        let mut left = part.fill;
        while left > 0 {
            let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            out.write_all(nuls.get(..now).unwrap_or(&nuls))
                .map_err(|e| InstallError::io("write", node, e))?;
            left -= now as u64;
        }
        out.sync().map_err(|e| InstallError::io("write", node, e))?;
        drop(out);

        let source = self.open(part)?;
        let mut there = Reading::new(&*source, part.size);
        let (_, sha256) = self.pump(&mut there, &mut io::sink(), node, node)?;
        self.progress.end();
        match sha256 == part.sha256 {
            true => Ok(()),
            false => Err(InstallError::new(
                ErrorKind::ReadBack,
                format!(
                    "{} reads back with SHA-256 {sha256}, but {} was written",
                    node.display(),
                    part.sha256
                ),
            )
            .with_hint("the disk is failing: check it before trusting it")),
        }
    }

    /// Every block of the image is proven from the medium, as a boot would.
    fn prove(&self, image: &ImageJob, root: &RootHash) -> Result<(), InstallError> {
        let of = |role| image.parts.iter().find(|part| part.role == role);
        let (proven, node) = match (of(Some(Role::Root)), of(Some(Role::Verity)), of(None)) {
            (Some(data), Some(hashes), _) => {
                let proven = tree(&*self.open(data)?, &*self.open(hashes)?, root);
                (proven, &data.slot.node)
            }
            (_, _, Some(whole)) => {
                let source = self.open(whole)?;
                let ddi = Ddi::read(&*source, Arch::NATIVE).map_err(|e| e.to_string());
                let proven = ddi.and_then(|ddi| {
                    let proven = ddi.verify(&*source, root, |_| {});
                    proven.map_err(|e| e.to_string())
                });
                (proven, &whole.slot.node)
            }
            _ => return Ok(()),
        };
        proven.map_err(|why| {
            InstallError::new(
                ErrorKind::ReadBack,
                format!(
                    "the image on {} has not the root hash {root}: {why}",
                    node.display()
                ),
            )
            .with_hint("check the set with `initoverlayfs verify --from`, and the disk")
        })
    }

    fn open(&self, part: &PartitionJob) -> Result<Box<dyn ReadAt>, InstallError> {
        self.vfs
            .partition(&part.slot)
            .map_err(|e| InstallError::io("read back", &part.slot.node, e))
    }
}

fn tree(data: &dyn ReadAt, hashes: &dyn ReadAt, root: &RootHash) -> Result<(), String> {
    let superblock = Superblock::read(hashes).map_err(|e| e.to_string())?;
    let params = &superblock.params;
    let verifier = Verifier::new(params, *root, params.tree_start(), data, hashes);
    let verifier = verifier.map_err(|e| e.to_string())?;
    verifier
        .verify(0..u64::MAX, |_| {})
        .map_err(|e| e.to_string())
}
