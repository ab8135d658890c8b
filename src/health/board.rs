//! The states of all backends as the tasks of the health thread share them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::{Address, BackendId, BackendKey, UpstreamId};
use crate::upstream::{Addresses, BackendState, Health, Reported, SharedUpstream, Snapshot, UpstreamStates};

use super::events::HealthLog;
use super::rules::{Checked, Event, UpstreamHealth};

/// The health of all upstreams of the generation that is judged. What concerns others is passed over. No borrow of it
/// outlives a method.
pub(super) struct HealthStates {
    /// Draws where chance spreads checks out.
    random: RefCell<fastrand::Rng>,
    generation: Cell<u64>,
    /// By number.
    upstreams: RefCell<Vec<Option<Rc<Judged>>>>,
    log_lines: HealthLog,
    /// What all times count from.
    begun: Instant,
    /// Rung when something may have become due earlier than it was.
    rescheduled: Notify,
    /// Whether something changed since the publisher looked last.
    is_changed: Cell<bool>,
    /// Rung for the publisher at every change.
    changed: Notify,
}

/// One upstream.
struct Judged {
    shared: Arc<SharedUpstream>,
    health: RefCell<UpstreamHealth>,
    /// By number.
    bells: Vec<Option<Rc<Bells>>>,
}

/// What wakes the checker of a backend.
#[derive(Default)]
struct Bells {
    /// Rung when the addresses of the backend change.
    moved: Notify,
    /// Rung when a session has failed on the backend.
    suspected: Notify,
}

impl HealthStates {
    /// Knows nothing before the first generation comes.
    pub(super) fn new(log_lines: HealthLog) -> Self {
        Self {
            random: RefCell::new(fastrand::Rng::new()),
            generation: Cell::new(0),
            upstreams: RefCell::default(),
            log_lines,
            begun: Instant::now(),
            rescheduled: Notify::new(),
            is_changed: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// Judges the backends of another generation from now on, which are at these addresses. What is known of backends
    /// that stay goes on.
    pub(super) fn adopt(&self, snapshot: &Snapshot, addresses: &Addresses) {
        self.generation.set(snapshot.generation());
        let now = self.now();
        let before = self.upstreams.take();
        let size = snapshot.upstreams().iter().map(|shared| shared.id().index() + 1).max().unwrap_or(0);
        let mut judged = vec![None; size];
        for shared in snapshot.upstreams() {
            let known = before.get(shared.id().index()).and_then(Option::as_ref);
            let same = known.filter(|known| Arc::ptr_eq(&known.shared, shared));
            let next = same
                .map_or_else(|| Rc::new(Judged::next(shared, now, known.map(|known| &**known))), Rc::clone);
            judged[shared.id().index()] = Some(next);
        }
        self.upstreams.replace(judged);
        self.set_addresses(addresses);
        self.note_change();
    }

    /// Returns a number from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    fn judged(&self, upstream: UpstreamId) -> Option<Rc<Judged>> {
        self.upstreams.borrow().get(upstream.index()).cloned().flatten()
    }

    fn all(&self) -> Vec<(UpstreamId, Rc<Judged>)> {
        let upstreams = self.upstreams.borrow();
        let all = (0..).map(UpstreamId).zip(&*upstreams);
        all.filter_map(|(id, judged)| Some((id, judged.clone()?))).collect()
    }

    fn bells(&self, which: BackendKey) -> Option<Rc<Bells>> {
        self.judged(which.upstream)?.bells.get(which.backend.index()).cloned().flatten()
    }

    /// Takes over all addresses, unless they are of a generation that is still to come: it no longer has the addresses
    /// of backends that clients still get.
    pub(super) fn set_addresses(&self, addresses: &Addresses) {
        if addresses.generation > self.generation.get() {
            return;
        }
        for (id, judged) in self.all() {
            let Some(new) = addresses.upstreams.get(id.index()) else { continue };
            let resolved = || -> Vec<_> {
                let health = judged.health.borrow();
                (0..judged.bells.len())
                    .map(|index| Arc::clone(health.resolved(BackendId(index as u16))))
                    .collect()
            };
            let before = resolved();
            self.update(id, |health, now| health.set_addresses(new, now));
            let moved = before.iter().zip(&resolved()).map(|(before, now)| before != now).collect::<Vec<_>>();
            let bells = judged.bells.iter().zip(moved).filter(|(_, moved)| *moved);
            bells.filter_map(|(bells, _)| bells.as_ref()).for_each(|bells| bells.moved.notify_one());
        }
    }

    /// The state of a backend now.
    pub(super) fn state(&self, which: BackendKey) -> BackendState {
        let judged = self.judged(which.upstream);
        let state =
            judged.and_then(|judged| judged.health.borrow().states().get(which.backend.index()).cloned());
        state.unwrap_or_else(BackendState::absent)
    }

    /// Time since a moment that stays the same.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes over what a check told.
    pub(super) fn checked(&self, which: BackendKey, check: &Checked<'_>) {
        self.update_backend(which, |health, now| health.checked(which.backend, check, now));
    }

    /// Takes over at which of its addresses a check found a backend well.
    pub(super) fn found_at(&self, which: BackendKey, address: &Address) {
        self.update_backend(which, |health, _| {
            health.found_at(which.backend, address);
            Vec::new()
        });
    }

    /// Takes over which address that has left a name is dead, and why.
    pub(super) fn gone(&self, which: BackendKey, address: &Address, cause: String) {
        self.update_backend(which, |health, _| health.gone(which.backend, address, cause));
    }

    /// Tells the operator of something that changes no state.
    pub(super) fn say(&self, upstream: UpstreamId, event: Event) {
        if let Some(judged) = self.judged(upstream) {
            self.log_lines.take(&judged.shared, event, &judged.health.borrow());
        }
    }

    /// Notes that a report of the shards has arrived.
    pub(super) fn take_report(&self, which: BackendKey, reported: Reported) {
        let judged = self.judged(which.upstream);
        let failures = judged.as_ref().and_then(|judged| judged.shared.failures());
        failures.into_iter().for_each(|failures| failures.take_report(which.backend, reported));
    }

    /// A session has failed on a backend: has its checker look, unless it knows already.
    pub(super) fn suspect(&self, which: BackendKey) {
        if self.state(which).health == Health::Up {
            self.bells(which).iter().for_each(|bells| bells.suspected.notify_one());
        }
    }

    /// Returns once a session has failed on a backend that is up.
    ///
    /// # Cancel safety
    ///
    /// What is rung while nobody waits is kept for the next call.
    pub(super) async fn suspected(&self, which: BackendKey) {
        match self.bells(which) {
            Some(bells) => bells.suspected.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Changes the health of an upstream through one of its backends, if the generation has that.
    pub(super) fn update_backend(
        &self,
        which: BackendKey,
        change: impl FnOnce(&mut UpstreamHealth, Duration) -> Vec<Event>,
    ) {
        if self.bells(which).is_some() {
            self.update(which.upstream, change);
        }
    }

    /// Changes the health of an upstream, and makes known what comes of it.
    fn update(&self, upstream: UpstreamId, change: impl FnOnce(&mut UpstreamHealth, Duration) -> Vec<Event>) {
        let Some(judged) = self.judged(upstream) else { return };
        let mut health = judged.health.borrow_mut();
        let before = health.states().to_vec();
        for event in change(&mut health, self.begun.elapsed()) {
            self.log_lines.take(&judged.shared, event, &health);
        }
        if health.states() != before {
            self.note_change();
        }
    }

    fn note_change(&self) {
        self.is_changed.set(true);
        self.changed.notify_one();
        self.rescheduled.notify_one();
    }

    /// Does what time has made due.
    pub(super) fn settle(&self) {
        for (id, judged) in self.all() {
            let due = judged.health.borrow().next_due();
            if due.is_some_and(|due| due <= self.begun.elapsed()) {
                self.update(id, UpstreamHealth::settle);
            }
        }
    }

    /// When there is something to [`settle`](Self::settle) next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let upstreams = self.upstreams.borrow();
        let due = upstreams.iter().flatten().filter_map(|judged| judged.health.borrow().next_due()).min()?;
        self.begun.checked_add(due)
    }

    /// Returns once the next due time may have come nearer.
    pub(super) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// A copy of everything.
    pub(super) fn states(&self, version: u64) -> UpstreamStates {
        let upstreams = self.upstreams.borrow();
        let states = |judged: &Option<Rc<Judged>>| {
            judged.as_ref().map_or_else(Vec::new, |judged| judged.health.borrow().states().to_vec())
        };
        UpstreamStates {
            generation: self.generation.get(),
            version,
            upstreams: upstreams.iter().map(states).collect(),
        }
    }

    /// Returns once something changed since it returned last; the first time at once.
    pub(super) async fn changed(&self) {
        while !self.is_changed.replace(false) {
            self.changed.notified().await;
        }
    }

    /// Returns the addresses of a backend, as its name led to them, once they are others than `known`.
    ///
    /// # Cancel safety
    ///
    /// A change is not lost when the future is dropped: the next call compares again.
    pub(super) async fn moved_from(&self, which: BackendKey, known: &[Address]) -> Arc<[Address]> {
        loop {
            let Some((judged, bells)) = self.judged(which.upstream).zip(self.bells(which)) else {
                return std::future::pending().await;
            };
            let addresses = Arc::clone(judged.health.borrow().resolved(which.backend));
            if *addresses != *known {
                return addresses;
            }
            bells.moved.notified().await;
        }
    }
}

impl Judged {
    fn next(shared: &Arc<SharedUpstream>, now: Duration, previous: Option<&Self>) -> Self {
        let health = previous.map(|previous| previous.health.borrow());
        let health = UpstreamHealth::of(shared.config(), shared.numbers(), now, health.as_deref());
        let mut bells = vec![None; health.states().len()];
        for number in shared.numbers() {
            let kept = previous.and_then(|previous| previous.bells.get(number.index()).cloned().flatten());
            bells[number.index()] = Some(kept.unwrap_or_default());
        }
        Self { shared: Arc::clone(shared), health: RefCell::new(health), bells }
    }
}
