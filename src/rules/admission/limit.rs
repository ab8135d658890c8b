//! A limit that is exact for the process while shards race for the last place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

/// Counts sessions of the process up to a maximum.
#[derive(Debug)]
pub struct SessionLimit {
    maximum: u32,
    taken: CachePadded<AtomicU32>,
}

/// A place; given back on drop.
#[derive(Debug)]
pub struct Permit(Arc<SessionLimit>);

impl SessionLimit {
    /// A limit with all places free.
    #[must_use]
    pub fn new(maximum: u32) -> Arc<Self> {
        Arc::new(Self { maximum, taken: CachePadded::default() })
    }

    /// A place, unless all are taken.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        // Relaxed: the number alone is shared, no other memory depends on it.
        let admit = |taken| (taken < self.maximum).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// All places.
    #[must_use]
    pub fn maximum(&self) -> u32 {
        self.maximum
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more permits given back than taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_place_is_taken_once_while_threads_race() {
        let limit = SessionLimit::new(7);
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
