//! Gives back heap memory after a burst: bytes that were moved out of scarce buffers, tables, and the memory
//! of sessions.
//!
//! The allocator keeps freed memory, up to the peak that was ever in use, until it is asked to give memory
//! back.

#![expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper in the crates we use")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::Shared;

/// Moving this many bytes to the heap makes giving memory back worth while.
const MANY_BYTES: usize = 1 << 20;
/// So does so much memory of tables, which become smaller once after a crowd.
const MANY_TABLE_BYTES: usize = 256 << 10;
/// A burst is over if more than half of the descriptors are gone, and there were more than this.
const MANY_DESCRIPTORS: usize = 64;

/// How often threads of this process have given back what the allocator keeps for all of them.
static TRIMS: Shared<AtomicU64> = Shared::new(AtomicU64::new(0));

/// The use of the heap since memory was last given back.
#[derive(Default)]
pub(super) struct Heap {
    moved: usize,
    /// Bytes of tables that became smaller.
    tables: usize,
    /// Peak number of descriptors.
    most: usize,
    /// There was memory to give back at the last look.
    had: bool,
    /// [`TRIMS`] at the last look.
    trims: u64,
}

impl Heap {
    /// Notes bytes that were moved out of buffers.
    pub(super) fn note_moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// Notes by how many bytes a table became smaller.
    pub(super) fn note_table(&mut self, bytes: usize) {
        self.tables = self.tables.saturating_add(bytes);
    }

    /// Notes how many descriptors there are.
    pub(super) fn note_descriptors(&mut self, count: usize) {
        self.most = self.most.max(count);
    }

    /// Returns whether there is memory to give back, with this number of descriptors now.
    pub(super) fn can_shrink(&self, descriptors: usize) -> bool {
        self.moved > MANY_BYTES
            || self.tables > MANY_TABLE_BYTES
            || self.most > 2 * descriptors + MANY_DESCRIPTORS
    }

    /// Gives memory back; meant to be called every few seconds, because it takes the locks of the allocator,
    /// and milliseconds after a large burst.
    pub(super) fn shrink(&mut self, descriptors: usize) {
        if self.must_trim(descriptors, &TRIMS) {
            trim();
        }
    }

    /// Returns whether this thread has to give back what all have freed. They look at about the same time, and one of them
    /// is enough: the others wait for their next look, and are done if somebody gave back what they had freed by this one.
    fn must_trim(&mut self, descriptors: usize, trims: &Shared<AtomicU64>) -> bool {
        let (had, before) = (self.had, self.trims);
        self.had = self.can_shrink(descriptors);
        self.trims = trims.get().load(Relaxed);
        let others_did = self.trims != before;
        if !self.had || (others_did && !had) {
            return false;
        }
        if !others_did {
            self.trims = trims.write().fetch_add(1, Relaxed) + 1;
        }
        *self = Self { most: descriptors, trims: self.trims, ..Self::default() };
        !others_did
    }
}

/// Gives back what the allocator keeps for all threads.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call touches only free memory of the allocator, under the allocator's locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_that_look_at_the_same_time_gives_back_and_nobodys_memory_is_left() {
        let trims = Shared::new(AtomicU64::new(0));
        let mut heaps: Vec<Heap> = (0..64).map(|_| Heap::default()).collect();
        let mut look = |freed: usize| {
            heaps.iter_mut().for_each(|heap| heap.note_moved(freed));
            heaps.iter_mut().map(|heap| heap.must_trim(0, &trims)).filter(|must| *must).count()
        };
        assert_eq!(look(0), 0);
        assert_eq!(look(MANY_BYTES + 1), 1, "the first one, before the others have freed all");
        assert_eq!(look(0), 1, "after all have");
        assert_eq!(look(0), 0);
        assert_eq!(trims.get().load(Relaxed), 2);
    }

    #[test]
    fn there_is_something_to_give_back_after_a_burst_and_once() {
        let mut heap = Heap::default();
        assert!(!heap.can_shrink(0));
        (0..=200).for_each(|count| heap.note_descriptors(count));
        assert!(!heap.can_shrink(100) && heap.can_shrink(10));
        heap.shrink(10);
        assert!(!heap.can_shrink(10));
        for note in [Heap::note_moved, Heap::note_table] {
            note(&mut heap, MANY_BYTES + 1);
            assert!(heap.can_shrink(10));
            heap.shrink(10);
            assert!(!heap.can_shrink(10));
        }
    }
}
