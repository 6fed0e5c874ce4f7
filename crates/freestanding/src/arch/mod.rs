//! `_start`, one file an architecture.

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code, reason = "an entry point cannot be written in safe code")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "an entry point cannot be written in safe code")]
mod x86_64;
