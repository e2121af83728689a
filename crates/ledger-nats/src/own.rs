//! What this process claimed, and in which message it stands: so that a settlement needs no read before it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use semel_core::scope::EffectId;

use crate::entry::Entry;

/// Claims remembered; one that is forgotten costs a read.
const OWN_MAX: usize = 16 * 1024;
/// Their order is cleared of what is gone when it is longer.
const ORDER_MAX: usize = 4 * OWN_MAX;

/// The claims of this process that it has not concluded yet.
#[derive(Debug, Default)]
pub(crate) struct Own(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: FxHashMap<EffectId, Entry>,
    /// In the order of their first claims; some are gone already.
    order: VecDeque<EffectId>,
}

impl Own {
    /// What stands under `id`, as far as this process knows.
    pub(crate) fn get(&self, id: EffectId) -> Option<Entry> {
        self.lock().entries.get(&id).cloned()
    }

    /// This process wrote it.
    pub(crate) fn put(&self, id: EffectId, entry: Entry) {
        let mut table = self.lock();
        if table.entries.insert(id, entry).is_none() {
            table.order.push_back(id);
        }
        while table.entries.len() > OWN_MAX {
            let Some(oldest) = table.order.pop_front() else { break };
            table.entries.remove(&oldest);
        }
        if table.order.len() > ORDER_MAX {
            let Table { entries, order } = &mut *table;
            order.retain(|id| entries.contains_key(id));
        }
    }

    /// It is concluded, or somebody else wrote it.
    pub(crate) fn forget(&self, id: EffectId) {
        self.lock().entries.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every section leaves both whole; an id that is in one of them only is dropped in time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use semel_core::effect::Fence;

    use super::*;
    use crate::entry::Held;

    fn id(n: usize) -> EffectId {
        EffectId::from_bytes((n as u128).to_be_bytes())
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let own = Own::default();
        let entry = |revision| Entry { revision, token: 0, held: Held::Released(Fence(1)) };
        for n in 0..=OWN_MAX {
            own.put(id(n), entry(n as u64));
            own.put(id(n), entry(n as u64 + 1));
        }
        assert_eq!(own.get(id(0)), None);
        assert_eq!(own.get(id(1)), Some(entry(2)));
        own.forget(id(1));
        assert_eq!(own.get(id(1)), None);
        for n in 0..2 * ORDER_MAX {
            own.put(id(n), entry(1));
            own.forget(id(n));
        }
        assert!(own.lock().order.len() <= ORDER_MAX);
    }
}
