//! How a call is attempted, as layers over the pure state machines of [`semel_core::policy`].
//!
//! Each layer stands alone in any tower stack and wraps any request and response type; [`Policies`] puts several of them
//! into their order. A layer that can refuse, or that
//! puts a bound on time, has [`BoxError`](crate::BoxError) as its error, like tower's own: the refusal is a type that the
//! error can be downcast to.

mod admission;
mod balance;
mod breaker;
mod bulkhead;
mod cancel;
mod classify;
mod deadline;
mod fault;
mod gate;
mod hedge;
mod hold;
pub mod place;
mod policies;
mod problem;
mod protocol;
mod rate_limit;
mod refusal;
mod repeat;
mod retry;
mod throttle;
mod timeout;
mod tried;

pub use admission::{
    AdmissionFuture, AdmissionGate, AdmissionLayer, AdmissionService, AllAlike, InFlight, Rank, RankBy, ReducedCapacity,
};
pub use balance::{Balance, BalanceFuture, BalancePolicies};
pub use breaker::{BreakerLayer, Breaking};
pub use bulkhead::{BulkheadFuture, BulkheadLayer, BulkheadService, Taken, bulkhead_problem};
pub use classify::{ByResult, ByStatus, Classify};
pub use deadline::{DeadlineLayer, DeadlineOver, Deadlined};
pub use fault::{FaultBody, FaultFuture, FaultLayer, FaultService, TruncatedOnPurpose};
pub use gate::{Gate, GateLayer, Gated, GatedFuture, NotReady};
pub use hedge::{HedgeFuture, HedgeLayer, Hedged};
pub use hold::{Held, HeldBody, Hold, UntilAnswer, UntilBodyEnds};
pub use policies::Policies;
pub use problem::{ProblemFuture, ProblemLayer, Problems, problem_of};
pub use protocol::{AnyCall, ByDeadline, Http, Protocol};
pub use rate_limit::{Announce, Announced, QuotaExceeded, RateLimit, RateLimitFuture, RateLimitLayer, Silent};
pub use refusal::{RefusedLater, RefusedOr, is_refusal};
pub use repeat::{Always, HttpRepeat, Repeat, ReplayBody};
pub use retry::{Retry, RetryFuture, RetryLayer};
pub use throttle::{ThrottleLayer, Throttling};
pub use timeout::{Elapsed, Timeout, TimeoutFuture, TimeoutLayer};
pub use tried::{Tried, TriedBy};
