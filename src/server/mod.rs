//! Puts a process together: checks what it needs, starts its threads in the right order, stops them.

mod budget;
mod cores;
mod lifecycle;
mod machine;
mod turned_away;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admission::Limit;
use crate::base::ShardPlace;
use crate::base::{BackendId, ListenerId, Plain, ShardId, UpstreamId, counted};
use crate::config::Config;
use crate::control::{Clocks, Control};
use crate::health::HealthThread;
use crate::net::{self, ListenError, SocketFile};
use crate::shard::{self, Handoff, Inbox, Phase, ShardHandle, ShardParts};
use crate::steering::{CoreLoads, CoreStatus};
use crate::telemetry::counters::{ListenerTotals, ShardCounters};
use crate::telemetry::log::ALWAYS;
use crate::telemetry::thread_clock::ThreadClock;
use crate::upstream::{Health, SharedUpstream, UpstreamStates};
use crate::uring::{self, Doorbell, Missing};

pub use budget::TooFewDescriptors;
pub use cores::CoresError;
pub use lifecycle::{signals, supervise};
pub use machine::{NOT_LOOKED_AT, lacks};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel or the sandbox lacks something.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The cores are not to be had.
    #[error(transparent)]
    CoreLoads(#[from] CoresError),
    /// An address names an interface that is not there.
    #[error("there is no interface {0} here; `ip link` lists those")]
    NoInterface(String),
    /// An address is not to be had.
    #[error("listener {name}: {error}")]
    Listen {
        /// The listener.
        name: String,
        /// What is wrong with its address.
        error: ListenError,
    },
    /// Too few descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// What was to be done before anything is accepted could not be.
    #[error("{0}")]
    Listening(String),
    /// A thread or a doorbell cannot be made.
    #[error("cannot start: {}", Plain(.0))]
    System(#[from] io::Error),
}

/// How long sessions may take to end once they were told to.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A running server. Dropping it closes all sessions and waits for the shards.
pub struct Server {
    config: Arc<Config>,
    counters: Vec<Arc<ShardCounters>>,
    upstreams: Vec<Arc<SharedUpstream>>,
    cores: Arc<CoreLoads>,
    handles: Arc<[ShardHandle]>,
    /// Stopped in `drop`.
    health: Option<HealthThread>,
    control: Control,
    latest: Latest,
    cpus: Vec<usize>,
    sessions: u32,
    /// Removed with the server.
    _files: Vec<SocketFile>,
    /// Disconnected when the last shard has ended.
    shards_ended: Receiver<()>,
}

/// The newest states, for whoever asks outside the shards.
type Latest = tokio::sync::watch::Receiver<Arc<UpstreamStates>>;

impl Server {
    /// Starts all threads; when it returns, every listener accepts.
    ///
    /// # Errors
    ///
    /// What is missing, in one sentence with its cure. Nothing keeps running then.
    pub fn start(config: Arc<Config>) -> Result<Self, StartError> {
        let cores = cores::choose(&config.runtime.cores)?;
        Self::start_on(&cores, config, || Ok(()))
    }

    /// The same; `listening` is called once every address is had, and before anything is accepted.
    ///
    /// # Errors
    ///
    /// As [`Server::start`], and what `listening` says.
    pub fn start_with(
        config: Arc<Config>,
        listening: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, StartError> {
        let cores = cores::choose(&config.runtime.cores)?;
        Self::start_on(&cores, config, listening)
    }

    /// The same with a shard for each of these, whatever the configuration says; one CPU may stand there several times.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub fn start_on(
        cores: &[CoreId],
        config: Arc<Config>,
        listening: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, StartError> {
        let numbered = config.with_zones(net::interface_index).map_err(StartError::NoInterface)?;
        let config = numbered.map_or(config, Arc::new);
        uring::probe(cores.len(), config.runtime.relay.buffers_per_core)?;
        net::prepare();
        let pipes = budget::pipes(&config.runtime.relay, cores.len(), net::pipe_quota());
        let descriptors = net::raise_descriptor_limit()?;
        let sessions = budget::sessions(&config, cores.len(), pipes, descriptors)?;
        net::reserve_descriptors(descriptors);
        let cpus: Vec<_> = cores.iter().map(|core| core.id).collect();
        let (sockets, files) = listen_all(&config, &cpus)?;
        listening().map_err(StartError::Listening)?;
        let limit = Arc::new(Limit::new(sessions));
        let (failures, reports) = crate::health::failures(&config);
        let upstreams = config.upstreams.iter().zip(failures);
        let upstreams: Vec<_> = upstreams
            .map(|(upstream, failures)| SharedUpstream::new(upstream, cores.len(), failures))
            .collect();

        let seed = fastrand::u64(..);
        let (ended, shards_ended) = bounded(0);
        let (mut handles, mut ends) = (Vec::new(), Vec::new());
        for _ in cores {
            let (bell, doorbell) = Doorbell::new()?;
            let (handle, inbox): (ShardHandle, Inbox) = shard::inbox(bell);
            handles.push(handle);
            ends.push((inbox, doorbell));
        }
        let handles: Arc<[ShardHandle]> = handles.into();
        let core_table = CoreLoads::new(cores.len());
        let clocks: Clocks = cores.iter().map(|_| OnceLock::new()).collect();
        let (mut counters, mut parts) = (Vec::new(), Vec::new());
        for ((index, cpu), (listeners, (inbox, doorbell))) in
            cores.iter().enumerate().zip(sockets.into_iter().zip(ends))
        {
            let backends = config.upstreams.iter().map(|upstream| upstream.backends.len());
            let shard_counters = ShardCounters::new(config.listeners.len(), backends);
            counters.push(Arc::clone(&shard_counters));
            let place = ShardPlace {
                shard: ShardId(u16::try_from(index).expect("limits::SHARDS_MAX fits")),
                shards: cores.len(),
                seed,
            };
            parts.push(ShardParts {
                place,
                cpu: *cpu,
                config: Arc::clone(&config),
                listeners,
                pipes,
                upstreams: upstreams.clone(),
                cores: Arc::clone(&core_table),
                handoff: Handoff::new(place, Arc::clone(&core_table), Arc::clone(&handles)),
                counters: shard_counters,
                limit: Arc::clone(&limit),
                handles: Arc::clone(&handles),
                inbox,
                doorbell,
            });
        }

        let control = Control::start(&config, Arc::clone(&core_table), Arc::clone(&clocks))?;
        let (latest_sender, latest) =
            tokio::sync::watch::channel(Arc::new(UpstreamStates { version: 0, upstreams: Vec::new() }));
        let boxes = Arc::clone(&handles);
        let publish = move |states: Arc<UpstreamStates>| {
            boxes.iter().for_each(|handle| handle.post_states(Arc::clone(&states)));
            latest_sender.send_replace(states);
        };
        let mut server = Self {
            config: Arc::clone(&config),
            counters,
            upstreams,
            cores: core_table,
            handles,
            health: None,
            control,
            latest,
            cpus,
            sessions,
            _files: files,
            shards_ended,
        };
        // One after the other: what one has made and given up again, the kernel still holds for a moment when the next one asks.
        let started = parts.into_iter().try_for_each(|part| {
            let (report, reported) = bounded(1);
            spawn_shard(part, Arc::clone(&clocks), ShardEnds { report, ended: ended.clone() })?;
            // One that panics before it reports takes the process with it.
            reported.recv().unwrap_or(Ok(())).map_err(StartError::from)
        });
        // Before the server, which on an error waits for the shards that did start.
        drop(ended);
        started?;
        // Checks begin once there is somebody to tell, and after whatever may refuse the start.
        let addresses = server.control.addresses();
        server.health = Some(crate::health::spawn(config, addresses, reports, Box::new(publish))?);
        Ok(server)
    }

    /// The configuration it runs.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The CPU of each shard.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// Most sessions at a time.
    #[must_use]
    pub fn max_sessions(&self) -> u32 {
        self.sessions
    }

    /// The counters of each shard.
    #[must_use]
    pub fn shard_counters(&self) -> &[Arc<ShardCounters>] {
        &self.counters
    }

    /// What each core has to do, and what it passed on and received, by shard. A core's sessions are those that a
    /// listener did not deny.
    #[must_use]
    pub fn core_status(&self) -> Vec<CoreStatus> {
        (0..self.cpus.len()).map(|index| self.cores.status(ShardId(index as u16))).collect()
    }

    /// The counters of one listener, summed.
    #[must_use]
    pub fn totals(&self, listener: ListenerId) -> ListenerTotals {
        let mut totals = ListenerTotals::default();
        self.counters.iter().for_each(|shard| totals.add(shard.listener(listener)));
        totals
    }

    /// What of this machine is worth a warning.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        machine::doubts(&self.config, self.cpus.len())
    }

    /// Open sessions of the process.
    #[must_use]
    pub fn active_sessions(&self) -> u64 {
        let sum = |index| self.totals(ListenerId(index as u16)).active;
        (0..self.config.listeners.len()).map(sum).sum()
    }

    /// Sessions each backend of an upstream has got so far, summed.
    #[must_use]
    pub fn backend_sessions(&self, upstream: UpstreamId) -> Vec<u64> {
        let backends = self.config.upstreams[upstream.index()].backends.len();
        let sum = |id| self.counters.iter().map(|shard| shard.backend(upstream, id).sessions.value()).sum();
        (0..backends).map(|index| sum(BackendId(index as u16))).collect()
    }

    /// Sessions in flight on each backend of an upstream.
    #[must_use]
    pub fn in_flight(&self, upstream: UpstreamId) -> Vec<u32> {
        self.upstreams[upstream.index()].loads.totals()
    }

    /// Clients of an upstream that wait for a backend below its limit.
    #[must_use]
    pub fn queue_length(&self, upstream: UpstreamId) -> usize {
        self.upstreams[upstream.index()].queue_length()
    }

    /// What the checks say of each backend of an upstream; empty before the first result.
    #[must_use]
    pub fn health(&self, upstream: UpstreamId) -> Vec<Health> {
        let states = self.latest.borrow();
        let upstream = states.upstreams.get(upstream.index());
        upstream.map_or_else(Vec::new, |backends| backends.iter().map(|backend| backend.health).collect())
    }

    /// Waits until every backend has had its first verdict, at most so long. Whether that is so.
    #[must_use]
    pub fn wait_checked(&self, patience: Duration) -> bool {
        self.wait_states(patience, |states| !states.upstreams.is_empty() && states.all_decided())
    }

    /// Waits until the published states are as wanted, at most so long. Whether they are.
    #[must_use]
    pub fn wait_states(&self, patience: Duration, mut wanted: impl FnMut(&UpstreamStates) -> bool) -> bool {
        let mut latest = self.latest.clone();
        let waited = self.control.block_on(async move {
            tokio::time::timeout(patience, async { latest.wait_for(|states| wanted(states)).await.is_ok() })
                .await
        });
        waited.unwrap_or(false)
    }

    /// Whether the health or the control thread has ended, which only a broken invariant brings about: states would
    /// stay as they are for ever.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.control.is_finished() || self.health.as_ref().is_some_and(HealthThread::is_finished)
    }

    /// Accepts no more; open sessions go on.
    pub fn drain(&self) {
        self.handles.iter().for_each(|handle| handle.post_phase(Phase::Draining));
    }

    /// Ends all sessions.
    pub fn close(&self) {
        self.handles.iter().for_each(|handle| handle.post_phase(Phase::Closing));
    }

    /// Ready when the last shard has ended.
    #[must_use]
    pub fn ended(&self) -> &Receiver<()> {
        &self.shards_ended
    }

    /// Waits for the end of the shards, at most so long. Whether they have ended.
    #[must_use]
    pub fn wait_ended(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.shards_ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
        if !self.wait_ended(CLOSE_PATIENCE) {
            let open = counted(self.active_sessions(), "session");
            log::error!("{open} did not end within {CLOSE_PATIENCE:?}");
        }
        if let Some(health) = self.health.take() {
            health.stop();
        }
    }
}

/// The sockets of every listener for every shard, by shard, and the files of those that have one.
fn listen_all(config: &Config, cpus: &[usize]) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketFile>), StartError> {
    let mut sockets: Vec<Vec<OwnedFd>> = (0..cpus.len()).map(|_| Vec::new()).collect();
    let mut files = Vec::new();
    for listener in &config.listeners {
        let refused = |error| StartError::Listen { name: listener.name.clone(), error };
        let listening = net::listen(&listener.address, listener.backlog, &listener.tcp.options, cpus.len())
            .map_err(refused)?;
        // A single socket makes no group, and leaves nothing to choose.
        if listener.tcp.steer_by_cpu && cpus.len() > 1 {
            let address = listener.address.to_string();
            net::steer_by_cpu(listening.sockets[0].as_fd(), cpus)
                .map_err(|error| refused(ListenError::Steering { address, error }))?;
        }
        sockets.iter_mut().zip(listening.sockets).for_each(|(shard, socket)| shard.push(socket));
        files.extend(listening.file);
    }
    Ok((sockets, files))
}

/// Where a shard tells of its start and of its end.
struct ShardEnds {
    /// Whether it has its ring.
    report: Sender<Result<(), Missing>>,
    /// Dropped at its end.
    ended: Sender<()>,
}

/// A dead shard would keep its listener open, and the kernel would go on sending it connections: so it takes the
/// process down.
fn spawn_shard(parts: ShardParts, clocks: Clocks, ends: ShardEnds) -> io::Result<()> {
    let shard = parts.place.shard;
    let run = move || {
        if let Some(clock) = ThreadClock::of_this_thread() {
            // Each shard starts once, so it is empty.
            let _ = clocks[shard.index()].set(clock);
        }
        let ShardEnds { report, ended } = ends;
        let mut report = Some(report);
        let mut tell = |outcome| {
            // Nobody listens any more if another shard did not start.
            let _ = report.take().map(|report| report.send(outcome));
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shard::run(parts, || tell(Ok(()))).map_err(|missing| tell(Err(missing)))
        }));
        match ran {
            Ok(_) => drop(ended),
            Err(_) => die("a shard panicked; its last words are above"),
        }
    };
    std::thread::Builder::new().name(format!("shard-{}", shard.0)).spawn(run).map(drop)
}

fn die(cause: &str) -> ! {
    log::error!(target: ALWAYS, event = "stopped", cause; "the process ends: {cause}");
    log::logger().flush();
    std::process::exit(1);
}
