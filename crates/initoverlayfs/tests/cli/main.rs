//! Tests of the program as a user runs it.

// Clippy knows only functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod analyze;
mod basics;
mod build;
mod common;
mod extensions;
mod hint;
mod inspect;
mod install;
mod memory;
mod plan;
mod profile;
mod trust;
