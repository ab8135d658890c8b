//! What the checks found, for anyone to read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{BackendId, BackendKey, UpstreamId};
use crate::config::Config;
use crate::upstream::Health;

use super::probe::ProbeOutcome;

/// Counters of all backends.
#[derive(Debug)]
pub struct HealthCounters {
    /// Indexed by `UpstreamId`, then by `BackendId`.
    upstreams: Vec<Vec<CheckCounters>>,
}

/// Counters of one backend, since the start. The health thread alone writes; readers need no order among
/// them, so all accesses are `Relaxed`.
#[derive(Debug, Default)]
pub struct CheckCounters {
    /// Checks that succeeded.
    pub success: AtomicU64,
    /// Checks that failed with an error.
    pub failure: AtomicU64,
    /// Checks that took too long.
    pub timeout: AtomicU64,
    /// Checks that this process could not make, for want of descriptors, ports or memory, or because it was
    /// stopped.
    pub local: AtomicU64,
    /// Transitions to `Up`, the first verdict included.
    pub up: AtomicU64,
    /// Transitions to `Down`, the first verdict included.
    pub down: AtomicU64,
    /// Ejections for failures of sessions.
    pub ejections: AtomicU64,
}

impl HealthCounters {
    pub(super) fn new(config: &Config) -> Self {
        let backends = |count| std::iter::repeat_with(CheckCounters::default).take(count).collect();
        Self {
            upstreams: config.upstreams.iter().map(|upstream| backends(upstream.backends.len())).collect(),
        }
    }

    /// The counters of one backend, `None` where the configuration has no such backend.
    #[must_use]
    pub fn backend(&self, upstream: UpstreamId, backend: BackendId) -> Option<&CheckCounters> {
        self.upstreams.get(upstream.index())?.get(backend.index())
    }

    pub(super) fn count_check(&self, which: BackendKey, outcome: &ProbeOutcome) {
        let Some(backend) = self.backend(which.upstream, which.backend) else { return };
        let counter = match outcome {
            ProbeOutcome::Success(_) => &backend.success,
            ProbeOutcome::Failure(_) => &backend.failure,
            ProbeOutcome::Timeout(_) => &backend.timeout,
            ProbeOutcome::Local(_) | ProbeOutcome::Frozen => &backend.local,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_ejection(&self, which: BackendKey) {
        if let Some(backend) = self.backend(which.upstream, which.backend) {
            backend.ejections.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_transition(&self, which: BackendKey, to: Health) {
        let Some(backend) = self.backend(which.upstream, which.backend) else { return };
        let counter = if to == Health::Up { &backend.up } else { &backend.down };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
