//! Load for the benchmarks: callers, an upstream stub, and a disk probe. Driven by `cargo xtask bench`; prints one JSON
//! object a run.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time and disks: it is the outside world")]

mod callers;
mod probe;
mod processes;
mod stub;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Load for the benchmarks of semel; loopback only")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Answers every request at once, on one thread.
    Stub(stub::Stub),
    /// Calls a server and reports rate, latencies and the CPU time of given processes.
    Run(callers::Run),
    /// Appends and rewrites 4 KiB with fdatasync, and reports how long a flush takes.
    Probe(probe::Probe),
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().part {
        Part::Stub(stub) => runtime.block_on(stub.serve()),
        Part::Run(run) => runtime.block_on(run.report()),
        Part::Probe(probe) => probe.report(),
    }
}
