//! A few of the endpoints, without allocation.

/// Endpoints that a balancer looks at; more than these are never asked.
pub const ENDPOINTS_MAX: usize = 256;

const WORDS: usize = ENDPOINTS_MAX / 64;

/// A set of places in a list of at most [`ENDPOINTS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set([u64; WORDS]);

impl Set {
    /// The first `count` places.
    pub(super) fn first(count: usize) -> Self {
        let mut set = Self::default();
        (0..count).for_each(|index| set.insert(index));
        set
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The `n`-th member, from 0.
    pub(super) fn nth(&self, n: usize) -> Option<usize> {
        let mut left = n;
        for (at, word) in self.0.iter().enumerate() {
            let ones = word.count_ones() as usize;
            if left < ones {
                let mut word = *word;
                // Clears the lowest member, `left` times.
                (0..left).for_each(|_| word &= word - 1);
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
            left -= ones;
        }
        None
    }

    /// Those members that are not `out`.
    pub(super) fn without(mut self, out: &impl Fn(usize) -> bool) -> Self {
        for (at, word) in self.0.iter_mut().enumerate() {
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                if out(at * 64 + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_tree(members in proptest::collection::btree_set(0..ENDPOINTS_MAX, 0..40), out in 0..300_usize) {
            let mut set = Set::default();
            members.iter().for_each(|index| set.insert(*index));
            prop_assert_eq!(set.len(), members.len());
            prop_assert_eq!(set.is_empty(), members.is_empty());
            let listed: Vec<_> = (0..=members.len()).filter_map(|n| set.nth(n)).collect();
            prop_assert_eq!(&listed, &members.iter().copied().collect::<Vec<_>>());
            let rest: BTreeSet<_> = members.into_iter().filter(|index| index % 7 != out % 7).collect();
            let without = set.without(&|index| index % 7 == out % 7);
            prop_assert_eq!((0..rest.len()).filter_map(|n| without.nth(n)).collect::<BTreeSet<_>>(), rest);
        }
    }

    #[test]
    fn the_first_ones() {
        assert_eq!(Set::first(ENDPOINTS_MAX).len(), ENDPOINTS_MAX);
        assert_eq!(Set::first(3).nth(2), Some(2));
        assert_eq!(Set::first(3).nth(3), None);
    }
}
