//! The driver: submits, sleeps, reaps. It is the main future of the executor.
//!
//! glommio's run queue is first in, first out, and the driver puts itself at its end. So between two polls of
//! the driver, every task that was runnable at the first poll was polled. The poll counter tells whether a
//! task may have become runnable since then and now waits behind the driver: only a pass in which no task was
//! polled (and in which the driver woke none, because a woken task is polled in the next pass) proves the
//! queue empty.

use std::task::{Context, Poll};
use std::time::Duration;

use super::Ring;
use super::core::Core;
use super::queues::Wait;
use crate::base::Tick;

/// How often the memory of unused buffers is given back.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// How much of the work left by completions the kernel runs at most in one enter (IO_LOCAL_TW_DEFAULT_MAX in
/// io_uring/io_uring.c, since Linux 6.13). The rest waits for the next enter, and everything new waits behind
/// it: a turn that took only this much and started more would make open sessions wait behind a burst of
/// clients.
const COMPLETIONS_AN_ENTER: usize = 20;
/// Maximum number of further enters in a turn, to take the rest.
const MOST_FURTHER_ENTERS: usize = 32;
/// Maximum number of turns that due timers wait until everything is taken that had completed when they became
/// due: as many completions as there can be after a freeze, at [`MOST_FURTHER_ENTERS`] a turn.
const MOST_TURNS_LATE: u32 = 64;

/// What one turn has taken so far.
#[derive(Default)]
struct Reaped {
    /// Completions that were taken.
    count: usize,
    /// Completions of the last enter.
    last: usize,
    /// Whether receives wait for buffers.
    starved: bool,
}

impl Reaped {
    /// Returns whether everything that had completed by then was taken.
    fn is_all(&self) -> bool {
        self.last < COMPLETIONS_AN_ENTER && !self.starved
    }

    /// Takes what the last enter brought, and enters again as long as there may be more, within the bound.
    fn take(&mut self, core: &mut Core) {
        for _ in 0..MOST_FURTHER_ENTERS {
            self.reap(core);
            // What a receive brings that was parked came when its poll ended.
            let has_unparked = std::mem::take(&mut core.has_unparked);
            if self.last < COMPLETIONS_AN_ENTER && !has_unparked {
                break;
            }
            core.enter(Wait::No).expect("the kernel takes the entries of a sound ring");
        }
        if !core.is_reaped() {
            // Takes what the last enter brought: when buffers are given back, no completion of a filled
            // buffer may still be in the queue.
            self.reap(core);
        }
        self.starved = core.has_starved();
    }

    /// The alarm is one of those that an enter brings at most, but nothing that anybody waits for.
    fn reap(&mut self, core: &mut Core) {
        let (count, alarms) = core.reap();
        self.last = count;
        self.count += count - alarms;
    }
}

struct Driver<'a> {
    ring: &'a Ring,
    /// The poll counter when the driver last ran.
    polls_seen: u64,
    /// Whether the driver has already made a pass since the last turn.
    passed: bool,
    housekeeping: Tick,
    /// Everything that had completed by this moment was taken, and the tasks woken by it run before the next
    /// turn: then timers are due.
    settled: Option<Tick>,
    /// The number of turns that due timers have waited.
    late: u32,
}

impl Ring {
    /// Drives the ring until every task has ended and every descriptor is closed.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the ring, which no traffic can cause.
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
            // Tasks ran, and the tasks that they woke are behind the driver in the queue: let these run, too,
            // so that one enter serves all. After a second such pass the driver enters the kernel without
            // waiting, or a task that keeps yielding would shut out all I/O.
            self.passed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.passed = false;
        if quiet && inner.tasks.get() == 0 && inner.core.borrow().slots.len() == 0 {
            return Poll::Ready(());
        }
        let no_task_waits = inner.next_turn.borrow().is_empty()
            && inner.put_off.borrow().is_empty()
            && inner.line.borrow().is_empty()
            && !inner.core.borrow().quiet.is_awaited;
        let wait = if quiet && no_task_waits {
            inner.heartbeat.end(Tick::read_clock());
            self.sleep()
        } else {
            Wait::No
        };
        self.turn(wait);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, wait: Wait) {
        let inner = &*self.ring.0;
        // Deferred tasks run before the tasks of completions, or tasks with a completion in every turn would
        // starve them.
        inner.put_off.borrow_mut().drain(..).for_each(std::task::Waker::wake);
        inner.line.borrow_mut().call(std::task::Waker::wake);
        let mut core = inner.core.borrow_mut();
        core.enter(wait).expect("the kernel takes the entries of a sound ring");
        let now = Tick::read_clock();
        inner.now.set(now);
        inner.turn.set(inner.turn.get() + 1);
        inner.heartbeat.end(now);
        inner.heartbeat.begin(now);
        let mut reaped = Reaped::default();
        reaped.take(&mut core);
        if let Some(settled) = self.settled.take() {
            inner.wheel.borrow_mut().advance(settled, std::task::Waker::wake);
        }
        let due = !inner.wheel.borrow_mut().pass(now);
        if due {
            // The enter above may have ended before a freeze of this process, and the clock was read after
            // the freeze.
            core.enter(Wait::No).expect("the kernel takes the entries of a sound ring");
            reaped.take(&mut core);
        }
        if now >= self.housekeeping {
            self.housekeeping = now.after(HOUSEKEEPING);
            core.heap.note_table(inner.wheel.borrow_mut().shrink());
            core.shrink();
        }
        core.park(now);
        drop(core);
        inner.heartbeat.completed(reaped.count);
        self.fire(now, due, &reaped);
        inner.next_turn.borrow_mut().drain(..).for_each(std::task::Waker::wake);
    }

    /// Advances the timers. Due timers fire only after everything that had completed before, and after the
    /// tasks woken by it: a session whose bytes have arrived is not idle, however long this process or its
    /// machine stood still.
    fn fire(&mut self, now: Tick, due: bool, reaped: &Reaped) {
        if !due {
            return;
        }
        if reaped.count == 0 && !reaped.starved {
            self.ring.0.wheel.borrow_mut().advance(now, std::task::Waker::wake);
            self.late = 0;
        } else if reaped.is_all() || self.late == MOST_TURNS_LATE {
            self.settled = Some(now);
            self.late = 0;
        } else {
            self.late += 1;
        }
    }

    /// Returns how long the shard may sleep: until the first timer, the next housekeeping if there is memory to give
    /// back, or the next look at receives that may be parked.
    fn sleep(&self) -> Wait {
        let inner = &*self.ring.0;
        let (core, wheel) = (inner.core.borrow(), inner.wheel.borrow());
        let timer = wheel.next_event();
        let housekeeping = (core.can_shrink() || wheel.can_shrink()).then_some(self.housekeeping);
        let parking = core.parking.due();
        let first = [timer, housekeeping, parking].into_iter().flatten().min();
        first.map_or(Wait::Forever, Wait::Until)
    }
}
