//! A session as `src/shard/session/` leads it, without the sockets: its decisions are those of the real
//! [`Attempts`] and [`UpstreamTable`](ringway::upstream::UpstreamTable).

use std::sync::Arc;

use ringway::admission::{Limit, Ticket};
use ringway::base::limits::LATE;
use ringway::base::{Address, BackendId, CloseReason, DenyReason, ShardId, Tick};
use ringway::shard::Phase;
use ringway::upstream::{Attempts, ClientState, Failure, Fault, InFlight, Step, WaitEnd};

use super::shadow::ForcedClose;
use super::shard::Shard;
use super::trace::{count, note};
use super::world::World;

/// That a session counts against the limit of the process, from its start to its end.
pub struct Admitted(Arc<Limit>, ShardId);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.give_back(self.1);
    }
}

pub struct Session {
    pub id: u32,
    pub shard: usize,
    pub _admitted: Admitted,
    pub key: u64,
    pub attempts: Attempts,
    pub client: ClientState,
    /// Something happened that its task has to look at.
    pub woken: bool,
    pub in_flight: Option<InFlight>,
    pub stage: Stage,
    /// Where it is connected to.
    pub address: Option<Address>,
    // Shadows.
    /// The end of all attempts.
    deadline: u64,
    /// What is reported when no backend is left.
    failure: CloseReason,
    /// The next attempt is free of the budget.
    was_refused: bool,
    /// The orders to end since it has its backend, as the states say that its shard has applied.
    pub forced_closes: Vec<ForcedClose>,
}

pub enum Stage {
    /// Neither waits nor has a backend: in the middle of a step, or at its end.
    Between,
    Waiting {
        deadline: Tick,
        ticket: Ticket,
        granted: Option<BackendId>,
    },
    Connecting {
        deadline: Tick,
        /// Shadow: it has all of its time.
        is_whole: bool,
        answer: Option<Answer>,
    },
    Relaying {
        to_backend: bool,
        to_client: bool,
        end: Option<End>,
    },
}

/// What a connect comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Connected,
    Refused,
    Shortage,
    NoLocalAddress,
}

/// How a relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    BackendReset,
    /// The backend took bytes and ended without one of its own.
    Empty,
    Other(CloseReason),
}

impl Session {
    /// Why it has to end, by the orders it was given.
    pub fn expected_close(&self) -> Option<CloseReason> {
        let concerns = |order: &&ForcedClose| match (&order.addresses, &self.address) {
            (Some(addresses), Some(address)) => addresses.contains(address),
            _ => true,
        };
        self.forced_closes.iter().find(concerns).map(|order| order.reason)
    }

    /// When its task has to look at the clock.
    pub fn due(&self) -> Option<Tick> {
        match self.stage {
            Stage::Waiting { deadline, .. } | Stage::Connecting { deadline, .. } => {
                Some(self.attempts.client_end().first(deadline).0)
            }
            Stage::Between | Stage::Relaying { .. } => None,
        }
    }

    /// Whether a wait until `deadline` is over.
    fn wait_end(&self, deadline: Tick, now: Tick, phase: Phase) -> Option<WaitEnd> {
        if phase == Phase::Closing {
            return Some(WaitEnd::Ordered(CloseReason::Shutdown));
        }
        if self.client == ClientState::Gone {
            return Some(WaitEnd::ClientLeft);
        }
        self.attempts.client_end().note(self.client, now);
        let (due, end) = self.attempts.client_end().first(deadline);
        (due <= now).then_some(end)
    }
}

/// What becomes of a session in a step: it goes on, or ends.
type Next = Result<(), CloseReason>;

impl World {
    pub fn arrive(&mut self, shard: usize) {
        let now = self.shards[shard].now;
        let counters = self.shards[shard].listener();
        counters.accepted.add(1);
        let by = ShardId(shard as u16);
        if !self.limit.take(by) {
            counters.denied[DenyReason::ProcessLimit.index()].add(1);
            count("denied");
            return assert_eq!(self.sessions.len(), self.limit.maximum() as usize, "denied below the limit");
        }
        let admitted = Admitted(Arc::clone(&self.limit), by);
        counters.active.add(1);
        self.ids += 1;
        note(self.now, format_args!("shard {shard}: session {} arrives", self.ids));
        let upstream = self.plan.upstream();
        let (key, establish) = (self.rng.u64(..8), upstream.timeouts.establish);
        let mut session = Session {
            id: self.ids,
            shard,
            _admitted: admitted,
            key,
            attempts: Attempts::new(upstream, key, Tick(now), Tick::NEVER),
            client: ClientState::Here,
            woken: false,
            in_flight: None,
            stage: Stage::Between,
            address: None,
            deadline: establish.map_or(u64::MAX, |limit| now + limit.as_millis() as u64),
            failure: CloseReason::NoBackend,
            was_refused: false,
            forced_closes: Vec::new(),
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
            Stage::Waiting { .. } => self.poll_waiting(&mut session),
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

    /// What the next step must be, where it is no pick.
    fn expected_end(&self, session: &Session) -> Option<CloseReason> {
        let (tried, shard) = (session.attempts.tried(), &self.shards[session.shard]);
        if tried.len() > self.plan.upstream().retries as usize {
            return Some(session.failure);
        }
        if shard.now >= session.deadline {
            return Some(if tried.is_empty() { CloseReason::ConnectTimeout } else { session.failure });
        }
        let has_none = !tried.is_empty() && shard.view.untried(tried).is_empty();
        has_none.then_some(session.failure)
    }

    /// Looks for a backend that was not tried.
    fn try_next(&mut self, session: &mut Session) -> Next {
        let (now, is_retry) = (self.shards[session.shard].now, !session.attempts.tried().is_empty());
        let end = self.expected_end(session);
        if end.is_none() && !is_retry {
            self.budget.note_session(now);
        }
        let expected = self.expect_pick(session, false);
        let (step, is_ready) = {
            let Shard { table, pooled, .. } = &mut self.shards[session.shard];
            let mut is_ready = false;
            let step = session.attempts.next(table, Tick(now), |backend| {
                let permit = pooled[backend.index()].pop();
                is_ready |= permit.is_some();
                permit
            });
            (step, is_ready)
        };
        if let Some(reason) = end {
            let Step::End(ended) = step else { panic!("session {} goes on", session.id) };
            assert_eq!(ended, reason, "why session {} ends", session.id);
            return Err(reason);
        }
        let is_over_budget = matches!(step, Step::OverBudget(_));
        if is_retry && session.was_refused {
            assert!(!is_over_budget, "a retry after a refusal is free");
            count("retry after a refusal");
        } else if is_retry {
            self.budget.retry(now, !is_over_budget);
            count(if is_over_budget { "retry over the budget" } else { "retry" });
        }
        if let Step::OverBudget(reason) = step {
            assert!(is_retry);
            return Err(reason);
        }
        self.check_pick(session, &step, &expected);
        match step {
            Step::Connect(in_flight) => self.connect(session, in_flight, is_ready),
            Step::Wait(deadline) => self.join_line(session, deadline),
            Step::End(reason) | Step::OverBudget(reason) => Err(reason),
        }
    }

    /// A client that has waited without a permit takes one of those that come next.
    fn waited(&mut self, session: &mut Session, reason: CloseReason) -> Next {
        self.leave_line(session);
        let picks = matches!(reason, CloseReason::QueueFull | CloseReason::QueueTimeout);
        let expected = self.expect_pick(session, true);
        let Shard { table, pooled, now, .. } = &mut self.shards[session.shard];
        let mut is_ready = false;
        let step = session.attempts.waited(reason, table, Tick(*now), |backend| {
            let permit = pooled[backend.index()].pop();
            is_ready |= permit.is_some();
            permit
        });
        if picks {
            self.check_pick(session, &step, &expected);
        }
        match step {
            Step::Connect(in_flight) => self.connect(session, in_flight, is_ready),
            Step::End(ended) => {
                assert_eq!(ended, reason);
                Err(reason)
            }
            Step::Wait(_) | Step::OverBudget(_) => panic!("session {} waits again", session.id),
        }
    }

    fn join_line(&mut self, session: &mut Session, deadline: Tick) -> Next {
        self.let_others_run(session.shard);
        let tried = session.attempts.tried().clone();
        let Some(ticket) = self.shards[session.shard].table.join(&tried) else {
            self.check_full(session);
            return self.waited(session, CloseReason::QueueFull);
        };
        note(self.now, format_args!("session {} waits as {ticket:?}", session.id));
        self.line.join(ticket, tried.clone());
        self.check_joined();
        session.stage = Stage::Waiting { deadline, ticket, granted: None };
        self.ask_pools(session.shard, &tried);
        self.serve();
        self.poll_waiting(session)
    }

    fn poll_waiting(&mut self, session: &mut Session) -> Next {
        let Stage::Waiting { ticket, deadline, granted } = &mut session.stage else {
            unreachable!("it waits")
        };
        let (ticket, deadline, granted) = (*ticket, *deadline, granted.take());
        let tried = session.attempts.tried().clone();
        let shard = &self.shards[session.shard];
        let is_candidate = granted.is_some_and(|backend| shard.view.is_candidate(backend));
        let has_untried = !shard.view.untried(&tried).is_empty();
        let polled = shard.table.poll_wait(ticket, &tried, granted);
        assert_eq!(matches!(polled, Ok(Some(_))), is_candidate, "whether {granted:?} can be used");
        if let Ok(Some(in_flight)) = polled {
            count("permit taken by a waiter");
            self.leave_line(session);
            let Step::Connect(in_flight) = session.attempts.granted(in_flight) else {
                panic!("session {} has a permit", session.id)
            };
            // A ready connection comes with a permit of its own, which is one too many then.
            let ready = self.shards[session.shard].pooled[in_flight.backend().index()].pop().map(drop);
            return self.connect(session, in_flight, ready.is_some());
        }
        if granted.is_some() {
            count("permit of no use any more");
            self.line.join_again(ticket, tried.clone());
            self.ask_pools(session.shard, &tried);
            self.serve();
        }
        assert_eq!(
            polled.err(),
            (!has_untried).then_some(CloseReason::NoBackend),
            "whether a backend is left"
        );
        if !has_untried {
            return Err(CloseReason::NoBackend);
        }
        let shard = &self.shards[session.shard];
        match session.wait_end(deadline, Tick(shard.now), shard.phase) {
            None => Ok(()),
            Some(WaitEnd::Ordered(reason)) => Err(reason),
            Some(WaitEnd::ClientLeft) => Err(CloseReason::ClientLeft),
            Some(WaitEnd::TimeUp) => self.waited(session, CloseReason::QueueTimeout),
        }
    }

    /// Gives up a position in the queue, and the permit that came for it.
    fn leave_line(&mut self, session: &mut Session) {
        let Stage::Waiting { ticket, granted, .. } = &session.stage else { return };
        let (ticket, granted, table) = (*ticket, *granted, &self.shards[session.shard].table);
        session.stage = Stage::Between;
        let _ = table.leave(ticket);
        self.line.leave(ticket);
        if let Some(backend) = granted {
            count("permit given back by a waiter");
            table.refuse(backend);
        }
        self.serve();
    }

    fn connect(&mut self, session: &mut Session, in_flight: InFlight, is_ready: bool) -> Next {
        let (backend, now) = (in_flight.backend(), self.shards[session.shard].now);
        note(self.now, format_args!("session {} connects to {backend:?}", session.id));
        session.in_flight = Some(in_flight);
        let (tried, most) = (session.attempts.tried(), self.plan.upstream().retries as usize + 1);
        assert!(tried.contains(backend) && tried.len() <= most, "{} attempts of {most}", tried.len());
        let deadline = session.attempts.connect_until(Tick(now));
        let answer = is_ready.then_some(Answer::Connected);
        let whole = now + self.plan.upstream().timeouts.connect.as_millis() as u64;
        assert_eq!(deadline.0, whole.min(session.deadline), "the end of the connect");
        session.stage = Stage::Connecting { deadline, is_whole: deadline.0 == whole, answer };
        self.serve();
        self.poll_connecting(session)
    }

    fn poll_connecting(&mut self, session: &mut Session) -> Next {
        let Stage::Connecting { deadline, answer, .. } = session.stage else { unreachable!("it connects") };
        let (now, phase) = (self.shards[session.shard].now, self.shards[session.shard].phase);
        let had_finished = session.attempts.client_end().has_begun();
        let failure = match answer.filter(|_| phase != Phase::Closing) {
            Some(Answer::Connected) => {
                session.attempts.connected();
                session.address = self.address_of(session);
                self.observe(session);
                session.stage = Stage::Relaying { to_backend: false, to_client: false, end: None };
                return self.poll_relaying(session);
            }
            Some(Answer::Shortage) => Failure::Shortage,
            Some(Answer::NoLocalAddress) => Failure::NoLocalAddress,
            Some(Answer::Refused) if had_finished => Failure::Session(CloseReason::ClientLeft),
            Some(Answer::Refused) => Failure::Refused { at_once: true },
            None => match session.wait_end(deadline, Tick(now), phase) {
                None => return Ok(()),
                Some(WaitEnd::Ordered(reason)) => Failure::Session(reason),
                Some(WaitEnd::ClientLeft) => Failure::Session(CloseReason::ClientLeft),
                Some(WaitEnd::TimeUp) => Failure::TimedOut { is_late: Tick(now) > deadline.after(LATE) },
            },
        };
        self.connect_failed(session, failure)?;
        self.let_go(session);
        self.try_next(session)
    }

    /// The real rules say whether a backend is to blame, and the shadow what they must have said.
    fn connect_failed(&mut self, session: &mut Session, failure: Failure) -> Next {
        let Stage::Connecting { is_whole, .. } = session.stage else { unreachable!("it connects") };
        let now = self.shards[session.shard].now;
        let Some(in_flight) = session.in_flight.take() else { unreachable!("it connects") };
        let expected = match failure {
            Failure::Session(reason) => Err(reason),
            Failure::Shortage => Err(CloseReason::Resource),
            Failure::NoLocalAddress => {
                if session.failure == CloseReason::NoBackend {
                    session.failure = CloseReason::Resource;
                }
                session.was_refused = true;
                Ok(false)
            }
            Failure::Refused { at_once } => {
                (session.failure, session.was_refused) = (CloseReason::ConnectFailed, at_once);
                Ok(true)
            }
            Failure::TimedOut { is_late } => {
                (session.failure, session.was_refused) = (CloseReason::ConnectTimeout, false);
                Ok(is_whole && !is_late)
            }
        };
        let before = self.health.reports_on_their_way();
        let blamed = session.attempts.failed(&in_flight, failure, Tick(now));
        assert_eq!(blamed, expected, "whether {failure:?} blames {:?}", in_flight.backend());
        if blamed == Ok(true) {
            self.note_fault(session.shard, in_flight.backend(), Fault::Failure, before);
        }
        session.in_flight = Some(in_flight);
        blamed.map(|_| ())
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
        let forced = session.in_flight.as_ref().and_then(|in_flight| in_flight.forced_close(address));
        if let Some(reason) = forced {
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
                if is_untouched && session.client == ClientState::Here {
                    self.failed(session, Fault::Failure);
                }
                if !is_untouched || !session.attempts.may_retry() {
                    return Err(CloseReason::BackendReset);
                }
                session.attempts.reset_before_a_byte();
                (session.failure, session.was_refused) = (CloseReason::BackendReset, false);
                self.let_go(session);
                self.try_next(session)
            }
        }
    }

    /// Drops what counts a session for its backend.
    fn let_go(&mut self, session: &mut Session) {
        session.stage = Stage::Between;
        session.forced_closes.clear();
        session.address = None;
        session.in_flight = None;
        self.serve();
    }
}
