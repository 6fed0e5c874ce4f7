//! Stand-in for klibc's and busybox's `run-init` and busybox's `switch_root` in
//! an init image; see the library's `run_init`.

#![no_std]
#![no_main]

use freestanding::{Heap, Start};

#[global_allocator]
static HEAP: Heap<{ 1 << 20 }> = Heap::new();

freestanding::entry!(main);

fn main(start: Start) -> ! {
    storage_init::run_init::main(&start)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    storage_init::report::panicked(info)
}
