//! The backends of one upstream as one shard sees them: states, picks, guards.
//!
//! Invariants: a pick is nobody if and only if no eligible backend is left to try; the count of a backend is the number
//! of its live [`InFlight`] guards; with a limit, that many places of it are taken, and those on their way to a waiter.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::state::{Address, BackendState, Health};
use crate::rules::admission::Ticket;
use crate::rules::balance::{Algorithm, Candidate, Demand, Registered, Start, Tried, Wants};
use crate::words::{BackendId, ShardId};

/// Which shard of how many.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace {
    /// This shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
    /// Seed of the process for what is left to chance.
    pub seed: u64,
}

/// What the configuration says of a backend's part in balancing.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// 0 for no sessions.
    pub weight: u32,
    /// Serves only while no other backend can.
    pub backup: bool,
    /// [`hash`](crate::rules::balance::hash) of its name.
    pub name_hash: u64,
}

/// The backends of one upstream, on one shard.
pub struct UpstreamTable {
    place: ShardPlace,
    wants: Wants,
    shares: Vec<Share>,
    shared: Arc<Shared>,
    deliver: Deliver,
    inner: RefCell<Inner>,
}

/// Tells a waiting client's shard that the client has a place at a backend.
pub type Deliver = Box<dyn Fn(Ticket, BackendId)>;

/// What a session gets that wants a backend.
pub enum Pick {
    /// A place at one.
    Backend(InFlight),
    /// All that could serve it have as many sessions as they may have, or others wait for them already.
    Full,
    /// None is eligible that was not tried.
    Nobody,
}

struct Inner {
    algorithm: Box<dyn Algorithm>,
    states: Vec<BackendState>,
    candidates: Vec<Candidate>,
    /// Sessions of all shards: this one's exact, the others' as of `others_at`. Kept only where they are wanted.
    sums: Vec<u32>,
    others_at: Option<u64>,
}

impl UpstreamTable {
    /// A table in which no backend is eligible yet.
    #[must_use]
    pub fn new(
        algorithm: &Registered,
        shares: Vec<Share>,
        shared: Arc<Shared>,
        place: ShardPlace,
        deliver: Deliver,
    ) -> Rc<Self> {
        let backends = shares.len();
        let start = Start { shard: place.shard.index(), shards: place.shards, seed: place.seed };
        let unknown = BackendState { health: Health::Checking, addresses: Arc::from([]) };
        Rc::new(Self {
            place,
            wants: algorithm.wants,
            shares,
            shared,
            deliver,
            inner: RefCell::new(Inner {
                algorithm: (algorithm.build)(start),
                states: vec![unknown; backends],
                candidates: Vec::new(),
                sums: vec![0; backends],
                others_at: None,
            }),
        })
    }

    /// Takes the new states of all backends, in the order of the configuration.
    pub fn apply(&self, states: &[BackendState]) {
        self.set_states(states);
        self.serve_all();
    }

    fn set_states(&self, states: &[BackendState]) {
        assert_eq!(states.len(), self.shares.len(), "states of another configuration");
        let inner = &mut *self.inner.borrow_mut();
        inner.states.clear();
        inner.states.extend_from_slice(states);
        let eligible = |backup: bool| -> Vec<Candidate> {
            let all = states.iter().zip(&self.shares).enumerate().filter(|(_, (state, share))| {
                let up = state.health == Health::Up && !state.addresses.is_empty();
                up && share.weight > 0 && share.backup == backup
            });
            let candidate = |(index, (_, share)): (_, (_, &Share))| Candidate {
                id: backend_id(index),
                weight: share.weight,
                name_hash: share.name_hash,
            };
            all.map(candidate).collect()
        };
        let mut candidates = eligible(false);
        if candidates.is_empty() {
            candidates = eligible(true);
        }
        if candidates != inner.candidates {
            inner.algorithm.update(&candidates);
            inner.candidates = candidates;
        }
    }

    /// What the algorithm wants to know of a session.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Tells the algorithm how long a backend took; of use where it [wants](Self::wants) to know.
    pub fn observe(&self, backend: BackendId, latency: Duration, now_millis: u64) {
        self.inner.borrow_mut().algorithm.observe(backend, latency, now_millis);
    }

    /// Picks an eligible backend that was not tried and has a place. `key` is of use where it is [wanted](Self::wants),
    /// and `now_millis` decides how old the other shards' counts may be.
    pub fn pick(self: &Rc<Self>, now_millis: u64, tried: &Tried, key: u64) -> Pick {
        if !self.shared.queue.is_empty() && self.has_untried(tried) {
            return Pick::Full;
        }
        let inner = &mut *self.inner.borrow_mut();
        if self.wants.loads && inner.others_at != Some(now_millis) {
            inner.others_at = Some(now_millis);
            self.shared.loads.sum_into(&mut inner.sums);
        }
        // The tried ones and the full ones.
        let mut passed: Option<Tried> = None;
        loop {
            let passing = passed.as_ref().unwrap_or(tried);
            let demand = Demand { loads: &inner.sums, tried: passing, key, now_millis };
            let Some(backend) = inner.algorithm.pick(&demand) else {
                return if passed.is_some() { Pick::Full } else { Pick::Nobody };
            };
            debug_assert!(
                inner.candidates.iter().any(|candidate| candidate.id == backend),
                "{backend:?} is not eligible"
            );
            debug_assert!(!passing.contains(backend), "{backend:?} was tried");
            if self.take(backend) {
                return Pick::Backend(self.begin(inner, backend));
            }
            passed.get_or_insert_with(|| tried.clone()).insert(backend);
        }
    }

    /// Whether a backend is eligible that was not tried.
    #[must_use]
    pub fn has_untried(&self, tried: &Tried) -> bool {
        self.inner.borrow().candidates.iter().any(|candidate| !tried.contains(candidate.id))
    }

    fn take(&self, backend: BackendId) -> bool {
        self.shared.limits[backend.index()].as_ref().is_none_or(|limit| limit.take())
    }

    fn begin(self: &Rc<Self>, inner: &mut Inner, backend: BackendId) -> InFlight {
        let own = self.shared.loads.own(self.place.shard, backend.index());
        self.shared.loads.set(self.place.shard, backend.index(), own + 1);
        inner.sums[backend.index()] += 1;
        InFlight { table: self.clone(), backend }
    }

    // The queue of the upstream.

    /// Waits for a place, behind all who do already; `None` where the queue is full. The place is
    /// [delivered](Deliver), maybe at once.
    pub fn join(&self, tried: &Tried) -> Option<Ticket> {
        let ticket = self.shared.queue.join(self.place.shard, tried.clone())?;
        self.serve_all();
        Some(ticket)
    }

    /// Waits no more. If that comes too late, a place is delivered all the same.
    pub fn leave(&self, ticket: Ticket) {
        // Where it is too late, whoever takes the delivery finds nobody and refuses it.
        let _ = self.shared.queue.leave(ticket);
    }

    /// Takes a place that was delivered.
    pub fn accept(self: &Rc<Self>, backend: BackendId) -> InFlight {
        self.begin(&mut self.inner.borrow_mut(), backend)
    }

    /// Gives back a place that was delivered to somebody who has left.
    pub fn refuse(&self, backend: BackendId) {
        self.give_back(backend);
    }

    fn give_back(&self, backend: BackendId) {
        if let Some(limit) = &self.shared.limits[backend.index()] {
            limit.give_back();
            self.serve(backend);
        }
    }

    /// Gives free places of an eligible backend to those who wait.
    fn serve(&self, backend: BackendId) {
        let queue = &self.shared.queue;
        if queue.is_empty() || !self.inner.borrow().candidates.iter().any(|one| one.id == backend) {
            return;
        }
        let served = queue.serve(backend, || self.take(backend));
        served.into_iter().for_each(|ticket| (self.deliver)(ticket, backend));
    }

    fn serve_all(&self) {
        if !self.shared.queue.is_empty() {
            let candidates: Vec<_> = self.inner.borrow().candidates.iter().map(|one| one.id).collect();
            candidates.into_iter().for_each(|backend| self.serve(backend));
        }
    }

    // The retries of the upstream.

    /// Counts a session that wants a backend.
    pub fn note_session(&self, now_millis: u64) {
        if let Some(budget) = &self.shared.retry_budget {
            budget.note_session(self.place.shard, now_millis);
        }
    }

    /// Takes a retry out of the budget, if there is one left.
    #[must_use]
    pub fn take_retry(&self, now_millis: u64) -> bool {
        self.shared.retry_budget.as_ref().is_none_or(|budget| budget.take(now_millis))
    }

    /// Where a backend can be reached, in the order to try.
    #[must_use]
    pub fn addresses(&self, backend: BackendId) -> Arc<[Address]> {
        self.inner.borrow().states[backend.index()].addresses.clone()
    }
}

fn backend_id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("limits::BACKENDS_PER_UPSTREAM fits"))
}

/// A session between its pick and its close; counted for its backend until it is dropped.
pub struct InFlight {
    table: Rc<UpstreamTable>,
    backend: BackendId,
}

impl InFlight {
    /// The backend that was picked.
    #[must_use]
    pub fn backend(&self) -> BackendId {
        self.backend
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (table, index) = (&self.table, self.backend.index());
        let own = table.shared.loads.own(table.place.shard, index);
        debug_assert!(own > 0, "more guards dropped than made");
        table.shared.loads.set(table.place.shard, index, own.saturating_sub(1));
        {
            let sums = &mut table.inner.borrow_mut().sums;
            sums[index] = sums[index].saturating_sub(1);
        }
        table.give_back(self.backend);
    }
}
