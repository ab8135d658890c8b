//! The accept loop of one listener on one shard. No error ends it.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::{Shard, session};
use crate::telemetry::counters::AcceptError;
use crate::uring::Acceptor;
use crate::words::ListenerId;

/// New sessions of a listener in one turn. One enter brought 3,000 accepts, and an open session waited 137 ms behind 4,000 connects.
const PER_TURN: usize = 16;
/// Pause after an accept that failed for want of descriptors or memory: trying again at once fails at once.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts until the shard drains; then serves what the kernel has accepted already, and closes.
pub(super) async fn run(shard: Rc<Shard>, listener: ListenerId, acceptor: Acceptor) {
    let _busy = shard.busy();
    let mut started = 0;
    while let Some(accepted) = next(&shard, &acceptor).await {
        match accepted {
            Ok(connection) => session::start(&shard, listener, connection),
            Err(error) => {
                let kind = AcceptError::of(&error);
                shard.counters.listener(listener).accept_errors[kind as usize].add(1);
                let now = shard.ring.now();
                if shard.accept_warnings.is_due(now) {
                    let name = &shard.config.listeners[listener.index()].name;
                    log::warn!("listener {name}: accepting failed, going on: {error}");
                }
                if kind != AcceptError::Connection {
                    shard.ring.sleep_until(now.after(PAUSE)).await;
                }
            }
        }
        started += 1;
        if started == PER_TURN {
            started = 0;
            shard.ring.next_turn().await;
        }
    }
    for (index, connection) in acceptor.stop().into_iter().enumerate() {
        session::start(&shard, listener, connection);
        if index % PER_TURN == PER_TURN - 1 {
            shard.ring.next_turn().await;
        }
    }
}

/// The next connection or failure; `None` when the shard drains.
async fn next(shard: &Shard, acceptor: &Acceptor) -> Option<std::io::Result<OwnedFd>> {
    std::future::poll_fn(|context| {
        if shard.is_running() { acceptor.poll_accept(context).map(Some) } else { Poll::Ready(None) }
    })
    .await
}
