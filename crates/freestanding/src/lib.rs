//! Start code for static programs without a libc.
//!
//! [`entry!`] defines `_start`; it hands the program its arguments and
//! environment. [`Heap`] is its allocator. The C memory functions that the
//! compiler calls, and that the gnu targets leave to libc, are here too. All
//! are small: the program is PID 1's and lies in every boot.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "runtime")]
mod arch;
mod heap;
#[cfg(feature = "runtime")]
mod memory;
mod start;

pub use heap::Heap;
pub use start::Start;

/// Defines the entry point of a freestanding program: `main` takes a
/// [`Start`] and never returns.
#[cfg(feature = "runtime")]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code, reason = "the name is what the start code calls")]
        // SAFETY: no other item of the program has this name.
        #[unsafe(no_mangle)]
        extern "C" fn freestanding_main(stack: *const usize) -> ! {
            let main: fn($crate::Start) -> ! = $main;
            // SAFETY: the start code passes the stack pointer that the kernel
            // set up, and calls this once.
            #[allow(unsafe_code, reason = "reads the kernel's initial stack")]
            main(unsafe { $crate::Start::from_stack(stack) })
        }
    };
}
