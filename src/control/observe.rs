//! Reads the status out of the cells that the other threads write. Reading makes no shard wait, so numbers that
//! belong together may be a moment apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::status::{
    BackendStatus, CheckStatus, LastCheckStatus, ListenerStatus, LogDropped, Phase, ReloadStatus,
    ShardStatus, Status, UpgradeStatus, UpstreamStatus,
};
use crate::base::{BackendKey, ListenerId, ShardId};
use crate::steering::CoreLoads;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::counters::{
    BackendCounters, CheckCounters, HealthCounters, ListenerTotals, PoolCounters, ShardCounters,
    UpstreamCounters, WorkCounters,
};
use crate::telemetry::log::LogHandle;
use crate::upstream::{BackendState, Order, Share, SharedUpstream, Snapshot, UpstreamStates};
use crate::uring::Heartbeat;

/// Everything that a status is read from.
pub struct Source {
    /// What runs.
    pub snapshot: Arc<Snapshot>,
    /// The newest states of all backends.
    pub states: watch::Receiver<Arc<UpstreamStates>>,
    /// By shard.
    pub counters: Vec<Arc<ShardCounters>>,
    /// By shard.
    pub heartbeats: Vec<Arc<Heartbeat>>,
    /// The CPU of each shard.
    pub cpus: Vec<usize>,
    /// The loads of all cores.
    pub cores: Arc<CoreLoads>,
    /// What the health checks found.
    pub health: Arc<HealthCounters>,
    /// Maximum number of sessions of the process.
    pub max_sessions: u32,
    /// The log of the process, if it has one.
    pub log: Option<LogHandle>,
    /// The access log, if sessions are logged.
    pub access_log: Option<Arc<AccessLog>>,
    /// When the process started.
    pub begun: Instant,
    /// The highest numbers of sessions.
    pub peaks: Peaks,
    /// What the process does with clients.
    pub phase: PhaseCell,
}

/// A [`Phase`] that the thread which obeys commands writes, and any thread reads. It guards nothing, so `Relaxed`.
#[derive(Debug, Default)]
pub struct PhaseCell(AtomicU8);

impl PhaseCell {
    /// Moves on to a phase; there is no way back.
    pub fn set(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::Relaxed);
    }

    /// Returns the phase.
    #[must_use]
    pub fn get(&self) -> Phase {
        let all = [Phase::Running, Phase::Stopping, Phase::Draining];
        all[usize::from(self.0.load(Ordering::Relaxed)).min(all.len() - 1)]
    }
}

/// The highest numbers of sessions that were seen.
#[derive(Debug, Default)]
pub struct Peaks(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    listeners: BTreeMap<ListenerId, u64>,
    backends: BTreeMap<BackendKey, u32>,
}

impl Source {
    /// Reads everything.
    #[must_use]
    pub fn status(&self) -> Status {
        let (snapshot, states) = (&self.snapshot, Arc::clone(&self.states.borrow()));
        let positions = 0..snapshot.upstreams().len();
        Status {
            version: env!("RINGWAY_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.begun.elapsed(),
            phase: self.phase.get(),
            generation: snapshot.generation(),
            max_sessions: self.max_sessions,
            reloads: ReloadStatus::default(),
            upgrades: UpgradeStatus::default(),
            log_dropped: LogDropped {
                process: self.log.as_ref().map_or(0, LogHandle::dropped),
                access: self.access_log.as_ref().map_or(0, |log| log.dropped()),
            },
            listeners: snapshot
                .listeners()
                .iter()
                .enumerate()
                .map(|(at, id)| self.listener(at, *id, &states))
                .collect(),
            upstreams: positions.map(|position| self.upstream(position, &states)).collect(),
            shards: (0..self.counters.len()).map(|index| self.shard(index)).collect(),
        }
    }

    /// Returns whether a client of the listener at this position would find an eligible backend.
    #[must_use]
    pub fn has_eligible(&self, position: usize) -> bool {
        let upstream = self.snapshot.config().listeners[position].upstream;
        let states = self.states.borrow();
        // There are no states before the first ones are published.
        states
            .upstreams
            .get(upstream.index())
            .is_some_and(|states| states.iter().any(BackendState::is_eligible))
    }

    /// Looks at what has to be looked at again and again. Meant to be called once a second.
    pub fn look(&self) {
        self.note_peaks();
        self.access_log.iter().for_each(|log| log.warn_of_lost());
    }

    /// Notes the numbers of sessions, for the highest ones.
    fn note_peaks(&self) {
        let mut seen = self.peaks.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in self.snapshot.listeners() {
            let active: u64 = self.counters.iter().map(|shard| shard.listener(*id).active.value()).sum();
            let peak = seen.listeners.entry(*id).or_default();
            *peak = active.max(*peak);
        }
        for shared in self.snapshot.upstreams() {
            let in_flight = shared.in_flight();
            for number in shared.numbers() {
                let key = BackendKey { upstream: shared.id(), backend: *number };
                let peak = seen.backends.entry(key).or_default();
                *peak = in_flight[number.index()].max(*peak);
            }
        }
    }

    fn listener(&self, position: usize, id: ListenerId, states: &UpstreamStates) -> ListenerStatus {
        let config = self.snapshot.config();
        let listener = &config.listeners[position];
        let mut totals = ListenerTotals::default();
        self.counters.iter().for_each(|shard| totals.add(&shard.listener(id)));
        let states = states.upstreams.get(listener.upstream.index());
        let seen = self.peaks.0.lock().unwrap_or_else(PoisonError::into_inner);
        ListenerStatus {
            name: listener.name.clone(),
            address: listener.address.to_string(),
            upstream: config.upstreams[listener.upstream.index()].name.clone(),
            ready: self.phase.get() == Phase::Running
                && states.is_some_and(|states| states.iter().any(BackendState::is_eligible)),
            active_max: seen.listeners.get(&id).copied().unwrap_or(0).max(totals.active),
            totals,
        }
    }

    fn upstream(&self, position: usize, states: &UpstreamStates) -> UpstreamStatus {
        let shared = &self.snapshot.upstreams()[position];
        let (mut totals, mut pool) = (UpstreamCounters::default(), PoolCounters::default());
        for shard in &self.counters {
            totals.add(&shard.upstream(shared.id()));
            pool.add(&shard.pool(shared.id()));
        }
        let (config, in_flight) = (shared.config(), shared.in_flight());
        let shares: Vec<_> = config.backends.iter().map(Share::of).collect();
        let unknown: Vec<_> = shares.iter().map(|_| BackendState::unknown()).collect();
        // There are no states before the first ones are published.
        let states = states.upstreams.get(position).unwrap_or(&unknown);
        let backends = (0..states.len())
            .map(|at| self.backend(shared, at, &states[at], in_flight[shared.numbers()[at].index()]));
        UpstreamStatus {
            name: config.name.clone(),
            algorithm: config.algorithm.name.to_owned(),
            serving: Order::of(states, &shares, config.panic_threshold).serving,
            waiting: shared.queue_length(),
            totals,
            pool,
            backends: backends.collect(),
        }
    }

    fn backend(
        &self,
        shared: &SharedUpstream,
        at: usize,
        state: &BackendState,
        in_flight: u32,
    ) -> BackendStatus {
        let (backend, number) = (&shared.config().backends[at], shared.numbers()[at]);
        let key = BackendKey { upstream: shared.id(), backend: number };
        let mut totals = BackendCounters::default();
        self.counters.iter().for_each(|shard| totals.add(&shard.backend(key)));
        let seen = self.peaks.0.lock().unwrap_or_else(PoisonError::into_inner);
        BackendStatus {
            name: backend.name.clone(),
            admin_state: backend.admin_state,
            health: state.health,
            ejected: state.ejected,
            backup: backend.backup,
            weight: backend.weight,
            addresses: state.addresses.iter().map(ToString::to_string).collect(),
            in_flight,
            in_flight_max: seen.backends.get(&key).copied().unwrap_or(0).max(in_flight),
            max_connections: backend.max_connections.map(std::num::NonZeroU32::get),
            permits_taken: shared.permits_taken(number),
            totals,
            ejections: self.health.backend(key).counters.ejections.value(),
            checks: shared.config().healthcheck.is_some().then(|| self.checks(key)),
        }
    }

    fn checks(&self, key: BackendKey) -> CheckStatus {
        let checks = self.health.backend(key);
        let mut totals = CheckCounters::default();
        totals.add(&checks.counters);
        let last = checks.last().map(|last| LastCheckStatus {
            ok: last.ok,
            message: last.cause,
            age: last.at.elapsed(),
            took: last.took,
        });
        CheckStatus { totals, last }
    }

    fn shard(&self, index: usize) -> ShardStatus {
        let counters = &self.counters[index];
        let mut work = WorkCounters::default();
        work.add(&counters.work);
        let of = |id: &ListenerId| {
            let mut totals = ListenerTotals::default();
            totals.add(&counters.listener(*id));
            totals
        };
        ShardStatus {
            cpu: self.cpus[index],
            core: self.cores.status(ShardId(index as u16)),
            turns: self.heartbeats[index].turns(),
            work,
            listeners: self.snapshot.listeners().iter().map(of).collect(),
        }
    }
}
