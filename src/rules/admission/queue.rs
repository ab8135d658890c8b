//! The clients of one upstream that wait for a backend below its limit, in the order in which they came: one queue for
//! the process.
//!
//! A place is taken for a waiter, never before there is one, and only under the lock of the queue. Whoever gives a place
//! back calls [`Queue::serve`] then, and who begins to wait calls it for every backend; so no place stays free beside
//! somebody who could use it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::rules::balance::Tried;
use crate::words::{BackendId, ShardId};

/// A waiting client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The shard that serves it.
    pub shard: ShardId,
    /// Unique in its queue.
    pub number: u64,
}

struct Waiter {
    ticket: Ticket,
    /// Backends that are of no use to it.
    tried: Tried,
}

/// See the module's page.
pub struct Queue {
    most: usize,
    /// Of `waiters`, for a look without the lock.
    length: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    in_order: VecDeque<Waiter>,
    numbers: u64,
}

impl Queue {
    /// An empty queue for at most so many.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most: most as usize, length: AtomicUsize::new(0), waiters: Mutex::default() }
    }

    /// Joins the end of the queue; `None` where it is full. There may be `more` than its maximum: those for whom pools hold
    /// places, which they give up.
    #[must_use]
    pub fn join(&self, shard: ShardId, tried: Tried, more: usize) -> Option<Ticket> {
        let most = self.most + more;
        if most == 0 {
            return None;
        }
        let mut waiters = self.lock();
        if waiters.in_order.len() >= most {
            return None;
        }
        waiters.numbers += 1;
        let ticket = Ticket { shard, number: waiters.numbers };
        waiters.in_order.push_back(Waiter { ticket, tried });
        self.length.store(waiters.in_order.len(), SeqCst);
        Some(ticket)
    }

    /// Joins the queue again, before all who came later, when the place that was given is of no use; `false` where it is full.
    #[must_use]
    pub fn join_again(&self, ticket: Ticket, tried: Tried, more: usize) -> bool {
        let mut waiters = self.lock();
        let has_room = waiters.in_order.len() < self.most + more;
        if has_room {
            let place = waiters.in_order.partition_point(|waiter| waiter.ticket.number < ticket.number);
            waiters.in_order.insert(place, Waiter { ticket, tried });
            self.length.store(waiters.in_order.len(), SeqCst);
        }
        has_room
    }

    /// Leaves the queue. If it is `false`, a place was given to the waiter, who has to use it or to give it back.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> bool {
        let mut waiters = self.lock();
        let place = waiters.in_order.iter().position(|waiter| waiter.ticket == ticket);
        if let Some(place) = place {
            waiters.in_order.remove(place);
            self.length.store(waiters.in_order.len(), SeqCst);
        }
        place.is_some()
    }

    /// Gives places of a backend to the first who can use them, as long as `take` takes one. Who got one.
    #[must_use]
    pub fn serve(&self, backend: BackendId, mut take: impl FnMut() -> bool) -> Vec<Ticket> {
        let mut served = Vec::new();
        if self.is_empty() {
            return served;
        }
        let mut waiters = self.lock();
        let mut from = 0;
        let useful = |waiter: &Waiter| !waiter.tried.contains(backend);
        while let Some(ahead) = waiters.in_order.range(from..).position(useful)
            && take()
        {
            from += ahead;
            served.extend(waiters.in_order.remove(from).map(|waiter| waiter.ticket));
        }
        self.length.store(waiters.in_order.len(), SeqCst);
        served
    }

    /// Whether somebody waits who can use a place of this backend.
    #[must_use]
    pub fn wants(&self, backend: BackendId) -> bool {
        !self.is_empty() && self.lock().in_order.iter().any(|waiter| !waiter.tried.contains(backend))
    }

    /// Whether anybody may wait in it, but for those for whom pools hold places.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.most > 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing between lock and unlock can panic and leave it half changed.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limit;
    use super::*;

    const SHARD: ShardId = ShardId(0);
    const A: BackendId = BackendId(0);
    const B: BackendId = BackendId(1);

    fn tried(backends: &[BackendId]) -> Tried {
        let mut tried = Tried::default();
        backends.iter().for_each(|&backend| tried.insert(backend));
        tried
    }

    #[test]
    fn places_go_to_the_first_who_can_use_them() {
        let queue = Queue::new(4);
        let first = queue.join(SHARD, tried(&[A]), 0).expect("room");
        let second = queue.join(SHARD, tried(&[]), 0).expect("room");
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        let limit = Limit::new(1);
        assert_eq!(queue.serve(A, || limit.take()), [second]);
        limit.give_back();
        assert_eq!(queue.serve(A, || limit.take()), [third]);
        assert!(queue.serve(A, || true).is_empty(), "nobody else has use for it");
        assert_eq!((queue.len(), limit.taken()), (1, 1));
        assert_eq!(queue.serve(B, || true), [first]);
    }

    #[test]
    fn full_queue_takes_nobody_and_who_leaves_frees_a_place() {
        assert!(Queue::new(0).join(SHARD, tried(&[]), 0).is_none());
        let queue = Queue::new(1);
        let ticket = queue.join(SHARD, tried(&[]), 0).expect("room");
        assert!(queue.join(SHARD, tried(&[]), 0).is_none());
        assert!(queue.leave(ticket) && !queue.leave(ticket));
        assert!(queue.join(SHARD, tried(&[]), 0).is_some());
    }

    #[test]
    fn who_joins_again_has_the_old_place() {
        let queue = Queue::new(2);
        let tickets = [0, 1].map(|_| queue.join(SHARD, tried(&[]), 0).expect("room"));
        let mut places = 0..1;
        assert_eq!(queue.serve(A, || places.next().is_some()), tickets[..1]);
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        assert!(!queue.join_again(tickets[0], tried(&[]), 0), "it is full");
        assert!(queue.leave(third) && queue.join_again(tickets[0], tried(&[]), 0));
        assert_eq!(queue.serve(A, || true), tickets);
    }

    #[test]
    fn a_backend_is_wanted_if_somebody_who_waits_has_not_tried_it() {
        let queue = Queue::new(2);
        assert!(!queue.wants(A));
        let first = queue.join(SHARD, tried(&[A]), 0).expect("room");
        assert_eq!([A, B].map(|backend| queue.wants(backend)), [false, true]);
        queue.join(SHARD, tried(&[B]), 0).expect("room");
        assert_eq!([A, B].map(|backend| queue.wants(backend)), [true, true]);
        assert!(queue.leave(first));
        assert_eq!([A, B].map(|backend| queue.wants(backend)), [true, false]);
    }

    /// Threads that take a place of three, directly or by waiting, and give it back. None stays in the queue while
    /// there is a place, and there are never more than three.
    #[test]
    fn freed_place_is_used_exactly_once_while_threads_race() {
        use crossbeam_channel::{Sender, unbounded};
        const THREADS: u16 = 4;
        let (queue, limit) = (Queue::new(u32::from(THREADS)), Limit::new(3));
        let inboxes: Vec<_> = (0..THREADS).map(|_| unbounded::<Ticket>()).collect();
        let senders: Vec<Sender<Ticket>> = inboxes.iter().map(|(sender, _)| sender.clone()).collect();
        let deliver = |served: Vec<Ticket>| {
            served
                .into_iter()
                .for_each(|ticket| senders[ticket.shard.index()].send(ticket).expect("it listens"));
        };
        let holders = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (index, (_, inbox)) in inboxes.iter().enumerate() {
                let (queue, limit, holders, deliver) = (&queue, &limit, &holders, &deliver);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        if !(queue.is_empty() && limit.take()) {
                            let ticket = queue.join(ShardId(index as u16), tried(&[]), 0).expect("room");
                            deliver(queue.serve(A, || limit.take()));
                            let leaves = round % 7 == 0 && queue.leave(ticket);
                            if leaves {
                                continue;
                            }
                            let patience = std::time::Duration::from_secs(30);
                            assert_eq!(inbox.recv_timeout(patience).expect("a place comes free"), ticket);
                        }
                        assert!(holders.fetch_add(1, SeqCst) < 3);
                        holders.fetch_sub(1, SeqCst);
                        limit.give_back();
                        deliver(queue.serve(A, || limit.take()));
                    }
                });
            }
        });
        assert_eq!((queue.len(), limit.taken()), (0, 0));
    }
}
