//! What the layers that refuse promise to the stacks they stand in: readiness, cancellation, permits that come back.

mod admission;
mod bulkhead;
mod fault;
mod rate_limit;
mod strict;
