//! What a developer runs: `cargo xtask help`.

#![forbid(unsafe_code)]

mod bench;
mod boots;
mod counts;
mod debian;
mod demo;
mod dist;
mod matrix;
mod step;
mod table;
mod test;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the initoverlayfs project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs everything that CI runs; the last line counts the tests.
    Test(test::Args),
    /// Boots Debian 13 through storage-init, and as its own initramfs does, and
    /// shows both side by side.
    Demo,
    /// Measures.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Writes docs/matrix.md, what boots on what, from what the tests have seen.
    Matrix,
    /// Builds storage-init, run-init and the command line into target/dist.
    Dist,
    /// Makes the cached Debian 13 guest and says where it is.
    Guest,
    /// Installs the Debian packages that everything else needs (as root), or
    /// prints the line that does.
    Packages,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test(args) => return test::run(&args),
        Task::Demo => demo::run(),
        Task::Bench(bench) => bench::run(&bench),
        Task::Matrix => matrix::run(),
        Task::Dist => dist::run(),
        Task::Guest => guest(),
        Task::Packages => step::packages().map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guest() -> Result<(), Box<dyn Error>> {
    step::packages()?;
    let guest = step::guest()?;
    println!("kernel     {}", guest.kernel().display());
    println!("release    {}", guest.kernel_release());
    println!("tree       {}", guest.tree().display());
    println!("dracut     {}", guest.dracut_initrd().display());
    println!("initramfs  {}", guest.initramfs_tools_initrd().display());
    println!("root       {}", guest.root_image().display());
    Ok(())
}
