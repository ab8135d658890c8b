//! One listener on one shard: what its sessions have in common.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::admitted::Admission;
use super::state::Shard;
use super::upstream::Upstream;
use crate::admission::SharedListener;
use crate::base::{BackendId, ClientAddress, DenyReason, ListenerId, Moment, Tick, UpstreamId};
use crate::config::{self, Config, NoBackend, Target};
use crate::protocol::client_hello::ClientHello;
use crate::relay::RelayRules;
use crate::telemetry::access_log::AccessRecord;
use crate::telemetry::counters::{Cells, ListenerCounters};

/// See the module documentation. A listener never changes: with another configuration of itself or of one of its
/// upstreams there is a new one. A session holds its listener, and so keeps the rules that it got its backend with; until then it
/// goes by the [newest](Self::newest).
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) shard: Rc<Shard>,
    /// Where its sessions may go, in the order of [`config::Listener::upstreams`]: at least one.
    destinations: Box<[Destination]>,
    /// What all shards share of it.
    pub(super) shared: Arc<SharedListener>,
    counters: Cells<ListenerCounters>,
    config: Arc<Config>,
    position: usize,
    /// Whether every primary of its upstreams has once had its first verdict, or the time for it is over.
    has_verdicts: Cell<bool>,
    life: Rc<Life>,
}

/// An upstream of a listener.
pub(super) struct Destination {
    pub(super) upstream: Rc<Upstream>,
    /// Its position in the configuration of the listener.
    configured: UpstreamId,
    /// For the relays of the sessions.
    pub(super) rules: RelayRules,
}

/// What all versions of a listener have in common, also after it was removed and has come back.
#[derive(Default)]
struct Life {
    newest: RefCell<Weak<Listener>>,
    /// When it was removed, if it is.
    removed: Cell<Option<Tick>>,
    /// Whether the log has said that it accepts.
    is_announced: Cell<bool>,
    /// Whether the time for its sessions is over.
    is_over: Cell<bool>,
}

impl Destination {
    fn new(
        shard: &Shard,
        listener: &config::Listener,
        configured: UpstreamId,
        upstream: Rc<Upstream>,
    ) -> Self {
        let backend_side = upstream.config();
        let rules = RelayRules {
            client_idle: listener.timeouts.client_idle,
            equal_idle: listener.timeouts.equal_idle,
            backend_idle: backend_side.timeouts.backend_idle,
            half_close: listener.timeouts.half_close,
            client_keepalive: listener.tcp.options.keepalive,
            backend_keepalive: backend_side.tcp.keepalive,
            bandwidth: listener.bandwidth,
            pipes: shard.pipes.clone(),
        };
        Self { upstream, configured, rules }
    }
}

impl Listener {
    /// Creates the listener at this position of a configuration; `previous` is the version before. `upstreams` are its
    /// own, in the order of [`config::Listener::upstreams`].
    pub(super) fn new(
        shard: &Rc<Shard>,
        shared: &Arc<SharedListener>,
        (config, position): (&Arc<Config>, usize),
        upstreams: Vec<Rc<Upstream>>,
        previous: Option<&Self>,
    ) -> Rc<Self> {
        let id = shared.id();
        let listener = &config.listeners[position];
        let both = listener.upstreams().into_iter().zip(upstreams);
        let destinations = both.map(|(id, upstream)| Destination::new(shard, listener, id, upstream));
        let listener = Rc::new(Self {
            id,
            shard: Rc::clone(shard),
            destinations: destinations.collect(),
            shared: Arc::clone(shared),
            counters: shard.counters.listener(id),
            config: Arc::clone(config),
            position,
            has_verdicts: Cell::new(previous.is_some_and(|previous| previous.has_verdicts.get())),
            life: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.life)),
        });
        listener.life.newest.replace(Rc::downgrade(&listener));
        listener
    }

    /// Returns the listener as the next generation has it: this one if nothing of it is different.
    pub(super) fn next(
        self: &Rc<Self>,
        shared: &Arc<SharedListener>,
        (config, position): (&Arc<Config>, usize),
        upstreams: Vec<Rc<Upstream>>,
    ) -> Rc<Self> {
        let are_same = self.destinations.len() == upstreams.len()
            && self.upstreams().zip(&upstreams).all(|(own, next)| Rc::ptr_eq(own, next));
        if *self.config() == config.listeners[position] && are_same {
            return Rc::clone(self);
        }
        Self::new(&self.shard, shared, (config, position), upstreams, Some(self))
    }

    /// Returns the same listener with the versions of its upstreams among these.
    pub(super) fn with_upstreams(self: &Rc<Self>, newest: &[Rc<Upstream>]) -> Rc<Self> {
        let version = |own: &Rc<Upstream>| newest.iter().find(|one| one.id == own.id).unwrap_or(own).clone();
        let upstreams = self.upstreams().map(version).collect();
        self.next(&self.shared, (&self.config, self.position), upstreams)
    }

    /// The upstreams of its sessions, each once.
    fn upstreams(&self) -> impl Iterator<Item = &Rc<Upstream>> {
        self.destinations.iter().map(|destination| &destination.upstream)
    }

    /// Returns a destination by its position among the upstreams.
    pub(super) fn destination(&self, position: u16) -> &Destination {
        &self.destinations[usize::from(position)]
    }

    /// Returns whether it reads what clients of TLS ask for.
    pub(super) fn reads_hello(&self) -> bool {
        self.shared.tls().is_some()
            || !self.config().sni.routes.is_empty()
            || self.upstreams().any(|upstream| upstream.wants_name())
    }

    /// Returns the position of the upstream to which a client goes that says this; `None` refuses it.
    pub(super) fn lead(&self, hello: Option<&ClientHello>) -> Option<u16> {
        let config = self.config();
        match config.target(hello).0 {
            Target::Close => None,
            Target::Upstream(id) => {
                let position = self.destinations.iter().position(|known| known.configured == id);
                position.and_then(|position| u16::try_from(position).ok())
            }
        }
    }

    /// Returns the version of the newest generation.
    pub(super) fn newest(self: &Rc<Self>) -> Rc<Self> {
        self.life.newest.borrow().upgrade().unwrap_or_else(|| Rc::clone(self))
    }

    /// Notes since when the configuration has the listener no more, or that it has it again.
    pub(super) fn set_removed(&self, since: Option<Tick>) {
        self.life.removed.set(since);
    }

    /// Returns since when the configuration has the listener no more.
    pub(super) fn removed(&self) -> Option<Tick> {
        self.life.removed.get()
    }

    /// Ends all sessions of the listener, which have to be woken.
    pub(super) fn end_sessions(&self) {
        self.life.is_over.set(true);
    }

    /// Returns whether all its sessions have to end.
    pub(super) fn is_over(&self) -> bool {
        self.life.is_over.get()
    }

    pub(super) fn config(&self) -> &config::Listener {
        &self.config.listeners[self.position]
    }

    pub(super) fn counters(&self) -> &ListenerCounters {
        &self.counters
    }

    /// Returns whether sessions may begin. While the shard drains, clients that have come are served as well
    /// as possible.
    pub(super) fn is_open(&self) -> bool {
        self.has_verdicts.get() && !self.shard.is_held()
            || !self.shard.is_running()
            || self.removed().is_some()
    }

    /// Returns whether the log has still to say that it accepts: once, by one shard, however many sockets it has.
    pub(super) fn is_to_announce(&self) -> bool {
        self.shard.id().0 == 0 && self.shard.is_running() && !self.life.is_announced.replace(true)
    }

    /// Returns whether its port has to be closed, because no backend is eligible.
    pub(super) fn is_unserved(&self) -> bool {
        self.config().no_backend == NoBackend::Unlisten
            && !self.upstreams().any(|upstream| upstream.table.serves())
    }

    /// Checks whether sessions may begin from now on.
    pub(super) fn look(&self) {
        if !self.has_verdicts.get() {
            self.has_verdicts.set(self.upstreams().all(|upstream| upstream.table.is_decided()));
        }
    }

    /// Takes a place for a session in the limits of the listener and of the process.
    pub(super) fn reserve(&self) -> Result<Admission, DenyReason> {
        let shard = self.shard.id();
        let counts = self.shared.take(shard).ok_or(DenyReason::ListenerLimit)?;
        let admission = Admission::new(counts);
        if self.shard.gate.sessions.take(shard) {
            return Ok(admission);
        }
        if counts {
            self.shared.give_back(shard);
        }
        Err(DenyReason::ProcessLimit)
    }

    /// Takes a place, also beyond the limits.
    pub(super) fn reserve_anyhow(&self) -> Admission {
        let shard = self.shard.id();
        self.shard.gate.sessions.take_anyhow(shard);
        Admission::new(self.shared.take_anyhow(shard))
    }

    /// Asks all rules on a peer that has a place, which is given back if one denies it. Where a header will say who the
    /// client is, the rules on clients are asked later.
    pub(super) fn admit(&self, admission: Admission, peer: ClientAddress) -> Result<Admission, DenyReason> {
        let admitted = match self.shared.awaits_header() {
            true => self.shared.trusts(peer).then_some(admission).ok_or(DenyReason::Untrusted),
            false => self.admit_client(admission, peer),
        };
        admitted.inspect_err(|_| self.release(admission))
    }

    /// Asks all rules on a client.
    pub(super) fn admit_client(
        &self,
        admission: Admission,
        client: ClientAddress,
    ) -> Result<Admission, DenyReason> {
        let source = self.shared.admit(client, &self.shard.gate.sources, Moment::read_clock())?;
        Ok(admission.asked(source))
    }

    /// Counts and logs a client that gets no session.
    pub(super) fn deny(&self, client: ClientAddress, reason: DenyReason) {
        let shard = &self.shard;
        self.counters.accepted.add(1);
        self.counters.denied[reason.index()].add(1);
        let Some(access_log) = &shard.access_log else { return };
        let now = Moment::read_clock();
        if access_log.admits_denial(now) {
            let id = shard.sessions.next_id(shard.id());
            let to = (self.id, self.destination(0).upstream.id);
            access_log.write(AccessRecord::denied(id, now, client, to, (shard.id(), reason)));
        }
    }

    /// Gives back what a session has taken; of whatever version of the listener.
    pub(super) fn release(&self, admission: Admission) {
        let (gate, shard) = (&self.shard.gate, self.shard.id());
        admission.source().into_iter().for_each(|slot| gate.sources.give_back(slot));
        if admission.counts() {
            self.shared.give_back(shard);
        }
        gate.sessions.give_back(shard);
        gate.wake_waiting(|shard| self.shard.handles[shard.index()].notify());
    }

    /// Counts bytes that a relay has delivered, to or from a backend of this destination.
    pub(super) fn account(&self, position: u16, backend: BackendId, to_backend: u64, to_client: u64) {
        let Destination { upstream, rules, .. } = self.destination(position);
        let (listener, backend) = (self.counters(), upstream.counters(backend));
        if to_backend > 0 {
            listener.bytes_to_backend.add(to_backend);
            backend.bytes_to_backend.add(to_backend);
        }
        if to_client > 0 {
            listener.bytes_to_client.add(to_client);
            backend.bytes_to_client.add(to_client);
        }
        if let Some(spliced) = rules.pipes.as_ref().and_then(|pipes| pipes.take_moved()) {
            self.shard.counters.work.spliced_to_backend.add(spliced.to_backend);
            self.shard.counters.work.spliced_to_client.add(spliced.to_client);
        }
    }
}
