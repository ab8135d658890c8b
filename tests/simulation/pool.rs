//! The pool of a shard as far as it takes permits: `src/shard/pool_task.rs` with permits for connections.

use ringway::balance::Tried;
use ringway::base::BackendId;
use ringway::shard::Phase;

use super::shard::Shard;
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
        let may_pool = !self.line.wants(&[&shard.view], id)
            && shard.view.may_pool(self.plan.upstream(), id)
            && self.has_permit(id);
        let permit = shard.table.idle_permit(id);
        assert_eq!(permit.is_some(), may_pool, "whether a pool may have a permit of {id:?}");
        if let Some(permit) = permit {
            note(self.now, format_args!("shard {index}: a connection to {id:?} for the pool"));
            count("pooled");
            self.shards[index].pooled[backend].push(permit);
        }
    }

    /// A connection leaves the pool for good, and its permit is given back.
    pub fn lose_pooled(&mut self, index: usize, backend: BackendId) {
        drop(self.shards[index].pooled[backend.index()].pop());
        self.serve();
    }

    /// The pool of a shard gives way to those who wait.
    pub fn give_way(&mut self, index: usize) {
        for backend in self.shards[index].table.candidates() {
            let has_one = |world: &Self| {
                let Shard { table, pooled, .. } = &world.shards[index];
                !pooled[backend.index()].is_empty()
                    && table.is_limited(backend)
                    && table.is_waited_for(backend)
            };
            while has_one(self) {
                note(self.now, format_args!("shard {index}: the pool gives way at {backend:?}"));
                count("pool gives way");
                self.lose_pooled(index, backend);
            }
        }
    }

    pub fn clear_pool(&mut self, index: usize) {
        self.shards[index].pooled.iter_mut().for_each(Vec::clear);
        self.serve();
    }

    /// A client begins to wait: all shards look at their pools.
    pub fn ask_pools(&mut self, index: usize, tried: &Tried) {
        if self.shards[index].table.idle_permits(tried) > 0 {
            self.shards.iter_mut().for_each(|shard| shard.is_notified = true);
        }
    }

    /// Connections in the pools, of limited backends.
    pub fn pooled(&self) -> u32 {
        let limited = self.plan.backends().filter(|(_, backend)| backend.max_connections.is_some());
        limited.map(|(id, _)| self.pooled_of(id)).sum()
    }

    pub fn pooled_of(&self, backend: BackendId) -> u32 {
        self.shards.iter().map(|shard| shard.pooled[backend.index()].len() as u32).sum()
    }
}
