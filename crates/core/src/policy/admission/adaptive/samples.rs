//! Small statistics over recent samples, without allocation.

use std::time::Duration;

/// Buckets of an octave.
const SUB: u32 = 16;
/// From 1 us (below counts as 1 us) to 2^26 us, a minute and a bit (above counts as that).
const OCTAVES: u32 = 26;

/// Durations in buckets a sixteenth of an octave wide (4 %), as in an HDR histogram.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: [u32; (SUB * OCTAVES) as usize],
    total: u32,
}

impl Histogram {
    pub(super) const fn empty() -> Self {
        Self { counts: [0; (SUB * OCTAVES) as usize], total: 0 }
    }

    pub(super) fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
        let octave = micros.ilog2();
        // Which sixteenth of its octave, linearly: the bits after the leading one.
        let sub = ((u128::from(micros - (1 << octave)) * u128::from(SUB)) >> octave) as u32;
        let bucket = (octave * SUB + sub).min(SUB * OCTAVES - 1);
        self.counts[bucket as usize] += 1;
        self.total += 1;
    }

    pub(super) const fn total(&self) -> u32 {
        self.total
    }

    /// Seconds below which this share of the samples lies, interpolated inside a bucket. 0 where there is none.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let (target, mut below) = (f64::from(self.total) * share, 0.0);
        for (bucket, count) in (0_u32..).zip(self.counts) {
            let count = f64::from(count);
            if count > 0.0 && below + count >= target {
                let (octave, sub) = (bucket / SUB, f64::from(bucket % SUB));
                let within = ((target - below) / count).clamp(0.0, 1.0);
                let micros = f64::from(1_u32 << octave) * (1.0 + (sub + within) / f64::from(SUB));
                return micros / 1e6;
            }
            below += count;
        }
        0.0
    }
}

/// The median of the last five, which a single odd window does not move.
#[derive(Clone, Debug, Default)]
pub(super) struct Median {
    values: [f64; 5],
    count: usize,
}

impl Median {
    /// Adds one and tells the median; the value itself until there are five.
    pub(super) fn add(&mut self, value: f64) -> f64 {
        self.values[self.count % self.values.len()] = value;
        self.count += 1;
        if self.count < self.values.len() {
            return value;
        }
        let mut sorted = self.values;
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// The last fifty pairs.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    pairs: [(f64, f64); 50],
    count: usize,
}

/// Pairs before a correlation says anything.
const WARM: usize = 10;
/// A coefficient of variation below this is noise.
const VARIATION_MIN: f64 = 0.01;

impl Pairs {
    pub(super) const fn empty() -> Self {
        Self { pairs: [(0.0, 0.0); 50], count: 0 }
    }

    pub(super) fn add(&mut self, x: f64, y: f64) {
        self.pairs[self.count % self.pairs.len()] = (x, y);
        self.count += 1;
    }

    /// Pearson's correlation, and y's coefficient of variation; zero until there are ten, and where one of them hardly
    /// varies.
    pub(super) fn correlation(&self) -> (f64, f64) {
        let pairs = &self.pairs[..self.count.min(self.pairs.len())];
        if pairs.len() < WARM {
            return (0.0, 0.0);
        }
        let n = pairs.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
        let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
        for pair in pairs {
            let (dx, dy) = (pair.0 - x, pair.1 - y);
            (xx, yy, xy) = (xx + dx * dx, yy + dy * dy, xy + dx * dy);
        }
        let (x_variation, y_variation) = ((xx / n).sqrt() / x, (yy / n).sqrt() / y);
        // Also where a mean is zero, and the variation no number.
        let varies = x_variation >= VARIATION_MIN && y_variation >= VARIATION_MIN;
        let correlation = if varies { xy / (xx * yy).sqrt() } else { 0.0 };
        (correlation, if y_variation.is_finite() { y_variation } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn medians() {
        let mut median = Median::default();
        let medians: Vec<_> = [1.0, 9.0, 2.0, 8.0, 3.0, 100.0, 3.0].map(|value| median.add(value)).into();
        assert_eq!(medians, [1.0, 9.0, 2.0, 8.0, 3.0, 8.0, 3.0]);
    }

    #[test]
    fn correlations() {
        let of = |f: fn(f64) -> f64| {
            let mut pairs = Pairs::empty();
            (0..80).for_each(|x| pairs.add(f64::from(x), f(f64::from(x))));
            pairs.correlation()
        };
        assert!((of(|x| 3.0 * x + 1.0).0 - 1.0).abs() < 1e-9);
        assert!((of(|x| 1_000.0 - x).0 + 1.0).abs() < 1e-9);
        assert_eq!(of(|_| 5.0), (0.0, 0.0));
        assert_eq!(of(|_| 0.0), (0.0, 0.0));
        assert!(of(|x| 1.0 + x % 2.0).0.abs() < 0.1);
        let mut few = Pairs::empty();
        (0..9).for_each(|x| few.add(f64::from(x), f64::from(x)));
        assert_eq!(few.correlation(), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn quantiles_are_near(micros in proptest::collection::vec(1_u64..50_000_000, 50..300), share in 0.5..0.95_f64) {
            let mut histogram = Histogram::empty();
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            micros.iter().for_each(|micros| histogram.add(Duration::from_micros(*micros)));
            let place = (sorted.len() as f64 * share) as usize;
            let found = histogram.quantile(share) * 1e6;
            let (low, high) = (sorted[place.saturating_sub(1)] as f64, sorted[(place + 1).min(sorted.len() - 1)] as f64);
            prop_assert!(found >= low * 0.93 && found <= high * 1.07, "{found} not in {low}..{high}");
        }

        #[test]
        fn any_duration_has_a_bucket(secs: u64, nanos in 0_u32..1_000_000_000) {
            let mut histogram = Histogram::empty();
            histogram.add(Duration::new(secs, nanos));
            prop_assert_eq!(histogram.total(), 1);
            prop_assert!(histogram.quantile(0.9) > 0.0);
        }
    }
}
