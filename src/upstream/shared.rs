//! What all shards share of one upstream: the session counts, the limits, the queue and the retry budget.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Failures, Loads};
use crate::admission::{Limit, Queue, RetryBudget};
use crate::base::{BackendId, UpstreamId};
use crate::config::{Backend, Config, Upstream};

/// An upstream in one generation of the configuration. It takes over the live state of the generation before.
pub struct SharedUpstream {
    id: UpstreamId,
    config: Arc<Config>,
    position: usize,
    /// The number of each backend, in the order of the configuration.
    numbers: Vec<BackendId>,
    /// The number of backend numbers ever given.
    given: usize,
    /// Sessions in flight.
    pub loads: Arc<Loads>,
    /// By number; `None` where this generation has no such backend.
    backends: Vec<Option<Arc<SharedBackend>>>,
    pub(super) queue: Arc<Queue>,
    /// `None` where every retry is allowed.
    pub(super) retry_budget: Option<Arc<RetryBudget>>,
    /// `None` if failures of sessions eject no backend.
    pub(super) failures: Option<Arc<Failures>>,
}

/// What all shards share of one backend.
#[derive(Default)]
struct SharedBackend {
    /// Permits; `None` if there is no limit.
    limit: Option<Limit>,
    /// The number of permits whose owners give them up to a waiting client.
    idle: AtomicUsize,
}

/// The process has no number left for a further backend of an upstream.
#[derive(Debug, thiserror::Error)]
#[error("upstream {0} has had {max} backends; restart to load more", max = u16::MAX)]
pub struct NumbersSpent(pub String);

impl SharedUpstream {
    /// Builds the upstream at this position of a configuration. Backends with the same name as in the
    /// generation before, `previous`, keep their number, their sessions and their permits; the queue keeps
    /// its clients.
    ///
    /// # Errors
    ///
    /// No number is left for a new backend.
    pub fn build(
        id: UpstreamId,
        (config, position): (&Arc<Config>, usize),
        shards: usize,
        failures: Option<Arc<Failures>>,
        previous: Option<&Self>,
    ) -> Result<Arc<Self>, NumbersSpent> {
        let upstream = &config.upstreams[position];
        let mut given = previous.map_or(0, |previous| previous.given);
        let mut numbers = Vec::new();
        for backend in &upstream.backends {
            let kept = previous.and_then(|previous| previous.number_of(&backend.name));
            numbers.push(match kept {
                Some(number) => number,
                None => {
                    let number = u16::try_from(given).map_err(|_| NumbersSpent(upstream.name.clone()))?;
                    given += 1;
                    BackendId(number)
                }
            });
        }
        let mut backends = vec![None; given];
        for (number, backend) in numbers.iter().zip(&upstream.backends) {
            let most = backend.max_connections.map(NonZeroU32::get);
            let kept = previous.and_then(|previous| previous.backends.get(number.index())?.as_ref());
            let kept = kept.filter(|kept| kept.limit.is_some() == most.is_some());
            if let (Some(limit), Some(most)) = (kept.and_then(|kept| kept.limit.as_ref()), most) {
                limit.set_maximum(most);
            }
            let new =
                || Arc::new(SharedBackend { limit: most.map(Limit::new), idle: AtomicUsize::default() });
            backends[number.index()] = Some(kept.map_or_else(new, Arc::clone));
        }
        let loads = previous
            .map_or_else(|| Arc::new(Loads::new(shards, given)), |previous| Arc::clone(&previous.loads));
        loads.grow(given);
        let queue = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.queue));
        queue.set_most(upstream.queue.max);
        let part = upstream.retry_budget;
        let kept = previous.filter(|previous| previous.config().retry_budget == part);
        let budget = || Some(Arc::new(RetryBudget::new(f64::from(part?) / 100.0, shards)));
        Ok(Arc::new(Self {
            id,
            config: Arc::clone(config),
            position,
            numbers,
            given,
            loads,
            backends,
            queue,
            retry_budget: kept.and_then(|previous| previous.retry_budget.clone()).or_else(budget),
            failures,
        }))
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
        let position = self.numbers.iter().position(|known| *known == number)?;
        Some(&self.config().backends[position])
    }

    fn number_of(&self, name: &str) -> Option<BackendId> {
        let position = self.config().backends.iter().position(|backend| backend.name == name)?;
        Some(self.numbers[position])
    }

    /// Returns the sessions in flight of the whole process, by number.
    #[must_use]
    pub fn in_flight(&self) -> Vec<u32> {
        let mut sums = vec![0; self.given];
        self.loads.sum_into(&mut sums);
        sums
    }

    fn limit(&self, backend: BackendId) -> Option<&Limit> {
        self.backends[backend.index()].as_ref()?.limit.as_ref()
    }

    pub(super) fn idle(&self, backend: BackendId) -> Option<&AtomicUsize> {
        Some(&self.backends[backend.index()].as_ref()?.idle)
    }

    pub(super) fn is_limited(&self, backend: BackendId) -> bool {
        self.limit(backend).is_some()
    }

    /// Takes a permit. Returns whether there was one.
    pub(super) fn take(&self, backend: BackendId) -> bool {
        self.limit(backend).is_none_or(Limit::take)
    }

    /// Returns whether a permit is left.
    pub(super) fn has_permit(&self, backend: BackendId) -> bool {
        self.limit(backend).is_none_or(|limit| limit.taken() < limit.maximum())
    }

    /// Gives a permit back. Returns whether a waiting client may be able to use it.
    pub(super) fn give_back(&self, backend: BackendId) -> bool {
        let Some(limit) = self.limit(backend) else { return false };
        limit.give_back();
        !self.queue.is_empty()
    }

    /// Returns the number of permits of these backends whose owners give them up to a waiting client.
    #[must_use]
    pub fn idle_permits(&self, backends: impl IntoIterator<Item = BackendId>) -> usize {
        backends.into_iter().filter_map(|id| self.idle(id)).map(|idle| idle.load(SeqCst)).sum()
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
