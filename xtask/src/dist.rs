//! `cargo xtask dist`: the programs side by side, as a package has them.

use std::error::Error;
use std::fs;

use vmtest::dist::{self, PROGRAMS};

use crate::step;

/// Builds and says what there is.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let folder = dist::build(&step::logs()?.join("dist.log"))?;
    for (_, program) in PROGRAMS {
        let path = folder.join(program);
        println!(
            "{:>9} bytes  {}",
            fs::metadata(&path)?.len(),
            path.display()
        );
    }
    Ok(())
}
