//! The user's cache folder: what is costly to make and the same every time.
//!
//! An entry is a folder named after a hash of its recipe. It is made in a
//! temporary folder beside it and renamed when it is whole, under a lock, so
//! that what exists is complete and two builders do not work at once. Entries
//! of the same kind from other recipes are removed, unless someone uses them.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// Where the project keeps what can be made again:
/// `$XDG_CACHE_HOME/initoverlayfs`, by default `~/.cache/initoverlayfs`.
#[must_use]
pub fn root() -> PathBuf {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path: &PathBuf| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("initoverlayfs")
}

/// A complete entry. While it lives, nobody removes the folder.
#[derive(Debug)]
pub struct Entry {
    /// The folder.
    pub path: PathBuf,
    _in_use: File,
}

/// Name of the file in an entry on which its users hold a shared lock.
const IN_USE: &str = ".in-use";

/// The entry `kind`-`recipe hash` of the cache, made by `make` if it is not
/// there: `make` gets an empty folder to fill.
///
/// # Errors
/// What `make` fails with, [`Error::Io`].
pub fn entry(
    kind: &str,
    recipe: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Entry, Error> {
    entry_in(&root(), kind, recipe, make)
}

fn entry_in(
    root: &Path,
    kind: &str,
    recipe: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Entry, Error> {
    let name = format!("{kind}-{:016x}", hash(recipe));
    let path = root.join(&name);
    if let Some(entry) = existing(&path)? {
        return Ok(entry);
    }
    fs::create_dir_all(root).map_err(Error::io(format!("making {}", root.display())))?;
    let builders = lock(
        &root.join(format!("{kind}.lock")),
        FlockOperation::LockExclusive,
    )?;
    if let Some(entry) = existing(&path)? {
        return Ok(entry);
    }
    let partial = root.join(format!("{kind}.partial"));
    remove(&partial)?;
    fs::create_dir(&partial).map_err(Error::io(format!("making {}", partial.display())))?;
    make(&partial)?;
    fs::rename(&partial, &path).map_err(Error::io(format!("making {}", path.display())))?;
    let entry = Entry {
        _in_use: lock(&path.join(IN_USE), FlockOperation::LockShared)?,
        path,
    };
    remove_others(root, kind, &name);
    drop(builders);
    Ok(entry)
}

/// The entry at `path`, if it is there and is not about to be removed.
fn existing(path: &Path) -> Result<Option<Entry>, Error> {
    if !path.is_dir() {
        return Ok(None);
    }
    let in_use = lock(&path.join(IN_USE), FlockOperation::LockShared)?;
    Ok(path.is_dir().then(|| Entry {
        path: path.to_owned(),
        _in_use: in_use,
    }))
}

fn lock(path: &Path, operation: FlockOperation) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::io(format!("making {}", path.display())))?;
    flock(&file, operation)
        .map_err(|e| Error::io(format!("locking {}", path.display()))(e.into()))?;
    Ok(file)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

fn remove_others(root: &Path, kind: &str, keep: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|name| {
            name != keep
                && name
                    .strip_prefix(kind)
                    .and_then(|rest| rest.strip_prefix('-'))
                    .is_some_and(|hash| {
                        hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit())
                    })
        });
        let in_use = entry.path().join(IN_USE);
        // What cannot be removed costs space only.
        if stale && lock(&in_use, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// FNV-1a over the parts and their lengths: no secret is kept with it, it must
/// only be the same with every compiler.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        let len = (part.len() as u64).to_le_bytes();
        for &byte in len.iter().chain(part.iter()) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_kept_and_what_is_stale_goes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |text: &'static str| {
            move |path: &Path| fs::write(path.join("file"), text).map_err(Error::io("writing"))
        };
        let first = entry_in(dir.path(), "kind", &[b"1"], make("a")).unwrap();
        let again = entry_in(dir.path(), "kind", &[b"1"], make("b")).unwrap();
        assert_eq!(first.path, again.path);
        assert_eq!(fs::read(again.path.join("file")).unwrap(), b"a");
        let other = entry_in(dir.path(), "kind-other", &[b"1"], make("c")).unwrap();

        let failed = entry_in(dir.path(), "kind", &[b"2"], |path| {
            make("d")(path)?;
            Err(Error::Disk("no".to_owned()))
        });
        assert!(failed.is_err());
        assert!(first.path.is_dir());

        let second = entry_in(dir.path(), "kind", &[b"2"], make("e")).unwrap();
        assert_eq!(fs::read(second.path.join("file")).unwrap(), b"e");
        assert!(first.path.exists(), "it is in use");
        let old = first.path.clone();
        drop((first, again, second));
        // A child that another test is starting has the lock until its exec.
        for round in 3..103_u8 {
            entry_in(dir.path(), "kind", &[&[round]], make("f")).unwrap();
            if !old.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!old.exists());
        assert!(other.path.exists());
    }

    #[test]
    fn a_recipe_is_its_parts_and_not_their_sum() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
    }
}
