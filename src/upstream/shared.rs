//! What all shards share of one upstream: the counts of sessions, the limits, the queue, the budget of retries.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Failures, Loads};
use crate::admission::{Limit, Queue, RetryBudget};
use crate::base::BackendId;
use crate::config::Upstream;

/// See the module documentation.
pub struct SharedUpstream {
    /// Sessions in flight.
    pub loads: Loads,
    /// Permits by backend; `None` where there is no limit.
    limits: Box<[Option<Limit>]>,
    pub(super) queue: Queue,
    /// By limited backend, those of its permits whose owners give them up to a waiting client.
    pub(super) idle: Box<[AtomicUsize]>,
    /// `None` where every retry is allowed.
    pub(super) retry_budget: Option<RetryBudget>,
    /// `None` where failures of sessions eject nobody.
    pub(super) failures: Option<Arc<Failures>>,
}

impl SharedUpstream {
    /// Nothing taken, nobody waiting.
    #[must_use]
    pub fn new(upstream: &Upstream, shards: usize, failures: Option<Arc<Failures>>) -> Arc<Self> {
        let limits = upstream.backends.iter().map(|backend| backend.max_connections);
        Arc::new(Self {
            loads: Loads::new(shards, upstream.backends.len()),
            limits: limits.map(|most| most.map(NonZeroU32::get).map(Limit::new)).collect(),
            queue: Queue::new(upstream.queue.max),
            idle: upstream.backends.iter().map(|_| AtomicUsize::new(0)).collect(),
            retry_budget: upstream.retry_budget.map(|part| RetryBudget::new(f64::from(part) / 100.0, shards)),
            failures,
        })
    }

    pub(super) fn is_limited(&self, backend: BackendId) -> bool {
        self.limits[backend.index()].is_some()
    }

    /// Takes a permit. Returns whether there was one.
    pub(super) fn take(&self, backend: BackendId) -> bool {
        self.limits[backend.index()].as_ref().is_none_or(Limit::take)
    }

    /// Gives a permit back. Returns whether a client waits that may be able to use it.
    pub(super) fn give_back(&self, backend: BackendId) -> bool {
        let Some(limit) = &self.limits[backend.index()] else { return false };
        limit.give_back();
        !self.queue.is_empty()
    }

    /// Permits of these backends whose owners give them up to a waiting client.
    #[must_use]
    pub fn idle_permits(&self, backends: impl IntoIterator<Item = BackendId>) -> usize {
        backends.into_iter().map(|id| self.idle[id.index()].load(SeqCst)).sum()
    }

    /// For tests: permits of a backend that are taken, those on their way to a waiting client included; `None` where it has no limit.
    #[doc(hidden)]
    #[must_use]
    pub fn permits_taken(&self, backend: BackendId) -> Option<u32> {
        self.limits[backend.index()].as_ref().map(Limit::taken)
    }

    /// Clients that wait for a backend.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
