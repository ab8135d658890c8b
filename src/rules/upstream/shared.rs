//! What all shards share of one upstream: the counts of sessions, and where something is limited, the limits.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::Loads;
use crate::rules::admission::{Limit, Queue, RetryBudget};
use crate::rules::config::Upstream;

/// See the module's page.
pub struct Shared {
    /// Sessions in flight.
    pub loads: Loads,
    /// Indexed by `BackendId`; none where there is no limit.
    pub(super) limits: Box<[Option<Limit>]>,
    pub(super) queue: Queue,
    /// None where every retry is allowed.
    pub(super) retry_budget: Option<RetryBudget>,
}

impl Shared {
    /// Nothing taken, nobody waiting.
    #[must_use]
    pub fn new(upstream: &Upstream, shards: usize) -> Arc<Self> {
        let limits = upstream.backends.iter().map(|backend| backend.max_connections);
        Arc::new(Self {
            loads: Loads::new(shards, upstream.backends.len()),
            limits: limits.map(|most| most.map(NonZeroU32::get).map(Limit::new)).collect(),
            queue: Queue::new(upstream.queue.max),
            retry_budget: upstream.retry_budget.map(|part| RetryBudget::new(part, shards)),
        })
    }

    /// Without a limit on anything.
    #[must_use]
    pub fn unlimited(backends: usize, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            loads: Loads::new(shards, backends),
            limits: (0..backends).map(|_| None).collect(),
            queue: Queue::new(0),
            retry_budget: None,
        })
    }

    /// Clients that wait for a backend.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
