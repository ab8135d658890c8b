//! One number with one writer.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with a single writer. Readers get a whole value, which may be slightly old.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the one writer calls this, so no read-modify-write is needed.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts; only the one writer calls this.
    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets the number; only the one writer calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds counters to sums of the same shape.
pub(super) trait AddCounters<C> {
    fn add_counters(&mut self, counters: &C);
}

impl AddCounters<Counter> for u64 {
    fn add_counters(&mut self, counter: &Counter) {
        *self += counter.value();
    }
}

impl<const COUNT: usize> AddCounters<[Counter; COUNT]> for [u64; COUNT] {
    fn add_counters(&mut self, counters: &[Counter; COUNT]) {
        self.iter_mut().zip(counters).for_each(|(sum, counter)| sum.add_counters(counter));
    }
}
