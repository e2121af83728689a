//! Test parts: flaky upstream, effect oracle, crashing disk, simulated clock. A dev-dependency only.
//!
//! Every part states what it may be trusted for, because a proof is only as good as the thing that checks it.
#![allow(clippy::disallowed_methods, reason = "this crate is the outside world of the tests: it owns clocks and files")]

pub mod client;
pub mod clock;
pub mod http1;
pub mod nats;
pub mod oracle;
pub mod plan;
pub mod policy_simulation;
pub mod postgres;
pub mod power;
pub mod process;
pub mod rig;
pub mod simulation;
mod skip;
pub mod strace;
pub mod upstream;

pub use skip::skipped;
