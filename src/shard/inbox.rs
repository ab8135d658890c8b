//! What other threads tell a shard: whole states, of which the newest wins. And what other shards hand to it:
//! fresh connections, and permits of backends for its waiting clients.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::admitted::Admitted;
use super::questions::Question;
use crate::base::{BackendId, ListenerId, limits};
use crate::upstream::{SharedUpstream, Snapshot, UpstreamStates};
use crate::uring::Doorbell;

/// What a shard does with new and with open sessions. A shard only ever moves forward in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Has everything, and leaves the connections in its sockets to the process that it is to replace.
    Held,
    /// Accepts connections and serves sessions.
    Running,
    /// Accepts no connections, and leaves those that wait in its sockets to another process that has the same sockets.
    Leaving,
    /// Accepts no connections, and serves open sessions to their end.
    Draining,
    /// Ends all sessions.
    Closing,
}

/// The next generation of the configuration, as one shard gets it.
pub struct Generation {
    /// The configuration, with what all shards share of it.
    pub snapshot: Arc<Snapshot>,
    /// The states of its backends.
    pub states: Arc<UpstreamStates>,
    /// Sockets of this shard for addresses that no listener had before, with the position of their listener in the
    /// configuration.
    pub sockets: Vec<(usize, OwnedFd)>,
    /// Dropped once the shard runs the generation.
    pub applied: Sender<()>,
}

/// A message. Each carries a whole state.
pub(super) enum Message {
    Generation(Generation),
    States(Arc<UpstreamStates>),
    Phase(Phase),
    Grant(Grant),
}

/// A permit of a backend for a waiting client of this shard; the only message that is a change and not a
/// state.
#[derive(Clone)]
pub(super) struct Grant {
    /// The upstream as the shard knows it that took the permit, which may be of another generation.
    pub(super) upstream: Arc<SharedUpstream>,
    pub(super) ticket: u64,
    pub(super) backend: BackendId,
}

/// A fresh connection that came to another shard and is not counted yet.
#[derive(Debug)]
pub(super) struct HandedOff {
    pub(super) listener: ListenerId,
    pub(super) admitted: Admitted,
}

/// The end for other threads: one for each shard; clones write to the same inbox.
#[derive(Clone)]
pub struct ShardHandle {
    states: Latest<Arc<UpstreamStates>>,
    phase: Latest<Phase>,
    /// Holds at most one grant for each waiting client, and `limits::QUEUE_MAX` bounds their number.
    grants: Sender<Grant>,
    generations: Sender<Generation>,
    handed_off: Sender<HandedOff>,
    questions: Sender<Question>,
    doorbell: Doorbell,
}

/// The shard's end.
pub struct Inbox {
    states: Receiver<Arc<UpstreamStates>>,
    phase: Receiver<Phase>,
    grants: Receiver<Grant>,
    generations: Receiver<Generation>,
    handed_off: Receiver<HandedOff>,
    questions: Receiver<Question>,
}

/// A channel for one message, in which a new message replaces an older one.
#[derive(Clone)]
struct Latest<T> {
    sender: Sender<T>,
    /// Takes the older message out; the sender has its own receiver, so that the absence of the shard is no
    /// error.
    receiver: Receiver<T>,
}

impl<T> Latest<T> {
    fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = bounded(1);
        (Self { sender, receiver: receiver.clone() }, receiver)
    }

    /// Each slot has a single sending thread, so only the shard can take a message in between.
    fn put(&self, mut message: T) {
        while let Err(TrySendError::Full(returned)) = self.sender.try_send(message) {
            let _ = self.receiver.try_recv();
            message = returned;
        }
    }
}

/// Creates both ends of a shard's inbox; `doorbell` wakes the shard.
#[must_use]
pub fn inbox(doorbell: Doorbell) -> (ShardHandle, Inbox) {
    let (states, states_receiver) = Latest::new();
    let (phase, phase_receiver) = Latest::new();
    let (grants, grants_receiver) = unbounded();
    let (generations, generations_receiver) = unbounded();
    let (handed_off, handed_off_receiver) = bounded(limits::HANDOFFS_MAX);
    let (questions, questions_receiver) = bounded(limits::QUESTIONS_MAX);
    (
        ShardHandle { states, phase, grants, generations, handed_off, questions, doorbell },
        Inbox {
            states: states_receiver,
            phase: phase_receiver,
            grants: grants_receiver,
            generations: generations_receiver,
            handed_off: handed_off_receiver,
            questions: questions_receiver,
        },
    )
}

impl ShardHandle {
    /// Tells the shard the states of all backends; only the health thread calls this.
    pub fn post_states(&self, states: Arc<UpstreamStates>) {
        self.states.put(states);
        self.doorbell.notify();
    }

    /// Gives the shard the next generation of the configuration; only the control plane calls this. One for a shard that
    /// has ended is dropped.
    pub fn post_generation(&self, generation: Generation) {
        let _ = self.generations.send(generation);
        self.doorbell.notify();
    }

    /// Tells the shard its phase; only the control plane calls this.
    pub fn post_phase(&self, phase: Phase) {
        self.phase.put(phase);
        self.doorbell.notify();
    }

    /// Wakes the shard, so that it shows that it lives.
    pub fn knock(&self) {
        self.doorbell.notify();
    }

    /// Asks the shard something. Returns `false` if too many questions wait. A question to a shard that has ended is
    /// dropped, with what would take its answer.
    #[must_use]
    pub fn ask(&self, question: Question) -> bool {
        let has_room = !matches!(self.questions.try_send(question), Err(TrySendError::Full(_)));
        self.doorbell.notify();
        has_room
    }

    /// Tells the shard that one of its clients has a permit of a backend. Returns whether the shard has not
    /// ended.
    pub(super) fn post_grant(&self, grant: Grant) -> bool {
        let sent = self.grants.send(grant).is_ok();
        self.doorbell.notify();
        sent
    }

    /// Hands a connection off, or returns it if the channel is full or the shard never started.
    pub(super) fn post_connection(&self, handed_off: HandedOff) -> Option<HandedOff> {
        let sent = self.handed_off.try_send(handed_off);
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
        let generation = self.generations.try_recv().ok().map(Message::Generation);
        let states = || self.states.try_recv().ok().map(Message::States);
        let phase = || self.phase.try_recv().ok().map(Message::Phase);
        let grant = || self.grants.try_recv().ok().map(Message::Grant);
        generation.or_else(states).or_else(phase).or_else(grant)
    }

    pub(super) fn take_question(&self) -> Option<Question> {
        self.questions.try_recv().ok()
    }

    pub(super) fn take_handed_off(&self) -> Option<HandedOff> {
        self.handed_off.try_recv().ok()
    }
}
