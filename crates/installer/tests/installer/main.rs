//! Tests of whole installations, in folders that go away.

// Clippy knows only functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used)]

mod common;
mod crash;
mod install;
mod partitions;
