//! The HTTP gateway: listener, routing, effects, policies, upstream.
//!
//! The wire is here: [`listener`] reads callers strictly, [`upstream`] makes attempts that say what they prove,
//! [`forward`] joins the two.

pub mod body;
pub mod clock;
pub mod forward;
pub mod headers;
pub mod listener;
pub mod metrics;
pub mod problem;
pub mod upstream;

mod random;
mod timer;
