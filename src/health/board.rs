//! The states of all backends as the tasks of the health thread share them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::rules::config::Config;
use crate::rules::upstream::{Address, Addresses, BackendState, Event, Health, Verdicts};
use crate::words::UpstreamId;

use super::Which;
use super::passive::Notes;

/// The verdicts of all upstreams. No borrow of them outlives a method.
pub(super) struct Board {
    upstreams: Vec<RefCell<Verdicts>>,
    notes: Notes,
    /// What the times of the verdicts count from.
    begun: Instant,
    /// Rung when something may have become due earlier than it was.
    rescheduled: Notify,
    /// Whether something changed since the publisher looked last.
    is_changed: Cell<bool>,
    /// Rung for the publisher at every change.
    changed: Notify,
    /// Rung for a backend's checker when the addresses of the backend change.
    moved: Vec<Vec<Notify>>,
}

impl Board {
    pub(super) fn new(config: &Config, notes: Notes) -> Self {
        let sizes = || config.upstreams.iter().map(|upstream| upstream.backends.len());
        Self {
            upstreams: config
                .upstreams
                .iter()
                .map(|upstream| RefCell::new(Verdicts::new(upstream)))
                .collect(),
            notes,
            begun: Instant::now(),
            rescheduled: Notify::new(),
            is_changed: Cell::new(true),
            changed: Notify::new(),
            moved: sizes().map(|size| std::iter::repeat_with(Notify::new).take(size).collect()).collect(),
        }
    }

    /// Takes over all addresses.
    pub(super) fn set_addresses(&self, addresses: &Addresses) {
        assert_eq!(addresses.upstreams.len(), self.upstreams.len(), "addresses of the same configuration");
        for ((id, moved), new) in (0..).map(UpstreamId).zip(&self.moved).zip(&addresses.upstreams) {
            let before: Vec<_> = {
                let verdicts = self.upstreams[id.index()].borrow();
                verdicts.states().iter().map(|state| Arc::clone(&state.addresses)).collect()
            };
            if before == *new {
                continue;
            }
            self.update(id, |verdicts, now| verdicts.set_addresses(new, now));
            let changed = before.iter().zip(new).zip(moved).filter(|((before, new), _)| before != new);
            changed.for_each(|(_, moved)| moved.notify_one());
        }
    }

    /// Where a backend is; empty while nobody knows.
    pub(super) fn addresses(&self, which: Which) -> Arc<[Address]> {
        let verdicts = self.upstreams[which.upstream.index()].borrow();
        Arc::clone(&verdicts.states()[which.backend.index()].addresses)
    }

    /// Takes over what the checks say of a backend.
    pub(super) fn set_health(&self, which: Which, health: Health) {
        self.update(which.upstream, |verdicts, now| verdicts.set_health(which.backend, health, now));
    }

    /// Changes the verdicts of an upstream, and makes known what comes of it.
    pub(super) fn update(
        &self,
        upstream: UpstreamId,
        change: impl FnOnce(&mut Verdicts, Duration) -> Vec<Event>,
    ) {
        let mut verdicts = self.upstreams[upstream.index()].borrow_mut();
        let before = verdicts.states().to_vec();
        for event in change(&mut verdicts, self.begun.elapsed()) {
            self.notes.take(upstream, event, verdicts.count_primaries());
        }
        if verdicts.states() != before {
            self.is_changed.set(true);
            self.changed.notify_one();
            self.rescheduled.notify_one();
        }
    }

    /// Does what time has made due.
    pub(super) fn settle(&self) {
        for (id, verdicts) in (0..).map(UpstreamId).zip(&self.upstreams) {
            let due = verdicts.borrow().next_due();
            if due.is_some_and(|due| due <= self.begun.elapsed()) {
                self.update(id, Verdicts::settle);
            }
        }
    }

    /// When there is something to [`settle`](Self::settle) next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.upstreams.iter().filter_map(|verdicts| verdicts.borrow().next_due()).min()?;
        self.begun.checked_add(due)
    }

    /// Returns once the next due time may have come nearer.
    pub(super) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// How many backends of an upstream are up, and how many there are.
    pub(super) fn count_up(&self, upstream: UpstreamId) -> (usize, usize) {
        let verdicts = self.upstreams[upstream.index()].borrow();
        let up = verdicts.states().iter().filter(|backend| backend.health == Health::Up).count();
        (up, verdicts.states().len())
    }

    /// A copy of everything.
    pub(super) fn states(&self) -> Vec<Vec<BackendState>> {
        self.upstreams.iter().map(|verdicts| verdicts.borrow().states().to_vec()).collect()
    }

    /// Returns once something changed since it returned last; the first time at once.
    pub(super) async fn changed(&self) {
        while !self.is_changed.replace(false) {
            self.changed.notified().await;
        }
    }

    /// Returns the addresses of a backend once they are others than `known`.
    ///
    /// # Cancel safety
    ///
    /// A change is not lost when the future is dropped: the next call compares again.
    pub(super) async fn moved_from(&self, which: Which, known: &[Address]) -> Arc<[Address]> {
        loop {
            let addresses = self.addresses(which);
            if *addresses != *known {
                return addresses;
            }
            self.moved[which.upstream.index()][which.backend.index()].notified().await;
        }
    }
}
