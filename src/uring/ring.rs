//! The handle of a shard's ring, and what the shard's tasks share through it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::core::Core;
use super::heartbeat::Heartbeat;
use super::line::{Line, Place};
use super::locked;
use super::missing::Missing;
use super::setup::{self, Features};
use super::slot::Slot;
use super::wheel::Wheel;
use crate::base::{Activity, Spares, Tick};

/// The ring of the current shard; clones are handles of the same ring.
#[derive(Clone)]
pub struct Ring(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) core: RefCell<Core>,
    pub(super) wheel: RefCell<Wheel>,
    pub(super) features: Features,
    /// The time of the last turn.
    pub(super) now: Cell<Tick>,
    /// Turns of the driver so far.
    pub(super) turn: Cell<u64>,
    /// Polls of all tasks so far, without those of the driver.
    pub(super) polls: Cell<u64>,
    /// Tasks that have not ended.
    pub(super) tasks: Cell<usize>,
    pub(super) panics: Cell<u64>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Tasks that wait for the next turn, to run after everything that completes in it.
    pub(super) next_turn: RefCell<Vec<Waker>>,
    /// Tasks that are deferred to the next turn, in which they run first, in this order.
    pub(super) put_off: RefCell<Vec<Waker>>,
    pub(super) line: RefCell<Line>,
    pub(super) spares: Rc<Spares>,
}

/// Size and number of the provided buffers of a ring.
#[derive(Clone, Copy, Debug)]
pub struct BufferSettings {
    /// Size of a buffer, bytes.
    pub bytes: u32,
    /// Number of buffers; a power of two up to 32,768.
    pub count: u32,
}

impl Ring {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel lacks or forbids.
    pub fn new(buffers: BufferSettings) -> Result<Self, Missing> {
        Self::with_heartbeat(buffers, Arc::default())
    }

    /// Like [`Ring::new`], with a heartbeat that other threads know.
    ///
    /// # Errors
    ///
    /// As [`Ring::new`].
    pub fn with_heartbeat(buffers: BufferSettings, heartbeat: Arc<Heartbeat>) -> Result<Self, Missing> {
        let core = locked::patiently(|| {
            let (ring, features) = setup::set_up()?;
            Ok((Core::new(ring, features, buffers.bytes, buffers.count)?, features))
        });
        let ((core, features), now) = (core?, Tick::read_clock());
        let spares = Rc::clone(&core.spares);
        Ok(Self(Rc::new(Inner {
            core: RefCell::new(core),
            wheel: RefCell::new(Wheel::new(now)),
            features,
            now: Cell::new(now),
            turn: Cell::new(0),
            polls: Cell::new(0),
            tasks: Cell::new(0),
            panics: Cell::new(0),
            heartbeat,
            next_turn: RefCell::new(Vec::new()),
            put_off: RefCell::new(Vec::new()),
            line: RefCell::default(),
            spares,
        })))
    }

    /// For tests: what the kernel offers beyond the minimum.
    #[doc(hidden)]
    #[must_use]
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// Returns the time of the current turn; no system call.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.0.now.get()
    }

    /// Publishes what the shard does from now on, until the next turn.
    pub fn set_activity(&self, activity: Activity) {
        self.0.heartbeat.set_activity(activity);
    }

    /// Returns the number of turns of the driver so far.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.0.turn.get()
    }

    /// For tests: tasks that ended in a panic so far.
    #[doc(hidden)]
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.get()
    }

    /// For tests: open descriptors of this ring.
    #[doc(hidden)]
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.0.core.borrow().slots.len()
    }

    /// For tests: provided buffers that hold bytes somewhere between their receive and the end of their send.
    #[doc(hidden)]
    #[must_use]
    pub fn buffers_held(&self) -> u32 {
        self.0.core.borrow().buffers.held()
    }

    /// Wakes a task in a later turn: in each, those that came first.
    pub fn wait_in_line(&self, place: &Place, waker: &Waker) {
        self.0.line.borrow_mut().wait(place, waker);
    }

    /// Returns buffers of the heap that are used again. What was sent with [`Socket::send`](super::Socket::send) comes to them.
    #[must_use]
    pub fn spares(&self) -> &Spares {
        &self.0.spares
    }

    /// Returns whether buffers are so few that a session which cannot send must not hold any.
    #[must_use]
    pub fn buffers_scarce(&self) -> bool {
        self.0.core.borrow().buffers.scarce()
    }

    /// Wakes every task that owns a descriptor, to check something that concerns all.
    pub fn wake_all(&self) {
        self.0.core.borrow().slots.iter().for_each(Slot::wake);
    }
}
