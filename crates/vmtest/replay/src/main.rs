//! The init of the io bench.
//!
//! It runs twice. First as `/replay/first`, before storage-init: it loads the
//! disk's driver and tells the kernel whether the disk spins, which virtio-blk
//! cannot say. Then as the init in the image: it reads what the list
//! `/.extra/replay` says, in that order, through the root that storage-init made,
//! reports, and turns the machine off.
//!
//! # The list
//! A line a run of pages: `r` (read by a system call) or `m` (mapped), the first
//! page, how many, and the file's path relative to the root, or nothing for the
//! file of the line before.
//!
//! # Words on the kernel command line
//! * `replay.spins=0|1`: what the kernel is told of the disk;
//! * `replay.read_ahead=KIB`: read-ahead of every block device, from the start of
//!   the list on;
//! * `replay.think=MICROSECONDS`: a pause at each file, in which a real boot
//!   would compute.
//!
//! # The report
//! `REPLAY begun=US ended=US files=N pages=N failed=N`, with times by the clock of
//! storage-init's boot.json, whose lines follow as `REPLAY-BOOT`; then
//! `REPLAY end`.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec;

use freestanding::{Heap, Start};
use iofs_cmdline::Cmdline;
use kernel_abi::kmsg::{self, Level};
use kernel_abi::mount::Flags;
use kernel_abi::power::{self, Power};
use kernel_abi::readahead::Folder;
use kernel_abi::{AsFd, clock, file, module, mount, pages, process};

#[global_allocator]
static HEAP: Heap<{ 16 << 20 }> = Heap::new();

freestanding::entry!(main);

/// The most that is read of one text, in bytes.
const LIMIT: usize = 4 << 20;

/// The most pages that one system call reads, as programs do.
const MOST: u32 = 32;

const FIRST: &[u8] = b"/replay/first";
const DRIVER: &str = "/replay/virtio_blk.ko";
const LIST: &str = "/.extra/replay";
const BOOT: &str = "/run/initoverlayfs/boot.json";

/// How long the disk may take to come, in looks of a millisecond.
const PATIENCE: u32 = 2000;

fn main(start: Start) -> ! {
    let first = start
        .args
        .first()
        .is_some_and(|arg| arg.to_bytes() == FIRST);
    let outcome = if first { prepare(&start) } else { replay() };
    if let Err(error) = outcome {
        kmsg::write(Level::Critical, "REPLAY failed: ", &format!("{error}"));
    }
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}

/// A word's value on the kernel command line.
fn word(name: &str) -> Option<String> {
    let cmdline = file::read("/proc/cmdline", LIMIT).unwrap_or_default();
    Cmdline::parse(&cmdline)
        .iter()
        .rfind(|param| param.name == name.as_bytes())?
        .value_str()
        .map(String::from)
}

/// What comes before storage-init, which it becomes.
fn prepare(start: &Start) -> kernel_abi::Result<()> {
    for (kind, folder) in [("proc", "/proc"), ("sysfs", "/sys")] {
        file::mkdir(folder)?;
        mount::mount(kind, folder, kind, Flags::empty(), "")?;
    }
    module::load(DRIVER, "")?;
    if let Some(spins) = word("replay.spins") {
        const ROTATIONAL: &str = "/sys/block/vda/queue/rotational";
        let mut looks = 0;
        while !file::exists(ROTATIONAL) && looks < PATIENCE {
            process::sleep(1000);
            looks += 1;
        }
        file::write(ROTATIONAL, spins.as_bytes())?;
    }
    for folder in ["/proc", "/sys"] {
        mount::detach(folder)?;
    }
    let init = CString::from(c"/init");
    Err(process::exec(
        &init,
        core::slice::from_ref(&init),
        &start.env,
    ))
}

fn replay() -> kernel_abi::Result<()> {
    if let Some(kib) = word("replay.read_ahead") {
        for (name, _) in file::list("/sys/block")? {
            let path = format!("/sys/block/{name}/queue/read_ahead_kb");
            file::write(&path, kib.as_bytes())?;
        }
    }
    let think = word("replay.think").and_then(|text| text.parse().ok());
    let list = file::read(LIST, LIMIT)?;
    let list = String::from_utf8_lossy(&list);
    let root = Folder::open("/")?;
    let mut buffer = vec![0; MOST as usize * pages::PAGE];
    let (mut files, mut touched, mut failed) = (0_u32, 0_u32, 0_u32);
    let begun = clock::micros();
    let mut current = None;
    for line in list.lines() {
        let Some((how, first, count, path)) = parse(line) else {
            failed += 1;
            continue;
        };
        if !path.is_empty() {
            if let Some(micros) = think {
                process::sleep(micros);
            }
            current = root.file(path).ok();
            files += 1;
        }
        let done = current.as_ref().is_some_and(|file| {
            let file = file.as_fd();
            if how == "m" {
                return pages::fault(file, first, count).is_ok();
            }
            (0..count.div_ceil(MOST)).all(|part| {
                let skipped = part * MOST;
                let len = (count - skipped).min(MOST) as usize * pages::PAGE;
                let room = buffer.get_mut(..len).unwrap_or_default();
                pages::read(file, first.saturating_add(skipped), room).is_ok()
            })
        });
        if done {
            touched += count;
        } else {
            failed += 1;
        }
    }
    let ended = clock::micros();
    kmsg::write(
        Level::Critical,
        "REPLAY ",
        &format!("begun={begun} ended={ended} files={files} pages={touched} failed={failed}"),
    );
    let boot = file::read(BOOT, LIMIT)?;
    let boot = String::from_utf8_lossy(&boot);
    kmsg::write(Level::Critical, "REPLAY-BOOT ", &boot);
    kmsg::write(Level::Critical, "REPLAY ", "end");
    Ok(())
}

fn parse(line: &str) -> Option<(&str, u32, u32, &str)> {
    let mut words = line.splitn(4, ' ');
    let how = words.next()?;
    let first = words.next()?.parse().ok()?;
    let count = words.next()?.parse().ok()?;
    Some((how, first, count, words.next()?))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kmsg::write(Level::Critical, "REPLAY panicked: ", &format!("{info}"));
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}
