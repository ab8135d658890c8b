//! Failures in a row of the backends of one upstream, counted by all shards together.
//!
//! Writers: every shard, and the health thread when a backend comes back. Each count stands alone and orders nothing
//! else, so all accesses are `Relaxed`. Failures are added by read-modify-write, so none is lost; a success at the same
//! moment comes before or after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::words::BackendId;

/// Tells the health thread of a backend that failed too often; must not block.
pub type Report = Box<dyn Fn(BackendId) + Send + Sync>;

/// The counts of one upstream.
pub struct Failures {
    threshold: u32,
    backends: Box<[CachePadded<Streak>]>,
    report: Report,
}

#[derive(Default)]
struct Streak {
    /// Failures since the last success or report, below the threshold.
    count: AtomicU32,
    /// A report is on its way; there is never a second one.
    is_reported: AtomicBool,
}

impl Failures {
    /// No failure yet; `report` is called at every `threshold` failures in a row.
    ///
    /// # Panics
    ///
    /// If the threshold is 0, which no valid configuration has.
    #[must_use]
    pub fn new(threshold: u32, backends: usize, report: Report) -> Arc<Self> {
        assert!(threshold > 0, "a threshold of 0 failures");
        let backends = (0..backends).map(|_| CachePadded::default()).collect();
        Arc::new(Self { threshold, backends, report })
    }

    /// A connect to a backend failed, or a session on it was reset before the first byte.
    pub fn failed(&self, backend: BackendId) {
        let streak = &self.backends[backend.index()];
        let next = |count| if count + 1 < self.threshold { count + 1 } else { 0 };
        let before = streak.count.fetch_update(Relaxed, Relaxed, |count| Some(next(count)));
        if before.is_ok_and(|count| next(count) == 0) && !streak.is_reported.swap(true, Relaxed) {
            (self.report)(backend);
        }
    }

    /// A session on a backend got on, or it is back from an ejection: the row ends.
    pub fn clear(&self, backend: BackendId) {
        let count = &self.backends[backend.index()].count;
        // Mostly it is 0, and a line that nobody writes is in the cache of every shard.
        if count.load(Relaxed) > 0 {
            count.store(0, Relaxed);
        }
    }

    /// A report has arrived; from now on there may be another one.
    pub fn take_report(&self, backend: BackendId) {
        self.backends[backend.index()].is_reported.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const ONE: BackendId = BackendId(1);

    fn counted(threshold: u32) -> (Arc<Failures>, Arc<Mutex<Vec<BackendId>>>) {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&reports);
        let report = Box::new(move |backend| noted.lock().expect("not poisoned").push(backend));
        (Failures::new(threshold, 2, report), reports)
    }

    fn count(reports: &Mutex<Vec<BackendId>>) -> usize {
        reports.lock().expect("not poisoned").len()
    }

    #[test]
    fn only_failures_in_a_row_of_one_backend_are_reported() {
        let (failures, reports) = counted(3);
        for _ in 0..10 {
            failures.failed(ONE);
            failures.failed(ONE);
            failures.failed(BackendId(0));
            failures.clear(BackendId(0));
            failures.clear(ONE);
        }
        assert_eq!(count(&reports), 0);
        (0..3).for_each(|_| failures.failed(ONE));
        assert_eq!(*reports.lock().expect("not poisoned"), [ONE]);
    }

    #[test]
    fn one_report_at_a_time_is_on_its_way() {
        let (failures, reports) = counted(1);
        (0..10).for_each(|_| failures.failed(ONE));
        assert_eq!(count(&reports), 1);
        failures.take_report(ONE);
        failures.failed(ONE);
        assert_eq!(count(&reports), 2);
    }

    #[test]
    fn failures_on_several_shards_are_counted_exactly() {
        let reports = Arc::new(AtomicU32::new(0));
        let failures = Arc::new_cyclic(|failures: &std::sync::Weak<Failures>| {
            let (failures, reports) = (failures.clone(), Arc::clone(&reports));
            let report: Report = Box::new(move |backend| {
                reports.fetch_add(1, Relaxed);
                failures.upgrade().expect("alive").take_report(backend);
            });
            let backends = (0..2).map(|_| CachePadded::default()).collect();
            Failures { threshold: 7, backends, report }
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..7_000).for_each(|_| failures.failed(ONE)));
            }
        });
        // A report that meets another one on its way is left out, which can happen here for a moment only.
        let sent = reports.load(Relaxed);
        assert!((1..=4_000).contains(&sent), "{sent}");
        assert_eq!(failures.backends[1].count.load(Relaxed), 0, "28,000 are a multiple of 7");
    }
}
