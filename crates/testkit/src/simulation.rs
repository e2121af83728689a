//! A world in one thread and in virtual time: tokio's paused clock, ledgers that fail by plan.
//!
//! Everything here runs under `#[tokio::test(start_paused = true)]` or a runtime built that way: time passes only when
//! all tasks wait, so a run is a function of its seed.

mod clock;
mod faulty;
mod life;
mod log_ledger;
mod random;

pub use clock::VirtualClock;
pub use faulty::{Fault, FaultyLedger, Operation};
pub use life::{Life, MortalLedger};
pub use log_ledger::LogLedger;
pub use random::Random;
