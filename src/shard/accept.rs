//! The accept loop of one listening socket of a shard. No error ends it.
//!
//! The loop begins when every primary of the upstream has its first verdict, or the time for it is over.
//! Until then clients wait in the kernel's backlog, so that none is reset or sent to a backup just because
//! the process has only just started.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_channel::Sender;
use socket2::SockRef;

use super::admitted::{Admission, Admitted};
use super::listener::Listener;
use super::session;
use super::state::Shard;
use crate::base::{Activity, Plain, limits};
use crate::config::ListenAddress;
use crate::net::{self, AcceptError};
use crate::uring::{Accepted, Acceptor, Timer};

/// Pause after a failed accept: while descriptors or memory are short, trying again at once would fail at
/// once. A connection that its client has already given up is no reason for a pause.
const PAUSE: Duration = Duration::from_millis(10);

/// Pause after a socket could not listen again, because another one has its address meanwhile.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// How long the handshakes may take that have begun when an entrance closes: more than the round trip of nearly every
/// client.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// Where clients come in: one listening socket. Its listener may become another one, its address never.
pub(super) struct Entrance {
    pub(super) address: ListenAddress,
    listener: RefCell<Rc<Listener>>,
    is_closed: Cell<bool>,
    /// Present if other sockets have the address, so that this one must not stand in their way; dropped once it is closed.
    replaced: RefCell<Option<Sender<()>>>,
    /// The accept loop that waits for clients.
    waker: RefCell<Option<Waker>>,
}

impl Entrance {
    pub(super) fn new(listener: &Rc<Listener>) -> Rc<Self> {
        Rc::new(Self {
            address: listener.config().address.clone(),
            listener: RefCell::new(Rc::clone(listener)),
            is_closed: Cell::new(false),
            replaced: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.listener.borrow())
    }

    /// Gives clients that are accepted from now on to another listener, or to another version of it.
    pub(super) fn lead_to(&self, listener: &Rc<Listener>) {
        self.listener.replace(Rc::clone(listener));
        self.wake();
    }

    /// Ends the accept loop once it has served the clients that the kernel has accepted.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.wake();
    }

    /// Has an entrance that closes do so at once, because other sockets have its address from now on. `closed` is dropped
    /// when it has.
    pub(super) fn replace(&self, closed: Sender<()>) {
        self.replaced.replace(Some(closed));
        self.wake();
    }

    fn is_open(&self) -> bool {
        !self.is_closed.get() && self.listener.borrow().shard.is_running()
    }

    /// Returns whether another process serves the clients that wait in the socket.
    fn is_left(&self) -> bool {
        !self.is_closed.get() && self.listener.borrow().shard.leaves(&self.address)
    }

    pub(super) fn wake(&self) {
        self.waker.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Has this task woken by what changes here.
    fn watch(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }
}

/// Accepts until the entrance closes or the shard drains; then serves what the kernel has already accepted, unless another
/// process does, and closes the socket.
pub(super) async fn run(entrance: Rc<Entrance>, acceptor: Acceptor) {
    let shard = Rc::clone(&entrance.listener().shard);
    shard.enter();
    let _entered = Entered(&shard, &entrance);
    // Closed before this is said to be over.
    let acceptor = Closing(acceptor);
    let acceptor = &acceptor.0;
    let mut rules = entrance.listener();
    opening(&entrance).await;
    let mut started = 0;
    // When the handshakes of an entrance that closes are over.
    let mut handshakes: Option<Timer> = None;
    // The number of connections that may still come once the entrance closes: as many as its backlog can hold.
    let mut left = rules.config().backlog;
    loop {
        let accepted = next(&entrance, acceptor, handshakes.as_mut()).await;
        shard.ring.set_activity(Activity::Accept);
        let listener = entrance.listener();
        if !Rc::ptr_eq(&listener, &rules) {
            adjust(acceptor, &listener);
            (left, rules) = (listener.config().backlog.max(left), Rc::clone(&listener));
        }
        let (accepted, place) = match accepted {
            Next::Accepted(accepted, place) => (accepted, place),
            Next::Changed => continue,
            Next::Unserved => {
                unlisten(&entrance, acceptor).await;
                if !entrance.is_open() {
                    // Nobody waits in a socket that does not listen.
                    return;
                }
                continue;
            }
            Next::Closed if handshakes.is_none() && ends_handshakes(&entrance, acceptor) => {
                handshakes = Some(shard.ring.timer(shard.now().after(HANDSHAKES)));
                continue;
            }
            Next::Closed => {
                acceptor.disarm().await;
                if entrance.is_left() {
                    // One connection, because the wait may have been told of one: then nobody else was (`EPOLLEXCLUSIVE`,
                    // epoll_ctl(2)), and it would wait until the next one comes.
                    left = left.min(1);
                }
                let Some(accepted) = (left > 0).then(|| acceptor.accept_now()).flatten() else { return };
                left -= 1;
                // It was let in as far as its place goes: nobody else would be told of it.
                let place = entrance.is_left().then(|| entrance.listener().reserve_anyhow());
                (accepted, place)
            }
        };
        match accepted {
            Ok(accepted) => {
                if handshakes.is_some() {
                    net::take_all_hops(SockRef::from(&accepted.connection));
                }
                let admitted = admit(&listener, accepted, place);
                if let Some(admitted) = admitted.and_then(|admitted| keep(&entrance, &listener, admitted)) {
                    session::start(&listener, admitted);
                }
            }
            Err(error) => {
                place.into_iter().for_each(|place| listener.release(place));
                let kind = AcceptError::of(&error);
                listener.counters().accept_errors[kind as usize].add(1);
                let now = shard.ring.now();
                if shard.accept_warnings.is_due(now) {
                    let name = &listener.config().name;
                    log::warn!("listener {name}: accepting failed, going on: {}", Plain(&error));
                }
                if error.raw_os_error() == Some(libc::EINVAL) {
                    // It does not listen: a process that has the same socket had no backend (`unlisten`).
                    adjust(acceptor, &listener);
                }
                if error.raw_os_error() != Some(libc::ECONNABORTED) {
                    shard.ring.sleep_until(now.after(PAUSE)).await;
                }
            }
        }
        started += 1;
        if started == limits::SESSIONS_PER_TURN_MAX {
            started = 0;
            shard.ring.next_turn().await;
        }
    }
}

/// A socket that closes. Others may have descriptors of it, as systemd has, and it must not stay dead for them.
struct Closing(Acceptor);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.with(net::take_all_hops);
    }
}

/// Has a socket that nobody listens on any more begin no further handshakes. Returns whether some may have begun that are
/// worth waiting for. A process that ends says so to its clients at once, and one that leaves its socket to another lets it be.
fn ends_handshakes(entrance: &Entrance, acceptor: &Acceptor) -> bool {
    let ends = entrance.listener.borrow().shard.ends() || entrance.is_left();
    !ends && acceptor.with(net::end_handshakes).unwrap_or(false)
}

/// Has a socket follow another configuration of its listener. Returns whether it listens.
fn adjust(acceptor: &Acceptor, listener: &Listener) -> bool {
    let config = listener.config();
    let adjusted = acceptor.with(|socket| net::adjust(socket, config.backlog, &config.tcp));
    let Err(error) = adjusted else { return true };
    let shard = &listener.shard;
    if shard.accept_warnings.is_due(shard.ring.now()) {
        log::warn!("listener {}: its socket does not take its options: {}", config.name, Plain(&error));
    }
    acceptor.with(|socket| socket.is_listener().unwrap_or(false))
}

/// Closes the port until there is a backend again, or nobody wants it closed any more.
async fn unlisten(entrance: &Entrance, acceptor: &Acceptor) {
    acceptor.disarm().await;
    // A backend may have come meanwhile.
    if !entrance.listener.borrow().is_unserved() || !entrance.is_open() {
        return;
    }
    acceptor.with(net::unlisten);
    say(entrance, "unlistened", "closes its port, because no backend is eligible");
    std::future::poll_fn(|context| {
        entrance.watch(context);
        let stays = entrance.is_open() && entrance.listener.borrow().is_unserved();
        if stays { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    if entrance.is_left() {
        // It is another process that opens the port now.
        return;
    }
    // Also at the end: a service manager that has the same socket takes it for broken otherwise.
    while !adjust(acceptor, &entrance.listener()) && entrance.is_open() {
        let shard = Rc::clone(&entrance.listener().shard);
        shard.ring.sleep_until(shard.now().after(LISTEN_AGAIN)).await;
    }
    if entrance.is_open() {
        say(entrance, "accepting", "accepts again");
    }
}

/// Writes to the log what an entrance does, once for all shards.
fn say(entrance: &Entrance, event: &str, does: &str) {
    let listener = entrance.listener.borrow();
    if listener.shard.id().0 == 0 {
        let (name, address) = (&*listener.config().name, entrance.address.to_string());
        log::info!(event = event, listener = name, address; "listener {name} {does}: {address}");
    }
}

/// Counts an accept loop until it ends, for whatever reason, and says so.
struct Entered<'a>(&'a Shard, &'a Entrance);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.leave();
        self.1.replaced.take();
    }
}

/// Waits for the first verdicts, or for the end.
async fn opening(entrance: &Entrance) {
    std::future::poll_fn(|context| {
        let listener = entrance.listener.borrow();
        if listener.is_open() || !entrance.is_open() {
            return Poll::Ready(());
        }
        listener.shard.openings.borrow_mut().push(context.waker().clone());
        entrance.watch(context);
        Poll::Pending
    })
    .await;
    let listener = entrance.listener.borrow();
    if listener.is_to_announce() && entrance.is_open() {
        let (name, address) = (&*listener.config().name, entrance.address.to_string());
        log::info!(event = "accepting", listener = name, address; "listener {name} accepts on {address}");
    }
}

/// Lets a client in that has a `place` in the limits, or gets one now, if no rule denies it. One that is denied is reset and
/// counted, and costs nothing else.
fn admit(listener: &Listener, accepted: Accepted, place: Option<Admission>) -> Option<Admitted> {
    let place = place.map_or_else(|| listener.reserve(), Ok);
    match place.and_then(|place| listener.admit(place, accepted.client)) {
        Ok(admission) => Some(Admitted { accepted, admission }),
        Err(reason) => {
            listener.deny(accepted.client, reason);
            net::reset(accepted.connection);
            None
        }
    }
}

/// Returns the connection, unless another shard gets it. Once the entrance closes, all connections stay: another shard
/// may know the listener no more.
fn keep(entrance: &Entrance, listener: &Listener, admitted: Admitted) -> Option<Admitted> {
    let handoff = listener.shard.handoff.borrow();
    let may_move = !listener.config().tcp.steer_by_cpu && entrance.is_open();
    let Some(handoff) = handoff.as_ref().filter(|_| may_move) else {
        return Some(admitted);
    };
    handoff.hand_off(listener.shard.now(), listener.id, admitted)
}

/// What an accept loop has to do next.
enum Next {
    /// A client has come, which may have its place in the limits already, or accepting has failed.
    Accepted(std::io::Result<Accepted>, Option<Admission>),
    /// The listener is another one.
    Changed,
    /// There is no backend, and the listener wants its port closed then.
    Unserved,
    /// The entrance is closed.
    Closed,
}

async fn next(entrance: &Entrance, acceptor: &Acceptor, mut handshakes: Option<&mut Timer>) -> Next {
    let known = Rc::as_ptr(&entrance.listener.borrow());
    let ends = || entrance.listener.borrow().shard.ends();
    std::future::poll_fn(|context| {
        if !entrance.is_open() {
            let is_over = handshakes.as_mut().is_none_or(|timer| timer.poll_due(context).is_ready());
            if is_over || entrance.replaced.borrow().is_some() || ends() {
                return Poll::Ready(Next::Closed);
            }
        }
        if !std::ptr::eq(known, Rc::as_ptr(&entrance.listener.borrow())) {
            return Poll::Ready(Next::Changed);
        }
        entrance.watch(context);
        let listener = entrance.listener.borrow();
        if entrance.is_open() && listener.is_unserved() {
            return Poll::Ready(Next::Unserved);
        }
        if listener.shared.waits() {
            return poll_accept_with_place(&listener, acceptor, context);
        }
        acceptor.poll_accept(context).map(|accepted| Next::Accepted(accepted, None))
    })
    .await
}

/// Accepts a client for which there is a place in the limits. Without one, clients stay in the backlog, and the loop is
/// woken when a session ends.
fn poll_accept_with_place(listener: &Listener, acceptor: &Acceptor, context: &mut Context<'_>) -> Poll<Next> {
    if acceptor.poll_readable(context).is_pending() {
        return Poll::Pending;
    }
    let shard = &listener.shard;
    let place = listener.reserve().or_else(|_| {
        shard.waits.set(true);
        shard.gate.wait(shard.id());
        listener.reserve()
    });
    let Ok(place) = place else { return Poll::Pending };
    let accepted = acceptor.poll_accept(context);
    if accepted.is_pending() {
        listener.release(place);
    }
    accepted.map(|accepted| Next::Accepted(accepted, Some(place)))
}
