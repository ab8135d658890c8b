//! Latencies in buckets whose width is 1/64 of their value: quantiles within 1.6 %, no allocation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sub-buckets of each power of two.
const FINE: u32 = 6;

#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_nanos: u64,
}

/// A histogram on its way between two processes: only the buckets that hold something.
#[derive(Serialize, Deserialize)]
struct Sparse {
    buckets: Vec<(usize, u64)>,
    max_nanos: u64,
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Histogram {
        let mut histogram = Histogram { max_nanos: sparse.max_nanos, ..Histogram::new() };
        for (index, count) in sparse.buckets {
            if let Some(bucket) = histogram.counts.get_mut(index) {
                *bucket += count;
                histogram.total += count;
            }
        }
        histogram
    }
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Sparse {
        let filled = histogram.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        Sparse { buckets: filled.collect(), max_nanos: histogram.max_nanos }
    }
}

/// A point of the distribution: this percentile of the latencies does not exceed so many microseconds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) percentile: f64,
    pub(crate) micros: f64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; (64 << FINE) as usize], total: 0, max_nanos: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = (latency.as_nanos() as u64).max(1 << FINE);
        let shift = nanos.ilog2() - FINE;
        let index = ((shift as usize) << FINE) + (nanos >> shift) as usize;
        self.counts[index] += 1;
        self.total += 1;
        self.max_nanos = self.max_nanos.max(nanos);
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (own, other) in self.counts.iter_mut().zip(&other.counts) {
            *own += other;
        }
        self.total += other.total;
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    /// The latency in microseconds that `quantile` of the records do not exceed; 0 without records.
    pub(crate) fn quantile_micros(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                // Index `(shift << FINE) + top` with `top` in FINE..2*FINE powers: undo it.
                let shift = (index >> FINE).saturating_sub(1);
                let top = index - (shift << FINE);
                return ((top as u64) << shift) as f64 / 1e3;
            }
        }
        0.0
    }

    pub(crate) fn max_micros(&self) -> f64 {
        self.max_nanos as f64 / 1e3
    }

    /// The distribution from p0 to the last percentile that at least ten records lie beyond: what is further
    /// out would be single accidents.
    pub(crate) fn curve(&self) -> Vec<Point> {
        let mut points = Vec::new();
        let mut beyond = 1.0_f64;
        while beyond * self.total as f64 >= 10.0 {
            let micros = self.quantile_micros(1.0 - beyond);
            points.push(Point { percentile: 100.0 * (1.0 - beyond), micros });
            // Twenty points for each nine.
            beyond /= 10_f64.powf(0.05);
        }
        points
    }
}
