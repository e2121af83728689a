//! What one runtime counts for one route.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use semel_core::evidence::{AttemptEnd, Lost, NotSent};
use semel_tower::{CallResult, Observe, Report};

use super::histogram::{Histogram, Snapshot};

/// What became of one request, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On a keyed route.
    Call(CallResult),
    /// On another route: the upstream answered.
    Passed,
    /// On another route: surely nothing was sent.
    Unavailable,
    /// On another route: sent, and no whole head of an answer came.
    Failed,
    /// Refused before any attempt: malformed, too large, no key, no principal.
    Refused,
}

impl Outcome {
    const OWN: [&str; 4] = ["passed", "upstream-unavailable", "upstream-failed", "refused"];
    const COUNT: usize = CallResult::WORDS.len() + Self::OWN.len();

    fn index(self) -> usize {
        let own = match self {
            Self::Call(result) => return result.index(),
            Self::Passed => 0,
            Self::Unavailable => 1,
            Self::Failed => 2,
            Self::Refused => 3,
        };
        CallResult::WORDS.len() + own
    }

    fn words() -> impl Iterator<Item = &'static str> {
        CallResult::WORDS.into_iter().chain(Self::OWN)
    }

    /// What an attempt's end makes of a request that is not attempted again.
    #[must_use]
    pub fn of_attempt(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::Answered { .. } => Self::Passed,
            AttemptEnd::NotSent(_) => Self::Unavailable,
            AttemptEnd::Lost(_) => Self::Failed,
        }
    }
}

/// A part of a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head to the answer's head.
    Total,
    /// Looking a key up, waiting for another call included.
    LookUp,
    /// Waiting to be let in, where the upstream has an `admission`.
    Admission,
    /// Making a claim durable.
    Claim,
    /// The attempts, up to the answer's head, or to its end where it is kept.
    Upstream,
    /// Making the conclusion durable.
    Settle,
}

const STAGES: [&str; 6] = ["total", "look-up", "admission", "claim", "upstream", "settle"];
const ENDS: [&str; 11] = [
    "answered",
    "not-sent-dns",
    "not-sent-connect-failed",
    "not-sent-connect-timeout",
    "not-sent-handed-back",
    "not-sent-no-byte-written",
    "not-sent-refused-here",
    "lost-timeout",
    "lost-connection",
    "lost-truncated",
    "lost-malformed",
];
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn end_index(end: &AttemptEnd) -> usize {
    match end {
        AttemptEnd::Answered { .. } => 0,
        AttemptEnd::NotSent(NotSent::Dns) => 1,
        AttemptEnd::NotSent(NotSent::ConnectFailed) => 2,
        AttemptEnd::NotSent(NotSent::ConnectTimeout) => 3,
        AttemptEnd::NotSent(NotSent::HandedBack) => 4,
        AttemptEnd::NotSent(NotSent::NoByteWritten) => 5,
        AttemptEnd::NotSent(NotSent::RefusedHere) => 6,
        AttemptEnd::Lost(Lost::Timeout) => 7,
        AttemptEnd::Lost(Lost::ConnectionLost) => 8,
        AttemptEnd::Lost(Lost::Truncated) => 9,
        AttemptEnd::Lost(Lost::Malformed) => 10,
    }
}

/// What one runtime counts for one route: plain atomics on cache lines that no other runtime touches.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteMetrics {
    outcomes: [AtomicU64; Outcome::COUNT],
    statuses: [AtomicU64; STATUS_CLASSES.len()],
    attempts: [AtomicU64; ENDS.len()],
    stages: [Histogram; STAGES.len()],
    hedges: AtomicU64,
    in_flight: AtomicI64,
}

/// A request in flight, until dropped.
#[derive(Debug)]
pub struct InFlight<'a>(&'a RouteMetrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RouteMetrics {
    /// A request has come.
    #[must_use]
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// What became of a request. Keyed calls are counted by their [`Report`].
    pub fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// The caller got this status.
    pub fn status(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUS_CLASSES.len());
        self.statuses[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt has ended.
    pub fn attempt(&self, end: &AttemptEnd) {
        self.attempts[end_index(end)].fetch_add(1, Ordering::Relaxed);
    }

    /// A second attempt was sent beside a slow first one.
    pub fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// A part of the way took so long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].observe(took);
    }
}

impl Observe for RouteMetrics {
    fn concluded(&self, report: &Report<'_>) {
        self.outcome(Outcome::Call(report.result));
        let stages = &report.stages;
        for (stage, took) in [
            (Stage::LookUp, stages.look_up),
            (Stage::Claim, stages.claim),
            (Stage::Upstream, stages.execute),
            (Stage::Settle, stages.settle),
        ] {
            // Zero: the call did not go through it.
            if !took.is_zero() {
                self.stage(stage, took);
            }
        }
    }
}

/// The counts of one route over all runtimes.
#[derive(Debug)]
pub(super) struct RouteSums {
    outcomes: [u64; Outcome::COUNT],
    statuses: [u64; STATUS_CLASSES.len()],
    attempts: [u64; ENDS.len()],
    stages: [Snapshot; STAGES.len()],
    pub(super) hedges: u64,
    pub(super) in_flight: i64,
}

impl RouteSums {
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a RouteMetrics>) -> Self {
        let mut sums = Self {
            outcomes: [0; Outcome::COUNT],
            statuses: [0; STATUS_CLASSES.len()],
            attempts: [0; ENDS.len()],
            stages: Default::default(),
            hedges: 0,
            in_flight: 0,
        };
        for part in parts {
            add(&mut sums.outcomes, &part.outcomes);
            add(&mut sums.statuses, &part.statuses);
            add(&mut sums.attempts, &part.attempts);
            for (sum, histogram) in sums.stages.iter_mut().zip(&part.stages) {
                histogram.add_to(sum);
            }
            sums.hedges += part.hedges.load(Ordering::Relaxed);
            sums.in_flight += part.in_flight.load(Ordering::Relaxed);
        }
        sums
    }

    pub(super) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::words().zip(self.outcomes)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        STATUS_CLASSES.into_iter().zip(self.statuses)
    }

    pub(super) fn attempts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ENDS.into_iter().zip(self.attempts)
    }

    /// The stages that anything went through.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&'static str, &Snapshot)> {
        STAGES.into_iter().zip(&self.stages).filter(|(_, stage)| stage.count() > 0)
    }
}

fn add(sums: &mut [u64], parts: &[AtomicU64]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum += part.load(Ordering::Relaxed);
    }
}
