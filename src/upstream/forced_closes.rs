//! CloseOrders to end the open sessions of a backend: `on_down`, `on_up`, and addresses that went down after
//! they left a name.
//!
//! A session compares a number whenever it is polled, and looks at the orders themselves only if there are
//! new ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use super::state::{BackendState, Health};
use crate::base::{Address, CloseReason};
use crate::config::{OpenSessions, Upstream};

/// CloseOrders kept for each backend: this many can be given between two polls of a session and still be told
/// apart.
const KEPT: usize = 8;

/// The orders of all backends of one upstream, on one shard.
pub(super) struct ForcedCloses {
    on_down: OpenSessions,
    on_up: OpenSessions,
    backends: Box<[CloseOrders]>,
}

/// The orders of one backend.
#[derive(Default)]
struct CloseOrders {
    /// The number of orders so far; they may concern sessions that are older.
    count: Cell<u32>,
    /// The last [`KEPT`] orders.
    last: RefCell<VecDeque<CloseOrder>>,
    /// The backend has been at other addresses, where sessions may still be open.
    has_moved: Cell<bool>,
}

/// An order to end the sessions that a backend has at that moment.
#[derive(Clone)]
struct CloseOrder {
    reason: CloseReason,
    /// Limits the order to sessions on these addresses, if sessions may be on others.
    addresses: Option<Arc<[Address]>>,
}

impl ForcedCloses {
    pub(super) fn new(upstream: &Upstream, backends: usize) -> Self {
        Self {
            on_down: upstream.on_down,
            on_up: upstream.on_up,
            backends: (0..backends).map(|_| CloseOrders::default()).collect(),
        }
    }

    /// Notes the orders that follow from a change of state. Returns whether there are any.
    ///
    /// `is_panic`: panic does not trust verdicts, so no verdict ends a session. `returns_to_primaries`: this
    /// backend is a backup, and a primary serves again.
    pub(super) fn note(
        &self,
        backend: usize,
        (before, now): (&BackendState, &BackendState),
        is_panic: bool,
        returns_to_primaries: bool,
    ) -> bool {
        let orders = &self.backends[backend];
        let earlier = orders.count.get();
        let is_elsewhere = before.addresses.iter().any(|address| !now.addresses.contains(address));
        orders.has_moved.set(orders.has_moved.get() || is_elsewhere);
        if self.on_down == OpenSessions::Close {
            // A backend that has moved is judged anew, which says nothing of its sessions.
            let is_out = now.health == Health::Down || now.ejected;
            if before.is_eligible() && is_out && !is_panic {
                // The verdict concerns the current addresses, even if the name resolved to others at the same
                // moment.
                let checked = || Arc::clone(&now.addresses);
                orders.push(CloseReason::BackendDown, orders.has_moved.get().then(checked));
            }
            let gone: Arc<[_]> =
                now.gone.iter().filter(|gone| !before.gone.contains(gone)).cloned().collect();
            if !gone.is_empty() {
                orders.push(CloseReason::BackendDown, Some(gone));
            }
        }
        if returns_to_primaries && self.on_up == OpenSessions::Close {
            orders.push(CloseReason::PrimaryUp, None);
        }
        orders.count.get() != earlier
    }

    /// Orders all sessions of a backend to end.
    pub(super) fn order(&self, backend: usize, reason: CloseReason) {
        if let Some(orders) = self.backends.get(backend) {
            orders.push(reason, None);
        }
    }

    /// Returns the number of orders so far, for a session that begins now.
    pub(super) fn count(&self, backend: usize) -> u32 {
        self.backends[backend].count.get()
    }

    /// Returns why a session that has seen `seen` orders has to end, if it has to. `address` returns the
    /// address that the session is connected to.
    pub(super) fn reason(
        &self,
        backend: usize,
        seen: &Cell<u32>,
        address: impl FnOnce() -> Option<Address>,
    ) -> Option<CloseReason> {
        let orders = &self.backends[backend];
        let new = orders.count.get().wrapping_sub(seen.get()) as usize;
        if new == 0 {
            return None;
        }
        let last = orders.last.borrow();
        let mut unseen = last.iter().skip(last.len().saturating_sub(new));
        // If some orders were dropped, one of them may have concerned the session.
        let forgotten = last.front().filter(|_| new > last.len());
        let order = forgotten.or_else(|| {
            let address = address();
            unseen.find(|order| match (&order.addresses, &address) {
                (Some(addresses), Some(address)) => addresses.iter().any(|one| one.leads_to(address)),
                _ => true,
            })
        });
        if order.is_none() {
            seen.set(orders.count.get());
        }
        order.map(|order| order.reason)
    }
}

impl CloseOrders {
    fn push(&self, reason: CloseReason, addresses: Option<Arc<[Address]>>) {
        self.count.update(|count| count.wrapping_add(1));
        let mut last = self.last.borrow_mut();
        last.push_back(CloseOrder { reason, addresses });
        if last.len() > KEPT {
            last.pop_front();
        }
    }
}
