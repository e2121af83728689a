//! The HTTP gateway: listener, routing, effects, policies, upstream.
//!
//! The wire is here: [`listener`] reads callers strictly, [`upstream`] makes attempts that say what they prove,
//! [`forward`] joins the two. [`stack`] is the whole path of a request on one screen.

pub mod admission;
pub mod body;
pub mod buffer;
pub mod clock;
pub mod cors;
pub mod fault;
pub mod forward;
pub mod headers;
pub mod hedge;
pub mod listener;
pub mod metrics;
pub mod once;
pub mod probe;
pub mod problem;
pub mod rate;
pub mod resend;
pub mod resolver;
pub mod serving;
pub mod site;
pub mod stack;
pub mod upstream;

mod fleet;
mod keeper;
mod random;
mod timer;
