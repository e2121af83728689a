//! A bound on refused settlements by upstreams: each may write a line to the audit log.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use semel_core::{scope::EffectId, time::Timestamp};

/// Refusals at once for one effect.
const BURST: u8 = 8;
/// One more after each of these.
const REFILL: Duration = Duration::from_secs(10);
/// Effects share this many budgets by their ids, which are uniform: the memory is fixed, and an upstream that sends
/// nonsense about one effect hardly touches the others.
const SLOTS: usize = 256;

#[derive(Debug)]
pub(crate) struct RefusalBudget {
    slots: Mutex<Box<[Slot; SLOTS]>>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    left: u8,
    /// The moment up to which `left` was refilled.
    at: Timestamp,
}

impl Default for RefusalBudget {
    fn default() -> Self {
        Self { slots: Mutex::new(Box::new([Slot { left: BURST, at: Timestamp::EPOCH }; SLOTS])) }
    }
}

impl RefusalBudget {
    /// Takes one in advance; false when none is left.
    pub(crate) fn take(&self, id: EffectId, now: Timestamp) -> bool {
        self.with(id, |slot| {
            let refills = now.since(slot.at).as_millis() / REFILL.as_millis();
            if refills > 0 {
                slot.left = u8::try_from(refills).map_or(BURST, |more| slot.left.saturating_add(more).min(BURST));
                slot.at = now;
            }
            let some_left = slot.left > 0;
            slot.left -= u8::from(some_left);
            some_left
        })
    }

    /// Gives one back: it was no refusal.
    pub(crate) fn give_back(&self, id: EffectId) {
        self.with(id, |slot| slot.left = (slot.left + 1).min(BURST));
    }

    fn with<T>(&self, id: EffectId, change: impl FnOnce(&mut Slot) -> T) -> T {
        // Every section leaves the slot whole.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut slots[usize::from(id.as_bytes()[0])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time() {
        let budget = RefusalBudget::default();
        let (one, other) = (EffectId::from_bytes([1; 16]), EffectId::from_bytes([2; 16]));
        let now = Timestamp::from_millis(1_800_000_000_000);
        let taken = (0..20).filter(|_| budget.take(one, now)).count();
        assert_eq!(taken, 8);
        assert!(budget.take(other, now));
        assert!(!budget.take(one, now.plus(Duration::from_millis(9_999))));
        assert!(budget.take(one, now.plus(REFILL)) && !budget.take(one, now.plus(REFILL)));
        budget.give_back(one);
        assert!(budget.take(one, now.plus(REFILL)));
        // A clock that went back gives nothing.
        assert!(!budget.take(one, now));
        assert_eq!((0..20).filter(|_| budget.take(one, now.plus(Duration::from_secs(86_400)))).count(), 8);
    }
}
