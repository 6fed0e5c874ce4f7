//! The hot files in the stage.
//!
//! mkfs.erofs lays out data in the order of sorted paths, at an inode's first
//! name. Second names that sort before all others therefore put the hot files
//! first, in a row and in this order, and each is stored once.

use super::record::HOT_FOLDER;
use super::{HotFiles, Wanted, generic, whole};
use crate::error::{Error, Result};
use crate::stage::Stage;
use iofs_prefetch::MAX_FILES;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The files that come first.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    /// In the order in which they are laid out; paths are the stage's own.
    pub(super) files: Vec<Wanted>,
    /// Whether they are guessed.
    pub(crate) generic: bool,
    /// Files of the profile that the image does not have, or not of that size.
    pub(crate) skipped: u64,
}

impl Hot {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Makes of a tree's hash one of the tree and what is wanted of it.
    pub(crate) fn mix_into(&self, digest: &mut [u8; 32]) {
        if self.is_empty() {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(*digest);
        for file in &self.files {
            hash.update((file.path.len() as u64).to_le_bytes());
            hash.update(file.path.as_bytes());
            hash.update((file.ranges.len() as u64).to_le_bytes());
            for range in &file.ranges {
                hash.update(range.start.to_le_bytes());
                hash.update(range.len.to_le_bytes());
            }
        }
        *digest = hash.finalize().into();
    }
}

/// Gives the hot files their second names in the stage.
pub(crate) fn stage(stage: &mut Stage, wanted: &HotFiles) -> Result<Hot> {
    let mut hot = match wanted {
        HotFiles::None => return Ok(Hot::default()),
        HotFiles::Generic => generic::guess(stage)?,
        HotFiles::Recorded(profile) => {
            let mut found = Found::default();
            for file in &profile.files {
                let ranges = file.ranges().collect();
                let fits = |size| size == file.size;
                if !found.add(stage, &file.path, fits, |_| Some(ranges))? {
                    found.hot.skipped += 1;
                }
            }
            let skipped = found.hot.skipped;
            if skipped > 0 {
                stage.warnings.push(format!(
                    "{skipped} of the boot profile's {} files are not in the image or have another size",
                    profile.files.len()
                ));
            }
            match found.hot.is_empty() {
                // It is of something else: a guess is better.
                true => Hot {
                    skipped,
                    ..generic::guess(stage)?
                },
                false => found.hot,
            }
        }
    };
    hot.files.truncate(MAX_FILES);
    if !hot.is_empty() && stage.path().join(HOT_FOLDER).symlink_metadata().is_ok() {
        stage.warnings.push(format!(
            "the tree has a /{HOT_FOLDER} of its own: its files stay in natural order"
        ));
        return Ok(hot);
    }
    link(stage.path(), &hot.files)?;
    Ok(hot)
}

fn link(root: &Path, files: &[Wanted]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let folder = root.join(HOT_FOLDER);
    // Root's alone: set-user-ID programs have their second names in it.
    std::fs::create_dir(&folder)
        .and_then(|()| std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)))
        .map_err(Error::io("making", &folder))?;
    for (index, file) in files.iter().enumerate() {
        let name = folder.join(format!("{:04}", index + 1));
        std::fs::hard_link(root.join(&file.path), &name).map_err(Error::io("linking", &name))?;
    }
    Ok(())
}

/// Collects files of the stage, each once.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) hot: Hot,
    seen: HashSet<u64>,
    /// Their size, in bytes.
    pub(super) bytes: u64,
}

impl Found {
    /// Adds the file that `path` means in the stage, if it is one and its size
    /// fits. Whether there is such a file, added now or before.
    pub(super) fn add(
        &mut self,
        stage: &Stage,
        path: &str,
        fits: impl FnOnce(u64) -> bool,
        ranges: impl FnOnce(u64) -> Option<Vec<iofs_prefetch::Range>>,
    ) -> Result<bool> {
        let Some(file) = stage.resolve(path)? else {
            return Ok(false);
        };
        let meta = file
            .symlink_metadata()
            .map_err(Error::io("looking at", &file))?;
        let inside = file.strip_prefix(stage.path()).ok().and_then(Path::to_str);
        let Some(inside) = inside.filter(|_| meta.is_file() && fits(meta.len())) else {
            return Ok(false);
        };
        if !iofs_prefetch::PrefetchList::is_path(inside) {
            return Ok(false);
        }
        if self.seen.contains(&meta.ino()) {
            return Ok(true);
        }
        let Some(ranges) = ranges(meta.len()) else {
            return Ok(false);
        };
        self.seen.insert(meta.ino());
        self.bytes = self.bytes.saturating_add(meta.len());
        self.hot.files.push(Wanted {
            path: inside.to_owned(),
            ranges,
        });
        Ok(true)
    }

    /// Adds the whole file that `path` means in the stage.
    pub(super) fn add_whole(&mut self, stage: &Stage, path: &str) -> Result<bool> {
        let ranges = |size| {
            let range = whole(size)?;
            Some(if range.len == 0 {
                Vec::new()
            } else {
                vec![range]
            })
        };
        self.add(stage, path, |_| true, ranges)
    }
}
