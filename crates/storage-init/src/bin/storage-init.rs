//! PID 1 of the mini-initramfs. The boot is in the library, in `boot.rs`; this is the program around it.

#![no_std]
#![no_main]

use freestanding::{Heap, Start};

/// The memory that a boot may take. The kernel backs only what is touched:
/// about 200 KiB in an ordinary boot.
const HEAP_LEN: usize = 32 << 20;

#[global_allocator]
static HEAP: Heap<HEAP_LEN> = Heap::new();

freestanding::entry!(main);

fn main(start: Start) -> ! {
    storage_init::main(&start)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    storage_init::report::panicked(info)
}
