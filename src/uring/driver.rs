//! The driver: submits, sleeps, reaps. It is the main future of the executor.
//!
//! glommio's run queue is first in, first out, and the driver puts itself at its end. So between two polls of the
//! driver every task that was runnable at the first one was polled. Whether one may have become runnable since, and
//! now waits behind the driver, is told by the poll counter: only a pass in which no task was polled (and the
//! driver woke none, for a woken task is polled in the next pass) proves the queue empty.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Ring, Tick};

/// How often memory of unused buffers is given back.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// What the kernel runs at most, in one enter, of the work that completions have left to do (IO_LOCAL_TW_DEFAULT_MAX in
/// io_uring/io_uring.c, since Linux 6.13). The rest waits for the next enter, and everything new behind it: a turn that
/// took only so many, and started more, would have open sessions wait behind a crowd.
const COMPLETIONS_AN_ENTER: usize = 20;
/// Further enters of a turn for the rest.
const MOST_FURTHER_ENTERS: usize = 32;

struct Driver<'a> {
    ring: &'a Ring,
    /// The poll counter as the driver last left it.
    polls_seen: u64,
    /// The driver passed once already since the last turn.
    passed: bool,
    housekeeping: Tick,
}

impl Ring {
    /// Drives the ring until every task has ended and every descriptor is closed.
    ///
    /// # Panics
    ///
    /// When the kernel refuses the ring, which no traffic can bring about.
    pub async fn drive(&self) {
        let mut driver = Driver {
            ring: self,
            polls_seen: self.0.polls.get().wrapping_sub(1),
            passed: false,
            housekeeping: self.now().after(HOUSEKEEPING),
        };
        std::future::poll_fn(|context| driver.pass(context)).await;
    }
}

impl Driver<'_> {
    fn pass(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &*self.ring.0;
        let polls = inner.polls.get();
        let quiet = polls == self.polls_seen;
        self.polls_seen = polls;
        if !quiet && !self.passed {
            // Tasks ran, and what they woke is behind us: let it run too, so that one enter serves all. A second
            // such pass goes to the kernel without waiting, or a task that keeps yielding would shut out all I/O.
            self.passed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.passed = false;
        if quiet && inner.tasks.get() == 0 && inner.core.borrow().slots.len() == 0 {
            return Poll::Ready(());
        }
        let nobody_waits = inner.next_turn.borrow().is_empty() && inner.put_off.borrow().is_empty();
        self.turn(quiet && nobody_waits);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, wait: bool) {
        let inner = &*self.ring.0;
        let timeout = wait.then(|| self.sleep_time()).flatten();
        // Ahead of what completes: else whoever completes in each turn would have it, and these would be put off for ever.
        inner.put_off.borrow_mut().drain(..).for_each(std::task::Waker::wake);
        let mut core = inner.core.borrow_mut();
        core.enter(wait, timeout).expect("the kernel takes the entries of a sound ring");
        inner.now.set(Tick::read_clock());
        inner.turn.set(inner.turn.get() + 1);
        let mut reaped = core.reap();
        for _ in 0..MOST_FURTHER_ENTERS {
            if reaped < COMPLETIONS_AN_ENTER {
                break;
            }
            core.enter(false, None).expect("the kernel takes the entries of a sound ring");
            reaped = core.reap();
        }
        if inner.now.get() >= self.housekeeping {
            self.housekeeping = inner.now.get().after(HOUSEKEEPING);
            core.buffers.shrink();
        }
        drop(core);
        inner.wheel.borrow_mut().advance(inner.now.get(), std::task::Waker::wake);
        inner.next_turn.borrow_mut().drain(..).for_each(std::task::Waker::wake);
    }

    /// How long the shard may sleep: to the first timer, or to the next housekeeping where memory is to be given back.
    fn sleep_time(&self) -> Option<Duration> {
        let inner = &*self.ring.0;
        let timer = inner.wheel.borrow().next_event();
        let housekeeping = inner.core.borrow().buffers.can_shrink().then_some(self.housekeeping);
        let first = [timer, housekeeping].into_iter().flatten().min()?;
        // Only here is the clock read twice a turn: the tick is as old as the work of the last turn.
        Some(first.time_left())
    }
}
