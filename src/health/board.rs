//! The states of all backends as the tasks of the health thread share them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::{Address, BackendId, BackendKey, UpstreamId};
use crate::config::Config;
use crate::upstream::{Addresses, BackendState, Health};

use super::events::HealthLog;
use super::rules::{Checked, Event, UpstreamHealth};

/// The health of all upstreams. No borrow of it outlives a method.
pub(super) struct HealthStates {
    /// Draws where chance spreads checks out.
    random: RefCell<fastrand::Rng>,
    upstreams: Vec<RefCell<UpstreamHealth>>,
    log_lines: HealthLog,
    /// What all times count from.
    begun: Instant,
    /// Rung when something may have become due earlier than it was.
    rescheduled: Notify,
    /// Whether something changed since the publisher looked last.
    is_changed: Cell<bool>,
    /// Rung for the publisher at every change.
    changed: Notify,
    /// Rung for a backend's checker when the addresses of the backend change.
    moved: Vec<Vec<Notify>>,
    /// Rung for a backend's checker when a session has failed on the backend.
    suspected: Vec<Vec<Notify>>,
}

impl HealthStates {
    /// Returns a number from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    pub(super) fn new(config: &Config, log_lines: HealthLog) -> Self {
        let notifies = || -> Vec<Vec<Notify>> {
            let sizes = config.upstreams.iter().map(|upstream| upstream.backends.len());
            sizes.map(|size| std::iter::repeat_with(Notify::new).take(size).collect()).collect()
        };
        Self {
            random: RefCell::new(fastrand::Rng::new()),
            upstreams: config
                .upstreams
                .iter()
                .map(|upstream| RefCell::new(UpstreamHealth::new(upstream)))
                .collect(),
            log_lines,
            begun: Instant::now(),
            rescheduled: Notify::new(),
            is_changed: Cell::new(true),
            changed: Notify::new(),
            moved: notifies(),
            suspected: notifies(),
        }
    }

    /// Takes over all addresses.
    pub(super) fn set_addresses(&self, addresses: &Addresses) {
        assert_eq!(addresses.upstreams.len(), self.upstreams.len(), "addresses of the same configuration");
        for ((id, moved), new) in (0..).map(UpstreamId).zip(&self.moved).zip(&addresses.upstreams) {
            let before: Vec<_> = {
                let health = self.upstreams[id.index()].borrow();
                (0..).map(BackendId).zip(new).map(|(id, _)| Arc::clone(health.resolved(id))).collect()
            };
            self.update(id, |health, now| health.set_addresses(new, now));
            let changed =
                before.iter().zip(new).zip(moved).filter(|((before, new), _)| **before != new.addresses);
            changed.for_each(|(_, moved)| moved.notify_one());
        }
    }

    /// The state of a backend now.
    pub(super) fn state(&self, which: BackendKey) -> BackendState {
        self.upstreams[which.upstream.index()].borrow().states()[which.backend.index()].clone()
    }

    /// Time since a moment that stays the same.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes over what a check told.
    pub(super) fn checked(&self, which: BackendKey, check: &Checked<'_>) {
        self.update(which.upstream, |health, now| health.checked(which.backend, check, now));
    }

    /// Takes over at which of its addresses a check found a backend well.
    pub(super) fn found_at(&self, which: BackendKey, address: &Address) {
        self.update(which.upstream, |health, _| {
            health.found_at(which.backend, address);
            Vec::new()
        });
    }

    /// Takes over which address that has left a name is dead, and why.
    pub(super) fn gone(&self, which: BackendKey, address: &Address, cause: String) {
        self.update(which.upstream, |health, _| health.gone(which.backend, address, cause));
    }

    /// Tells the operator of something that changes no state.
    pub(super) fn say(&self, upstream: UpstreamId, event: Event) {
        self.log_lines.take(upstream, event, &self.upstreams[upstream.index()].borrow());
    }

    /// A session has failed on a backend: has its checker look, unless it knows already.
    pub(super) fn suspect(&self, which: BackendKey) {
        if self.state(which).health == Health::Up {
            self.suspected[which.upstream.index()][which.backend.index()].notify_one();
        }
    }

    /// Returns once a session has failed on a backend that is up.
    ///
    /// # Cancel safety
    ///
    /// What is rung while nobody waits is kept for the next call.
    pub(super) async fn suspected(&self, which: BackendKey) {
        self.suspected[which.upstream.index()][which.backend.index()].notified().await;
    }

    /// Changes the health of an upstream, and makes known what comes of it.
    pub(super) fn update(
        &self,
        upstream: UpstreamId,
        change: impl FnOnce(&mut UpstreamHealth, Duration) -> Vec<Event>,
    ) {
        let mut health = self.upstreams[upstream.index()].borrow_mut();
        let before = health.states().to_vec();
        for event in change(&mut health, self.begun.elapsed()) {
            self.log_lines.take(upstream, event, &health);
        }
        if health.states() != before {
            self.is_changed.set(true);
            self.changed.notify_one();
            self.rescheduled.notify_one();
        }
    }

    /// Does what time has made due.
    pub(super) fn settle(&self) {
        for (id, health) in (0..).map(UpstreamId).zip(&self.upstreams) {
            let due = health.borrow().next_due();
            if due.is_some_and(|due| due <= self.begun.elapsed()) {
                self.update(id, UpstreamHealth::settle);
            }
        }
    }

    /// When there is something to [`settle`](Self::settle) next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.upstreams.iter().filter_map(|health| health.borrow().next_due()).min()?;
        self.begun.checked_add(due)
    }

    /// Returns once the next due time may have come nearer.
    pub(super) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// A copy of everything.
    pub(super) fn states(&self) -> Vec<Vec<BackendState>> {
        self.upstreams.iter().map(|health| health.borrow().states().to_vec()).collect()
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
            let addresses = {
                let health = self.upstreams[which.upstream.index()].borrow();
                Arc::clone(health.resolved(which.backend))
            };
            if *addresses != *known {
                return addresses;
            }
            self.moved[which.upstream.index()][which.backend.index()].notified().await;
        }
    }
}
