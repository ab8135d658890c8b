//! What all code on one shard needs: its ring, its phase, its counters, the handles of other shards.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::handoff::Handoff;
use super::inbox::{Phase, ShardHandle};
use super::sessions::Sessions;
use crate::admission::Gate;
use crate::base::{PortRange, ShardId, ShardPlace, Tick};
use crate::config::ListenAddress;
use crate::net::LocalFailure;
use crate::relay::Pipes;
use crate::steering::CoreLoads;
use crate::telemetry::access_log::AccessLogger;
use crate::telemetry::counters::ShardCounters;
use crate::tls::Pace;
use crate::uring::Ring;

/// A running shard.
pub(super) struct Shard {
    pub(super) ring: Ring,
    pub(super) place: ShardPlace,
    /// The CPU that it is pinned to.
    pub(super) cpu: usize,
    /// Its part of the local ports.
    pub(super) ports: Option<PortRange>,
    pub(super) phase: Cell<Phase>,
    /// Whether an accept loop has noted at the gate that clients wait for the end of a session.
    pub(super) waits: Cell<bool>,
    /// The number of accept loops and sessions that have not ended.
    pub(super) busy: Cell<usize>,
    pub(super) counters: Arc<ShardCounters>,
    /// The admission to the process.
    pub(super) gate: Arc<Gate>,
    pub(super) cores: Arc<CoreLoads>,
    /// One for each shard, including this one.
    pub(super) handles: Arc<[ShardHandle]>,
    /// Addresses on which a successor of the process does not listen.
    pub(super) unused: Arc<OnceLock<Vec<String>>>,
    /// Present while the shard runs.
    pub(super) handoff: RefCell<Option<Handoff>>,
    /// `None` if splicing is off.
    pub(super) pipes: Option<Rc<Pipes>>,
    pub(super) sessions: Sessions,
    /// What all connections with TLS do in one turn.
    pub(super) tls_pace: Rc<Pace>,
    /// `None` if sessions are not logged.
    pub(super) access_log: Option<AccessLogger>,
    /// Accept loops that wait for the first verdicts.
    pub(super) openings: RefCell<Vec<Waker>>,
    /// The source of all random numbers of the shard.
    pub(super) random: RefCell<fastrand::Rng>,
    pub(super) accept_warnings: WarningLimit,
    /// Warnings of connects that failed because this process lacks a resource, by kind.
    pub(super) connect_warnings: [WarningLimit; LocalFailure::COUNT],
}

/// Lets one warning through per [`WarningLimit::INTERVAL`].
#[derive(Default)]
pub(super) struct WarningLimit(Cell<Option<Tick>>);

impl WarningLimit {
    const INTERVAL: Duration = Duration::from_secs(10);

    pub(super) fn is_due(&self, now: Tick) -> bool {
        let due = self.0.get().is_none_or(|last| now.since(last) >= Self::INTERVAL);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

impl Shard {
    pub(super) fn id(&self) -> ShardId {
        self.place.shard
    }

    pub(super) fn now(&self) -> Tick {
        self.ring.now()
    }

    /// Returns whether the shard has not been told to end in any way.
    pub(super) fn is_running(&self) -> bool {
        self.phase.get() <= Phase::Running
    }

    /// Returns whether another process serves still.
    pub(super) fn is_held(&self) -> bool {
        self.phase.get() == Phase::Held
    }

    /// Returns whether clients are turned away, and no other process serves them.
    pub(super) fn ends(&self) -> bool {
        self.phase.get() >= Phase::Draining
    }

    /// Returns whether another process serves the clients that wait in the sockets of this address.
    pub(super) fn leaves(&self, address: &ListenAddress) -> bool {
        let is_unused = |unused: &Vec<String>| unused.contains(&address.to_string());
        self.phase.get() == Phase::Leaving && !self.unused.get().is_some_and(is_unused)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.phase.get() == Phase::Closing
    }

    /// Returns a random number from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    /// Counts an accept loop or a session, which the shard waits for before it ends.
    pub(super) fn enter(&self) {
        self.busy.update(|busy| busy + 1);
    }

    /// Counts the end of an accept loop or session.
    pub(super) fn leave(&self) {
        self.busy.update(|busy| busy - 1);
        if self.busy.get() == 0 && !self.is_running() {
            self.handles[self.id().index()].notify();
        }
    }
}
