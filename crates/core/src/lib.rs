//! The pure heart of semel: keys, fingerprints, the effect state machine and every policy.
//!
//! Nothing here does I/O, reads a clock or draws randomness: `now` and random numbers are arguments, so that every
//! decision can be tested exhaustively and replayed from a seed.

pub mod answer;
pub mod canonical_json;
pub mod code;
pub mod contract;
pub mod dialect;
pub mod effect;
pub mod evidence;
pub mod fingerprint;
pub mod headers;
pub mod key;
pub mod policy;
pub mod problem;
pub mod route;
pub mod scope;
pub mod time;
