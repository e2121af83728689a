//! The places of policies, from the caller inwards.
//!
//! They are types without values: [`Policies`](super::Policies) is at one of them, and goes only inwards.

/// This place is further out than `Inner`: what belongs there can still be added.
#[diagnostic::on_unimplemented(
    message = "the order of policies is fixed: `{Inner}` stands outside `{Self}`",
    label = "call this before what belongs further in",
    note = "the order, from the caller inwards, is that of the table at `semel_tower::policy::Policies`"
)]
pub trait Before<Inner> {}

macro_rules! places {
    ($($(#[$doc:meta])+ $place:ident,)+) => {
        $($(#[$doc])+ #[derive(Clone, Copy, Debug)] pub enum $place {})+
        places!(@order $($place)+);
    };
    (@order $outer:ident $($inner:ident)*) => {
        $(impl Before<$inner> for $outer {})*
        places!(@order $($inner)*);
    };
    (@order) => {};
}

places! {
    /// Nothing has been added.
    Caller,
    /// Refusals become answers.
    Answers,
    /// The caller's deadline is known.
    Deadline,
    /// Callers are counted.
    RateLimit,
    /// The ledger is asked.
    Ledger,
    /// There is room, or a wait for it.
    Admission,
    /// The whole call has its time.
    TotalTimeout,
    /// Attempts begin.
    Retry,
    /// Attempts are doubled.
    Hedge,
    /// Each attempt has its time.
    AttemptTimeout,
    /// Faults on purpose.
    Fault,
    /// What is refused anyway is not sent.
    Throttle,
    /// Who fails is left alone.
    Breaker,
    /// There is room where it is sent.
    Bulkhead,
}
