//! What all shards share of one upstream: the counts of sessions, the limits, the queue, the budget of retries.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Failures, Loads};
use crate::admission::{Limit, Queue, RetryBudget};
use crate::base::{BackendId, UpstreamId};
use crate::config::{Backend, Config, Upstream};

/// An upstream in one generation of the configuration. What the generation before has of it lives on in this one.
pub struct SharedUpstream {
    id: UpstreamId,
    config: Arc<Config>,
    position: usize,
    /// The number of each backend, in the order of the configuration.
    numbers: Vec<BackendId>,
    /// Numbers that were ever given.
    given: usize,
    /// Sessions in flight.
    pub loads: Arc<Loads>,
    /// By number; `None` where this generation has no such backend.
    backends: Vec<Option<Arc<SharedBackend>>>,
    pub(super) queue: Arc<Queue>,
    /// `None` where every retry is allowed.
    pub(super) retry_budget: Option<Arc<RetryBudget>>,
    /// `None` where failures of sessions eject nobody.
    pub(super) failures: Option<Arc<Failures>>,
}

/// What all shards share of one backend.
#[derive(Default)]
struct SharedBackend {
    /// Permits; `None` where there is no limit.
    limit: Option<Limit>,
    /// Those of its permits whose owners give them up to a waiting client.
    idle: AtomicUsize,
}

/// More backends were added to one upstream in the life of the process than there are numbers.
#[derive(Debug, thiserror::Error)]
#[error("upstream {0} has had {max} backends; restart to load more", max = u16::MAX)]
pub struct NumbersSpent(pub String);

impl SharedUpstream {
    /// The upstream at this position of a configuration. Of the generation before, `previous`, a backend with the same name
    /// keeps its number, its sessions and its permits; and the queue keeps its clients.
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

    /// The number of the upstream, which stays for the life of the process.
    #[must_use]
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// What the configuration says of it.
    #[must_use]
    pub fn config(&self) -> &Upstream {
        &self.config.upstreams[self.position]
    }

    /// The numbers of its backends, in the order of the configuration. A number stays for the life of the process.
    #[must_use]
    pub fn numbers(&self) -> &[BackendId] {
        &self.numbers
    }

    /// As many numbers as were ever given: the size of a table by number.
    #[must_use]
    pub fn given(&self) -> usize {
        self.given
    }

    /// What the configuration says of a backend; `None` where this generation has no such backend.
    #[must_use]
    pub fn backend(&self, number: BackendId) -> Option<&Backend> {
        let position = self.numbers.iter().position(|known| *known == number)?;
        Some(&self.config().backends[position])
    }

    fn number_of(&self, name: &str) -> Option<BackendId> {
        let position = self.config().backends.iter().position(|backend| backend.name == name)?;
        Some(self.numbers[position])
    }

    /// Sessions in flight of the whole process, by number.
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

    /// Gives a permit back. Returns whether a client waits that may be able to use it.
    pub(super) fn give_back(&self, backend: BackendId) -> bool {
        let Some(limit) = self.limit(backend) else { return false };
        limit.give_back();
        !self.queue.is_empty()
    }

    /// Permits of these backends whose owners give them up to a waiting client.
    #[must_use]
    pub fn idle_permits(&self, backends: impl IntoIterator<Item = BackendId>) -> usize {
        backends.into_iter().filter_map(|id| self.idle(id)).map(|idle| idle.load(SeqCst)).sum()
    }

    /// For tests: permits of a backend that are taken, those on their way to a waiting client included; `None` where it has no limit.
    #[doc(hidden)]
    #[must_use]
    pub fn permits_taken(&self, backend: BackendId) -> Option<u32> {
        self.limit(backend).map(Limit::taken)
    }

    /// Clients that wait for a backend.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
