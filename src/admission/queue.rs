//! The clients of one upstream that wait for a permit of a backend, in order of arrival. There is one queue
//! for the whole process.
//!
//! A permit is taken for a waiter only when the waiter is in the queue, and only under the lock of the queue.
//! A shard that gives a permit back then calls [`Queue::serve`], and a shard whose client begins to wait
//! calls it for every backend; so no permit stays free while a client that could use it waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::balance::Tried;
use crate::base::{ShardId, Shared};

/// A waiting client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The shard that serves the client.
    pub shard: ShardId,
    /// Unique within its queue.
    pub number: u64,
}

struct Waiter {
    ticket: Ticket,
    /// Backends that the client has tried. What else decides which backends a client waits for is known to
    /// the shard that has a permit to give.
    tried: Tried,
}

/// Which waiters can use a permit of a backend.
pub struct Eligible<F> {
    /// Decides by the backends that a waiter has tried.
    pub by: F,
    /// No waiter that has tried no backend yet can use the permit.
    pub after_attempts_only: bool,
}

/// See the module documentation.
#[derive(Default)]
pub struct Queue {
    most: AtomicUsize,
    /// Length of `waiters`, to be read without the lock.
    length: Shared<AtomicUsize>,
    waiters: Shared<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    in_order: VecDeque<Waiter>,
    numbers: u64,
    /// The number of waiters that have tried a backend.
    retrying: usize,
}

impl Waiting {
    fn insert(&mut self, position: usize, waiter: Waiter) {
        self.retrying += usize::from(!waiter.tried.is_empty());
        self.in_order.insert(position, waiter);
    }

    fn remove(&mut self, position: usize) -> Option<Waiter> {
        let waiter = self.in_order.remove(position)?;
        self.retrying -= usize::from(!waiter.tried.is_empty());
        Some(waiter)
    }

    /// Returns the position of the first waiter, at or after `from`, that can use the permit.
    fn first(&self, from: usize, usage: &Eligible<impl Fn(&Tried) -> bool>) -> Option<usize> {
        if usage.after_attempts_only && self.retrying == 0 {
            return None;
        }
        Some(from + self.in_order.range(from..).position(|waiter| (usage.by)(&waiter.tried))?)
    }
}

impl Queue {
    /// Creates an empty queue for at most `most` waiters.
    #[must_use]
    pub fn new(most: u32) -> Self {
        let queue = Self::default();
        queue.set_most(most);
        queue
    }

    /// Changes how many clients may wait. Clients that wait already go on waiting.
    pub fn set_most(&self, most: u32) {
        self.most.store(most as usize, Relaxed);
    }

    /// Joins the end of the queue, or returns `None` if the queue is full. It may exceed its maximum by
    /// `more`: the number of clients that wait for permits which pools hold and give up.
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
        self.length.write().store(waiters.in_order.len(), SeqCst);
        Some(ticket)
    }

    /// Joins the queue again, at the old position, because the permit that was granted turned out to be
    /// useless. This works even if other clients have filled the queue in the meantime.
    pub fn join_again(&self, ticket: Ticket, tried: Tried) {
        let mut waiters = self.lock();
        let position = waiters.in_order.partition_point(|waiter| waiter.ticket.number < ticket.number);
        waiters.insert(position, Waiter { ticket, tried });
        self.length.write().store(waiters.in_order.len(), SeqCst);
    }

    /// Leaves the queue. Returns `false` if a permit was granted to the waiter, which then has to use it or
    /// give it back.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> bool {
        let mut waiters = self.lock();
        let position = waiters.in_order.iter().position(|waiter| waiter.ticket == ticket);
        let has_left = position.and_then(|position| waiters.remove(position)).is_some();
        self.length.write().store(waiters.in_order.len(), SeqCst);
        has_left
    }

    /// Grants permits of a backend to the first waiters that can use them, for as long as `take` takes one.
    /// Returns the waiters that got one.
    #[must_use]
    pub fn serve(
        &self,
        usage: &Eligible<impl Fn(&Tried) -> bool>,
        mut take: impl FnMut() -> bool,
    ) -> Vec<Ticket> {
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
        self.length.write().store(waiters.in_order.len(), SeqCst);
        served
    }

    /// Returns whether a client waits that can use a permit.
    #[must_use]
    pub fn wants(&self, usage: &Eligible<impl Fn(&Tried) -> bool>) -> bool {
        !self.is_empty() && self.lock().first(0, usage).is_some()
    }

    /// Returns whether one more client may [join](Self::join).
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        self.len() < self.most.load(Relaxed) + more
    }

    /// Returns whether clients may wait at all, apart from those that wait for permits which pools hold.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.most.load(Relaxed) > 0
    }

    /// Returns the number of waiters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.get().load(SeqCst)
    }

    /// Returns whether no client waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code between lock and unlock can panic and leave the queue half changed.
        self.waiters.write().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

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

    /// A backend that every waiter can use unless the waiter has tried it.
    fn of(backend: BackendId) -> Eligible<impl Fn(&Tried) -> bool> {
        Eligible { by: move |tried: &Tried| !tried.contains(backend), after_attempts_only: false }
    }

    #[test]
    fn permits_go_to_the_first_waiters_that_can_use_them() {
        let queue = Queue::new(4);
        let first = queue.join(SHARD, tried(&[A]), 0).expect("room");
        let second = queue.join(SHARD, tried(&[]), 0).expect("room");
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        let limit = Limit::new(1, 2);
        assert_eq!(queue.serve(&of(A), || limit.take(SHARD)), [second]);
        limit.give_back(SHARD);
        assert_eq!(queue.serve(&of(A), || limit.take(SHARD)), [third]);
        assert!(queue.serve(&of(A), || true).is_empty(), "no other waiter can use it");
        assert_eq!((queue.len(), limit.taken()), (1, 1));
        assert_eq!(queue.serve(&of(B), || true), [first]);
    }

    #[test]
    fn full_queue_takes_no_client_and_a_client_that_leaves_frees_a_position() {
        assert!(Queue::new(0).join(SHARD, tried(&[]), 0).is_none());
        let queue = Queue::new(1);
        let ticket = queue.join(SHARD, tried(&[]), 0).expect("room");
        assert!(queue.join(SHARD, tried(&[]), 0).is_none());
        assert!(queue.leave(ticket) && !queue.leave(ticket));
        assert!(queue.join(SHARD, tried(&[]), 0).is_some());
    }

    #[test]
    fn client_that_joins_again_has_its_old_position() {
        let queue = Queue::new(2);
        let tickets = [0, 1].map(|_| queue.join(SHARD, tried(&[]), 0).expect("room"));
        let mut permits = 0..1;
        assert_eq!(queue.serve(&of(A), || permits.next().is_some()), tickets[..1]);
        let third = queue.join(SHARD, tried(&[]), 0).expect("room");
        queue.join_again(tickets[0], tried(&[]));
        assert_eq!(queue.serve(&of(A), || true), [tickets[0], tickets[1], third], "though it was full");
    }

    #[test]
    fn a_backend_is_wanted_if_a_waiter_has_not_tried_it() {
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
    fn a_backend_for_waiters_that_have_tried_others_is_not_wanted_by_fresh_ones() {
        let queue = Queue::new(3);
        let late = Eligible { by: |tried: &Tried| tried.contains(A), after_attempts_only: true };
        queue.join(SHARD, tried(&[]), 0).expect("room");
        assert!(!queue.wants(&late));
        let ticket = queue.join(SHARD, tried(&[A]), 0).expect("room");
        assert!(queue.wants(&late));
        assert_eq!(queue.serve(&late, || true), [ticket]);
        assert_eq!(queue.lock().retrying, 0);
        queue.join_again(ticket, tried(&[A]));
        assert!(queue.leave(ticket) && !queue.wants(&late));
    }

    #[test]
    fn freed_permit_is_used_exactly_once_while_threads_race() {
        race(3, 20_000);
    }

    /// Around the number from which four shards keep credits, which is 128.
    #[test]
    fn freed_permit_of_a_limit_with_credits_is_used_exactly_once_while_threads_race() {
        [127, 128, 129, 150, 250].iter().for_each(|permits| race(*permits, 400));
    }

    /// Threads, each a shard, that take permits, the first one directly or by waiting, and give them back. No thread stays in the
    /// queue while a permit is free, and never are more held than there are. A thread takes up to three quarters of all, so two
    /// of them come up to the limit.
    #[track_caller]
    fn race(permits: u32, rounds: u32) {
        use crossbeam_channel::{Sender, unbounded};
        const THREADS: u16 = 4;
        let (queue, limit) = (Queue::new(u32::from(THREADS)), Limit::new(permits, THREADS.into()));
        let inboxes: Vec<_> = (0..THREADS).map(|_| unbounded::<Ticket>()).collect();
        let senders: Vec<Sender<Ticket>> = inboxes.iter().map(|(sender, _)| sender.clone()).collect();
        let deliver = |served: Vec<Ticket>| {
            served
                .into_iter()
                .for_each(|ticket| senders[ticket.shard.index()].send(ticket).expect("it listens"));
        };
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for (index, (_, inbox)) in inboxes.iter().enumerate() {
                let (queue, limit, held, deliver) = (&queue, &limit, &held, &deliver);
                scope.spawn(move || {
                    let shard = ShardId(index as u16);
                    for round in 0..rounds {
                        if !(queue.is_empty() && limit.take(shard)) {
                            let ticket = queue.join(shard, tried(&[]), 0).expect("room");
                            deliver(queue.serve(&of(A), || limit.take(shard)));
                            let leaves = round % 7 == 0 && queue.leave(ticket);
                            if leaves {
                                continue;
                            }
                            let patience = std::time::Duration::from_secs(30);
                            assert_eq!(inbox.recv_timeout(patience).expect("a permit comes free"), ticket);
                        }
                        let more = (permits * 3 / 4).saturating_sub(round % 7);
                        let taken = 1 + (1..more).take_while(|_| limit.take(shard)).count() as u32;
                        let all = held.fetch_add(taken, SeqCst) + taken;
                        assert!(all <= permits, "{all} of {permits}");
                        for _ in 0..taken {
                            held.fetch_sub(1, SeqCst);
                            limit.give_back(shard);
                            deliver(queue.serve(&of(A), || limit.take(shard)));
                        }
                    }
                });
            }
        });
        let free = (0..=permits).filter(|_| limit.take(SHARD)).count();
        assert_eq!((queue.len(), free as u32), (0, permits), "each permit is there once");
    }
}
