//! One call on its way: look up, meet what is there, or be admitted, claim, execute and conclude.

use std::{
    collections::HashSet,
    future::{Future as _, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use semel_core::{
    effect::{Authority, Claim, Command, Fence, OnUnknown, Phase, Record, Reply, State},
    evidence::Tally,
    scope::EffectId,
    time::Timestamp,
};
use semel_ledger::{LedgerError, LedgerFuture, Seen};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    CallResult, Claimed, Conclusion, EffectPolicy, EffectRequest, Execute, Execution, Finding, Lease, ProbeTarget,
    Refused, Report, Stages, clock,
    conclude::{Settled, outcome_of},
    effects::{Inner, lock},
};

/// Where a call is on its way.
pub(crate) enum Next {
    /// Something stands under its key.
    Meet { seen: Seen, waited: bool },
    /// Nothing does.
    Claim,
    /// An unknown effect that may be attempted again.
    Reopen(Fence),
    /// An unknown effect whose status resource is asked first.
    Probe(Fence),
    /// The claim is made.
    Run { fence: Fence, tally: Tally, asked_at: Instant, begin_by: Instant },
    /// It is over.
    Done(Conclusion),
    /// It is over, and the caller was told before its settlement.
    Told,
}

pub(crate) struct Call<E> {
    pub(crate) inner: Arc<Inner>,
    pub(crate) request: EffectRequest,
    pub(crate) policy: Arc<EffectPolicy>,
    executor: Arc<E>,
    stages: Stages,
    attempts: u32,
    joined: bool,
    /// It was let in: see [`Execute::admit`].
    is_admitted: bool,
    /// Where the caller waits, once the call runs in a task of its own.
    pub(crate) caller: Option<oneshot::Sender<Conclusion>>,
}

impl<E: Execute> Call<E> {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        request: EffectRequest,
        policy: &Arc<EffectPolicy>,
        executor: &Arc<E>,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            request,
            policy: Arc::clone(policy),
            executor: Arc::clone(executor),
            stages: Stages::default(),
            attempts: 0,
            joined: false,
            is_admitted: false,
            caller: None,
        }
    }

    pub(crate) async fn drive(mut self, mut next: Next) {
        loop {
            next = match next {
                Next::Done(conclusion) => return self.tell(conclusion),
                Next::Told => return,
                next => self.advance(next).await,
            };
        }
    }

    async fn advance(&mut self, next: Next) -> Next {
        match next {
            Next::Meet { seen, waited } => self.meet(seen, waited).await,
            Next::Claim => self.claim().await,
            Next::Reopen(fence) => self.reopen(fence).await,
            Next::Probe(fence) => self.probe(fence).await,
            Next::Run { fence, tally, asked_at, begin_by } => self.run(fence, tally, asked_at, begin_by).await,
            Next::Done(_) | Next::Told => next,
        }
    }

    pub(crate) async fn look_up(&mut self) -> Next {
        let started = clock::now();
        let looking_up = self.inner.ledger.look_up(self.request.id);
        let looked_up = tokio::time::timeout_at(self.request.deadline, looking_up).await;
        self.stages.look_up += clock::now() - started;
        match looked_up {
            Ok(Ok(seen)) if seen.phase() == Phase::Absent => Next::Claim,
            Ok(Ok(seen)) => Next::Meet { seen, waited: false },
            Ok(Err(error)) => ledger_failed(&error),
            Err(_) => refuse(Refused::DeadlineExceeded),
        }
    }

    /// A duplicate meets the record of the first.
    pub(crate) async fn meet(&mut self, seen: Seen, waited: bool) -> Next {
        let phase = seen.phase();
        let Some(record) = seen.record.filter(|_| phase != Phase::Absent) else {
            // It waited for a call that was not executed in the end. Those who wait are not promoted: if they were,
            // a crowd on one key would try one after the other what just failed.
            return if waited { refuse(Refused::Released) } else { Next::Claim };
        };
        if record.proof != self.request.proof {
            return refuse(Refused::PrincipalUnverified);
        }
        if !record.fingerprint.matches(&self.request.message.fingerprint_input()) {
            return refuse(Refused::KeyReused);
        }
        match (phase, record.state) {
            (Phase::Open, _) if waited => refuse(Refused::InFlight),
            (Phase::Open, _) => self.join().await,
            (Phase::Lapsed, _) => {
                let lapsing = self.inner.ledger.apply(self.request.id, Command::Lapse);
                match answered_by(self.request.deadline, lapsing).await {
                    Ok(applied) => Next::Meet { seen: applied.seen, waited },
                    Err(error) => record_failed(&error, Refused::OutcomeUnknown),
                }
            }
            (_, State::Settled { answer, .. }) if phase == Phase::Settled => Next::Done(Conclusion::Replayed(answer)),
            (_, State::Consumed { tombstone, .. }) if phase == Phase::Consumed => {
                Next::Done(Conclusion::Refused { why: Refused::Consumed, tombstone: Some(tombstone) })
            }
            (Phase::Expired, _) => refuse(Refused::KeyExpired),
            (_, state) => self.meet_unknown(&Record { state, ..record }, waited),
        }
    }

    async fn join(&mut self) -> Next {
        let started = clock::now();
        let within = self.policy.join.min(self.request.deadline.saturating_duration_since(started));
        let waiting = self.inner.ledger.await_conclusion(self.request.id, within, self.policy.waiters_max);
        let waited = answered_by(self.request.deadline, waiting).await;
        self.stages.look_up += clock::now() - started;
        match waited {
            Ok(seen) => {
                self.joined = true;
                Next::Meet { seen, waited: true }
            }
            Err(error) => record_failed(&error, Refused::InFlight),
        }
    }

    fn meet_unknown(&self, record: &Record, waited: bool) -> Next {
        let (then, today) = (&record.terms, &self.policy.terms);
        // What was promised when it was claimed decides; where today's configuration says otherwise, nothing runs.
        if waited || then.on_unknown != today.on_unknown || then.upstream != today.upstream {
            return refuse(Refused::OutcomeUnknown);
        }
        match then.on_unknown {
            OnUnknown::Hold => refuse(Refused::OutcomeUnknown),
            OnUnknown::Retry => Next::Reopen(record.fence),
            OnUnknown::Probe => Next::Probe(record.fence),
        }
    }

    /// Has it let in, after the look-up, so that a replay is never shed, and before the claim, so that a refusal never burns
    /// a key.
    pub(crate) async fn admit(&mut self) -> Result<(), Refused> {
        if !self.is_admitted {
            let admitted = tokio::time::timeout_at(self.request.deadline, self.executor.admit(&self.request)).await;
            admitted.unwrap_or(Err(Refused::DeadlineExceeded))?;
            self.is_admitted = true;
        }
        Ok(())
    }

    async fn claim(&mut self) -> Next {
        if let Err(why) = self.admit().await {
            return refuse(why);
        }
        let asked_at = clock::now();
        if asked_at >= self.request.deadline {
            return refuse(Refused::DeadlineExceeded);
        }
        let command = Command::Claim(Claim {
            owner: self.inner.owner,
            lease: self.policy.lease,
            fingerprint: self.request.message.fingerprint(),
            proof: self.request.proof,
            terms: Arc::clone(&self.policy.terms),
        });
        // Nothing was sent; if the claim is there after all, its lease will lapse.
        self.take(command, Tally::NOTHING_SENT, asked_at).await.unwrap_or_else(|error| ledger_failed(&error))
    }

    async fn reopen(&mut self, fence: Fence) -> Next {
        // What it would be refused for is not what stands under its key.
        if self.admit().await.is_err() {
            return refuse(Refused::OutcomeUnknown);
        }
        let asked_at = clock::now();
        if asked_at >= self.request.deadline {
            return refuse(Refused::OutcomeUnknown);
        }
        let fingerprint = self.request.message.fingerprint();
        let command = Command::Reopen { fence, owner: self.inner.owner, lease: self.policy.lease, fingerprint };
        match self.take(command, Tally::AFTER_UNKNOWN, asked_at).await {
            // Its upstream may have forgotten the key, or somebody else was quicker: this call does not run it.
            Ok(Next::Meet { seen, .. }) if seen.phase() == Phase::Unknown => refuse(Refused::OutcomeUnknown),
            Ok(next) => next,
            Err(error) => record_failed(&error, Refused::OutcomeUnknown),
        }
    }

    async fn take(&mut self, command: Command, tally: Tally, asked_at: Instant) -> Result<Next, LedgerError> {
        // Beyond the caller's deadline too, to release a claim that comes late; not beyond the time for which that could
        // be of use: then it lapses.
        let by = self.request.deadline.max(asked_at + self.policy.lease);
        let applied = answered_by(by, self.inner.ledger.apply(self.request.id, command)).await;
        self.stages.claim += clock::now() - asked_at;
        let is_mine = applied.as_ref().is_ok_and(|applied| applied.reply == Reply::Applied);
        if !is_mine && std::mem::take(&mut self.is_admitted) {
            self.executor.dismiss();
        }
        let applied = applied?;
        Ok(match (applied.reply, &applied.seen.record) {
            (Reply::Applied, Some(record)) => {
                let begin_by = self.begin_by(record, applied.seen.now, asked_at);
                Next::Run { fence: record.fence, tally, asked_at, begin_by }
            }
            _ => Next::Meet { seen: applied.seen, waited: false },
        })
    }

    /// When the last attempt may begin: the caller's deadline, but not after an upstream that recognises the key has
    /// forgotten it. Counted from before the claim was asked for, so it ends here before it ends there.
    fn begin_by(&self, record: &Record, now: Timestamp, asked_at: Instant) -> Instant {
        let deadline = self.request.deadline;
        if record.terms.on_unknown != OnUnknown::Retry {
            return deadline;
        }
        let remembered = Duration::from_millis(record.terms.upstream_keep_ms);
        let forgets_at = asked_at.checked_add(remembered.saturating_sub(now.since(record.claimed_at)));
        forgets_at.map_or(deadline, |forgets_at| deadline.min(forgets_at))
    }

    async fn probe(&mut self, fence: Fence) -> Next {
        let id = self.request.id;
        let inner = Arc::clone(&self.inner);
        let Some(_asking) = Asking::about(id, &inner.probing) else {
            return refuse(Refused::OutcomeUnknown);
        };
        let target = ProbeTarget {
            message: Arc::clone(&self.request.message),
            id,
            upstream_key: self.inner.secret.upstream_key(id),
            deadline: self.request.deadline,
        };
        let finding = self.executor.probe(target).await;
        self.conclude_probe(fence, finding).await
    }

    async fn conclude_probe(&mut self, fence: Fence, finding: Finding) -> Next {
        let command = match finding {
            Finding::StillUnknown => return refuse(Refused::OutcomeUnknown),
            Finding::Fenced => Command::Release { fence, by: Authority::Probe },
            Finding::Executed(answer) => {
                let outcome = outcome_of(&answer, &self.policy);
                Command::Settle { fence, outcome, by: Authority::Probe, attempts: 0 }
            }
        };
        let by = clock::now() + self.policy.settle_within;
        match answered_by(by, self.inner.ledger.apply(self.request.id, command)).await {
            Ok(applied) if applied.seen.phase() == Phase::Unknown => refuse(Refused::OutcomeUnknown),
            Ok(applied) => Next::Meet { seen: applied.seen, waited: false },
            Err(error) => record_failed(&error, Refused::OutcomeUnknown),
        }
    }

    async fn run(&mut self, fence: Fence, tally: Tally, asked_at: Instant, begin_by: Instant) -> Next {
        let started = clock::now();
        let id = self.request.id;
        let lease = Lease::new(Arc::clone(&self.inner.ledger), id, fence, self.policy.lease, asked_at);
        let claimed = Claimed {
            message: Arc::clone(&self.request.message),
            id,
            fence,
            tally,
            upstream_key: self.inner.secret.upstream_key(id),
            settlement_token: self.inner.secret.settlement_token(id, fence.0),
            deadline: begin_by,
            lease: Arc::clone(&lease),
        };
        // The claim may have taken all the time there was.
        let execution = if started >= begin_by {
            Execution { tally, end: None, attempts: 0, answer: None }
        } else {
            execute(&*self.executor, claimed).await
        };
        self.attempts += execution.attempts;
        let ended = clock::now();
        self.stages.execute += ended - started;
        let settled = self.conclude(fence, execution).await;
        self.stages.settle += clock::now() - ended;
        match settled {
            Settled::Concluded(conclusion) => Next::Done(conclusion),
            Settled::Otherwise(seen) => Next::Meet { seen, waited: true },
            Settled::Told => Next::Told,
        }
    }

    /// Gives the caller its answer, if it still waits: one that hung up will ask again, and find the record.
    pub(crate) fn tell(&mut self, conclusion: Conclusion) {
        let conclusion = self.report(conclusion);
        if let Some(caller) = self.caller.take() {
            let _ = caller.send(conclusion);
        }
    }

    pub(crate) fn report(&self, conclusion: Conclusion) -> Conclusion {
        let (result, status) = match &conclusion {
            Conclusion::Executed(answer) => (CallResult::Executed, Some(answer.status)),
            Conclusion::Replayed(answer) if self.joined => (CallResult::Joined, Some(answer.status)),
            Conclusion::Replayed(answer) => (CallResult::Replayed, Some(answer.status)),
            Conclusion::NotExecuted { answer, .. } => {
                (CallResult::NotExecuted, answer.as_ref().map(|answer| answer.status))
            }
            Conclusion::Unknown { answer } => (CallResult::Unknown, answer.as_ref().map(|answer| answer.status)),
            Conclusion::Refused { why, tombstone } => {
                (CallResult::Refused(*why), tombstone.as_ref().map(|tombstone| tombstone.status))
            }
        };
        let report = Report { request: &self.request, result, status, attempts: self.attempts, stages: self.stages };
        self.policy.observer.concluded(&report);
        conclusion
    }
}

/// Executes under a lease that is kept. A panic of the executor leaves what nobody knows.
async fn execute<E: Execute>(executor: &E, claimed: Claimed) -> Execution {
    let lease = Arc::clone(&claimed.lease);
    let mut executing = pin!(executor.execute(claimed));
    let mut executing = pin!(poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| executing.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Execution { tally: Tally::AFTER_UNKNOWN, end: None, attempts: 1, answer: None }))
    }));
    tokio::select! {
        biased;
        execution = &mut executing => execution,
        // A lost lease stops the next attempt, not the one under way: its answer may still settle the effect.
        _ = lease.keep() => executing.await,
    }
}

/// The one question about an effect that is asked at a time.
struct Asking<'a> {
    id: EffectId,
    among: &'a Mutex<HashSet<EffectId>>,
}

impl<'a> Asking<'a> {
    fn about(id: EffectId, among: &'a Mutex<HashSet<EffectId>>) -> Option<Self> {
        lock(among).insert(id).then(|| Self { id, among })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(self.among).remove(&self.id);
    }
}

pub(crate) fn refuse(why: Refused) -> Next {
    Next::Done(Conclusion::Refused { why, tombstone: None })
}

/// What the ledger answers until then. Nobody waits for it without a bound, whatever it is.
pub(crate) async fn answered_by<T>(by: Instant, asking: LedgerFuture<'_, T>) -> Result<T, LedgerError> {
    let late = |_| Err(LedgerError::Uncertain("it did not answer in time".into()));
    tokio::time::timeout_at(by, asking).await.unwrap_or_else(late)
}

/// Where nothing is known to stand under the key, and nothing was sent.
fn ledger_failed(error: &LedgerError) -> Next {
    record_failed(
        error,
        match error {
            LedgerError::ClaimsPaused(_) => Refused::ClaimsPaused,
            _ => Refused::LedgerUnavailable,
        },
    )
}

/// Where a record stands that means `standing` for this caller, and the ledger could not move it.
fn record_failed(error: &LedgerError, standing: Refused) -> Next {
    tracing::warn!(%error, "a call was refused because of the ledger");
    refuse(match error {
        // It is there but cannot be read: that is what unknown means.
        LedgerError::Damaged { .. } => Refused::OutcomeUnknown,
        LedgerError::TooManyWaiters => Refused::TooManyWaiters,
        _ => standing,
    })
}
