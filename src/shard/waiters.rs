//! Clients of this shard in the queue of an upstream. The queue, which all shards share
//! ([`admission::Queue`](crate::admission::Queue)), decides which client is next; this module wakes the
//! client's task.
//!
//! A permit that was granted to a waiting client is on its way as a message until the client takes it. If the
//! client has left in the meantime, the permit goes to the next one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::{Context, Waker};

use crate::base::BackendId;

/// The waiting clients, by the number of their ticket.
#[derive(Default)]
pub(super) struct Waiters(RefCell<BTreeMap<u64, Waiter>>);

#[derive(Default)]
struct Waiter {
    waker: Option<Waker>,
    granted: Option<Granted>,
}

/// What was sent to a waiting client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// A permit of this backend.
    Permit(BackendId),
    /// Nothing: the permit was one of another generation, and the client has to join the queue again.
    Nothing,
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

    /// Removes a client. Returns the backend whose permit the client got and did not take.
    pub(super) fn remove(&self, ticket: u64) -> Option<BackendId> {
        match self.0.borrow_mut().remove(&ticket)?.granted? {
            Granted::Permit(backend) => Some(backend),
            Granted::Nothing => None,
        }
    }

    /// Hands a permit to a client. Returns whether the client still waits.
    pub(super) fn grant(&self, ticket: u64, granted: Granted) -> bool {
        let mut waiters = self.0.borrow_mut();
        let Some(waiter) = waiters.get_mut(&ticket) else { return false };
        waiter.granted = Some(granted);
        waiter.wake();
        true
    }

    /// Takes the permit that a client got; otherwise the client's task is woken when it gets one.
    pub(super) fn take_granted(&self, ticket: u64, context: &Context<'_>) -> Option<Granted> {
        let mut waiters = self.0.borrow_mut();
        let waiter = waiters.get_mut(&ticket)?;
        if !waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            waiter.waker = Some(context.waker().clone());
        }
        waiter.granted.take()
    }

    /// Has every client check whether there is still a backend to wait for.
    pub(super) fn wake_all(&self) {
        self.0.borrow().values().for_each(Waiter::wake);
    }
}
