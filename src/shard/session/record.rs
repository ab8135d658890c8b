//! The account of a session: counted when it begins, and again when it is dropped, whatever ends its task.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use crate::base::{BackendId, CloseReason, DenyReason, Tick};
use crate::net::Peer;
use crate::relay::{Moved, Side};
use crate::shard::listener::Listener;
use crate::shard::state::Shard;
use crate::shard::upstream::Upstream;

/// A session: its client, what it belongs to, and why it ended. Dropping it counts the close and gives back
/// its permit.
pub(super) struct Record {
    pub(super) client: Peer,
    pub(super) listener: Rc<Listener>,
    pub(super) begun: Tick,
    /// [`CloseReason::Internal`] until the session sets another reason, so that a panic is counted as such.
    reason: CloseReason,
}

impl Record {
    /// Counts a connection, and makes it a session if the limit of the process allows one more; otherwise
    /// returns the client.
    pub(super) fn admit(listener: &Rc<Listener>, client: Peer) -> Result<Self, Peer> {
        let (shard, counters) = (&listener.shard, listener.counters());
        counters.accepted.add(1);
        if !shard.limit.take() {
            counters.denied[DenyReason::ProcessLimit.index()].add(1);
            return Err(client);
        }
        counters.active.add(1);
        shard.cores.begin_session(shard.id());
        shard.enter();
        note_address(shard, &client);
        let begun = shard.now();
        Ok(Self { client, listener: Rc::clone(listener), begun, reason: CloseReason::Internal })
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.listener.shard
    }

    pub(super) fn upstream(&self) -> &Rc<Upstream> {
        &self.listener.upstream
    }

    /// Returns when the session has to end.
    pub(super) fn deadline(&self) -> Tick {
        let limit = self.listener.config().timeouts.session;
        limit.map_or(Tick::NEVER, |limit| self.begun.after(limit))
    }

    /// Notes why the session ends, and logs it with its backend and the bytes delivered.
    pub(super) fn end(&mut self, reason: CloseReason, backend: Option<BackendId>, delivered: Moved) {
        self.reason = reason;
        if log::log_enabled!(log::Level::Debug) {
            self.log(backend, delivered);
        }
    }

    /// Ends a session that got no backend.
    pub(super) fn turn_away(&mut self, reason: CloseReason) {
        if reason == CloseReason::BackendReset {
            self.note_unserved();
        }
        self.client.reset_on_close();
        self.end(reason, None, Moved::default());
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
            Side::Backend if backend.died_silent() => CloseReason::BackendDead,
            Side::Backend => CloseReason::BackendReset,
        }
    }

    fn log(&self, backend: Option<BackendId>, Moved { to_backend, to_client }: Moved) {
        let (shard, upstream) = (self.shard(), self.upstream());
        let client = shard.clients.borrow_mut().remove(&self.client.with(|socket| socket.as_raw_fd()));
        let client = client.as_deref().unwrap_or("-");
        let backend = backend.map_or("-", |backend| upstream.backend_name(backend));
        let (reason, letters) = (self.reason.name(), self.reason.letters());
        let (listener, upstream) = (&*self.listener.config().name, &*upstream.config().name);
        let seconds = shard.now().since(self.begun).as_secs_f64();
        log::debug!(event = "session_closed", reason, letters, client, listener, upstream, backend, seconds,
            to_backend, to_client;
            "session closed: {reason} ({letters}) client={client} listener={listener} backend={backend} \
             seconds={seconds:.3} to_backend={to_backend} to_client={to_client}");
    }
}

/// Notes the address of a client for the record of its session, while the socket can still tell it.
fn note_address(shard: &Shard, client: &Peer) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let Some(peer) = client.with(|socket| socket.peer_addr().ok()) else { return };
    // An IPv4 client of a dual-stack listener is shown as the IPv4 client that it is elsewhere.
    let canonical = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let text = peer.as_socket().map_or_else(|| "unix:".to_owned(), |peer| canonical(peer).to_string());
    shard.clients.borrow_mut().insert(client.with(|socket| socket.as_raw_fd()), text);
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.reason == CloseReason::Internal && log::log_enabled!(log::Level::Debug) {
            self.log(None, Moved::default());
        }
        let shard = self.shard();
        let counters = self.listener.counters();
        counters.active.subtract(1);
        shard.cores.end_session(shard.id());
        counters.closed[self.reason.index()].add(1);
        shard.limit.give_back();
        shard.leave();
    }
}
