//! Build, test and benchmark chores: cargo xtask --help.
#![allow(clippy::disallowed_methods, reason = "a chore reads files and the clock; nothing here ships")]

mod bench;
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
    /// Rewrites the plots of the policies' simulations, docs/src/simulations/*.svg.
    Simulate,
    /// Benchmarks beside their peers (haproxy, nginx, Restate), which are installed when missing.
    Bench {
        /// Which ones; all when none is named.
        #[arg(value_parser = ["forward", "policies", "once", "replay", "single", "restart"])]
        names: Vec<String>,
        /// Seconds of load per figure.
        #[arg(long, default_value_t = 6)]
        seconds: u32,
        /// Records that `restart` fills the ledger with.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// Leave out peers instead of installing them.
        #[arg(long)]
        no_peers: bool,
        /// Where the markdown goes.
        #[arg(long, default_value = "target/bench/results.md")]
        out: std::path::PathBuf,
    },
}

fn simulate() -> run::Outcome {
    let simulate =
        ["run", "--quiet", "--package", "semel-testkit", "--bin", "semel-simulate", "--", "docs/src/simulations"];
    run::run(&mut run::cargo(&simulate))
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Test { no_install } => test::test(!no_install),
        Chore::Tidy => tidy::tidy(),
        Chore::Simulate => simulate(),
        Chore::Bench { names, seconds, records, no_peers, out } => {
            bench::bench(&bench::Plan { names, seconds, records, peers: !no_peers, out })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
