//! What a developer runs: `cargo xtask help`.

#![forbid(unsafe_code)]

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
    /// Makes the cached Debian 13 guest and says where it is.
    Guest,
    /// Installs the Debian packages that everything else needs (as root), or
    /// prints the line that does.
    Packages,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.task {
        Task::Guest => guest(),
        Task::Packages => {
            vmtest::packages::ensure(&vmtest::cache::root().join("log"), &mut |line| {
                println!("{line}")
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guest() -> Result<(), vmtest::Error> {
    let guest = vmtest::guest::Guest::ensure(&mut |line| println!("{line}"))?;
    println!("kernel {}: {}", guest.kernel_release(), guest.tree().display());
    Ok(())
}
