//! What the shards and the writer share: a queue for each shard, and the flags beside them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::record::AccessRecord;
use crate::base::{self, Moment, limits};
use crate::telemetry::counters::Counter;

/// What the shards and the writer share.
pub(super) struct Shared {
    /// One for each shard.
    pub(super) queues: Box<[Queue]>,
    /// Whether the writer sleeps until it is woken.
    pub(super) sleeps: base::Shared<AtomicBool>,
    /// Whether the writer is to open its file again.
    pub(super) reopen: AtomicBool,
    /// Records that the target did not take. The writer alone adds.
    pub(super) unwritten: Counter,
    pub(super) denials: Denials,
}

pub(super) struct Queue {
    pub(super) records: ArrayQueue<AccessRecord>,
    /// Records that found the queue full. The shard alone adds.
    pub(super) dropped: Counter,
}

impl Shared {
    pub(super) fn new(shards: usize) -> Self {
        let queue =
            || Queue { records: ArrayQueue::new(limits::ACCESS_LOG_QUEUE_MAX), dropped: Counter::default() };
        Self {
            queues: std::iter::repeat_with(queue).take(shards).collect(),
            sleeps: base::Shared::default(),
            reopen: AtomicBool::new(false),
            unwritten: Counter::default(),
            denials: Denials::default(),
        }
    }

    /// Returns the number of lost records.
    pub(super) fn dropped(&self) -> u64 {
        self.unwritten.value() + self.queues.iter().map(|queue| queue.dropped.value()).sum::<u64>()
    }
}

/// Admits a few denials a second. The second is in the upper bits, the number of those admitted in the lowest eight.
#[derive(Default)]
pub(super) struct Denials(base::Shared<AtomicU64>);

impl Denials {
    pub(super) fn admit(&self, now: Moment) -> bool {
        let second = now.0 / 1_000_000;
        let next = |state: u64| match (state >> 8 == second, state & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, count) if count < limits::DENIALS_LOGGED_PER_SECOND => Some(state + 1),
            _ => None,
        };
        // Relaxed: the number guards nothing else.
        self.0.write().fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_denials_a_second_are_admitted() {
        let denials = Denials::default();
        for second in [5, 6, 9] {
            let at = |micros: u64| Moment(second * 1_000_000 + micros);
            let admitted = (0..1_000).filter(|micros| denials.admit(at(*micros))).count();
            assert_eq!(admitted as u64, limits::DENIALS_LOGGED_PER_SECOND);
        }
    }
}
