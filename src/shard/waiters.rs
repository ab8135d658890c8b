//! Clients of this shard that wait for a backend below its `max_connections`.
//!
//! Who is next is decided by the queue of the upstream, which all shards share (`rules::admission::Queue`); here is
//! whom to wake. A place that was given to a waiter is on its way as a message until the waiter takes it; when the
//! waiter has left meanwhile, the place goes to the next. When the backend has gone out meanwhile, the waiter gives the place
//! back and waits again, before all who came later.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use super::Shard;
use super::connect::{Wait, WaitEnd, WaitingClient};
use super::inbox::Grant;
use crate::admission::Ticket;
use crate::balance::Tried;
use crate::base::Tick;
use crate::base::{BackendId, CloseReason, UpstreamId};
use crate::upstream::{InFlight, UpstreamTable};

/// Those who wait, by upstream and number of their ticket.
#[derive(Default)]
pub(super) struct Waiters(RefCell<BTreeMap<(UpstreamId, u64), Waiter>>);

#[derive(Default)]
struct Waiter {
    waker: Option<Waker>,
    /// The place it got.
    granted: Option<BackendId>,
}

impl Waiters {
    /// Takes a place that came for a waiter.
    pub(super) fn grant(&self, shard: &Shard, grant: Grant) {
        if let Some(waiter) = self.0.borrow_mut().get_mut(&(grant.upstream, grant.ticket)) {
            waiter.granted = Some(grant.backend);
            waiter.wake();
            return;
        }
        shard.upstreams[grant.upstream.index()].refuse(grant.backend);
    }

    /// Has everybody look whether there is still somebody to wait for.
    pub(super) fn wake_all(&self) {
        self.0.borrow().values().for_each(Waiter::wake);
    }
}

impl Waiter {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// A place in the queue until it is dropped.
struct Place<'a> {
    shard: &'a Shard,
    upstream: UpstreamId,
    ticket: Ticket,
}

/// Waits for a place at a backend that was not tried, until `deadline`.
pub(super) async fn wait(
    shard: &Shard,
    upstream: UpstreamId,
    tried: &Tried,
    waiting: WaitingClient<'_>,
    deadline: Tick,
) -> Result<InFlight, CloseReason> {
    let table = &shard.upstreams[upstream.index()];
    let ticket = table.join(tried).ok_or(CloseReason::QueueFull)?;
    shard.waiters.0.borrow_mut().insert((upstream, ticket.number), Waiter::default());
    shard.counters.queued.add(1);
    ask_pools(shard, table, tried);
    let place = Place { shard, upstream, ticket };
    let mut wait = Wait::until(shard, Some(waiting), deadline);
    std::future::poll_fn(|context| {
        if let Some(backend) = place.poll_granted(context) {
            if let Some(in_flight) = table.accept(backend) {
                return Poll::Ready(Ok(in_flight));
            }
            table.join_again(ticket, tried);
            // They may have taken places while nobody waited.
            ask_pools(shard, table, tried);
        }
        if !table.has_untried(tried) {
            return Poll::Ready(Err(CloseReason::NoBackend));
        }
        wait.poll(context).map(|over| {
            Err(match over {
                WaitEnd::Closing => CloseReason::Shutdown,
                WaitEnd::ClientLeft => CloseReason::ClientLeft,
                WaitEnd::TimeUp => CloseReason::QueueTimeout,
            })
        })
    })
    .await
}

/// Has all shards look whether their pools hold a place that is waited for.
fn ask_pools(shard: &Shard, table: &UpstreamTable, tried: &Tried) {
    if table.places_in_pools(tried) > 0 {
        shard.handles.iter().for_each(super::ShardHandle::notify);
    }
}

impl Place<'_> {
    /// The place it got, which is its own from now on; else its task is woken when it gets one.
    fn poll_granted(&self, context: &mut Context<'_>) -> Option<BackendId> {
        let mut waiters = self.shard.waiters.0.borrow_mut();
        let waiter = waiters.get_mut(&(self.upstream, self.ticket.number))?;
        if !waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            waiter.waker = Some(context.waker().clone());
        }
        waiter.granted.take()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let table = &self.shard.upstreams[self.upstream.index()];
        let waiter = self.shard.waiters.0.borrow_mut().remove(&(self.upstream, self.ticket.number));
        // Where it is too late, whoever takes the delivery finds nobody and refuses it.
        let _ = table.leave(self.ticket);
        if let Some(backend) = waiter.and_then(|waiter| waiter.granted) {
            table.refuse(backend);
        }
    }
}
