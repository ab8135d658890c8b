//! One upstream on one shard: its table, its pool, its local addresses, and the waiting clients of this
//! shard.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::inbox::Grant;
use super::state::{Shard, WarningLimit};
use super::unresponsive::Unresponsive;
use super::waiters::{Granted, Waiters};
use crate::balance::{self, Tried};
use crate::base::{Address, BackendId, BackendKey, ClientAddress, UpstreamId};
use crate::config::{self, AdminState, HashKey, OpenSessions, Reuse, SourcePorts};
use crate::net::{self, Peer};
use crate::pool::{Connection, Lease, Pool};
use crate::protocol::client_hello::ClientHello;
use crate::telemetry::counters::{BackendCounters, Cells, UpstreamCounters};
use crate::tls::BackendTls;
use crate::upstream::{LocalAddresses, Permit, Preview, SharedUpstream, UpstreamTable};

/// See the module documentation. An upstream never changes: with another configuration there is a new one, which takes
/// over what goes on. A session holds the one that it got its backend from; until then it goes by the
/// [newest](Self::newest).
pub(super) struct Upstream {
    pub(super) id: UpstreamId,
    pub(super) shard: Rc<Shard>,
    pub(super) table: UpstreamTable,
    /// Ready connections.
    pub(super) pool: Option<Rc<Pool>>,
    pub(super) local_addresses: Rc<LocalAddresses>,
    pub(super) waiters: Rc<Waiters>,
    pub(super) unresponsive: Rc<Unresponsive>,
    shared: Arc<SharedUpstream>,
    /// Of the upstream itself.
    pub(super) totals: Cells<UpstreamCounters>,
    /// By number.
    counters: Rc<[Cells<BackendCounters>]>,
    newest: Rc<RefCell<Weak<Self>>>,
    /// Warnings of backends with which there is no TLS: mostly a wrong configuration, which checks of other kinds do not find.
    tls_warnings: WarningLimit,
    /// Sessions whose backend connection was not looked at since the last one, see [`note_core`](Self::note_core).
    unsampled: Cell<u8>,
    /// Whether there is a newer version, or none in the configuration.
    is_retired: Cell<bool>,
}

impl Upstream {
    /// Creates the upstream of a generation; it takes over from `previous`, the version before.
    pub(super) fn new(shard: &Rc<Shard>, shared: &Arc<SharedUpstream>, previous: Option<&Self>) -> Rc<Self> {
        let (id, upstream) = (shared.id(), shared.config());
        let most = shard.place.share_of(upstream.pool.size);
        let numbers =
            (0..shared.given()).map(|number| BackendKey { upstream: id, backend: BackendId(number as u16) });
        let counters: Rc<[_]> = numbers.map(|key| shard.counters.backend(key)).collect();
        let pool = || {
            let (backends, before) = (Rc::clone(&counters), previous.and_then(|one| one.pool.as_deref()));
            Rc::new(Pool::new(shard.counters.pool(id), backends, (most, upstream.pool.max_idle), before))
        };
        let is_same_source = |before: &config::Upstream| {
            (&before.source, before.source_ports) == (&upstream.source, upstream.source_ports)
        };
        let same_source = previous.filter(|previous| is_same_source(previous.config()));
        let ports = shard.ports.filter(|_| upstream.source_ports == SourcePorts::PerCore);
        let this = Rc::new(Self {
            id,
            shard: Rc::clone(shard),
            table: UpstreamTable::new(
                Arc::clone(shared),
                shard.place,
                previous.map(|previous| &previous.table),
            ),
            pool: (most > 0).then(pool),
            local_addresses: match same_source {
                Some(previous) => Rc::clone(&previous.local_addresses),
                None => Rc::new(LocalAddresses::new(&upstream.source, ports, shard.id())),
            },
            waiters: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.waiters)),
            unresponsive: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.unresponsive)),
            shared: Arc::clone(shared),
            totals: shard.counters.upstream(id),
            newest: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.newest)),
            tls_warnings: WarningLimit::default(),
            unsampled: Cell::new(0),
            is_retired: Cell::new(false),
            counters,
        });
        this.newest.replace(Rc::downgrade(&this));
        this
    }

    /// Returns whether this is the version for a generation.
    pub(super) fn is_of(&self, shared: &Arc<SharedUpstream>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Returns the version of the newest generation.
    pub(super) fn newest(self: &Rc<Self>) -> Rc<Self> {
        self.newest.borrow().upgrade().unwrap_or_else(|| Rc::clone(self))
    }

    /// Notes that the next generation has another version, `next`, or none. From now on connections go to the pool of
    /// that one.
    pub(super) fn retire(&self, next: Option<&Self>) {
        self.is_retired.set(true);
        let Some(pool) = &self.pool else { return };
        pool.wake_pool_tasks();
        pool.wake_lingering();
        let stays = |backend| next.is_some_and(|next| next.pool.is_some() && next.has(backend));
        self.numbers().iter().filter(|backend| !stays(**backend)).for_each(|backend| pool.clear(*backend));
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    /// Returns whether the configuration has a backend again that the version after this one had no more.
    pub(super) fn is_back(self: &Rc<Self>, backend: BackendId) -> bool {
        let newest = self.newest();
        !newest.is_retired() && newest.has(backend)
    }

    /// Returns whether this version has a backend.
    pub(super) fn has(&self, backend: BackendId) -> bool {
        self.shared.backend(backend).is_some()
    }

    /// Returns the backends whose sessions have to end because `next`, the version after this one, has them in
    /// maintenance.
    pub(super) fn closed_by(&self, next: &Self) -> Vec<BackendId> {
        let in_maintenance = |upstream: &Self, backend: &BackendId| {
            upstream.shared.backend(*backend).is_some_and(|one| one.admin_state == AdminState::Maint)
        };
        let closes = next.config().on_down == OpenSessions::Close;
        let begun = |backend: &&BackendId| in_maintenance(next, backend) && !in_maintenance(self, backend);
        self.numbers().iter().filter(|_| closes).filter(begun).copied().collect()
    }

    pub(super) fn config(&self) -> &config::Upstream {
        self.shared.config()
    }

    /// Returns what handshakes with a backend need, if it speaks TLS.
    pub(super) fn tls(&self, backend: BackendId) -> Option<&BackendTls> {
        self.shared.tls_of(backend)
    }

    /// Warns, now and then, that there is no TLS with a backend.
    pub(super) fn warn_of_tls(&self, backend: BackendId, cause: &dyn Display) {
        if self.tls_warnings.is_due(self.shard.now()) {
            let (upstream, backend) = (&*self.config().name, self.backend_name(backend));
            log::warn!("no TLS with {upstream}/{backend}: {cause}");
        }
    }

    /// The numbers of its backends.
    pub(super) fn numbers(&self) -> &[BackendId] {
        self.shared.numbers()
    }

    pub(super) fn counters(&self, backend: BackendId) -> &BackendCounters {
        &self.counters[backend.index()]
    }

    pub(super) fn backend_name(&self, backend: BackendId) -> &str {
        self.shared.backend(backend).map_or("-", |backend| &backend.name)
    }

    /// Returns whether the name that a client of TLS asks for decides where it goes.
    pub(super) fn wants_name(&self) -> bool {
        self.table.wants().key && self.config().hash_key == HashKey::Sni
    }

    /// Returns a hash of what decides where a client goes: a part of its address, or the name that it asks for; 0 if the
    /// algorithm wants none.
    pub(super) fn key(&self, client: ClientAddress, hello: Option<&ClientHello>) -> u64 {
        let name = hello.and_then(ClientHello::server_name).filter(|_| self.wants_name());
        if let Some(name) = name {
            return balance::hash(name.as_bytes());
        }
        let Some(ip) = client.ip().filter(|_| self.table.wants().key) else { return 0 };
        let mut bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        if self.config().hash_key == HashKey::SourcePort {
            bytes.extend(client.port().to_be_bytes());
        }
        balance::hash(&bytes)
    }

    /// Returns which backend a client would get now.
    pub(super) fn preview(&self, client: ClientAddress, hello: &ClientHello) -> Preview {
        let has_pooled = |backend| self.pool.as_ref().is_some_and(|pool| pool.has_ready(backend));
        self.table.preview(self.key(client, Some(hello)), self.shard.now(), has_pooled)
    }

    /// Counts, of the connection to a backend whose session ends, whether the CPU of this shard receives it. Looks at the
    /// first one and then at every 16th, so that the system call costs next to nothing.
    pub(super) fn note_core(&self, socket: &Peer) {
        const EVERY: u8 = 16;
        let before = self.unsampled.get();
        self.unsampled.set((before + 1) % EVERY);
        if before == 0 {
            let is_own = socket.with(net::incoming_cpu) == Some(self.shard.cpu);
            if is_own { &self.totals.legs_own } else { &self.totals.legs_other }.add(1);
        }
    }

    // Clients that wait.

    /// Sends permits to the clients that wait for them, on all shards.
    pub(super) fn serve(&self) {
        while self.table.has_released() {
            for (ticket, backend) in self.table.serve() {
                let grant = Grant { upstream: Arc::clone(&self.shared), ticket: ticket.number, backend };
                if !self.shard.handles[ticket.shard.index()].post_grant(grant) {
                    // A shard that has ended has no waiting client.
                    self.table.refuse(backend);
                }
            }
        }
    }

    /// Returns the number of clients that wait, on all shards.
    pub(super) fn queue_length(&self) -> usize {
        self.shared.queue_length()
    }

    /// Takes a permit that was sent to a waiting client.
    pub(super) fn grant(&self, Grant { upstream, ticket, backend }: &Grant) {
        let has_permit = self.shared.counts_with(upstream, *backend) || {
            // It was counted by another generation, where it is given back.
            upstream.return_permit(*backend, self.shard.id());
            self.shared.take(*backend, self.shard.id())
        };
        let granted = if has_permit { Granted::Permit(*backend) } else { Granted::Nothing };
        if !self.waiters.grant(*ticket, granted) && has_permit {
            self.table.refuse(*backend);
        }
    }

    /// Has all shards check whether their pools hold a permit that such a client waits for.
    pub(super) fn ask_pools(&self, tried: &Tried) {
        if self.table.idle_permits(tried) > 0 {
            self.shard.handles.iter().for_each(super::ShardHandle::notify);
        }
    }

    // The pool.

    /// Takes a ready connection to a backend, with its permit.
    pub(super) fn take_pooled(&self, backend: BackendId) -> Option<(Connection, Permit)> {
        let pool = self.pool.as_ref()?;
        loop {
            let (connection, permit) = pool.take(backend)?;
            // Dropped before its permit.
            match self.table.adopt(permit) {
                Some(permit) => return Some((connection, permit)),
                None => drop(connection),
            }
        }
    }

    /// Returns whether the pool has room for one more connection, besides the connections in sessions that
    /// are expected back, of which `leaving` are about to leave.
    pub(super) fn has_room(&self, backend: BackendId, leaving: usize) -> bool {
        let Some(pool) = &self.pool else { return false };
        let expected = match self.config().pool.reuse {
            Reuse::Off => 0,
            Reuse::Untouched => pool.leased(backend),
            Reuse::Reset => self.table.own_sessions(backend),
        };
        pool.has_room(backend, expected.saturating_sub(leaving))
    }

    /// Returns whether the pool takes connections from sessions.
    fn takes_connections(&self) -> bool {
        self.shard.is_running() && !self.is_retired()
    }

    /// Returns when a session on a backend may give its connection back, if it ended now.
    pub(super) fn reuse(&self, backend: BackendId) -> Reuse {
        if self.pool.is_some()
            && self.takes_connections()
            && self.table.may_pool(backend)
            && self.has_room(backend, 1)
        {
            self.config().pool.reuse
        } else {
            Reuse::Off
        }
    }

    /// Notes a session that may give its connection back as long as it has carried no byte. If the session
    /// may give it back later, too, this tells the pool task about sessions that end before they have begun.
    pub(super) fn lease(&self, backend: BackendId) -> Option<Lease> {
        let pool = self.pool.as_ref().filter(|_| self.config().pool.reuse != Reuse::Off);
        pool.map(|pool| pool.lease(backend))
    }

    /// Puts the connection of a session that has ended into the pool, if it is fit, there is room, and no
    /// client waits for its permit. Otherwise ends it before its permit is given back: parameters are dropped
    /// from the last to the first.
    pub(super) fn give_back(&self, permit: Permit, socket: Peer, fresh: bool) {
        // Counted as idle before the look at the queue: of this shard and one whose client begins to wait, at least one
        // sees the other.
        let backend = permit.backend();
        let permit = permit.idle();
        let Some(pool) = &self.pool else { return };
        let has_permit =
            self.table.may_pool(backend) && !(permit.is_limited() && self.table.is_waited_for(backend));
        if !self.takes_connections()
            || !has_permit
            || !self.has_room(backend, 0)
            || !crate::pool::is_fit(&socket, fresh)
        {
            return;
        }
        let Some(address) = self.address_of(backend, &socket) else { return };
        pool.counters().returned.add(1);
        pool.put(Connection { socket, address, fresh }, permit, self.shard.now(), self.shard.chance());
    }

    /// Returns the address of the backend that a connection leads to, if the backend still has that address.
    fn address_of(&self, backend: BackendId, socket: &Peer) -> Option<Address> {
        let peer = socket.with(net::peer_address)?;
        self.table.addresses(backend).iter().find(|address| address.leads_to(&peer)).cloned()
    }

    pub(super) fn wake_pool_tasks(&self) {
        self.pool.iter().for_each(|pool| pool.wake_pool_tasks());
    }

    /// Closes ready connections if clients wait for their permits.
    pub(super) fn give_way(&self) {
        let Some(pool) = self.pool.as_ref().filter(|_| self.table.has_waiters()) else { return };
        for backend in self.table.candidates() {
            while self.table.is_limited(backend)
                && self.table.is_waited_for(backend)
                && pool.close_one(backend)
            {
                self.serve();
            }
        }
        // A connection on its way to the pool gives way, too, and so does a session whose client seems to
        // have left.
        pool.wake_pool_tasks();
        pool.wake_lingering();
    }
}
