//! A session as `src/shard/establish.rs`, `queue.rs` and `session.rs` lead it, without the sockets.

use ringway::admission::{Permit, Ticket};
use ringway::balance::Tried;
use ringway::base::Address;
use ringway::base::{BackendId, CloseReason};
use ringway::shard::Phase;
use ringway::upstream::{Fault, InFlight, Pick};

use super::shadow::Cut;
use super::trace::{count, note};
use super::world::World;

/// After the client's FIN an attempt may take this long yet.
const LEFT_GRACE: u64 = 1_000;
/// A time-out that is noticed so much later is not the backend's.
const LATE: u64 = 250;

pub struct Session {
    pub id: u32,
    pub shard: usize,
    pub _permit: Permit,
    pub key: u64,
    pub tried: Tried,
    pub deadline: u64,
    pub queue_deadline: Option<u64>,
    /// When the client counts as left after its FIN.
    pub left: Option<u64>,
    pub failure: CloseReason,
    pub client: Client,
    /// Something happened that its task has to look at.
    pub woken: bool,
    pub in_flight: Option<InFlight>,
    pub stage: Stage,
    /// The last try was refused, so that the next one takes nothing out of the budget.
    pub was_refused: bool,
    /// Where it is connected to.
    pub address: Option<Address>,
    /// Shadow: the ends it was ordered since it has its backend, as the states say that its shard has applied.
    pub cuts: Vec<Cut>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Here,
    /// Sent FIN without a byte before it.
    Finished,
    Reset,
}

pub enum Stage {
    /// Neither waits nor has a backend: in the middle of a step, or at its end.
    Between,
    Waiting {
        wait: Wait,
        ticket: Ticket,
        granted: Option<BackendId>,
    },
    Connecting {
        wait: Wait,
        is_whole: bool,
        answer: Option<Answer>,
    },
    Relaying {
        to_backend: bool,
        to_client: bool,
        end: Option<End>,
    },
}

/// A wait of a client without a backend.
pub struct Wait {
    deadline: u64,
    /// When the client counts as left.
    left: Option<u64>,
}

/// What a connect comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Connected,
    Refused,
    LocalFailure,
}

/// How a relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    BackendReset,
    /// The backend took bytes and ended without one of its own.
    Empty,
    Other(CloseReason),
}

enum WaitEnd {
    Closing,
    ClientLeft,
    TimeUp,
}

impl Session {
    /// Why it has to end, by the ends it was ordered.
    pub fn expected_cut(&self) -> Option<CloseReason> {
        let concerns = |cut: &&Cut| match (&cut.addresses, &self.address) {
            (Some(addresses), Some(address)) => addresses.contains(address),
            _ => true,
        };
        self.cuts.iter().find(concerns).map(|cut| cut.reason)
    }
}

impl Stage {
    pub fn wait(&self) -> Option<&Wait> {
        match self {
            Self::Waiting { wait, .. } | Self::Connecting { wait, .. } => Some(wait),
            Self::Between | Self::Relaying { .. } => None,
        }
    }
}

impl Wait {
    fn until(deadline: u64, left: Option<u64>) -> Self {
        Self { deadline, left }
    }

    /// When its task has to look at the clock.
    pub fn due(&self) -> u64 {
        self.left.map_or(self.deadline, |left| left.min(self.deadline))
    }

    fn over(&mut self, client: Client, now: u64, phase: Phase) -> Option<WaitEnd> {
        if phase == Phase::Closing {
            return Some(WaitEnd::Closing);
        }
        if client == Client::Reset {
            return Some(WaitEnd::ClientLeft);
        }
        if client == Client::Finished {
            self.left.get_or_insert(now + LEFT_GRACE);
        }
        (self.due() <= now).then_some(if self.due() < self.deadline {
            WaitEnd::ClientLeft
        } else {
            WaitEnd::TimeUp
        })
    }
}

/// What becomes of a session in a step: it goes on, or ends.
type Next = Result<(), CloseReason>;

impl World {
    pub fn arrive(&mut self, shard: usize) {
        let now = self.shards[shard].now;
        let counters = self.shards[shard].listener();
        counters.accepted.add(1);
        let Some(permit) = self.limit.admit() else {
            counters.denied.add(1);
            count("denied");
            return assert_eq!(self.sessions.len(), self.limit.maximum() as usize, "denied below the limit");
        };
        counters.active.add(1);
        self.ids += 1;
        note(self.now, format_args!("shard {shard}: session {} arrives", self.ids));
        let establish = self.plan.upstream().timeouts.establish;
        let mut session = Session {
            id: self.ids,
            shard,
            _permit: permit,
            key: self.rng.u64(..8),
            tried: Tried::default(),
            deadline: establish.map_or(u64::MAX, |limit| now + limit.as_millis() as u64),
            queue_deadline: None,
            left: None,
            failure: CloseReason::NoBackend,
            client: Client::Here,
            woken: false,
            in_flight: None,
            stage: Stage::Between,
            was_refused: false,
            address: None,
            cuts: Vec::new(),
        };
        let next = self.try_next(&mut session);
        self.go_on(session, next);
    }

    /// Has the task of a session look at what happened.
    pub fn poll(&mut self, index: usize) {
        let mut session = self.sessions.swap_remove(index);
        session.woken = false;
        let next = match session.stage {
            Stage::Between => unreachable!("sessions between two stages are in no list"),
            Stage::Waiting { .. } => {
                let next = self.poll_waiting(&mut session);
                self.waited(&mut session, next)
            }
            Stage::Connecting { .. } => self.poll_connecting(&mut session),
            Stage::Relaying { .. } => self.poll_relaying(&mut session),
        };
        self.go_on(session, next);
    }

    /// The task of a session is gone, whatever it was at.
    pub fn drop_session(&mut self, index: usize) {
        let session = self.sessions.swap_remove(index);
        self.go_on(session, Err(CloseReason::Internal));
    }

    fn go_on(&mut self, mut session: Session, next: Next) {
        let Err(reason) = next else { return self.sessions.push(session) };
        note(self.now, format_args!("session {} ends: {}", session.id, reason.name()));
        count(reason.name());
        self.leave_line(&mut session);
        self.let_go(&mut session);
        let shard = &mut self.shards[session.shard];
        shard.listener().active.subtract(1);
        shard.listener().closed[reason.index()].add(1);
        shard.closed[reason.index()] += 1;
    }

    /// Looks for a backend that was not tried.
    fn try_next(&mut self, session: &mut Session) -> Next {
        let now = self.shards[session.shard].now;
        if session.tried.len() > self.plan.upstream().retries as usize {
            return Err(session.failure);
        }
        if now >= session.deadline {
            return Err(CloseReason::ConnectTimeout);
        }
        if session.tried.is_empty() {
            self.shards[session.shard].table.note_session(now);
            self.budget.note_session(now);
        } else if self.shards[session.shard].view.untried(&session.tried).is_empty() {
            return Err(session.failure);
        } else if session.was_refused {
            count("retry after a refusal");
        } else {
            let taken = self.shards[session.shard].table.take_retry(now);
            self.budget.retry(now, taken);
            count(if taken { "retry" } else { "retry over the budget" });
            if !taken {
                return Err(session.failure);
            }
        }
        match self.pick(session, false) {
            Pick::Backend(in_flight) => self.connect(session, in_flight),
            Pick::Full => {
                let joined = self.join_line(session);
                self.waited(session, joined)
            }
            Pick::Nobody => Err(session.failure),
        }
    }

    /// Whoever waits in vain takes one of those that come next.
    fn waited(&mut self, session: &mut Session, next: Next) -> Next {
        let Err(reason @ (CloseReason::QueueFull | CloseReason::QueueTimeout)) = next else { return next };
        if !matches!(session.stage, Stage::Between | Stage::Waiting { .. }) {
            return next;
        }
        self.leave_line(session);
        match self.pick(session, true) {
            Pick::Backend(in_flight) => self.connect(session, in_flight),
            Pick::Full | Pick::Nobody => Err(reason),
        }
    }

    fn join_line(&mut self, session: &mut Session) -> Next {
        self.let_others_run(session.shard);
        let shard = &self.shards[session.shard];
        let Some(ticket) = shard.table.join(&session.tried) else {
            self.check_full(session);
            return Err(CloseReason::QueueFull);
        };
        note(self.now, format_args!("session {} waits as {ticket:?}", session.id));
        self.line.join(ticket, session.tried.clone());
        self.check_joined();
        let timeout = self.plan.upstream().queue.timeout.as_millis() as u64;
        let until = *session.queue_deadline.get_or_insert(shard.now + timeout);
        let wait = Wait::until(session.deadline.min(until), session.left);
        session.stage = Stage::Waiting { wait, ticket, granted: None };
        self.ask_pools(session.shard, &session.tried);
        self.pass_on();
        self.poll_waiting(session)
    }

    fn poll_waiting(&mut self, session: &mut Session) -> Next {
        let Stage::Waiting { ticket, granted, .. } = &mut session.stage else { unreachable!("it waits") };
        let ticket = *ticket;
        if let Some(backend) = granted.take() {
            let shard = &self.shards[session.shard];
            let accepted = shard.table.accept(backend);
            assert_eq!(accepted.is_some(), shard.view.is_candidate(backend), "whether {backend:?} is of use");
            if let Some(in_flight) = accepted {
                count("place taken by a waiter");
                self.leave_line(session);
                return self.connect(session, in_flight);
            }
            count("place of no use any more");
            self.pass_on();
            self.shards[session.shard].table.join_again(ticket, &session.tried);
            self.line.join_again(ticket, session.tried.clone());
            self.ask_pools(session.shard, &session.tried);
            self.pass_on();
        }
        let shard = &self.shards[session.shard];
        let has_untried = !shard.view.untried(&session.tried).is_empty();
        assert_eq!(shard.table.has_untried(&session.tried), has_untried, "whether there is use in waiting");
        if !has_untried {
            return Err(CloseReason::NoBackend);
        }
        let Stage::Waiting { wait, .. } = &mut session.stage else { unreachable!("it waits") };
        let shard = &self.shards[session.shard];
        let over = wait.over(session.client, shard.now, shard.phase);
        session.left = wait.left;
        match over {
            None => Ok(()),
            Some(WaitEnd::Closing) => Err(CloseReason::Shutdown),
            Some(WaitEnd::ClientLeft) => Err(CloseReason::ClientLeft),
            Some(WaitEnd::TimeUp) => Err(CloseReason::QueueTimeout),
        }
    }

    /// Gives up a place in the queue, and the place at a backend if there is one.
    fn leave_line(&mut self, session: &mut Session) {
        let Stage::Waiting { ticket, granted, .. } = &session.stage else { return };
        let (ticket, granted, table) = (*ticket, *granted, &self.shards[session.shard].table);
        session.stage = Stage::Between;
        let _ = table.leave(ticket);
        self.line.leave(ticket);
        if let Some(backend) = granted {
            count("place refused by a waiter");
            table.refuse(backend);
        }
        self.pass_on();
    }

    fn connect(&mut self, session: &mut Session, in_flight: InFlight) -> Next {
        let shard = &self.shards[session.shard];
        let backend = in_flight.backend();
        note(self.now, format_args!("session {} connects to {backend:?}", session.id));
        session.in_flight = Some(in_flight);
        assert!(!session.tried.contains(backend), "{backend:?} is tried again");
        session.tried.insert(backend);
        let most = self.plan.upstream().retries as usize + 1;
        assert!(session.tried.len() <= most, "try {} of {most}", session.tried.len());
        let is_ready = shard.pooled[backend.index()] > 0;
        let whole = shard.now + self.plan.upstream().timeouts.connect.as_millis() as u64;
        let wait = Wait::until(session.deadline.min(whole), session.left);
        let answer = is_ready.then_some(Answer::Connected);
        session.stage = Stage::Connecting { is_whole: wait.deadline == whole, wait, answer };
        self.lose_pooled(session.shard, backend);
        self.poll_connecting(session)
    }

    fn poll_connecting(&mut self, session: &mut Session) -> Next {
        let Stage::Connecting { wait, is_whole, answer } = &mut session.stage else {
            unreachable!("it connects")
        };
        let (is_whole, answer) = (*is_whole, *answer);
        let (now, phase) = (self.shards[session.shard].now, self.shards[session.shard].phase);
        let answer = answer.filter(|_| phase != Phase::Closing);
        let over = if answer.is_none() { wait.over(session.client, now, phase) } else { None };
        session.left = wait.left;
        match answer {
            Some(Answer::Connected) => {
                session.left = None;
                session.address = self.address_of(session);
                self.observe(session);
                session.stage = Stage::Relaying { to_backend: false, to_client: false, end: None };
                return self.poll_relaying(session);
            }
            Some(Answer::LocalFailure) => return Err(CloseReason::Resource),
            Some(_) if wait.left.is_some() => return Err(CloseReason::ClientLeft),
            Some(Answer::Refused) => {
                self.failed(session, Fault::Failure);
                session.failure = CloseReason::ConnectFailed;
                session.was_refused = true;
            }
            None => match over {
                None => return Ok(()),
                Some(WaitEnd::Closing) => return Err(CloseReason::Shutdown),
                Some(WaitEnd::ClientLeft) => return Err(CloseReason::ClientLeft),
                Some(WaitEnd::TimeUp) => {
                    if is_whole && now <= wait.deadline + LATE {
                        self.failed(session, Fault::Failure);
                    }
                    session.failure = CloseReason::ConnectTimeout;
                    session.was_refused = false;
                }
            },
        }
        self.let_go(session);
        self.try_next(session)
    }

    fn address_of(&self, session: &Session) -> Option<Address> {
        let backend = session.in_flight.as_ref()?.backend();
        self.shards[session.shard].table.addresses(backend).first().cloned()
    }

    fn poll_relaying(&mut self, session: &mut Session) -> Next {
        let Stage::Relaying { to_backend, to_client, end } = session.stage else { unreachable!("it relays") };
        if self.shards[session.shard].phase == Phase::Closing {
            return Err(CloseReason::Shutdown);
        }
        let address = || session.address.clone();
        if let Some(reason) = session.in_flight.as_ref().and_then(|in_flight| in_flight.cut(address)) {
            return Err(reason);
        }
        match end {
            None => Ok(()),
            Some(End::Other(reason)) => Err(reason),
            Some(End::Empty) => {
                if to_backend && !to_client {
                    count("empty answer");
                    self.failed(session, Fault::EmptyAnswer);
                }
                Err(CloseReason::Normal)
            }
            Some(End::BackendReset) => {
                let is_untouched = !to_backend && !to_client;
                if is_untouched && session.client == Client::Here {
                    self.failed(session, Fault::Failure);
                }
                if !is_untouched || session.tried.len() > self.plan.upstream().retries as usize {
                    return Err(CloseReason::BackendReset);
                }
                session.failure = CloseReason::BackendReset;
                session.was_refused = false;
                self.let_go(session);
                self.try_next(session)
            }
        }
    }

    /// Drops what counts a session for its backend.
    fn let_go(&mut self, session: &mut Session) {
        session.stage = Stage::Between;
        session.cuts.clear();
        session.address = None;
        session.in_flight = None;
        self.pass_on();
    }
}
