//! Tasks that wait for the same scarce thing, such as the time for handshakes in a turn. Only the first of them are woken in
//! a turn, so that a turn costs the same however many wait.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::task::Waker;

/// Tasks that are woken in a turn: one that finds nothing left costs about a microsecond.
const WOKEN: usize = 16;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Line {
    last: u64,
    /// By the numbers of their places.
    waiting: BTreeMap<u64, Waker>,
}

/// A task's place in the line of its ring. The task keeps it, whether it waits or not, so it stays ahead of all that came later.
#[derive(Default)]
pub struct Place(Cell<Option<u64>>);

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn wait(&mut self, place: &Place, waker: &Waker) {
        let number = place.0.get().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        place.0.set(Some(number));
        self.waiting.insert(number, waker.clone());
    }

    /// Calls `wake` with the first of the line; they leave it. The waker of a task that has ended since does nothing.
    pub(super) fn call(&mut self, wake: impl FnMut(Waker)) {
        let first = std::iter::from_fn(|| self.waiting.pop_first());
        first.take(WOKEN).map(|(_, waker)| waker).for_each(wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::Wake;

    use super::*;

    struct Task {
        number: usize,
        woken: Arc<AtomicUsize>,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.woken.store(self.number, Relaxed);
        }
    }

    #[test]
    fn first_come_first_woken_and_few_at_a_time() {
        let (mut line, woken) = (Line::default(), Arc::new(AtomicUsize::new(0)));
        let waker = |number| Waker::from(Arc::new(Task { number, woken: Arc::clone(&woken) }));
        let places: Vec<Place> = (0..40).map(|_| Place::default()).collect();
        places.iter().enumerate().for_each(|(number, place)| line.wait(place, &waker(number)));
        let call = |line: &mut Line| {
            let mut numbers = Vec::new();
            line.call(|waker| {
                waker.wake();
                numbers.push(woken.load(Relaxed));
            });
            numbers
        };
        assert_eq!(call(&mut line), Vec::from_iter(0..16));
        // Who waits again comes before those that were behind.
        line.wait(&places[9], &waker(9));
        line.wait(&places[3], &waker(3));
        line.wait(&places[3], &waker(3));
        assert_eq!(call(&mut line), Vec::from_iter([3, 9].into_iter().chain(16..30)));
        assert!(!line.is_empty());
        assert_eq!(call(&mut line), Vec::from_iter(30..40));
        assert!(line.is_empty() && call(&mut line).is_empty());
    }
}
