//! Fuzz targets: one function a format, each with its invariants on top.
//!
//! Errors are fine, panics are bugs. A target panics when an invariant breaks
//! too, so that every runner sees it.
//!
//! * `cargo test -p iofs-fuzz` replays `corpus/TARGET/*` and
//!   `regressions/TARGET/*`, then mutates these and [`seeds`] for some seconds,
//!   the same way every time ([`smoke`]).
//! * `fuzz/long TARGET...` searches for ten minutes each with coverage (nightly,
//!   cargo-fuzz); `fuzz/keep TARGET...` takes the best of what was found to
//!   `corpus/TARGET/`.
//!
//! A new format needs: a function here, a line in [`TARGETS`], a seed in
//! [`seeds::of`], and four lines in `libfuzzer/` (a test says which are
//! missing). An input that broke something goes to `regressions/TARGET/`.

#![forbid(unsafe_code)]

mod disks;
mod firmware;
mod images;
mod prefetch;
mod records;
pub mod seeds;
pub mod smoke;
mod trust;
mod verity;
mod volumes;

pub use disks::{gpt, superblock};
pub use firmware::{pe, tpm};
pub use images::ddi;
pub use prefetch::{prefetch, trace};
pub use records::{absent, bls, cmdline, cpio, extension, kmod, modinfo, plan};
pub use trust::{certificate, trust};
pub use verity::{signature, verifier, verity};
pub use volumes::{erofs, ext4, fat};

/// A target: bytes in, nothing out, a panic if something is wrong.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("gpt", gpt),
    ("superblock", superblock),
    ("fat", fat),
    ("ext4", ext4),
    ("erofs", erofs),
    ("plan", plan),
    ("absent", absent),
    ("cmdline", cmdline),
    ("cpio", cpio),
    ("bls", bls),
    ("extension", extension),
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
    ("prefetch", prefetch),
    ("trace", trace),
];
