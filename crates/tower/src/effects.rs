//! The life of a call: look up, meet what is there, or claim, execute and conclude.

use std::{
    collections::HashSet,
    future::{Future as _, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use semel_core::{
    answer::{StoredAnswer, Tombstone},
    effect::{Authority, Claim, Command, Fence, OnUnknown, Owner, Phase, Record, Reply, State},
    evidence::{AttemptEnd, Tally},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{Ledger, LedgerError, LedgerFuture, Seen};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    CallResult, Claimed, EffectPolicy, EffectRequest, Execute, Execution, Finding, Lease, ProbeTarget, Refused, Report,
    Stages, UpstreamAnswer, clock,
    conclude::{Settled, outcome_of},
};

/// How much longer than the caller's deadline its answer is waited for, so that a release or settlement under way at
/// that moment can still be told.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// Makes effects happen once, over a ledger. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) ledger: Arc<dyn Ledger>,
    secret: LookupSecret,
    owner: Owner,
    tasks: TaskTracker,
    /// Effects that are being probed: one question at a time.
    probing: Mutex<HashSet<EffectId>>,
}

/// What a call came to.
#[derive(Debug)]
pub enum Conclusion {
    /// This call made it happen; the settlement is durable (or on its way, with an early acknowledgement).
    Executed(UpstreamAnswer),
    /// It happened before, and this is the recorded answer.
    Replayed(StoredAnswer),
    /// Surely not executed; the key is usable again.
    NotExecuted {
        /// The upstream's own refusal, if it gave one.
        answer: Option<UpstreamAnswer>,
        /// How the last attempt ended; none when none was begun.
        end: Option<AttemptEnd>,
    },
    /// This call's attempts left it unknown.
    Unknown {
        /// The upstream's own answer, if it gave one.
        answer: Option<UpstreamAnswer>,
    },
    /// Turned away without an attempt.
    Refused {
        /// Why.
        why: Refused,
        /// What is left of the recorded answer, when that is why.
        tombstone: Option<Tombstone>,
    },
}

/// Where a call is on its way.
enum Next {
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
    /// Where the caller waits, once the call runs in a task of its own.
    caller: Option<oneshot::Sender<Conclusion>>,
}

impl Effects {
    /// Over `ledger`, as `owner`: one random number for one life of the process.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, owner: Owner) -> Self {
        let secret = ledger.secret();
        let inner = Inner { ledger, secret, owner, tasks: TaskTracker::new(), probing: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The ledger underneath.
    #[must_use]
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.inner.ledger
    }

    /// The ledger's secret, with which scopes become ids.
    #[must_use]
    pub fn secret(&self) -> &LookupSecret {
        &self.inner.secret
    }

    /// Calls that are claimed and not concluded, whether or not their callers still wait.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.tasks.len()
    }

    /// Completes when no call is in flight. Those that begin later are waited for too.
    pub async fn drained(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Makes the effect of `request` happen once.
    ///
    /// Everything from the claim on runs in a task of its own: dropping the returned future does not cancel the
    /// effect, and its answer is still recorded.
    pub async fn perform<E: Execute>(
        &self,
        request: EffectRequest,
        policy: &Arc<EffectPolicy>,
        executor: &Arc<E>,
    ) -> Conclusion {
        let deadline = request.deadline;
        let mut call = Call {
            inner: Arc::clone(&self.inner),
            request,
            policy: Arc::clone(policy),
            executor: Arc::clone(executor),
            stages: Stages::default(),
            attempts: 0,
            joined: false,
            caller: None,
        };
        let mut next = call.look_up().await;
        // Not `advance`: its future is large, and this one lives in every request's.
        while let Next::Meet { seen, waited } = next {
            next = call.meet(seen, waited).await;
        }
        if let Next::Done(conclusion) = next {
            return call.report(conclusion);
        }
        let (caller, waiting) = oneshot::channel();
        call.caller = Some(caller);
        // Boxed: the runtime moves a task's future several times, and this one is large.
        self.inner.tasks.spawn(Box::pin(call.drive(next)));
        match tokio::time::timeout_at(deadline + DEADLINE_GRACE, waiting).await {
            Ok(Ok(conclusion)) => conclusion,
            // Over time, or the task died: what it sent nobody here knows.
            Ok(Err(_)) | Err(_) => Conclusion::Unknown { answer: None },
        }
    }
}

impl<E: Execute> Call<E> {
    async fn drive(mut self, mut next: Next) {
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

    async fn look_up(&mut self) -> Next {
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
    async fn meet(&mut self, seen: Seen, waited: bool) -> Next {
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

    // Admission (priority, adaptive concurrency) will stand here: after the look-up, so that a replay is never shed,
    // and before the claim, so that a refusal never burns a key.
    async fn claim(&mut self) -> Next {
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

    fn report(&self, conclusion: Conclusion) -> Conclusion {
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

fn refuse(why: Refused) -> Next {
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every section is one call on a set, which leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
