//! How an effect is attempted: pure state machines, one per policy.
//!
//! Time is a `std::time::Instant` that somebody else read; randomness is a number in `0.0..1.0` that somebody else
//! drew. Nothing here waits or allocates per call; a lock, where there is one, is held for some arithmetic. The order in
//! which policies apply is the stack's business.

pub mod admission;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod deadline;
pub mod endpoint;
pub mod fault;
pub mod hedge;
pub mod load;
pub mod outlier;
pub mod ownership;
pub mod pushback;
pub mod rate_limit;
pub mod response_class;
pub mod retry;
pub mod throttle;
mod window;

#[cfg(test)]
pub(crate) mod clock {
    use std::time::Instant;

    /// Some moment to count from.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way; tests only count from it")]
    pub(crate) fn some_instant() -> Instant {
        Instant::now()
    }
}
