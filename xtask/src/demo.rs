//! To be written.
use std::error::Error;
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    Err("not yet".into())
}
