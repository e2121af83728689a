//! When an attempt may be repeated, and after what wait.

mod pushback;

pub use pushback::Pushback;

use super::backoff::{Backoff, RetryCause};
use super::budget::RetryBudget;
use super::deadline::Deadline;
use super::ownership::AttemptMark;
use crate::evidence::{AttemptEnd, EffectMark, NotSent, Verdict};
use std::time::{Duration, Instant};

/// How a route retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 = none is repeated. Default: 3, as in the AWS SDKs.
    pub attempts_max: u32,
    /// The wait before each repeat.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 3, backoff: Backoff::default() }
    }
}

/// When a repeat cannot make the effect happen twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// Only where *not executed* is proven: POST by default.
    IfNotExecuted,
    /// Always: the method is safe (RFC 9110 section 9.2.1), the route says that it is idempotent, or the effect is
    /// guarded by the ledger with `on_unknown = "retry"`, where the upstream honours the forwarded key.
    Always,
}

/// What is known when an attempt has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// How it ended.
    pub end: &'a AttemptEnd,
    /// What that proves by the route's rules, for this attempt alone.
    pub verdict: Verdict,
    /// What the answer asked for.
    pub pushback: Pushback,
    /// Whether a byte of the answer already went to the caller.
    pub is_forwarded: bool,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Attempt again after this wait.
    Repeat {
        /// How long to wait first.
        wait: Duration,
    },
    /// The attempt's end is the call's end.
    Stop(StopReason),
}

/// Why a call is not attempted again. The names are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The answer is final: there is nothing to repeat.
    Answered,
    /// It may have been executed, and a repeat might execute it again.
    NotSafe,
    /// The upstream asked not to be asked again.
    PushedBack,
    /// Our own limiter, breaker or deadline refused: asking ourselves again changes nothing.
    RefusedHere,
    /// The body cannot be sent a second time.
    BodyNotReplayable,
    /// The caller already has part of the answer.
    Forwarded,
    /// All attempts are used.
    AttemptsSpent,
    /// The wait would not end before the deadline does.
    Deadline,
    /// All callers together have retried enough: the answer must say do-not-retry.
    BudgetSpent,
}

impl StopReason {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotSafe => "not_safe",
            Self::PushedBack => "pushed_back",
            Self::RefusedHere => "refused_here",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::Forwarded => "forwarded",
            Self::AttemptsSpent => "attempts_spent",
            Self::Deadline => "deadline",
            Self::BudgetSpent => "budget_spent",
        }
    }
}

/// The retries of one call.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    policy: RetryPolicy,
    repeatable: Repeatable,
    is_replayable: bool,
    deadline: Deadline,
    /// The attempt that is under way, from 1.
    attempt: u32,
    /// Requests that never left, over all attempts.
    unsent: u32,
    /// The backoff before the attempt that is under way.
    backoff: Duration,
}

/// A repeat that may be made, unless the budget says no.
struct Planned {
    repeat: Repeat,
    backoff: Duration,
    wait: Duration,
}

/// Whether a repeat is an attempt of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// The request never left the client: it is still the same attempt.
    Transparent { at_once: bool },
    /// Another attempt, out of the budget.
    Counted(RetryCause),
}

impl Retries {
    /// The first attempt of a call is about to start. `policy.attempts_max` is what
    /// [`attempts_here`](super::ownership::attempts_here) left of it.
    #[must_use]
    pub const fn new(policy: RetryPolicy, repeatable: Repeatable, is_replayable: bool, deadline: Deadline) -> Self {
        Self { policy, repeatable, is_replayable, deadline, attempt: 1, unsent: 0, backoff: Duration::ZERO }
    }

    /// The mark of the attempt that is under way.
    #[must_use]
    pub fn mark(&self) -> AttemptMark {
        AttemptMark::new(self.attempt, self.policy.attempts_max)
    }

    /// Decides what follows an attempt that ended `now`, success included. `rand` is in `0.0..1.0`.
    ///
    /// The budget is asked last, so that a retry that is not made takes nothing out of it; and it is asked before the
    /// wait, so that it knows of retries that wait.
    pub fn after(&mut self, ended: Ended<'_>, budget: &RetryBudget, now: Instant, rand: f64) -> RetryDecision {
        let planned = match self.plan(ended, now, rand) {
            Ok(planned) => planned,
            Err(reason) => {
                let worked = matches!(ended.end, AttemptEnd::Answered { status, .. }
                    if status.is_success() || status.is_redirection());
                if worked && self.attempt == 1 && self.unsent == 0 {
                    budget.record_first_success();
                }
                return RetryDecision::Stop(reason);
            }
        };
        match planned.repeat {
            Repeat::Transparent { .. } => self.unsent += 1,
            Repeat::Counted(cause) if !budget.try_reserve(now, cause) => {
                return RetryDecision::Stop(StopReason::BudgetSpent);
            }
            Repeat::Counted(_) => self.attempt += 1,
        }
        self.backoff = planned.backoff;
        RetryDecision::Repeat { wait: planned.wait }
    }

    fn plan(&self, ended: Ended<'_>, now: Instant, rand: f64) -> Result<Planned, StopReason> {
        let repeat = self.repeat(ended)?;
        if !self.is_replayable && !matches!(ended.end, AttemptEnd::NotSent(NotSent::HandedBack)) {
            return Err(StopReason::BodyNotReplayable);
        }
        let wait = |i, cause| self.policy.backoff.wait(i, cause, self.backoff, rand);
        let backoff = match repeat {
            Repeat::Transparent { at_once: true } => Duration::ZERO,
            Repeat::Transparent { at_once: false } => wait(self.unsent, RetryCause::Transient),
            Repeat::Counted(_) if self.attempt >= self.policy.attempts_max => return Err(StopReason::AttemptsSpent),
            Repeat::Counted(cause) => wait(self.attempt - 1, cause),
        };
        let wait = backoff.max(ended.pushback.floor());
        // A wait that ends with the deadline leaves nothing to attempt in.
        if self.deadline.remaining(now).is_none_or(|left| wait >= left) {
            return Err(StopReason::Deadline);
        }
        Ok(Planned { repeat, backoff, wait })
    }

    /// Whether a repeat makes sense and is safe, whatever is left of time and attempts.
    fn repeat(&self, ended: Ended<'_>) -> Result<Repeat, StopReason> {
        if ended.is_forwarded {
            return Err(StopReason::Forwarded);
        }
        let cause = match ended.end {
            AttemptEnd::NotSent(NotSent::RefusedHere) => return Err(StopReason::RefusedHere),
            AttemptEnd::NotSent(why) => {
                // A pooled connection that was dead says nothing about the upstream: the first time, another one is
                // tried at once.
                let stale = matches!(why, NotSent::HandedBack | NotSent::NoByteWritten);
                return Ok(Repeat::Transparent { at_once: stale && self.unsent == 0 });
            }
            AttemptEnd::Lost(_) => RetryCause::Transient,
            AttemptEnd::Answered { status, mark } => match (status.as_u16(), mark, ended.verdict) {
                (_, _, Verdict::Executed) => return Err(StopReason::Answered),
                // Who answers guards the effect itself and asks us to come again: the key makes that safe.
                (_, Some(EffectMark::Open), _) if ended.pushback != Pushback::Never => {
                    return Ok(Repeat::Counted(RetryCause::Throttling));
                }
                (429, _, _) => RetryCause::Throttling,
                (503, _, _) if ended.pushback != Pushback::Unsaid => RetryCause::Throttling,
                // Refused for what it is: the same request gets the same answer.
                (400..=407 | 409..=424 | 426..=499, _, _) => return Err(StopReason::Answered),
                _ => RetryCause::Transient,
            },
        };
        if ended.pushback == Pushback::Never {
            return Err(StopReason::PushedBack);
        }
        if ended.verdict == Verdict::NotExecuted || self.repeatable == Repeatable::Always {
            Ok(Repeat::Counted(cause))
        } else {
            Err(StopReason::NotSafe)
        }
    }
}

#[cfg(test)]
mod tests;
