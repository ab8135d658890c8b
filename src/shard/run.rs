//! The life of a shard: it starts, takes what other threads tell it, and ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use super::accept::Entrance;
use super::handoff::Handoff;
use super::inbox::{HandedOff, Inbox, Message, Phase, ShardHandle};
use super::listener::Listener;
use super::sessions::Sessions;
use super::state::{Shard, WarningLimit};
use super::upstream::Upstream;
use super::{accept, pool_task, session};
use crate::admission::Gate;
use crate::base::{Activity, PortRange, ShardPlace, limits};
use crate::relay::Pipes;
use crate::steering::CoreLoads;
use crate::telemetry::access_log::AccessLogger;
use crate::telemetry::counters::ShardCounters;
use crate::upstream::{Snapshot, UpstreamStates};
use crate::uring::{self, BufferSettings, DoorbellListener, Heartbeat, Missing, Ring};

/// The parts of a shard.
pub struct ShardParts {
    /// What the shard begins with: [`Phase::Held`] or [`Phase::Running`].
    pub phase: Phase,
    /// The shard, and the number of all shards.
    pub place: ShardPlace,
    /// The CPU it is pinned to.
    pub cpu: core_affinity::CoreId,
    /// Its part of the local ports; there is one wherever an upstream has `source_ports: per_core`.
    pub ports: Option<PortRange>,
    /// The configuration, with what all shards share of it.
    pub snapshot: Arc<Snapshot>,
    /// Listening sockets of this shard, each with the position of its listener in the configuration.
    pub listeners: Vec<(usize, OwnedFd)>,
    /// Maximum number of pipes for splicing; 0 if splicing is off.
    pub pipes: u32,
    /// The published loads of all cores.
    pub cores: Arc<CoreLoads>,
    /// The right to hand connections off to other shards.
    pub handoff: Handoff,
    /// The counters of this shard.
    pub counters: Arc<ShardCounters>,
    /// The heartbeat of this shard.
    pub heartbeat: Arc<Heartbeat>,
    /// Where the sessions of this shard are logged; `None` if they are not.
    pub access_log: Option<AccessLogger>,
    /// The admission to the process.
    pub gate: Arc<Gate>,
    /// The handles of all shards, including this one's.
    pub handles: Arc<[ShardHandle]>,
    /// Addresses on which a successor of the process does not listen; written before [`Phase::Leaving`] is posted.
    pub unused: Arc<OnceLock<Vec<String>>>,
    /// Where this shard reads its messages.
    pub inbox: Inbox,
    /// The descriptor behind the doorbell of the handle.
    pub doorbell: OwnedFd,
}

/// Runs a shard on the calling thread until it was told to drain and every session has ended. Calls `started`
/// once the shard has everything that it needs.
///
/// # Errors
///
/// What the kernel lacks or forbids for the ring.
///
/// # Panics
///
/// If the thread cannot be pinned to the CPU, which the caller has checked before.
pub fn run(parts: ShardParts, started: impl FnOnce()) -> Result<(), Missing> {
    assert!(core_affinity::set_for_current(parts.cpu), "CPU {} was in the allowed set", parts.cpu.id);
    executor()?.run(async {
        let relay = &parts.snapshot.config().runtime.relay;
        let buffers = BufferSettings { bytes: relay.buffer_bytes, count: relay.buffers_per_core };
        let ring = Ring::with_heartbeat(buffers, Arc::clone(&parts.heartbeat))?;
        start(&ring, parts)?;
        started();
        ring.drive().await;
        Ok(())
    })
}

/// The executor of the calling thread. For tests too, which are to run on what a shard runs on.
///
/// # Errors
///
/// What the kernel lacks or forbids for its rings.
#[doc(hidden)]
pub fn executor() -> Result<glommio::LocalExecutor, Missing> {
    // The thread is pinned already; glommio would take any online CPU. Its own rings are never used for I/O:
    // keep them small.
    uring::make_executor(|| {
        let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
        let made = builder.name("shard").io_memory(64 << 10).ring_depth(8).make();
        made.map_err(|error| Missing::from(io::Error::from(error)))
    })
}

fn start(ring: &Ring, mut parts: ShardParts) -> Result<(), Missing> {
    let sockets = std::mem::take(&mut parts.listeners);
    let (mut residents, inbox, doorbell) = Residents::new(ring, parts);
    residents.upstreams.iter().for_each(pool_task::start);
    for (position, socket) in sockets {
        let entrance = Entrance::new(&residents.listeners[position]);
        residents.entrances.push(Rc::clone(&entrance));
        ring.spawn_vital(accept::run(entrance, ring.accept_from(socket)?));
    }
    ring.spawn_vital(residents.read_inbox(ring.listen(doorbell), inbox));
    Ok(())
}

/// All listeners and upstreams of a shard.
pub(super) struct Residents {
    pub(super) shard: Rc<Shard>,
    /// The generation that runs.
    pub(super) generation: u64,
    /// The version of the states that were applied last.
    version: u64,
    /// States of the next generation. They say nothing of backends that go with this one, so they wait for it.
    pub(super) later: Option<Arc<UpstreamStates>>,
    /// In the order of the configuration.
    pub(super) listeners: Vec<Rc<Listener>>,
    /// Removed ones.
    pub(super) leaving_listeners: Vec<Rc<Listener>>,
    /// Where clients come in.
    pub(super) entrances: Vec<Rc<Entrance>>,
    /// Those whose listener was removed.
    pub(super) closing_entrances: Vec<Rc<Entrance>>,
    /// In the order of the configuration.
    pub(super) upstreams: Vec<Rc<Upstream>>,
    /// Removed ones.
    pub(super) leaving_upstreams: Vec<Rc<Upstream>>,
    /// Older versions, whose sessions go on.
    pub(super) older_upstreams: Vec<Weak<Upstream>>,
    /// Connections that wait for the first verdicts, or for a listener, from shards that knew of them earlier; each turn
    /// adds at most as many as an inbox holds.
    held: Vec<HandedOff>,
}

impl Residents {
    /// Creates what a shard consists of, and returns where its messages come from.
    pub(super) fn new(ring: &Ring, parts: ShardParts) -> (Self, Inbox, OwnedFd) {
        let (snapshot, config) = (&parts.snapshot, parts.snapshot.config());
        let pipes =
            (parts.pipes > 0).then(|| Rc::new(Pipes::new(config.runtime.relay.pipe_bytes, parts.pipes)));
        let seed = parts.place.seed ^ u64::from(parts.place.shard.0);
        let shard = Rc::new(Shard {
            ring: ring.clone(),
            place: parts.place,
            cpu: parts.cpu.id,
            ports: parts.ports,
            phase: Cell::new(parts.phase),
            waits: Cell::new(false),
            busy: Cell::new(0),
            counters: parts.counters,
            gate: parts.gate,
            cores: parts.cores,
            handles: parts.handles,
            unused: parts.unused,
            handoff: RefCell::new(Some(parts.handoff)),
            pipes,
            sessions: Sessions::default(),
            tls_pace: Rc::default(),
            access_log: parts.access_log,
            openings: RefCell::default(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            accept_warnings: WarningLimit::default(),
            connect_warnings: Default::default(),
        });
        let upstream = |shared| Upstream::new(&shard, shared, None);
        let upstreams: Vec<_> = snapshot.upstreams().iter().map(upstream).collect();
        let listeners = snapshot.shared_listeners().iter().zip(&config.listeners).enumerate();
        let listeners = listeners.map(|(position, (shared, listener))| {
            let own = listener.upstreams().iter().map(|id| Rc::clone(&upstreams[id.index()])).collect();
            Listener::new(&shard, shared, (config, position), own, None)
        });
        let residents = Self {
            generation: parts.snapshot.generation(),
            version: 0,
            later: None,
            listeners: listeners.collect(),
            leaving_listeners: Vec::new(),
            entrances: Vec::new(),
            closing_entrances: Vec::new(),
            upstreams,
            leaving_upstreams: Vec::new(),
            older_upstreams: Vec::new(),
            held: Vec::new(),
            shard,
        };
        (residents, parts.inbox, parts.doorbell)
    }

    /// Takes what other threads send, until nothing is left to do.
    async fn read_inbox(mut self, mut doorbell: DoorbellListener, inbox: Inbox) {
        loop {
            // Read before the look into the channel, so that a channel found empty stays empty.
            let are_handoffs_over = self.shard.cores.are_handoffs_over();
            self.shard.ring.set_activity(Activity::Inbox);
            while let Some(message) = inbox.take() {
                self.take(message);
            }
            // One a turn, because an answer may take a millisecond; clients that wait do not wait for operators.
            let has_answered = inbox.take_question().map(|question| self.answer(question)).is_some();
            let handed_off = self.take_handed_off(&inbox);
            self.serve();
            self.look_for_places();
            if has_answered || handed_off == limits::SESSIONS_PER_TURN_MAX {
                self.shard.ring.next_turn().await;
                continue;
            }
            if !self.shard.is_running() && are_handoffs_over && self.shard.busy.get() == 0 {
                // A permit that came meanwhile is for nobody here.
                while let Some(message) = inbox.take() {
                    self.take(message);
                }
                return self.serve();
            }
            self.upstreams.iter().for_each(|upstream| upstream.give_way());
            self.changed(&mut doorbell).await;
        }
    }

    fn serve(&self) {
        self.upstreams.iter().chain(&self.leaving_upstreams).for_each(|upstream| upstream.serve());
    }

    /// Has accept loops look again whose clients waited for the end of a session, if one has ended.
    fn look_for_places(&self) {
        if self.shard.waits.get() && !self.shard.gate.is_waiting(self.shard.id()) {
            self.shard.waits.set(false);
            self.entrances.iter().for_each(|entrance| entrance.wake());
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Generation(generation) => self.adopt(generation),
            Message::States(states) if states.generation > self.generation => self.later = Some(states),
            Message::States(states) => self.apply(&states),
            Message::Grant(grant) => {
                let mut all = self.upstreams.iter().chain(&self.leaving_upstreams);
                match all.find(|upstream| upstream.id == grant.upstream.id()) {
                    Some(upstream) => upstream.grant(&grant),
                    None => grant.upstream.return_permit(grant.backend, self.shard.id()),
                }
            }
            Message::Phase(Phase::Running) if self.shard.is_held() => {
                self.shard.phase.set(Phase::Running);
                self.open();
            }
            Message::Phase(phase) if phase > self.shard.phase.get() => {
                self.shard.phase.set(phase);
                self.shard.handoff.take();
                self.shard.ring.wake_all();
                self.open();
                self.upstreams.iter().for_each(|upstream| upstream.wake_pool_tasks());
            }
            Message::Phase(_) => {}
        }
    }

    /// Applies new states, unless newer ones came with a generation.
    pub(super) fn apply(&mut self, states: &UpstreamStates) {
        if states.version < self.version {
            return;
        }
        self.version = states.version;
        let mut ends_sessions = false;
        let older: Vec<_> = self.older_upstreams.iter().filter_map(Weak::upgrade).collect();
        for upstream in self.upstreams.iter().chain(&older) {
            ends_sessions |= upstream.table.apply(states.of(upstream.id));
        }
        if ends_sessions {
            self.shard.ring.wake_all();
        }
        self.open();
        // There may be no backend any more, or one again.
        self.entrances.iter().for_each(|entrance| entrance.wake());
        for upstream in self.upstreams.iter().chain(&self.leaving_upstreams) {
            // There may be no backend left to wait for, or a new one to connect to.
            upstream.waiters.wake_all();
            upstream.wake_pool_tasks();
        }
    }

    /// Waits for a message, or for a permit that a waiting client may be able to use.
    async fn changed(&self, doorbell: &mut DoorbellListener) {
        let mut notified = pin!(doorbell.notified());
        std::future::poll_fn(|context| {
            let all = || self.upstreams.iter().chain(&self.leaving_upstreams);
            all().for_each(|upstream| upstream.table.set_serving_task(context.waker()));
            if all().any(|upstream| upstream.table.has_released()) {
                return Poll::Ready(());
            }
            notified.as_mut().poll(context)
        })
        .await;
    }

    /// Starts sessions for connections that other shards have handed off, as many as fit into a turn. Returns
    /// how many.
    fn take_handed_off(&mut self, inbox: &Inbox) -> u32 {
        let taken =
            std::iter::from_fn(|| inbox.take_handed_off()).take(limits::SESSIONS_PER_TURN_MAX as usize);
        let mut count = 0;
        for handed_off in taken {
            self.shard.cores.note_received(self.shard.id());
            self.begin_or_hold(handed_off);
            count += 1;
        }
        count
    }

    fn begin_or_hold(&mut self, handed_off: HandedOff) {
        let mut listeners = self.listeners.iter().chain(&self.leaving_listeners);
        match listeners.find(|listener| listener.id == handed_off.listener) {
            Some(listener) if listener.is_open() => session::start(listener, handed_off.admitted),
            _ => self.held.push(handed_off),
        }
    }

    /// Lets everything begin that has waited for the first verdicts: accept loops, and connections that were
    /// handed off by shards that knew the verdicts earlier.
    pub(super) fn open(&mut self) {
        self.listeners.iter().for_each(|listener| listener.look());
        self.shard.openings.take().into_iter().for_each(Waker::wake);
        std::mem::take(&mut self.held).into_iter().for_each(|handed_off| self.begin_or_hold(handed_off));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::super::testing;
    use super::*;
    use crate::base::{Address, writes};
    use crate::upstream::{BackendState, Health};

    #[test]
    fn states_of_other_backends_and_older_ones_change_nothing() {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        let (mut residents, ..) = Residents::new(&ring, testing::parts(1, Vec::new()).0);
        let down = BackendState { health: Health::Down, awaited: false, ..BackendState::unknown() };
        let mut states = |version, backends: Vec<Vec<BackendState>>| {
            residents.apply(&UpstreamStates { generation: version, version, upstreams: backends });
            residents.upstreams[0].table.is_decided()
        };
        let unknown = BackendState::unknown();
        let of_others = vec![vec![unknown.clone(), down.clone()], vec![down.clone()]];
        for others in [Vec::new(), vec![Vec::new()], of_others] {
            assert!(!states(2, others), "the verdict is on another backend");
        }
        assert!(!states(1, vec![vec![down.clone()]]), "it is older");
        assert!(states(3, vec![vec![down]]), "the first verdict");
    }

    /// Serves echoing sessions one after the other with so many messages each, and some of them at a time. Returns how often
    /// the shard wrote to what other cores write, too.
    fn shared_writes(sessions: usize, messages: usize, at_a_time: usize) -> u64 {
        let backend = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = backend.local_addr().expect("bound").port();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let parts = testing::parts_with_backend(port, vec![(0, listener.into())]);
        let handle = parts.handles[0].clone();
        let shard = std::thread::spawn(move || {
            run(parts, || ()).unwrap_or_else(|missing| panic!("{missing}"));
            writes::count()
        });
        std::thread::spawn(move || {
            for connection in backend.incoming().map_while(Result::ok) {
                std::thread::spawn(move || std::io::copy(&mut &connection, &mut &connection));
            }
        });
        let up = BackendState {
            health: Health::Up,
            awaited: false,
            addresses: Arc::from([Address::Tcp(([127, 0, 0, 1], port).into())]),
            ..BackendState::unknown()
        };
        handle.post_states(Arc::new(UpstreamStates { generation: 1, version: 1, upstreams: vec![vec![up]] }));
        for _ in 0..sessions / at_a_time {
            let clients: Vec<_> =
                (0..at_a_time).map(|_| TcpStream::connect(address).expect("it listens")).collect();
            for mut client in &clients {
                for _ in 0..messages {
                    client.write_all(b"message").expect("connected");
                    client.read_exact(&mut [0; 7]).expect("an echo");
                }
            }
        }
        handle.post_phase(Phase::Draining);
        shard.join().expect("the shard ended")
    }

    /// The audit of `base::shared`: what makes many cores wait for each other. A connection that is handed off costs two writes
    /// more, and a lock of a channel; there is one shard here.
    #[test]
    fn messages_write_nothing_shared_and_sessions_hardly_anything() {
        let none = shared_writes(0, 0, 1);
        assert!(none <= 1, "the end of the hand-offs: {none}");
        for (sessions, messages, at_a_time) in [(100, 1, 1), (100, 100, 1), (400, 1, 100)] {
            let writes = shared_writes(sessions, messages, at_a_time) - none;
            // A place is taken and given back, sixteen at a time, each time with a lock.
            let most = sessions as u64 / 4 + 2;
            assert!(writes <= most, "{writes} for {sessions} sessions with {messages} messages each");
        }
    }
}
