//! A limit that is exact for the whole process, even while shards race for the last permit.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use crossbeam_utils::CachePadded;

/// A counter with a maximum.
#[derive(Debug)]
pub struct Limit {
    maximum: AtomicU32,
    taken: CachePadded<AtomicU32>,
}

// Sequentially consistent: a shard that gives a permit back looks for waiters then, and one whose client
// begins to wait looks for a permit then (`queue`). One of both has to see the other. On x86-64 it costs what
// relaxed operations cost.
impl Limit {
    /// A limit with all permits free.
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

    /// Takes a permit, also if all are taken. The caller has to give it back.
    pub fn take_anyhow(&self) {
        self.taken.fetch_add(1, SeqCst);
    }

    /// Gives back a permit that was taken.
    pub fn give_back(&self) {
        let before = self.taken.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "more permits given back than taken");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_permit_is_taken_once_while_threads_race() {
        let limit = Limit::new(7);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let permits = (0..5).filter(|_| limit.take()).count();
                        assert!(limit.taken() <= 7);
                        (0..permits).for_each(|_| limit.give_back());
                    }
                });
            }
        });
        assert_eq!(limit.taken(), 0);
        assert!((0..7).all(|_| limit.take()));
        assert!(!limit.take());
    }
}
