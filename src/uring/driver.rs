//! The driver: submits, sleeps, reaps. It is the main future of the executor.
//!
//! glommio's run queue is first in, first out, and the driver puts itself at its end. So between two polls of
//! the driver every task that was runnable at the first one was polled. Whether one may have become runnable
//! since, and now waits behind the driver, is told by the poll counter: only a pass in which no task was
//! polled (and the driver woke none, for a woken task is polled in the next pass) proves the queue empty.

use std::task::{Context, Poll};
use std::time::Duration;

use super::Ring;
use super::core::Core;
use super::queues::Wait;
use crate::base::Tick;

/// How often memory of unused buffers is given back.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// What the kernel runs at most, in one enter, of the work that completions have left to do
/// (IO_LOCAL_TW_DEFAULT_MAX in io_uring/io_uring.c, since Linux 6.13). The rest waits for the next enter, and
/// everything new behind it: a turn that took only so many, and started more, would have open sessions wait
/// behind a crowd.
const COMPLETIONS_AN_ENTER: usize = 20;
/// Enters of a turn for the rest.
const MOST_FURTHER_ENTERS: usize = 32;
/// Turns that timers wait for, at most, until everything is taken that had completed when they were due: as
/// many completions as there can be after a freeze, at [`MOST_FURTHER_ENTERS`] a turn.
const MOST_TURNS_LATE: u32 = 64;

/// What one turn has taken so far.
#[derive(Default)]
struct Reaped {
    /// Anything.
    any: bool,
    /// Completions of the last enter.
    last: usize,
    /// Receives wait for buffers.
    starved: bool,
}

impl Reaped {
    /// Whether nothing is left that had come by then.
    fn is_all(&self) -> bool {
        self.last < COMPLETIONS_AN_ENTER && !self.starved
    }

    /// Takes what the last enter brought, and enters again for as long as there may be more, within the
    /// bound.
    fn take(&mut self, core: &mut Core) {
        for _ in 0..MOST_FURTHER_ENTERS {
            self.last = core.reap();
            self.any |= self.last > 0;
            if self.last < COMPLETIONS_AN_ENTER {
                break;
            }
            core.enter(Wait::No).expect("the kernel takes the entries of a sound ring");
        }
        if self.last >= COMPLETIONS_AN_ENTER {
            // What the last enter brought. Nothing that was filled may lie in the queue when buffers are
            // given back.
            self.last = core.reap();
        }
        self.starved = core.has_starved();
    }
}

struct Driver<'a> {
    ring: &'a Ring,
    /// The poll counter as the driver last left it.
    polls_seen: u64,
    /// The driver passed once already since the last turn.
    passed: bool,
    housekeeping: Tick,
    /// What had completed by this moment was taken, and its tasks run before the next turn: then timers are
    /// due.
    settled: Option<Tick>,
    /// Turns that due timers have waited for.
    late: u32,
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
            settled: None,
            late: 0,
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
            // Tasks ran, and what they woke is behind us: let it run too, so that one enter serves all. A
            // second such pass goes to the kernel without waiting, or a task that keeps yielding would shut
            // out all I/O.
            self.passed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.passed = false;
        if quiet && inner.tasks.get() == 0 && inner.core.borrow().slots.len() == 0 {
            return Poll::Ready(());
        }
        let nobody_waits = inner.next_turn.borrow().is_empty() && inner.put_off.borrow().is_empty();
        let wait = if quiet && nobody_waits { self.sleep() } else { Wait::No };
        self.turn(wait);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, wait: Wait) {
        let inner = &*self.ring.0;
        // Ahead of what completes: else whoever completes in each turn would have it, and these would be put
        // off for ever.
        inner.put_off.borrow_mut().drain(..).for_each(std::task::Waker::wake);
        let mut core = inner.core.borrow_mut();
        core.enter(wait).expect("the kernel takes the entries of a sound ring");
        inner.now.set(Tick::read_clock());
        inner.turn.set(inner.turn.get() + 1);
        let mut reaped = Reaped::default();
        reaped.take(&mut core);
        let now = inner.now.get();
        if let Some(settled) = self.settled.take() {
            inner.wheel.borrow_mut().advance(settled, std::task::Waker::wake);
        }
        let due = !inner.wheel.borrow_mut().pass(now);
        if due {
            // The enter above may have ended before a freeze of this process, and the clock was read after
            // it.
            core.enter(Wait::No).expect("the kernel takes the entries of a sound ring");
            reaped.take(&mut core);
        }
        if now >= self.housekeeping {
            self.housekeeping = now.after(HOUSEKEEPING);
            core.shrink();
        }
        drop(core);
        self.fire(now, due, &reaped);
        inner.next_turn.borrow_mut().drain(..).for_each(std::task::Waker::wake);
    }

    /// Advances the timers, those that are due only behind everything that had completed before, and behind
    /// its tasks: a session whose bytes have arrived is not idle, however long this process or its machine
    /// stood still.
    fn fire(&mut self, now: Tick, due: bool, reaped: &Reaped) {
        if !due {
            return;
        }
        if !reaped.any && !reaped.starved {
            self.ring.0.wheel.borrow_mut().advance(now, std::task::Waker::wake);
            self.late = 0;
        } else if reaped.is_all() || self.late == MOST_TURNS_LATE {
            self.settled = Some(now);
            self.late = 0;
        } else {
            self.late += 1;
        }
    }

    /// How long the shard may sleep: to the first timer, or to the next housekeeping where memory is to be
    /// given back.
    fn sleep(&self) -> Wait {
        let inner = &*self.ring.0;
        let timer = inner.wheel.borrow().next_event();
        let housekeeping = inner.core.borrow().can_shrink().then_some(self.housekeeping);
        let first = [timer, housekeeping].into_iter().flatten().min();
        // Only here is the clock read twice a turn: the tick is as old as the work of the last turn.
        first.map_or(Wait::Forever, |first| Wait::AtMost(first.time_left()))
    }
}
