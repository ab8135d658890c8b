//! Latencies in buckets whose width is 1/64 of their value: quantiles within 1.6 %, no allocation.

use std::time::Duration;

/// Sub-buckets of each power of two.
const FINE: u32 = 6;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; (64 << FINE) as usize], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = (latency.as_nanos() as u64).max(1 << FINE);
        let shift = nanos.ilog2() - FINE;
        let index = ((shift as usize) << FINE) + (nanos >> shift) as usize;
        self.counts[index] += 1;
        self.total += 1;
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
}
