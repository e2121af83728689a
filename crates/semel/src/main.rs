//! semel makes every effect happen once: a gateway in front of any HTTP service. This crate is the binary: CLI and
//! wiring only.

mod admin_client;
mod commands;
mod config_file;
mod contracts;
mod demo;
mod exit;
mod ledger;
mod logging;
mod narrator;
mod pages;
mod process;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};

/// semel makes every effect happen once: a gateway in front of any HTTP service.
///
/// Put it before a service, send an Idempotency-Key, and no retry, race, crash or lost reply runs an effect twice.
#[derive(Debug, Parser)]
#[command(version, after_help = exit::TABLE, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(commands::dev::Dev),
    Run(commands::run::Run),
    Init(commands::init::Init),
    Check(commands::check::Check),
    Explain(commands::explain::Explain),
    Effects(commands::effects::Effects),
    Ledger(commands::ledger::Ledger),
    Top(commands::top::Top),
    Limits(commands::limits::Limits),
    Reload(commands::reload::Reload),
    Demo(commands::demo::Demo),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Dev(dev) => dev.run(),
        Command::Run(run) => run.run(),
        Command::Init(init) => init.run(),
        Command::Check(check) => check.run(),
        Command::Explain(explain) => explain.run(),
        Command::Effects(effects) => effects.run(),
        Command::Ledger(ledger) => ledger.run(),
        Command::Top(top) => top.run(),
        Command::Limits(limits) => limits.run(),
        Command::Reload(reload) => reload.run(),
        Command::Demo(demo) => demo.run(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}

/// What a command comes to.
type Outcome = Result<Exit, Failure>;
