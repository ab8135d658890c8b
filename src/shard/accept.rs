//! The accept loop of one listener on one shard. No error ends it.
//!
//! The loop begins when every primary of the upstream has its first verdict, or the time for it is over.
//! Until then clients wait in the kernel's backlog, so that none is reset or sent to a backup just because
//! the process has only just started.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::listener::Listener;
use super::session;
use super::state::Shard;
use crate::base::{Activity, Plain, limits};
use crate::net::AcceptError;
use crate::uring::{Accepted, Acceptor};

/// Pause after a failed accept: while descriptors or memory are short, trying again at once would fail at
/// once. A connection that its client has already given up is no reason for a pause.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts until the shard drains; then serves what the kernel has already accepted, unless another process does, and
/// closes.
pub(super) async fn run(listener: Rc<Listener>, acceptor: Acceptor) {
    let shard = &*listener.shard;
    shard.enter();
    let _entered = Entered(shard);
    opening(&listener).await;
    let mut started = 0;
    // The number of connections that may still come once the shard drains: as many as its backlog can hold.
    let mut left = listener.config().backlog;
    loop {
        let accepted = next(&listener, &acceptor).await;
        shard.ring.set_activity(Activity::Accept);
        let accepted = match accepted {
            Some(accepted) => accepted,
            None => {
                acceptor.disarm().await;
                if shard.is_leaving() {
                    // One connection, because the wait may have been told of one: then nobody else was (`EPOLLEXCLUSIVE`,
                    // epoll_ctl(2)), and it would wait until the next one comes.
                    left = left.min(1);
                }
                let Some(accepted) = (left > 0).then(|| acceptor.accept_now()).flatten() else { return };
                left -= 1;
                accepted
            }
        };
        match accepted {
            Ok(accepted) => {
                if let Some(accepted) = keep(&listener, accepted) {
                    session::start(&listener, accepted);
                }
            }
            Err(error) => {
                let kind = AcceptError::of(&error);
                listener.counters().accept_errors[kind as usize].add(1);
                let now = shard.ring.now();
                if shard.accept_warnings.is_due(now) {
                    let name = &listener.config().name;
                    log::warn!("listener {name}: accepting failed, going on: {}", Plain(&error));
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

/// Counts an accept loop until it ends, for whatever reason.
struct Entered<'a>(&'a Shard);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Waits for the first verdicts, or for the end.
async fn opening(listener: &Listener) {
    let shard = &listener.shard;
    std::future::poll_fn(|context| {
        if listener.is_open() {
            return Poll::Ready(());
        }
        shard.openings.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
    if listener.is_to_announce() {
        let (name, address) = (&*listener.config().name, listener.config().address.to_string());
        log::info!(event = "accepting", listener = name, address; "listener {name} accepts on {address}");
    }
}

/// Returns the connection, unless another shard gets it. While the shard drains, all connections stay.
fn keep(listener: &Listener, accepted: Accepted) -> Option<Accepted> {
    let handoff = listener.shard.handoff.borrow();
    let Some(handoff) = handoff.as_ref().filter(|_| !listener.config().tcp.steer_by_cpu) else {
        return Some(accepted);
    };
    handoff.hand_off(listener.shard.now(), listener.id, accepted)
}

/// Returns the next connection or failure; `None` when the shard drains.
async fn next(listener: &Listener, acceptor: &Acceptor) -> Option<std::io::Result<Accepted>> {
    std::future::poll_fn(|context| {
        if listener.shard.is_running() { acceptor.poll_accept(context).map(Some) } else { Poll::Ready(None) }
    })
    .await
}
