//! What every core publishes for the others: its sessions, how busy it is, and whether it may still hand
//! connections off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};

use crate::base::{ShardId, Shared};

/// One row for each core. Only the core's own shard writes what changes with every session.
pub struct CoreLoads {
    rows: Box<[Row]>,
    /// The number of shards that may still hand connections off.
    handing_off: CachePadded<Shared<AtomicUsize>>,
}

#[derive(Default)]
struct Row {
    own: CachePadded<Own>,
    others: CachePadded<Others>,
}

/// Written by the shard itself.
#[derive(Default)]
struct Own {
    /// Open sessions.
    active: AtomicU32,
    /// Sessions that have begun: counted for itself, because `active` and `ended` may be read a moment apart, and a sum
    /// that falls looks like a restart.
    begun: AtomicU64,
    /// Sessions that have ended.
    ended: AtomicU64,
    /// Connections handed off to other shards.
    handed_off: AtomicU64,
    /// Connections received from other shards.
    received: AtomicU64,
}

/// Written by other threads, rarely.
#[derive(Default)]
struct Others {
    /// Connections on their way to this shard; every other shard adds, this one subtracts.
    inbound: Shared<AtomicU32>,
    /// Busy share in the last sample, per mille of a core; written by the thread that takes samples.
    busy: AtomicU32,
    /// Processor time so far, nanoseconds; written by the thread that takes samples.
    busy_nanos: AtomicU64,
}

/// The load of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreLoad {
    /// Open sessions, including connections on their way from other shards.
    pub sessions: u32,
    /// Busy share in the last sample, per mille of the core.
    pub busy: u32,
}

/// The status of a core, for display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreStatus {
    /// Open sessions.
    pub active: u32,
    /// Sessions so far, including open ones.
    pub sessions: u64,
    /// Connections handed off to other shards so far.
    pub handed_off: u64,
    /// Connections received from other shards so far.
    pub received: u64,
    /// Busy share in the last sample, per mille of the core.
    #[serde(rename = "busy_per_mille")]
    pub busy: u32,
    /// Processor time so far, seconds.
    pub busy_seconds: f64,
}

impl CoreLoads {
    /// Creates idle cores, all of which may hand connections off.
    #[must_use]
    pub fn new(shards: usize) -> Arc<Self> {
        let rows = (0..shards).map(|_| Row::default()).collect();
        Arc::new(Self { rows, handing_off: CachePadded::new(Shared::new(AtomicUsize::new(shards))) })
    }

    /// Returns the number of cores.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there is no core.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the status of a core.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> CoreStatus {
        let Row { own, others } = &self.rows[shard.index()];
        CoreStatus {
            active: own.active.load(Ordering::Relaxed),
            sessions: own.begun.load(Ordering::Relaxed),
            handed_off: own.handed_off.load(Ordering::Relaxed),
            received: own.received.load(Ordering::Relaxed),
            busy: others.busy.load(Ordering::Relaxed),
            busy_seconds: Duration::from_nanos(others.busy_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }

    /// Notes a sample of the processor time; only the one thread that takes samples calls this.
    pub fn note_busy(&self, shard: ShardId, per_mille: u32, so_far: Duration) {
        let others = &self.rows[shard.index()].others;
        others.busy.store(per_mille.min(1_000), Ordering::Relaxed);
        let nanos = u64::try_from(so_far.as_nanos()).unwrap_or(u64::MAX);
        others.busy_nanos.store(nanos, Ordering::Relaxed);
    }

    /// Counts a session. Only the shard itself calls this and the three functions that follow.
    pub fn begin_session(&self, shard: ShardId) {
        let own = &self.rows[shard.index()].own;
        bump(&own.active, 1);
        bump_long(&own.begun);
    }

    /// Counts the end of a session.
    pub fn end_session(&self, shard: ShardId) {
        let own = &self.rows[shard.index()].own;
        debug_assert!(own.active.load(Ordering::Relaxed) > 0, "more sessions end than began");
        bump(&own.active, u32::MAX);
        bump_long(&own.ended);
    }

    /// Counts a connection that was handed off.
    pub fn note_handed_off(&self, shard: ShardId) {
        bump_long(&self.rows[shard.index()].own.handed_off);
    }

    /// Counts a connection from another shard. Call this when the connection counts as a session, so that it
    /// is counted at every moment.
    pub fn note_received(&self, shard: ShardId) {
        bump_long(&self.rows[shard.index()].own.received);
        self.take_back(shard);
    }

    /// Counts a connection that is on its way to a shard, so that the next shards to look do not all choose
    /// the same one.
    pub fn announce(&self, to: ShardId) {
        // Relaxed: only the number is shared; the connection itself goes through a channel.
        self.rows[to.index()].others.inbound.write().fetch_add(1, Ordering::Relaxed);
    }

    /// Takes an announcement back: the connection has arrived, or will not come.
    pub fn take_back(&self, to: ShardId) {
        let before = self.rows[to.index()].others.inbound.write().fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more connections arrive than were announced");
    }

    /// Notes that a shard hands nothing off any more. Returns whether it was the last one.
    #[must_use]
    pub fn end_handoffs(&self) -> bool {
        // Release: a thread that sees the number also sees what the shard has put into the channels before.
        self.handing_off.write().fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Returns whether no shard hands anything off any more: nothing will be added to what the channels hold
    /// now.
    #[must_use]
    pub fn are_handoffs_over(&self) -> bool {
        self.handing_off.get().load(Ordering::Acquire) == 0
    }

    pub(super) fn load(&self, shard: usize) -> CoreLoad {
        let Row { own, others } = &self.rows[shard];
        let sessions = own.active.load(Ordering::Relaxed) + others.inbound.get().load(Ordering::Relaxed);
        CoreLoad { sessions, busy: others.busy.load(Ordering::Relaxed) }
    }

    pub(super) fn ended(&self, shard: usize) -> u64 {
        self.rows[shard].own.ended.load(Ordering::Relaxed)
    }
}

/// A single writer needs no read-modify-write.
fn bump(counter: &AtomicU32, by: u32) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn bump_long(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn number_of_sessions_so_far_never_falls() {
        let (cores, over, shard) = (CoreLoads::new(1), AtomicBool::new(false), ShardId(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    cores.begin_session(shard);
                    cores.begin_session(shard);
                    cores.end_session(shard);
                    cores.end_session(shard);
                }
            });
            let read: Vec<_> = (0..200_000).map(|_| cores.status(shard).sessions).collect();
            over.store(true, Ordering::Relaxed);
            assert!(read.is_sorted());
        });
    }
}
