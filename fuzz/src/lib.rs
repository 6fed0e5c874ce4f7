//! Fuzz targets: one function a format, each with its invariants on top.
//!
//! Errors are fine, panics are bugs. A target panics when an invariant breaks
//! too, so that every runner sees it.
//!
//! * `cargo test -p iofs-fuzz` mutates [`seeds`] for some seconds, the same way
//!   every time ([`smoke`]), and replays `regressions/TARGET/*`.
//! * `cargo run -p iofs-fuzz --example seeds -- fuzz/libfuzzer/corpus`, then
//!   `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer TARGET`, searches
//!   for longer with coverage.
//!
//! A new format needs: a function here, a line in [`TARGETS`], a seed in
//! [`seeds::of`], and four lines in `libfuzzer/` (a test says which are
//! missing). An input that broke something goes to `regressions/TARGET/`.

#![forbid(unsafe_code)]

mod disks;
mod firmware;
mod images;
mod records;
pub mod seeds;
pub mod smoke;
mod trust;
mod verity;
mod volumes;

pub use disks::gpt;
pub use firmware::{pe, tpm};
pub use images::ddi;
pub use records::{bls, cmdline, cpio, kmod, modinfo, plan};
pub use trust::{certificate, trust};
pub use verity::{signature, verifier, verity};
pub use volumes::{erofs, ext4, fat};

/// A target: bytes in, nothing out, a panic if something is wrong.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("gpt", gpt),
    ("fat", fat),
    ("ext4", ext4),
    ("erofs", erofs),
    ("plan", plan),
    ("cmdline", cmdline),
    ("cpio", cpio),
    ("bls", bls),
    ("kmod", kmod),
    ("modinfo", modinfo),
    ("verity", verity),
    ("verifier", verifier),
    ("signature", signature),
    ("certificate", certificate),
    ("trust", trust),
    ("ddi", ddi),
    ("pe", pe),
    ("tpm", tpm),
];
