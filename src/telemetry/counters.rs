//! Counters: each shard writes its own, any thread may read them, and a reader never makes a shard wait.
//!
//! Conservation on every shard: accepted = denied + closed + active, and the counts of closed by reason sum
//! to closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};

use super::by_reason;
use super::cell::AddCounters;
use super::histogram::Histogram;
use crate::base::{
    BackendKey, CloseReason, ConnectFailure, DenyReason, ListenerId, TlsFailure, TlsHandshake, UpstreamId,
};
use crate::net::{AcceptError, LocalFailure};

pub use super::cell::Counter;

/// Structs of counters; with plain numbers in place of counters, they hold the sums over the shards.
macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident { $($(#[$of:meta])+ $field:ident: $cells:ty,)+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(bound(
            serialize = "N: Serialize + Copy + Into<u64>",
            deserialize = "N: Deserialize<'de> + Copy + Default + From<u64>"
        ))]
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
        /// Denied connections by reason, indexed by [`DenyReason::index`].
        #[serde(with = "by_reason::denied")]
        denied: [N; DenyReason::COUNT],
        /// Open sessions.
        active: N,
        /// Ended sessions by reason, indexed by [`CloseReason::index`].
        #[serde(with = "by_reason::closed")]
        closed: [N; CloseReason::COUNT],
        /// Of the sessions that a backend reset: those without a byte, after which no other backend was left
        /// to try.
        reset_unserved: N,
        /// Failed accepts by kind.
        #[serde(with = "by_reason::accept_errors")]
        accept_errors: [N; AcceptError::COUNT],
        /// TLS handshakes of clients, as they began.
        #[serde(with = "by_reason::tls_handshakes")]
        tls_handshakes: [N; TlsHandshake::COUNT],
        /// TLS handshakes that came to nothing.
        #[serde(with = "by_reason::tls_failures")]
        tls_failures: [N; TlsFailure::COUNT],
        /// Clients whose stream ended in TCP and not in TLS.
        tls_unended: N,
        /// Bytes delivered to backends.
        bytes_to_backend: N,
        /// Bytes delivered to clients.
        bytes_to_client: N,
        /// How long ended sessions took, from accept to close.
        duration: Histogram<N>,
    }

    /// What one shard counts for one backend.
    BackendCounters {
        /// Sessions that got a connection to it.
        sessions: N,
        /// Sessions that it broke, see [`CloseReason::blames_backend`].
        broken: N,
        /// Failed connection attempts by reason, indexed by [`ConnectFailure::index`].
        #[serde(with = "by_reason::connect_failures")]
        connect_failures: [N; ConnectFailure::COUNT],
        /// Connections made to it for sessions, and how long that took, microseconds. Those of the pool are not
        /// among them.
        connects: N,
        /// See `connects`.
        connect_micros: N,
        /// Connections in the pool, including those still being made for it.
        pooled: N,
        /// Bytes delivered to it.
        bytes_to_backend: N,
        /// Bytes from it delivered to clients.
        bytes_to_client: N,
        /// The kernel's smoothed round-trip time of its connections when their sessions ended.
        round_trip: Histogram<N>,
        /// Segments that were sent again on its connections, as of the end of their sessions.
        retransmitted: N,
    }

    /// What one shard counts for one upstream.
    UpstreamCounters {
        /// Attempts on another backend after a failed one.
        retries: N,
        /// Retries that `retry_budget` did not allow.
        retries_over_budget: N,
        /// How long connects to its backends took that succeeded, for sessions.
        connect: Histogram<N>,
        /// How long sessions waited for a permit of a backend, if they had to; those that got none too.
        queue: Histogram<N>,
        /// Of the backend connections that were looked at when their session ended: those of which the CPU of the shard has
        /// received the last segment.
        #[serde(skip)]
        legs_own: N,
        /// Those of which another CPU has.
        #[serde(skip)]
        legs_other: N,
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

    /// What the health thread counts for one backend.
    CheckCounters {
        /// Checks that succeeded.
        success: N,
        /// Checks that failed with an error.
        failure: N,
        /// Checks that took too long.
        timeout: N,
        /// Checks that say nothing about the backend: this process lacked descriptors, ports or memory, or was
        /// stopped.
        local: N,
        /// Transitions to `Up`, the first verdict included.
        up: N,
        /// Transitions to `Down`, the first verdict included.
        down: N,
        /// Ejections for failures of sessions.
        ejections: N,
    }

    /// What one shard counts that belongs to no single listener or upstream.
    WorkCounters {
        /// Attempts to connect to a backend that failed because this process lacks a resource, by kind.
        #[serde(with = "by_reason::local_failures")]
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
    upstreams: Registry<UpstreamId, UpstreamCounters>,
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

    fn forget(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl ShardCounters {
    /// Returns the counters of one listener.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Cells<ListenerCounters> {
        self.listeners.get(id)
    }

    /// Returns the counters of one upstream.
    #[must_use]
    pub fn upstream(&self, id: UpstreamId) -> Cells<UpstreamCounters> {
        self.upstreams.get(id)
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

    /// Begins anew with the counters of a backend, because its number is another one's now.
    pub fn forget(&self, key: BackendKey) {
        self.backends.forget(&key);
    }
}

/// What the health thread found out about one backend.
#[derive(Debug, Default)]
pub struct Checks {
    /// The health thread alone writes.
    pub counters: CheckCounters,
    /// Written once a check, read only for the status.
    last: Mutex<Option<LastCheck>>,
}

/// The last check of a backend.
#[derive(Clone, Debug)]
pub struct LastCheck {
    /// Whether the check succeeded.
    pub ok: bool,
    /// Why the check failed; empty if it did not.
    pub cause: String,
    /// When the check ended.
    pub at: Instant,
    /// How long the check took.
    pub took: Duration,
}

impl Checks {
    /// Notes the result of a check.
    pub fn note_last(&self, last: LastCheck) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// Returns the last check, once there was one.
    #[must_use]
    pub fn last(&self) -> Option<LastCheck> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything the health thread counts.
#[derive(Debug, Default)]
pub struct HealthCounters {
    backends: Registry<BackendKey, Checks>,
    beats: Counter,
}

impl HealthCounters {
    /// Returns the counters of one backend.
    #[must_use]
    pub fn backend(&self, key: BackendKey) -> Cells<Checks> {
        self.backends.get(key)
    }

    /// Begins anew with the counters of a backend, because its number is another one's now.
    pub fn forget(&self, key: BackendKey) {
        self.backends.forget(&key);
    }

    /// Notes that the thread lives.
    pub fn beat(&self) {
        self.beats.add(1);
    }

    /// Returns how often the thread has shown that it lives.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.value()
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

    /// Returns the number of denied connections, for all reasons.
    #[must_use]
    pub fn denied_sum(&self) -> u64 {
        self.denied.iter().sum()
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
        self.accepted == self.denied_sum() + self.closed_sum() + self.active
    }
}
