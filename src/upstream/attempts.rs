//! The attempts of one session to get a backend, as decisions: which backend is next, whether to wait, when
//! to end, and with which reason. Times and outcomes come in, steps go out; the shards and the simulation run
//! the same code.

use std::cell::Cell;
use std::time::Duration;

use super::failures::Fault;
use super::permit::{InFlight, Permit};
use super::table::{Pick, Request, UpstreamTable};
use crate::balance::Tried;
use crate::base::{BackendId, CloseReason, Tick};
use crate::config::Upstream;

/// How long an attempt may still take once the client has sent FIN without a byte before it. Mostly the
/// client has left; but a client that only reads (`nc -N` to a daytime server) looks the same, and a healthy
/// backend answers sooner.
const LEFT_GRACE: Duration = Duration::from_secs(1);

/// The limits on the attempts of an upstream's sessions.
#[derive(Clone, Copy, Debug)]
struct Limits {
    retries: usize,
    connect: Duration,
    establish: Option<Duration>,
    queue: Duration,
}

/// The attempts of one session.
pub struct Attempts {
    limits: Limits,
    tried: Tried,
    /// Hash of the client, if the algorithm wants one.
    key: u64,
    /// The time at which all attempts together end.
    deadline: Tick,
    session_deadline: Tick,
    /// The time at which all waits in the queue together end, once there was one.
    queue_deadline: Option<Tick>,
    /// The connect in progress has its full time, however long the attempts before it took.
    has_whole_connect: bool,
    client_end: ClientEnd,
    /// The reason to report when no other backend is left.
    failure: CloseReason,
    /// The last attempt was refused, or failed on this machine: it cost no backend anything, so the next
    /// attempt is not charged to the budget.
    was_refused: bool,
}

/// What a session does next.
pub enum Step {
    /// Connect to this backend.
    Connect(InFlight),
    /// Wait in the queue until this moment.
    Wait(Tick),
    /// End.
    End(CloseReason),
    /// End, because the budget for retries is spent.
    OverBudget(CloseReason),
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// The session ends: no other backend would help.
    Session(CloseReason),
    /// This process lacks descriptors or memory.
    Shortage,
    /// No local address of the right family is available, or none has a port left; another backend may work.
    NoLocalAddress,
    /// The backend refused the connection, or its host did.
    Refused {
        /// The host reported at once that nothing listens there.
        at_once: bool,
    },
    /// At least one address of the backend did not answer in time.
    TimedOut {
        /// The shard noticed the time-out [`LATE`](crate::base::limits::LATE) or more after it was due, so an
        /// answer may not have been read yet.
        is_late: bool,
    },
}

/// What a session sees of its client while the session has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// The client is there, or has sent bytes before its FIN.
    Here,
    /// The client has sent FIN without a byte before it.
    Finished,
    /// The client has reset its connection, or died.
    Gone,
}

/// Why a wait ended without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The session has to end for this reason.
    Ordered(CloseReason),
    /// The client has left.
    ClientLeft,
    /// The deadline has passed.
    TimeUp,
}

/// The time at which a client that has sent FIN without a byte counts as left.
pub struct ClientEnd(Cell<Tick>);

impl Default for ClientEnd {
    fn default() -> Self {
        Self(Cell::new(Tick::NEVER))
    }
}

impl ClientEnd {
    /// Notes what is seen of the client: once it has finished, its grace begins.
    pub fn note(&self, state: ClientState, now: Tick) {
        if state == ClientState::Finished && !self.has_begun() {
            self.0.set(now.after(LEFT_GRACE));
        }
    }

    /// Returns whether the client has finished.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.get() != Tick::NEVER
    }

    /// Returns when a wait until `deadline` ends, and why.
    #[must_use]
    pub fn first(&self, deadline: Tick) -> (Tick, WaitEnd) {
        if self.0.get() < deadline {
            (self.0.get(), WaitEnd::ClientLeft)
        } else {
            (deadline, WaitEnd::TimeUp)
        }
    }
}

impl Attempts {
    /// Starts without any attempt. None begins after `session_deadline`.
    #[must_use]
    pub fn new(upstream: &Upstream, key: u64, now: Tick, session_deadline: Tick) -> Self {
        let limits = Limits {
            retries: upstream.retries as usize,
            connect: upstream.timeouts.connect,
            establish: upstream.timeouts.establish,
            queue: upstream.queue.timeout,
        };
        let mut attempts = Self {
            limits,
            tried: Tried::default(),
            key,
            deadline: session_deadline,
            session_deadline,
            queue_deadline: None,
            has_whole_connect: false,
            client_end: ClientEnd::default(),
            failure: CloseReason::NoBackend,
            was_refused: false,
        };
        attempts.restart(now);
        attempts
    }

    /// Gives the attempts their full time again: a pooled connection was stale, which is no backend's
    /// failure.
    pub fn restart(&mut self, now: Tick) {
        let establish = self.limits.establish.map_or(Tick::NEVER, |limit| now.after(limit));
        self.deadline = establish.min(self.session_deadline);
    }

    /// Returns the backends that were tried.
    #[must_use]
    pub fn tried(&self) -> &Tried {
        &self.tried
    }

    /// Returns when the client counts as left.
    #[must_use]
    pub fn client_end(&self) -> &ClientEnd {
        &self.client_end
    }

    /// Returns whether the number of retries allows one more attempt.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.tried.len() <= self.limits.retries
    }

    /// Picks the next untried backend, as far as number, time and budget allow. For `pooled`, see
    /// [`UpstreamTable::pick`].
    pub fn next(
        &mut self,
        table: &UpstreamTable,
        now: Tick,
        pooled: impl FnMut(BackendId) -> Option<Permit>,
    ) -> Step {
        let is_retry = !self.tried.is_empty();
        if !self.may_retry() {
            return Step::End(self.failure);
        }
        if now >= self.deadline {
            return Step::End(if is_retry { self.failure } else { CloseReason::ConnectTimeout });
        }
        if !is_retry {
            table.note_session(now);
        } else if !table.has_untried(&self.tried) {
            return Step::End(self.failure);
        } else if !self.was_refused && !table.take_retry(now) {
            // Checked before the queue, where the session would hold a position for nothing.
            return Step::OverBudget(self.failure);
        }
        match self.pick(table, now, false, pooled) {
            Pick::Backend(in_flight) => self.begin(in_flight),
            Pick::Full => {
                let until = *self.queue_deadline.get_or_insert(now.after(self.limits.queue));
                Step::Wait(until.min(self.deadline))
            }
            Pick::Nobody => Step::End(self.failure),
        }
    }

    /// Decides what follows a wait in the queue that ended without a permit. A session whose time is up, or
    /// that found the queue full, takes a backend of a later tier in the order of resort.
    pub fn waited(
        &mut self,
        reason: CloseReason,
        table: &UpstreamTable,
        now: Tick,
        pooled: impl FnMut(BackendId) -> Option<Permit>,
    ) -> Step {
        if matches!(reason, CloseReason::QueueFull | CloseReason::QueueTimeout)
            && let Pick::Backend(in_flight) = self.pick(table, now, true, pooled)
        {
            return self.begin(in_flight);
        }
        Step::End(reason)
    }

    /// Decides what follows a wait in the queue that ended with a permit.
    pub fn granted(&mut self, in_flight: InFlight) -> Step {
        self.begin(in_flight)
    }

    fn pick(
        &self,
        table: &UpstreamTable,
        now: Tick,
        spills: bool,
        pooled: impl FnMut(BackendId) -> Option<Permit>,
    ) -> Pick {
        table.pick(Request { now, tried: &self.tried, key: self.key, spills }, pooled)
    }

    fn begin(&mut self, in_flight: InFlight) -> Step {
        debug_assert!(!self.tried.contains(in_flight.backend()), "{:?} is tried again", in_flight.backend());
        self.tried.insert(in_flight.backend());
        Step::Connect(in_flight)
    }

    /// Begins a connect. Returns its deadline.
    pub fn connect_until(&mut self, now: Tick) -> Tick {
        let whole = now.after(self.limits.connect);
        self.has_whole_connect = whole <= self.deadline;
        whole.min(self.deadline)
    }

    /// Notes that a connection is established. A client that has finished gets its full grace period again,
    /// in case the connection fails.
    pub fn connected(&mut self) {
        self.client_end = ClientEnd::default();
    }

    /// Notes that an established connection was reset before its first byte.
    pub fn reset_before_a_byte(&mut self) {
        (self.failure, self.was_refused) = (CloseReason::BackendReset, false);
    }

    /// Notes a failed connect, and reports it to outlier detection if the backend is to blame. Returns
    /// whether it is.
    ///
    /// # Errors
    ///
    /// The reason with which the session ends, because no other backend would help.
    pub fn failed(&mut self, in_flight: &InFlight, failure: Failure, now: Tick) -> Result<bool, CloseReason> {
        let blamed = match failure {
            Failure::Session(reason) => return Err(reason),
            Failure::Shortage => return Err(CloseReason::Resource),
            Failure::NoLocalAddress => {
                // An answer of a backend is more telling.
                if self.failure == CloseReason::NoBackend {
                    self.failure = CloseReason::Resource;
                }
                self.was_refused = true;
                return Ok(false);
            }
            Failure::Refused { at_once } => {
                (self.failure, self.was_refused) = (CloseReason::ConnectFailed, at_once);
                true
            }
            Failure::TimedOut { is_late } => {
                (self.failure, self.was_refused) = (CloseReason::ConnectTimeout, false);
                // A time-out proves less if the attempts before left less than a whole `connect` for this
                // one.
                self.has_whole_connect && !is_late
            }
        };
        if blamed {
            in_flight.failed(Fault::Failure);
            in_flight.unanswered(now);
        }
        Ok(blamed)
    }
}
