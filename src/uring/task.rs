//! The only way to start a task on a shard.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::Ring;

/// Counts polls for the driver, and catches panics, except in a task that the shard cannot do without.
struct Task<F, const VITAL: bool> {
    ring: Ring,
    future: F,
}

impl Ring {
    /// Starts a task. It is polled once at once, inside the caller's own poll.
    ///
    /// A panic ends only this task: the panic is logged and counted, and the future is dropped.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.start::<false>(future);
    }

    /// Starts a task that the shard cannot do without: a panic in it ends the executor.
    pub fn spawn_vital(&self, future: impl Future<Output = ()> + 'static) {
        self.start::<true>(future);
    }

    fn start<const VITAL: bool>(&self, future: impl Future<Output = ()> + 'static) {
        self.0.tasks.set(self.0.tasks.get() + 1);
        let task = Task::<_, VITAL> { ring: self.clone(), future };
        #[expect(clippy::disallowed_methods, reason = "this is the wrapper that all others use")]
        glommio::spawn_local(task).detach();
    }

    /// Waits until the driver has gone through the kernel once more.
    pub async fn next_turn(&self) {
        let turn = self.turn();
        std::future::poll_fn(|context| {
            if self.turn() != turn {
                return Poll::Ready(());
            }
            self.0.next_turn.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<F: Future<Output = ()>, const VITAL: bool> Future for Task<F, VITAL> {
    type Output = ();

    #[expect(unsafe_code, reason = "pin projection to the only field that is polled")]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is pinned with `self`, is never moved out, and `Task` has no `Drop` that moves it.
        let (ring, mut future) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.ring, Pin::new_unchecked(&mut this.future))
        };
        ring.0.polls.set(ring.0.polls.get() + 1);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| pin!(future.as_mut()).poll(context)));
        polled.unwrap_or_else(|panic| {
            if VITAL {
                resume_unwind(panic);
            }
            // The panic hook has logged the message and the source location.
            ring.0.panics.set(ring.0.panics.get() + 1);
            Poll::Ready(())
        })
    }
}

impl<F, const VITAL: bool> Drop for Task<F, VITAL> {
    fn drop(&mut self) {
        self.ring.0.tasks.set(self.ring.0.tasks.get() - 1);
    }
}
