//! A limit that is exact for the whole process, even while shards race for the last permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use crossbeam_utils::CachePadded;

/// A counter with a maximum.
#[derive(Debug)]
pub struct Limit {
    maximum: AtomicU32,
    taken: CachePadded<AtomicU32>,
}

/// One unit of a limit, given back on drop.
#[derive(Debug)]
pub struct Permit(Arc<Limit>);

// A release is followed by a look for waiters, and an enqueue (`queue`) by a look for permits. SeqCst
// guarantees that at least one of the two sees the other. On x86-64 it costs no more than relaxed operations.
impl Limit {
    /// Creates a limit with all permits free.
    #[must_use]
    pub fn new(maximum: u32) -> Self {
        Self { maximum: AtomicU32::new(maximum), taken: CachePadded::default() }
    }

    /// Takes a permit unless all are taken, and returns whether it did. The caller has to give the permit
    /// back.
    #[must_use]
    pub fn take(&self) -> bool {
        self.taken.fetch_update(SeqCst, SeqCst, |taken| (taken < self.maximum()).then_some(taken + 1)).is_ok()
    }

    /// Gives back a permit that was taken.
    pub fn give_back(&self) {
        let before = self.taken.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "more permits given back than taken");
    }

    /// Returns a permit as a guard, unless all are taken.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        self.take().then(|| Permit(Arc::clone(self)))
    }

    /// Returns the number of permits taken now.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(SeqCst)
    }

    /// Returns the number of all permits.
    #[must_use]
    pub fn maximum(&self) -> u32 {
        self.maximum.load(Relaxed)
    }

    /// Changes the number of permits. If more than that are taken, none is given until enough have come back.
    pub fn set_maximum(&self, maximum: u32) {
        self.maximum.store(maximum, Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_permit_is_taken_once_while_threads_race() {
        let limit = Arc::new(Limit::new(7));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let permits: Vec<_> = (0..5).filter_map(|_| limit.admit()).collect();
                        assert!(limit.taken() <= 7);
                        drop(permits);
                    }
                });
            }
        });
        assert_eq!(limit.taken(), 0);
        let all: Vec<_> = (0..7).map(|_| limit.admit().unwrap()).collect();
        assert!(limit.admit().is_none());
        drop(all);
    }
}
