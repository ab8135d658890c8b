//! Histograms of durations: each shard fills its own, and sums over shards are again histograms.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cell::{AddCounters, Counter};

/// Upper bounds of the buckets, microseconds: what happens to TCP sessions, from a connect on the same machine
/// (100 us) over a lost SYN (1 s, 3 s) to a connection pool that keeps its connections for an hour. Three bounds a
/// decade up to 10 s keep the error of a quantile below a factor of 2.5.
pub const BOUNDS_MICROS: [u64; BUCKETS - 1] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];

/// The number of buckets, including the one without an upper bound.
pub const BUCKETS: usize = 22;

/// Durations by bucket, and their sum. With plain numbers in place of counters it holds the sums over the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram<N = Counter> {
    /// The number of durations up to each bound and above the one before; the last bucket has no bound.
    pub buckets: [N; BUCKETS],
    /// The sum of all durations, microseconds.
    pub sum_micros: N,
}

impl Histogram {
    /// Adds a duration; only the one writer calls this.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_MICROS.partition_point(|bound| *bound < micros)].add(1);
        self.sum_micros.add(micros);
    }
}

impl AddCounters<Histogram> for Histogram<u64> {
    fn add_counters(&mut self, counters: &Histogram) {
        self.buckets.add_counters(&counters.buckets);
        self.sum_micros.add_counters(&counters.sum_micros);
    }
}

impl Histogram<u64> {
    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all durations in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros as f64 / 1e6
    }

    /// Returns what came since `before`, an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.buckets.iter_mut().zip(before.buckets).for_each(|(now, then)| *now = now.saturating_sub(then));
        since.sum_micros = since.sum_micros.saturating_sub(before.sum_micros);
        since
    }

    /// Returns an estimate of a quantile (0 to 1), linear within its bucket; `None` without a duration. Above the
    /// last bound, that bound.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let wanted = quantile.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0.0;
        for (index, count) in self.buckets.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                let lower = if index == 0 { 0 } else { BOUNDS_MICROS[index - 1] };
                let upper = BOUNDS_MICROS.get(index).copied().unwrap_or(lower);
                let micros = lower as f64 + (upper - lower) as f64 * ((wanted - below) / count);
                return Some(Duration::from_micros(micros as u64));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: &[u64]) -> Histogram<u64> {
        let (cells, mut sums) = (Histogram::default(), Histogram::default());
        micros.iter().for_each(|micros| cells.observe(Duration::from_micros(*micros)));
        sums.add_counters(&cells);
        sums
    }

    #[test]
    fn bound_belongs_to_the_bucket_below_it() {
        let histogram = of(&[0, 100, 101, 3_600_000_000, 3_600_000_001]);
        assert_eq!((histogram.buckets[0], histogram.buckets[1]), (2, 1));
        assert_eq!((histogram.buckets[BUCKETS - 2], histogram.buckets[BUCKETS - 1]), (1, 1));
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.sum_micros, 7_200_000_202);
    }

    #[test]
    fn quantile_of_nothing_is_none() {
        assert_eq!(of(&[]).quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn sum_of_histograms_is_the_histogram_of_all(a: Vec<u32>, b: Vec<u32>) {
            let [a, b] = [a, b].map(|values| values.into_iter().map(u64::from).collect::<Vec<_>>());
            let (mut sum, cells) = (of(&a), Histogram::default());
            b.iter().for_each(|micros| cells.observe(Duration::from_micros(*micros)));
            sum.add_counters(&cells);
            let all: Vec<_> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(&sum, &of(&all));
            prop_assert_eq!(sum.since(&of(&a)), of(&b));
        }

        #[test]
        fn quantile_lies_in_the_bucket_of_the_true_one(mut values in prop::collection::vec(0_u64..4_000_000_000, 1..50), part in 0.0..=1.0) {
            let quantile = of(&values).quantile(part).unwrap().as_micros() as u64;
            values.sort_unstable();
            let rank = ((part * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let bucket = |value: u64| BOUNDS_MICROS.partition_point(|bound| *bound < value);
            let (found, wanted) = (bucket(quantile), bucket(values[rank - 1]).min(BUCKETS - 2));
            prop_assert!(found == wanted || found + 1 == wanted, "{found} {wanted}");
        }
    }
}
