//! What all shards share of one upstream: the counts of sessions, and where something is limited, the limits.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::{Failures, Loads};
use crate::admission::{Limit, Queue, RetryBudget};
use crate::base::BackendId;
use crate::config::Upstream;

/// See the module's page.
pub struct SharedUpstream {
    /// Sessions in flight.
    pub loads: Loads,
    /// Indexed by `BackendId`; none where there is no limit.
    pub(super) limits: Box<[Option<Limit>]>,
    pub(super) queue: Queue,
    /// Places of each limited backend that connections in pools hold.
    pub(super) pooled: Box<[AtomicUsize]>,
    /// None where every retry is allowed.
    pub(super) retry_budget: Option<RetryBudget>,
    /// Where failures of sessions are counted, if they are.
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
            pooled: (0..upstream.backends.len()).map(|_| AtomicUsize::new(0)).collect(),
            retry_budget: upstream.retry_budget.map(|part| RetryBudget::new(f64::from(part) / 100.0, shards)),
            failures,
        })
    }

    /// Places of a backend that are taken, those on their way to a waiter included; `None` where it has no limit.
    #[must_use]
    pub fn places_taken(&self, backend: BackendId) -> Option<u32> {
        self.limits[backend.index()].as_ref().map(Limit::taken)
    }

    /// Clients that wait for a backend.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
