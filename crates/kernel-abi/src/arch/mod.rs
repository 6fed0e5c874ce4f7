//! Raw system calls, one file an architecture.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod imp;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod imp;

pub(crate) use imp::{syscall5, ticks};
