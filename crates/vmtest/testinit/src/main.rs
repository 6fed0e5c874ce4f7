//! The init of the user-mode-linux tests.
//!
//! It obeys the words `testinit.VERB[=VALUE]` on the kernel command line in
//! their order, and reports in the kernel log with the urgency of a failed
//! boot, so that `quiet` does not hide it: lines `TESTINIT NAME: text`. The last
//! is `TESTINIT end`; then it turns the machine off. Values are split at commas.
//!
//! | verb | what it does |
//! |---|---|
//! | `cat=PATH` | reports each line of a file, as NAME the path |
//! | `stat=PATH` | reports kind, mode, owner and size |
//! | `inode=PATH` | reports number, names, device number and time of modification |
//! | `list=PATH` | reports the names in a folder |
//! | `link=PATH` | reports a link's target |
//! | `sum=PATH` | reports length and FNV-1a 64 of a file's or device's bytes |
//! | `load=PATH` | loads a kernel module |
//! | `mount=FSTYPE,SOURCE,TARGET,ro\|rw[,OPTION]` | mounts |
//! | `umount=TARGET` | unmounts, which fails while it is in use |
//! | `write=PATH` | makes a file with the text `written by testinit` |
//! | `scatter=FROM,TO` | copies a file into a new one in many pieces, with room to grow behind its end |
//! | `memory` | reports what file systems in memory hold, and how much of it can be seen |
//! | `stacked` | reports loop and dm devices that are in use |
//! | `switch=SOURCE` | moves to the root on an ext4 partition by `run-init` |
//! | `freed` | waits until no loop or dm device is in use, reports how long |
//! | `whole=PATH` | waits until a file's last line is `end` |
//! | `log=PATH` | from now on reports into this file or device, too |
//!
//! After `switch` a second testinit, which lies on that root, obeys the words
//! `testinit2.`. A failure is reported as `TESTINIT failed: why`; what follows
//! is done all the same.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use freestanding::{Heap, Start};
use iofs_cmdline::Cmdline;
use kernel_abi::kmsg::{self, Level};
use kernel_abi::power::{self, Power};
use kernel_abi::{clock, file, module, mount, process};
use rustix::fs::{FallocateFlags, Mode, OFlags};

#[global_allocator]
static HEAP: Heap<{ 64 << 20 }> = Heap::new();

freestanding::entry!(main);

/// The most that is read of one file, in bytes.
const LIMIT: usize = 16 << 20;

/// How long `freed` and `whole` wait, in microseconds, and how often it looks.
const PATIENCE_US: u64 = 3_000_000;
const LOOK_US: u64 = 20_000;

/// The second root, and what the first stage of initramfs-tools moves into it.
const NEXT_ROOT: &str = "/sysroot";
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// The argument that makes a testinit the second one.
const SECOND: &str = "second-stage";

type Outcome = Result<(), String>;

/// Reports to the kernel log and remembers, for `log`.
struct Report {
    text: String,
    copy: Option<String>,
}

impl Report {
    fn say(&mut self, name: &str, text: &str) {
        kmsg::write(Level::Critical, &format!("TESTINIT {name}: "), text);
        for line in text.lines() {
            self.text.push_str(&format!("TESTINIT {name}: {line}\n"));
        }
    }

    fn save(&self) {
        if let Some(path) = &self.copy {
            if let Err(error) = file::write(path, self.text.as_bytes()) {
                kmsg::write(Level::Critical, "TESTINIT failed: ", &format!("{error}"));
            }
        }
    }
}

fn main(start: Start) -> ! {
    let mut report = Report {
        text: String::new(),
        copy: None,
    };
    let second = start
        .args
        .iter()
        .any(|arg| arg.to_bytes() == SECOND.as_bytes());
    let prefix = if second { "testinit2." } else { "testinit." };
    report.say("stage", if second { "second" } else { "first" });
    for arg in &start.args {
        report.say("arg", &arg.to_string_lossy());
    }
    for variable in &start.env {
        report.say("env", &variable.to_string_lossy());
    }
    let cmdline = file::read("/proc/cmdline", LIMIT).unwrap_or_default();
    for param in Cmdline::parse(&cmdline).iter() {
        let name = String::from_utf8_lossy(param.name).into_owned();
        let Some(verb) = name.strip_prefix(prefix) else {
            continue;
        };
        let value = param.value_str().unwrap_or("");
        if let Err(why) = obey(verb, value, &start, &mut report) {
            report.say("failed", &format!("{name}={value}: {why}"));
        }
    }
    report.say("end", "turning the machine off");
    report.save();
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}

fn obey(verb: &str, value: &str, start: &Start, report: &mut Report) -> Outcome {
    match verb {
        "cat" => {
            let bytes = file::read(value, LIMIT).map_err(text)?;
            report.say(value, &String::from_utf8_lossy(&bytes));
        }
        "stat" => report.say(value, &stat(value)?),
        "inode" => report.say(value, &inode(value)?),
        "memory" => report.say("memory", &memory()?),
        "list" => {
            for (name, _) in file::list(value).map_err(text)? {
                report.say(value, &name);
            }
        }
        "link" => report.say(value, &file::read_link(value).map_err(text)?),
        "sum" => {
            let bytes = file::read(value, LIMIT).map_err(text)?;
            report.say(
                value,
                &format!("{} bytes, {:016x}", bytes.len(), fnv1a(&bytes)),
            );
        }
        "load" => module::load(value, "").map_err(text)?,
        "mount" => mount_at(value)?,
        "umount" => {
            rustix::mount::unmount(value, rustix::mount::UnmountFlags::empty()).map_err(text)?
        }
        "write" => file::write(value, b"written by testinit\n").map_err(text)?,
        "scatter" => scatter(value)?,
        "stacked" => report.say("stacked", &stacked().join(" ")),
        "switch" => return switch(value, start, report),
        "freed" => report.say("freed", &wait_until_freed()),
        "whole" => return wait_for_end(value),
        "log" => report.copy = Some(value.to_string()),
        _ => return Err("no such verb".into()),
    }
    Ok(())
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

fn stat(path: &str) -> Result<String, String> {
    let stat = rustix::fs::lstat(path).map_err(text)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    Ok(format!(
        "{kind:?} mode {:o} owner {}:{} size {}",
        stat.st_mode & 0o7777,
        stat.st_uid,
        stat.st_gid,
        stat.st_size
    ))
}

fn inode(path: &str) -> Result<String, String> {
    let stat = rustix::fs::lstat(path).map_err(text)?;
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(format!(
        "inode {} names {} device {major}:{minor} modified {}",
        stat.st_ino, stat.st_nlink, stat.st_mtime
    ))
}

/// The kernel's own count of pages that only swap could take away, against what
/// the mounted file systems count. A root that was left full is in the first
/// alone.
fn memory() -> Result<String, String> {
    let meminfo = file::read("/proc/meminfo", LIMIT).map_err(text)?;
    let meminfo = String::from_utf8_lossy(&meminfo);
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let held = field("Shmem:").zip(field("Unevictable:"));
    let held = held.map(|(shared, fixed)| shared + fixed);
    let mut seen = 0;
    for place in ["/", "/dev", "/run"] {
        let stat = rustix::fs::statfs(place).map_err(text)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        seen += used * u64::try_from(stat.f_bsize).unwrap_or(0) / 1024;
    }
    let held = held.ok_or("/proc/meminfo does not say")?;
    Ok(format!("held {held} KiB, seen {seen} KiB"))
}

/// FNV-1a of 64 bits: enough to tell that bytes are in their places.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn mount_at(value: &str) -> Outcome {
    let words: Vec<&str> = value.split(',').collect();
    let (&[fstype, source, target, access] | &[fstype, source, target, access, _]) =
        words.as_slice()
    else {
        return Err("it takes FSTYPE,SOURCE,TARGET,ro|rw[,OPTION]".into());
    };
    let option = words.get(4).copied().unwrap_or("");
    let flags = match access {
        "ro" => mount::Flags::RDONLY,
        _ => mount::Flags::empty(),
    };
    mount::mount(source, target, fstype, flags, option).map_err(text)
}

/// Copies a file while another grows beside it, so that neither can lie in one
/// piece.
fn scatter(value: &str) -> Outcome {
    const PIECE: usize = 16 << 10;
    let (from, to) = value.split_once(',').ok_or("it takes FROM,TO")?;
    let bytes = file::read(from, LIMIT).map_err(text)?;
    let create = |path: &str| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        rustix::fs::open(path, flags, Mode::from(0o644)).map_err(text)
    };
    let beside = format!("{to}.beside");
    let files = [create(to)?, create(&beside)?];
    for piece in bytes.chunks(PIECE) {
        for file in &files {
            if rustix::io::write(file, piece).map_err(text)? != piece.len() {
                return Err("it was not all written".into());
            }
            rustix::fs::fsync(file).map_err(text)?;
        }
    }
    let [file, _] = &files;
    let behind = FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, behind, bytes.len() as u64, 1 << 20).map_err(text)?;
    rustix::fs::fsync(file).map_err(text)?;
    rustix::fs::unlink(&beside).map_err(text)
}

/// Loop devices that are attached and mapped devices, by their kernel names.
fn stacked() -> Vec<String> {
    let names = file::list("/sys/block").unwrap_or_default();
    names
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            name.starts_with("dm-") || file::exists(&format!("/sys/block/{name}/loop/backing_file"))
        })
        .collect()
}

fn wait_until_freed() -> String {
    let begin = clock::micros();
    loop {
        let left = stacked();
        let waited = clock::micros().saturating_sub(begin);
        if left.is_empty() {
            return format!("all after {waited} us");
        }
        if waited > PATIENCE_US {
            return format!("not {}", left.join(" "));
        }
        process::sleep(LOOK_US);
    }
}

fn wait_for_end(path: &str) -> Outcome {
    let begin = clock::micros();
    loop {
        if file::read(path, LIMIT).is_ok_and(|bytes| bytes.ends_with(b"\nend\n")) {
            return Ok(());
        }
        if clock::micros().saturating_sub(begin) > PATIENCE_US {
            return Err("it does not end".into());
        }
        process::sleep(LOOK_US);
    }
}

/// Leaves for the root on the ext4 partition `source`, as initramfs-tools does.
fn switch(source: &str, start: &Start, report: &Report) -> Outcome {
    mount::mount(source, NEXT_ROOT, "ext4", mount::Flags::RDONLY, "").map_err(text)?;
    for folder in MOVED {
        mount::move_mount(folder, &format!("{NEXT_ROOT}{folder}")).map_err(text)?;
    }
    report.save();
    let mut args = Vec::new();
    for word in ["run-init", NEXT_ROOT, "/sbin/init", SECOND] {
        args.push(CString::new(word).map_err(text)?);
    }
    let program = CString::new("/bin/run-init").map_err(text)?;
    Err(format!("{}", process::exec(&program, &args, &start.env)))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kmsg::write(Level::Critical, "TESTINIT panicked: ", &format!("{info}"));
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}
