//! The accept loop of one listener on one shard. No error ends it.
//!
//! It begins when every primary of the upstream has its first verdict, or has had the time for it. Until then clients wait in
//! the kernel's queue: so none is reset, or sent to a backup, because we have just begun.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::{Shard, session};
use crate::base::{ListenerId, Plain, limits};
use crate::config::Listener;
use crate::net::AcceptError;
use crate::uring::Acceptor;

/// Pause after a failed accept: for want of descriptors or memory, trying again at once fails at once. A connection that
/// its client has given up already is no reason for one.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts until the shard drains; then serves what the kernel has accepted already, and closes.
pub(super) async fn run(shard: Rc<Shard>, listener: ListenerId, acceptor: Acceptor) {
    let _busy = shard.busy();
    opening(&shard, listener).await;
    let mut started = 0;
    // Connections that may still come once the shard drains: what its backlog can have held.
    let mut left = shard.config.listeners[listener.index()].backlog;
    loop {
        let accepted = match next(&shard, &acceptor).await {
            Some(accepted) => accepted,
            None => {
                acceptor.disarm().await;
                let Some(accepted) = acceptor.accept_now().filter(|_| left > 0) else { return };
                left -= 1;
                accepted
            }
        };
        match accepted {
            Ok(connection) => {
                if let Some(connection) = keep(&shard, listener, connection) {
                    session::start(&shard, listener, connection);
                }
            }
            Err(error) => {
                let kind = AcceptError::of(&error);
                shard.counters.listener(listener).accept_errors[kind as usize].add(1);
                let now = shard.ring.now();
                if shard.accept_warnings.is_due(now) {
                    let name = &shard.config.listeners[listener.index()].name;
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

/// Waits for the first verdicts, or the end.
async fn opening(shard: &Shard, listener: ListenerId) {
    std::future::poll_fn(|context| {
        if shard.is_open(listener) {
            return Poll::Ready(());
        }
        shard.openings.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
    if shard.place.shard.0 == 0 && shard.is_running() {
        let Listener { name, address, .. } = &shard.config.listeners[listener.index()];
        let (name, address) = (&**name, address.to_string());
        log::info!(event = "accepting", listener = name, address; "listener {name} accepts on {address}");
    }
}

/// The connection, unless another shard gets it. While the shard drains, all stay.
fn keep(shard: &Shard, listener: ListenerId, connection: OwnedFd) -> Option<OwnedFd> {
    let handoff = shard.handoff.borrow();
    let Some(handoff) =
        handoff.as_ref().filter(|_| !shard.config.listeners[listener.index()].tcp.steer_by_cpu)
    else {
        return Some(connection);
    };
    handoff.pass(shard.ring.now(), listener, connection)
}

/// The next connection or failure; `None` when the shard drains.
async fn next(shard: &Shard, acceptor: &Acceptor) -> Option<std::io::Result<OwnedFd>> {
    std::future::poll_fn(|context| {
        if shard.is_running() { acceptor.poll_accept(context).map(Some) } else { Poll::Ready(None) }
    })
    .await
}
