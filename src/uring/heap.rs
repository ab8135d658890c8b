//! Gives memory of the heap back that a burst has left: bytes that were moved out of scarce buffers, and what
//! sessions have.
//!
//! The allocator keeps what is freed, up to all that was ever in use, unless it is asked.

#![expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper in the crates we use")]

/// So many bytes moved to the heap are worth a look.
const MANY_BYTES: usize = 1 << 20;
/// More than half of the descriptors gone is a burst that is over, if there were more than this.
const MANY_DESCRIPTORS: usize = 64;

/// What the heap was used for since memory was last given back.
#[derive(Default)]
pub(super) struct Heap {
    moved: usize,
    /// Most descriptors.
    most: usize,
}

impl Heap {
    /// Notes bytes that were moved out of buffers.
    pub(super) fn note_moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// Notes how many descriptors there are.
    pub(super) fn note_descriptors(&mut self, count: usize) {
        self.most = self.most.max(count);
    }

    /// Whether there is something to give back, with so many descriptors now.
    pub(super) fn can_shrink(&self, descriptors: usize) -> bool {
        self.moved > MANY_BYTES || self.most > 2 * descriptors + MANY_DESCRIPTORS
    }

    /// Gives it back; for every few seconds, as it takes the locks of the allocator and milliseconds after a
    /// large burst.
    pub(super) fn shrink(&mut self, descriptors: usize) {
        if !self.can_shrink(descriptors) {
            return;
        }
        *self = Self { moved: 0, most: descriptors };
        #[cfg(target_env = "gnu")]
        // SAFETY: it touches free memory of the allocator alone, under the locks of that.
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
        heap.note_moved(MANY_BYTES + 1);
        assert!(heap.can_shrink(10));
        heap.shrink(10);
        assert!(!heap.can_shrink(10));
    }
}
