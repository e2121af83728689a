//! Virtual time, chance, and what happens next.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// Nanoseconds since a run began.
pub(super) type At = u64;

/// A second.
pub(super) const SECOND: At = 1_000_000_000;
/// A millisecond.
pub(super) const MS: At = 1_000_000;

/// The events of a run, in the order of their times, and of their making where those are the same.
pub(super) struct Agenda<E> {
    base: Instant,
    now: At,
    made: u64,
    events: BinaryHeap<Reverse<Entry<E>>>,
}

struct Entry<E> {
    at: At,
    number: u64,
    event: E,
}

impl<E> Agenda<E> {
    pub(super) fn new() -> Self {
        // Only differences of it are ever looked at.
        Self { base: Instant::now(), now: 0, made: 0, events: BinaryHeap::new() }
    }

    pub(super) const fn now(&self) -> At {
        self.now
    }

    /// Now, as policies want it.
    pub(super) fn instant(&self) -> Instant {
        self.instant_at(self.now)
    }

    pub(super) fn instant_at(&self, at: At) -> Instant {
        self.base + Duration::from_nanos(at)
    }

    /// When a policy's moment is.
    pub(super) fn at(&self, instant: Instant) -> At {
        nanos(instant.saturating_duration_since(self.base))
    }

    pub(super) fn plan(&mut self, at: At, event: E) {
        self.made += 1;
        self.events.push(Reverse(Entry { at: at.max(self.now), number: self.made, event }));
    }

    /// Goes on to the next event, if there is one before `end`.
    pub(super) fn next(&mut self, end: At) -> Option<E> {
        let Reverse(entry) = self.events.pop().filter(|Reverse(entry)| entry.at < end)?;
        self.now = entry.at;
        Some(entry.event)
    }
}

/// A duration in nanoseconds.
pub(super) fn nanos(duration: Duration) -> At {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a stream of numbers from a seed.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed: the gap between arrivals that do not know of each other.
    pub(super) fn gap(&mut self, per_second: f64) -> At {
        (-(1.0 - self.unit()).ln() / per_second * SECOND as f64) as At
    }
}
