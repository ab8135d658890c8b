//! Reads the status out of the cells that the other threads write. Reading makes no shard wait, so numbers that
//! belong together may be a moment apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::status::{
    BackendStatus, CertificateStatus, CheckStatus, LastCheckStatus, ListenerStatus, LogDropped, Phase,
    ReloadStatus, ShardStatus, SourcesStatus, Status, UpgradeStatus, UpstreamStatus,
};
use crate::admission::Gate;
use crate::base::{BackendId, BackendKey, ListenerId, ShardId};
use crate::config::{self, AdminState, Config, ListenerTls, Overlay};
use crate::steering::CoreLoads;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::counters::{
    BackendCounters, CheckCounters, HealthCounters, ListenerTotals, PoolCounters, ShardCounters,
    UpstreamCounters, WorkCounters,
};
use crate::telemetry::log::LogHandle;
use crate::upstream::{BackendState, Current, Order, Share, SharedUpstream, Snapshot, UpstreamStates};
use crate::uring::Heartbeat;

/// Everything that a status is read from.
pub struct Source {
    /// What runs.
    pub current: Arc<Current>,
    /// What the file says, and what operators have changed beside it.
    pub written: Mutex<Written>,
    /// Reloads so far.
    pub reloads: Mutex<ReloadStatus>,
    /// Upgrades so far.
    pub upgrades: Mutex<UpgradeStatus>,
    /// What was removed from the configuration and may still have sessions.
    pub departed: Departed,
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
    /// The admission to the process.
    pub gate: Arc<Gate>,
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
    /// Why the last upgrade has failed.
    pub upgrade_error: Mutex<Option<String>>,
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

/// What makes up the configuration that runs.
pub struct Written {
    /// What the file says.
    pub file: Arc<Config>,
    /// What operators have changed.
    pub overlay: Overlay,
}

/// What was removed from the configuration, until its sessions have ended.
#[derive(Default)]
pub struct Departed(Mutex<Gone>);

#[derive(Default)]
struct Gone {
    /// With the position in the last configuration that had it.
    listeners: BTreeMap<ListenerId, (Arc<Config>, usize)>,
    /// With the last version of its upstream that had it.
    backends: BTreeMap<BackendKey, Arc<SharedUpstream>>,
}

impl Departed {
    /// Notes what `now` has no more, and forgets what has no sessions any more or is back.
    pub fn note(&self, before: &Snapshot, now: &Snapshot, has_sessions: impl Fn(ListenerId) -> bool) {
        let mut gone = lock(&self.0);
        let there: BTreeSet<_> = now.keys().collect();
        gone.listeners.retain(|id, _| !now.listeners().contains(id) && has_sessions(*id));
        gone.backends.retain(|key, shared| !there.contains(key) && shared.in_flight_on(key.backend) > 0);
        // What goes now may still get sessions, so it stays at least until the next time.
        for (position, id) in before.listeners().iter().enumerate() {
            if !now.listeners().contains(id) {
                gone.listeners.insert(*id, (Arc::clone(before.config()), position));
            }
        }
        for shared in before.upstreams() {
            let keys =
                shared.numbers().iter().map(|number| BackendKey { upstream: shared.id(), backend: *number });
            gone.backends
                .extend(keys.filter(|key| !there.contains(key)).map(|key| (key, Arc::clone(shared))));
        }
    }

    fn listeners(&self) -> Vec<(ListenerId, (Arc<Config>, usize))> {
        let gone = lock(&self.0);
        gone.listeners.iter().map(|(id, one)| (*id, one.clone())).collect()
    }

    fn backends(&self) -> Vec<(BackendKey, Arc<SharedUpstream>)> {
        let gone = lock(&self.0);
        gone.backends.iter().map(|(key, shared)| (*key, Arc::clone(shared))).collect()
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

/// Locks what a panic leaves whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Reads everything.
    #[must_use]
    pub fn status(&self) -> Status {
        let (snapshot, states) = (self.current.get(), Arc::clone(&self.states.borrow()));
        let mut listeners: Vec<_> = snapshot
            .listeners()
            .iter()
            .zip(&snapshot.config().listeners)
            .map(|(id, listener)| self.listener((*id, listener), &snapshot, &states))
            .collect();
        let mut upstreams: Vec<_> =
            snapshot.upstreams().iter().map(|shared| self.upstream(shared, &states)).collect();
        self.add_departed(&mut listeners, &mut upstreams, &states);
        Status {
            version: env!("RINGWAY_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.begun.elapsed(),
            phase: self.phase.get(),
            generation: snapshot.generation(),
            max_sessions: self.gate.sessions.maximum(),
            sources: SourcesStatus {
                tracked: self.gate.sources.tracked(),
                overflowed: self.gate.sources.overflowed(),
            },
            reloads: *lock(&self.reloads),
            upgrades: *lock(&self.upgrades),
            upgrade_error: lock(&self.upgrade_error).clone(),
            log_dropped: LogDropped {
                process: self.log.as_ref().map_or(0, LogHandle::dropped),
                access: self.access_log.as_ref().map_or(0, |log| log.dropped()),
            },
            listeners,
            upstreams,
            shards: (0..self.counters.len()).map(|index| self.shard(index, &snapshot)).collect(),
        }
    }

    /// Notes why an upgrade has failed.
    pub fn note_upgrade_error(&self, cause: &str) {
        lock(&self.upgrades).failure += 1;
        *lock(&self.upgrade_error) = Some(cause.to_owned());
    }

    /// Returns whether a client of a listener would find an eligible backend.
    #[must_use]
    pub fn has_eligible(shared: &SharedUpstream, states: &UpstreamStates) -> bool {
        // There are no states before the first ones are published.
        let states = states.of(shared.id());
        shared.numbers().iter().zip(&shared.config().backends).any(|(number, backend)| {
            Share::of(0, backend).weight > 0
                && states.get(number.index()).is_some_and(BackendState::is_eligible)
        })
    }

    /// Forgets what was counted for backends whose numbers are others' now.
    pub fn forget(&self, reused: &[BackendKey]) {
        for key in reused {
            self.counters.iter().for_each(|shard| shard.forget(*key));
            self.health.forget(*key);
            lock(&self.peaks.0).backends.remove(key);
        }
    }

    /// Looks at what has to be looked at again and again. Meant to be called once a second.
    pub fn look(&self) {
        self.note_peaks();
        self.access_log.iter().for_each(|log| log.warn_of_lost());
    }

    /// Notes the numbers of sessions, for the highest ones.
    fn note_peaks(&self) {
        let mut seen = lock(&self.peaks.0);
        let snapshot = self.current.get();
        for id in snapshot.listeners() {
            let active: u64 = self.counters.iter().map(|shard| shard.listener(*id).active.value()).sum();
            let peak = seen.listeners.entry(*id).or_default();
            *peak = active.max(*peak);
        }
        for shared in snapshot.upstreams() {
            let in_flight = shared.in_flight();
            for number in shared.numbers() {
                let key = BackendKey { upstream: shared.id(), backend: *number };
                let peak = seen.backends.entry(key).or_default();
                *peak = in_flight[number.index()].max(*peak);
            }
        }
    }

    /// Adds what was removed and has sessions.
    fn add_departed(
        &self,
        listeners: &mut Vec<ListenerStatus>,
        upstreams: &mut Vec<UpstreamStatus>,
        states: &UpstreamStates,
    ) {
        for (id, (config, position)) in self.departed.listeners() {
            let listener = &config.listeners[position];
            let upstream = &config.upstreams[listener.upstream.index()].name;
            let status = self.listener_status((id, listener), upstream, false);
            if status.totals.active > 0 {
                listeners.push(ListenerStatus { draining: true, ..status });
            }
        }
        for (key, shared) in self.departed.backends() {
            let in_flight = shared.in_flight_on(key.backend);
            let Some(backend) = shared.backend(key.backend).filter(|_| in_flight > 0) else { continue };
            let name = &shared.config().name;
            let at = upstreams.iter().position(|upstream| upstream.name == *name);
            let at = at.unwrap_or_else(|| {
                upstreams.push(UpstreamStatus { backends: Vec::new(), ..self.upstream(&shared, states) });
                upstreams.len() - 1
            });
            let status = self.backend((key, backend), &shared, &BackendState::absent(), in_flight);
            upstreams[at].backends.push(BackendStatus {
                draining: true,
                admin_state: AdminState::Drain,
                ..status
            });
        }
    }

    fn listener(
        &self,
        listener: (ListenerId, &config::Listener),
        snapshot: &Snapshot,
        states: &UpstreamStates,
    ) -> ListenerStatus {
        let has_eligible = |shared: &Arc<SharedUpstream>| Self::has_eligible(shared, states);
        let is_ready =
            self.phase.get() == Phase::Running && snapshot.upstreams_of(listener.1).any(has_eligible);
        self.listener_status(listener, &snapshot.upstream_of(listener.1).config().name, is_ready)
    }

    fn listener_status(
        &self,
        (id, listener): (ListenerId, &config::Listener),
        upstream: &str,
        ready: bool,
    ) -> ListenerStatus {
        let mut totals = ListenerTotals::default();
        self.counters.iter().for_each(|shard| totals.add(&shard.listener(id)));
        let seen = lock(&self.peaks.0);
        ListenerStatus {
            name: listener.name.clone(),
            address: listener.address.to_string(),
            upstream: upstream.to_owned(),
            ready,
            draining: false,
            active_max: seen.listeners.get(&id).copied().unwrap_or(0).max(totals.active),
            max_sessions: listener
                .max_connections
                .map_or(u32::MAX, |most| most.get())
                .min(self.gate.sessions.maximum()),
            certificates: listener.tls.as_ref().map_or_else(Vec::new, |tls| certificates(tls)),
            totals,
        }
    }

    fn upstream(&self, shared: &Arc<SharedUpstream>, states: &UpstreamStates) -> UpstreamStatus {
        let (mut totals, mut pool) = (UpstreamCounters::default(), PoolCounters::default());
        for shard in &self.counters {
            totals.add(&shard.upstream(shared.id()));
            pool.add(&shard.pool(shared.id()));
        }
        let (config, in_flight) = (shared.config(), shared.in_flight());
        let shares: Vec<_> =
            config.backends.iter().enumerate().map(|(at, backend)| Share::of(at, backend)).collect();
        let key = |number: &BackendId| BackendKey { upstream: shared.id(), backend: *number };
        // There are no states before the first ones are published.
        let state = |number| states.backend(key(number)).cloned().unwrap_or_else(BackendState::unknown);
        let states: Vec<_> = shared.numbers().iter().map(state).collect();
        let backends = shared.numbers().iter().zip(&config.backends).zip(&states);
        let backends = backends.map(|((number, backend), state)| {
            self.backend((key(number), backend), shared, state, in_flight[number.index()])
        });
        UpstreamStatus {
            name: config.name.clone(),
            algorithm: config.algorithm.name.to_owned(),
            serving: Order::of(&states, &shares, config.panic_threshold).serving,
            waiting: shared.queue_length(),
            totals,
            pool,
            backends: backends.collect(),
        }
    }

    fn backend(
        &self,
        (key, backend): (BackendKey, &config::Backend),
        shared: &SharedUpstream,
        state: &BackendState,
        in_flight: u32,
    ) -> BackendStatus {
        let mut totals = BackendCounters::default();
        self.counters.iter().for_each(|shard| totals.add(&shard.backend(key)));
        let seen = lock(&self.peaks.0);
        BackendStatus {
            name: backend.name.clone(),
            admin_state: backend.admin_state,
            draining: false,
            health: state.health,
            ejected: state.ejected,
            backup: backend.backup,
            weight: backend.weight,
            addresses: state.addresses.iter().map(ToString::to_string).collect(),
            in_flight,
            in_flight_max: seen.backends.get(&key).copied().unwrap_or(0).max(in_flight),
            max_connections: backend.max_connections.map(std::num::NonZeroU32::get),
            permits_taken: shared.permits_taken(key.backend),
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

    fn shard(&self, index: usize, snapshot: &Snapshot) -> ShardStatus {
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
            listeners: snapshot.listeners().iter().map(of).collect(),
        }
    }
}

/// Returns the certificates of a listener by their names.
fn certificates(tls: &ListenerTls) -> Vec<CertificateStatus> {
    let mut first: BTreeMap<&str, i64> = BTreeMap::new();
    for identity in tls.certificates.iter().filter_map(|certificate| certificate.identity.as_deref()) {
        let known = first.entry(identity.name()).or_insert(identity.not_after);
        *known = identity.not_after.min(*known);
    }
    let status = |(name, not_after_unix_seconds): (&str, i64)| CertificateStatus {
        name: name.to_owned(),
        not_after_unix_seconds,
    };
    first.into_iter().map(status).collect()
}
