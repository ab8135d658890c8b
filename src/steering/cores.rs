//! What every core tells of itself, readable by all: its sessions, how busy it is, whether it may still pass connections on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::base::ShardId;

/// One row for each core, with its shard as the only writer of what counts there for every session.
pub struct CoreLoads {
    rows: Box<[Row]>,
    /// Shards that may still pass connections on.
    passing: CachePadded<AtomicUsize>,
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
    /// Sessions that have ended.
    ended: AtomicU64,
    /// Connections handed off to other shards.
    handed_off: AtomicU64,
    /// Connections received from other shards.
    received: AtomicU64,
}

/// Written by other threads, and seldom.
#[derive(Default)]
struct Others {
    /// Connections on their way to this shard; every shard adds, this one subtracts.
    inbound: AtomicU32,
    /// Busy share of the last sample, per mille of a core; the sampler writes it.
    busy: AtomicU32,
    /// Processor time so far, nanoseconds; the sampler writes it.
    busy_nanos: AtomicU64,
}

/// How much a core has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreLoad {
    /// Open sessions, with those on their way from other shards.
    pub sessions: u32,
    /// Per mille of the core, in the last sample.
    pub busy: u32,
}

/// What is shown of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CoreStatus {
    /// Open sessions.
    pub active: u32,
    /// Sessions so far, open ones included.
    pub sessions: u64,
    /// Connections handed off to other shards so far.
    pub handed_off: u64,
    /// Connections received from other shards so far.
    pub received: u64,
    /// Per mille of the core, in the last sample.
    pub busy: u32,
    /// Processor time so far.
    pub busy_time: Duration,
}

impl CoreLoads {
    /// Idle cores, all of which may pass connections on.
    #[must_use]
    pub fn new(shards: usize) -> Arc<Self> {
        let rows = (0..shards).map(|_| Row::default()).collect();
        Arc::new(Self { rows, passing: CachePadded::new(AtomicUsize::new(shards)) })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is shown of a core.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> CoreStatus {
        let Row { own, others } = &self.rows[shard.index()];
        let active = own.active.load(Ordering::Relaxed);
        CoreStatus {
            active,
            sessions: own.ended.load(Ordering::Relaxed) + u64::from(active),
            handed_off: own.handed_off.load(Ordering::Relaxed),
            received: own.received.load(Ordering::Relaxed),
            busy: others.busy.load(Ordering::Relaxed),
            busy_time: Duration::from_nanos(others.busy_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Notes a sample of the processor time; for the one thread that takes samples.
    pub fn note_busy(&self, shard: ShardId, per_mille: u32, so_far: Duration) {
        let others = &self.rows[shard.index()].others;
        others.busy.store(per_mille.min(1_000), Ordering::Relaxed);
        let nanos = u64::try_from(so_far.as_nanos()).unwrap_or(u64::MAX);
        others.busy_nanos.store(nanos, Ordering::Relaxed);
    }

    /// Counts a session; for its shard alone, as the four that follow.
    pub fn begin_session(&self, shard: ShardId) {
        bump(&self.rows[shard.index()].own.active, 1);
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

    /// Counts a connection that came from another shard. To be called when it counts as a session, so that it is never missed.
    pub fn note_received(&self, shard: ShardId) {
        bump_long(&self.rows[shard.index()].own.received);
        self.take_back(shard);
    }

    /// Connections on their way to a shard count there at once, so that those who look next do not all choose it.
    pub fn announce(&self, to: ShardId) {
        // Relaxed: the number alone is shared; the connection itself goes through a channel.
        self.rows[to.index()].others.inbound.fetch_add(1, Ordering::Relaxed);
    }

    /// An announced connection does not come, or has come.
    pub fn take_back(&self, to: ShardId) {
        let before = self.rows[to.index()].others.inbound.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more connections arrive than were announced");
    }

    /// A shard passes nothing on any more. Whether it was the last one.
    #[must_use]
    pub fn end_handoffs(&self) -> bool {
        // Release: who sees the number also sees what the shard has put into the channels before.
        self.passing.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether no shard passes anything on any more: what is in a channel now is all that will ever be.
    #[must_use]
    pub fn are_handoffs_over(&self) -> bool {
        self.passing.load(Ordering::Acquire) == 0
    }

    pub(super) fn load(&self, shard: usize) -> CoreLoad {
        let Row { own, others } = &self.rows[shard];
        let sessions = own.active.load(Ordering::Relaxed) + others.inbound.load(Ordering::Relaxed);
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
