//! The status of a process as one value: for the demo's table, for tests, and for every interface that will
//! follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::base::{BackendKey, CloseReason, ShardId};
use crate::steering::{CoreLoads, CoreStatus};
use crate::telemetry::counters::{
    BackendCounters, ListenerTotals, PoolCounters, ShardCounters, WorkCounters,
};
use crate::upstream::{Health, SharedUpstream, Snapshot, UpstreamStates};

/// See the module documentation. Counters are sums since the start.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The generation of the configuration that runs.
    pub generation: u64,
    /// Maximum number of sessions at a time.
    pub max_sessions: u32,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamStatus>,
    /// By shard.
    pub shards: Vec<ShardStatus>,
}

/// A listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// The name of its upstream.
    pub upstream: String,
    /// What all shards have counted.
    #[serde(flatten, serialize_with = "totals")]
    pub totals: ListenerTotals,
}

/// An upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// The name of its algorithm.
    pub algorithm: &'static str,
    /// The number of clients that wait for a backend below its limit.
    pub waiting: usize,
    /// What all shards have counted for its pools.
    pub pool: PoolCounters<u64>,
    /// In the order of the configuration.
    pub backends: Vec<BackendStatus>,
}

/// A backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// The result of the health checks.
    pub health: Health,
    /// Whether the backend takes no sessions for a while, because sessions have failed on it.
    pub ejected: bool,
    /// The addresses at which the backend can be reached, in the order to try.
    pub addresses: Vec<String>,
    /// Sessions in flight.
    pub in_flight: u32,
    /// Permits that are taken; `None` if there is no limit.
    pub permits_taken: Option<u32>,
    /// What all shards have counted.
    #[serde(flatten)]
    pub totals: BackendCounters<u64>,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardStatus {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The load of its core, and the connections that it handed off and received. Its sessions are those that
    /// were not denied.
    #[serde(flatten)]
    pub core: CoreStatus,
    /// What the shard has counted.
    #[serde(flatten)]
    pub work: WorkCounters<u64>,
    /// What the shard has counted for each listener.
    #[serde(skip)]
    pub listeners: Vec<ListenerTotals>,
}

impl Status {
    /// Reads everything. Reading makes no shard wait, so numbers that belong together may be a moment apart.
    #[must_use]
    pub fn read(
        snapshot: &Snapshot,
        states: &UpstreamStates,
        (counters, cores): (&[Arc<ShardCounters>], &CoreLoads),
        cpus: &[usize],
        max_sessions: u32,
    ) -> Self {
        let shards: Vec<_> = counters
            .iter()
            .zip(cpus)
            .enumerate()
            .map(|(index, (counters, &cpu))| {
                let of = |id| {
                    let mut totals = ListenerTotals::default();
                    totals.add(&counters.listener(id));
                    totals
                };
                let mut work = WorkCounters::default();
                work.add(&counters.work);
                let core = cores.status(ShardId(index as u16));
                ShardStatus {
                    cpu,
                    core,
                    work,
                    listeners: snapshot.listeners().iter().copied().map(of).collect(),
                }
            })
            .collect();
        let config = snapshot.config();
        let listeners = snapshot.listeners().iter().zip(&config.listeners);
        let listeners = listeners.map(|(id, listener)| {
            let mut totals = ListenerTotals::default();
            counters.iter().for_each(|shard| totals.add(&shard.listener(*id)));
            ListenerStatus {
                name: listener.name.to_string(),
                address: listener.address.to_string(),
                upstream: config.upstreams[listener.upstream.index()].name.to_string(),
                totals,
            }
        });
        let upstreams = snapshot.upstreams().iter().enumerate();
        let upstreams =
            upstreams.map(|(position, shared)| UpstreamStatus::read(shared, position, states, counters));
        Self {
            generation: snapshot.generation(),
            max_sessions,
            listeners: listeners.collect(),
            upstreams: upstreams.collect(),
            shards,
        }
    }

    /// Returns the number of open sessions.
    #[must_use]
    pub fn open_sessions(&self) -> u64 {
        self.listeners.iter().map(|listener| listener.totals.active).sum()
    }
}

impl UpstreamStatus {
    fn read(
        shared: &SharedUpstream,
        position: usize,
        states: &UpstreamStates,
        counters: &[Arc<ShardCounters>],
    ) -> Self {
        let (config, in_flight) = (shared.config(), shared.in_flight());
        let mut pool = PoolCounters::default();
        counters.iter().for_each(|shard| pool.add(&shard.pool(shared.id())));
        let backends = config.backends.iter().zip(shared.numbers()).enumerate();
        let backends = backends.map(|(index, (backend, &number))| {
            // There are no states before the first ones are published.
            let state = states.upstreams.get(position).and_then(|states| states.get(index));
            let mut totals = BackendCounters::default();
            let key = BackendKey { upstream: shared.id(), backend: number };
            counters.iter().for_each(|shard| totals.add(&shard.backend(key)));
            BackendStatus {
                name: backend.name.clone(),
                health: state.map_or(Health::Checking, |state| state.health),
                ejected: state.is_some_and(|state| state.ejected),
                addresses: state
                    .iter()
                    .flat_map(|state| &*state.addresses)
                    .map(ToString::to_string)
                    .collect(),
                in_flight: in_flight[number.index()],
                permits_taken: shared.permits_taken(number),
                totals,
            }
        });
        Self {
            name: config.name.to_string(),
            algorithm: config.algorithm.name,
            waiting: shared.queue_length(),
            pool,
            backends: backends.collect(),
        }
    }
}

/// Serializes the totals of a listener, with their reasons by name.
fn totals<S: Serializer>(totals: &ListenerTotals, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named {
        accepted: u64,
        denied: u64,
        active: u64,
        closed: BTreeMap<&'static str, u64>,
        reset_unserved: u64,
        bytes_to_backend: u64,
        bytes_to_client: u64,
    }
    let mut closed = BTreeMap::new();
    for reason in CloseReason::ALL {
        // Two reasons share a name.
        *closed.entry(reason.name()).or_default() += totals.closed_with(reason);
    }
    let &ListenerTotals {
        accepted, denied, active, reset_unserved, bytes_to_backend, bytes_to_client, ..
    } = totals;
    Named { accepted, denied, active, closed, reset_unserved, bytes_to_backend, bytes_to_client }
        .serialize(serializer)
}
