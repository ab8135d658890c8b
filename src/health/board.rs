//! The states of all backends as the tasks of the health thread share them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::rules::config::Config;
use crate::rules::upstream::{Address, Addresses, BackendState, Health};
use crate::words::UpstreamId;

use super::Which;

/// One entry a backend. No borrow of it outlives a method.
pub(super) struct Board {
    upstreams: Vec<RefCell<Vec<BackendState>>>,
    /// Whether an upstream's backends are checked; those of the others are up once they have an address.
    checked: Vec<bool>,
    /// Whether something changed since the publisher looked last.
    is_changed: Cell<bool>,
    /// Rung for the publisher at every change.
    changed: Notify,
    /// Rung for a backend's checker when the addresses of the backend change.
    moved: Vec<Vec<Notify>>,
}

impl Board {
    pub(super) fn new(config: &Config) -> Self {
        let unknown = BackendState { health: Health::Checking, addresses: Arc::from([]) };
        let sizes = || config.upstreams.iter().map(|upstream| upstream.backends.len());
        Self {
            upstreams: sizes().map(|size| RefCell::new(vec![unknown.clone(); size])).collect(),
            checked: config.upstreams.iter().map(|upstream| upstream.healthcheck.is_some()).collect(),
            is_changed: Cell::new(true),
            changed: Notify::new(),
            moved: sizes().map(|size| std::iter::repeat_with(Notify::new).take(size).collect()).collect(),
        }
    }

    /// Takes over all addresses.
    pub(super) fn set_addresses(&self, addresses: &Addresses) {
        assert_eq!(addresses.upstreams.len(), self.upstreams.len(), "addresses of the same configuration");
        for (index, (upstream, new)) in self.upstreams.iter().zip(&addresses.upstreams).enumerate() {
            let mut upstream = upstream.borrow_mut();
            assert_eq!(new.len(), upstream.len(), "addresses of the same configuration");
            for (backend, (state, new)) in upstream.iter_mut().zip(new).enumerate() {
                if state.addresses == *new {
                    continue;
                }
                state.addresses = Arc::clone(new);
                if !self.checked[index] && !new.is_empty() {
                    state.health = Health::Up;
                }
                self.moved[index][backend].notify_one();
                self.mark_changed();
            }
        }
    }

    /// Where a backend is; empty while nobody knows.
    pub(super) fn addresses(&self, which: Which) -> Arc<[Address]> {
        Arc::clone(&self.upstreams[which.upstream.index()].borrow()[which.backend.index()].addresses)
    }

    /// Takes over what the checks say of a backend.
    pub(super) fn set_health(&self, which: Which, health: Health) {
        self.upstreams[which.upstream.index()].borrow_mut()[which.backend.index()].health = health;
        self.mark_changed();
    }

    /// How many backends of an upstream are up, and how many there are.
    pub(super) fn count_up(&self, upstream: UpstreamId) -> (usize, usize) {
        let backends = self.upstreams[upstream.index()].borrow();
        (backends.iter().filter(|backend| backend.health == Health::Up).count(), backends.len())
    }

    /// A copy of everything.
    pub(super) fn states(&self) -> Vec<Vec<BackendState>> {
        self.upstreams.iter().map(|upstream| upstream.borrow().clone()).collect()
    }

    /// Returns once something changed since it returned last; the first time at once.
    pub(super) async fn changed(&self) {
        while !self.is_changed.replace(false) {
            self.changed.notified().await;
        }
    }

    fn mark_changed(&self) {
        self.is_changed.set(true);
        self.changed.notify_one();
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
