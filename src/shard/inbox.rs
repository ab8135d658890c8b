//! What other threads tell a shard: the whole state, and the newest wins. And what other shards pass on to it: fresh
//! connections, and places at backends for those who wait for one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use crate::base::{BackendId, ListenerId, UpstreamId, limits};
use crate::upstream::UpstreamStates;
use crate::uring::Doorbell;

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
pub(super) struct HandedOff {
    pub(super) listener: ListenerId,
    pub(super) connection: OwnedFd,
}

/// The other threads' end: one for each shard, clones write to the same one.
#[derive(Clone)]
pub struct ShardHandle {
    states: Latest<Arc<UpstreamStates>>,
    phase: Latest<Phase>,
    /// Holds at most one for each client that waits, whose number `limits::QUEUE_MAX` bounds.
    grants: Sender<Grant>,
    passed: Sender<HandedOff>,
    doorbell: Doorbell,
}

/// The shard's end.
pub struct Inbox {
    states: Receiver<Arc<UpstreamStates>>,
    phase: Receiver<Phase>,
    grants: Receiver<Grant>,
    passed: Receiver<HandedOff>,
}

/// A channel of one place in which the newest message replaces an older one.
#[derive(Clone)]
struct Latest<T> {
    sender: Sender<T>,
    /// Takes the older message out; its own end, so that the shard's absence is no error.
    receiver: Receiver<T>,
}

impl<T> Latest<T> {
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
pub fn inbox(doorbell: Doorbell) -> (ShardHandle, Inbox) {
    let (states, states_receiver) = Latest::new();
    let (phase, phase_receiver) = Latest::new();
    let (grants, grants_receiver) = unbounded();
    let (passed, passed_receiver) = bounded(limits::HANDOFFS_MAX);
    (
        ShardHandle { states, phase, grants, passed, doorbell },
        Inbox {
            states: states_receiver,
            phase: phase_receiver,
            grants: grants_receiver,
            passed: passed_receiver,
        },
    )
}

impl ShardHandle {
    /// Tells the shard the states of all backends; for the health thread.
    pub fn post_states(&self, states: Arc<UpstreamStates>) {
        self.states.put(states);
        self.doorbell.notify();
    }

    /// Tells the shard what to do; for the control plane.
    pub fn post_phase(&self, phase: Phase) {
        self.phase.put(phase);
        self.doorbell.notify();
    }

    /// Tells the shard that a client of it has a place at a backend. Whether the shard has not ended.
    pub(super) fn post_grant(&self, grant: Grant) -> bool {
        let sent = self.grants.send(grant).is_ok();
        self.doorbell.notify();
        sent
    }

    /// Passes a connection on; returned where the channel is full, or the shard never started.
    pub(super) fn post_connection(&self, passed: HandedOff) -> Option<HandedOff> {
        let sent = self.passed.try_send(passed);
        if sent.is_ok() {
            self.doorbell.notify();
        }
        sent.err().map(TrySendError::into_inner)
    }

    /// Has the shard look at its own state.
    pub(super) fn notify(&self) {
        self.doorbell.notify();
    }
}

impl Inbox {
    pub(super) fn take(&self) -> Option<Message> {
        let states = self.states.try_recv().ok().map(Message::States);
        let phase = || self.phase.try_recv().ok().map(Message::Phase);
        let grant = || self.grants.try_recv().ok().map(Message::Grant);
        states.or_else(phase).or_else(grant)
    }

    pub(super) fn take_handed_off(&self) -> Option<HandedOff> {
        self.passed.try_recv().ok()
    }
}
