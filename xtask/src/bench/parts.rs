//! What several families need: ways through a built set, archives that make an
//! initramfs larger, boots that are tried again, two at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use qemu_driver::{Error as VmError, Machine, Outcome};
use vmtest::guest::{self, Guest};
use vmtest::set::Set;

use crate::boots::{self, Way};
use crate::step;

/// A way to the marker init on the guest's root, by this initramfs.
pub(super) fn plain(guest: &Guest, name: &str, initrd: PathBuf) -> Way {
    Way {
        name: name.to_owned(),
        initrd,
        append: format!("init={}", guest::MARK),
        disk: guest.root_image(),
    }
}

/// The same through what was built, on a disk that is made for it.
pub(super) fn through(
    guest: &Guest,
    name: &str,
    set: &Set,
    disk: PathBuf,
) -> Result<Way, vmtest::Error> {
    set.disk(&disk, guest, 512)?;
    Ok(Way {
        disk,
        ..plain(guest, name, set.mini_initramfs())
    })
}

/// As many files of 1 MiB that do not compress, in a folder that is made for them.
pub(super) fn random_files(folder: &Path, count: usize) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut random = File::open("/dev/urandom")?;
    for number in 0..count {
        let mut file = File::create(folder.join(format!("{number}.bin")))?;
        io::copy(&mut Read::take(&mut random, 1 << 20), &mut file)?;
    }
    Ok(())
}

/// Random files, of which larger and larger archives are made.
#[derive(Debug)]
pub(super) struct Padding {
    folder: PathBuf,
    files: u64,
}

/// How large each file of a [`Padding`] is, in MiB.
pub(super) const STEP_MIB: u64 = 16;

impl Padding {
    /// As many files as `mib` takes, below `folder`.
    pub(super) fn make(folder: &Path, mib: u64) -> io::Result<Self> {
        let files = mib / STEP_MIB;
        fs::create_dir_all(folder.join("padding"))?;
        let mut random = File::open("/dev/urandom")?;
        for index in 0..files {
            let mut file = File::create(folder.join(file_name(index)))?;
            io::copy(&mut Read::take(&mut random, STEP_MIB << 20), &mut file)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
        })
    }

    /// An uncompressed archive with the first `mib` of them.
    pub(super) fn archive(&self, path: &Path, mib: u64) -> io::Result<()> {
        let mut names = String::from("padding\n");
        for index in 0..self.files.min(mib / STEP_MIB) {
            names.push_str(&file_name(index));
            names.push('\n');
        }
        let list = path.with_extension("names");
        fs::write(&list, names)?;
        // Not through memory, which two gigabytes would take twice.
        let status = Command::new("cpio")
            .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"])
            .current_dir(&self.folder)
            .stdin(File::open(&list)?)
            .stdout(File::create(path)?)
            .status()?;
        fs::remove_file(&list)?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "making {} of random files: cpio ended with {status}",
                path.display()
            ))),
        }
    }
}

fn file_name(index: u64) -> String {
    format!("padding/{index:03}")
}

/// Archives one behind the other. The kernel wants an uncompressed one to begin at a
/// multiple of 4.
pub(super) fn joined(parts: &[&Path], to: &Path) -> io::Result<()> {
    let mut out = File::create(to)?;
    let mut end = 0u64;
    for part in parts {
        end = end.next_multiple_of(4);
        out.set_len(end)?;
        io::Seek::seek(&mut out, io::SeekFrom::Start(end))?;
        end += io::copy(&mut File::open(part)?, &mut out)?;
    }
    Ok(())
}

/// What [`tried`] is to come to, and where it says what it saw.
pub(super) struct Goal<'a> {
    /// Of the log.
    pub(super) family: &'a str,
    /// In words, behind "ended before".
    pub(super) what: &'a str,
}

/// Boots `machine` until `end` finds what it looks for, tried again if the emulated
/// kernel fell on its way; or why there is none.
pub(super) fn tried<T>(
    name: &str,
    machine: &Machine,
    goal: &Goal<'_>,
    end: impl Fn(&Outcome) -> Option<T>,
) -> io::Result<Result<T, String>> {
    const TRIES: u32 = 3;
    let log = format!("bench-{}-{}.log", goal.family, slug(name));
    let log = step::logs()?.join(log);
    let what = goal.what;
    let mut failure = String::new();
    for _ in 0..TRIES {
        match boots::run(machine, None) {
            Ok(outcome) => {
                if let Some(found) = end(&outcome) {
                    return Ok(Ok(found));
                }
                let lines: Vec<_> = outcome.lines.iter().map(|l| l.text.as_str()).collect();
                fs::write(&log, lines.join("\n"))?;
                let words = last_words(lines.into_iter());
                failure = format!("ended before {what}; {words}");
            }
            // One that waits for something waits for it the next time, too.
            Err(VmError::TimedOut { limit, tail, .. }) => {
                fs::write(&log, &tail)?;
                let waited = limit.as_secs();
                let words = last_words(tail.lines());
                failure = format!("had not come to {what} after {waited} s; {words}");
                break;
            }
            Err(VmError::Died { status, .. }) => {
                failure = format!("did not come to {what}: the emulator ended ({status})");
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    println!("{name} {failure} ({})", log.display());
    Ok(Err(failure))
}

/// Does `work` with every item, two at once where there are two processors: boots
/// that are counted in instructions do not mind what else the host does, except for
/// how far their clocks jump, and the least is what counts.
pub(super) fn side_by_side<T: Send>(
    items: &mut [T],
    work: impl Fn(&mut T) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let at_once = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2));
    let todo = Mutex::new(items.iter_mut());
    let work = || {
        loop {
            // Not a `while let`, which would hold the lock while it measures.
            let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some(item) => work(item)?,
                None => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("a bench thread panicked")))
        })
    })
}

/// A row's name as part of a file's.
pub(super) fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// What a console ends with, for a note: the kernel's panic, behind which it prints
/// where its registers were, or the last line that is not empty.
pub(super) fn last_words<'a>(lines: impl DoubleEndedIterator<Item = &'a str> + Clone) -> String {
    const SHOWN: usize = 120;
    let mut lines = lines.map(str::trim);
    let panic = lines.clone().rfind(|line| line.contains("Kernel panic"));
    match panic.or_else(|| lines.rfind(|line| !line.is_empty())) {
        None => "its console is empty".to_owned(),
        Some(line) => {
            let shown: String = line.chars().take(SHOWN).collect();
            format!("its last line: `{}`", shown.replace('`', "'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_rows_name_is_part_of_a_files() {
        assert_eq!(slug("dracut, squash-erofs + 1"), "dracut-squash-erofs-1");
    }

    #[test]
    fn a_note_has_the_last_line_that_says_something() {
        let console = "[    1.0] Run /init\n(1 or 2 of `2`) waiting \n\n";
        let words = |console: &str| last_words(console.lines());
        assert_eq!(words(console), "its last line: `(1 or 2 of '2') waiting`");
        let panic = "Kernel panic - not syncing: No init\nCPU: 0\nKernel Offset: 0x1\n";
        assert_eq!(
            words(panic),
            "its last line: `Kernel panic - not syncing: No init`"
        );
        assert_eq!(words("\n"), "its console is empty");
        assert!(words(&"x".repeat(500)).len() < 150);
    }

    #[test]
    fn archives_begin_at_multiples_of_four() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text) in [("a", "12345"), ("b", ""), ("c", "678")] {
            fs::write(at(name), text).unwrap();
        }
        joined(&[&at("a"), &at("b"), &at("c")], &at("all")).unwrap();
        assert_eq!(fs::read(at("all")).unwrap(), b"12345\0\0\x00678");
    }

    #[test]
    fn an_archive_has_as_many_random_files_as_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let padding = Padding::make(folder.path(), 2 * STEP_MIB).unwrap();
        let archive = folder.path().join("archive");
        for (mib, files) in [(0, 0), (STEP_MIB, 1), (9 * STEP_MIB, 2)] {
            padding.archive(&archive, mib).unwrap();
            let size = fs::metadata(&archive).unwrap().len();
            assert_eq!(size >> 20, files * STEP_MIB, "{mib}");
        }
    }

    #[test]
    fn each_item_has_its_turn() {
        let count = AtomicU32::new(0);
        let mut items = [1, 2, 3];
        side_by_side(&mut items, |item| {
            *item *= 2;
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!((items, count.into_inner()), ([2, 4, 6], 3));
        let failed = side_by_side(&mut [1], |_| Err(io::Error::other("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
