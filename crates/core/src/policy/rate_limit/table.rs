//! What each key has used: bounded, without a scan.

use super::quota::{Meter, Ticks};
use std::borrow::Borrow;
use std::sync::{Mutex, PoisonError};

/// Keys of a set.
const WAYS: usize = 8;

/// Keys and their meters, in sets of eight, each under a lock that is held for the time of a few comparisons.
///
/// A key lives in the set that its hash names. Where the set is full, one of its keys that are *idle* (all units there:
/// forgetting it changes nothing) makes room. Where none is, the one that will be idle first does, and the newcomer
/// takes over what that one has used, as in the space-saving algorithm (Metwally, Agrawal, El Abbadi, *Efficient
/// Computation of Frequent and Top-k Elements in Data Streams*, 2005). So a key that was pushed out comes back to no more
/// than it left, and nobody resets a limit by asking under many other names; and to keep newcomers out, one must
/// exhaust the limits of as many keys as the table holds. The hash is seeded, so that nobody chooses a set.
#[derive(Debug)]
pub(super) struct KeyTable<K, M> {
    sets: Box<[Mutex<Set<K, M>>]>,
}

/// At most eight entries.
type Set<K, M> = Vec<Entry<K, M>>;

/// A key.
#[derive(Debug)]
pub(super) struct Entry<K, M> {
    hash: u64,
    pub(super) key: K,
    pub(super) meter: M,
    /// Refusals since the key was last idle.
    pub(super) refused: u32,
}

impl<K, M: Meter> KeyTable<K, M> {
    /// Room for `keys_max` keys, rounded up to whole sets; taken when keys come.
    pub(super) fn new(keys_max: usize) -> Self {
        let sets = keys_max.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Mutex::new(Set::new())).collect() }
    }

    /// Does something with the entry of `key`, which is made where there is none. Allocates only then.
    pub(super) fn with<Q, T>(
        &self,
        rule: &M::Rule,
        at: Ticks,
        (hash, key): (u64, &Q),
        act: impl FnOnce(&mut Entry<K, M>) -> T,
    ) -> T
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // Multiply and shift: the hash's high bits choose the set, without a division.
        let set = (u128::from(hash) * self.sets.len() as u128) >> 64;
        let mut set = self.sets[set as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let found = set.iter().position(|entry| entry.hash == hash && entry.key.borrow() == key);
        let place = found.unwrap_or_else(|| {
            let newcomer = Entry { hash, key: key.to_owned(), meter: M::fresh(), refused: 0 };
            insert(&mut set, newcomer, rule, at)
        });
        act(&mut set[place])
    }

    /// Looks at every key, one set after the other.
    pub(super) fn for_each(&self, mut look: impl FnMut(&mut Entry<K, M>)) {
        for set in &self.sets {
            set.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(&mut look);
        }
    }
}

/// Where the newcomer stands now.
fn insert<K, M: Meter>(set: &mut Set<K, M>, mut newcomer: Entry<K, M>, rule: &M::Rule, at: Ticks) -> usize {
    if set.len() < WAYS {
        set.push(newcomer);
        return set.len() - 1;
    }
    let idle_in = |entry: &Entry<K, M>| entry.meter.idle_in(rule, at);
    let (place, first) = set.iter().map(idle_in).enumerate().min_by_key(|(_, wait)| *wait).unwrap_or((0, 0));
    if first > 0 {
        newcomer.meter = set[place].meter.clone();
    }
    set[place] = newcomer;
    place
}

#[cfg(test)]
mod tests {
    use super::super::bucket::{Bucket, BucketRule};
    use super::*;

    /// One set: every key meets every other. Ten ticks a unit, five at once.
    fn one_set() -> (KeyTable<u32, Bucket>, BucketRule) {
        (KeyTable::new(WAYS), BucketRule::new(10, 5))
    }

    fn take(table: &KeyTable<u32, Bucket>, rule: &BucketRule, at: Ticks, key: u32) -> bool {
        table.with(rule, at, (u64::from(key), &key), |entry| {
            let found = entry.meter.peek(rule, at, 1).is_ok();
            if found {
                entry.meter.take(rule, at, 1);
            }
            found
        })
    }

    fn count(table: &KeyTable<u32, Bucket>) -> usize {
        let mut count = 0;
        table.for_each(|_| count += 1);
        count
    }

    #[test]
    fn memory_is_bounded_and_idle_keys_make_room() {
        let (table, rule) = one_set();
        for key in 0..1_000 {
            assert!(take(&table, &rule, u64::from(key) * 50, key), "each comes when the last is idle");
        }
        assert_eq!(count(&table), WAYS);
        // What is still in use stays: only the idle ones went.
        let start = 999 * 50;
        (0..4).for_each(|_| assert!(take(&table, &rule, start, 999)));
        (0..20).for_each(|key| assert!(take(&table, &rule, start + 2 * u64::from(key), 2_000 + key)));
        assert_eq!((0..9).filter(|_| take(&table, &rule, start + 40, 999)).count(), 4, "what came back, no more");
    }

    #[test]
    fn asking_under_other_names_resets_nothing() {
        let (table, rule) = one_set();
        while take(&table, &rule, 0, 7) {}
        // Push it out with keys that ask once each, as many as one likes.
        let served = (100..200).filter(|name| take(&table, &rule, 0, *name)).count();
        assert!(served <= (WAYS - 1) * 5, "no more than the limits of the keys that fit: {served}");
        assert!(!take(&table, &rule, 0, 7), "pushed out or not, it has used its units");
        assert_eq!(count(&table), WAYS);
        // And time heals as always.
        assert!(take(&table, &rule, 10, 7));
    }

    #[test]
    fn the_busiest_are_not_pushed_out() {
        let (table, rule) = one_set();
        for name in 0..8_u32 {
            (0..=name.min(4)).for_each(|_| assert!(take(&table, &rule, 0, name)));
        }
        assert!(take(&table, &rule, 0, 100));
        let mut keys = Vec::new();
        table.for_each(|entry| keys.push(entry.key));
        keys.sort_unstable();
        assert_eq!(keys, [1, 2, 3, 4, 5, 6, 7, 100], "0 had used one unit");
    }
}
