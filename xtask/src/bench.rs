//! To be written.
use std::error::Error;
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_a: &Args) -> Result<(), Box<dyn Error>> {
    Err("not yet".into())
}
