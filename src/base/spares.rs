//! Buffers of the heap that are used again: bulk through fresh ones would have the kernel clear a page for each 4 KiB, because
//! the allocator gives memory at its end back at once.

use std::cell::RefCell;
use std::ops::RangeInclusive;

/// Buffers that are kept; more are freed.
const KEPT: usize = 16;
/// Bytes of a buffer that is kept: shorter ones are not worth it, longer ones too much.
const BYTES: RangeInclusive<usize> = (4 << 10)..=(128 << 10);

/// Buffers that nobody uses.
#[derive(Default)]
pub struct Spares(RefCell<Vec<Vec<u8>>>);

impl Spares {
    /// Returns a buffer for so many bytes, with any length and any content: for bulk an old one, if there is one. A few bytes
    /// get a buffer of their own, because they may stay for long.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let old = if bytes >= *BYTES.start() { self.0.borrow_mut().pop() } else { None };
        old.unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// Returns an empty buffer for so many bytes.
    #[must_use]
    pub fn take_empty(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.take(bytes);
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

    /// Exchanges a long buffer with few bytes for one of their length.
    pub fn trim(&self, buffer: &mut Vec<u8>) {
        if buffer.capacity() / 4 > buffer.len() && buffer.capacity() >= *BYTES.start() {
            let short = buffer.as_slice().to_vec();
            self.give(std::mem::replace(buffer, short));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_gets_old_buffers_and_a_few_bytes_keep_none() {
        let spares = Spares::default();
        spares.give(vec![7; 64 << 10]);
        assert!(spares.take_empty(100).capacity() < 4 << 10);
        let mut bulk = spares.take(64 << 10);
        assert!(bulk.len() == 64 << 10 && spares.is_empty());
        bulk.truncate(3);
        spares.trim(&mut bulk);
        assert!(bulk == [7; 3] && bulk.capacity() < 16 && !spares.is_empty());
        (0..100).for_each(|_| spares.give(vec![0; 8 << 10]));
        spares.give(vec![0; 1 << 20]);
        assert_eq!(spares.0.borrow().len(), KEPT);
        spares.clear();
        assert!(spares.is_empty());
    }
}
