//! Exact counts over a sliding window of ten slots, shared by threads without a lock.

use std::ops::{Add, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Slots that a window is divided into.
pub(super) const SLOTS: u64 = 10;

/// Two counts over the last ten slots of time. Updates and sums are exact as long as no slot sees more than a million.
///
/// Ten buckets are Hystrix's choice (`metrics.rollingStats.numBuckets`). Each slot is one word, so that its stamp and
/// both counts change together; nothing else is published through it, so relaxed order is enough.
///
/// A clock that steps back finds slots from its future: those do not count, and are begun anew. The window forgets what
/// it knew, at most ten slots of it, and goes on.
#[derive(Debug)]
pub(super) struct Window {
    start: Instant,
    /// 2^64 divided by the slot's milliseconds, rounded up.
    slot_inverse: u128,
    slots: [AtomicU64; SLOTS as usize],
}

/// A slot's number, counted from the window's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick(u64);

/// Calls, and how many were of the kind that the policy watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) marked: u64,
}

impl Window {
    /// A window of `length`, at least 10 ms, that begins at `start`.
    pub(super) fn new(start: Instant, length: Duration) -> Self {
        // At most a day.
        let slot_ms = (length.as_millis() / u128::from(SLOTS)).clamp(1, 86_400_000);
        let slot_inverse = (1_u128 << 64).div_ceil(slot_ms);
        Self { start, slot_inverse, slots: [const { AtomicU64::new(0) }; SLOTS as usize] }
    }

    /// The slot of a moment.
    pub(super) fn tick(&self, now: Instant) -> Tick {
        // A multiplication in place of a division, of which every call would pay for two: exact while the product of
        // both is below 2^64, which is for thousands of years.
        Tick((u128::from(millis(self.start, now)).wrapping_mul(self.slot_inverse) >> 64) as u64)
    }

    /// Adds to the current slot and returns what it holds then.
    pub(super) fn add(&self, tick: Tick, more: Counts) -> Counts {
        self.update(tick, |counts| Some(counts + more)).unwrap_or_default()
    }

    /// Adds to the slot of a moment that may be past; nothing, where that slot has left the window.
    pub(super) fn amend(&self, tick: Tick, more: Counts) {
        let carries = |packed: u64| packed >> (2 * Counts::BITS) == tick.stamp();
        let amended = |packed| carries(packed).then(|| (Counts::unpack(packed, tick, 0..=0) + more).pack(tick));
        let _ = self.slots[tick.slot()].fetch_update(Ordering::Relaxed, Ordering::Relaxed, amended);
    }

    /// Changes the current slot, where `change` wants it, and returns what it holds then.
    pub(super) fn update(&self, tick: Tick, change: impl Fn(Counts) -> Option<Counts>) -> Option<Counts> {
        let slot = &self.slots[tick.slot()];
        let mut packed = slot.load(Ordering::Relaxed);
        loop {
            let next = change(Counts::unpack(packed, tick, 0..=0))?;
            match slot.compare_exchange_weak(packed, next.pack(tick), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(seen) => packed = seen,
            }
        }
    }

    /// The sum over the window without its current slot.
    pub(super) fn others(&self, tick: Tick) -> Counts {
        let others = self.slots.iter().enumerate().filter(|(at, _)| *at != tick.slot());
        // The one ahead counts: a thread may have read its clock just before the others did.
        let counts = |slot: &AtomicU64| Counts::unpack(slot.load(Ordering::Relaxed), tick, -1..=SLOTS as i64 - 1);
        others.map(|(_, slot)| counts(slot)).fold(Counts::default(), Counts::add)
    }

    /// The sum over the window.
    pub(super) fn total(&self, tick: Tick) -> Counts {
        let current = self.slots[tick.slot()].load(Ordering::Relaxed);
        self.others(tick) + Counts::unpack(current, tick, 0..=0)
    }

    /// The sum over the current slot and the `count` before it.
    pub(super) fn latest(&self, tick: Tick, count: u64) -> Counts {
        let ages = 0..=count.min(SLOTS - 1) as i64;
        let counts = |slot: &AtomicU64| Counts::unpack(slot.load(Ordering::Relaxed), tick, ages.clone());
        self.slots.iter().map(counts).fold(Counts::default(), Counts::add)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

/// Whole milliseconds from `start` to `now`; none where the clock stepped back behind `start`.
pub(super) fn millis(start: Instant, now: Instant) -> u64 {
    let since = now.saturating_duration_since(start);
    // Not `as_millis`: a division of 128 bits on every call.
    since.as_secs().saturating_mul(1_000) + u64::from(since.subsec_millis())
}

impl Tick {
    const fn slot(self) -> usize {
        (self.0 % SLOTS) as usize
    }

    /// The stamp that a slot carries: 24 bits, half a year of one-second slots. Zero is no stamp of a new window.
    const fn stamp(self) -> u64 {
        (self.0 + 1) % Counts::STAMPS
    }
}

impl Counts {
    /// One call that is not marked.
    pub(super) const CALL: Self = Self { calls: 1, marked: 0 };
    /// A mark without a call.
    pub(super) const MARK: Self = Self { calls: 0, marked: 1 };
    /// One call that is marked.
    pub(super) const MARKED_CALL: Self = Self { calls: 1, marked: 1 };

    const BITS: u32 = 20;
    const MAX: u64 = (1 << Self::BITS) - 1;
    const STAMPS: u64 = 1 << 24;

    /// The counts, where the slot is that many slots older than `tick`; else none: the slot is to be begun anew.
    fn unpack(packed: u64, tick: Tick, ages: RangeInclusive<i64>) -> Self {
        let stamp = packed >> (2 * Self::BITS);
        let ahead = tick.stamp().wrapping_sub(stamp) % Self::STAMPS;
        // As a number with a sign, of 24 bits.
        let age = if ahead < Self::STAMPS / 2 { ahead as i64 } else { ahead as i64 - Self::STAMPS as i64 };
        if !ages.contains(&age) {
            return Self::default();
        }
        Self { calls: packed >> Self::BITS & Self::MAX, marked: packed & Self::MAX }
    }

    fn pack(self, tick: Tick) -> u64 {
        tick.stamp() << (2 * Self::BITS) | self.calls.min(Self::MAX) << Self::BITS | self.marked.min(Self::MAX)
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, marked: self.marked + other.marked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    #[test]
    fn counts_saturate_and_do_not_spill() {
        let full = Counts { calls: Counts::MAX + 5, marked: Counts::MAX }.pack(Tick(7));
        let counts = Counts::unpack(full, Tick(7), 0..=0);
        assert_eq!((counts.calls, counts.marked), (Counts::MAX, Counts::MAX));
    }

    #[test]
    fn a_clock_that_steps_back_is_survived() {
        let start = some_instant();
        let window = Window::new(start, Duration::from_secs(10));
        let later = window.tick(start + Duration::from_secs(3_600));
        window.add(later, Counts { calls: 50, marked: 50 });
        let back = window.tick(start + Duration::from_secs(5));
        assert_eq!(window.total(back), Counts::default(), "what is from the future does not count");
        window.add(back, Counts::CALL);
        assert_eq!(window.total(back), Counts::CALL);
        assert_eq!(window.tick(start), window.tick(start.checked_sub(Duration::from_secs(9)).unwrap_or(start)));
    }

    #[test]
    fn a_thread_that_is_a_moment_behind_sees_the_newest_slot() {
        let start = some_instant();
        let window = Window::new(start, Duration::from_secs(10));
        window.add(window.tick(start + Duration::from_millis(20_000)), Counts::MARKED_CALL);
        assert_eq!(window.total(window.tick(start + Duration::from_millis(19_999))), Counts::MARKED_CALL);
    }

    #[test]
    fn the_past_is_amended_while_it_is_in_the_window() {
        let start = some_instant();
        let window = Window::new(start, Duration::from_secs(10));
        let first = window.tick(start);
        window.add(first, Counts::CALL);
        window.amend(first, Counts::MARK);
        assert_eq!(window.total(window.tick(start + Duration::from_secs(9))), Counts::MARKED_CALL);
        let later = window.tick(start + Duration::from_secs(10));
        window.add(later, Counts::CALL);
        window.amend(first, Counts::MARK);
        assert_eq!(window.total(later), Counts::CALL);
    }

    #[test]
    fn wide_stamps_wrap() {
        let start = some_instant();
        let window = Window::new(start, Duration::from_secs(10));
        let before_wrap = Duration::from_secs((1 << 24) - 3);
        for second in 0..20 {
            window.add(window.tick(start + before_wrap + Duration::from_secs(second)), Counts::CALL);
        }
        assert_eq!(window.total(window.tick(start + before_wrap + Duration::from_secs(19))).calls, 10);
    }

    proptest! {
        #[test]
        fn ticks_are_whole_slots(length_ms in 1_u64..100_000_000, ms in 0_u64..1 << 36) {
            let start = some_instant();
            let window = Window::new(start, Duration::from_millis(length_ms));
            let slot_ms = (length_ms / SLOTS).max(1);
            for ms in [ms, ms / slot_ms * slot_ms, (ms / slot_ms * slot_ms).saturating_sub(1)] {
                prop_assert_eq!(window.tick(start + Duration::from_millis(ms)), Tick(ms / slot_ms));
            }
        }

        /// Against a list of all events.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0_u64..1_500, any::<bool>()), 0..300)) {
            let start = some_instant();
            let window = Window::new(start, Duration::from_secs(3));
            let (mut at, mut events) = (0_u64, Vec::new());
            for (pause, marked) in steps {
                at += pause / 4;
                let tick = window.tick(start + Duration::from_millis(at));
                window.add(tick, if marked { Counts::MARKED_CALL } else { Counts::CALL });
                events.push((at / 300, marked));
                let seen = |marked_only: bool| events.iter().filter(|(slot, marked)| {
                    slot + 10 > at / 300 && (*marked || !marked_only)
                }).count() as u64;
                prop_assert_eq!(window.total(tick), Counts { calls: seen(false), marked: seen(true) });
                let latest = events.iter().filter(|(slot, _)| slot + 2 > at / 300).count() as u64;
                prop_assert_eq!(window.latest(tick, 1).calls, latest);
            }
        }
    }
}
