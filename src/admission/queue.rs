//! The clients of one upstream that wait for a backend below its limit, in the order in which they came: one queue for
//! the process.
//!
//! A place is taken for a waiter, never before there is one, and only under the lock of the queue. Whoever gives a place
//! back calls [`Queue::serve`] then, and who begins to wait calls it for every backend; so no place stays free beside
//! somebody who could use it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::balance::Tried;
use crate::base::ShardId;

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
    /// Backends that it has tried. For whom it waits beyond that is what the shard knows that has a place to give.
    tried: Tried,
}

/// Who of those that wait can use a place at a backend.
pub struct Use<F> {
    /// By what they have tried.
    pub by: F,
    /// Nobody who has tried none.
    pub after_tries_only: bool,
}

/// See the module's page.
#[derive(Default)]
pub struct Queue {
    most: AtomicUsize,
    /// Of `waiters`, for a look without the lock.
    length: AtomicUsize,
    waiters: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    in_order: VecDeque<Waiter>,
    numbers: u64,
    /// Of those who wait, those who have tried somebody.
    retrying: usize,
}

impl Waiting {
    fn insert(&mut self, place: usize, waiter: Waiter) {
        self.retrying += usize::from(!waiter.tried.is_empty());
        self.in_order.insert(place, waiter);
    }

    fn remove(&mut self, place: usize) -> Option<Waiter> {
        let waiter = self.in_order.remove(place)?;
        self.retrying -= usize::from(!waiter.tried.is_empty());
        Some(waiter)
    }

    /// Where the first is, from a place on, who can use it.
    fn first(&self, from: usize, usage: &Use<impl Fn(&Tried) -> bool>) -> Option<usize> {
        if usage.after_tries_only && self.retrying == 0 {
            return None;
        }
        Some(from + self.in_order.range(from..).position(|waiter| (usage.by)(&waiter.tried))?)
    }
}

impl Queue {
    /// An empty queue for at most so many.
    #[must_use]
    pub fn new(most: u32) -> Self {
        let queue = Self::default();
        queue.set_most(most);
        queue
    }

    /// Changes how many may wait. Whoever waits goes on.
    pub fn set_most(&self, most: u32) {
        self.most.store(most as usize, Relaxed);
    }

    /// Joins the end of the queue; `None` where it is full. There may be `more` than its maximum: those for whom pools hold
    /// places, which they give up.
    #[must_use]
    pub fn join(&self, shard: ShardId, tried: Tried, more: usize) -> Option<Ticket> {
        let most = self.most.load(Relaxed) + more;
        if most == 0 {
            return None;
        }
        let mut waiters = self.lock();
        if waiters.in_order.len() >= most {
            return None;
        }
        waiters.numbers += 1;
        let ticket = Ticket { shard, number: waiters.numbers };
        let end = waiters.in_order.len();
        waiters.insert(end, Waiter { ticket, tried });
        self.length.store(waiters.in_order.len(), SeqCst);
        Some(ticket)
    }

    /// Joins the queue again, before all who came later, when the place that was given is of no use; also where others have
    /// filled the queue meanwhile.
    pub fn join_again(&self, ticket: Ticket, tried: Tried) {
        let mut waiters = self.lock();
        let place = waiters.in_order.partition_point(|waiter| waiter.ticket.number < ticket.number);
        waiters.insert(place, Waiter { ticket, tried });
        self.length.store(waiters.in_order.len(), SeqCst);
    }

    /// Leaves the queue. If it is `false`, a place was given to the waiter, who has to use it or to give it back.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> bool {
        let mut waiters = self.lock();
        let place = waiters.in_order.iter().position(|waiter| waiter.ticket == ticket);
        let has_left = place.and_then(|place| waiters.remove(place)).is_some();
        self.length.store(waiters.in_order.len(), SeqCst);
        has_left
    }

    /// Gives places of a backend to the first who can use them, as long as `take` takes one. Who got one.
    #[must_use]
    pub fn serve(&self, usage: &Use<impl Fn(&Tried) -> bool>, mut take: impl FnMut() -> bool) -> Vec<Ticket> {
        let mut served = Vec::new();
        if self.is_empty() {
            return served;
        }
        let mut waiters = self.lock();
        let mut from = 0;
        while let Some(first) = waiters.first(from, usage)
            && take()
        {
            from = first;
            served.extend(waiters.remove(first).map(|waiter| waiter.ticket));
        }
        self.length.store(waiters.in_order.len(), SeqCst);
        served
    }

    /// Whether somebody waits who can use a place.
    #[must_use]
    pub fn wants(&self, usage: &Use<impl Fn(&Tried) -> bool>) -> bool {
        !self.is_empty() && self.lock().first(0, usage).is_some()
    }

    /// Whether anybody may wait in it, but for those for whom pools hold places.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.most.load(Relaxed) > 0
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

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing between lock and unlock can panic and leave it half changed.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limit;
    use super::*;
    use crate::base::BackendId;

    const SHARD: ShardId = ShardId(0);
    const A: BackendId = BackendId(0);
    const B: BackendId = BackendId(1);

    fn tried(backends: &[BackendId]) -> Tried {
        let mut tried = Tried::default();
        backends.iter().for_each(|&backend| tried.insert(backend));
        tried
    }

    /// A backend that all can use who have not tried it.
    fn of(backend: BackendId) -> Use<impl Fn(&Tried) -> bool> {
        Use { by: move |tried: &Tried| !tried.contains(backend), after_tries_only: false }
    }

    #[test]
    fn places_go_to_the_first_who_can_use_them() {
        let queue = Queue::new(4);
        let first = queue.join(SHARD, tried(&[A]), 0).expect("room");
        let second = queue.join(SHARD, tried(&[]), 0).expect("room");
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        let limit = Limit::new(1);
        assert_eq!(queue.serve(&of(A), || limit.take()), [second]);
        limit.give_back();
        assert_eq!(queue.serve(&of(A), || limit.take()), [third]);
        assert!(queue.serve(&of(A), || true).is_empty(), "nobody else has use for it");
        assert_eq!((queue.len(), limit.taken()), (1, 1));
        assert_eq!(queue.serve(&of(B), || true), [first]);
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
        assert_eq!(queue.serve(&of(A), || places.next().is_some()), tickets[..1]);
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        queue.join_again(tickets[0], tried(&[]));
        assert_eq!(queue.serve(&of(A), || true), [tickets[0], tickets[1], third], "though it was full");
    }

    #[test]
    fn a_backend_is_wanted_if_somebody_who_waits_has_not_tried_it() {
        let queue = Queue::new(2);
        assert!(!queue.wants(&of(A)));
        let first = queue.join(SHARD, tried(&[A]), 0).expect("room");
        assert_eq!([A, B].map(|backend| queue.wants(&of(backend))), [false, true]);
        queue.join(SHARD, tried(&[B]), 0).expect("room");
        assert_eq!([A, B].map(|backend| queue.wants(&of(backend))), [true, true]);
        assert!(queue.leave(first));
        assert_eq!([A, B].map(|backend| queue.wants(&of(backend))), [true, false]);
    }

    #[test]
    fn a_backend_for_those_who_have_tried_others_is_nobodys_where_all_are_fresh() {
        let queue = Queue::new(3);
        let late = Use { by: |tried: &Tried| tried.contains(A), after_tries_only: true };
        queue.join(SHARD, tried(&[]), 0).expect("room");
        assert!(!queue.wants(&late));
        let ticket = queue.join(SHARD, tried(&[A]), 0).expect("room");
        assert!(queue.wants(&late));
        assert_eq!(queue.serve(&late, || true), [ticket]);
        assert_eq!(queue.lock().retrying, 0);
        queue.join_again(ticket, tried(&[A]));
        assert!(queue.leave(ticket) && !queue.wants(&late));
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
                            deliver(queue.serve(&of(A), || limit.take()));
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
                        deliver(queue.serve(&of(A), || limit.take()));
                    }
                });
            }
        });
        assert_eq!((queue.len(), limit.taken()), (0, 0));
    }
}
