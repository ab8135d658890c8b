//! Clients of this shard in the queue of an upstream. Who is next is decided by the queue, which all shards share
//! ([`admission::Queue`](crate::admission::Queue)); this wakes the client's task.
//!
//! A permit that was granted to a waiting client is on its way as a message until the client takes it. When the client has
//! left meanwhile, the permit goes to the next one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::{Context, Waker};

use crate::base::BackendId;

/// Those who wait, by the number of their ticket.
#[derive(Default)]
pub(super) struct Waiters(RefCell<BTreeMap<u64, Waiter>>);

#[derive(Default)]
struct Waiter {
    waker: Option<Waker>,
    /// The backend whose permit it got.
    granted: Option<BackendId>,
}

impl Waiter {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Waiters {
    pub(super) fn insert(&self, ticket: u64) {
        self.0.borrow_mut().insert(ticket, Waiter::default());
    }

    /// Forgets a client. Returns the backend whose permit it got and did not take.
    pub(super) fn remove(&self, ticket: u64) -> Option<BackendId> {
        self.0.borrow_mut().remove(&ticket)?.granted
    }

    /// Hands a permit to a client. Returns whether the client still waits.
    pub(super) fn grant(&self, ticket: u64, backend: BackendId) -> bool {
        let mut waiters = self.0.borrow_mut();
        let Some(waiter) = waiters.get_mut(&ticket) else { return false };
        waiter.granted = Some(backend);
        waiter.wake();
        true
    }

    /// Takes the permit that a client got; else its task is woken when it gets one.
    pub(super) fn take_granted(&self, ticket: u64, context: &Context<'_>) -> Option<BackendId> {
        let mut waiters = self.0.borrow_mut();
        let waiter = waiters.get_mut(&ticket)?;
        if !waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            waiter.waker = Some(context.waker().clone());
        }
        waiter.granted.take()
    }

    /// Has every client look whether there is still a backend to wait for.
    pub(super) fn wake_all(&self) {
        self.0.borrow().values().for_each(Waiter::wake);
    }
}
