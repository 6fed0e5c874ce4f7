//! ext4 volumes, by mkfs.ext4 and debugfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Entry, PIECE, Spread, file_size, make_fillers, sparse};
use crate::{Error, command};

/// Where the fillers are while pieces are being made.
const FILLERS: &str = "fillers";

/// Makes the volume `path` of `size` bytes with `entries` on it and the UUID
/// `uuid`. Owners are root.
///
/// # Errors
/// [`Error::Program`] if they do not fit; [`Error::Disk`] if a file that was
/// to be in pieces is not.
pub fn make(path: &Path, size: u64, uuid: &str, entries: &[Entry]) -> Result<(), Error> {
    let dir = tempfile::tempdir().map_err(Error::io("making a temporary folder"))?;
    let tree = dir.path().join("tree");
    make_folder(&tree)?;
    for entry in entries {
        for folder in entry.folders() {
            make_folder(&tree.join(folder))?;
        }
        if entry.spread == Spread::Whole {
            let to = tree.join(&entry.to);
            fs::copy(&entry.from, &to).map_err(Error::io(format!("making {}", to.display())))?;
        }
    }
    let pieces: Vec<_> = entries
        .iter()
        .filter(|entry| entry.spread == Spread::Fragmented)
        .collect();
    let mut fillers = Vec::new();
    if !pieces.is_empty() {
        let folder = tree.join(FILLERS);
        make_folder(&folder)?;
        let mut bytes = 0;
        for entry in &pieces {
            bytes += file_size(&entry.from)?;
        }
        // Twice what is needed, and some for the search's start.
        fillers = make_fillers(&folder, 2 * bytes.div_ceil(PIECE) + 32)?;
    }
    sparse(path, size)?;
    command::output(
        Command::new("mkfs.ext4")
            .args(["-q", "-b", "4096", "-m", "0", "-L", "boot", "-U", uuid])
            .args(["-E", "root_owner=0:0,lazy_itable_init=0"])
            .args(["-d".as_ref(), tree.as_os_str(), path.as_os_str()]),
    )?;
    if pieces.is_empty() {
        return Ok(());
    }
    spread(path, &fillers, &pieces)
}

/// Frees every other filler, writes the files into the gaps, removes the rest.
fn spread(volume: &Path, fillers: &[String], pieces: &[&Entry]) -> Result<(), Error> {
    let mut script = vec![format!("cd /{FILLERS}")];
    script.extend(fillers.iter().step_by(2).map(|name| format!("rm {name}")));
    for entry in pieces {
        let (folder, name) = entry.to.rsplit_once('/').unwrap_or(("", &entry.to));
        script.push(format!("cd /{folder}"));
        script.push(format!("write \"{}\" {name}", entry.from.display()));
    }
    script.push(format!("cd /{FILLERS}"));
    script.extend(
        fillers
            .iter()
            .skip(1)
            .step_by(2)
            .map(|name| format!("rm {name}")),
    );
    script.push("cd /".to_owned());
    script.push(format!("rmdir {FILLERS}"));
    debugfs(volume, &script)?;
    for entry in pieces {
        let runs = extents(volume, &entry.to)?;
        let wanted = file_size(&entry.from)? / PIECE;
        if (runs as u64) < wanted / 2 {
            return Err(Error::Disk(format!(
                "{} is in {runs} pieces, not {wanted}",
                entry.to
            )));
        }
    }
    Ok(())
}

/// The number of runs of physical blocks of a file, by debugfs' `blocks`.
///
/// # Errors
/// [`Error::Program`], [`Error::Disk`] if there is no such file.
pub fn extents(volume: &Path, file: &str) -> Result<usize, Error> {
    let out = command::output(
        Command::new("debugfs")
            .arg("-R")
            .arg(format!("blocks \"/{file}\""))
            .arg(volume),
    )?;
    let text = String::from_utf8_lossy(&out);
    let blocks: Vec<u64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    if blocks.is_empty() {
        return Err(Error::Disk(format!("{file} has no blocks: {text}")));
    }
    let breaks = blocks
        .windows(2)
        .filter(|pair| pair.first().map(|b| b + 1) != pair.last().copied());
    Ok(breaks.count() + 1)
}

fn debugfs(volume: &Path, script: &[String]) -> Result<(), Error> {
    let text = script.join("\n") + "\n";
    command::output_with_input(
        Command::new("debugfs")
            .args(["-w", "-f", "/dev/stdin"])
            .arg(volume),
        text.as_bytes(),
    )
    .map(drop)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&file, &bytes).unwrap();
        let volume = dir.path().join("volume");
        let entries = [
            Entry::new("a/whole.img", &file),
            Entry::fragmented("a/b/pieces.img", &file),
        ];
        let uuid = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a03";
        make(&volume, 32 << 20, uuid, &entries).unwrap();
        let fsck = Command::new("e2fsck")
            .arg("-fn")
            .arg(&volume)
            .output()
            .unwrap();
        assert!(fsck.status.success(), "{fsck:?}");
        assert_eq!(extents(&volume, "a/whole.img").unwrap(), 1);
        assert!(extents(&volume, "a/b/pieces.img").unwrap() >= 8);
        assert!(extents(&volume, "a/none").is_err());
        for name in ["a/whole.img", "a/b/pieces.img"] {
            let out = dir.path().join("out");
            debugfs(&volume, &[format!("dump /{name} {}", out.display())]).unwrap();
            assert!(fs::read(&out).unwrap() == bytes, "{name} differs");
        }
    }
}
