//! What makes effects happen once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use semel_core::{
    answer::{StoredAnswer, Tombstone},
    effect::Owner,
    evidence::AttemptEnd,
    scope::{EffectId, LookupSecret},
};
use semel_ledger::Ledger;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::{
    EffectPolicy, EffectRequest, Execute, Refused, UpstreamAnswer,
    call::{Call, Next, refuse},
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
    pub(crate) secret: LookupSecret,
    pub(crate) owner: Owner,
    tasks: TaskTracker,
    /// Effects that are being probed: one question at a time.
    pub(crate) probing: Mutex<HashSet<EffectId>>,
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
        let mut call = Call::new(&self.inner, request, policy, executor);
        let mut next = call.look_up().await;
        // Not `advance`: its future is large, and this one lives in every request's.
        while let Next::Meet { seen, waited } = next {
            next = call.meet(seen, waited).await;
        }
        // Here, and not in the task: who hangs up leaves the queue.
        if let Next::Claim = next
            && let Err(why) = call.admit().await
        {
            next = refuse(why);
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every section is one call on a set, which leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
