//! Counters: each shard writes its own, anybody reads them, and a reader never makes a shard wait.
//!
//! Conservation, on every shard: accepted = denied + closed + active, and the reasons of closed sum to closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::base::{BackendId, CloseReason, ListenerId, UpstreamId};
use crate::net::{AcceptError, LocalFailure};

/// A number with a single writer. Readers get a whole, maybe slightly old value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one writer alone, so no read-modify-write is needed.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts; for the one writer alone.
    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets it; for the one writer alone.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts for one listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Accepted connections, denied ones included.
    pub accepted: Counter,
    /// Denied because the process has as many sessions as it may have.
    pub denied: Counter,
    /// Open sessions.
    pub active: Counter,
    /// Ended sessions by reason.
    pub closed: [Counter; CloseReason::COUNT],
    /// Of those that a backend reset, the ones without a byte, when no other backend was left to try.
    pub reset_unserved: Counter,
    /// Failed accepts by kind.
    pub accept_errors: [Counter; AcceptError::COUNT],
    /// Bytes delivered to backends.
    pub bytes_to_backend: Counter,
    /// Bytes delivered to clients.
    pub bytes_to_client: Counter,
}

/// What one shard counts for one backend.
#[derive(Debug, Default)]
pub struct BackendCounters {
    /// Sessions that got a connection.
    pub sessions: Counter,
    /// Failed connection attempts.
    pub connect_failures: Counter,
    /// Connections in the pool, those on their way to it included.
    pub pooled: Counter,
    /// Bytes delivered to it.
    pub bytes_to_backend: Counter,
    /// Bytes delivered from it to clients.
    pub bytes_to_client: Counter,
}

/// What one shard counts for the pool of one upstream.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Sessions that got a connection from it.
    pub hits: Counter,
    /// Sessions that found it empty.
    pub misses: Counter,
    /// Connections made for it.
    pub made: Counter,
    /// Connections for it that could not be made.
    pub failed: Counter,
    /// Connections in it that were closed: too old, ended or spoken on by the backend, or in the way of a client.
    pub closed: Counter,
    /// Connections of it that proved dead before a session's first byte, and were replaced.
    pub replaced: Counter,
    /// Connections that came back from sessions.
    pub returned: Counter,
    /// Connections of which the backend did not say in time that they are clean, and that only.
    pub reset_failed: Counter,
}

/// Everything one shard counts.
#[derive(Debug)]
pub struct ShardCounters {
    listeners: Box<[CachePadded<ListenerCounters>]>,
    backends: Box<[Box<[CachePadded<BackendCounters>]>]>,
    pools: Box<[CachePadded<PoolCounters>]>,
    /// Attempts of another backend after a failed one.
    pub retries: Counter,
    /// Retries that `retry_budget` did not allow.
    pub retries_over_budget: Counter,
    /// Sessions that had to wait for a place at a backend.
    pub queued: Counter,
    /// Attempts to connect to a backend that failed for want of something of our own, by kind.
    pub local_failures: [Counter; LocalFailure::COUNT],
    /// Bytes delivered to backends by splicing; they are among `bytes_to_backend`.
    pub spliced_to_backend: Counter,
    /// Bytes delivered to clients by splicing; they are among `bytes_to_client`.
    pub spliced_to_client: Counter,
}

impl ShardCounters {
    /// Zeroes for so many listeners, and for each upstream so many backends.
    #[must_use]
    pub fn new(listeners: usize, backends: impl IntoIterator<Item = usize>) -> Arc<Self> {
        fn row<T: Default>(count: usize) -> Box<[CachePadded<T>]> {
            (0..count).map(|_| CachePadded::default()).collect()
        }
        let backends: Box<[_]> = backends.into_iter().map(row).collect();
        Arc::new(Self {
            listeners: row(listeners),
            pools: row(backends.len()),
            backends,
            retries: Counter::default(),
            retries_over_budget: Counter::default(),
            queued: Counter::default(),
            local_failures: Default::default(),
            spliced_to_backend: Counter::default(),
            spliced_to_client: Counter::default(),
        })
    }

    /// The counters of one listener.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> &ListenerCounters {
        &self.listeners[id.index()]
    }

    /// The counters of the pool of one upstream.
    #[must_use]
    pub fn pool(&self, upstream: UpstreamId) -> &PoolCounters {
        &self.pools[upstream.index()]
    }

    /// The counters of one backend.
    #[must_use]
    pub fn backend(&self, upstream: UpstreamId, backend: BackendId) -> &BackendCounters {
        &self.backends[upstream.index()][backend.index()]
    }
}

/// The counters of one listener, summed over the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTotals {
    /// Accepted connections, denied ones included.
    pub accepted: u64,
    /// Denied connections.
    pub denied: u64,
    /// Open sessions.
    pub active: u64,
    /// Ended sessions by reason, indexed by [`CloseReason::index`].
    pub closed: [u64; CloseReason::COUNT],
    /// Of those that a backend reset, the ones without a byte, when no other backend was left to try.
    pub reset_unserved: u64,
    /// Failed accepts by kind.
    pub accept_errors: [u64; AcceptError::COUNT],
    /// Bytes delivered to backends.
    pub bytes_to_backend: u64,
    /// Bytes delivered to clients.
    pub bytes_to_client: u64,
}

impl ListenerTotals {
    /// Ended sessions, whatever the reason.
    #[must_use]
    pub fn closed_sum(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// For tests: sessions that ended with this reason.
    #[doc(hidden)]
    #[must_use]
    pub fn closed_with(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// For tests: accepted = denied + closed + active.
    #[doc(hidden)]
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.accepted == self.denied + self.closed_sum() + self.active
    }

    /// Adds the counters of one shard.
    pub fn add(&mut self, counters: &ListenerCounters) {
        self.accepted += counters.accepted.value();
        self.denied += counters.denied.value();
        self.active += counters.active.value();
        for (sum, counter) in self.closed.iter_mut().zip(&counters.closed) {
            *sum += counter.value();
        }
        for (sum, counter) in self.accept_errors.iter_mut().zip(&counters.accept_errors) {
            *sum += counter.value();
        }
        self.reset_unserved += counters.reset_unserved.value();
        self.bytes_to_backend += counters.bytes_to_backend.value();
        self.bytes_to_client += counters.bytes_to_client.value();
    }
}
