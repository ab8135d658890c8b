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
use tokio::task::{JoinSet, LocalSet};

use crate::base::{BackendId, BackendKey, UpstreamId, limits};
use crate::config::{Config, OpenSessions};
use crate::telemetry::counters::HealthCounters;
use crate::upstream::{Addresses, Snapshot, UpstreamStates};

use board::HealthStates;
use checker::Checker;
use events::HealthLog;
use judge::{Judge, Slots};
use probe::{Connect, Question, Sockets};

pub use failures::{Reports, failures};

/// The first checks start spread over this much for each backend, so that a thousand of them are no burst;
/// over `limits::FIRST_CHECK_SPREAD_MAX` at most, so that the first verdicts come soon.
const FIRST_SPREAD_EACH: Duration = Duration::from_millis(1);

/// Time between two beats for the watchdog.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);

/// Takes each new state of all backends, on the health thread; it must not block.
pub type Publish = Box<dyn FnMut(Arc<UpstreamStates>) + Send>;

/// The running health thread. Dropping it ends the thread too, without waiting.
#[derive(Debug)]
pub struct HealthThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
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
    snapshot: &Snapshot,
    addresses: watch::Receiver<Arc<Addresses>>,
    reports: Reports,
    counters: Arc<HealthCounters>,
    publish: Publish,
) -> io::Result<HealthThread> {
    let (config, generation) = (Arc::clone(snapshot.config()), snapshot.generation());
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("health".to_owned()).spawn(move || {
        runtime.block_on(LocalSet::new().run_until(async {
            tokio::select! {
                // Asked to stop, or nobody is left who could.
                _ = stopped => {}
                () = check_all(&config, addresses, (reports, of_generation(generation, publish)), counters, Sockets) => {}
            }
        }));
    })?;
    Ok(HealthThread { stop, thread })
}

impl HealthThread {
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

/// Has what is published carry the generation whose backends are checked.
fn of_generation(generation: u64, mut publish: Publish) -> Publish {
    Box::new(move |states| publish(Arc::new(UpstreamStates { generation, ..Arc::unwrap_or_clone(states) })))
}

/// Checks until it is dropped; never returns.
async fn check_all(
    config: &Config,
    mut addresses: watch::Receiver<Arc<Addresses>>,
    (reports, publish): (Reports, Publish),
    counters: Arc<HealthCounters>,
    connect: impl Connect,
) {
    let log_lines = HealthLog::new(config, &counters, reports.failures.clone());
    let board = Rc::new(HealthStates::new(config, log_lines));
    board.set_addresses(&addresses.borrow_and_update());
    let slots = Rc::new(Slots::default());
    let connect = Rc::new(connect);
    let backends: usize = config.upstreams.iter().map(|upstream| upstream.backends.len()).sum();
    let spread = FIRST_SPREAD_EACH.saturating_mul(u32::try_from(backends).unwrap_or(u32::MAX));
    let spread = spread.min(limits::FIRST_CHECK_SPREAD_MAX);

    let mut tasks = JoinSet::new();
    tasks.spawn_local(publish_changes(Rc::clone(&board), publish));
    tasks.spawn_local(beat(Arc::clone(&counters)));
    tasks.spawn_local(follow_addresses(Rc::clone(&board), addresses));
    tasks.spawn_local(failures::follow(Rc::clone(&board), reports));
    for (id, upstream) in (0..).map(UpstreamId).zip(&config.upstreams) {
        let Some(check) = &upstream.healthcheck else { continue };
        for (backend, entry) in (0..).map(BackendId).zip(&upstream.backends) {
            let judge = Rc::new(Judge {
                which: BackendKey { upstream: id, backend },
                check: check.clone(),
                question: Question::new(check, &entry.address),
                board: Rc::clone(&board),
                checks: counters.backend(BackendKey { upstream: id, backend }),
                slots: Rc::clone(&slots),
                connect: Rc::clone(&connect),
            });
            let watches_departed = upstream.on_down == OpenSessions::Close;
            tasks.spawn_local(Checker { judge, watches_departed }.run(spread));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        // A backend that nobody checks any more must not go unnoticed: the thread ends, loudly.
        if let Err(error) = ended
            && error.is_panic()
        {
            panic::resume_unwind(error.into_panic());
        }
    }
    std::future::pending().await
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
        publish(Arc::new(UpstreamStates { generation: 0, version, upstreams: board.states() }));
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
