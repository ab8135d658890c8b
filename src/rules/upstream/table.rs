//! The backends of one upstream as one shard sees them: states, picks, guards.
//!
//! Invariants: a pick is none if and only if no eligible backend is left to try; the count of a backend is the number
//! of its live [`InFlight`] guards.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::loads::Loads;
use super::state::{Address, BackendState, Health};
use crate::rules::balance::{Algorithm, Candidate, Registered, Start, Tried};
use crate::words::{BackendId, ShardId};

/// Which shard of how many.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace {
    /// This shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
}

/// The backends of one upstream, on one shard.
pub struct UpstreamTable {
    place: ShardPlace,
    weights: Vec<u32>,
    loads: Arc<Loads>,
    inner: RefCell<Inner>,
}

struct Inner {
    algorithm: Box<dyn Algorithm>,
    states: Vec<BackendState>,
    candidates: Vec<Candidate>,
    /// Of the other shards, as of `others_at`.
    others: Vec<u32>,
    others_at: Option<u64>,
    /// Scratch of a pick: own and others' together.
    sums: Vec<u32>,
}

impl UpstreamTable {
    /// A table in which no backend is eligible yet.
    #[must_use]
    pub fn new(algorithm: &Registered, weights: Vec<u32>, loads: Arc<Loads>, place: ShardPlace) -> Rc<Self> {
        let backends = weights.len();
        let unknown = BackendState { health: Health::Checking, addresses: Arc::from([]) };
        Rc::new(Self {
            place,
            weights,
            loads,
            inner: RefCell::new(Inner {
                algorithm: (algorithm.build)(Start { shard: place.shard.index(), shards: place.shards }),
                states: vec![unknown; backends],
                candidates: Vec::new(),
                others: vec![0; backends],
                others_at: None,
                sums: vec![0; backends],
            }),
        })
    }

    /// Takes the new states of all backends, in the order of the configuration.
    pub fn apply(&self, states: &[BackendState]) {
        assert_eq!(states.len(), self.weights.len(), "states of another configuration");
        let inner = &mut *self.inner.borrow_mut();
        inner.states.clear();
        inner.states.extend_from_slice(states);
        let eligible = states.iter().zip(&self.weights).enumerate().filter(|(_, (state, weight))| {
            state.health == Health::Up && !state.addresses.is_empty() && **weight > 0
        });
        let candidates: Vec<_> = eligible
            .map(|(index, (_, weight))| Candidate { id: backend_id(index), weight: *weight })
            .collect();
        if candidates != inner.candidates {
            inner.algorithm.update(&candidates);
            inner.candidates = candidates;
        }
    }

    /// Picks an eligible backend that was not tried; `now_millis` decides how old the other shards' counts may be.
    pub fn pick(self: &Rc<Self>, now_millis: u64, tried: &Tried) -> Option<InFlight> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.algorithm.uses_loads() {
            if inner.others_at != Some(now_millis) {
                inner.others_at = Some(now_millis);
                self.loads.others(self.place.shard, &mut inner.others);
            }
            for (index, sum) in inner.sums.iter_mut().enumerate() {
                *sum = inner.others[index] + self.loads.own(self.place.shard, index);
            }
        }
        let backend = inner.algorithm.pick(&inner.sums, tried)?;
        debug_assert!(
            inner.candidates.iter().any(|candidate| candidate.id == backend),
            "{backend:?} is not eligible"
        );
        debug_assert!(!tried.contains(backend), "{backend:?} was tried");
        let own = self.loads.own(self.place.shard, backend.index());
        self.loads.set(self.place.shard, backend.index(), own + 1);
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
    }
}
