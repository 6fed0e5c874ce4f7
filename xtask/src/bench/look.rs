//! Boots that look at the memory in use: a shell script in the place of the first
//! init, or a unit behind multi-user, writes parts of /proc/meminfo to the kernel
//! log, twice: as it is, and when the caches were dropped.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_driver::Outcome;
use vmtest::{command, guest, initramfs};

use crate::boots::{Cost, Way};

const SCRIPT: &str = include_str!("look/look.sh");

/// On the kernel command line, lets the script look.
const WORD: &str = "bench.look";

/// Begins the script's lines.
const PREFIX: &str = "BENCH-MEMORY ";

/// The kernel's line before it starts the script.
const RUN: &str = "Run /look as init process";

/// How the script is called where the initramfs's own init stays.
const PATH: &str = "look";

/// At multi-user the script is a credential, so no disk has to be changed.
const UNIT: &str = "[Unit]\n\
    After=multi-user.target initoverlayfs-test.service\n\
    [Service]\n\
    ImportCredential=look\n\
    ExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/look now\n";

/// Archives with the script, to be put behind others.
#[derive(Debug)]
pub(super) struct Look {
    /// As `/init`.
    pub(super) as_init: PathBuf,
    /// As a file beside the init that is there.
    pub(super) beside: PathBuf,
}

impl Look {
    /// Makes them in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let archive = |name: &str| -> Result<PathBuf, Box<dyn Error>> {
            let script = folder.join(name);
            fs::write(&script, SCRIPT)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
            let archive = folder.join(format!("{name}.cpio"));
            initramfs::of_files(&archive, folder, &[name])?;
            Ok(archive)
        };
        Ok(Self {
            as_init: archive("init")?,
            beside: archive(PATH)?,
        })
    }
}

/// `way`, whose image has the script as its init, up to that.
pub(super) fn in_image(way: &Way) -> Way {
    with(way, WORD)
}

/// `way`, whose initramfs has the script beside its init, up to there.
pub(super) fn in_initramfs(way: &Way) -> Way {
    with(way, &format!("rdinit=/{PATH} {WORD}"))
}

/// `way` up to multi-user and the script behind it.
pub(super) fn at_multi_user(way: &Way) -> Result<Way, Box<dyn Error>> {
    let words = format!(
        "iofs-test.poweroff=no systemd.wants=look.service \
         systemd.set_credential_binary=look:{} \
         systemd.set_credential_binary=systemd.extra-unit.look.service:{}",
        base64(&commands(SCRIPT))?,
        base64(UNIT)?
    );
    let mut way = with(way, &words);
    way.append = way.append.replace(&format!("init={} ", guest::MARK), "");
    Ok(way)
}

fn with(way: &Way, words: &str) -> Way {
    Way {
        append: format!("{} {words}", way.append),
        ..way.clone()
    }
}

/// A script without what only people read: the kernel's command line ends at 2 KiB.
fn commands(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

fn base64(text: &str) -> Result<String, Box<dyn Error>> {
    let mut command = Command::new("base64");
    let output = command::output_with_input(command.arg("--wrap=0"), text.as_bytes())?;
    Ok(String::from_utf8(output)?)
}

/// When the first init began, be it the script in an initramfs or what storage-init
/// executes.
pub(super) fn first_init(outcome: &Outcome) -> Option<Duration> {
    Cost::of(outcome)
        .first_init
        .or_else(|| outcome.time_of(RUN))
}

/// What the script has said, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    total: u64,
    /// With what the CPUs keep for their next allocations.
    free: u64,
    /// Page cache on the lists of what can be reclaimed.
    files: u64,
    /// Files that are nowhere but in memory: ramfs, tmpfs.
    in_memory: u64,
}

/// Before and after the caches were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) as_it_is: Memory,
    pub(super) dropped: Memory,
}

impl Looked {
    /// `None` if the script did not come to its end.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        let lines = outcome.lines.iter().filter_map(|line| line.kernel.as_ref());
        let mut lines = lines.filter_map(|(_, text)| text.strip_prefix(PREFIX));
        Some(Self {
            as_it_is: Memory::parse(lines.next()?.strip_prefix("as-it-is ")?)?,
            dropped: Memory::parse(lines.next()?.strip_prefix("dropped ")?)?,
        })
    }

    /// What no reclaim gives back: once the caches are dropped, all that is in use
    /// but page cache that programs have mapped. Inodes and names that are left then
    /// are held by something, as those of a ramfs are.
    pub(super) fn pinned(&self) -> f64 {
        let Memory { files, .. } = self.dropped;
        mib(self.dropped.used().saturating_sub(files))
    }

    /// All that was not free, caches included.
    pub(super) fn used(&self) -> f64 {
        mib(self.as_it_is.used())
    }

    /// Of what is pinned, the files of ramfs and tmpfs.
    pub(super) fn in_memory(&self) -> f64 {
        mib(self.dropped.in_memory)
    }
}

impl Memory {
    fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }

    /// `NAME:KIB` words, in any order.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let mut words = text.split_ascii_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))?;
            value.parse().ok()
        };
        Some(Self {
            total: field("MemTotal")?,
            free: field("MemFree")?.checked_add(field("Kept")?)?,
            files: field("Active(file)")?.checked_add(field("Inactive(file)")?)?,
            in_memory: field("Unevictable")?.checked_add(field("Shmem")?)?,
        })
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// What a boot that looked has to say of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Seconds to the first init, by the guest's clock.
    pub(super) first: f64,
    pub(super) looked: Looked,
    /// Bytes read from the disk.
    pub(super) read: u64,
    /// Bytes of memory touched.
    pub(super) touched: u64,
}

impl Sample {
    /// `None` if the boot did not come to the script's end.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        let cost = Cost::of(outcome);
        Some(Self {
            first: first_init(outcome)?.as_secs_f64(),
            looked: Looked::of(outcome)?,
            read: cost.read,
            touched: cost.touched,
        })
    }
}

/// How pinned memory is found, for a report's notes.
pub(super) const METHOD: &str = "Pinned: from /proc/meminfo after `echo 3 \
    >/proc/sys/vm/drop_caches`, 30 s after the moment in question: MemTotal - MemFree - \
    Active(file) - Inactive(file), and less the free pages that the CPU keeps for itself (`count` \
    in /proc/zoneinfo), which MemFree leaves out. So it has the kernel, its modules and slabs, programs, the \
    pages of ramfs and tmpfs (Unevictable + Shmem, in a column of their own), but no page cache of \
    a disk. In use: the same at the moment itself, caches included.";

/// Folders of an initramfs in which there is nothing but the script and busybox.
pub(super) fn of_kernel_alone(tree: &Path, folder: &Path, to: &Path) -> io::Result<()> {
    const LIBRARIES: [&str; 2] = ["libc.so.6", "libresolv.so.2"];
    const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
    let libraries = "lib/x86_64-linux-gnu";
    let mut names = [
        "bin",
        "dev",
        "lib64",
        "lib",
        libraries,
        "proc",
        "bin/busybox",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in names.iter().filter(|name| !name.contains("busybox")) {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::copy(tree.join("usr/bin/busybox"), folder.join("bin/busybox"))?;
    for name in ["sh", "mount", "sleep"] {
        let link = format!("bin/{name}");
        std::os::unix::fs::symlink("busybox", folder.join(&link))?;
        names.push(link);
    }
    for name in LIBRARIES {
        let name = format!("{libraries}/{name}");
        fs::copy(tree.join("usr").join(&name), folder.join(&name))?;
        names.push(name);
    }
    fs::copy(tree.join("usr").join(LOADER), folder.join(LOADER))?;
    names.push(LOADER.to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    initramfs::of_files(to, folder, &names).map_err(io::Error::other)
}

#[cfg(test)]
impl Looked {
    /// One with so many MiB pinned, of them so many in files.
    pub(super) fn example(pinned: u64, in_memory: u64) -> Self {
        let memory = Memory {
            total: pinned << 10,
            free: 0,
            files: 0,
            in_memory: in_memory << 10,
        };
        Self {
            as_it_is: memory,
            dropped: memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "MemTotal:2019200 MemFree:1929372 Cached:18268 Active(file):17532 \
                        Inactive(file):844 Unevictable:12 Shmem:280 Kept:4000";

    fn memory(text: &str) -> Memory {
        Memory::parse(text).unwrap()
    }

    #[test]
    fn the_scripts_line_is_understood() {
        let expected = Memory {
            total: 2_019_200,
            free: 1_933_372,
            files: 18_376,
            in_memory: 292,
        };
        assert_eq!(memory(LINE), expected);
        let mut words: Vec<&str> = LINE.split_ascii_whitespace().collect();
        words.reverse();
        assert_eq!(memory(&words.join("  ")), expected);
        assert_eq!(Memory::parse(&LINE.replace("Shmem", "Shmemm")), None);
        assert_eq!(Memory::parse(&LINE.replace("844", "844x")), None);
        assert_eq!(Memory::parse(""), None);
    }

    #[test]
    fn page_cache_is_not_pinned_and_ramfs_is() {
        let text = |free: u64, files: u64| {
            format!(
                "MemTotal:10240 MemFree:{free} Active(file):{files} Inactive(file):{files} \
                 Unevictable:1024 Shmem:512 Kept:1024"
            )
        };
        let looked = Looked {
            as_it_is: memory(&text(2048, 2048)),
            dropped: memory(&text(5120, 512)),
        };
        assert_eq!(
            (looked.used(), looked.pinned(), looked.in_memory()),
            (7.0, 3.0, 1.5)
        );
    }

    #[test]
    fn ways_look_where_they_are_told() {
        let way = Way {
            name: String::new(),
            initrd: PathBuf::new(),
            append: format!("root=UUID=1 init={}", guest::MARK),
            disk: PathBuf::new(),
        };
        assert!(in_image(&way).append.ends_with(" bench.look"));
        let append = in_initramfs(&way).append;
        assert!(append.ends_with(" rdinit=/look bench.look"), "{append}");
        let append = at_multi_user(&way).unwrap().append;
        assert!(
            append.starts_with("root=UUID=1 iofs-test.") && !append.contains(WORD),
            "{append}"
        );
        // With the console and the root by label there have to be words to spare.
        assert!(append.len() < 1800, "{}", append.len());
    }

    #[test]
    fn comments_do_not_reach_the_command_line() {
        let text = commands("#!/bin/sh\n# why\n\n  echo '#'\nend\n");
        assert_eq!(text, "echo '#'\nend\n");
    }
}
