//! One core: its ring, its listeners, its sessions, its counters. Nothing here is shared with another shard but
//! what [`ShardParts`] names.

mod accept;
mod connect;
mod establish;
mod handoff;
mod inbox;
mod pool_task;
mod reuse;
mod session;
#[cfg(test)]
mod testing;
mod waiters;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::admission::{Limit, Ticket};
use crate::base::ShardPlace;
use crate::base::Tick;
use crate::base::{BackendId, ListenerId, ShardId, UpstreamId, limits};
use crate::config::Config;
use crate::net::LocalFailure;
use crate::pool::Pool;
use crate::relay::{Pipes, RelayRules};
use crate::steering::CoreLoads;
use crate::telemetry::counters::ShardCounters;
use crate::upstream::{LocalAddresses, SharedUpstream, UpstreamTable};
use crate::uring::{self, BufferSettings, DoorbellListener, Missing, Ring};

use connect::Silent;
pub use handoff::Handoff;
use inbox::{Grant, HandedOff, Message};
pub use inbox::{Inbox, Phase, ShardHandle, inbox};
use waiters::Waiters;

/// What a shard is made of.
pub struct ShardParts {
    /// Which shard of how many.
    pub place: ShardPlace,
    /// The CPU it is pinned to.
    pub cpu: core_affinity::CoreId,
    /// The configuration all shards share.
    pub config: Arc<Config>,
    /// Listening sockets of this shard, in the order of the configuration.
    pub listeners: Vec<OwnedFd>,
    /// Most pipes for splicing; 0 where that is off.
    pub pipes: u32,
    /// What all shards share of each upstream.
    pub upstreams: Vec<Arc<SharedUpstream>>,
    /// What each core tells of itself.
    pub cores: Arc<CoreLoads>,
    /// The right to pass connections to other shards.
    pub handoff: Handoff,
    /// Counters of this shard.
    pub counters: Arc<ShardCounters>,
    /// The limit on sessions of the process.
    pub limit: Arc<Limit>,
    /// Where other threads write to: one handle for each shard, this one's too.
    pub handles: Arc<[ShardHandle]>,
    /// Where this shard reads.
    pub inbox: Inbox,
    /// The descriptor behind the doorbell of the handle.
    pub doorbell: OwnedFd,
}

/// The state of a running shard.
struct Shard {
    ring: Ring,
    config: Arc<Config>,
    /// For the sessions of each listener.
    relay_rules: Vec<RelayRules>,
    upstreams: Vec<Rc<UpstreamTable>>,
    /// Ready connections, for each upstream that has a pool.
    pools: Vec<Option<Rc<Pool>>>,
    /// Local addresses of backend connections, for each upstream.
    sources: Vec<LocalAddresses>,
    /// Clients that wait for a place at a backend.
    waiters: Waiters,
    /// None where splicing is off.
    pipes: Option<Rc<Pipes>>,
    cores: Arc<CoreLoads>,
    /// There while the shard runs.
    handoff: RefCell<Option<Handoff>>,
    counters: Arc<ShardCounters>,
    limit: Arc<Limit>,
    place: ShardPlace,
    handles: Arc<[ShardHandle]>,
    phase: Cell<Phase>,
    /// Accept loops and sessions that have not ended.
    busy: Cell<usize>,
    /// Where the clients of open sessions come from, by descriptor, where sessions are logged. Not in the session, which is
    /// small.
    clients: RefCell<HashMap<RawFd, String>>,
    /// For each listener, whether the first verdicts are there.
    opened: Box<[Cell<bool>]>,
    /// Accept loops that wait for the first verdicts.
    openings: RefCell<Vec<Waker>>,
    /// Connections that wait for them, from shards that knew them earlier; at most as many as a inbox holds each turn.
    held: RefCell<Vec<HandedOff>>,
    /// Addresses of backends that did not answer lately.
    silent: Silent,
    /// Warnings of failed accepts.
    accept_warnings: WarningLimit,
    /// Warnings of connects that failed for want of something of our own, by kind.
    connect_warnings: [WarningLimit; LocalFailure::COUNT],
}

/// Lets one warning through in so long.
#[derive(Default)]
struct WarningLimit(Cell<Option<Tick>>);

impl WarningLimit {
    const INTERVAL: Duration = Duration::from_secs(10);

    fn is_due(&self, now: Tick) -> bool {
        let due = self.0.get().is_none_or(|last| now.since(last) >= Self::INTERVAL);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

/// Runs a shard on the calling thread until it was told to drain and every session has ended. `started` is called once it has
/// all that it needs.
///
/// # Errors
///
/// What the kernel lacks or forbids for the ring.
///
/// # Panics
///
/// When the CPU cannot be pinned to; the caller checked it before.
pub fn run(parts: ShardParts, started: impl FnOnce()) -> Result<(), Missing> {
    assert!(core_affinity::set_for_current(parts.cpu), "CPU {} was in the allowed set", parts.cpu.id);
    // The thread is pinned already; glommio would take any online CPU. Its own rings are never used for I/O: keep
    // them small.
    let executor = uring::make_executor(|| {
        let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
        let made = builder.name("shard").io_memory(64 << 10).ring_depth(8).make();
        made.map_err(|error| Missing::from(io::Error::from(error)))
    })?;
    executor.run(async {
        let relay = &parts.config.runtime.relay;
        let ring = Ring::new(BufferSettings { bytes: relay.buffer_bytes, count: relay.buffers_per_core })?;
        start(&ring, parts)?;
        started();
        ring.drive().await;
        Ok(())
    })
}

fn start(ring: &Ring, parts: ShardParts) -> Result<(), Missing> {
    let shard = Rc::new(Shard::new(ring, &parts));
    shard.handoff.replace(Some(parts.handoff));
    let answer = ring.listen(parts.doorbell);
    ring.spawn_vital(Rc::clone(&shard).read_inbox(answer, parts.inbox));
    pool_task::start(&shard);
    for (index, socket) in parts.listeners.into_iter().enumerate() {
        let acceptor = ring.accept_from(socket)?;
        let id = ListenerId(u16::try_from(index).expect("limits::LISTENERS_MAX fits"));
        ring.spawn_vital(accept::run(Rc::clone(&shard), id, acceptor));
    }
    Ok(())
}

impl Shard {
    fn new(ring: &Ring, parts: &ShardParts) -> Self {
        let config = Arc::clone(&parts.config);
        let upstreams = (0..).map(UpstreamId).zip(config.upstreams.iter().zip(&parts.upstreams));
        let upstreams = upstreams.map(|(id, (upstream, shared))| {
            let handles = Arc::clone(&parts.handles);
            let deliver = Box::new(move |ticket: Ticket, backend| {
                let grant = Grant { upstream: id, ticket: ticket.number, backend };
                handles[ticket.shard.index()].post_grant(grant)
            });
            UpstreamTable::new(upstream, Arc::clone(shared), parts.place, deliver)
        });
        let sources =
            config.upstreams.iter().map(|upstream| LocalAddresses::new(&upstream.source, parts.place.shard));
        let pools = config.upstreams.iter().map(|upstream| {
            let most = parts.place.share_of(upstream.pool.size);
            (most > 0).then(|| Rc::new(Pool::new(upstream.backends.len(), most, upstream.pool.max_idle)))
        });
        let pipes =
            (parts.pipes > 0).then(|| Rc::new(Pipes::new(config.runtime.relay.pipe_bytes, parts.pipes)));
        let relay_rules = config.listeners.iter().map(|listener| RelayRules {
            client_idle: listener.timeouts.client_idle,
            equal_idle: listener.timeouts.equal_idle,
            backend_idle: config.upstreams[listener.upstream.index()].timeouts.backend_idle,
            half_close: listener.timeouts.half_close,
            client_keepalive: listener.tcp.options.keepalive,
            backend_keepalive: config.upstreams[listener.upstream.index()].tcp.keepalive,
            pipes: pipes.clone(),
        });
        Self {
            ring: ring.clone(),
            relay_rules: relay_rules.collect(),
            upstreams: upstreams.collect(),
            pools: pools.collect(),
            sources: sources.collect(),
            waiters: Waiters::default(),
            pipes: pipes.clone(),
            cores: Arc::clone(&parts.cores),
            handoff: RefCell::new(None),
            counters: Arc::clone(&parts.counters),
            limit: Arc::clone(&parts.limit),
            place: parts.place,
            handles: Arc::clone(&parts.handles),
            phase: Cell::new(Phase::Running),
            busy: Cell::new(0),
            clients: RefCell::default(),
            opened: config.listeners.iter().map(|_| Cell::new(false)).collect(),
            openings: RefCell::default(),
            held: RefCell::default(),
            silent: Silent::default(),
            accept_warnings: WarningLimit::default(),
            connect_warnings: Default::default(),
            config,
        }
    }

    /// Takes what other threads say, until nothing is left to do.
    async fn read_inbox(self: Rc<Self>, mut answer: DoorbellListener, inbox: Inbox) {
        loop {
            // Before the look into the channel, so that an empty one stays empty.
            let passing_over = self.cores.are_handoffs_over();
            while let Some(message) = inbox.take() {
                match message {
                    Message::States(states) => {
                        let tables = self.upstreams.iter().zip(&states.upstreams);
                        let cuts = tables.filter(|(table, states)| table.apply(states)).count();
                        if cuts > 0 {
                            self.ring.wake_all();
                        }
                        self.open();
                        // There may be nobody left to wait for, or somebody to connect to.
                        self.waiters.wake_all();
                        self.wake_pool_tasks();
                    }
                    Message::Grant(grant) => self.waiters.grant(&self, grant),
                    Message::Phase(phase) if phase > self.phase.get() => {
                        self.phase.set(phase);
                        self.handoff.take();
                        self.ring.wake_all();
                        self.open();
                        self.wake_pool_tasks();
                    }
                    Message::Phase(_) => {}
                }
            }
            if self.take_handed_off(&inbox) == limits::SESSIONS_PER_TURN_MAX {
                self.ring.next_turn().await;
                continue;
            }
            if self.phase.get() > Phase::Running && passing_over && self.busy.get() == 0 {
                return;
            }
            self.give_way();
            answer.notified().await;
        }
    }

    /// Starts sessions for what other shards have passed on, as many as fit into a turn. How many it were.
    fn take_handed_off(self: &Rc<Self>, inbox: &Inbox) -> u32 {
        let passed =
            std::iter::from_fn(|| inbox.take_handed_off()).take(limits::SESSIONS_PER_TURN_MAX as usize);
        passed.fold(0, |count, passed| {
            self.cores.note_received(self.id());
            if self.is_open(passed.listener) {
                session::start(self, passed.listener, passed.connection);
            } else {
                self.held.borrow_mut().push(passed);
            }
            count + 1
        })
    }

    /// Whether sessions of a listener may begin: every primary of its upstream has had its first verdict, or the time for it,
    /// once. While the shard drains, whoever has come is served as it may be.
    fn is_open(&self, listener: ListenerId) -> bool {
        self.opened[listener.index()].get() || !self.is_running()
    }

    /// Lets those begin that have waited for the first verdicts: accept loops, and what shards that knew them earlier have
    /// passed on.
    fn open(self: &Rc<Self>) {
        for (opened, listener) in
            self.opened.iter().zip(&self.config.listeners).filter(|(opened, _)| !opened.get())
        {
            opened.set(self.upstreams[listener.upstream.index()].is_decided());
        }
        self.openings.take().into_iter().for_each(Waker::wake);
        let (begin, held) = self.held.take().into_iter().partition(|passed| self.is_open(passed.listener));
        self.held.replace(held);
        let begin: Vec<HandedOff> = begin;
        begin.into_iter().for_each(|passed| session::start(self, passed.listener, passed.connection));
    }

    fn id(&self) -> ShardId {
        self.place.shard
    }

    /// Counts bytes that a relay has delivered.
    fn account(&self, listener: ListenerId, backend: BackendId, to_backend: u64, to_client: u64) {
        let upstream = self.config.listeners[listener.index()].upstream;
        let (listener, backend) =
            (self.counters.listener(listener), self.counters.backend(upstream, backend));
        if to_backend > 0 {
            listener.bytes_to_backend.add(to_backend);
            backend.bytes_to_backend.add(to_backend);
        }
        if to_client > 0 {
            listener.bytes_to_client.add(to_client);
            backend.bytes_to_client.add(to_client);
        }
        if let Some(spliced) = self.pipes.as_ref().and_then(|pipes| pipes.take_moved()) {
            self.counters.spliced_to_backend.add(spliced.to_backend);
            self.counters.spliced_to_client.add(spliced.to_client);
        }
    }

    /// Notes an accept loop or a session until the guard is dropped.
    fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(Rc::clone(self))
    }

    fn is_running(&self) -> bool {
        self.phase.get() == Phase::Running
    }

    fn is_closing(&self) -> bool {
        self.phase.get() == Phase::Closing
    }
}

/// Something the shard waits for before it ends.
struct Busy(Rc<Shard>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        if self.0.busy.get() == 0 && !self.0.is_running() {
            self.0.handles[self.0.id().index()].notify();
        }
    }
}
