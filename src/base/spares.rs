//! Buffers of the heap that are used again: bulk through fresh ones would have the kernel clear a page for each 4 KiB, because
//! the allocator gives memory at its end back at once.

use std::cell::RefCell;

/// Buffers that are kept; more are freed.
const KEPT: usize = 16;
/// Shorter buffers are not worth it, longer ones too much to keep.
const BYTES: std::ops::RangeInclusive<usize> = (4 << 10)..=(256 << 10);

/// Buffers that nobody uses.
#[derive(Default)]
pub struct Spares(RefCell<Vec<Vec<u8>>>);

impl Spares {
    /// Returns a buffer, an old one if there is one: with any length and any content.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Returns an empty buffer, which may have room.
    #[must_use]
    pub fn take_empty(&self) -> Vec<u8> {
        let mut buffer = self.take();
        buffer.clear();
        buffer
    }

    /// Takes a buffer that is no longer used.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if BYTES.contains(&buffer.capacity()) && kept.len() < KEPT {
            kept.push(buffer);
        }
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Frees all of them.
    pub fn clear(&self) {
        self.0.take();
    }
}
