//! Permits of backends: the right to one connection, as a guard.
//!
//! Invariants: for a backend with a limit, the number of permits taken equals the number of [`Permit`]s plus
//! the grants on their way to waiting clients. The session count of a backend equals the number of its
//! [`InFlight`] guards.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Waker;

use super::failures::Fault;
use super::forced_closes::ForcedCloses;
use super::shared::SharedUpstream;
use super::unanswered::Unanswered;
use crate::base::{Address, BackendId, CloseReason, ShardId, Tick};

/// What one shard counts of the connections to one upstream.
pub(super) struct Permits {
    pub(super) shard: ShardId,
    pub(super) shared: Arc<SharedUpstream>,
    pub(super) forced_closes: ForcedCloses,
    pub(super) unanswered: Unanswered,
    /// Sessions of all shards by backend: exact for this shard, as of the last look for the others. Kept only
    /// if the algorithm wants them.
    pub(super) loads: RefCell<Vec<u32>>,
    pub(super) hooks: Rc<Hooks>,
}

/// What has to be notified when a session or a connection ends. All generations of an upstream share it.
#[derive(Default)]
pub(super) struct Hooks {
    /// Backends with a permit that a waiting client may be able to use.
    pub(super) released: RefCell<BTreeSet<BackendId>>,
    /// Wakes the task that serves waiting clients.
    pub(super) serving_task: RefCell<Option<Waker>>,
    /// By backend, wakes the pool task, which depends on the number of sessions.
    pub(super) watchers: RefCell<BTreeMap<BackendId, Waker>>,
}

/// The right to one connection to a backend. A connection owns its permit; passing on the connection passes
/// on the permit.
///
/// Dropping a permit gives it back, and notes that a waiting client may be able to use it. The shard
/// [serves](super::UpstreamTable::serve) waiting clients afterwards, outside of all destructors.
pub struct Permit {
    permits: Rc<Permits>,
    backend: BackendId,
    usage: Cell<Usage>,
    /// The number of orders to end sessions that were given before this session began, or do not concern it.
    seen: Cell<u32>,
}

/// The use of a permit, which decides where the permit is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// Not used yet.
    None,
    /// A session.
    Session,
    /// A session that would give the permit up to a waiting client.
    Lingering,
    /// A connection in the pool, or on its way there: it is given up to a waiting client.
    Idle,
}

impl Usage {
    fn is_session(self) -> bool {
        matches!(self, Self::Session | Self::Lingering)
    }

    fn is_idle(self) -> bool {
        matches!(self, Self::Lingering | Self::Idle)
    }
}

impl Permits {
    /// Creates the counts of this shard for one generation of an upstream.
    #[must_use]
    pub(super) fn new(shared: Arc<SharedUpstream>, shard: ShardId, hooks: Rc<Hooks>) -> Rc<Self> {
        let given = shared.given();
        Rc::new(Self {
            shard,
            forced_closes: ForcedCloses::new(shared.config(), given),
            unanswered: Unanswered::new(given),
            loads: RefCell::new(vec![0; given]),
            hooks,
            shared,
        })
    }

    /// Takes a permit, unless the backend already has its maximum number of connections.
    pub(super) fn take(self: &Rc<Self>, backend: BackendId) -> Option<Permit> {
        self.shared.take(backend, self.shard).then(|| self.taken(backend))
    }

    /// Returns the guard of a permit that was taken.
    pub(super) fn taken(self: &Rc<Self>, backend: BackendId) -> Permit {
        Permit { permits: Rc::clone(self), backend, usage: Cell::new(Usage::None), seen: Cell::new(0) }
    }

    fn give_back(&self, backend: BackendId) {
        if !self.shared.give_back(backend, self.shard) {
            return;
        }
        self.hooks.released.borrow_mut().insert(backend);
        if let Some(server) = &*self.hooks.serving_task.borrow() {
            server.wake_by_ref();
        }
    }
}

impl Permit {
    /// Returns the backend of the permit.
    #[must_use]
    pub fn backend(&self) -> BackendId {
        self.backend
    }

    /// Returns whether the backend has a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.permits.shared.is_limited(self.backend)
    }

    /// Turns the permit into that of a connection in the pool.
    #[must_use]
    pub fn idle(self) -> Self {
        self.set_usage(Usage::Idle);
        self
    }

    fn set_usage(&self, usage: Usage) {
        let (permits, before) = (&self.permits, self.usage.replace(usage));
        if before.is_session() != usage.is_session() {
            let step = |count: u32| if usage.is_session() { count + 1 } else { count.saturating_sub(1) };
            let (shard, index) = (permits.shard, self.backend.index());
            let own = permits.shared.loads.own(shard, index);
            debug_assert!(own > 0 || usage.is_session(), "more sessions have ended than began");
            permits.shared.loads.set(shard, index, step(own));
            let load = &mut permits.loads.borrow_mut()[index];
            *load = step(*load);
            if !usage.is_session() {
                permits.hooks.watchers.borrow().get(&self.backend).into_iter().for_each(Waker::wake_by_ref);
            }
        }
        if self.is_limited()
            && before.is_idle() != usage.is_idle()
            && let Some(idle) = permits.shared.idle(self.backend)
        {
            if usage.is_idle() {
                idle.write().fetch_add(1, SeqCst)
            } else {
                idle.write().fetch_sub(1, SeqCst)
            };
        }
    }
}

impl Permits {
    /// Makes a permit of an earlier generation one of this: the session that gets it ends as this one says. Returns `None`
    /// if the backend is counted anew since, so that the permit is none of this generation.
    pub(super) fn adopt(self: &Rc<Self>, mut permit: Permit) -> Option<Permit> {
        if Rc::ptr_eq(self, &permit.permits) {
            return Some(permit);
        }
        if !self.shared.counts_with(&permit.permits.shared, permit.backend) {
            return None;
        }
        permit.set_usage(Usage::None);
        permit.permits = Rc::clone(self);
        Some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set_usage(Usage::None);
        self.permits.give_back(self.backend);
    }
}

/// A session between its pick and its close; it counts for its backend until the guard is dropped.
pub struct InFlight(Permit);

impl InFlight {
    /// Counts a session.
    #[must_use]
    pub fn new(permit: Permit) -> Self {
        permit.set_usage(Usage::Session);
        permit.seen.set(permit.permits.forced_closes.count(permit.backend.index()));
        Self(permit)
    }

    /// Hooks the counting of the session, and returns its permit.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.0.set_usage(Usage::None);
        self.0
    }

    /// Returns the backend that was picked.
    #[must_use]
    pub fn backend(&self) -> BackendId {
        self.0.backend
    }

    /// Returns whether the backend has a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.is_limited()
    }

    /// Notes whether the session would give its permit up to a waiting client.
    pub fn set_lingering(&self, lingers: bool) {
        self.0.set_usage(if lingers { Usage::Lingering } else { Usage::Session });
    }

    /// Returns why the session is force-closed, if it is; `address` returns the address that it is connected
    /// to.
    #[must_use]
    pub fn forced_close(&self, address: impl FnOnce() -> Option<Address>) -> Option<CloseReason> {
        self.0.permits.forced_closes.reason(self.0.backend.index(), &self.0.seen, address)
    }

    /// Notes that the backend ended or refused the session without a byte for the client.
    pub fn unanswered(&self, now: Tick) {
        self.0.permits.unanswered.note(self.0.backend, now);
    }

    /// Notes that the session suffered a fault of the backend.
    pub fn failed(&self, fault: Fault) {
        if let Some(failures) = self.0.permits.shared.failures() {
            failures.failed(self.0.backend, fault);
        }
    }

    /// Notes that the backend answered.
    pub fn succeeded(&self) {
        self.0.permits.unanswered.clear(self.0.backend);
        if let Some(failures) = self.0.permits.shared.failures() {
            failures.clear(self.0.backend);
        }
    }
}
