//! A table that grows and never moves: threads can read it while it grows, and every element stays at its
//! address.

use std::sync::OnceLock;

/// Chunks of a table: the first holds one element, and each further one holds twice as many as the one
/// before.
const CHUNKS: usize = 17;

/// Elements numbered from 0 to 131,070.
#[derive(Debug)]
pub struct Growing<T> {
    chunks: [OnceLock<Box<[T]>>; CHUNKS],
}

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self { chunks: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl<T: Default> Growing<T> {
    /// Creates a table with at least `count` elements.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let table = Self::default();
        table.grow(count);
        table
    }

    /// Makes room for at least `count` elements. Existing elements stay, and several threads may grow the
    /// table at once.
    ///
    /// # Panics
    ///
    /// If a table cannot hold `count` elements.
    pub fn grow(&self, count: usize) {
        let Some(last) = count.checked_sub(1) else { return };
        for (chunk, cell) in self.chunks[..=locate(last).0].iter().enumerate() {
            cell.get_or_init(|| (0..1_usize << chunk).map(|_| T::default()).collect());
        }
    }
}

impl<T> Growing<T> {
    /// Returns the element with this number, if the table has grown that far.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&T> {
        let (chunk, offset) = locate(number);
        self.chunks.get(chunk)?.get()?.get(offset)
    }

    /// Iterates over the elements in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().map_while(OnceLock::get).flat_map(|chunk| chunk.iter())
    }
}

impl<T> std::ops::Index<usize> for Growing<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        self.get(number).expect("a table grows before a number is given")
    }
}

/// Returns the chunk of an element and the offset within the chunk.
fn locate(number: usize) -> (usize, usize) {
    let chunk = (number + 1).ilog2() as usize;
    (chunk, number + 1 - (1 << chunk))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn every_number_has_its_own_element_which_does_not_move() {
        let table = Growing::<AtomicUsize>::new(1);
        let first = &raw const table[0];
        for count in [1, 2, 3, 100, 1_000] {
            table.grow(count);
            (0..count).for_each(|number| table[number].store(number, Relaxed));
            let all = table.iter().take(count).map(|element| element.load(Relaxed));
            assert!(all.eq(0..count));
        }
        assert_eq!(first, &raw const table[0]);
        assert!(table.get(1_023).is_none() && table.get(usize::MAX - 1).is_none());
    }
}
