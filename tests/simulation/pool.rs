//! The pool of a shard as far as it takes places: `src/shard/keeper.rs` with numbers for connections.

use ringway::balance::Tried;
use ringway::base::BackendId;
use ringway::shard::Phase;

use super::trace::{count, note};
use super::world::World;

impl World {
    /// A pool makes a connection, or loses one.
    pub fn pool(&mut self) {
        let (index, backend) = (self.rng.usize(..self.shards.len()), self.rng.usize(..self.is_well.len()));
        let id = BackendId(backend as u16);
        if self.rng.bool() {
            return self.lose_pooled(index, id);
        }
        let shard = &self.shards[index];
        if shard.phase != Phase::Running {
            return;
        }
        let may_hold = !self.line.wants(&[&shard.view], id)
            && shard.view.may_pool(self.plan.upstream(), id)
            && self.has_place(id);
        assert_eq!(shard.table.hold(id), may_hold, "whether a pool may hold a place of {id:?}");
        if may_hold {
            note(self.now, format_args!("shard {index}: a connection to {id:?} for the pool"));
            count("pooled");
            self.shards[index].pooled[backend] += 1;
        }
    }

    /// A connection leaves the pool, for a session or for good, and its place is given back unless a session has it.
    pub fn lose_pooled(&mut self, index: usize, backend: BackendId) {
        let shard = &mut self.shards[index];
        let pooled = &mut shard.pooled[backend.index()];
        if let Some(left) = pooled.checked_sub(1) {
            *pooled = left;
            shard.table.settle(backend, left as usize);
            self.pass_on();
        }
    }

    /// The pool of a shard gives way to those who wait.
    pub fn give_way(&mut self, index: usize) {
        for backend in self.shards[index].table.wanted() {
            while self.shards[index].table.is_wanted(backend) {
                note(self.now, format_args!("shard {index}: the pool gives way at {backend:?}"));
                count("pool gives way");
                self.lose_pooled(index, backend);
            }
        }
    }

    pub fn clear_pool(&mut self, index: usize) {
        for backend in (0..self.is_well.len()).map(|backend| BackendId(backend as u16)) {
            while self.shards[index].pooled[backend.index()] > 0 {
                self.lose_pooled(index, backend);
            }
        }
    }

    /// Somebody begins to wait: all shards look at their pools.
    pub fn ask_pools(&mut self, index: usize, tried: &Tried) {
        if self.shards[index].table.places_in_pools(tried) > 0 {
            self.shards.iter_mut().for_each(|shard| shard.is_rung = true);
        }
    }

    /// Connections in the pools, of limited backends.
    pub fn pooled(&self) -> u32 {
        let limited = self.plan.backends().filter(|(_, backend)| backend.max_connections.is_some());
        limited.map(|(id, _)| self.pooled_of(id)).sum()
    }

    pub fn pooled_of(&self, backend: BackendId) -> u32 {
        self.shards.iter().map(|shard| shard.pooled[backend.index()]).sum()
    }
}
