//! Kernel operations for early boot, without a libc.
//!
//! One typed function a kernel operation; each names the system call, the ioctl
//! or the kernel file that it stands on. Most go through rustix's `linux_raw`
//! back end; the few calls that it does not offer without an initialised
//! auxiliary vector or at all (fork, exec, clock) are in [`arch`]. This is the
//! only library of the workspace with `unsafe` code; each block says why it is
//! sound.
//!
//! Errors are [`Error`]: what was attempted, on what, and the errno.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arch;
pub mod block;
pub mod clock;
pub mod dm;
mod error;
pub mod fanotify;
pub mod fiemap;
pub mod file;
pub mod keys;
pub mod kmsg;
pub mod loopdev;
pub mod module;
pub mod mount;
pub mod pages;
pub mod power;
pub mod process;
pub mod readahead;
pub mod tpm;
pub mod tree;
pub mod uevent;

pub use error::{Error, Result, errno_text};
pub use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
pub use rustix::io::Errno;
