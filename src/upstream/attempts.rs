//! The attempts of one session to get a backend, as decisions: which backend is next, whether to wait, when to end, and with
//! which reason. Times and outcomes come in, steps go out; shards and the simulation run the same.

use std::cell::Cell;
use std::time::Duration;

use super::failures::Fault;
use super::permit::{InFlight, Permit};
use super::table::{Pick, Request, UpstreamTable};
use crate::balance::Tried;
use crate::base::{BackendId, CloseReason, Tick};
use crate::config::Upstream;

/// How long an attempt may still take once the client has sent FIN without a byte before it: mostly the client has left, but
/// one that only reads (`nc -N` to a daytime server) looks the same, and a healthy backend answers sooner.
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
    /// Hash of the client, where the algorithm wants one.
    key: u64,
    /// End of all attempts together.
    deadline: Tick,
    session_deadline: Tick,
    /// End of all waits in the queue together, once there was one.
    queue_deadline: Option<Tick>,
    /// The connect in progress has all of its time, however much the attempts before it took.
    has_whole_connect: bool,
    client_end: ClientEnd,
    /// What to report when no other backend is left.
    failure: CloseReason,
    /// The last attempt was refused, or failed here: it cost nobody anything, so the next one is free of the budget.
    was_refused: bool,
}

/// What a session does next.
pub enum Step {
    /// Connects to this backend.
    Connect(InFlight),
    /// Waits in the queue, until this moment.
    Wait(Tick),
    /// Ends.
    End(CloseReason),
    /// Ends, because the budget for retries is spent.
    OverBudget(CloseReason),
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// No backend will do.
    Session(CloseReason),
    /// This process lacks descriptors or memory.
    Shortage,
    /// No local address of the right family is available, or none has a port left; another backend may do.
    NoLocalAddress,
    /// The backend refused, or its host did.
    Refused {
        /// The host said at once that nobody listens.
        at_once: bool,
    },
    /// The backend did not answer in time, at one of its addresses at least.
    TimedOut {
        /// The shard noticed it by [`LATE`](crate::base::limits::LATE) later, so the answer may not have been taken yet.
        is_late: bool,
    },
}

/// What a session sees of its client while it has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// It is there, or has said something before its FIN.
    Here,
    /// It has sent FIN without a byte before it.
    Finished,
    /// It has reset its connection, or died.
    Gone,
}

/// Why a wait ends without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The shard closes.
    Closing,
    /// The client has left.
    ClientLeft,
    /// The deadline has come.
    TimeUp,
}

/// When a client that has sent FIN without a byte counts as left.
pub struct ClientEnd(Cell<Tick>);

impl Default for ClientEnd {
    fn default() -> Self {
        Self(Cell::new(Tick::NEVER))
    }
}

impl ClientEnd {
    /// Notes what is seen of the client. Returns whether the grace of a client that has finished begins now.
    pub fn note(&self, state: ClientState, now: Tick) -> bool {
        let begins = state == ClientState::Finished && !self.has_begun();
        if begins {
            self.0.set(now.after(LEFT_GRACE));
        }
        begins
    }

    /// Returns whether the client has finished.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.get() != Tick::NEVER
    }

    /// When a wait until `deadline` ends, and why.
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
    /// No attempt yet. None is begun after `session_deadline`.
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

    /// Gives the attempts all their time again: a pooled connection was stale, which is nobody's failure.
    pub fn restart(&mut self, now: Tick) {
        let establish = self.limits.establish.map_or(Tick::NEVER, |limit| now.after(limit));
        self.deadline = establish.min(self.session_deadline);
    }

    /// Backends that were tried.
    #[must_use]
    pub fn tried(&self) -> &Tried {
        &self.tried
    }

    /// When the client counts as left.
    #[must_use]
    pub fn client_end(&self) -> &ClientEnd {
        &self.client_end
    }

    /// Returns whether the number of retries allows one more attempt.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.tried.len() <= self.limits.retries
    }

    /// The next untried backend, as far as number, time and budget allow. For `pooled`, see [`UpstreamTable::pick`].
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
            // Before the queue, in which the session would hold a position to no purpose.
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

    /// What follows a wait in the queue that ended without a permit: a session whose time was up, or that found the queue full,
    /// takes a backend that comes next in the order of resort.
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

    /// What follows a wait in the queue that ended with a permit.
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

    /// Begins a connect. Returns when it ends at the latest.
    pub fn connect_until(&mut self, now: Tick) -> Tick {
        let whole = now.after(self.limits.connect);
        self.has_whole_connect = whole <= self.deadline;
        whole.min(self.deadline)
    }

    /// Notes that a connection stands. A client that has finished gets all of its grace again, should this one fail.
    pub fn connected(&mut self) {
        self.client_end = ClientEnd::default();
    }

    /// Notes that a connection which stood was reset before its first byte.
    pub fn reset_before_a_byte(&mut self) {
        (self.failure, self.was_refused) = (CloseReason::BackendReset, false);
    }

    /// Notes a failed connect, and tells outlier detection where the backend is to blame. Returns whether it is.
    ///
    /// # Errors
    ///
    /// The session ends with this reason, because no other backend would do.
    pub fn failed(&mut self, in_flight: &InFlight, failure: Failure, now: Tick) -> Result<bool, CloseReason> {
        let blamed = match failure {
            Failure::Session(reason) => return Err(reason),
            Failure::Shortage => return Err(CloseReason::Resource),
            Failure::NoLocalAddress => {
                // What a backend has answered says more.
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
                // A time-out says less where the attempts before it left less than a whole `connect`.
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
