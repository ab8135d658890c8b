//! Ready connections to the backends of one upstream, on one shard.
//!
//! A connection in the pool has a receive armed, so its end is noticed when it comes; what came unnoticed since the last
//! turn of the ring is asked from the kernel when a connection is taken. The last one that came is the first one taken: so
//! what is not needed gets old and is closed.
//!
//! A backend that speaks first has its greeting kept: the session that gets the connection gets it. On a connection that
//! has served a client, bytes can only be a late answer to that client, and it is closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use crate::rules::upstream::Address;
use crate::uring::{Peeked, Socket, Tick};
use crate::words::BackendId;

/// Nothing more is received of a greeting, bytes; the rest waits in the kernel for the session.
const GREETING: usize = 16 << 10;

/// The pool of one upstream.
pub struct Pool {
    shelves: Box<[Shelf]>,
    /// Most connections for each backend.
    most: usize,
    max_idle: Option<Duration>,
}

/// The connections to one backend.
#[derive(Default)]
struct Shelf {
    ready: RefCell<Vec<Ready>>,
    /// One is being made.
    connecting: Cell<bool>,
    /// In sessions without a byte yet, which may come back.
    lent: Cell<u32>,
    /// Of the task that fills and tidies the shelf.
    keeper: RefCell<Option<Waker>>,
}

struct Ready {
    connection: Pooled,
    until: Tick,
}

/// A connection that is in no session.
pub struct Pooled {
    /// The connection.
    pub socket: Socket,
    /// Where it leads.
    pub address: Address,
    /// It has served no client.
    pub fresh: bool,
}

impl Pooled {
    /// Whether a session can use it: it stands, and what was received is what a new connection would bring too.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        if self.socket.is_dead() || self.socket.ended().is_some() {
            return false;
        }
        if self.socket.received() > 0 {
            return self.fresh;
        }
        match self.socket.peek() {
            Peeked::Nothing => true,
            Peeked::Bytes => self.fresh,
            Peeked::End => false,
        }
    }
}

/// A connection in a session without a byte yet.
pub struct Lent {
    pool: Rc<Pool>,
    backend: BackendId,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.shelf(self.backend).lent.update(|lent| lent - 1);
        self.pool.wake(self.backend);
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(backends: usize, most: usize, max_idle: Option<Duration>) -> Self {
        Self { shelves: (0..backends).map(|_| Shelf::default()).collect(), most, max_idle }
    }

    fn shelf(&self, backend: BackendId) -> &Shelf {
        &self.shelves[backend.index()]
    }

    /// Connections to a backend, the one that is being made too.
    #[must_use]
    pub fn len(&self, backend: BackendId) -> usize {
        let shelf = self.shelf(backend);
        shelf.ready.borrow().len() + usize::from(shelf.connecting.get())
    }

    /// Whether there is room for one more beside `out` connections that are expected back.
    #[must_use]
    pub fn has_room(&self, backend: BackendId, out: usize) -> bool {
        self.len(backend) + out < self.most
    }

    /// How many are [lent](Self::lend).
    #[must_use]
    pub fn lent(&self, backend: BackendId) -> usize {
        self.shelf(backend).lent.get() as usize
    }

    /// Notes a connection that is expected back, until the guard is dropped.
    #[must_use]
    pub fn lend(self: &Rc<Self>, backend: BackendId) -> Lent {
        self.shelf(backend).lent.update(|lent| lent + 1);
        Lent { pool: Rc::clone(self), backend }
    }

    /// Notes that a connection is being made, or not any more.
    pub fn set_connecting(&self, backend: BackendId, connecting: bool) {
        self.shelf(backend).connecting.set(connecting);
    }

    /// The connection that was put last and is fit, and how many unfit ones were closed before it.
    pub fn take(&self, backend: BackendId) -> (Option<Pooled>, usize) {
        let mut unfit = 0;
        let taken = loop {
            // Dropped after the borrow ends: closing needs none, and the shelf is whole again.
            let Some(Ready { connection, .. }) = self.shelf(backend).ready.borrow_mut().pop() else {
                break None;
            };
            if connection.is_fit() {
                break Some(connection);
            }
            unfit += 1;
        };
        self.wake(backend);
        (taken, unfit)
    }

    /// Puts a connection in. `fraction`, 0 to 1, spreads the ends of those that come together.
    pub fn put(&self, backend: BackendId, connection: Pooled, now: Tick, fraction: f64) {
        // A tenth earlier at most.
        let until = self.max_idle.map_or(Tick::NEVER, |idle| now.after(idle.mul_f64(1.0 - fraction / 10.0)));
        self.shelf(backend).ready.borrow_mut().push(Ready { connection, until });
        self.wake(backend);
    }

    /// Closes the connections that are too old, unfit, or lead to none of these addresses. How many.
    pub fn tidy(&self, backend: BackendId, now: Tick, addresses: &[Address]) -> usize {
        let stays = |ready: &Ready| {
            let Ready { connection: Pooled { socket, address, fresh }, until } = ready;
            let spoken_on = socket.received() > 0 && !fresh;
            *until > now
                && !spoken_on
                && !socket.is_dead()
                && socket.ended().is_none()
                && addresses.contains(address)
        };
        let (stay, go) = self.shelf(backend).ready.take().into_iter().partition::<Vec<_>, _>(stays);
        self.shelf(backend).ready.replace(stay);
        go.len()
    }

    /// Closes the connection that was put first. Whether there was one.
    pub fn close_one(&self, backend: BackendId) -> bool {
        let mut ready = self.shelf(backend).ready.borrow_mut();
        if ready.is_empty() {
            return false;
        }
        let first = ready.remove(0);
        drop(ready);
        // The peer learns of it before whoever comes next can have connected. It may know already.
        let _ = first.connection.socket.shutdown_write();
        true
    }

    /// Closes all connections to a backend. How many.
    pub fn clear(&self, backend: BackendId) -> usize {
        self.shelf(backend).ready.take().len()
    }

    /// Has the keeper's task woken when there is something to do, and arms what tells of it. When that is at the latest.
    pub fn watch(&self, backend: BackendId, waker: &Waker) -> Tick {
        let shelf = self.shelf(backend);
        shelf.keeper.replace(Some(waker.clone()));
        let ready = shelf.ready.borrow();
        for Ready { connection: Pooled { socket, .. }, .. } in &*ready {
            socket.register(waker);
            socket.spill_received();
            if socket.received() < GREETING {
                socket.receive(false);
            }
        }
        ready.iter().map(|ready| ready.until).min().unwrap_or(Tick::NEVER)
    }

    /// Wakes the keeper of a backend.
    pub fn wake(&self, backend: BackendId) {
        if let Some(waker) = &*self.shelf(backend).keeper.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Wakes the keepers of all backends.
    pub fn wake_keepers(&self) {
        (0..self.shelves.len()).for_each(|index| self.wake(BackendId(index as u16)));
    }
}
