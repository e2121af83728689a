//! A short queue in front of a limit.

use super::priority::{Level, Priority};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long calls may wait for a place, and how many of them.
///
/// The waits are those of *Fail at Scale* (Maurer, ACM Queue 13(8), 2015), after CoDel (Nichols and Jacobson, *Controlling
/// Queue Delay*, 2012): a queue that absorbs a burst is empty again within an interval, so while it was, a call may
/// wait for as long; a queue that was not is *standing*, and then waiting helps nobody. While it stands, the newest
/// call goes first: its caller is the one that still waits. For a call counts what stands before it, its own class and those
/// above: batches that keep the queue full do not cut short the wait of those who are served before them. The lengths are
/// failsafe-go's, relative to the limit, so that with the limit the queue grows and shrinks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueuePolicy {
    /// How long a call waits at most. Default: 100 ms. It is also the interval in which the queue must be empty once.
    pub wait_max: Duration,
    /// How long a call waits at most while the queue is standing. Default: 5 ms.
    pub standing_wait_max: Duration,
    /// At this many times the limit, calls begin to be shed. Default: 2.
    pub shed_from: f64,
    /// At this many times the limit, all are. Default: 3. 0: no queue, what finds no place is refused.
    pub shed_all: f64,
}

impl Default for QueuePolicy {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_millis(100),
            standing_wait_max: Duration::from_millis(5),
            shed_from: 2.0,
            shed_all: 3.0,
        }
    }
}

/// A call's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    class: Priority,
    number: u64,
}

/// Those that wait, by class.
#[derive(Debug)]
pub(super) struct Queue<T> {
    policy: QueuePolicy,
    /// The oldest first, so that their numbers rise.
    waiting: [VecDeque<Waiting<T>>; Priority::ALL.len()],
    len: usize,
    next_number: u64,
    /// When nobody of this class or above was last known to wait.
    empty_at: [Instant; Priority::ALL.len()],
}

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    until: Instant,
    call: T,
}

impl<T> Queue<T> {
    pub(super) fn new(policy: QueuePolicy, now: Instant) -> Self {
        let waiting = std::array::from_fn(|_| VecDeque::new());
        Self { policy, waiting, len: 0, next_number: 0, empty_at: [now; Priority::ALL.len()] }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The longest that the queue may be in front of this limit.
    pub(super) fn len_max(&self, limit: u32) -> usize {
        (f64::from(limit) * self.policy.shed_all) as usize
    }

    /// Which share of calls are to be shed, rising evenly from none to all: not none and then suddenly all.
    pub(super) fn shed_share(&self, limit: u32) -> f64 {
        let (len, limit) = (self.len as f64, f64::from(limit));
        let (from, all) = (limit * self.policy.shed_from, limit * self.policy.shed_all);
        if len >= all { 1.0 } else { ((len - from) / (all - from)).max(0.0) }
    }

    /// Whether the queue has not been empty for an interval.
    pub(super) fn is_standing(&self, now: Instant) -> bool {
        self.is_standing_before(now, Priority::VeryLow)
    }

    /// Whether some of this class or above have waited throughout an interval.
    fn is_standing_before(&self, now: Instant, class: Priority) -> bool {
        let place = class as usize;
        let is_empty = self.waiting[place..].iter().all(VecDeque::is_empty);
        !is_empty && now.saturating_duration_since(self.empty_at[place]) > self.policy.wait_max
    }

    /// How long the queue has not been empty.
    pub(super) fn occupied_for(&self, now: Instant) -> Duration {
        if self.len == 0 { Duration::ZERO } else { now.saturating_duration_since(self.empty_at[0]) }
    }

    /// Lets a call wait; tells its place and until when it does.
    pub(super) fn push(&mut self, now: Instant, level: Level, deadline: Option<Instant>, call: T) -> (Place, Instant) {
        self.note_empty(now);
        let is_standing = self.is_standing_before(now, level.class());
        let wait = if is_standing { self.policy.standing_wait_max } else { self.policy.wait_max };
        let until = deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let place = Place { class: level.class(), number: self.next_number };
        self.next_number += 1;
        self.len += 1;
        self.waiting[place.class as usize].push_back(Waiting { number: place.number, until, call });
        (place, until)
    }

    /// Takes out the next one whose turn it is: of the highest class the oldest, or the newest while the queue is
    /// standing.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let class = Priority::ALL.into_iter().rev().find(|class| !self.waiting[*class as usize].is_empty())?;
        let is_standing = self.is_standing_before(now, class);
        let class = &mut self.waiting[class as usize];
        let next = if is_standing { class.pop_back() } else { class.pop_front() };
        self.left(now, next)
    }

    /// Takes out the one who would be served last, if it is of a lower class than `level`.
    pub(super) fn displace(&mut self, now: Instant, level: Level) -> Option<T> {
        let lower = Priority::ALL.into_iter().take(level.class() as usize);
        let class = lower.into_iter().find(|class| !self.waiting[*class as usize].is_empty())?;
        let is_standing = self.is_standing_before(now, class);
        let class = &mut self.waiting[class as usize];
        let last = if is_standing { class.pop_front() } else { class.pop_back() };
        self.left(now, last)
    }

    /// Takes out one who has waited long enough, if it is the oldest of its class. Others are met when it is their turn,
    /// or withdraw by themselves.
    pub(super) fn expired(&mut self, now: Instant) -> Option<T> {
        let is_over = |class: &&mut VecDeque<Waiting<T>>| class.front().is_some_and(|oldest| oldest.until <= now);
        let class = self.waiting.iter_mut().find(is_over)?;
        let oldest = class.pop_front();
        self.left(now, oldest)
    }

    /// Takes out the one at this place, if it is still there.
    pub(super) fn withdraw(&mut self, now: Instant, place: Place) -> Option<T> {
        let class = &mut self.waiting[place.class as usize];
        let at = class.binary_search_by_key(&place.number, |waiting| waiting.number).ok()?;
        let waiting = class.remove(at);
        self.left(now, waiting)
    }

    fn left(&mut self, now: Instant, waiting: Option<Waiting<T>>) -> Option<T> {
        let waiting = waiting?;
        self.len -= 1;
        self.note_empty(now);
        Some(waiting.call)
    }

    /// Notes from which class on nobody waits. Also where the clock has stepped back: that cannot have been later than now.
    fn note_empty(&mut self, now: Instant) {
        let mut is_empty = true;
        for (class, empty_at) in self.waiting.iter().zip(&mut self.empty_at).rev() {
            is_empty &= class.is_empty();
            if is_empty || now < *empty_at {
                *empty_at = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;

    const MS: Duration = Duration::from_millis(1);

    fn queue() -> (Queue<u32>, Instant) {
        let now = some_instant();
        (Queue::new(QueuePolicy::default(), now), now)
    }

    fn level(class: Priority) -> Level {
        Level::of_share(class, 0.5)
    }

    fn push(queue: &mut Queue<u32>, now: Instant, call: u32) -> (Place, Instant) {
        queue.push(now, level(Priority::Medium), None, call)
    }

    #[test]
    fn a_burst_is_served_in_order() {
        let (mut queue, now) = queue();
        (0..5).for_each(|call| assert_eq!(push(&mut queue, now, call).1, now + 100 * MS));
        let served: Vec<_> = (0..5).filter_map(|i| queue.pop(now + 15 * MS * i)).collect();
        assert_eq!(served, [0, 1, 2, 3, 4]);
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_standing_queue_waits_briefly_and_serves_the_newest() {
        let (mut queue, now) = queue();
        (0..50).for_each(|call| assert_eq!(push(&mut queue, now, call).0.number, u64::from(call)));
        let later = now + 90 * MS;
        assert_eq!(push(&mut queue, later, 50).1, later + 100 * MS, "not yet");
        assert_eq!(queue.pop(later), Some(0));
        let later = now + 101 * MS;
        assert_eq!(push(&mut queue, later, 51).1, later + 5 * MS);
        assert_eq!(queue.pop(later), Some(51));
        assert_eq!(queue.pop(later), Some(50));
        let gone = std::iter::from_fn(|| queue.expired(later)).count();
        assert_eq!(gone, 49, "whoever came with the burst has waited 100 ms");
        // Empty once: a burst may wait again.
        assert_eq!(push(&mut queue, later, 52).1, later + 100 * MS);
    }

    #[test]
    fn classes_are_served_from_above_and_displaced_from_below() {
        let (mut queue, now) = queue();
        for (class, call) in Priority::ALL.into_iter().zip(0..) {
            queue.push(now, level(class), None, call);
            queue.push(now, level(class), None, call + 10);
        }
        assert_eq!(queue.displace(now, level(Priority::VeryLow)), None);
        assert_eq!(queue.displace(now, level(Priority::High)), Some(10), "the newest would be served last");
        assert_eq!(queue.pop(now), Some(4));
        let standing = now + 101 * MS;
        assert_eq!(queue.displace(standing, level(Priority::Low)), Some(0));
        assert_eq!(queue.displace(standing, level(Priority::VeryHigh)), Some(1), "and now the oldest");
        assert_eq!(queue.len(), 6);
    }

    #[test]
    fn who_is_served_first_waits_as_if_the_others_were_not_there() {
        // The trap: batches keep the queue standing, and people, who would be next, are sent away after 5 ms.
        let (mut queue, now) = queue();
        for call in 0..50 {
            let _ = queue.push(now, level(Priority::Low), None, call);
        }
        let later = now + 150 * MS;
        assert!(queue.is_standing(later));
        assert_eq!(queue.push(later, level(Priority::VeryLow), None, 100).1, later + 5 * MS);
        assert_eq!(queue.push(later, level(Priority::High), None, 101).1, later + 100 * MS);
        assert_eq!(queue.push(later, level(Priority::High), None, 102).1, later + 100 * MS);
        assert_eq!(queue.pop(later), Some(101), "in order, as nothing stands before it");
        assert_eq!(queue.pop(later), Some(102));
        assert_eq!(queue.pop(later), Some(49), "and the newest of those who stand");
    }

    #[test]
    fn nobody_waits_past_the_deadline() {
        let (mut queue, now) = queue();
        let (_, until) = queue.push(now, level(Priority::Low), Some(now + 3 * MS), 1);
        assert_eq!(until, now + 3 * MS);
        assert_eq!(queue.expired(now + 2 * MS), None);
        assert_eq!(queue.expired(now + 3 * MS), Some(1));
    }

    #[test]
    fn withdrawing() {
        let (mut queue, now) = queue();
        let places: Vec<_> = (0..5).map(|call| push(&mut queue, now, call).0).collect();
        assert_eq!(queue.withdraw(now, places[2]), Some(2));
        assert_eq!(queue.withdraw(now, places[2]), None);
        assert_eq!(queue.pop(now), Some(0));
        assert_eq!(queue.withdraw(now, places[0]), None);
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn shedding_ramps_in() {
        let (mut queue, now) = queue();
        let mut shares = Vec::new();
        for call in 0..=30 {
            shares.push((queue.shed_share(10) * 100.0).round() as u32);
            push(&mut queue, now, call);
        }
        assert!(shares[..=20].iter().all(|share| *share == 0), "{shares:?}");
        assert_eq!(shares[21..], [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(queue.len_max(10), 30);
        let none = QueuePolicy { shed_all: 0.0, ..QueuePolicy::default() };
        assert_eq!(Queue::<u32>::new(none, now).shed_share(10), 1.0);
    }

    #[test]
    fn the_clock_may_step_back() {
        let (mut queue, now) = queue();
        let late = now + Duration::from_secs(86_400);
        push(&mut queue, late, 0);
        assert_eq!(push(&mut queue, now, 1).1, now + 100 * MS);
        assert!(queue.is_standing(now + 101 * MS), "from here on");
        assert_eq!(queue.pop(now + 102 * MS), Some(1));
        assert_eq!(queue.occupied_for(now + 102 * MS), 102 * MS);
    }
}
