//! The account of a session: counted when it begins, and again when it is dropped, whatever ends its task.

use std::rc::Rc;

use crate::base::{BackendId, ClientAddress, CloseReason, DenyReason, Moment, Tick};
use crate::net::{self, Peer, TcpInfo};
use crate::protocol::client_hello::ClientHello;
use crate::relay::{RelayRules, Side};
use crate::shard::admitted::Admission;
use crate::shard::listener::Listener;
use crate::shard::sessions::Session;
use crate::shard::state::Shard;
use crate::shard::upstream::Upstream;
use crate::telemetry::access_log::{AccessLogger, AccessRecord, End};
use crate::tls::Agreed;

/// A session: its client, what it belongs to, and why it ended. Dropping it counts the close and gives back
/// its permit.
pub(super) struct Record {
    pub(super) client: Peer,
    pub(super) listener: Rc<Listener>,
    /// What others may know of it.
    pub(super) session: Rc<Session>,
    admission: Admission,
    /// The position of its upstream among those of the listener.
    position: u16,
    /// What the client of TLS asks for; boxed, because most sessions have none.
    hello: Option<Box<ClientHello>>,
    /// [`CloseReason::Internal`] until the session sets another reason, so that a panic is counted as such.
    reason: CloseReason,
    /// Why it was denied after it had begun.
    denied: Option<DenyReason>,
}

impl Record {
    /// Counts a connection that has its place in the limits, which makes it a session.
    pub(super) fn begin(
        listener: &Rc<Listener>,
        client: Peer,
        (address, admission): (ClientAddress, Admission),
    ) -> Self {
        let (shard, counters) = (&listener.shard, listener.counters());
        counters.accepted.add(1);
        counters.active.add(1);
        shard.cores.begin_session(shard.id());
        shard.enter();
        let upstream = listener.destination(0).upstream.id;
        let session = shard.sessions.begin(shard.id(), (listener.id, upstream), address);
        let (listener, reason) = (Rc::clone(listener), CloseReason::Internal);
        Self { client, listener, session, admission, position: 0, hello: None, reason, denied: None }
    }

    /// Asks the rules on the client, which is known now, unless they were asked at the accept.
    pub(super) fn admit(&mut self) -> Result<(), DenyReason> {
        if !self.admission.is_asked() || self.session.announced().is_some() {
            // What the peer has taken, if its listener did not await a header yet.
            self.admission.source().into_iter().for_each(|slot| self.shard().gate.sources.give_back(slot));
            self.admission = Admission::new(self.admission.counts());
            self.admission = self.listener.admit_client(self.admission, self.session.client())?;
        }
        Ok(())
    }

    /// Ends a session whose client may have none: it was accepted, and counts as denied.
    pub(super) fn deny(&mut self, reason: DenyReason) {
        self.client.reset_on_close();
        self.denied = Some(reason);
        self.log(None);
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.listener.shard
    }

    pub(super) fn upstream(&self) -> &Rc<Upstream> {
        &self.listener.destination(self.position).upstream
    }

    /// The rules of the relay.
    pub(super) fn rules(&self) -> &RelayRules {
        &self.listener.destination(self.position).rules
    }

    /// Counts bytes that the relay has delivered.
    pub(super) fn account(&self, backend: BackendId, to_backend: u64, to_client: u64) {
        self.listener.account(self.position, backend, to_backend, to_client);
    }

    /// What the client of TLS asks for, if that was read.
    pub(super) fn hello(&self) -> Option<&ClientHello> {
        self.hello.as_deref()
    }

    /// Goes by what the client asks for from now on.
    pub(super) fn set_hello(&mut self, hello: Box<ClientHello>) {
        self.hello = Some(hello);
    }

    /// Goes by the newest generation from now on, and by what the client asks for, which a session does until it has a
    /// backend. Returns whether that leads it to another upstream.
    pub(super) fn follow(&mut self) -> Result<bool, CloseReason> {
        let newest = self.listener.newest();
        let Some(position) = newest.lead(self.hello()) else {
            log::debug!("listener {}: no route for {}", newest.config().name, self.session.client());
            return Err(CloseReason::HandshakeFailed);
        };
        let before = self.upstream().id;
        (self.listener, self.position) = (newest, position);
        let is_led_elsewhere = before != self.upstream().id;
        if is_led_elsewhere {
            self.session.upstream.set(self.upstream().id);
            self.session.backend.set(None);
        }
        Ok(is_led_elsewhere)
    }

    /// Goes by the newest listener, before anything of the client is known.
    pub(super) fn follow_listener(&mut self) {
        self.listener = self.listener.newest();
        self.position = 0;
        self.session.upstream.set(self.upstream().id);
    }

    /// Returns whether the newest generation leads to another upstream, or nowhere.
    pub(super) fn is_led_elsewhere(&self) -> bool {
        let newest = self.listener.newest();
        let leads_to = |position| newest.destination(position).upstream.id;
        newest.lead(self.hello()).map(leads_to) != Some(self.upstream().id)
    }

    /// Returns when the session has to end.
    pub(super) fn deadline(&self) -> Tick {
        let limit = self.listener.config().timeouts.session;
        limit.map_or(Tick::NEVER, |limit| self.session.begun.tick().after(limit))
    }

    /// Returns why the session has to end at once, whatever it does, if it has to.
    pub(super) fn must_end(&self) -> Option<CloseReason> {
        if self.shard().is_closing() || self.listener.is_over() {
            Some(CloseReason::Shutdown)
        } else {
            self.session.killed.get().then_some(CloseReason::Killed)
        }
    }

    /// Notes why the session ends.
    pub(super) fn end(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Ends a session that got no backend.
    pub(super) fn turn_away(&mut self, reason: CloseReason) {
        if reason == CloseReason::BackendReset {
            self.note_unserved();
        }
        self.client.reset_on_close();
        self.end(reason);
        self.log(None);
    }

    /// Ends a session whose TLS handshake came to nothing, with FIN if its client was told why.
    pub(super) fn end_handshake(&mut self, reason: CloseReason) {
        if reason != CloseReason::HandshakeFailed || !self.client.is_encrypted() {
            return self.turn_away(reason);
        }
        self.end(reason);
        self.log(None);
    }

    /// Reads what the kernel knows of the connection to the backend, counts it, and logs the session. What a connection that
    /// goes on has sent again is counted when it ends, not with each of its sessions.
    pub(super) fn log_with_backend(&self, backend: BackendId, socket: &Peer, goes_on: bool) {
        let info = socket.with(net::tcp_info);
        if let Some(info) = info {
            let counters = self.upstream().counters(backend);
            counters.round_trip.observe(info.round_trip);
            counters.retransmitted.add(if goes_on { 0 } else { info.retransmitted.into() });
            self.upstream().note_core(socket);
        }
        self.log(info);
    }

    /// Counts a client that a backend reset before a byte, and that is turned away because no other backend
    /// is left.
    pub(super) fn note_unserved(&self) {
        self.listener.counters().reset_unserved.add(1);
    }

    /// Returns the reason for which the end of the client's or the backend's connection counts: a peer
    /// that has vanished has not reset it.
    pub(super) fn reset_by(&self, side: Side, backend: &Peer) -> CloseReason {
        match side {
            Side::Client if self.client.died_silent() => CloseReason::ClientDead,
            Side::Client => CloseReason::ClientReset,
            Side::Backend if backend.is_unended() => CloseReason::Truncated,
            Side::Backend if backend.died_silent() => CloseReason::BackendDead,
            Side::Backend => CloseReason::BackendReset,
        }
    }

    /// Writes the record of the session: to the access log, and to the log of the process at level debug.
    fn log(&self, backend_info: Option<TcpInfo>) {
        let (shard, session) = (self.shard(), &*self.session);
        let is_wanted = |log: &AccessLogger| match self.denied {
            Some(_) => log.admits_denial(Moment::read_clock()),
            None => log.wants(self.reason, session.retries.get()),
        };
        let is_access_logged = shard.access_log.as_ref().is_some_and(is_wanted);
        if !is_access_logged && !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let wants_info = shard.access_log.as_ref().is_some_and(|log| log.wants_info());
        let record = AccessRecord {
            id: session.id,
            begun: session.begun,
            ended: Moment::read_clock(),
            client: session.client(),
            peer: session.peer,
            listener: session.listener,
            upstream: self.upstream().id,
            backend: session.backend.get(),
            shard: shard.id(),
            end: self.end_in_log(),
            queue_micros: session.queue_micros.get(),
            connect_micros: session.connect_micros(),
            to_backend: session.to_backend.get(),
            to_client: session.to_client.get(),
            retries: session.retries.get(),
            ahead: session.ahead.get(),
            server_name: self.hello().and_then(ClientHello::server_name).map(Into::into),
            tls: self.client.with_agreed(Agreed::of).flatten(),
            client_info: if wants_info { self.client.with(net::tcp_info) } else { None },
            backend_info,
        };
        if log::log_enabled!(log::Level::Debug) {
            self.log_debug(&record);
        }
        if is_access_logged && let Some(log) = &shard.access_log {
            log.write(record);
        }
    }

    fn end_in_log(&self) -> End {
        self.denied.map_or_else(|| End::Closed(self.reason, self.session.phase.get()), End::Denied)
    }

    fn log_debug(&self, record: &AccessRecord) {
        let upstream = self.upstream();
        let backend = record.backend.map_or("-", |backend| upstream.backend_name(backend));
        let (reason, letters) = (record.end.name(), record.end.letters());
        let letters = str::from_utf8(&letters).unwrap_or("--");
        let (listener, upstream) = (&*self.listener.config().name, &*upstream.config().name);
        let client = record.client.to_string();
        let seconds = record.ended.since(record.begun).as_secs_f64();
        let AccessRecord { to_backend, to_client, .. } = *record;
        log::debug!(event = "session_closed", reason, letters, client, listener, upstream, backend, seconds,
            to_backend, to_client;
            "session closed: {reason} ({letters}) client={client} listener={listener} backend={backend} \
             seconds={seconds:.3} to_backend={to_backend} to_client={to_client}");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.reason == CloseReason::Internal && self.denied.is_none() {
            self.log(None);
        }
        let shard = self.shard();
        let counters = self.listener.counters();
        counters.duration.observe(Moment::read_clock().since(self.session.begun));
        shard.sessions.end(&self.session);
        counters.active.subtract(1);
        shard.cores.end_session(shard.id());
        if self.reason.blames_backend()
            && let Some(backend) = self.session.backend.get()
        {
            self.upstream().counters(backend).broken.add(1);
        }
        let is_unended = self.reason == CloseReason::Normal && self.client.is_unended();
        counters.tls_unended.add(is_unended.into());
        match self.denied {
            Some(reason) => counters.denied[reason.index()].add(1),
            None => counters.closed[self.reason.index()].add(1),
        }
        self.listener.release(self.admission);
        shard.leave();
    }
}
