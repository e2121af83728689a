//! Whoever makes an effect happen: the seam between the effect's life and its attempts.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use semel_core::{
    effect::Fence,
    evidence::{AttemptEnd, Tally},
    scope::{EffectId, SettlementToken, UpstreamKey},
};
use tokio::time::Instant;

use crate::{Buffered, lease::Lease};

/// Any error of a streamed body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes an effect happen by one or more attempts, and says what they prove.
///
/// It runs in a task of its own: a caller that hangs up does not cancel it.
pub trait Execute: Send + Sync + 'static {
    /// Attempts the effect until it is decided, its policy gives up, or `claimed.give_up_by` is over.
    ///
    /// Before the first byte of each attempt it must ask `claimed.lease` whether the claim still stands, and it must
    /// start from `claimed.tally`, never from "nothing sent".
    fn execute(&self, claimed: Claimed) -> impl Future<Output = Execution> + Send;

    /// Asks a status resource what became of an unknown effect.
    ///
    /// [`Finding::Fenced`] promises that the upstream will never execute this key; a plain "not found" is not that.
    fn probe(&self, _effect: ProbeTarget) -> impl Future<Output = Finding> + Send {
        std::future::ready(Finding::StillUnknown)
    }
}

/// A claimed effect, ready to be attempted.
#[derive(Debug)]
pub struct Claimed {
    /// What to send.
    pub message: Arc<Buffered>,
    /// Its place in the ledger.
    pub id: EffectId,
    /// The claim.
    pub fence: Fence,
    /// What earlier claims' attempts left: the joined verdict starts here.
    pub tally: Tally,
    /// The key for the upstream: the same for every attempt of this effect.
    pub upstream_key: UpstreamKey,
    /// With this the upstream may settle the effect itself.
    pub settlement_token: SettlementToken,
    /// When the caller stops waiting: nothing is *begun* after it.
    pub deadline: Instant,
    /// Whether the claim still stands.
    pub lease: Arc<Lease>,
}

/// What executing came to.
#[derive(Debug)]
pub struct Execution {
    /// The joined verdict of all attempts.
    pub tally: Tally,
    /// How the last attempt ended; none when no attempt was begun.
    pub end: Option<AttemptEnd>,
    /// Attempts begun.
    pub attempts: u32,
    /// The last answer, if one came.
    pub answer: Option<UpstreamAnswer>,
}

/// An upstream's answer, with its body or the way to it.
#[derive(Debug)]
pub struct UpstreamAnswer {
    /// The status.
    pub status: StatusCode,
    /// All headers that go to the caller; what is stored of them is chosen later.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of it: it can be kept.
    Whole(Bytes),
    /// Too large to keep, or an event stream: it can only be passed on.
    Streaming(UnsyncBoxBody<Bytes, BoxError>),
}

/// What a status resource is asked about.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// Its place in the ledger.
    pub id: EffectId,
    /// The key as the upstream knows it.
    pub upstream_key: UpstreamKey,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// What a status resource said.
#[derive(Debug)]
pub enum Finding {
    /// It was executed, and this is its answer.
    Executed(UpstreamAnswer),
    /// It was not executed and never will be under this key.
    Fenced,
    /// Nobody knows yet.
    StillUnknown,
}
