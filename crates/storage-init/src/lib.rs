//! storage-init: from the kernel's first process to the init of an EROFS image.
//!
//! [`boot`] is the boot, top to bottom. The other modules are its steps, in the
//! order in which it takes them. Nothing here needs a libc or the standard
//! library, and everything reads the system through [`paths::Paths`], so that
//! tests can show it a system of their own.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot;
pub mod boot_json;
pub mod direct;
pub mod disks;
pub mod extensions;
pub mod firmware;
pub mod folder;
pub mod handover;
pub mod hunt;
pub mod image;
pub mod kernel_mount;
pub mod log;
pub mod measure;
pub mod memory;
pub mod merge;
pub mod modules;
pub mod pack;
pub mod paths;
pub mod prefetch;
pub mod record;
pub mod release;
pub mod report;
pub mod root;
pub mod run_init;
pub mod schedule;
pub mod search;
pub mod settings;
pub mod setup;
pub mod stack;
pub mod system;
pub mod trust;
pub mod undriven;

use freestanding::Start;
use kernel_abi::process;

/// The whole life of PID 1: boot, or say why not and end as the plan says.
pub fn main(start: &Start) -> ! {
    if !process::is_init() {
        process::write_error(
            "storage-init is the first process of a mini-initramfs and does nothing else; \
             initoverlayfs build makes one\n",
        );
        process::exit(1);
    }
    let mut log = log::Log::new();
    let mut settings = None;
    let failure = match boot::run(start, &mut log, &mut settings) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    report::give_up(&failure, &log, settings.as_ref())
}
