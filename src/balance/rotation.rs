//! Whose turn it is when candidates take turns: survives changes of the set without starting over.

use super::{Candidate, Start};
use crate::base::BackendId;

/// A position in a cycle of candidates.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    start: Start,
    /// Who was picked last; `None` before the first pick.
    last: Option<BackendId>,
    /// Index of the candidate whose turn is next; below the number of candidates if there are any.
    next: usize,
}

impl Rotation {
    pub(super) fn new(start: Start) -> Self {
        assert!(start.shards > 0 && start.shard < start.shards, "shard {} of {}", start.shard, start.shards);
        Self { start, last: None, next: 0 }
    }

    /// Finds the position again in a new set: the first candidate behind the one picked last. So whoever
    /// leaves gives its turns to its successor, and nobody else gains or loses one.
    pub(super) fn update(&mut self, candidates: &[Candidate]) {
        debug_assert!(
            candidates.is_sorted_by(|a, b| a.id < b.id),
            "candidates in the order of their numbers"
        );
        self.next = match self.last {
            None => self.start.share_of(candidates.len()),
            Some(last) => {
                let behind = candidates.partition_point(|candidate| candidate.id <= last);
                if behind == candidates.len() { 0 } else { behind }
            }
        };
    }

    /// Index of the candidate whose turn is next.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Remembers that the candidate at `index` was picked.
    pub(super) fn picked(&mut self, index: usize, candidates: &[Candidate]) {
        self.last = Some(candidates[index].id);
        self.next = if index + 1 == candidates.len() { 0 } else { index + 1 };
    }

    /// Whether no pick was made yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.last.is_none()
    }

    /// Where this shard begins in a cycle of `length` steps.
    pub(super) fn offset(&self, length: usize) -> usize {
        self.start.share_of(length)
    }
}

impl Start {
    /// The beginning of this shard's part of `length` steps: the shards lie evenly apart.
    fn share_of(self, length: usize) -> usize {
        // Both factors are far below 2^32 (`limits`), so the product fits.
        self.shard * length / self.shards
    }
}
