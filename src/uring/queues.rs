//! The two queues of a ring: entries go to the kernel, completions come back, and one call exchanges both.

#![expect(unsafe_code, reason = "entries name memory and descriptors that the kernel uses later")]

use std::collections::VecDeque;
use std::io;

use io_uring::types::Timespec;
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::setup::{Features, GETEVENTS, NO_IOWAIT, quiet};
use super::slot::NOBODY;
use crate::base::Tick;

/// Maximum number of buffers gathered into one send.
pub(super) const SEND_PIECES: usize = 16;

/// Header and vector of one gathered send. The kernel copies both while it takes the entry
/// (IORING_FEAT_SUBMIT_STABLE), so they live until the queue was emptied.
struct Gather {
    header: libc::msghdr,
    pieces: [libc::iovec; SEND_PIECES],
}

/// What an enter waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// Nothing.
    No,
    /// A completion, or this moment.
    Until(Tick),
    /// A completion.
    Forever,
}

/// A kernel ring, and the entries that did not fit into its queue.
pub(super) struct Queues {
    // First, so that the ring is closed before the gathers that its entries name.
    ring: IoUring,
    overflow: VecDeque<squeue::Entry>,
    #[expect(
        clippy::vec_box,
        reason = "a queued entry names the address of its gather; growing must not move it"
    )]
    gathers: Vec<Box<Gather>>,
    gathers_used: usize,
    /// When the timeout in flight ends; `None` if none is.
    alarm: Option<Tick>,
    /// The kernel copies it while it takes the entry of the timeout.
    time_left: Box<Timespec>,
    /// Flags of an enter that waits.
    waiting: u32,
}

/// `user_data` of the timeout; no operation has this kind.
const ALARM: u64 = NOBODY - 1;

impl Queues {
    pub(super) fn new(ring: IoUring, features: Features) -> Self {
        Self {
            ring,
            overflow: VecDeque::new(),
            gathers: Vec::new(),
            gathers_used: 0,
            alarm: None,
            time_left: Box::new(Timespec::new()),
            waiting: GETEVENTS | if features.no_iowait { NO_IOWAIT } else { 0 },
        }
    }

    /// Queues an entry for the next enter.
    ///
    /// # Safety
    ///
    /// The memory and the descriptor that the entry names must outlive the operation.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.overflow.is_empty() || !self.try_push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller of `push` vouches for what the entry names.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Returns a header that names these pieces, at most [`SEND_PIECES`] of them; it lives until an entry
    /// queued now was taken by the kernel.
    pub(super) fn gather(&mut self, pieces: impl Iterator<Item = (*mut u8, u32)>) -> *const libc::msghdr {
        if self.gathers_used == self.gathers.len() {
            // SAFETY: zeroes are a valid `msghdr` and valid `iovec`s: null pointers and lengths of 0.
            self.gathers.push(Box::new(unsafe { std::mem::zeroed() }));
        }
        let gather = &mut self.gathers[self.gathers_used];
        self.gathers_used += 1;
        let mut count = 0;
        for (vector, (start, length)) in gather.pieces.iter_mut().zip(pieces) {
            *vector = libc::iovec { iov_base: start.cast(), iov_len: length as usize };
            count += 1;
        }
        gather.header.msg_iov = gather.pieces.as_mut_ptr();
        gather.header.msg_iovlen = count;
        &raw const gather.header
    }

    /// Hands everything over to the kernel and waits as told, except while entries still wait for room in the
    /// queue.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                break;
            }
        }
        let waits = self.overflow.is_empty()
            && match wait {
                Wait::No => false,
                Wait::Until(moment) => self.set_alarm(moment),
                Wait::Forever => true,
            };
        let (least, flags) = if waits { (1, self.waiting) } else { (0, GETEVENTS) };
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed, and the queued entries are sound, see `push`.
        let submitted = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, least, flags, None) };
        match submitted.map_err(|error| (error.raw_os_error(), error)) {
            // A signal came, there are completions to take first, or there is no memory for a request just now: the
            // next turn continues with what the queues hold.
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        if self.is_submitted() {
            self.gathers_used = 0;
        }
        Ok(())
    }

    /// Has a timeout in flight that ends at this moment or before; one that ends too early costs less than a timer for each
    /// sleep. Returns whether there was room for its entry.
    fn set_alarm(&mut self, moment: Tick) -> bool {
        if self.alarm.is_some_and(|alarm| alarm <= moment) {
            return true;
        }
        *self.time_left = Timespec::from(moment.time_left());
        let time_left = &raw const *self.time_left;
        let entry = match self.alarm {
            None => opcode::Timeout::new(time_left).build().user_data(ALARM),
            // If it has just ended, the update finds none, and the completion of the old one is there.
            Some(_) => quiet(opcode::TimeoutUpdate::new(ALARM, time_left).build().user_data(NOBODY)),
        };
        let is_queued = self.try_push(&entry);
        if is_queued {
            self.alarm = Some(moment);
        }
        is_queued
    }

    /// Returns whether the kernel has taken every entry.
    pub(super) fn is_submitted(&mut self) -> bool {
        self.overflow.is_empty() && self.ring.submission().is_empty()
    }

    /// Takes the next completion.
    pub(super) fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Returns whether a completion is that of the timeout, which is over then.
    pub(super) fn take_alarm(&mut self, entry: &cqueue::Entry) -> bool {
        let is_alarm = entry.user_data() == ALARM;
        if is_alarm {
            self.alarm = None;
        }
        is_alarm
    }

    /// Returns whether no completion is left to take, neither here nor in the kernel's hands.
    pub(super) fn is_reaped(&mut self) -> bool {
        self.ring.completion().is_empty() && !self.ring.submission().cq_overflow()
    }
}
