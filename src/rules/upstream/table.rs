//! The backends of one upstream as one shard sees them: states, picks, guards.
//!
//! Invariants: a pick is none if and only if no eligible backend is left to try; the count of a backend is the number
//! of its live [`InFlight`] guards.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::loads::Loads;
use super::state::{Address, BackendState, Health};
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
    loads: Arc<Loads>,
    inner: RefCell<Inner>,
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
    pub fn new(algorithm: &Registered, shares: Vec<Share>, loads: Arc<Loads>, place: ShardPlace) -> Rc<Self> {
        let backends = shares.len();
        let start = Start { shard: place.shard.index(), shards: place.shards, seed: place.seed };
        let unknown = BackendState { health: Health::Checking, addresses: Arc::from([]) };
        Rc::new(Self {
            place,
            wants: algorithm.wants,
            shares,
            loads,
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

    /// Picks an eligible backend that was not tried. `key` is of use where it is [wanted](Self::wants), and `now_millis`
    /// decides how old the other shards' counts may be.
    pub fn pick(self: &Rc<Self>, now_millis: u64, tried: &Tried, key: u64) -> Option<InFlight> {
        let inner = &mut *self.inner.borrow_mut();
        if self.wants.loads && inner.others_at != Some(now_millis) {
            inner.others_at = Some(now_millis);
            self.loads.sum_into(&mut inner.sums);
        }
        let backend = inner.algorithm.pick(&Demand { loads: &inner.sums, tried, key, now_millis })?;
        debug_assert!(
            inner.candidates.iter().any(|candidate| candidate.id == backend),
            "{backend:?} is not eligible"
        );
        debug_assert!(!tried.contains(backend), "{backend:?} was tried");
        let own = self.loads.own(self.place.shard, backend.index());
        self.loads.set(self.place.shard, backend.index(), own + 1);
        inner.sums[backend.index()] += 1;
        Some(InFlight { table: self.clone(), backend })
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
        let shard = self.table.place.shard;
        let own = self.table.loads.own(shard, self.backend.index());
        debug_assert!(own > 0, "more guards dropped than made");
        self.table.loads.set(shard, self.backend.index(), own.saturating_sub(1));
        let sum = &mut self.table.inner.borrow_mut().sums[self.backend.index()];
        *sum = sum.saturating_sub(1);
    }
}
