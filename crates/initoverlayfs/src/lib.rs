//! The command line over builder, installer and QEMU.
//!
//! [`cli`] is the one definition of flags, help, man pages and completions.
//! Each command first resolves its arguments into a plan that holds nothing
//! but what is to be done, then runs it. Standard output has what was asked
//! for; progress, warnings and errors go to standard error. The exit status is 0
//! for success, 1 for a failure, 2 for a command line that cannot be used.

#![forbid(unsafe_code)]

mod analyze;
mod build;
pub mod cli;
mod error;
mod esp;
mod extension;
mod hint;
mod inspect;
mod install;
mod keygen;
mod manual;
mod place;
mod plan;
mod profile;
mod run;
mod sign;
mod ui;
mod verify;

use std::process::ExitCode;

use clap::Parser;

pub use error::CliError;
pub use place::PlaceArg;

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints its own errors and help, with the same exit status.
    let cli = cli::Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: cli::Command) -> error::Result<()> {
    use cli::Command;
    match command {
        Command::Build(args) => build::run(*args),
        Command::BuildExtension(args) => extension::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Install(args) => install::run(&args),
        Command::Run(args) => run::run(args),
        Command::Hint(args) => hint::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::man(&args.dir),
    }
}
