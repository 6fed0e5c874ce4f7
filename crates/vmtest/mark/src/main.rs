//! The shortest init, for tests and benches.
//!
//! A static program, so that "the next init runs" is one kernel log line that
//! nothing but its own exec stands before. Then, for each word on the kernel
//! command line:
//!
//! * `iofs-test.facts`: prints mounts, modules, partitions and storage-init's
//!   report as lines `INITOVERLAYFS-FACT name: text`;
//! * `iofs-test.stay`: does not turn the machine off, but waits for ever.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use freestanding::{Heap, Start};
use kernel_abi::kmsg::{self, Level};
use kernel_abi::power::{self, Power};
use kernel_abi::{file, mount, process};

#[global_allocator]
static HEAP: Heap<{ 4 << 20 }> = Heap::new();

freestanding::entry!(main);

/// The most that is read of one fact, in bytes.
const LIMIT: usize = 256 << 10;

const FACTS: [(&str, &str); 5] = [
    ("mount", "/proc/self/mountinfo"),
    ("module", "/proc/modules"),
    ("partition", "/proc/partitions"),
    ("cmdline", "/proc/cmdline"),
    ("boot-json", "/run/initoverlayfs/boot.json"),
];

fn main(_start: Start) -> ! {
    if !file::exists("/dev/kmsg") {
        // Alone in an initramfs; with an init before it, /dev is there.
        let _ = mount::mount("dev", "/dev", "devtmpfs", mount::Flags::empty(), "");
    }
    // Found by the bench: its time is the kernel's, at the moment of the write.
    kmsg::write_raw(Level::Critical, "INITOVERLAYFS-MARK ", "next-init");
    if !file::exists("/proc/self") {
        // Where it cannot be mounted the marks do without the command line.
        let _ = mount::mount("proc", "/proc", "proc", mount::Flags::empty(), "");
    }
    let cmdline = file::read("/proc/cmdline", LIMIT).unwrap_or_default();
    let asked = |word: &str| {
        cmdline
            .split(|b| b.is_ascii_whitespace())
            .any(|given| given == word.as_bytes())
    };
    if asked("iofs-test.facts") {
        for (name, path) in FACTS {
            print(name, path);
        }
        kmsg::write_raw(Level::Critical, "INITOVERLAYFS-FACT ", "end");
    }
    if !asked("iofs-test.stay") {
        power::act(Power::Off);
    }
    loop {
        process::sleep(1_000_000);
    }
}

fn print(name: &str, path: &str) {
    let prefix = format!("INITOVERLAYFS-FACT {name}: ");
    match file::read(path, LIMIT) {
        Ok(bytes) => kmsg::write(
            Level::Critical,
            &prefix,
            &alloc::string::String::from_utf8_lossy(&bytes),
        ),
        Err(error) => kmsg::write(Level::Critical, &prefix, &format!("none ({error})")),
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kmsg::write(
        Level::Critical,
        "INITOVERLAYFS-MARK panicked: ",
        &format!("{info}"),
    );
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}
