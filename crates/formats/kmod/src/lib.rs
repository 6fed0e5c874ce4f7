//! Kernel modules: what depends on what, which one serves an alias, what a
//! module says of itself.
//!
//! Sources: the text files that depmod(8) writes beside a kernel's modules,
//! modprobe.d(5), libkmod's resolution of names (libkmod-module.c, `kmod_module_
//! new_from_lookup` and `kmod_module_probe_insert_module`), its index files
//! (libkmod-index.c), elf(5), scripts/sign-file.c.
//!
//! [`Index`] answers what `modprobe --resolve-alias` and `--show-depends`
//! answer; [`ModInfo`] reads a module; [`rewrite_dep`] and [`dep_index`] keep
//! modules.dep right where modules were renamed.
//!
//! Text is lines of UTF-8; lines that say nothing known are passed over, as
//! libkmod does, and listed in [`Index::warnings`]. Names are compared with `-`
//! as `_`. Modules are ELF, 32 or 64 bits, little-endian; others are refused.
//! Nothing here does I/O: the caller hands over texts and bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod binary;
mod config;
mod index;
mod modinfo;
mod order;
mod rewrite;
mod text;

pub use binary::{BinaryError, dep_index};
pub use config::{ConfigFile, Warning};
pub use index::{Index, Module, Resolved, Texts};
pub use modinfo::{ModInfo, ModInfoError, is_signed};
pub use order::{OrderError, blocks};
pub use rewrite::rewrite_dep;
pub use text::{module_name, normalize, parse_builtin_modinfo, parse_order};

#[cfg(test)]
mod tests;
