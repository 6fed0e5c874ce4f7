//! The mini-initramfs.

mod absent;
mod archive;
mod catalogue;
mod embedded;
pub(crate) mod host;
mod index;
mod pack;
mod packs;
mod plan;
mod select;

pub use pack::MiniAhead;
pub(crate) use pack::{build, read_module};
