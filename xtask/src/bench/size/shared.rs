//! What an init image and a root have in common, and what it saves to have that once, in
//! a system extension that is merged over both.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_gpt::Table as Gpt;
use vmtest::command;
use vmtest::guest;

use super::Bench;
use crate::bench::parts;

/// Files that are in both, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) files: u64,
    pub(super) raw: u64,
    /// What they take of an image that has them: a file system of them alone.
    pub(super) file_system: u64,
    /// The extension that has them for both, with hash tree and signature.
    pub(super) extension: u64,
}

impl Shared {
    /// What is saved if both take them from the extension.
    pub(super) fn saved(&self) -> f64 {
        2.0 * self.file_system as f64 - self.extension as f64
    }
}

/// MiB of firmware that neither compresses nor is used.
const FIRMWARE_MIB: usize = 300;

/// The rows that are wanted.
pub(super) fn measure(
    bench: &Bench<'_>,
    wants: impl Fn(&str) -> bool,
) -> Result<Vec<Shared>, Box<dyn Error>> {
    let dir = bench.folder.join("shared");
    fs::create_dir(&dir)?;
    let root = bench.ground.guest.tree();
    let mut rows = Vec::new();
    let (all, modules) = ("all of Debian's that both have", "of that, kernel modules");
    if wants(all) || wants(modules) {
        let both = in_both(bench, &dir)?;
        for (name, below) in [(all, ""), (modules, "usr/lib/modules/")] {
            if wants(name) {
                let files = both.iter().filter(|file| file.starts_with(below));
                let tree = dir.join("files");
                pick(&dir.join("init"), files, &tree)?;
                rows.push(row(bench, name, &tree, &dir)?);
                fs::remove_dir_all(&tree)?;
            }
        }
    }
    let examples = [
        ("example recovery-tools", "recovery-tools", root),
        (
            "example firmware, of 300 MiB",
            "firmware",
            dir.join("blobs"),
        ),
    ];
    for (name, example, from) in examples {
        if wants(name) {
            if !from.exists() {
                parts::random_files(&from, FIRMWARE_MIB)?;
            }
            rows.push(example_row(bench, name, example, &from, &dir)?);
        }
    }
    Ok(rows)
}

/// The files, by their paths below /usr, that dracut's image and the root have with the
/// same content. The image's modules are decompressed, as they would be in a root image.
fn in_both(bench: &Bench<'_>, dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let options = ["--image-compress", "none", "--profile", "none"];
    let (set, _) = bench.set("both", "virtio-blk", &options)?;
    let init = dir.join("init");
    extract(&set.image, &init)?;
    fs::remove_dir_all(&set.dir)?;
    let root = bench.ground.guest.tree();
    let mut both = Vec::new();
    for path in files(&init.join("usr"))? {
        let path = Path::new("usr").join(path);
        if is_same(&init.join(&path), &root.join(&path))? {
            both.push(path);
        }
    }
    match both.is_empty() {
        true => Err("dracut's image has nothing in common with the root".into()),
        false => Ok(both),
    }
}

fn is_same(ours: &Path, roots: &Path) -> Result<bool, Box<dyn Error>> {
    let packed = PathBuf::from(format!("{}.xz", roots.display()));
    let theirs = if roots.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        fs::read(roots)?
    } else if packed.is_file() {
        command::output(Command::new("xz").arg("-dc").arg(packed))?
    } else {
        return Ok(false);
    };
    Ok(fs::read(ours)? == theirs)
}

/// Regular files below a folder, by their paths in it. No link is followed.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner))? {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Puts some files of a tree into one of their own, as links to them.
fn pick<'a>(
    from: &Path,
    files: impl Iterator<Item = &'a PathBuf>,
    to: &Path,
) -> Result<(), Box<dyn Error>> {
    for file in files {
        let target = to.join(file);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::hard_link(from.join(file), target)?;
    }
    Ok(())
}

fn row(bench: &Bench<'_>, name: &str, tree: &Path, dir: &Path) -> Result<Shared, Box<dyn Error>> {
    let output = dir.join("shared.raw");
    let mut build = Command::new(bench.ground.dist.join("initoverlayfs"));
    build.args(["build-extension", "--kind", "sysext", "--name", "shared"]);
    build.args(["--id", "_any", "--scope", "initrd,system", "--root"]);
    build.arg(tree).arg("--output").arg(&output);
    command::output(build.args(signing(bench)?))?;
    counted(name, tree, &output)
}

/// One of the examples, made by its own script. It decides which files those are.
fn example_row(
    bench: &Bench<'_>,
    name: &str,
    example: &str,
    from: &Path,
    dir: &Path,
) -> Result<Shared, Box<dyn Error>> {
    let output = dir.join("shared.raw");
    let script = guest::workspace().join("examples/extensions").join(example);
    let mut make = Command::new(script);
    make.env("INITOVERLAYFS", bench.ground.dist.join("initoverlayfs"))
        .arg(from)
        .arg(&output)
        .args(signing(bench)?);
    command::output(&mut make)?;
    let extracted = dir.join("extracted");
    extract(&output, &extracted)?;
    let shared = counted(name, &extracted, &output)?;
    fs::remove_dir_all(&extracted)?;
    Ok(shared)
}

/// The row of the extension `image`, which has the files of `tree` and goes.
fn counted(name: &str, tree: &Path, image: &Path) -> Result<Shared, Box<dyn Error>> {
    let files = files(tree)?;
    let mut raw = 0;
    for file in &files {
        raw += fs::metadata(tree.join(file))?.len();
    }
    let bytes = fs::read(image)?;
    let shared = Shared {
        name: name.to_owned(),
        files: files.len() as u64,
        raw,
        file_system: file_system_of(&bytes)?.len() as u64,
        extension: bytes.len() as u64,
    };
    fs::remove_file(image)?;
    Ok(shared)
}

/// Writes the tree in a disk image to a folder that is not there yet.
fn extract(image: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let file_system = to.with_extension("erofs");
    fs::write(&file_system, file_system_of(&fs::read(image)?)?)?;
    let mut fsck = Command::new("fsck.erofs");
    fsck.arg(format!("--extract={}", to.display()));
    command::output(fsck.arg(&file_system))?;
    Ok(fs::remove_file(&file_system)?)
}

/// The file system in a disk image: the first partition, and the largest.
fn file_system_of(image: &[u8]) -> Result<&[u8], Box<dyn Error>> {
    let table = Gpt::read(image, 512).map_err(|error| error.to_string())?;
    let largest = table.partitions.iter().max_by_key(|part| part.len);
    let part = largest.ok_or("the image has no partition")?;
    let range = usize::try_from(part.start)?..usize::try_from(part.start + part.len)?;
    Ok(image.get(range).ok_or("the image is truncated")?)
}

/// Options that sign: a key of this bench's own.
fn signing(bench: &Bench<'_>) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let key = bench.folder.join("shared-key");
    let paths = ["key", "crt"].map(|end| key.with_extension(end));
    if !paths.iter().all(|path| path.exists()) {
        let mut keygen = Command::new(bench.ground.dist.join("initoverlayfs"));
        command::output(keygen.args(["keygen", "--type", "p256"]).arg(&key))?;
    }
    let [key, certificate] = paths;
    Ok(vec![
        "--key".into(),
        key,
        "--certificate".into(),
        certificate,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_picked_by_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("usr/a")).unwrap();
        fs::write(from.join("usr/a/x"), "x").unwrap();
        fs::write(from.join("usr/y"), "y").unwrap();
        std::os::unix::fs::symlink("y", from.join("usr/link")).unwrap();
        let mut found = files(&from).unwrap();
        found.sort();
        assert_eq!(found, [Path::new("usr/a/x"), Path::new("usr/y")]);
        let to = dir.path().join("to");
        pick(&from, found.iter().take(1), &to).unwrap();
        assert_eq!(files(&to).unwrap(), [Path::new("usr/a/x")]);
        assert!(is_same(&from.join("usr/a/x"), &to.join("usr/a/x")).unwrap());
        assert!(!is_same(&from.join("usr/y"), &to.join("usr/y")).unwrap());
    }

    #[test]
    fn an_extension_can_cost_more_than_it_saves() {
        let shared = Shared {
            name: String::new(),
            files: 1,
            raw: 1,
            file_system: 4096,
            extension: 65_536,
        };
        assert!(shared.saved() < 0.0);
    }
}
