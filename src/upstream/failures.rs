//! Counts the failures of the backends of one upstream, from all shards together, and decides when the health
//! thread is told.
//!
//! The health thread is told of each failure, so that a check follows at once, and of too many consecutive
//! ones, so that the backend is ejected. At most one report of each kind is on its way for a backend, however
//! many sessions fail.
//!
//! Writers: every shard, and the health thread when a backend comes back. Each count stands alone and orders
//! nothing else, so all accesses are `Relaxed`. Failures are added by read-modify-write, so none is lost; a
//! concurrent success comes before or after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::base::{BackendId, BackendKey, Growing, Shared, UpstreamId};
use crate::config::Upstream;

/// What went wrong with a backend in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// The backend took no connection, or reset one before the first byte.
    Failure,
    /// The backend took bytes and ended the session without sending any.
    EmptyAnswer,
}

/// What the health thread is told of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// A session failed on the backend: a check should follow at once.
    Suspect,
    /// The backend had enough consecutive faults to be ejected.
    TooMany(Fault),
}

/// Reports to the health thread; must not block.
pub type OnReport = Arc<dyn Fn(BackendKey, Reported) + Send + Sync>;

/// The numbers of consecutive faults after which a backend is ejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Threshold for [`Fault::Failure`].
    pub failures: Option<u32>,
    /// Threshold for [`Fault::EmptyAnswer`].
    pub empty_answers: Option<u32>,
}

impl Thresholds {
    /// Returns the thresholds of an upstream.
    #[must_use]
    pub fn of(upstream: &Upstream) -> Self {
        let Some(outlier) = &upstream.outlier else { return Self::default() };
        Self { failures: Some(outlier.consecutive_failures), empty_answers: outlier.empty_answers }
    }

    fn of_kind(self, fault: Fault) -> Option<u32> {
        match fault {
            Fault::Failure => self.failures,
            Fault::EmptyAnswer => self.empty_answers,
        }
    }
}

/// The fault counts of one upstream.
pub struct Failures {
    upstream: UpstreamId,
    thresholds: Thresholds,
    /// By number.
    backends: Arc<Growing<CachePadded<Streak>>>,
    on_report: OnReport,
}

#[derive(Default)]
struct Streak {
    /// Consecutive faults by kind since the last success or report, each below its threshold.
    counts: [Shared<AtomicU32>; 2],
    /// A report of too many faults is on its way; there is never a second one.
    is_reported: Shared<AtomicBool>,
    /// A report of a suspicion is on its way; there is never a second one.
    is_suspected: Shared<AtomicBool>,
}

impl Failures {
    /// Goes on with the counts of the generation before, or starts without failures.
    ///
    /// # Panics
    ///
    /// If a threshold is 0, which no valid configuration has.
    #[must_use]
    pub fn new(
        upstream: UpstreamId,
        thresholds: Thresholds,
        backends: usize,
        on_report: OnReport,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let Thresholds { failures, empty_answers } = thresholds;
        assert!(failures != Some(0) && empty_answers != Some(0), "a threshold of 0 faults");
        let kept = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.backends));
        kept.grow(backends);
        Arc::new(Self { upstream, thresholds, backends: kept, on_report })
    }

    /// Notes that a session suffered a fault of a backend.
    pub fn failed(&self, backend: BackendId, fault: Fault) {
        let Some(streak) = self.backends.get(backend.index()) else { return };
        if fault == Fault::Failure && !streak.is_suspected.write().swap(true, Relaxed) {
            self.report(backend, Reported::Suspect);
        }
        let Some(threshold) = self.thresholds.of_kind(fault) else { return };
        let next = |count| if count + 1 < threshold { count + 1 } else { 0 };
        let before =
            streak.counts[fault as usize].write().fetch_update(Relaxed, Relaxed, |count| Some(next(count)));
        if before.is_ok_and(|count| next(count) == 0) && !streak.is_reported.write().swap(true, Relaxed) {
            self.report(backend, Reported::TooMany(fault));
        }
    }

    fn report(&self, backend: BackendId, reported: Reported) {
        (self.on_report)(BackendKey { upstream: self.upstream, backend }, reported);
    }

    /// Clears the streak of a backend, because a session on it made progress or because it is back from an
    /// ejection.
    pub fn clear(&self, backend: BackendId) {
        let Some(streak) = self.backends.get(backend.index()) else { return };
        for count in &streak.counts {
            // Mostly the count is 0, and a cache line that no shard writes stays in the cache of every shard.
            if count.get().load(Relaxed) > 0 {
                count.write().store(0, Relaxed);
            }
        }
    }

    /// Forgets everything of a number, because another backend has it now, or the same one after a while.
    pub fn forget(&self, backend: BackendId) {
        let Some(streak) = self.backends.get(backend.index()) else { return };
        streak.counts.iter().for_each(|count| count.write().store(0, Relaxed));
        streak.is_suspected.write().store(false, Relaxed);
        streak.is_reported.write().store(false, Relaxed);
    }

    /// Notes that a report has arrived; from now on there may be another one.
    pub fn take_report(&self, backend: BackendId, reported: Reported) {
        let Some(streak) = self.backends.get(backend.index()) else { return };
        match reported {
            Reported::Suspect => &streak.is_suspected,
            Reported::TooMany(_) => &streak.is_reported,
        }
        .write()
        .store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const ONE: BackendId = BackendId(1);
    use Fault::{EmptyAnswer, Failure};

    type Told = Arc<Mutex<Vec<(BackendId, Reported)>>>;

    fn counted(failures: Option<u32>, empty_answers: Option<u32>) -> (Arc<Failures>, Told) {
        let told = Told::default();
        let noted = Arc::clone(&told);
        let report: OnReport = Arc::new(move |key: BackendKey, what| {
            noted.lock().expect("not poisoned").push((key.backend, what));
        });
        (Failures::new(UpstreamId(0), Thresholds { failures, empty_answers }, 2, report, None), told)
    }

    /// Returns the reports of too many faults since the last look.
    fn too_many(told: &Told) -> Vec<(BackendId, Reported)> {
        let all = std::mem::take(&mut *told.lock().expect("not poisoned"));
        all.into_iter().filter(|(_, what)| *what != Reported::Suspect).collect()
    }

    #[test]
    fn only_consecutive_failures_of_one_backend_are_too_many() {
        let (failures, told) = counted(Some(3), None);
        for _ in 0..10 {
            failures.failed(ONE, Failure);
            failures.failed(ONE, Failure);
            failures.failed(BackendId(0), Failure);
            failures.clear(BackendId(0));
            failures.clear(ONE);
        }
        assert_eq!(too_many(&told), []);
        (0..3).for_each(|_| failures.failed(ONE, Failure));
        assert_eq!(too_many(&told), [(ONE, Reported::TooMany(Failure))]);
    }

    #[test]
    fn empty_answers_have_a_row_of_their_own() {
        let (failures, told) = counted(Some(2), Some(3));
        failures.failed(ONE, Failure);
        (0..2).for_each(|_| failures.failed(ONE, EmptyAnswer));
        assert_eq!(too_many(&told), []);
        failures.failed(ONE, EmptyAnswer);
        assert_eq!(too_many(&told), [(ONE, Reported::TooMany(EmptyAnswer))]);
        let (failures, told) = counted(Some(1), None);
        (0..9).for_each(|_| failures.failed(ONE, EmptyAnswer));
        assert_eq!(*told.lock().expect("not poisoned"), [], "nobody wants to know");
    }

    #[test]
    fn one_report_of_each_kind_is_on_its_way() {
        let (failures, told) = counted(Some(1), None);
        let [suspect, many] = [Reported::Suspect, Reported::TooMany(Failure)].map(|what| (ONE, what));
        (0..10).for_each(|_| failures.failed(ONE, Failure));
        assert_eq!(*told.lock().expect("not poisoned"), [suspect, many]);
        failures.take_report(ONE, suspect.1);
        failures.failed(ONE, Failure);
        assert_eq!(*told.lock().expect("not poisoned"), [suspect, many, suspect]);
        failures.take_report(ONE, many.1);
        failures.failed(ONE, Failure);
        assert_eq!(*told.lock().expect("not poisoned"), [suspect, many, suspect, many]);
    }

    #[test]
    fn a_failure_is_told_of_where_nobody_is_ejected() {
        let (failures, told) = counted(None, None);
        failures.failed(ONE, Failure);
        assert_eq!(*told.lock().expect("not poisoned"), [(ONE, Reported::Suspect)]);
    }

    #[test]
    fn failures_on_several_shards_are_counted_exactly() {
        let reports = Arc::new(AtomicU32::new(0));
        let failures = Arc::new_cyclic(|failures: &std::sync::Weak<Failures>| {
            let (failures, reports) = (failures.clone(), Arc::clone(&reports));
            let on_report: OnReport = Arc::new(move |key: BackendKey, what| {
                reports.fetch_add(u32::from(what != Reported::Suspect), Relaxed);
                failures.upgrade().expect("alive").take_report(key.backend, what);
            });
            let backends = Arc::new(Growing::new(2));
            let thresholds = Thresholds { failures: Some(7), empty_answers: None };
            Failures { upstream: UpstreamId(0), thresholds, backends, on_report }
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..7_000).for_each(|_| failures.failed(ONE, Failure)));
            }
        });
        // A report is left out while another one is on its way, which lasts only a moment here.
        let sent = reports.load(Relaxed);
        assert!((1..=4_000).contains(&sent), "{sent}");
        assert_eq!(failures.backends[1].counts[0].get().load(Relaxed), 0, "28,000 are a multiple of 7");
    }
}
