//! FAT volumes, by mkfs.vfat and mtools.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Entry, PIECE, Spread, file_size, make_fillers, sparse};
use crate::{Error, command};

/// What the volume itself is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes, the disk's.
    pub sector_size: u32,
    /// Serial number.
    pub serial: u32,
}

impl Format {
    /// A FAT32 volume of `size` bytes for disks with blocks of 512 bytes. It
    /// takes at least 34 MiB; 260 MiB with blocks of 4096 bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            sector_size: 512,
            serial: 0x1f0f_0e5b,
        }
    }

    /// 4 KiB clusters, as on a real ESP, where that gives the 65525 that make a
    /// volume FAT32 for firmware and mtools; else one sector.
    fn cluster_sectors(self) -> u64 {
        let sector = u64::from(self.sector_size).max(512);
        let usual = 4096 / sector;
        // A hundredth for the tables themselves.
        if self.size / 4096 > 66_200 {
            usual.max(1)
        } else {
            1
        }
    }
}

/// Makes the volume `path` with `entries` on it.
///
/// # Errors
/// [`Error::Program`] if they do not fit; [`Error::Disk`] if a file that was
/// to be in pieces is not.
pub fn make(path: &Path, format: Format, entries: &[Entry]) -> Result<(), Error> {
    sparse(path, format.size)?;
    let cluster = format.cluster_sectors();
    command::output(
        Command::new("mkfs.vfat")
            .args(["-F", "32", "-n", "ESP", "-i"])
            .arg(format!("{:08x}", format.serial))
            .args(["-S", &format.sector_size.to_string()])
            .args(["-s", &cluster.to_string()])
            .arg(path),
    )?;
    let mut folders: Vec<&str> = entries.iter().flat_map(Entry::folders).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders {
        mtool(path, "mmd", &[format!("::/{folder}")])?;
    }
    let (pieces, whole): (Vec<_>, Vec<_>) =
        entries.iter().partition(|e| e.spread == Spread::Fragmented);
    for entry in whole {
        copy(path, entry)?;
    }
    if pieces.is_empty() {
        return Ok(());
    }
    let mut bytes = 0;
    for entry in &pieces {
        bytes += file_size(&entry.from)?;
    }
    with_holes(path, bytes, || {
        pieces.iter().try_for_each(|entry| copy(path, entry))
    })?;
    for entry in pieces {
        let runs = extents(path, &entry.to)?;
        let wanted = file_size(&entry.from)? / PIECE;
        if (runs as u64) < wanted {
            return Err(Error::Disk(format!(
                "{} is in {runs} pieces, not {wanted}",
                entry.to
            )));
        }
    }
    Ok(())
}

/// The number of extents of a file, by mtools' `mshowfat`.
///
/// # Errors
/// [`Error::Program`] if there is no such file.
pub fn extents(volume: &Path, file: &str) -> Result<usize, Error> {
    let text = mtool(volume, "mshowfat", &[format!("::/{file}")])?;
    Ok(text.matches('<').count())
}

/// Fills the volume, frees every other piece and room for `bytes` so, lets
/// `work` write, and removes what it was filled with.
fn with_holes(
    volume: &Path,
    bytes: u64,
    work: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let dir = tempfile::tempdir().map_err(Error::io("making a temporary folder"))?;
    // Twice what is needed, and some for folders that grow.
    let count = 2 * bytes.div_ceil(PIECE) + 8;
    let names = make_fillers(dir.path(), count)?;
    mtool(volume, "mmd", &["::/FILL".to_owned()])?;
    let paths: Vec<_> = names.iter().map(|name| dir.path().join(name)).collect();
    fill(volume, &paths)?;
    // mtools looks for free clusters behind those it took last: there must be
    // none.
    let plug = dir.path().join("PLUG");
    sparse(&plug, free_bytes(volume)?)?;
    fill(volume, &[plug])?;
    let free: Vec<String> = names
        .iter()
        .step_by(2)
        .map(|name| format!("::/FILL/{name}"))
        .collect();
    mtool(volume, "mdel", &free)?;
    work()?;
    mtool(volume, "mdeltree", &["::/FILL".to_owned()]).map(drop)
}

fn fill(volume: &Path, files: &[PathBuf]) -> Result<(), Error> {
    let mut mcopy = Command::new("mcopy");
    mcopy.arg("-i").arg(volume).arg("-Q");
    command::output(mcopy.args(files).arg("::/FILL")).map(drop)
}

/// Free space in bytes, by mtools' `minfo`.
fn free_bytes(volume: &Path) -> Result<u64, Error> {
    let text = mtool(volume, "minfo", &["::".to_owned()])?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.split_whitespace().next())
            .and_then(|word| word.parse::<u64>().ok())
    };
    let sector = field("sector size:");
    let cluster = field("cluster size:");
    let free = field("free clusters=");
    match (sector, cluster, free) {
        (Some(sector), Some(cluster), Some(free)) => Ok(sector * cluster * free),
        _ => Err(Error::Disk(format!("minfo says something else: {text}"))),
    }
}

fn copy(volume: &Path, entry: &Entry) -> Result<(), Error> {
    command::output(
        Command::new("mcopy")
            .arg("-i")
            .arg(volume)
            .arg("-Q")
            .arg(&entry.from)
            .arg(format!("::/{}", entry.to)),
    )
    .map(drop)
}

fn mtool(volume: &Path, tool: &str, args: &[String]) -> Result<String, Error> {
    let out = command::output(
        Command::new(tool)
            // Volumes of odd geometry are no reason to refuse.
            .env("MTOOLS_SKIP_CHECK", "1")
            .arg("-i")
            .arg(volume)
            .args(args),
    )?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sector_size: u32, size: u64) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let volume = dir.path().join("volume");
        let format = Format {
            sector_size,
            ..Format::new(size)
        };
        let entries = [
            Entry::new("EFI/Linux/whole.img", &file),
            Entry::fragmented("EFI/Linux/pieces.img", &file),
        ];
        make(&volume, format, &entries).unwrap();
        assert_eq!(extents(&volume, "EFI/Linux/whole.img").unwrap(), 1);
        assert!(extents(&volume, "EFI/Linux/pieces.img").unwrap() >= 15);
        let fsck = Command::new("fsck.vfat")
            .arg("-n")
            .arg(&volume)
            .output()
            .unwrap();
        assert!(fsck.status.success(), "{fsck:?}");
        for name in ["whole", "pieces"] {
            let out = command::output(
                Command::new("mtype")
                    .arg("-i")
                    .arg(&volume)
                    .arg(format!("::/EFI/Linux/{name}.img")),
            )
            .unwrap();
            assert!(out == bytes, "{name} differs");
        }
    }

    #[test]
    fn files_lie_as_asked_for() {
        check(512, 64 << 20);
    }

    #[test]
    fn files_lie_as_asked_for_on_large_sectors() {
        check(4096, 280 << 20);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        sparse(&file, 80 << 20).unwrap();
        let volume = dir.path().join("volume");
        let entries = [Entry::new("x", &file)];
        assert!(make(&volume, Format::new(64 << 20), &entries).is_err());
    }
}
