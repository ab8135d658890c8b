//! A timer of a task.

use std::task::{Context, Poll};

use super::Ring;
use super::wheel::TimerKey;
use crate::base::Tick;

/// Tells a task that a moment has come. Costs nothing until it is polled, and never anything in the kernel.
pub struct Timer {
    ring: Ring,
    deadline: Tick,
    armed: Option<TimerKey>,
}

impl Ring {
    /// Creates a timer for a moment.
    #[must_use]
    pub fn timer(&self, deadline: Tick) -> Timer {
        Timer { ring: self.clone(), deadline, armed: None }
    }

    /// Waits until a moment.
    pub async fn sleep_until(&self, deadline: Tick) {
        let mut timer = self.timer(deadline);
        std::future::poll_fn(|context| timer.poll_due(context)).await;
    }
}

impl Timer {
    /// Returns the moment that the timer is set to.
    #[must_use]
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// Sets the timer to another moment.
    pub fn set(&mut self, deadline: Tick) {
        if deadline != self.deadline {
            self.disarm();
            self.deadline = deadline;
        }
    }

    /// Ready when the moment has come; otherwise the task is woken when it comes.
    pub fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut wheel = self.ring.0.wheel.borrow_mut();
        // The clock is not used: it may be ahead of what was taken from the kernel, and timers come after
        // that.
        if wheel.now() >= self.deadline {
            return Poll::Ready(());
        }
        if self.deadline == Tick::NEVER {
            return Poll::Pending;
        }
        if !self.armed.is_some_and(|key| wheel.is_armed(key)) {
            self.armed = Some(wheel.arm(self.deadline, context.waker().clone()));
        }
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let Some(key) = self.armed.take() {
            self.ring.0.wheel.borrow_mut().cancel(key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}
