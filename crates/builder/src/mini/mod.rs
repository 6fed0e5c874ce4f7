//! The mini-initramfs.

mod catalogue;
pub(crate) mod host;
mod index;
mod pack;
mod plan;
mod select;

pub(crate) use pack::{build, read_module};
