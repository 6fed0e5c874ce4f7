//! `cargo xtask dist`: the programs side by side, as a package has them.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use vmtest::guest::{target_dir, workspace};

use crate::step;

/// Where the programs are after [`build`].
pub(crate) fn folder() -> PathBuf {
    workspace().join("target/dist")
}

/// The cargo invocations, in order.
pub(crate) const BUILDS: [&[&str]; 2] = [
    &[
        "build",
        "--package",
        "storage-init",
        "--features",
        "freestanding",
        "--profile",
        "pid1",
    ],
    &["build", "--package", "initoverlayfs", "--release"],
];

/// What is copied: the profile's folder and the program.
const PROGRAMS: [(&str, &str); 3] = [
    ("release", "initoverlayfs"),
    ("pid1", "storage-init"),
    ("pid1", "run-init"),
];

/// Builds and says what there is.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    build()?;
    for (_, program) in PROGRAMS {
        let path = folder().join(program);
        println!(
            "{:>9} bytes  {}",
            fs::metadata(&path)?.len(),
            path.display()
        );
    }
    Ok(())
}

/// Builds the programs into [`folder`].
pub(crate) fn build() -> Result<(), Box<dyn Error>> {
    let log = step::logs()?.join("dist.log");
    for args in BUILDS {
        let finished = step::run(step::cargo(args), &log, Duration::from_secs(1200))?;
        if !finished.success {
            return Err(format!(
                "cargo {} failed:\n{}",
                args.join(" "),
                step::tail(&finished.output)
            )
            .into());
        }
    }
    collect()
}

/// Copies what was built into [`folder`].
pub(crate) fn collect() -> Result<(), Box<dyn Error>> {
    let to = folder();
    fs::create_dir_all(&to)?;
    for (profile, program) in PROGRAMS {
        let from = target_dir().join(profile).join(program);
        let partial = to.join(format!(".{program}"));
        fs::copy(&from, &partial).map_err(|e| format!("copying {}: {e}", from.display()))?;
        // A program that is running cannot be written over, only replaced.
        fs::rename(&partial, to.join(program))?;
    }
    Ok(())
}
