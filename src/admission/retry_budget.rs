//! How many retries an upstream may have: a fraction of its sessions, so that retries cannot multiply the
//! load of an upstream in trouble.
//!
//! Sessions and retries are counted over the last [`WINDOW`] seconds for the whole process. Each shard counts
//! its own sessions, and a retry adds them up, so that a session touches nothing shared. Retries are rare and
//! take a lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crossbeam_utils::CachePadded;

use crate::base::{ShardId, Shared, Tick, limits};

/// Seconds that count, including the current one.
const WINDOW: u64 = 10;
/// Places for sessions: more than [`WINDOW`], so that a shard whose clock is a moment ahead overwrites
/// nothing that counts.
const SECONDS: usize = 16;

/// Sessions of one shard, a place for each of the last seconds: the second in the upper half, the count in
/// the lower.
type Seconds = [AtomicU64; SECONDS];

/// The budget of one upstream.
#[derive(Debug)]
pub struct RetryBudget {
    /// Retries allowed for each session.
    part: f64,
    /// A row has a single writer, its shard.
    sessions: Box<[CachePadded<Seconds>]>,
    /// The seconds in which the counted retries happened.
    retries: Shared<Mutex<VecDeque<u64>>>,
}

impl RetryBudget {
    /// Creates a budget of `part` of the sessions, and of at least `limits::RETRIES_PER_SECOND_MIN`.
    #[must_use]
    pub fn new(part: f64, shards: usize) -> Self {
        let row = || CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Self {
            part,
            sessions: std::iter::repeat_with(row).take(shards).collect(),
            retries: Shared::default(),
        }
    }

    /// Counts a session; only the shard itself calls this.
    pub fn note_session(&self, shard: ShardId, now: Tick) {
        let second = now.0 / 1_000;
        let cell = &self.sessions[shard.index()][second as usize % SECONDS];
        let before = cell.load(Relaxed);
        let count = if before >> 32 == second { before & u64::from(u32::MAX) } else { 0 };
        cell.store(second << 32 | (count + 1).min(u64::from(u32::MAX)), Relaxed);
    }

    /// Takes a retry out of the budget. Returns whether one was left.
    #[must_use]
    pub fn take(&self, now: Tick) -> bool {
        let second = now.0 / 1_000;
        let first = (second + 1).saturating_sub(WINDOW);
        let mut retries = self.retries.write().lock().unwrap_or_else(PoisonError::into_inner);
        while retries.front().is_some_and(|&retry| retry < first) {
            retries.pop_front();
        }
        let part = self.part * self.sessions_since(first) as f64;
        let least = WINDOW * limits::RETRIES_PER_SECOND_MIN;
        let left = (retries.len() as u64) < least.max(part as u64);
        if left {
            retries.push_back(second);
        }
        left
    }

    fn sessions_since(&self, first: u64) -> u64 {
        let counts = |cell: &AtomicU64| {
            let cell = cell.load(Relaxed);
            if cell >> 32 >= first { cell & u64::from(u32::MAX) } else { 0 }
        };
        self.sessions.iter().flat_map(|shard| shard.iter()).map(counts).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ten_a_second_are_always_left() {
        let budget = RetryBudget::new(0.2, 1);
        assert_eq!((0..200).filter(|_| budget.take(Tick(5_000))).count(), 100);
        assert!(!budget.take(Tick(14_999)));
        assert_eq!((0..200).filter(|_| budget.take(Tick(15_000))).count(), 100);
    }

    #[test]
    fn a_part_of_the_sessions_of_all_shards_is_left() {
        let budget = RetryBudget::new(0.2, 2);
        for session in 0..2_000_u64 {
            budget.note_session(ShardId((session % 2) as u16), Tick(20_000 + session * 4));
        }
        assert_eq!((0..1_000).filter(|_| budget.take(Tick(28_000))).count(), 400);
    }

    proptest! {
        /// The shadow model keeps the counts of every second so far.
        #[test]
        fn never_more_retries_than_the_window_allows(
            steps in prop::collection::vec((0u64..3_000, 0usize..2, 0u64..400, 0u64..150), 1..40),
            part in 0.01f64..=1.0,
        ) {
            let budget = RetryBudget::new(part, 2);
            let (mut now, mut sessions, mut retries) = (0, BTreeMap::new(), BTreeMap::new());
            for (wait, shard, arrive, wanted) in steps {
                now += wait;
                let second = now / 1_000;
                let in_window = |counts: &BTreeMap<u64, u64>| -> u64 {
                    counts.range((second + 1).saturating_sub(WINDOW)..).map(|(_, count)| count).sum()
                };
                (0..arrive).for_each(|_| budget.note_session(ShardId(shard as u16), Tick(now)));
                *sessions.entry(second).or_default() += arrive;
                let allowed = ((part * in_window(&sessions) as f64) as u64).max(100);
                let expected = wanted.min(allowed.saturating_sub(in_window(&retries)));
                let taken = (0..wanted).filter(|_| budget.take(Tick(now))).count() as u64;
                prop_assert_eq!(taken, expected);
                *retries.entry(second).or_default() += taken;
            }
        }
    }
}
