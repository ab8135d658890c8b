//! The open sessions of a shard, for whoever lists or ends them.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use slab::Slab;

use crate::base::{BackendId, ClientAddress, ListenerId, Moment, SessionPhase, ShardId, UpstreamId};
use crate::protocol::proxy::Endpoints;

/// Bits of the shard in the number of a session.
pub const SHARD_BITS: u32 = 10;
const _: () = assert!(crate::base::limits::SHARDS_MAX <= 1 << SHARD_BITS);

/// What others may know of an open session. Its own task writes.
pub(super) struct Session {
    /// No other session of the process has this number: the shard in its lowest bits, and how many sessions the shard
    /// had before.
    pub(super) id: u64,
    pub(super) begun: Moment,
    /// Whose socket it is.
    pub(super) peer: ClientAddress,
    /// What a proxy in front has said.
    announced: OnceCell<Box<Announced>>,
    pub(super) listener: ListenerId,
    pub(super) upstream: Cell<UpstreamId>,
    /// The last backend that was tried.
    pub(super) backend: Cell<Option<BackendId>>,
    pub(super) phase: Cell<SessionPhase>,
    /// Whether an operator has ordered the end of the session.
    pub(super) killed: Cell<bool>,
    /// Wakes its task.
    waker: OnceCell<Waker>,
    /// Attempts on another backend after a failed one.
    pub(super) retries: Cell<u8>,
    /// The number of clients that waited when this one began to wait.
    pub(super) ahead: Cell<u16>,
    /// How long the client has waited for a permit, microseconds.
    pub(super) queue_micros: Cell<u32>,
    /// How long it took from then, or from the moment at which the client was known, until a backend had accepted the
    /// connection, microseconds.
    connect_micros: Cell<u32>,
    /// Bytes delivered.
    pub(super) to_backend: Cell<u64>,
    pub(super) to_client: Cell<u64>,
    /// Its position in the table.
    key: u32,
}

/// What a PROXY header has said of a client.
struct Announced {
    endpoints: Option<Endpoints>,
    /// How long it took until the header was there, microseconds.
    micros: u32,
}

/// Stands for a time that is not known yet, microseconds.
const NOT_YET: u32 = u32::MAX;

/// The open sessions of a shard.
#[derive(Default)]
pub(super) struct Sessions {
    open: RefCell<Slab<Rc<Session>>>,
    /// The number of sessions so far.
    count: Cell<u64>,
}

/// Returns the shard that has given this number to a session.
#[must_use]
pub fn shard_of(session: u64) -> ShardId {
    ShardId((session & ((1 << SHARD_BITS) - 1)) as u16)
}

impl Sessions {
    /// Adds a session that begins now.
    pub(super) fn begin(
        &self,
        shard: ShardId,
        (listener, upstream): (ListenerId, UpstreamId),
        peer: ClientAddress,
    ) -> Rc<Session> {
        let mut open = self.open.borrow_mut();
        let entry = open.vacant_entry();
        let session = Rc::new(Session {
            id: self.next_id(shard),
            begun: Moment::read_clock(),
            peer,
            announced: OnceCell::new(),
            listener,
            upstream: Cell::new(upstream),
            backend: Cell::new(None),
            phase: Cell::new(SessionPhase::Connecting),
            killed: Cell::new(false),
            waker: OnceCell::new(),
            retries: Cell::new(0),
            ahead: Cell::new(0),
            queue_micros: Cell::new(0),
            connect_micros: Cell::new(NOT_YET),
            to_backend: Cell::new(0),
            to_client: Cell::new(0),
            key: u32::try_from(entry.key()).expect("fewer sessions than descriptors"),
        });
        entry.insert(Rc::clone(&session));
        session
    }

    /// Returns a number that no session of the process has.
    pub(super) fn next_id(&self, shard: ShardId) -> u64 {
        let count = self.count.get();
        self.count.set(count + 1);
        count << SHARD_BITS | u64::from(shard.0)
    }

    /// Removes a session that ends. Memory that a crowd has left is given back with its last session.
    pub(super) fn end(&self, session: &Session) {
        let mut open = self.open.borrow_mut();
        open.remove(session.position());
        if open.is_empty() && open.capacity() > KEPT {
            *open = Slab::new();
        }
    }

    /// Returns the session with this number if it is at one of these positions of the table, and whether there may be
    /// further ones behind.
    pub(super) fn find(&self, id: u64, from: usize, count: usize) -> (Option<Rc<Session>>, bool) {
        let open = self.open.borrow();
        let end = from.saturating_add(count);
        let mut sessions = (from..end.min(open.capacity())).filter_map(|key| open.get(key));
        (sessions.find(|session| session.id == id).map(Rc::clone), end < open.capacity())
    }

    /// Returns the sessions at these positions of the table, and whether there may be further ones behind.
    pub(super) fn range(&self, from: usize, count: usize) -> (Vec<Rc<Session>>, bool) {
        let open = self.open.borrow();
        let end = from.saturating_add(count);
        let found = (from..end.min(open.capacity())).filter_map(|key| open.get(key)).map(Rc::clone).collect();
        (found, end < open.capacity())
    }
}

/// Capacity that is kept although it is unused.
const KEPT: usize = 1_024;

impl Session {
    /// Returns the position of the session in the table.
    pub(super) fn position(&self) -> usize {
        self.key as usize
    }

    /// Returns its client: the peer, unless a proxy has announced another one.
    pub(super) fn client(&self) -> ClientAddress {
        self.announced().map_or(self.peer, |endpoints| Some(endpoints.client).into())
    }

    /// Returns what a proxy has said of the client's connection.
    pub(super) fn announced(&self) -> Option<Endpoints> {
        self.announced.get()?.endpoints
    }

    /// Notes what a proxy has said of the client's connection: `None` if it is the proxy's own.
    pub(super) fn announce(&self, endpoints: Option<Endpoints>, now: Moment) {
        let micros = micros(self.begun, now);
        let _ = self.announced.set(Box::new(Announced { endpoints, micros }));
    }

    /// Returns how long it took until a backend had accepted the connection, microseconds; `None` if none has.
    pub(super) fn connect_micros(&self) -> Option<u32> {
        Some(self.connect_micros.get()).filter(|micros| *micros != NOT_YET)
    }

    /// Notes what wakes its task, which is the same as long as the task lives.
    pub(super) fn note_waker(&self, waker: &Waker) {
        let _ = self.waker.set(waker.clone());
    }

    /// Orders the end of the session, and wakes its task alone.
    pub(super) fn kill(&self) {
        self.killed.set(true);
        // Without it, the task has not run yet, and looks when it does.
        self.waker.get().into_iter().for_each(Waker::wake_by_ref);
    }

    /// Adds to the time that the client has waited for a permit.
    pub(super) fn has_waited(&self, since: Moment, now: Moment) {
        let micros = micros(since, now);
        self.queue_micros.set(self.queue_micros.get().saturating_add(micros));
    }

    /// Notes that a backend has accepted the connection.
    pub(super) fn has_connected(&self, now: Moment) {
        let before = self.announced.get().map_or(0, |announced| announced.micros);
        let waited = before.saturating_add(self.queue_micros.get());
        let micros = micros(self.begun, now).saturating_sub(waited);
        self.connect_micros.set(micros.min(NOT_YET - 1));
        self.phase.set(SessionPhase::Relaying);
    }
}

fn micros(since: Moment, now: Moment) -> u32 {
    u32::try_from(now.since(since).as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_by_number_and_page_by_page() {
        let sessions = Sessions::default();
        let begin = || sessions.begin(ShardId(3), (ListenerId(0), UpstreamId(0)), ClientAddress::UNIX);
        let open: Vec<_> = (0..10).map(|_| begin()).collect();
        assert!(open.iter().all(|session| shard_of(session.id) == ShardId(3)));
        let found = |from| sessions.find(open[4].id, from, 3).0.map(|found| found.id);
        assert_eq!([found(0), found(3), found(6)], [None, Some(open[4].id), None]);
        sessions.end(&open[4]);
        assert_eq!(found(3), None);
        assert!(sessions.find(open[4].id, 0, 3).1 && !sessions.find(open[4].id, 3, usize::MAX).1);
        let (mut ids, mut from) = (Vec::new(), 0);
        loop {
            let (page, more) = sessions.range(from, 3);
            ids.extend(page.iter().map(|session| session.id));
            from += 3;
            if !more {
                break;
            }
        }
        assert_eq!(ids.len(), 9);
        open.iter().filter(|session| session.id != open[4].id).for_each(|session| sessions.end(session));
        assert_eq!(sessions.range(0, 100).0.len(), 0);
    }

    #[test]
    fn session_is_small() {
        assert!(size_of::<Session>() <= 104, "{}", size_of::<Session>());
    }
}
