//! A brake for backends that end sessions without an answer: for that very reason they have few sessions, and
//! an algorithm that goes by the number of sessions would send them even more.

use std::cell::Cell;

use crate::balance::Candidate;
use crate::base::{BackendId, Tick};

/// How long an unanswered session counts against its backend, milliseconds; after that, one session tries the
/// backend again.
const MEMORY_MILLIS: u64 = 1_000;

/// The time until which each backend counts as fuller than it is.
pub(super) struct Unanswered {
    until: Box<[Cell<Tick>]>,
    /// The latest such time of all backends.
    last: Cell<Tick>,
}

impl Unanswered {
    pub(super) fn new(backends: usize) -> Self {
        Self { until: (0..backends).map(|_| Cell::default()).collect(), last: Cell::default() }
    }

    /// Notes a session that a backend ended or refused without a byte for the client.
    pub(super) fn note(&self, backend: BackendId, now: Tick) {
        let until = Tick(now.0 + MEMORY_MILLIS);
        self.until[backend.index()].set(until);
        self.last.set(until.max(self.last.get()));
    }

    /// Notes a session that a backend answered.
    pub(super) fn clear(&self, backend: BackendId) {
        self.until[backend.index()].set(Tick::default());
    }

    /// Returns the loads that an algorithm should see, if they differ from `loads`: for a while, a backend
    /// that does not answer counts as no emptier than the average of the others.
    pub(super) fn corrected(&self, candidates: &[Candidate], loads: &[u32], now: Tick) -> Option<Vec<u32>> {
        if now >= self.last.get() {
            return None;
        }
        let is_unanswered = |candidate: &&Candidate| now < self.until[candidate.id.index()].get();
        let others = candidates.iter().filter(|candidate| !is_unanswered(candidate));
        let (load, weight) = others.fold((0, 0), |(load, weight), candidate| {
            (load + u64::from(loads[candidate.id.index()]), weight + u64::from(candidate.weight))
        });
        let mut corrected = loads.to_vec();
        for candidate in candidates.iter().filter(is_unanswered) {
            let average = (load * u64::from(candidate.weight)).div_ceil(weight.max(1)) + 1;
            let load = &mut corrected[candidate.id.index()];
            *load = (*load).max(u32::try_from(average).unwrap_or(u32::MAX));
        }
        Some(corrected)
    }
}
