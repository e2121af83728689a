//! What became of each call, for those who count and log.

use std::time::Duration;

use http::StatusCode;

use crate::EffectRequest;

/// Is told what became of each call on a keyed route. Must be quick: it is called on the path of the answer.
pub trait Observe: Send + Sync + 'static {
    /// One call is over as far as the ledger is concerned.
    fn concluded(&self, report: &Report<'_>);
}

/// Nobody looks.
impl Observe for () {
    fn concluded(&self, _: &Report<'_>) {}
}

/// What became of one call.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The call.
    pub request: &'a EffectRequest,
    /// In one word.
    pub result: CallResult,
    /// The status of the recorded or fresh upstream answer, if there is one.
    pub status: Option<StatusCode>,
    /// Attempts made by this call.
    pub attempts: u32,
    /// Where its time went.
    pub stages: Stages,
}

/// How long each stage of a call took; zero for those it did not go through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Looking the key up, and waiting for another call's conclusion.
    pub look_up: Duration,
    /// Making the claim durable.
    pub claim: Duration,
    /// The attempts.
    pub execute: Duration,
    /// Making the conclusion durable.
    pub settle: Duration,
}

/// What became of one call, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallResult {
    /// It made the effect happen.
    Executed,
    /// It got the recorded answer.
    Replayed,
    /// It waited for another call and got that one's answer.
    Joined,
    /// It was attempted and surely not executed.
    NotExecuted,
    /// Nobody knows.
    Unknown,
    /// It was turned away without an attempt.
    Refused(Refused),
}

/// Why a call was turned away without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The same key was used for another request.
    KeyReused,
    /// Another call with this key is still open.
    InFlight,
    /// The call that it waited for was surely not executed, and its key is free again.
    Released,
    /// The effect was executed and its answer not kept.
    Consumed,
    /// The answer's window is over.
    KeyExpired,
    /// The effect's outcome is unknown and it is held.
    OutcomeUnknown,
    /// The recorded answer belongs to another credential.
    PrincipalUnverified,
    /// Too many callers wait already.
    TooManyWaiters,
    /// The ledger cannot be reached, or cannot write.
    LedgerUnavailable,
    /// The ledger takes no new effects.
    ClaimsPaused,
    /// The caller's deadline was over before the first byte.
    DeadlineExceeded,
    /// There is no capacity for it: nothing was sent, and it should come again later.
    ReducedCapacity,
}

impl CallResult {
    /// All words, for a metric that wants a fixed set.
    pub const WORDS: [&str; 17] = [
        "executed",
        "replayed",
        "joined",
        "not-executed",
        "unknown",
        "key-reused",
        "in-flight",
        "consumed",
        "key-expired",
        "outcome-unknown",
        "principal-unverified",
        "too-many-waiters",
        "ledger-unavailable",
        "deadline-exceeded",
        "claims-paused",
        "released",
        "reduced-capacity",
    ];

    /// The word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self.index()]
    }

    /// Its place among [`CallResult::WORDS`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Executed => 0,
            Self::Replayed => 1,
            Self::Joined => 2,
            Self::NotExecuted => 3,
            Self::Unknown => 4,
            Self::Refused(Refused::KeyReused) => 5,
            Self::Refused(Refused::InFlight) => 6,
            Self::Refused(Refused::Consumed) => 7,
            Self::Refused(Refused::KeyExpired) => 8,
            Self::Refused(Refused::OutcomeUnknown) => 9,
            Self::Refused(Refused::PrincipalUnverified) => 10,
            Self::Refused(Refused::TooManyWaiters) => 11,
            Self::Refused(Refused::LedgerUnavailable) => 12,
            Self::Refused(Refused::DeadlineExceeded) => 13,
            Self::Refused(Refused::ClaimsPaused) => 14,
            Self::Refused(Refused::Released) => 15,
            Self::Refused(Refused::ReducedCapacity) => 16,
        }
    }
}
