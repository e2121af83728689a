//! Whoever makes an effect happen: the seam between the effect's life and its attempts.

use std::{future::Future, sync::Arc};

use http::{HeaderMap, StatusCode};
use semel_core::{
    effect::Fence,
    evidence::{AttemptEnd, Tally},
    scope::{EffectId, SettlementToken, UpstreamKey},
};
use tokio::time::Instant;

use crate::{Body, Buffered, EffectRequest, Refused, lease::Lease};

/// Makes an effect happen by one or more attempts, and says what they prove.
///
/// It runs in a task of its own: a caller that hangs up does not cancel it.
pub trait Execute: Send + Sync + 'static {
    /// Lets a call in that found nothing under its key, and so would claim it; or refuses it, before anything was written.
    ///
    /// What it reserves is given back with the executor, or when the call is [dismissed](Self::dismiss). Dropping the future
    /// withdraws the request.
    ///
    /// # Errors
    /// Why the caller is turned away: [`Refused::ReducedCapacity`], say.
    fn admit(&self, _request: &EffectRequest) -> impl Future<Output = Result<(), Refused>> + Send {
        std::future::ready(Ok(()))
    }

    /// A call that was let in runs nothing after all: somebody else was quicker, and it waits for their conclusion. What
    /// [`admit`](Self::admit) reserved is to be given back.
    fn dismiss(&self) {}

    /// Attempts the effect until it is decided, its policy gives up, or `claimed.deadline` is over.
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
    /// Nothing is *begun* after it: the caller stops waiting, or the upstream may have forgotten the key.
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
    pub body: Body,
}

/// What a status resource is asked about.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// The duplicate's request: the same as the one whose outcome is unknown.
    pub message: Arc<Buffered>,
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
