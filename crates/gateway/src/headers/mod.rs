//! What happens to headers on the way through.

pub mod forwarded;
pub(crate) mod hop;
pub mod host;
pub(crate) mod survey;
pub mod trace;

mod hex;
