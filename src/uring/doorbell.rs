//! The doorbell: how another thread wakes a sleeping shard.

#![expect(unsafe_code, reason = "eventfd(2) has no safe wrapper in the crates we use")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::slot::{Key, Op};
use super::{Ring, slot};

/// Wakes one shard; clones ring the same bell. Put the message into the shard's channel first.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<File>);

/// The shard's end of a doorbell.
pub struct DoorbellListener {
    ring: Ring,
    key: Key,
}

impl Doorbell {
    /// Makes a doorbell, and the descriptor that its shard listens on.
    ///
    /// # Errors
    ///
    /// eventfd(2): no descriptor or no memory is left.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        // SAFETY: eventfd(2) takes two numbers and returns a new descriptor or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and no other code knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok((Self(Arc::new(File::from(fd.try_clone()?))), fd))
    }

    /// Wakes the shard, or makes its next sleep return at once.
    pub fn notify(&self) {
        // The counter would have to reach 2^64-1 to block or fail, and the shard resets it with each read.
        let _ = (&*self.0).write(&1_u64.to_ne_bytes());
    }
}

impl Ring {
    /// Listens to a doorbell on this shard.
    #[must_use]
    pub fn listen(&self, fd: OwnedFd) -> DoorbellListener {
        let key = self.0.core.borrow_mut().insert(fd);
        DoorbellListener { ring: self.clone(), key }
    }
}

impl DoorbellListener {
    /// Waits until the doorbell was rung since the last return.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn notified(&mut self) {
        std::future::poll_fn(|context| self.poll_notified(context)).await;
    }

    fn poll_notified(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut core = self.ring.0.core.borrow_mut();
        let slot = core.slots.of(self.key);
        slot.waker = Some(context.waker().clone());
        if slot.is_in_flight(Op::Count) {
            return Poll::Pending;
        }
        let notified = matches!(slot.extra(), Some(slot::Extra::Count(count)) if *count > 0);
        core.arm_count(self.key);
        if notified { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for DoorbellListener {
    fn drop(&mut self) {
        self.ring.0.core.borrow_mut().release(self.key);
    }
}
