//! From a TOML file to a validated, effective configuration, with the origin of each value.

mod effective;
mod origin;

pub use effective::*;
pub use origin::{Origin, Setting};
