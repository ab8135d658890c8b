//! Assembles the process: checks what it needs, starts its threads in the right order, and stops them.

mod budget;
mod cores;
mod error;
mod explain;
mod lifecycle;
mod listening;
mod machine;
mod manifest;
mod predecessor;
mod process;
mod program;
mod reload;
mod sockets;
mod threads;
mod topology;
mod turned_away;
mod upgrade;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admission::Gate;
use crate::base::{PortRange, ShardId, ShardPlace, counted};
use crate::config::{Config, Listener, Overlay};
use crate::control::admin::{self, Endpoints};
use crate::control::command::Door;
use crate::control::process::Process;
use crate::control::status::{ReloadStatus, UpgradeStatus};
use crate::control::{
    self, Clocks, Control, Departed, Finding, Peaks, PhaseCell, Report, Source, Status, Watch, Written,
};
use crate::health::HealthThread;
use crate::net::{self, Inherited};
use crate::shard::{self, Handoff, Inbox, Phase, ShardHandle, ShardParts};
use crate::steering::CoreLoads;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::counters::ShardCounters;
use crate::telemetry::log::LogHandle;
use crate::upstream::{Current, Health, OnReport, Snapshot, UpstreamStates};
use crate::uring::{self, Doorbell, Heartbeat};
use listening::{Bind, ByShard, listen_all};
use sockets::Sockets;
use threads::{ShardEnds, give_up, spawn_shard};

pub use budget::TooFewDescriptors;
pub use cores::CoresError;
pub use error::StartError;
pub use lifecycle::{Obeys, follow_signals, supervise};
pub use machine::{NOT_LOOKED_AT, lacks};
pub use manifest::Left;
pub use predecessor::{Predecessor, inherited};

/// How long sessions may take to end once they were told to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the successor of another process waits for the first verdicts, while the other one serves.
const VERDICTS: Duration = Duration::from_secs(20);

/// How long writing the last records of the access log may take.
const FLUSH: Duration = Duration::from_secs(1);

/// What a process has, and its server uses.
#[derive(Default)]
pub struct Attached {
    /// The door for commands of the admin API, which takes none without.
    pub door: Option<Door>,
    /// The log, whose lost records are part of the status.
    pub log: Option<LogHandle>,
    /// Listening sockets that the process was started with.
    pub inherited: Inherited,
    /// What else goes on of a process that this one replaces.
    pub left: Left,
}

/// A running server. Dropping it closes all sessions and waits for the shards.
pub struct Server {
    source: Arc<Source>,
    shards: Shards,
    /// Maximum number of pipes of a shard.
    pipes: u32,
    on_report: OnReport,
    /// Stopped in `drop`.
    health: Option<HealthThread>,
    control: Control,
    access_log: Option<Arc<AccessLog>>,
    /// The addresses of the admin API; empty without endpoints.
    admin: String,
    /// The tasks that accept clients of the admin API.
    admin_tasks: OnceLock<Vec<tokio::task::AbortHandle>>,
    /// Of all listeners and endpoints; files of Unix sockets are removed together with the server.
    sockets: Sockets,
    /// Whether a successor has them.
    left: AtomicBool,
    /// Disconnected when the last shard has ended.
    shards_ended: Receiver<()>,
}

/// What all threads know of the shards.
struct Shards {
    cpus: Vec<usize>,
    /// The local ports as they were at the start; each shard has a part of them.
    ports: Option<PortRange>,
    handles: Arc<[ShardHandle]>,
    counters: Vec<Arc<ShardCounters>>,
    heartbeats: Vec<Arc<Heartbeat>>,
    cores: Arc<CoreLoads>,
    clocks: Clocks,
    /// Addresses on which a successor does not listen; set before the shards are told to leave.
    unused: Arc<OnceLock<Vec<String>>>,
}

/// What the machine allows, and the sockets of the listeners, before any thread starts.
struct Prepared {
    file: Arc<Config>,
    /// What the file says, with what operators have changed beside it.
    config: Arc<Config>,
    /// The local ports, if the kernel says which they are.
    ports: Option<PortRange>,
    /// Maximum number of pipes of a shard.
    pipes: u32,
    /// Maximum number of sessions of the process.
    sessions: u32,
    by_shard: ByShard,
    sockets: Sockets,
    endpoints: Endpoints,
}

impl Prepared {
    fn new(
        cpus: &[CoreId],
        file: Arc<Config>,
        overlay: &mut Overlay,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let config = overlay.apply(&file);
        let numbered = config.with_zones(net::interface_index).map_err(StartError::NoInterface)?;
        let config = Arc::new(numbered.unwrap_or(config));
        uring::probe(cpus.len(), config.runtime.relay.buffers_per_core)?;
        net::prepare();
        machine::takes_options(&config)?;
        let ports = net::local_ports();
        machine::takes_local_ports(&config, ports, cpus.len())?;
        let pipes = budget::pipes(&config.runtime.relay, cpus.len(), net::pipe_quota());
        let descriptors = net::raise_descriptor_limit()?;
        let sessions = budget::sessions(&config, cpus.len(), pipes, descriptors)?;
        net::reserve_descriptors(descriptors);
        let ids: Vec<_> = cpus.iter().map(|cpu| cpu.id).collect();
        let bind = |listener: &Listener| match inherited.overlaps(&listener.address) {
            true => Bind::Beside,
            false => Bind::Alone,
        };
        let all: Vec<_> = config.listeners.iter().enumerate().map(|one| (one, bind(one.1))).collect();
        let (by_shard, sockets) = listen_all(all.into_iter(), &ids, &mut inherited)?;
        let mut endpoints = admin::bind(&config.admin, &mut inherited)?;
        for (socket, has_file) in endpoints.sockets() {
            sockets.add(socket, None, "admin", 0, has_file)?;
        }
        sockets.keep_files(None, endpoints.take_files());
        sockets.keep_unused(inherited.close_rest());
        Ok(Self { file, config, ports, pipes, sessions, by_shard, sockets, endpoints })
    }
}

impl Server {
    /// Starts all threads; when it returns, every address is bound, and each listener accepts once it has its
    /// first verdicts.
    ///
    /// # Errors
    ///
    /// What is missing, in one sentence with its remedy. Nothing keeps running in that case.
    pub fn start(config: Arc<Config>) -> Result<Self, StartError> {
        Self::start_with(config, Attached::default(), || Ok(()))
    }

    /// Like [`Server::start`], with what the process has made of itself; `listening` is called once every
    /// address is bound and before anything is accepted.
    ///
    /// # Errors
    ///
    /// As [`Server::start`], and the errors of `listening`.
    pub fn start_with(
        config: Arc<Config>,
        attached: Attached,
        listening: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, StartError> {
        let cpus = cores::choose(&config.runtime.cores)?;
        Self::start_on(&cpus, config, attached, listening)
    }

    /// Like [`Server::start`], with one shard for each of these CPUs, whatever the configuration says; a CPU
    /// may be listed several times.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub fn start_on(
        cpus: &[CoreId],
        config: Arc<Config>,
        attached: Attached,
        listening: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, StartError> {
        let has_predecessor = attached.inherited.has_predecessor();
        let mut overlay = attached.left.overlay();
        let prepared = Prepared::new(cpus, config, &mut overlay, attached.inherited)?;
        listening().map_err(StartError::Listening)?;
        let (on_report, reports) = crate::health::reports();
        let config = Arc::clone(&prepared.config);
        let tickets = attached.left.tickets();
        let snapshot = Arc::new(Snapshot::build_with(config, cpus.len(), Some(&on_report), None, tickets)?);
        let current = Current::new(Arc::clone(&snapshot));
        let (shards, ends) = Shards::new(cpus, prepared.ports)?;
        let access_log = AccessLog::start(
            &snapshot.config().logging,
            Arc::clone(&current),
            shards.counters.clone(),
            shards.cpus.clone(),
        )?
        .map(Arc::new);
        let control =
            Control::start(Arc::clone(&snapshot), Arc::clone(&shards.cores), Arc::clone(&shards.clocks))?;
        let none = UpstreamStates { generation: snapshot.generation(), version: 0, upstreams: Vec::new() };
        let (latest_sender, latest) = tokio::sync::watch::channel(Arc::new(none));
        let handles = Arc::clone(&shards.handles);
        let publish = move |states: Arc<UpstreamStates>| {
            handles.iter().for_each(|handle| handle.post_states(Arc::clone(&states)));
            latest_sender.send_replace(states);
        };
        let (ended, shards_ended) = bounded(0);
        let Prepared { file, pipes, sessions, by_shard, sockets, endpoints, .. } = prepared;
        let source = Arc::new(Source {
            written: Mutex::new(Written { file, overlay }),
            reloads: Mutex::new(ReloadStatus::of_start()),
            upgrades: Mutex::new(UpgradeStatus { success: attached.left.upgrades, failure: 0 }),
            current,
            departed: Departed::default(),
            states: latest,
            counters: shards.counters.clone(),
            heartbeats: shards.heartbeats.clone(),
            cpus: shards.cpus.clone(),
            cores: Arc::clone(&shards.cores),
            health: Arc::default(),
            gate: Arc::new(Gate::new(sessions, cpus.len())),
            log: attached.log,
            access_log: access_log.clone(),
            begun: Instant::now(),
            peaks: Peaks::default(),
            phase: PhaseCell::default(),
            upgrade_error: Mutex::default(),
        });
        let admin = endpoints.to_string();
        let mut server = Self {
            source,
            shards,
            pipes,
            on_report,
            health: None,
            control,
            access_log,
            admin,
            admin_tasks: OnceLock::new(),
            sockets,
            left: AtomicBool::new(false),
            shards_ended,
        };
        let phase = if has_predecessor { Phase::Held } else { Phase::Running };
        server.spawn_shards(phase, &snapshot, by_shard, ends, ended)?;
        // Checks begin only when a shard listens for their results, and after everything that may refuse the
        // start.
        let addresses = server.control.addresses();
        let health = crate::health::spawn(
            &snapshot,
            addresses,
            reports,
            Arc::clone(&server.source.health),
            Box::new(publish),
        )?;
        server.health = Some(health);
        // Until this process can answer for it, the old one serves, and answers operators.
        let is_decided = |states: &UpstreamStates| {
            snapshot.keys().all(|key| states.backend(key).is_some_and(|state| !state.awaited))
        };
        if has_predecessor && !server.wait_states(VERDICTS, is_decided) {
            log::warn!("not every backend has its first verdict after {VERDICTS:?}; going on");
        }
        let tasks = server.control.serve(endpoints, server.process(attached.door));
        // Set once, here.
        let _ = server.admin_tasks.set(tasks);
        server.watch(Box::new(|report| {
            report.log();
            if report.finding == Finding::Lost {
                give_up(&report.to_string());
            }
        }));
        Ok(server)
    }

    /// Watches the shards and the health thread from now on.
    fn watch(&self, report: Box<dyn FnMut(&Report) + Send>) {
        let handles = Arc::clone(&self.shards.handles);
        self.control.watch(Watch {
            source: Arc::clone(&self.source),
            clocks: Arc::clone(&self.shards.clocks),
            knock: Box::new(move |shard| handles[shard.index()].knock()),
            report,
        });
    }

    /// Starts one shard after another: what one shard has created and released again, the kernel still holds
    /// for a moment when the next shard asks for it.
    fn spawn_shards(
        &self,
        phase: Phase,
        snapshot: &Arc<Snapshot>,
        sockets: ByShard,
        ends: Vec<(Inbox, OwnedFd)>,
        ended: Sender<()>,
    ) -> Result<(), StartError> {
        let (shards, seed) = (&self.shards, fastrand::u64(..));
        let places = topology::places(Path::new(topology::SYSTEM), &shards.cpus);
        let handoffs: Vec<_> = (0..ends.len())
            .map(|index| {
                let shard = ShardId(u16::try_from(index).expect("limits::SHARDS_MAX fits"));
                let place = ShardPlace { shard, shards: ends.len(), seed };
                let distances: Vec<_> = places.iter().map(|other| places[index].distance(*other)).collect();
                let (cores, handles) = (Arc::clone(&shards.cores), Arc::clone(&shards.handles));
                (place, Handoff::new(place, &distances, cores, handles))
            })
            .collect();
        for (((place, handoff), listeners), (inbox, doorbell)) in handoffs.into_iter().zip(sockets).zip(ends)
        {
            let index = place.shard.index();
            let parts = ShardParts {
                phase,
                place,
                cpu: CoreId { id: shards.cpus[index] },
                ports: shards.ports.and_then(|ports| ports.part_of(place)),
                snapshot: Arc::clone(snapshot),
                listeners,
                pipes: self.pipes,
                cores: Arc::clone(&shards.cores),
                handoff,
                counters: Arc::clone(&shards.counters[index]),
                access_log: self.access_log.as_ref().map(|log| log.logger(index)),
                heartbeat: Arc::clone(&shards.heartbeats[index]),
                gate: Arc::clone(&self.source.gate),
                handles: Arc::clone(&shards.handles),
                unused: Arc::clone(&shards.unused),
                inbox,
                doorbell,
            };
            let (report, reported) = bounded(1);
            spawn_shard(parts, Arc::clone(&shards.clocks), ShardEnds { report, ended: ended.clone() })?;
            // A shard that panics before it reports takes the process down.
            reported.recv().unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// Returns the configuration that the server runs.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(self.source.current.get().config())
    }

    /// Returns the current status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.source.status()
    }

    /// Returns the process as the admin API sees it; commands go through `door`, if there is one.
    #[must_use]
    pub fn process(&self, door: Option<Door>) -> Arc<dyn Process> {
        let handles = Arc::clone(&self.shards.handles);
        Arc::new(process::Running { source: Arc::clone(&self.source), handles, door })
    }

    /// Returns the addresses of the admin API as text, empty without endpoints.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Returns what is worth a warning about this machine.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        machine::doubts(&self.config(), self.shards.cpus.len())
    }

    /// Waits until every backend has had its first verdict. Returns whether that happened within `patience`.
    #[must_use]
    pub fn wait_checked(&self, patience: Duration) -> bool {
        let snapshot = self.source.current.get();
        self.wait_states(patience, |states| {
            snapshot
                .keys()
                .all(|key| states.backend(key).is_some_and(|state| state.health != Health::Checking))
        })
    }

    /// Waits until the published states are as wanted. Returns whether that happened within `patience`.
    #[must_use]
    pub fn wait_states(&self, patience: Duration, mut wanted: impl FnMut(&UpstreamStates) -> bool) -> bool {
        let mut latest = self.source.states.clone();
        let waited = self.control.block_on(async move {
            tokio::time::timeout(patience, async { latest.wait_for(|states| wanted(states)).await.is_ok() })
                .await
        });
        waited.unwrap_or(false)
    }

    /// Returns whether the health or the control thread has ended, which only a broken invariant can cause.
    /// States would never change again.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.control.is_finished() || self.health.as_ref().is_some_and(HealthThread::is_finished)
    }

    /// Returns whether nobody has asked for the end yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.source.phase.get() == control::status::Phase::Running
    }

    /// Returns whether a successor serves new clients.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Is not ready for clients any more, although it accepts them; see `runtime.shutdown_delay`.
    pub fn announce_end(&self) {
        self.source.phase.set(control::status::Phase::Stopping);
    }

    /// Returns the addresses on which a predecessor listens, and this server does not.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        self.sockets.unused()
    }

    /// Makes everything that a predecessor has left the own.
    pub fn claim(&self) {
        self.sockets.claim_files();
        self.shards.handles.iter().for_each(|handle| handle.post_phase(Phase::Running));
        self.spread();
    }

    /// Leaves all listening sockets, and the clients who wait in them, to a successor that has the same sockets, but for those
    /// on the addresses of `unused`; open sessions go on.
    fn leave(&self, unused: Vec<String>) {
        // A server leaves once.
        let _ = self.shards.unused.set(unused);
        self.left.store(true, Ordering::Relaxed);
        self.source.phase.set(control::status::Phase::Draining);
        self.admin_tasks.get().into_iter().flatten().for_each(tokio::task::AbortHandle::abort);
        self.sockets.leave_files();
        self.sockets.release();
        self.shards.handles.iter().for_each(|handle| handle.post_phase(Phase::Leaving));
    }

    /// Stops accepting; open sessions go on.
    pub fn drain(&self) {
        self.sockets.release();
        self.source.phase.set(control::status::Phase::Draining);
        self.shards.handles.iter().for_each(|handle| handle.post_phase(Phase::Draining));
    }

    /// Opens the file of the access log again, because an operator has renamed it.
    pub fn reopen_access_log(&self) {
        self.access_log.iter().for_each(|log| log.reopen());
    }

    /// Ends all sessions.
    pub fn close(&self) {
        self.sockets.release();
        self.shards.handles.iter().for_each(|handle| handle.post_phase(Phase::Closing));
    }

    /// Returns a channel that is disconnected when the last shard has ended.
    #[must_use]
    pub fn ended(&self) -> &Receiver<()> {
        &self.shards_ended
    }

    /// Waits for the shards to end. Returns whether they ended within `patience`.
    #[must_use]
    pub fn wait_ended(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.shards_ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }
}

impl Shards {
    /// What is known of shards that have not started, and where each of them hears of the others.
    fn new(cpus: &[CoreId], ports: Option<PortRange>) -> io::Result<(Self, Vec<(Inbox, OwnedFd)>)> {
        let (mut handles, mut ends) = (Vec::new(), Vec::new());
        for _ in cpus {
            let (bell, doorbell) = Doorbell::new()?;
            let (handle, inbox) = shard::inbox(bell);
            handles.push(handle);
            ends.push((inbox, doorbell));
        }
        let shards = Self {
            cpus: cpus.iter().map(|cpu| cpu.id).collect(),
            ports,
            handles: handles.into(),
            counters: cpus.iter().map(|_| Arc::default()).collect(),
            heartbeats: cpus.iter().map(|_| Arc::default()).collect(),
            cores: CoreLoads::new(cpus.len()),
            clocks: cpus.iter().map(|_| OnceLock::new()).collect(),
            unused: Arc::default(),
        };
        Ok((shards, ends))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
        if !self.wait_ended(CLOSE_PATIENCE) {
            let open = counted(self.status().open_sessions(), "session");
            log::error!("{open} did not end within {CLOSE_PATIENCE:?}");
        }
        // A target that blocks must not keep the process alive. Threads that are watched end afterwards, or the watchdog
        // would miss them meanwhile.
        if self.access_log.as_ref().is_some_and(|log| !log.flush(FLUSH)) {
            log::warn!(
                "the last records of the access log are lost: its target did not take them within {FLUSH:?}"
            );
        }
        if let Some(health) = self.health.take() {
            health.stop();
        }
    }
}

#[cfg(test)]
mod tests;
