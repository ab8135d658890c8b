//! What all shards share of one upstream: the session counts, the limits, the queue and the retry budget.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::Loads;
use super::failures::{Failures, OnReport, Thresholds};
use crate::admission::{Limit, Queue, RetryBudget};
use crate::base::{BackendId, ShardId, Shared, UpstreamId};
use crate::config::{Backend, Config, Upstream};
use crate::tls::{BackendTls, ClientSettings};

/// An upstream in one generation of the configuration. It takes over the live state of the generation before.
pub struct SharedUpstream {
    id: UpstreamId,
    config: Arc<Config>,
    position: usize,
    /// The number of each backend, in the order of the configuration.
    numbers: Vec<BackendId>,
    /// The position of each number; `None` where this generation has no such backend.
    positions: Vec<Option<usize>>,
    /// The number of backend numbers ever given.
    given: usize,
    /// Sessions in flight.
    pub loads: Arc<Loads>,
    /// By number; `None` where no generation since has had such a backend.
    backends: Vec<Option<Arc<SharedBackend>>>,
    pub(super) queue: Arc<Queue>,
    /// `None` where every retry is allowed.
    pub(super) retry_budget: Option<Arc<RetryBudget>>,
    /// `None` if failures of sessions eject no backend.
    failures: Option<Arc<Failures>>,
    /// What handshakes with the backends need; `None` if they get what clients send.
    tls: Option<Arc<ClientSettings>>,
}

/// What all shards share of one backend.
#[derive(Default)]
struct SharedBackend {
    /// Permits; `None` if there is no limit.
    limit: Option<Limit>,
    /// The number of permits whose owners give them up to a waiting client.
    idle: Shared<AtomicUsize>,
}

impl SharedUpstream {
    /// Builds the upstream at this position of a configuration, whose backends have these numbers, of as many as were
    /// ever given. Backends that have their number since the generation before, `previous`, keep their sessions and
    /// their permits; the queue keeps its clients. With `goes_on`, the generation before has the upstream; else it comes
    /// back after a while.
    pub(super) fn build(
        id: UpstreamId,
        (numbers, given): (Vec<BackendId>, usize),
        (config, position): (&Arc<Config>, usize),
        shards: usize,
        on_report: Option<&OnReport>,
        (previous, goes_on): (Option<&Self>, bool),
    ) -> Self {
        let upstream = &config.upstreams[position];
        // A removed backend keeps what its sessions hold, for the case that it comes back.
        let mut backends = previous.map_or_else(Vec::new, |previous| previous.backends.clone());
        backends.resize(given, None);
        for (number, backend) in numbers.iter().zip(&upstream.backends) {
            let most = backend.max_connections.map(NonZeroU32::get);
            let kept = &mut backends[number.index()];
            let same = kept.as_ref().filter(|kept| kept.limit.is_some() == most.is_some());
            if let (Some(limit), Some(most)) = (same.and_then(|kept| kept.limit.as_ref()), most) {
                limit.set_maximum(most);
            }
            if same.is_none() {
                *kept = Some(Arc::new(SharedBackend {
                    limit: most.map(|most| Limit::new(most, shards)),
                    idle: Shared::default(),
                }));
            }
        }
        let loads = previous
            .map_or_else(|| Arc::new(Loads::new(shards, given)), |previous| Arc::clone(&previous.loads));
        loads.grow(given);
        let queue = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.queue));
        queue.set_most(upstream.queue.max);
        let part = upstream.retry_budget;
        let kept = previous.filter(|previous| previous.config().retry_budget == part);
        let budget = || Some(Arc::new(RetryBudget::new(f64::from(part?) / 100.0, shards)));
        let is_judged = upstream.outlier.is_some() || upstream.healthcheck.is_some();
        let failures = on_report.filter(|_| is_judged).map(|on_report| {
            let kept = previous.and_then(|previous| previous.failures.as_deref());
            let failures = Failures::new(id, Thresholds::of(upstream), given, Arc::clone(on_report), kept);
            // What was counted for a backend that was gone says nothing of the one that is there now.
            let stays =
                |number: &&BackendId| previous.is_some_and(|previous| goes_on && previous.has(**number));
            numbers.iter().filter(|number| !stays(number)).for_each(|number| failures.forget(*number));
            failures
        });
        let mut positions = vec![None; given];
        numbers.iter().enumerate().for_each(|(at, number)| positions[number.index()] = Some(at));
        Self {
            id,
            config: Arc::clone(config),
            position,
            positions,
            numbers,
            given,
            loads,
            backends,
            queue,
            retry_budget: kept.and_then(|previous| previous.retry_budget.clone()).or_else(budget),
            failures,
            tls: None,
        }
    }

    /// Returns it with what handshakes with its backends need.
    pub(super) fn with_tls(self, tls: Option<Arc<ClientSettings>>) -> Self {
        Self { tls, ..self }
    }

    /// Returns the number of the upstream, which stays the same for the life of the process.
    #[must_use]
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// Returns the configuration of the upstream.
    #[must_use]
    pub fn config(&self) -> &Upstream {
        &self.config.upstreams[self.position]
    }

    /// Returns the numbers of the backends, in the order of the configuration. A number stays the same for
    /// the life of the process.
    #[must_use]
    pub fn numbers(&self) -> &[BackendId] {
        &self.numbers
    }

    /// Returns how many backend numbers were ever given: the size of a table indexed by number.
    #[must_use]
    pub fn given(&self) -> usize {
        self.given
    }

    /// Returns the configuration of a backend; `None` if this generation has no such backend.
    #[must_use]
    pub fn backend(&self, number: BackendId) -> Option<&Backend> {
        let position = (*self.positions.get(number.index())?)?;
        Some(&self.config().backends[position])
    }

    /// Returns whether this generation has a backend.
    #[must_use]
    pub fn has(&self, number: BackendId) -> bool {
        self.backend(number).is_some()
    }

    /// Returns whether a backend is counted together with that of another generation.
    #[must_use]
    pub fn counts_with(&self, other: &Self, backend: BackendId) -> bool {
        let [own, others] =
            [self, other].map(|one| one.backends.get(backend.index()).and_then(Option::as_ref));
        own.zip(others).is_some_and(|(own, others)| Arc::ptr_eq(own, others))
    }

    /// Returns of each number whether anything goes by it: a backend of this generation, or a session on one of an earlier
    /// one.
    pub(super) fn in_use(&self) -> Vec<bool> {
        let mut in_use: Vec<_> = self.in_flight().iter().map(|count| *count > 0).collect();
        self.numbers.iter().for_each(|number| in_use[number.index()] = true);
        in_use
    }

    /// Returns the counts of failures; `None` if they have no consequence.
    #[must_use]
    pub fn failures(&self) -> Option<&Arc<Failures>> {
        self.failures.as_ref()
    }

    /// Returns what handshakes with the backends need; `None` if they get what clients send.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<ClientSettings>> {
        self.tls.as_ref()
    }

    /// Returns what handshakes with a backend need; `None` if it gets what clients send, or is none of this generation.
    #[must_use]
    pub fn tls_of(&self, backend: BackendId) -> Option<&BackendTls> {
        self.tls.as_ref()?.backend(&self.backend(backend)?.name)
    }

    /// Returns the sessions in flight of the whole process, by number.
    #[must_use]
    pub fn in_flight(&self) -> Vec<u32> {
        let mut sums = vec![0; self.given];
        self.loads.sum_into(&mut sums);
        sums
    }

    /// Returns the sessions in flight of the whole process on one backend, also of an earlier generation.
    #[must_use]
    pub fn in_flight_on(&self, backend: BackendId) -> u32 {
        if backend.index() < self.given { self.loads.sum(backend.index()) } else { 0 }
    }

    fn limit(&self, backend: BackendId) -> Option<&Limit> {
        self.backends.get(backend.index())?.as_ref()?.limit.as_ref()
    }

    pub(super) fn idle(&self, backend: BackendId) -> Option<&Shared<AtomicUsize>> {
        Some(&self.backends.get(backend.index())?.as_ref()?.idle)
    }

    pub(super) fn is_limited(&self, backend: BackendId) -> bool {
        self.limit(backend).is_some()
    }

    /// Takes a permit. Returns whether there was one.
    #[must_use]
    pub fn take(&self, backend: BackendId, shard: ShardId) -> bool {
        self.limit(backend).is_none_or(|limit| limit.take(shard))
    }

    /// Returns whether a permit is left.
    pub(super) fn has_permit(&self, backend: BackendId) -> bool {
        self.limit(backend).is_none_or(Limit::has_free)
    }

    /// Gives a permit back. Returns whether a waiting client may be able to use it.
    pub(super) fn give_back(&self, backend: BackendId, shard: ShardId) -> bool {
        let Some(limit) = self.limit(backend) else { return false };
        limit.give_back(shard);
        !self.queue.is_empty()
    }

    /// Gives a permit back that no client takes.
    pub fn return_permit(&self, backend: BackendId, shard: ShardId) {
        let _ = self.give_back(backend, shard);
    }

    /// Returns the number of permits of these backends whose owners give them up to a waiting client.
    #[must_use]
    pub fn idle_permits(&self, backends: impl IntoIterator<Item = BackendId>) -> usize {
        backends.into_iter().filter_map(|id| self.idle(id)).map(|idle| idle.get().load(SeqCst)).sum()
    }

    /// Returns the number of permits of a backend that are taken, those on their way to a waiting client
    /// included; `None` if the backend has no limit.
    #[must_use]
    pub fn permits_taken(&self, backend: BackendId) -> Option<u32> {
        self.limit(backend).map(Limit::taken)
    }

    /// Returns the number of clients that wait for a backend.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
