//! What other threads tell a shard: the whole state, and the newest wins. And what other shards pass on to it: fresh
//! connections, and places at backends for those who wait for one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use crate::rules::upstream::UpstreamStates;
use crate::uring::Doorbell;
use crate::words::{BackendId, ListenerId, UpstreamId, limits};

/// What a shard does with new and with open sessions; only ever later in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts and serves.
    Running,
    /// Accepts no more, serves open sessions to their end.
    Draining,
    /// Ends all sessions.
    Closing,
}

/// A message. Each carries a whole state.
#[derive(Clone, Debug)]
pub(super) enum Message {
    States(Arc<UpstreamStates>),
    Phase(Phase),
    Grant(Grant),
}

/// A place at a backend for a client of this shard that waits for one; the only message that is a change and no state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) upstream: UpstreamId,
    pub(super) ticket: u64,
    pub(super) backend: BackendId,
}

/// A fresh connection that came to another shard, not counted yet.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) listener: ListenerId,
    pub(super) connection: OwnedFd,
}

/// The other threads' end: one for each shard, clones write to the same one.
#[derive(Clone)]
pub struct Letterbox {
    states: Slot<Arc<UpstreamStates>>,
    phase: Slot<Phase>,
    /// Holds at most one for each client that waits, whose number `limits::QUEUE` bounds.
    grants: Sender<Grant>,
    passed: Sender<Passed>,
    doorbell: Doorbell,
}

/// The shard's end.
pub struct Mailbox {
    states: Receiver<Arc<UpstreamStates>>,
    phase: Receiver<Phase>,
    grants: Receiver<Grant>,
    passed: Receiver<Passed>,
}

/// A channel of one place in which the newest message replaces an older one.
#[derive(Clone)]
struct Slot<T> {
    sender: Sender<T>,
    /// Takes the older message out; its own end, so that the shard's absence is no error.
    receiver: Receiver<T>,
}

impl<T> Slot<T> {
    fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = bounded(1);
        (Self { sender, receiver: receiver.clone() }, receiver)
    }

    /// Each sender of a slot is a single thread, so at most the shard takes a message in between.
    fn put(&self, mut message: T) {
        while let Err(TrySendError::Full(returned)) = self.sender.try_send(message) {
            let _ = self.receiver.try_recv();
            message = returned;
        }
    }
}

/// Both ends of a shard's mail; `doorbell` wakes the shard.
#[must_use]
pub fn mailbox(doorbell: Doorbell) -> (Letterbox, Mailbox) {
    let (states, states_receiver) = Slot::new();
    let (phase, phase_receiver) = Slot::new();
    let (grants, grants_receiver) = unbounded();
    let (passed, passed_receiver) = bounded(limits::PASSED_CONNECTIONS);
    (
        Letterbox { states, phase, grants, passed, doorbell },
        Mailbox {
            states: states_receiver,
            phase: phase_receiver,
            grants: grants_receiver,
            passed: passed_receiver,
        },
    )
}

impl Letterbox {
    /// Tells the shard the states of all backends; for the health thread.
    pub fn post_states(&self, states: Arc<UpstreamStates>) {
        self.states.put(states);
        self.doorbell.ring();
    }

    /// Tells the shard what to do; for the control plane.
    pub fn post_phase(&self, phase: Phase) {
        self.phase.put(phase);
        self.doorbell.ring();
    }

    /// Tells the shard that a client of it has a place at a backend.
    pub(super) fn post_grant(&self, grant: Grant) {
        // A shard that has ended has no clients.
        let _ = self.grants.send(grant);
        self.doorbell.ring();
    }

    /// Passes a connection on; returned where the channel is full, or the shard never started.
    pub(super) fn post_connection(&self, passed: Passed) -> Option<Passed> {
        let sent = self.passed.try_send(passed);
        if sent.is_ok() {
            self.doorbell.ring();
        }
        sent.err().map(TrySendError::into_inner)
    }

    /// Has the shard look at its own state.
    pub(super) fn ring(&self) {
        self.doorbell.ring();
    }
}

impl Mailbox {
    pub(super) fn take(&self) -> Option<Message> {
        let states = self.states.try_recv().ok().map(Message::States);
        let phase = || self.phase.try_recv().ok().map(Message::Phase);
        let grant = || self.grants.try_recv().ok().map(Message::Grant);
        states.or_else(phase).or_else(grant)
    }

    pub(super) fn take_passed(&self) -> Option<Passed> {
        self.passed.try_recv().ok()
    }
}
