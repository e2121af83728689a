//! How much is taken on at a time, and who is sent away when that is too much.
//!
//! An [`Admission`] stands in front of an upstream: a limit on calls in flight, fixed or [found out](adaptive), and a short
//! queue before it. It refuses early, while the refusal is cheap, and those first who matter least ("Handling Overload",
//! *Site Reliability Engineering*, 2016): a call that waits until its caller has gone costs as much as one that is
//! answered.

pub mod adaptive;
mod bulkhead;
mod priority;
mod queue;

pub use bulkhead::{Bulkhead, BulkheadFull};
pub use priority::{Level, Priority};
pub use queue::QueuePolicy;

use self::adaptive::{AdaptiveLimit, AdaptivePolicy};
use self::priority::RecentLevels;
use self::queue::Queue;
use http::StatusCode;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What an [`Admission`] lives by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdmissionPolicy {
    /// Calls in flight.
    pub concurrency: Concurrency,
    /// Calls that wait.
    pub queue: QueuePolicy,
}

/// How many calls are in flight at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Concurrency {
    /// So many; at least 1.
    Fixed(u32),
    /// As many as the upstream turns out to take.
    Adaptive(AdaptivePolicy),
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::Adaptive(AdaptivePolicy::default())
    }
}

/// A call that wants in.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    /// How much it matters.
    pub level: Level,
    /// When its caller will have gone.
    pub deadline: Option<Instant>,
    /// In `0.0..1.0`: decides among calls of one level.
    pub rand: f64,
}

/// What becomes of a call that wants in.
#[derive(Debug)]
#[must_use]
pub enum Arrival {
    /// It goes on.
    Admitted(Permit),
    /// It waits. [`Admission::next`] will say what becomes of it; whoever waits withdraws it at `until`, because time alone
    /// makes nothing happen here.
    Queued {
        /// To withdraw it.
        ticket: Ticket,
        /// When it has waited long enough.
        until: Instant,
    },
    /// It is sent away.
    Refused(Refusal),
}

/// What becomes of a call that waited.
#[derive(Debug)]
#[must_use]
pub enum Next<T> {
    /// It goes on.
    Admit(T, Permit),
    /// It is sent away.
    Refuse(T, Refusal),
}

/// A call in flight. Whoever holds it hands it to [`Admission::finish`] when the call ends, however it does, or to
/// [`Admission::release`] when the answer's body does; where one is lost its place is lost.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the place is taken until the permit is given back"]
pub struct Permit {
    /// When it began; `None` where nobody measures.
    admitted_at: Option<Instant>,
    in_flight: u32,
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(queue::Place);

/// A call that is sent away: the caller is told `reduced-capacity`, 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no capacity: {}", .why.as_str())]
pub struct Refusal {
    /// Why.
    pub why: RefusedWhy,
    /// When there may be room: the longer the queue has been occupied, the later. Give it to
    /// [`pushback_seconds`](super::pushback::pushback_seconds).
    pub retry_in: Duration,
}

/// Why a call is sent away. The names are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedWhy {
    /// The queue grows too long, and this call is one of those that matter least.
    Shed,
    /// A call that matters more took its place in the queue.
    Displaced,
    /// It waited as long as calls may, or its caller does.
    Waited,
    /// Its caller had gone before it came.
    DeadlineOver,
}

impl RefusedWhy {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shed => "shed",
            Self::Displaced => "displaced",
            Self::Waited => "waited",
            Self::DeadlineOver => "deadline_over",
        }
    }
}

/// How a call ended, as far as the limit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer: how long it took says something.
    Completed,
    /// It ran out of time: where most calls do, there are too many of them.
    TimedOut,
    /// Failed, cancelled by its caller, or never sent: how long it took says nothing.
    Cancelled,
}

impl Ended {
    /// What an HTTP answer's status makes of it. A failure or a refusal may be quicker than any work.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::GATEWAY_TIMEOUT => Self::TimedOut,
            StatusCode::TOO_MANY_REQUESTS => Self::Cancelled,
            status if status.is_server_error() => Self::Cancelled,
            _ => Self::Completed,
        }
    }
}

/// How things stand, to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionState {
    /// Calls that may be in flight.
    pub limit: u32,
    /// Calls that are.
    pub in_flight: u32,
    /// Calls that wait.
    pub queued: usize,
    /// Whether the queue has not been empty for an interval.
    pub is_standing: bool,
}

/// The least and the most that a caller is told to stay away.
const RETRY_IN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// A limit and a queue before it. `T` is what stands for a waiting call.
///
/// Not for use by several threads at a time: put it behind a lock, and call [`next`](Self::next) until it has nothing more
/// after each [`arrive`](Self::arrive), [`finish`](Self::finish) and [`withdraw`](Self::withdraw). A call that finds a place
/// at once allocates nothing; with a fixed limit it needs no clock either: see [`arrive_untimed`](Self::arrive_untimed) and
/// [`release`](Self::release).
#[derive(Debug)]
pub struct Admission<T> {
    limiter: Limiter,
    in_flight: u32,
    queue: Queue<T>,
    displaced: VecDeque<T>,
    levels: Box<RecentLevels>,
}

#[derive(Debug)]
enum Limiter {
    Fixed(u32),
    Adaptive(Box<AdaptiveLimit>),
}

impl<T> Admission<T> {
    /// With nothing in flight.
    #[must_use]
    pub fn new(policy: AdmissionPolicy, now: Instant) -> Self {
        let limiter = match policy.concurrency {
            Concurrency::Fixed(limit) => Limiter::Fixed(limit.max(1)),
            Concurrency::Adaptive(policy) => Limiter::Adaptive(Box::new(AdaptiveLimit::new(policy, now))),
        };
        Self {
            limiter,
            in_flight: 0,
            queue: Queue::new(policy.queue, now),
            displaced: VecDeque::new(),
            levels: Box::new(RecentLevels::empty()),
        }
    }

    /// Lets a call in if there is a place and nobody has to be measured: where the limit is fixed.
    pub fn arrive_untimed(&mut self) -> Option<Permit> {
        let Limiter::Fixed(limit) = self.limiter else { return None };
        (self.in_flight < limit && self.queue.len() == 0).then(|| self.admit(None))
    }

    /// A call wants in. `waiting` is asked for what stands for it only if it has to wait.
    pub fn arrive(&mut self, now: Instant, call: Arriving, waiting: impl FnOnce() -> T) -> Arrival {
        if call.deadline.is_some_and(|deadline| deadline <= now) {
            return Arrival::Refused(self.refusal(now, RefusedWhy::DeadlineOver));
        }
        let limit = self.limit();
        if self.in_flight < limit && self.queue.len() == 0 {
            return Arrival::Admitted(self.admit(Some(now)));
        }
        self.levels.record(call.level);
        if self.queue.len() >= self.queue.len_max(limit) {
            // There is room only if somebody who matters less gives way.
            let Some(displaced) = self.queue.displace(now, call.level) else {
                return Arrival::Refused(self.refusal(now, RefusedWhy::Shed));
            };
            self.displaced.push_back(displaced);
        } else if self.levels.is_among_lowest(call.level, self.queue.shed_share(limit), call.rand) {
            return Arrival::Refused(self.refusal(now, RefusedWhy::Shed));
        }
        let (place, until) = self.queue.push(now, call.level, call.deadline, waiting());
        Arrival::Queued { ticket: Ticket(place), until }
    }

    /// A call has ended. Its place is free.
    pub fn finish(&mut self, now: Instant, mut permit: Permit, ended: Ended) {
        self.answered(now, &mut permit, ended);
        self.release(permit);
    }

    /// A call has been answered. Its place stays taken until its answer's body ends, but how long a body takes is up to who
    /// reads it, and says nothing about the upstream. The first answer counts.
    pub fn answered(&mut self, now: Instant, permit: &mut Permit, ended: Ended) {
        let Limiter::Adaptive(limit) = &mut self.limiter else { return };
        // A clock that stepped back measures nothing.
        let took = permit.admitted_at.take().and_then(|admitted_at| now.checked_duration_since(admitted_at));
        match (took, ended) {
            (Some(took), Ended::Completed) => limit.record(now, took, permit.in_flight),
            (Some(took), Ended::TimedOut) => limit.record_timeout(now, took),
            (None, _) | (_, Ended::Cancelled) => {}
        }
    }

    /// Frees the place of a call that was answered or cancelled; tells whether somebody waits for it, whom
    /// [`next`](Self::next) names.
    pub fn release(&mut self, _permit: Permit) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.queue.len() > 0 || !self.displaced.is_empty()
    }

    /// A waiting call gives up. `None` where it no longer waits: then [`next`](Self::next) has said what became of it.
    pub fn withdraw(&mut self, now: Instant, ticket: Ticket) -> Option<T> {
        self.queue.withdraw(now, ticket.0)
    }

    /// What becomes of a call that waited; `None` where all that still wait go on waiting.
    pub fn next(&mut self, now: Instant) -> Option<Next<T>> {
        if let Some(call) = self.displaced.pop_front() {
            return Some(Next::Refuse(call, self.refusal(now, RefusedWhy::Displaced)));
        }
        if let Some(call) = self.queue.expired(now) {
            return Some(Next::Refuse(call, self.refusal(now, RefusedWhy::Waited)));
        }
        if self.in_flight >= self.limit() {
            return None;
        }
        let call = self.queue.pop(now)?;
        Some(Next::Admit(call, self.admit(Some(now))))
    }

    /// What a call is told that is sent away now.
    #[must_use]
    pub fn refusal(&self, now: Instant, why: RefusedWhy) -> Refusal {
        let (least, most) = RETRY_IN;
        Refusal { why, retry_in: self.queue.occupied_for(now).clamp(least, most) }
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self, now: Instant) -> AdmissionState {
        AdmissionState {
            limit: self.limit(),
            in_flight: self.in_flight,
            queued: self.queue.len(),
            is_standing: self.queue.is_standing(now),
        }
    }

    fn admit(&mut self, now: Option<Instant>) -> Permit {
        self.in_flight += 1;
        Permit { admitted_at: now, in_flight: self.in_flight }
    }

    fn limit(&self) -> u32 {
        match &self.limiter {
            Limiter::Fixed(limit) => *limit,
            Limiter::Adaptive(limit) => limit.limit(),
        }
    }
}

#[cfg(test)]
mod tests;
