//! Accepting on the ring.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use super::Ring;
use super::slot::{Extra, Key, Op};

/// A listening socket of this shard, accepted from by one multishot operation.
pub struct Acceptor {
    ring: Ring,
    key: Key,
}

impl Ring {
    /// Takes over a listening socket.
    #[must_use]
    pub fn accept_from(&self, fd: OwnedFd) -> Acceptor {
        let key = self.0.core.borrow_mut().insert(fd);
        Acceptor { ring: self.clone(), key }
    }
}

impl Acceptor {
    /// The next connection.
    ///
    /// # Errors
    ///
    /// accept(2). Accepting goes on with the next call; where descriptors are short the caller waits a moment.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let mut core = self.ring.0.core.borrow_mut();
        let slot = core.slots.of(self.key);
        if let Extra::Accepted(queue) = &mut slot.extra
            && let Some(connection) = queue.pop_front()
        {
            return Poll::Ready(connection);
        }
        slot.waker = Some(context.waker().clone());
        core.arm_accept(self.key);
        Poll::Pending
    }

    /// Stops accepting and hands over every connection that the kernel has completed already, so that none of those
    /// is reset when the socket closes.
    ///
    /// # Cancel safety
    ///
    /// Connections are lost when the future is dropped before its end.
    pub async fn stop(self) -> Vec<OwnedFd> {
        self.ring.0.core.borrow_mut().cancel_accept(self.key);
        let mut connections = std::future::poll_fn(|context| {
            let mut core = self.ring.0.core.borrow_mut();
            let slot = core.slots.of(self.key);
            slot.waker = Some(context.waker().clone());
            if slot.is_in_flight(Op::Accept) {
                return Poll::Pending;
            }
            let Extra::Accepted(queue) = &mut slot.extra else { return Poll::Ready(Vec::new()) };
            Poll::Ready(queue.drain(..).filter_map(Result::ok).collect())
        })
        .await;
        connections.extend(self.backlog());
        connections
    }

    /// What waits in the kernel's queue.
    #[expect(unsafe_code, reason = "the descriptor is borrowed from the slot")]
    fn backlog(&self) -> Vec<OwnedFd> {
        let fd = self.ring.0.core.borrow_mut().fd(self.key);
        // SAFETY: the slot keeps the descriptor open for as long as `self` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let listener = socket2::SockRef::from(&fd);
        if listener.set_nonblocking(true).is_err() {
            return Vec::new();
        }
        std::iter::from_fn(|| listener.accept().ok()).map(|(connection, _)| connection.into()).collect()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.ring.0.core.borrow_mut().release(self.key);
    }
}
