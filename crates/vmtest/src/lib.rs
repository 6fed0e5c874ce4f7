//! The ground on which demo, tests and benches run: guests, disks, a kernel as
//! a program, and the packages that they need.
//!
//! Two tiers. [`uml`] runs Debian's user-mode-linux at native speed: one second
//! to PID 1; for the logic of storage-init, faults and tampering. QEMU (crate
//! `qemu-driver`) is for firmware, buses, distribution kernels and figures.
//! Nothing depends on this crate but xtask and its own tests.

#![forbid(unsafe_code)]

pub mod apt;
pub mod cache;
pub mod command;
pub mod debian;
pub mod disk;
pub mod dist;
pub mod drive;
mod error;
pub mod guest;
pub mod initramfs;
pub mod kernels;
pub mod matrix;
pub mod mirror;
pub mod mkosi;
pub mod packages;
pub mod peers;
pub mod set;
pub mod stack;
pub mod storage;
pub mod tier;
pub mod tools;
pub mod uml;

pub use error::Error;
