//! The build with the Rust that Debian 13 packages.
//!
//! In a cached Debian 13 tree with its own cargo and rustc, without network:
//! the sources are bound read-only in effect (the lock file is locked), the
//! dependencies come from `cargo vendor`, which does not depend on either
//! cargo's cache format. What it builds is kept in the cache.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use vmtest::cache;
use vmtest::debian::{self, Chroot};
use vmtest::guest::workspace;

use crate::step::{self, Finished};

const PACKAGES: &[&str] = &["cargo", "gcc", "libc6-dev", "rustc"];

const RECIPE_VERSION: &[u8] = b"1";

/// Where things are in the tree.
const SOURCES: &str = "/src";
const VENDOR: &str = "/vendor";
const TARGET: &str = "/build";

/// What is built: everything that is shipped, and PID 1 as it is shipped.
const BUILDS: [&str; 2] = [
    "check --workspace --exclude xtask --exclude vmtest --lib --bins",
    "build --package storage-init --features freestanding --profile pid1",
];

/// Builds with Debian's Rust; the log has all output.
pub(crate) fn build(log: &Path) -> Result<Finished, Box<dyn Error>> {
    let packages = PACKAGES.join(",");
    let recipe = [
        RECIPE_VERSION,
        debian::SUITE.as_bytes(),
        packages.as_bytes(),
    ];
    let entry = cache::entry("debian-13-rust", &recipe, |dir| {
        debian::bootstrap(&dir.join("tree"), PACKAGES, &dir.join("log"))
    })?;
    let target = entry.path.join("target");
    fs::create_dir_all(&target)?;
    let vendor = workspace().join("target/vendor");
    let limit = Duration::from_secs(1500);
    let mut cargo = step::cargo(&["vendor", "--versioned-dirs"]);
    cargo.arg(&vendor);
    let mut finished = step::run(cargo, log, limit)?;
    if !finished.success {
        return Ok(finished);
    }
    let inside = Chroot::new(entry.path.join("tree"))
        .bind(workspace(), SOURCES)
        .bind(&vendor, VENDOR)
        .bind(&target, TARGET)
        .env("CARGO_TARGET_DIR", TARGET)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TERM_COLOR", "never");
    for build in BUILDS {
        let script = format!(
            "cd {SOURCES} && rustc --version && cargo {build} --locked \
             --config 'source.crates-io.replace-with=\"vendored\"' \
             --config 'source.vendored.directory=\"{VENDOR}\"'"
        );
        finished = step::run(inside.command(&["sh", "-c", &script]), log, limit)?;
        if !finished.success {
            break;
        }
    }
    Ok(finished)
}
