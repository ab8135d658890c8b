//! Ready connections to the backends of one upstream, on one shard.
//!
//! A pooled connection has a receive armed, so its end is noticed when it comes; what has come since the last
//! turn of the ring is asked from the kernel when a connection is taken. The connection that was put in last
//! is taken first, so surplus connections grow old and are closed.
//!
//! If a backend speaks first, its greeting is kept, and the session that takes the connection gets it. On a
//! connection that has served a client, bytes can only be a late answer to that client, so the connection is
//! closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::base::{Address, BackendId, Tick};
use crate::net::Peer;
use crate::telemetry::counters::{BackendCounters, Cells, PoolCounters};
use crate::upstream::Permit;
use crate::uring::{Peeked, Receive};

/// Bytes of a greeting after which no more is received; the rest waits in the kernel for the session.
const GREETING: usize = 16 << 10;

/// A backend that ends a new connection within this time does not want it: a backend at its own limit accepts
/// and closes at once.
const SETTLED: Duration = Duration::from_secs(1);

/// The pool of one upstream.
pub struct Pool {
    /// By number; each is one with that of the version before.
    lists: Box<[Rc<IdleList>]>,
    counters: Cells<PoolCounters>,
    /// Of the backends, by number.
    backends: Rc<[Cells<BackendCounters>]>,
    /// Most connections for each backend.
    most: usize,
    max_idle: Option<Duration>,
}

/// The connections to one backend.
struct IdleList {
    ready: RefCell<Vec<Ready>>,
    /// How many of the first connections were looked at; their sockets report when there is something new.
    watched: Cell<usize>,
    /// When the first of those connections becomes too old.
    first_end: Cell<Tick>,
    /// The addresses that all of them led to when they were looked at.
    addresses: RefCell<Option<Rc<[Address]>>>,
    /// Woken by their sockets.
    notice: Arc<Notice>,
    notice_waker: Waker,
    /// Whether a connection is being made.
    connecting: Cell<bool>,
    /// Connections in sessions without a byte yet, which may come back.
    leased: Cell<u32>,
    /// Sessions that would give up their permit to a waiting client.
    lingering: RefCell<BTreeMap<u64, Waker>>,
    /// The number of lingering sessions so far.
    lingerings: Cell<u64>,
}

/// Tells the pool task of a list that something has come on one of its sockets, and not merely that a
/// connection was taken: taking one from a large pool must not cause a look at all of it.
#[derive(Default)]
struct Notice {
    changed: AtomicBool,
    /// Only the thread that owns the pool uses this; but a waker must work on any thread.
    task: Mutex<Option<Waker>>,
}

impl Notice {
    fn wake_task(&self) {
        if let Some(waker) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    fn set_task(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        self.changed.store(true, Relaxed);
        self.wake_task();
    }
}

impl IdleList {
    fn new() -> Self {
        let notice = Arc::<Notice>::default();
        Self {
            ready: RefCell::default(),
            watched: Cell::new(0),
            first_end: Cell::new(Tick::NEVER),
            addresses: RefCell::new(None),
            notice_waker: Waker::from(Arc::clone(&notice)),
            notice,
            connecting: Cell::new(false),
            leased: Cell::new(0),
            lingering: RefCell::default(),
            lingerings: Cell::new(0),
        }
    }

    /// Returns how many of the first connections need no look now.
    fn known(&self, now: Tick, addresses: &Rc<[Address]>) -> usize {
        let same = self.addresses.borrow().as_ref().is_some_and(|known| Rc::ptr_eq(known, addresses));
        let changed = self.notice.changed.swap(false, Relaxed);
        if same && !changed && now < self.first_end.get() { self.watched.get() } else { 0 }
    }
}

struct Ready {
    // Dropped before the permit, which another session may get then.
    connection: Connection,
    permit: Permit,
    since: Tick,
    until: Tick,
}

impl Ready {
    fn has_ended(&self) -> bool {
        has_ended(&self.connection.socket)
    }

    /// Returns whether all that the backend has sent can be a late answer to a client.
    fn is_spoken_on(&self) -> bool {
        self.connection.socket.received() > 0 && !self.connection.fresh
    }
}

/// A connection to a backend that belongs to no session.
pub struct Connection {
    /// The connection.
    pub socket: Peer,
    /// The address that the connection leads to.
    pub address: Address,
    /// Whether the connection has served no client.
    pub fresh: bool,
}

/// Returns whether nothing more can come, as far as was received.
fn has_ended(socket: &Peer) -> bool {
    socket.is_dead() || socket.ended().is_some()
}

/// Returns whether a session can use a connection: it is open, and what was received on it would also come on
/// a new one.
#[must_use]
pub fn is_fit(socket: &Peer, fresh: bool) -> bool {
    if has_ended(socket) {
        return false;
    }
    if socket.received() > 0 {
        return fresh;
    }
    match socket.peek() {
        Peeked::Nothing => true,
        Peeked::Bytes => fresh,
        Peeked::End => false,
    }
}

/// A connection in a session without a byte yet.
pub struct Lease {
    pool: Rc<Pool>,
    backend: BackendId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.list(self.backend).leased.update(|leased| leased - 1);
        self.pool.wake(self.backend);
    }
}

/// A session that would give up its permit if a client waited for it.
pub struct NotedLingering {
    pool: Rc<Pool>,
    backend: BackendId,
    key: u64,
}

impl NotedLingering {
    /// Has the session's task woken by each [`Pool::wake_lingering`].
    pub fn wake(&self, waker: &Waker) {
        self.pool.list(self.backend).lingering.borrow_mut().insert(self.key, waker.clone());
    }
}

impl Drop for NotedLingering {
    fn drop(&mut self) {
        self.pool.list(self.backend).lingering.borrow_mut().remove(&self.key);
    }
}

impl Pool {
    /// Creates a pool with the connections of `previous`, the one of the generation before, with which it has them in
    /// common, or an empty one.
    #[must_use]
    pub fn new(
        counters: Cells<PoolCounters>,
        backends: Rc<[Cells<BackendCounters>]>,
        (most, max_idle): (usize, Option<Duration>),
        previous: Option<&Self>,
    ) -> Self {
        let kept = |index: usize| previous.and_then(|previous| previous.lists.get(index)).map(Rc::clone);
        let list = |index| kept(index).unwrap_or_else(|| Rc::new(IdleList::new()));
        let lists = (0..backends.len()).map(list).collect();
        Self { lists, counters, backends, most, max_idle }
    }

    /// Returns the counters of the pool.
    #[must_use]
    pub fn counters(&self) -> &PoolCounters {
        &self.counters
    }

    /// Publishes the number of connections to a backend.
    fn publish(&self, backend: BackendId) {
        self.backends[backend.index()].pooled.set(self.len(backend) as u64);
    }

    /// Ends connections that the pool no longer wants.
    fn end(&self, backend: BackendId, unwanted: impl IntoIterator<Item = Ready>) {
        unwanted.into_iter().for_each(|ready| {
            self.counters().closed.add(1);
            drop(ready);
        });
        self.publish(backend);
    }

    fn list(&self, backend: BackendId) -> &IdleList {
        &self.lists[backend.index()]
    }

    /// Returns the number of connections to a backend, including the one that is being made.
    #[must_use]
    pub fn len(&self, backend: BackendId) -> usize {
        let list = self.list(backend);
        list.ready.borrow().len() + usize::from(list.connecting.get())
    }

    /// Returns whether there is room for one more connection, besides `out` connections that are expected
    /// back.
    #[must_use]
    pub fn has_room(&self, backend: BackendId, out: usize) -> bool {
        self.len(backend) + out < self.most
    }

    /// Returns whether a session could [take](Self::take) a connection.
    #[must_use]
    pub fn has_ready(&self, backend: BackendId) -> bool {
        let ready = self.list(backend).ready.borrow();
        ready.iter().any(|ready| is_fit(&ready.connection.socket, ready.connection.fresh))
    }

    /// Returns how many connections are [leased](Self::lease).
    #[must_use]
    pub fn leased(&self, backend: BackendId) -> usize {
        self.list(backend).leased.get() as usize
    }

    /// Notes a connection that is expected back, until the guard is dropped.
    #[must_use]
    pub fn lease(self: &Rc<Self>, backend: BackendId) -> Lease {
        self.list(backend).leased.update(|leased| leased + 1);
        Lease { pool: Rc::clone(self), backend }
    }

    /// Notes a session that would give up its permit, until the guard is dropped.
    #[must_use]
    pub fn note_lingering(self: &Rc<Self>, backend: BackendId) -> NotedLingering {
        let key = self.list(backend).lingerings.get();
        self.list(backend).lingerings.set(key + 1);
        NotedLingering { pool: Rc::clone(self), backend, key }
    }

    /// Wakes the sessions that would give up their permit.
    pub fn wake_lingering(&self) {
        self.lists.iter().for_each(|list| list.lingering.borrow().values().for_each(Waker::wake_by_ref));
    }

    /// Notes whether a connection is being made.
    pub fn set_connecting(&self, backend: BackendId, connecting: bool) {
        self.list(backend).connecting.set(connecting);
        self.publish(backend);
    }

    /// Takes the connection that was put in last and is fit, with its permit.
    pub fn take(&self, backend: BackendId) -> Option<(Connection, Permit)> {
        let list = self.list(backend);
        if list.ready.borrow().is_empty() {
            return None;
        }
        let mut unfit = Vec::new();
        let taken = loop {
            let Some(ready) = list.ready.borrow_mut().pop() else { break None };
            if is_fit(&ready.connection.socket, ready.connection.fresh) {
                break Some((ready.connection, ready.permit));
            }
            unfit.push(ready);
        };
        // A connection that is put in next was not watched yet.
        list.watched.set(list.watched.get().min(list.ready.borrow().len()));
        self.end(backend, unfit);
        self.wake(backend);
        taken
    }

    /// Puts a connection in. `chance`, from 0 to 1, shortens the time that it may stay by up to a tenth, so
    /// that connections which came together do not end together.
    pub fn put(&self, connection: Connection, permit: Permit, now: Tick, chance: f64) {
        let (backend, permit) = (permit.backend(), permit.idle());
        // The backend learns of the end before anybody else can have the permit, and not with the close, which waits for
        // the last completion.
        connection.socket.end_at_drop(true);
        let idle = self.max_idle.map(|idle| idle.mul_f64(1.0 - chance / 10.0));
        let until = idle.map_or(Tick::NEVER, |idle| now.after(idle));
        self.list(backend).ready.borrow_mut().push(Ready { connection, permit, since: now, until });
        self.publish(backend);
        self.wake(backend);
    }

    /// Closes the connections that are too old or unfit, or that lead to none of these addresses. Returns
    /// whether the backend has ended a new one.
    pub fn tidy(&self, backend: BackendId, now: Tick, addresses: &Rc<[Address]>) -> bool {
        let list = self.list(backend);
        let known = list.known(now, addresses).min(list.ready.borrow().len());
        list.watched.set(known);
        if known == 0 {
            list.first_end.set(Tick::NEVER);
            list.addresses.replace(Some(Rc::clone(addresses)));
        }
        let stays = |ready: &Ready| {
            let leads_there = addresses.contains(&ready.connection.address);
            ready.until > now && !ready.is_spoken_on() && !ready.has_ended() && leads_there
        };
        let go: Vec<_> = list.ready.borrow_mut().extract_if(known.., |ready| !stays(ready)).collect();
        let is_refused =
            |ready: &Ready| ready.connection.fresh && ready.has_ended() && now.since(ready.since) < SETTLED;
        let is_refused = go.iter().any(is_refused);
        self.end(backend, go);
        is_refused
    }

    /// Closes the connection that was put in first. Returns whether there was one.
    pub fn close_one(&self, backend: BackendId) -> bool {
        let mut ready = self.list(backend).ready.borrow_mut();
        if ready.is_empty() {
            return false;
        }
        let first = ready.remove(0);
        drop(ready);
        self.list(backend).watched.update(|watched| watched.saturating_sub(1));
        self.end(backend, [first]);
        true
    }

    /// Closes all connections to a backend.
    pub fn clear(&self, backend: BackendId) {
        let list = self.list(backend);
        list.watched.set(0);
        list.first_end.set(Tick::NEVER);
        let all = list.ready.take();
        self.end(backend, all);
    }

    /// Has the pool task woken when there is something to do, and arms what reports that. Returns the latest
    /// time at which the task has to look.
    pub fn watch(&self, backend: BackendId, waker: &Waker) -> Tick {
        let list = self.list(backend);
        list.notice.set_task(waker);
        let ready = list.ready.borrow();
        for one in &ready[list.watched.get().min(ready.len())..] {
            let socket = &one.connection.socket;
            socket.register(&list.notice_waker);
            socket.spill_received();
            if socket.received() < GREETING {
                socket.receive(Receive::One);
            }
            if one.has_ended() || one.is_spoken_on() {
                // The connection ended, or was sent bytes, before the notice was registered.
                list.notice_waker.wake_by_ref();
            }
            list.first_end.set(list.first_end.get().min(one.until));
        }
        list.watched.set(ready.len());
        list.first_end.get()
    }

    /// Wakes the pool task of a backend.
    pub fn wake(&self, backend: BackendId) {
        self.list(backend).notice.wake_task();
    }

    /// Wakes the pool tasks of all backends.
    pub fn wake_pool_tasks(&self) {
        (0..self.lists.len()).for_each(|index| self.wake(BackendId(index as u16)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::{ShardId, ShardPlace};
    use crate::config;
    use crate::upstream::{BackendState, Health, Snapshot, UpstreamTable};
    use crate::uring::{BufferSettings, Ring};

    const BACKEND: BackendId = BackendId(0);
    const IDLE: Duration = Duration::from_secs(100);

    fn empty(most: usize, max_idle: Option<Duration>) -> Pool {
        Pool::new(Cells::default(), Rc::from([Cells::default()]), (most, max_idle), None)
    }

    fn snapshot() -> Snapshot {
        let yaml = b"loadbalancer: {listen_address: ':1'}\nbackends: [{address: 127.0.0.1, port: 2}]\n";
        let config = config::parse("test.yaml", yaml).expect("a valid configuration").config;
        Snapshot::build(Arc::new(config), 1, None, None).expect("numbers")
    }

    /// An upstream with one backend, which is up.
    fn table() -> UpstreamTable {
        let snapshot = snapshot();
        let place = ShardPlace { shard: ShardId(0), shards: 1, seed: 0 };
        let table = UpstreamTable::new(Arc::clone(&snapshot.upstreams()[0]), place, None);
        let addresses = Arc::from([Address::Unix("b".into())]);
        table.apply(&[BackendState { health: Health::Up, addresses, ..BackendState::unknown() }]);
        table
    }

    /// A pool of connections that came at the same moment, and the other ends of these.
    fn filled(ring: &Ring, count: usize) -> (Pool, Vec<UnixStream>) {
        let (pool, table) = (empty(count, Some(IDLE)), table());
        let mut random = fastrand::Rng::with_seed(1);
        let ends = (0..count).map(|_| {
            let (ours, theirs) = UnixStream::pair().expect("descriptors");
            let connection = Connection {
                socket: Peer::plain(ring.socket(ours.into())),
                address: Address::Unix("b".into()),
                fresh: true,
            };
            pool.put(connection, table.idle_permit(BACKEND).expect("no limit"), Tick(0), random.f64());
            theirs
        });
        let ends = ends.collect();
        (pool, ends)
    }

    #[test]
    fn lingering_sessions_are_forgotten_with_their_guards() {
        let pool = Rc::new(empty(1, None));
        let noted: Vec<_> = (0..3).map(|_| pool.note_lingering(BACKEND)).collect();
        (0..2).for_each(|_| noted.iter().for_each(|one| one.wake(Waker::noop())));
        assert_eq!(pool.list(BACKEND).lingering.borrow().len(), 3);
        pool.wake_lingering();
        drop(noted);
        assert_eq!(pool.list(BACKEND).lingering.borrow().len(), 0);
    }

    #[test]
    fn cleared_pool_has_no_end_to_wait_for() {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        let (pool, _ends) = filled(&ring, 2);
        assert!(pool.watch(BACKEND, Waker::noop()) < Tick::NEVER);
        pool.clear(BACKEND);
        assert_eq!(pool.watch(BACKEND, Waker::noop()), Tick::NEVER, "or its task would be woken for ever");
    }

    #[test]
    fn taking_one_of_many_has_no_other_one_looked_at() {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        let (pool, mut ends) = filled(&ring, 100);
        let addresses: Rc<[Address]> = [Address::Unix("b".into())].into();
        let known = || {
            let known = pool.list(BACKEND).known(Tick(1), &addresses);
            pool.tidy(BACKEND, Tick(1), &addresses);
            pool.watch(BACKEND, Waker::noop());
            known
        };
        assert_eq!((known(), known()), (0, 100));
        let taken = pool.take(BACKEND).expect("one of them");
        assert_eq!(known().min(pool.len(BACKEND)), 99);
        // A connection that is put in is looked at, and one that has ended causes a look at all of them.
        pool.put(taken.0, taken.1, Tick(1), 0.0);
        assert_eq!(known(), 99);
        assert_eq!(known(), 100);
        // Also a connection that was taken and came back before the task looked.
        let taken = pool.take(BACKEND).expect("one of them");
        pool.put(taken.0, taken.1, Tick(1), 0.0);
        assert_eq!(known(), 99);
        assert_eq!(known(), 100);
        ends.pop();
        pool.list(BACKEND).notice_waker.wake_by_ref();
        assert_eq!(known(), 0);
    }

    #[test]
    fn connections_that_came_together_end_one_after_the_other_in_the_last_tenth_of_their_time() {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        let (pool, _ends) = filled(&ring, 64);
        let addresses: Rc<[Address]> = [Address::Unix("b".into())].into();
        let closed_at = |percent: u64| {
            let now = Tick(IDLE.as_millis() as u64 * percent / 100);
            let before = pool.len(BACKEND);
            pool.watch(BACKEND, Waker::noop());
            pool.tidy(BACKEND, now, &addresses);
            before - pool.len(BACKEND)
        };
        assert_eq!(closed_at(89), 0);
        let closed: Vec<_> = (91..=100).map(closed_at).collect();
        assert_eq!(closed.iter().sum::<usize>(), 64);
        // All of them ending in one half of that time is as likely as 64 heads in a row.
        assert!(
            closed[..5].iter().any(|&count| count > 0) && closed[5..].iter().any(|&count| count > 0),
            "{closed:?}"
        );
    }
}
