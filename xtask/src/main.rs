//! Build, test and benchmark chores: cargo xtask --help.
#![allow(clippy::disallowed_methods, reason = "a chore reads files and the clock; nothing here ships")]

mod packages;
mod run;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and benchmark chores of semel")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything CI runs: format, lints, tidy, all tests, doc tests, docs.
    Test {
        /// Do not install missing Debian packages; tests that need them say what is missing.
        #[arg(long)]
        no_install: bool,
    },
    /// The rules of the house that no compiler checks: arrows, room sizes, licences, pages.
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Test { no_install } => test::test(!no_install),
        Chore::Tidy => tidy::tidy(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
