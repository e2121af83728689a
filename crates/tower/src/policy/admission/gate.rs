//! The state machine behind a lock, and those who wait before it.

use std::{
    future::poll_fn,
    hash::RandomState,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use semel_core::policy::admission::{
    Admission, AdmissionPolicy, AdmissionState, Arrival, Arriving, Concurrency, Ended, Level, Next, Permit, Refusal,
    RefusedWhy, Ticket,
};
use tokio::{
    sync::oneshot,
    time::{Sleep, sleep_until},
};

use super::{Rank, ReducedCapacity};
use crate::{
    clock,
    policy::{
        cancel::{self, Why},
        hold::Held,
    },
    random,
};

/// How often tenants' levels are drawn anew.
const TURN: Duration = Duration::from_secs(3_600);

/// A limit on calls in flight and a short queue before it, shared by whoever asks to be let in. An
/// [`AdmissionLayer`](super::AdmissionLayer) has one; by itself it is for those who are no tower service.
#[derive(Debug)]
pub struct AdmissionGate {
    admission: Mutex<Admission<Waiter>>,
    hasher: RandomState,
    started: Instant,
    /// Whether the time that calls take is of use.
    is_measured: bool,
}

type Verdict = Result<InFlight, Refusal>;
type Waiter = oneshot::Sender<Verdict>;

/// What became of a call that wants in.
pub(super) enum Arrived {
    Admitted(InFlight),
    Waiting(Waiting),
    Refused(Refusal),
}

impl AdmissionGate {
    /// A gate that lives by this policy.
    #[must_use]
    pub fn new(policy: AdmissionPolicy) -> Self {
        let started = clock::now().into_std();
        Self {
            admission: Mutex::new(Admission::new(policy, started)),
            hasher: RandomState::new(),
            started,
            is_measured: matches!(policy.concurrency, Concurrency::Adaptive(_)),
        }
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> AdmissionState {
        self.lock().state(clock::now().into_std())
    }

    /// Lets a call in, at once or when there is a place for it. Dropped, the future leaves the queue.
    ///
    /// # Errors
    /// [`ReducedCapacity`] where there is none in time.
    pub async fn admit(self: &Arc<Self>, rank: Rank) -> Result<InFlight, ReducedCapacity> {
        match self.arrive(rank) {
            Arrived::Admitted(in_flight) => Ok(in_flight),
            Arrived::Waiting(mut waiting) => poll_fn(|cx| waiting.poll_verdict(cx)).await.map_err(ReducedCapacity::new),
            Arrived::Refused(refusal) => Err(ReducedCapacity::new(refusal)),
        }
    }

    pub(super) fn arrive(self: &Arc<Self>, rank: Rank) -> Arrived {
        if rank.deadline.is_none()
            && let Some(permit) = self.lock().arrive_untimed()
        {
            return Arrived::Admitted(InFlight::new(self, permit));
        }
        let now = clock::now().into_std();
        let call = Arriving { level: self.level(rank, now), deadline: rank.deadline, rand: random::unit() };
        let mut verdict = None;
        let arrival = self.lock().arrive(now, call, || {
            let (sender, receiver) = oneshot::channel();
            verdict = Some(receiver);
            sender
        });
        match (arrival, verdict) {
            (Arrival::Admitted(permit), _) => Arrived::Admitted(InFlight::new(self, permit)),
            (Arrival::Queued { ticket, until }, Some(verdict)) => {
                let timer = Box::pin(sleep_until(until.into()));
                let waiting = Waiting { gate: Arc::clone(self), ticket, verdict, timer: Some(timer) };
                // Somebody else may have had to make room.
                self.deliver(now);
                Arrived::Waiting(waiting)
            }
            (Arrival::Refused(refusal), _) => Arrived::Refused(refusal),
            (Arrival::Queued { .. }, None) => panic!("who waits in the queue has been asked for"),
        }
    }

    fn level(&self, rank: Rank, now: Instant) -> Level {
        let turn = now.saturating_duration_since(self.started).as_secs() / TURN.as_secs();
        match rank.tenant {
            Some(tenant) => Level::of_tenant(rank.priority, &tenant, &self.hasher, turn),
            None => Level::of_share(rank.priority, random::unit()),
        }
    }

    /// Tells those who waited what became of them. Outside the lock: who hangs up just now drops its place right here.
    fn deliver(self: &Arc<Self>, now: Instant) {
        loop {
            let Some(next) = self.lock().next(now) else { return };
            self.tell(next);
        }
    }

    fn tell(self: &Arc<Self>, next: Next<Waiter>) {
        let _ = match next {
            Next::Admit(waiter, permit) => waiter.send(Ok(InFlight::new(self, permit))),
            Next::Refuse(waiter, refusal) => waiter.send(Err(refusal)),
        };
    }

    /// Frees a place, of a call that was answered just now where there is a time.
    fn release(self: &Arc<Self>, mut permit: Permit, answered: Option<(Instant, Ended)>) {
        let is_waited_for = {
            let mut admission = self.lock();
            if let Some((now, ended)) = answered {
                admission.answered(now, &mut permit, ended);
            }
            admission.release(permit)
        };
        if is_waited_for {
            self.deliver(clock::now().into_std());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Admission<Waiter>> {
        // Nothing in there panics halfway.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight: its place, given back when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    gate: Arc<AdmissionGate>,
    permit: Option<Permit>,
    /// Not yet counted: where nothing is held for longer, that is done together with giving the place back.
    answered: Option<(Instant, Ended)>,
}

impl InFlight {
    fn new(gate: &Arc<AdmissionGate>, permit: Permit) -> Self {
        Self { gate: Arc::clone(gate), permit: Some(permit), answered: None }
    }

    /// There is an answer, or there will be none: what it took counts from now on, if it ended in a way that says
    /// something.
    pub fn answered(&mut self, ended: Ended) {
        if self.gate.is_measured {
            self.answered = Some((clock::now().into_std(), ended));
        }
    }
}

impl Held for InFlight {
    /// What is known is counted now.
    fn keep(&mut self) {
        if let (Some((now, ended)), Some(permit)) = (self.answered.take(), &mut self.permit) {
            self.gate.lock().answered(now, permit, ended);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            if self.answered.is_none() && matches!(cancel::why(), Why::TooSlow { .. }) {
                self.answered(Ended::TimedOut);
            }
            self.gate.release(permit, self.answered.take());
        }
    }
}

/// A call in the queue; it leaves it when this is dropped.
pub(super) struct Waiting {
    gate: Arc<AdmissionGate>,
    ticket: Ticket,
    verdict: oneshot::Receiver<Verdict>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    pub(super) fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        if let Poll::Ready(verdict) = Pin::new(&mut self.verdict).poll(cx) {
            let now = clock::now().into_std();
            // A waiter that vanished without a verdict cannot be; it would be one that waits for nothing.
            return Poll::Ready(verdict.unwrap_or_else(|_| Err(self.gate.lock().refusal(now, RefusedWhy::Waited))));
        }
        let is_over = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if is_over {
            self.timer = None;
            let now = clock::now().into_std();
            let mut admission = self.gate.lock();
            if admission.withdraw(now, self.ticket).is_some() {
                return Poll::Ready(Err(admission.refusal(now, RefusedWhy::Waited)));
            }
            // Somebody has taken it out of the queue and is about to say why.
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Where it has been taken out in the meantime, a permit that was sent is dropped with the channel.
        let waiter = self.gate.lock().withdraw(clock::now().into_std(), self.ticket);
        drop(waiter);
    }
}
