//! Who is shed first.

use std::hash::{BuildHasher, Hash};

/// How much a call matters, as its route says. Five classes, as in failsafe-go's `priority` and, but for one, Uber's
/// Cinnamon (*Cinnamon: Using Century Old Tech to Build a Mean Load Shedder*, 2023).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits for it: prefetching, batches.
    VeryLow,
    /// It can be done later.
    Low,
    /// What most calls are.
    #[default]
    Medium,
    /// Somebody waits for it.
    High,
    /// Without it nothing else works: health, login, payment under way.
    VeryHigh,
}

impl Priority {
    /// All of them, the lowest first.
    pub const ALL: [Self; 5] = [Self::VeryLow, Self::Low, Self::Medium, Self::High, Self::VeryHigh];

    /// Its name in configuration and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::VeryHigh => "very-high",
        }
    }
}

/// Levels of a class.
const PER_CLASS: u8 = 50;
/// Levels of all classes.
pub(super) const LEVELS: usize = PER_CLASS as usize * Priority::ALL.len();

/// A place among all calls, by class first: what sheds one tenant of a class sheds all of its calls before it sheds those
/// of the next, so that under overload most callers are served well rather than all of them now and then (a page is
/// made of many calls).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// The level of a tenant's calls. The hasher is seeded by something that tenants cannot know, and `turn` changes now
    /// and then (hourly, in WeChat's DAGOR: *Overload Control for Scaling WeChat Microservices*, 2018), so that it is
    /// not always the same ones who are shed.
    #[must_use]
    pub fn of_tenant<S: BuildHasher>(class: Priority, tenant: &(impl Hash + ?Sized), hasher: &S, turn: u64) -> Self {
        Self::of_share(class, hasher.hash_one((turn, tenant)) as f64 / u64::MAX as f64)
    }

    /// The level at this share of the class, in `0.0..1.0`: a random number where there are no tenants.
    #[must_use]
    pub fn of_share(class: Priority, share: f64) -> Self {
        // A float that is no u8 is clamped by `as`.
        let within = ((share * f64::from(PER_CLASS)) as u8).min(PER_CLASS - 1);
        Self(class as u8 * PER_CLASS + within)
    }

    /// The class.
    #[must_use]
    pub fn class(self) -> Priority {
        Priority::ALL[usize::from(self.0 / PER_CLASS)]
    }
}

/// Levels of the last calls.
const REMEMBERED: usize = 1_024;

/// The levels of recent calls, to know which of them are the lowest tenth, or half.
#[derive(Clone, Debug)]
pub(super) struct RecentLevels {
    recent: [Level; REMEMBERED],
    counts: [u16; LEVELS],
    seen: usize,
}

impl RecentLevels {
    pub(super) const fn empty() -> Self {
        Self { recent: [Level(0); REMEMBERED], counts: [0; LEVELS], seen: 0 }
    }

    pub(super) fn record(&mut self, level: Level) {
        let place = self.seen % REMEMBERED;
        if self.seen >= REMEMBERED {
            self.counts[usize::from(self.recent[place].0)] -= 1;
        }
        self.recent[place] = level;
        self.counts[usize::from(level.0)] += 1;
        self.seen += 1;
    }

    /// Whether a call of this level is among the lowest `share` of recent calls. Those of the level in which the share
    /// ends are divided by `rand`, in `0.0..1.0`: where all calls have one level, as many are shed as where each has its
    /// own.
    pub(super) fn is_among_lowest(&self, level: Level, share: f64, rand: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        let place = usize::from(level.0);
        let below: u32 = self.counts[..place].iter().copied().map(u32::from).sum();
        let target = share * self.seen.min(REMEMBERED) as f64;
        // One, where none were seen: then the share is of this very call.
        let own = f64::from(self.counts[place]).max(1.0);
        rand < (target - f64::from(below)) / own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::{BuildHasherDefault, DefaultHasher};

    #[test]
    fn levels_stay_in_their_class() {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut seen = std::collections::BTreeSet::new();
        for class in Priority::ALL {
            for share in [-1.0, 0.0, 0.5, 0.999_999, 1.0, f64::NAN] {
                assert_eq!(Level::of_share(class, share).class(), class);
            }
            for tenant in 0..1_000 {
                let level = Level::of_tenant(class, &tenant, &hasher, 1);
                assert_eq!(level.class(), class);
                assert_eq!(level, Level::of_tenant(class, &tenant, &hasher, 1));
                seen.insert(level);
            }
        }
        assert_eq!(seen.len(), LEVELS);
        let turned = (0..100).filter(|tenant| {
            let level = |turn| Level::of_tenant(Priority::Low, tenant, &hasher, turn);
            level(1) != level(2)
        });
        assert!(turned.count() > 80, "another turn, others first");
        assert!(Level::of_share(Priority::Low, 0.99) < Level::of_share(Priority::Medium, 0.0));
    }

    #[test]
    fn the_lowest_class_goes_first() {
        let mut levels = RecentLevels::empty();
        // A fifth of each class; more than is remembered.
        let at = |i: u32| Level::of_share(Priority::ALL[i as usize % 5], f64::from(i / 5 % 10) / 10.0);
        (0..3_000).for_each(|i| levels.record(at(i)));
        let shed = |share| -> Vec<usize> {
            let mut shed = vec![0; 5];
            for i in 0..1_000 {
                shed[i as usize % 5] += usize::from(levels.is_among_lowest(at(i), share, 0.5));
            }
            shed
        };
        assert_eq!(shed(0.0), [0, 0, 0, 0, 0]);
        let tenth = shed(0.1);
        assert!((80..=120).contains(&tenth[0]) && tenth[1..] == [0; 4], "{tenth:?}");
        let half = shed(0.5);
        assert!(half[..2] == [200, 200] && (80..=120).contains(&half[2]) && half[3..] == [0, 0], "{half:?}");
        assert_eq!(shed(1.0), [200; 5]);
    }

    proptest! {
        /// The trap: where all calls have one level, a threshold sheds none of them and then all.
        #[test]
        fn as_many_as_asked_whatever_the_levels(share in 0.05..1.0_f64, tenants in 1_u32..40, calls in 200_u32..1_500) {
            let mut levels = RecentLevels::empty();
            let at = |i: u32| Level::of_share(Priority::Medium, f64::from(i % tenants) / f64::from(tenants));
            (0..calls).for_each(|i| levels.record(at(i)));
            let rands = (0..1_000).map(|i| (i, f64::from(i * 7 % 1_000) / 1_000.0));
            let shed = rands.filter(|(i, rand)| levels.is_among_lowest(at(*i), share, *rand)).count() as f64 / 1_000.0;
            prop_assert!((shed - share).abs() < 0.1, "{shed} for {share}");
        }
    }
}
