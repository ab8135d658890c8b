//! The control plane: everything that may block, wait or talk to the operator runs here and never on a shard.

pub mod admin;
mod circles;
pub mod command;
mod core_load;
pub mod metrics;
mod observe;
pub mod process;
pub mod resolve;
pub mod service_manager;
pub mod status;
mod watchdog;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::time;

use crate::steering::CoreLoads;
use crate::upstream::{Addresses, Resolved, Snapshot};
use circles::Circles;
use resolve::{Resolver, SystemLookup};

pub use circles::circles_here;
pub use core_load::Clocks;
pub use observe::{Departed, Peaks, PhaseCell, Source, Written, lock};
pub use status::{BackendStatus, ListenerStatus, ShardStatus, Status, UpstreamStatus};
pub use watchdog::{Finding, Report, Thread, Watch};

/// How long the end waits for answers of the admin API that are under way.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The control thread: a tokio runtime of its own, not pinned.
pub struct Control {
    snapshots: watch::Sender<Arc<Snapshot>>,
    addresses: watch::Receiver<Arc<Addresses>>,
    handle: Handle,
    answers: admin::UnderWay,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread, which looks up all host names of the configuration that runs and samples how busy the cores
    /// are.
    ///
    /// # Errors
    ///
    /// The thread or a descriptor cannot be made.
    pub fn start(snapshot: Arc<Snapshot>, cores: Arc<CoreLoads>, clocks: Clocks) -> io::Result<Self> {
        let (snapshots, following) = watch::channel(snapshot);
        let (resolver, found) = Resolver::new(following.clone());
        let (circles, addresses) = Circles::new(following, found);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let answers = admin::UnderWay::default();
        let last = answers.clone();
        let run = move || {
            yield_to_shards();
            runtime.block_on(async {
                tokio::select! {
                    () = resolver.run(SystemLookup) => {}
                    () = circles.run() => {}
                    () = core_load::run(cores, clocks) => {}
                    _ = stopped => {}
                }
                let _ = time::timeout(LAST_ANSWERS, last.end()).await;
            });
            // A look-up that hangs must not delay the end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(run)?;
        Ok(Self { snapshots, addresses, handle, answers, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the addresses of all backends, as they become known.
    #[must_use]
    pub fn addresses(&self) -> watch::Receiver<Arc<Addresses>> {
        self.addresses.clone()
    }

    /// Looks up the names of another generation from now on. Names that stay keep what is known of them. Returns once
    /// the first look-up of each new name has had its answer, or has failed, within `patience`, unless `gives_up` says
    /// that nobody waits any more.
    pub fn adopt(
        &self,
        snapshot: &Arc<Snapshot>,
        patience: Duration,
        gives_up: &mut (dyn FnMut() -> bool + Send),
    ) {
        self.snapshots.send_replace(Arc::clone(snapshot));
        let mut addresses = self.addresses.clone();
        let is_known = |addresses: &Arc<Addresses>| {
            addresses.generation == snapshot.generation()
                && snapshot.keys().all(|key| addresses.of(key).is_some_and(Resolved::is_settled))
        };
        let deadline = time::Instant::now() + patience;
        let known = async move {
            while time::timeout(LOOK, addresses.wait_for(&is_known)).await.is_err() {
                if time::Instant::now() >= deadline || gives_up() {
                    return false;
                }
            }
            true
        };
        if !self.handle.block_on(known) {
            log::debug!("some names of the new configuration have no address yet");
        }
    }

    /// Returns whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Serves the admin API on the thread, to its end or until the tasks that accept are aborted.
    pub fn serve(
        &self,
        endpoints: admin::Endpoints,
        process: Arc<dyn process::Process>,
    ) -> Vec<tokio::task::AbortHandle> {
        admin::serve(endpoints, &self.handle, process, self.answers.clone())
    }

    /// Watches the other threads from now on.
    pub fn watch(&self, watch: Watch) {
        self.handle.spawn(watchdog::run(watch));
    }

    /// Runs a future that uses timers of this runtime, on the calling thread.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

/// Time between two looks whether anybody still waits.
const LOOK: Duration = Duration::from_millis(20);

/// How much less of a contested CPU this thread and those that it makes take, as nice(2) counts: a scrape of a thousand
/// backends is milliseconds of work, for which no session should wait.
const NICENESS: i32 = 10;

/// Has the calling thread take less of a contested CPU than the shards.
pub fn yield_to_shards() {
    // For Linux the calling thread alone, setpriority(2).
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        log::debug!("a thread of the control plane keeps its priority: {error}");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread ends by itself; a panic of it was logged.
            let _ = thread.join();
        }
    }
}
