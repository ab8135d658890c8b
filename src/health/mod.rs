//! The health thread: checks every backend once per process and broadcasts what it found.
//!
//! Each backend has a task with a schedule of its own, which checks, waits, and checks again: checks of one
//! backend cannot overlap or pile up, and one that hangs delays no other. What a result means is decided by
//! [`RiseFall`](crate::health::rules::RiseFall); what goes out is always the state of all backends.
//!
//! Invariants: versions strictly increase; a change goes out in the same turn of the thread in which it was
//! found; nothing that is this process's own fault (no descriptor, no local port, having been stopped) is
//! held against a backend; only the monotonic clock counts.

mod board;
mod checker;
mod checkers;
mod departed;
mod events;
mod failures;
mod judge;
mod probe;
pub mod rules;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet, LocalSet};

use crate::telemetry::counters::HealthCounters;
use crate::upstream::{Addresses, Snapshot, UpstreamStates};

use board::HealthStates;
use checkers::Checkers;
use events::HealthLog;
use probe::{Connect, Sockets};

pub use failures::{Reports, reports};

/// Time between two beats for the watchdog.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);

/// Takes each new state of all backends, on the health thread; it must not block.
pub type Publish = Box<dyn FnMut(Arc<UpstreamStates>) + Send>;

/// The running health thread. Dropping it ends the thread too, without waiting.
pub struct HealthThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// Starts the health thread. Call it before this thread is pinned: the new one inherits the affinity.
///
/// The first state is published at once, the next one with each transition or change of addresses. Backends
/// of upstreams without a check are up as soon as they have an address.
///
/// # Errors
///
/// If the system gives no thread, or no descriptors for its event loop.
pub fn spawn(
    snapshot: &Arc<Snapshot>,
    addresses: watch::Receiver<Arc<Addresses>>,
    reports: Reports,
    counters: Arc<HealthCounters>,
    publish: Publish,
) -> io::Result<HealthThread> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel();
    let (snapshots, following) = watch::channel(Arc::clone(snapshot));
    let thread = thread::Builder::new().name("health".to_owned()).spawn(move || {
        runtime.block_on(LocalSet::new().run_until(async {
            tokio::select! {
                // Asked to stop, or nobody is left who could.
                _ = stopped => {}
                () = check_all(following, addresses, (reports, publish), counters, Sockets) => {}
            }
        }));
    })?;
    Ok(HealthThread { stop, thread, snapshots })
}

impl HealthThread {
    /// Judges the backends of another generation from now on, and publishes their states as those of this generation.
    /// What is known of backends that stay goes on.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.send_replace(snapshot);
    }

    /// Whether the thread has ended; before [`HealthThread::stop`] only a broken invariant ends it.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the checks, those under way too, and waits for the thread, which takes no longer than the
    /// `publish` it may be in.
    pub fn stop(self) {
        // The thread may have ended by itself.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            log::error!("the health thread had panicked");
        }
    }
}

/// Checks until it is dropped; never returns.
async fn check_all(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut addresses: watch::Receiver<Arc<Addresses>>,
    (reports, publish): (Reports, Publish),
    counters: Arc<HealthCounters>,
    connect: impl Connect,
) {
    let board = Rc::new(HealthStates::new(HealthLog::new(Arc::clone(&counters))));
    let mut checkers = Checkers::new(Rc::clone(&board), Arc::clone(&counters), connect);
    let snapshot = Arc::clone(&snapshots.borrow_and_update());
    board.adopt(&snapshot, &addresses.borrow_and_update());
    let mut tasks = JoinSet::new();
    tasks.spawn_local(publish_changes(Rc::clone(&board), publish));
    tasks.spawn_local(beat(Arc::clone(&counters)));
    tasks.spawn_local(follow_addresses(Rc::clone(&board), addresses.clone()));
    tasks.spawn_local(failures::follow(Rc::clone(&board), reports));
    checkers.adopt(&snapshot);
    loop {
        // A backend that nobody checks any more must not go unnoticed: the thread ends, loudly.
        tokio::select! {
            Some(ended) = tasks.join_next() => unless_panicked(ended),
            Some(ended) = checkers.tasks.join_next() => unless_panicked(ended),
            Ok(()) = snapshots.changed() => {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                board.adopt(&snapshot, &addresses.borrow_and_update());
                checkers.adopt(&snapshot);
            }
            else => std::future::pending().await,
        }
    }
}

fn unless_panicked(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        panic::resume_unwind(error.into_panic());
    }
}

/// Shows the watchdog that the thread lives.
async fn beat(counters: Arc<HealthCounters>) {
    loop {
        counters.beat();
        tokio::time::sleep(BEAT_INTERVAL).await;
    }
}

/// Publishes the first state, then each new one. Whatever changes in one turn of the thread goes out
/// together.
async fn publish_changes(board: Rc<HealthStates>, mut publish: Publish) {
    for version in 1.. {
        board.changed().await;
        publish(Arc::new(board.states(version)));
    }
}

/// Takes over what the resolver finds, until it ends.
async fn follow_addresses(board: Rc<HealthStates>, mut addresses: watch::Receiver<Arc<Addresses>>) {
    while addresses.changed().await.is_ok() {
        board.set_addresses(&addresses.borrow_and_update());
    }
}

#[cfg(test)]
mod tests;
