//! Gives back heap memory after a burst: bytes that were moved out of scarce buffers, tables, and the memory
//! of sessions.
//!
//! The allocator keeps freed memory, up to the peak that was ever in use, until it is asked to give memory
//! back.

#![expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper in the crates we use")]

/// Moving this many bytes to the heap makes giving memory back worth while.
const MANY_BYTES: usize = 1 << 20;
/// So does so much memory of tables, which become smaller once after a crowd.
const MANY_TABLE_BYTES: usize = 256 << 10;
/// A burst is over if more than half of the descriptors are gone, and there were more than this.
const MANY_DESCRIPTORS: usize = 64;

/// The use of the heap since memory was last given back.
#[derive(Default)]
pub(super) struct Heap {
    moved: usize,
    /// Bytes of tables that became smaller.
    tables: usize,
    /// Peak number of descriptors.
    most: usize,
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
        if !self.can_shrink(descriptors) {
            return;
        }
        *self = Self { moved: 0, tables: 0, most: descriptors };
        #[cfg(target_env = "gnu")]
        // SAFETY: the call touches only free memory of the allocator, under the allocator's locks.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
