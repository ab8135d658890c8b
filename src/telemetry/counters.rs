//! Counters: each shard writes its own, any thread may read them, and a reader never makes a shard wait.
//!
//! Conservation on every shard: accepted = denied + closed + active, and the counts of closed by reason sum
//! to closed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_utils::CachePadded;
use serde::Serialize;

use crate::base::{BackendKey, CloseReason, ListenerId, UpstreamId};
use crate::net::{AcceptError, LocalFailure};

/// A number with a single writer. Readers get a whole value, which may be slightly old.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the one writer calls this, so no read-modify-write is needed.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts; only the one writer calls this.
    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets the number; only the one writer calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds counters to sums of the same shape.
trait AddCounters<C> {
    fn add_counters(&mut self, counters: &C);
}

impl AddCounters<Counter> for u64 {
    fn add_counters(&mut self, counter: &Counter) {
        *self += counter.value();
    }
}

impl<const COUNT: usize> AddCounters<[Counter; COUNT]> for [u64; COUNT] {
    fn add_counters(&mut self, counters: &[Counter; COUNT]) {
        self.iter_mut().zip(counters).for_each(|(sum, counter)| sum.add_counters(counter));
    }
}

/// Structs of counters; with plain numbers in place of counters, they hold the sums over the shards.
macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident { $($(#[$of:meta])+ $field:ident: $cells:ty,)+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct $name<N = Counter> { $($(#[$of])+ pub $field: $cells,)+ }

        impl $name<u64> {
            /// Adds the counters of one shard.
            pub fn add(&mut self, counters: &$name) {
                $(self.$field.add_counters(&counters.$field);)+
            }
        }
    )+};
}

counters! {
    /// What one shard counts for one listener.
    ListenerCounters {
        /// Accepted connections, denied ones included.
        accepted: N,
        /// Denied because the process already has its maximum number of sessions.
        denied: N,
        /// Open sessions.
        active: N,
        /// Ended sessions by reason, indexed by [`CloseReason::index`].
        closed: [N; CloseReason::COUNT],
        /// Of the sessions that a backend reset: those without a byte, after which no other backend was left
        /// to try.
        reset_unserved: N,
        /// Failed accepts by kind.
        accept_errors: [N; AcceptError::COUNT],
        /// Bytes delivered to backends.
        bytes_to_backend: N,
        /// Bytes delivered to clients.
        bytes_to_client: N,
    }

    /// What one shard counts for one backend.
    BackendCounters {
        /// Sessions that got a connection to it.
        sessions: N,
        /// Failed connection attempts.
        connect_failures: N,
        /// Connections in the pool, including those still being made for it.
        pooled: N,
        /// Bytes delivered to it.
        bytes_to_backend: N,
        /// Bytes from it delivered to clients.
        bytes_to_client: N,
    }

    /// What one shard counts for the pool of one upstream.
    PoolCounters {
        /// Sessions that got a connection from the pool.
        hits: N,
        /// Sessions that found the pool empty.
        misses: N,
        /// Connections made for the pool.
        made: N,
        /// Connections for the pool that could not be made.
        failed: N,
        /// Pooled connections that were closed: too old, ended by the backend, holding unexpected bytes from
        /// it, or given up for a client.
        closed: N,
        /// Pooled connections that proved dead before a session's first byte and were replaced.
        replaced: N,
        /// Connections that sessions gave back.
        returned: N,
        /// Connections closed only because the backend did not confirm in time that they are clean.
        reset_failed: N,
    }

    /// What one shard counts that belongs to no single listener or upstream.
    WorkCounters {
        /// Attempts on another backend after a failed one.
        retries: N,
        /// Retries that `retry_budget` did not allow.
        retries_over_budget: N,
        /// Sessions that had to wait for a permit of a backend.
        queued: N,
        /// Attempts to connect to a backend that failed because this process lacks a resource, by kind.
        local_failures: [N; LocalFailure::COUNT],
        /// Bytes delivered to backends by splicing, included in `bytes_to_backend`.
        spliced_to_backend: N,
        /// Bytes delivered to clients by splicing, included in `bytes_to_client`.
        spliced_to_client: N,
    }
}

/// Counters of one writer, on cache lines of their own.
pub type Cells<T> = Arc<CachePadded<T>>;

/// Everything one shard counts: a registry that hands counters out by number. A number stays its owner's for
/// the life of the process, so a sum never falls.
///
/// Who counts keeps the counters, so the locks are taken only when objects begin and when somebody reads.
#[derive(Debug, Default)]
pub struct ShardCounters {
    listeners: Registry<ListenerId, ListenerCounters>,
    pools: Registry<UpstreamId, PoolCounters>,
    backends: Registry<BackendKey, BackendCounters>,
    /// Everything that is not about one of them.
    pub work: WorkCounters,
}

#[derive(Debug)]
struct Registry<K, T>(Mutex<BTreeMap<K, Cells<T>>>);

impl<K, T> Default for Registry<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, T: Default> Registry<K, T> {
    fn get(&self, key: K) -> Cells<T> {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }
}

impl ShardCounters {
    /// The counters of one listener.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Cells<ListenerCounters> {
        self.listeners.get(id)
    }

    /// Returns the counters of the pool of one upstream.
    #[must_use]
    pub fn pool(&self, upstream: UpstreamId) -> Cells<PoolCounters> {
        self.pools.get(upstream)
    }

    /// Returns the counters of one backend.
    #[must_use]
    pub fn backend(&self, key: BackendKey) -> Cells<BackendCounters> {
        self.backends.get(key)
    }
}

/// The counters of one listener, summed over the shards.
pub type ListenerTotals = ListenerCounters<u64>;

impl ListenerTotals {
    /// Returns the number of ended sessions, for all reasons.
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
}
