//! What one attempt proves about the effect, and how proofs join over attempts.
//!
//! The transport supplies [`AttemptEnd`]; [`AnswerRules`] turn it into a [`Verdict`]; [`Verdict::join`] folds the
//! verdicts of all attempts. Nobody guesses from error text.

use http::StatusCode;

/// How one attempt ended, as the transport saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Provably no byte of the request reached the upstream.
    NotSent(NotSent),
    /// A complete answer came back (its body was read to the end, or is being streamed after its head).
    Answered {
        /// The upstream's status.
        status: StatusCode,
        /// The upstream's own word on the effect, from its `Semel-Effect` header.
        mark: Option<EffectMark>,
    },
    /// Bytes may have been written and no complete answer came back.
    Lost(Lost),
}

/// Why the request provably never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// The upstream's name did not resolve.
    Dns,
    /// TCP connect failed (refused, unreachable) before any request byte.
    ConnectFailed,
    /// TCP connect did not finish in its time.
    ConnectTimeout,
    /// The HTTP client handed the request back unsent.
    HandedBack,
    /// The pooled connection was dead: the socket accepted no byte since dispatch.
    NoByteWritten,
    /// Our own limiter, breaker, pool bound or deadline refused before sending.
    RefusedHere,
}

/// Why nobody knows what the upstream did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The attempt's time was over before a complete answer.
    Timeout,
    /// The connection was reset or closed before the head of an answer.
    ConnectionLost,
    /// The answer's head came but its body ended early or broke.
    Truncated,
    /// The bytes that came back were not a valid HTTP answer.
    Malformed,
}

/// The value of a `Semel-Effect` header: somebody downstream says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EffectMark {
    /// The effect was not and will not be executed by this request.
    None,
    /// The effect was executed.
    Committed,
    /// Whoever answers does not know.
    Unknown,
    /// The effect is still being executed.
    Open,
}

impl EffectMark {
    /// Reads a header value; unknown words are `None` (the header is then ignored).
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value.trim() {
            "none" => Some(Self::None),
            "committed" => Some(Self::Committed),
            "unknown" => Some(Self::Unknown),
            "open" => Some(Self::Open),
            _ => None,
        }
    }

    /// The header value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Committed => "committed",
            Self::Unknown => "unknown",
            Self::Open => "open",
        }
    }
}

/// What is known about the effect. Ordered by strength: `executed > unknown > not executed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Surely not executed: the key may be released.
    NotExecuted,
    /// Nobody knows: never re-run silently.
    Unknown,
    /// Executed: settle it.
    Executed,
}
