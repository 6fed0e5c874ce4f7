//! An init that says how far the processor's counter is, which runs since the
//! machine's reset: less the kernel's own time of that line, it is what firmware, boot
//! loader and the kernel's decompression took.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use freestanding::{Heap, Start};
use kernel_abi::kmsg::{self, Level};
use kernel_abi::mount::{self, Flags};
use kernel_abi::power::{self, Power};
use kernel_abi::{clock, process};

#[global_allocator]
static HEAP: Heap<{ 1 << 20 }> = Heap::new();

freestanding::entry!(main);

fn main(_start: Start) -> ! {
    // Where it fails nothing is written, which is seen.
    let _ = mount::mount("dev", "/dev", "devtmpfs", Flags::empty(), "");
    let ticks = format!("{}", clock::ticks());
    kmsg::write_raw(Level::Critical, "INITOVERLAYFS-TICKS ", &ticks);
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kmsg::write(
        Level::Critical,
        "INITOVERLAYFS-TICKS panicked: ",
        &format!("{info}"),
    );
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}
