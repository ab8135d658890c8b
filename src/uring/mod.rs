//! The ring of a shard: one io_uring for all network I/O, timers and wake-ups of one core.
//!
//! The shard is a glommio executor, and it sleeps in exactly one place: the `io_uring_enter` of [`Ring::drive`].
//! glommio's own reactor is blind while it sleeps there, so glommio's timers, channels and sockets are not used on a
//! shard; tasks are spawned with [`Ring::spawn`], time comes from [`Ring::now`] and [`Ring::timer`], and other
//! threads ring the [`Doorbell`].
//!
//! Invariants:
//! - a descriptor is closed only after the last completion of every operation that names it;
//! - memory that the kernel may touch belongs to the ring, never to a future;
//! - the driver sleeps only after a whole pass of the run queue in which no other task was polled;
//! - no operation of it ends on a thread of the kernel's;
//! - one system call for each turn, or for 20 completions, none for a timer, no clock call for a message.
//!
//! Deliberately absent: zero-copy send, bundles, registered files, `SQPOLL`;
//! `docs/maintainers/PERFORMANCE.md` says what was measured.

mod accept;
mod buffers;
mod complete;
mod core;
mod doorbell;
mod driver;
mod errno;
mod heap;
mod knock;
mod locked;
mod queues;
mod setup;
mod slot;
mod socket;
mod submit;
mod task;
mod timer;
mod wheel;

#[cfg(test)]
pub(crate) mod testing;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::base::Tick;

pub use accept::Acceptor;
pub use doorbell::{Doorbell, DoorbellListener};
pub use errno::Errno;
pub(crate) use errno::errno_of;
pub use locked::{LockedMemory, locked_memory, make_executor};
pub use setup::{Features, Missing, probe};
pub use slot::{End, Receive};
pub use socket::{Peeked, Sent, Socket};
pub use timer::Timer;

/// The ring of the current shard; clones are handles to the same one.
#[derive(Clone)]
pub struct Ring(Rc<Inner>);

struct Inner {
    core: RefCell<core::Core>,
    wheel: RefCell<wheel::Wheel>,
    features: Features,
    /// As of the last turn.
    now: Cell<Tick>,
    /// Turns of the driver so far.
    turn: Cell<u64>,
    /// Polls of all tasks so far, of the driver none.
    polls: Cell<u64>,
    /// Tasks that have not ended.
    tasks: Cell<usize>,
    panics: Cell<u64>,
    /// Tasks that wait for the next turn, behind everything that completes in it.
    next_turn: RefCell<Vec<Waker>>,
    /// Tasks that were put off to the next turn; they come first in it, in this order.
    put_off: RefCell<Vec<Waker>>,
}

/// Size and number of the provided buffers of a ring.
#[derive(Clone, Copy, Debug)]
pub struct BufferSettings {
    /// Size of one, bytes.
    pub bytes: u32,
    /// How many; a power of two up to 32,768.
    pub count: u32,
}

impl Ring {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel lacks or forbids.
    pub fn new(buffers: BufferSettings) -> Result<Self, Missing> {
        let core = locked::patiently(|| {
            let (ring, features) = setup::set_up()?;
            Ok((core::Core::new(ring, features, buffers.bytes, buffers.count)?, features))
        });
        let ((core, features), now) = (core?, Tick::read_clock());
        Ok(Self(Rc::new(Inner {
            core: RefCell::new(core),
            wheel: RefCell::new(wheel::Wheel::new(now)),
            features,
            now: Cell::new(now),
            turn: Cell::new(0),
            polls: Cell::new(0),
            tasks: Cell::new(0),
            panics: Cell::new(0),
            next_turn: RefCell::new(Vec::new()),
            put_off: RefCell::new(Vec::new()),
        })))
    }

    /// What the kernel offers beyond the minimum.
    #[must_use]
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The time of the current turn; no system call.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.0.now.get()
    }

    /// Turns of the driver so far.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.0.turn.get()
    }

    /// Tasks that ended in a panic so far.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.get()
    }

    /// Open descriptors of this ring.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.0.core.borrow().slots.len()
    }

    /// Provided buffers that hold bytes somewhere between their receive and the end of their send.
    #[must_use]
    pub fn buffers_held(&self) -> u32 {
        self.0.core.borrow().buffers.held()
    }

    /// Whether buffers are so few that a session which cannot send must not hold any.
    #[must_use]
    pub fn buffers_scarce(&self) -> bool {
        self.0.core.borrow().buffers.scarce()
    }

    /// Wakes every task that owns a descriptor, to look at something that concerns all.
    pub fn wake_all(&self) {
        self.0.core.borrow().slots.iter().for_each(slot::Slot::wake);
    }
}
