//! How a call is attempted, as layers over the pure state machines of [`semel_core::policy`].
//!
//! Each layer stands alone in any tower stack and wraps any request and response type. A layer that can refuse, or that
//! puts a bound on time, has [`BoxError`](crate::BoxError) as its error, like tower's own: the refusal is a type that the
//! error can be downcast to.

mod admission;
mod bulkhead;
mod fault;
mod hold;
mod rate_limit;

pub use admission::{
    AdmissionFuture, AdmissionLayer, AdmissionService, AllAlike, InFlight, Rank, RankBy, ReducedCapacity,
};
pub use bulkhead::{BulkheadFuture, BulkheadLayer, BulkheadService, Taken, bulkhead_problem};
pub use fault::{FaultBody, FaultFuture, FaultLayer, FaultService, TruncatedOnPurpose};
pub use hold::{HeldBody, Hold, UntilAnswer, UntilBodyEnds};
pub use rate_limit::{
    Announce, Announced, QuotaExceeded, RATELIMIT, RATELIMIT_POLICY, RateLimit, RateLimitFuture, RateLimitLayer, Silent,
};
