//! Clients of this shard in the queue of the upstream, and permits for the waiting clients of all shards.
//!
//! Whatever may free a permit notes its backend; the shard then calls [`UpstreamTable::serve`] and sends what
//! that returns. A client waits for the first tier with an untried backend, according to the tiers as seen by
//! the shard that has a permit to give.

use std::task::Waker;

use super::permit::{InFlight, Permit, Permits};
use super::table::UpstreamTable;
use crate::admission::Ticket;
use crate::balance::Tried;
use crate::base::{BackendId, CloseReason};

impl UpstreamTable {
    /// Joins the end of the queue, or returns `None` if the queue is full.
    #[must_use]
    pub fn join(&self, tried: &Tried) -> Option<Ticket> {
        let ticket =
            self.permits.shared.queue.join(self.permits.shard, tried.clone(), self.idle_permits(tried))?;
        self.permits.hooks.released.borrow_mut().extend(self.waited_for(tried));
        Some(ticket)
    }

    /// Leaves the queue. Returns `false` if a permit is already on its way: the shard that receives the
    /// permit and finds no client drops it.
    pub fn leave(&self, ticket: Ticket) -> bool {
        self.permits.shared.queue.leave(ticket)
    }

    /// Joins the queue again at the old place, because the permit that was on its way is none.
    pub fn join_again(&self, ticket: Ticket, tried: &Tried) {
        self.permits.shared.queue.join_again(ticket, tried.clone());
        self.permits.hooks.released.borrow_mut().extend(self.waited_for(tried));
    }

    /// Returns the permit that was taken for a waiting client of this shard.
    #[must_use]
    pub fn granted(&self, backend: BackendId) -> Permit {
        self.permits.taken(backend)
    }

    /// Has `server` woken when there is something to [serve](Self::serve).
    pub fn set_serving_task(&self, server: &Waker) {
        let mut known = self.permits.hooks.serving_task.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(server)) {
            *known = Some(server.clone());
        }
    }

    /// Takes permits for waiting clients. Returns which client gets a permit of which backend. If a grant
    /// cannot be delivered, drop it as a [permit](Self::granted) and call this again.
    #[must_use]
    pub fn serve(&self) -> Vec<(Ticket, BackendId)> {
        let mut served = Vec::new();
        for backend in self.permits.hooks.released.take() {
            let tickets = self.with_eligible(backend, |usage| {
                let Permits { shared, shard, .. } = &*self.permits;
                shared.queue.serve(&usage, || shared.take(backend, *shard))
            });
            served.extend(tickets.into_iter().flatten().map(|ticket| (ticket, backend)));
        }
        served
    }

    /// Decides for a waiting client that was woken, with the permit that was `granted` to it in the meantime,
    /// if any: a session begins, the wait goes on (`None`), or the wait is over because no backend is left to
    /// wait for.
    ///
    /// # Errors
    ///
    /// [`CloseReason::NoBackend`].
    pub fn poll_wait(
        &self,
        ticket: Ticket,
        tried: &Tried,
        granted: Option<BackendId>,
    ) -> Result<Option<InFlight>, CloseReason> {
        if let Some(backend) = granted {
            let permit = self.granted(backend);
            if self.is_candidate(backend) {
                return Ok(Some(InFlight::new(permit)));
            }
            // The backend has become ineligible while the permit was on its way.
            drop(permit);
            self.join_again(ticket, tried);
        }
        if self.has_untried(tried) { Ok(None) } else { Err(CloseReason::NoBackend) }
    }

    /// Gives back the permit of a grant that no client takes.
    pub fn refuse(&self, backend: BackendId) {
        drop(self.granted(backend));
    }

    /// Returns whether [`Self::serve`] has something to do.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.permits.hooks.released.borrow().is_empty()
    }

    /// Returns whether a client waits.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.permits.shared.queue.is_empty()
    }

    /// Returns the number of permits that idle connections of all shards hold of the backends that such a
    /// client waits for.
    #[must_use]
    pub fn idle_permits(&self, tried: &Tried) -> usize {
        self.permits.shared.idle_permits(self.waited_for(tried))
    }
}
