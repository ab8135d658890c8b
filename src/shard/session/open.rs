//! From a client to a leg: picks, waits and connects, until a backend has accepted the connection or the
//! attempts are over.

use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::record::Record;
use crate::admission::Ticket;
use crate::balance::Sample;
use crate::base::{Activity, BackendId, CloseReason, Moment, Plain, SessionPhase, Tick};
use crate::net::Peer;
use crate::pool::{Connection, Lease, NotedLingering};
use crate::shard::connect::{Connected, Prelude, Wait, WaitingClient, connect_any};
use crate::shard::upstream::Upstream;
use crate::shard::waiters::Granted;
use crate::upstream::{Attempts, InFlight, Step, WaitEnd};

/// What a session has besides its legs until the first byte of one: from then on no other backend can replace
/// the current one, and an idle session costs no more than necessary.
pub(super) struct Opening {
    pub(super) attempts: Attempts,
    pub(super) origin: Origin,
    /// The backend whose first byte is awaited, if the algorithm wants latencies.
    pub(super) awaited: Option<Awaited>,
    /// The session in flight whose pooled connection proved stale: the next attempt is a new connection to
    /// the same backend.
    pub(super) stale: Option<InFlight>,
    /// Present if the connection may go back to the pool.
    pub(super) lease: Option<Lease>,
    /// How many of the client's bytes the backend has got with the connect.
    pub(super) sent: usize,
    /// Present if the session would give its permit up to a waiting client.
    pub(super) lingering: Option<NotedLingering>,
}

/// The origin of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was made for this session.
    New,
    /// It was in the pool, and had not served a client before.
    Fresh,
    /// It was in the pool, and had served a client.
    Used,
}

/// A backend whose first byte is awaited.
pub(super) struct Awaited {
    since: Instant,
    /// Whether the backend was sent a byte.
    asked: bool,
}

impl Awaited {
    fn since_now() -> Self {
        Self { since: Instant::now(), asked: false }
    }

    /// Returns how long the backend has been asked without an answer.
    pub(super) fn unanswered(&self) -> Option<Duration> {
        self.asked.then(|| self.since.elapsed())
    }

    /// Returns how long the backend took for its first byte: from the connect, or from the first byte sent to
    /// it if that came later.
    pub(super) fn answered(&self) -> Sample {
        Sample::Took(self.since.elapsed())
    }

    /// Notes that the backend was sent a byte.
    pub(super) fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.since = Instant::now();
        }
    }
}

impl Opening {
    pub(super) fn new(record: &Record) -> Self {
        let upstream = record.upstream();
        let key = upstream.key(record.session.client(), record.hello());
        Self {
            attempts: Attempts::new(upstream.config(), key, record.shard().now(), record.deadline()),
            origin: Origin::New,
            awaited: None,
            stale: None,
            lease: None,
            sent: 0,
            lingering: None,
        }
    }

    /// Finds a backend that accepts a connection.
    pub(super) async fn open(&mut self, record: &mut Record) -> Result<(Peer, InFlight), CloseReason> {
        loop {
            if record.follow()? {
                *self = Self::new(record);
            }
            (self.origin, self.awaited, self.lease, self.lingering) = (Origin::New, None, None, None);
            self.sent = 0;
            let is_replacement = self.stale.is_some();
            let (in_flight, pooled) = match self.stale.take() {
                Some(in_flight) => (in_flight, None),
                None => match self.next(record).await? {
                    Some(next) => next,
                    None => continue,
                },
            };
            // A wait may have taken long, and the backend be a new one.
            record.follow()?;
            let (record, upstream) = (&*record, record.upstream());
            let backend = in_flight.backend();
            self.lease = upstream.lease(backend);
            if let Some(Connection { socket, fresh, .. }) = pooled {
                self.origin = if fresh { Origin::Fresh } else { Origin::Used };
                self.awaited = upstream.table.wants().latency.then(Awaited::since_now);
                upstream.counters(backend).sessions.add(1);
                record.session.has_connected(Moment::read_clock());
                return Ok((socket, in_flight));
            }
            let begun = Moment::read_clock();
            let until = self.attempts.connect_until(record.shard().now());
            let prelude = prelude(record);
            let connecting = connect_any(upstream, Some(self.client(record)), &prelude, backend, until);
            let failed = match connecting.await {
                Ok(Connected { socket, sent, .. }) => {
                    self.sent = sent;
                    self.attempts.connected();
                    // A connection that replaces another was counted with the first one.
                    upstream.counters(backend).sessions.add(u64::from(!is_replacement));
                    self.connected(record, backend, begun);
                    return Ok((socket, in_flight));
                }
                Err(failed) => failed,
            };
            let now = record.shard().now();
            let blamed = self.attempts.failed(&in_flight, failed.failure, now)?;
            if blamed && upstream.table.wants().latency {
                let waited = Moment::read_clock().since(begun);
                upstream.table.observe(backend, Sample::InVain(waited), now);
            }
            if let Some(reason) = failed.reason() {
                upstream.counters(backend).connect_failures[reason.index()].add(1);
                let name = upstream.backend_name(backend);
                log::debug!("backend {name}: connection failed: {}", Plain(&failed.error));
            }
        }
    }

    fn client<'a>(&'a self, record: &'a Record) -> WaitingClient<'a> {
        WaitingClient { socket: &record.client, end: self.attempts.client_end(), session: &record.session }
    }

    /// Counts a connect that began at `begun` and succeeded.
    fn connected(&mut self, record: &Record, backend: BackendId, begun: Moment) {
        let (upstream, now) = (record.upstream(), Moment::read_clock());
        let took = now.since(begun);
        upstream.totals.connect.observe(took);
        let counters = upstream.counters(backend);
        counters.connects.add(1);
        counters.connect_micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        record.session.has_connected(now);
        if upstream.table.wants().latency {
            upstream.table.observe(backend, Sample::Took(took), record.shard().now());
            self.awaited = Some(Awaited::since_now());
        }
    }

    /// Returns the next backend, and the ready connection to it if the pool has one; `None` if another upstream is to
    /// be asked.
    async fn next(&mut self, record: &Record) -> Result<Option<(InFlight, Option<Connection>)>, CloseReason> {
        let (shard, mut upstream) = (record.shard(), Rc::clone(record.upstream()));
        let is_retry = !self.attempts.tried().is_empty();
        let mut pooled = None;
        let take = |upstream: &Upstream, pooled: &mut Option<Connection>, backend| {
            let (connection, permit) = upstream.take_pooled(backend)?;
            *pooled = Some(connection);
            Some(permit)
        };
        let mut step =
            self.attempts.next(&upstream.table, shard.now(), |backend| take(&upstream, &mut pooled, backend));
        if let Step::Wait(until) = step {
            let waited = self.wait(record, until).await;
            if record.is_led_elsewhere() {
                return Ok(None);
            }
            upstream = upstream.newest();
            step = match waited {
                Ok(in_flight) => {
                    // A ready connection comes with its own permit, so there is one permit too many in that
                    // case.
                    pooled = upstream.take_pooled(in_flight.backend()).map(|(connection, _)| connection);
                    self.attempts.granted(in_flight)
                }
                Err(reason) => self.attempts.waited(reason, &upstream.table, shard.now(), |backend| {
                    take(&upstream, &mut pooled, backend)
                }),
            };
        }
        match step {
            Step::Connect(in_flight) => {
                upstream.totals.retries.add(u64::from(is_retry));
                let session = &record.session;
                session.backend.set(Some(in_flight.backend()));
                session.phase.set(SessionPhase::Connecting);
                session.retries.set(u8::try_from(self.attempts.tried().len() - 1).unwrap_or(u8::MAX));
                if let Some(pool) = &upstream.pool {
                    if pooled.is_some() { &pool.counters().hits } else { &pool.counters().misses }.add(1);
                }
                Ok(Some((in_flight, pooled)))
            }
            Step::Wait(_) => unreachable!("a wait is followed by a permit or an end"),
            Step::End(reason) => Err(reason),
            Step::OverBudget(reason) => {
                upstream.totals.retries_over_budget.add(1);
                Err(reason)
            }
        }
    }

    /// Waits in the queue until `deadline` for a permit of a backend that was not tried.
    async fn wait(&self, record: &Record, deadline: Tick) -> Result<InFlight, CloseReason> {
        let (shard, upstream) = (record.shard(), record.upstream());
        let tried = self.attempts.tried();
        let ticket = upstream.table.join(tried).ok_or(CloseReason::QueueFull)?;
        let _position = Position::new(upstream, ticket);
        let begun = Moment::read_clock();
        record.session.phase.set(SessionPhase::Queued);
        record.session.ahead.set(upstream.queue_length().saturating_sub(1).try_into().unwrap_or(u16::MAX));
        upstream.serve();
        upstream.ask_pools(tried);
        let mut wait = Wait::until(shard, Some(self.client(record)), deadline);
        let waited = std::future::poll_fn(|context| {
            shard.ring.set_activity(Activity::Open(record.session.id));
            // All versions have the queue in common.
            let upstream = upstream.newest();
            let granted = match upstream.waiters.take_granted(ticket.number, context) {
                Some(Granted::Permit(backend)) => Some(backend),
                Some(Granted::Nothing) => {
                    upstream.table.join_again(ticket, tried);
                    None
                }
                None => None,
            };
            if let Some(in_flight) = upstream.table.poll_wait(ticket, tried, granted)? {
                return Poll::Ready(Ok(in_flight));
            }
            if record.is_led_elsewhere() {
                // Whatever the reason, the session asks the other upstream.
                return Poll::Ready(Err(CloseReason::NoBackend));
            }
            if granted.is_some() {
                // The client waits again. Pools may have taken permits while it did not wait.
                upstream.serve();
                upstream.ask_pools(tried);
            }
            wait.poll(context).map(|end| {
                Err(match end {
                    WaitEnd::Ordered(reason) => reason,
                    WaitEnd::ClientLeft => CloseReason::ClientLeft,
                    WaitEnd::TimeUp => CloseReason::QueueTimeout,
                })
            })
        })
        .await;
        let now = Moment::read_clock();
        record.session.has_waited(begun, now);
        upstream.totals.queue.observe(now.since(begun));
        waited
    }
}

fn prelude(record: &Record) -> Prelude {
    if record.upstream().config().tls.is_none() {
        // The relay sends the header.
        return Prelude::default();
    }
    let protocol = record.client.with_agreed(|agreed| agreed.alpn_protocol().map(<[u8]>::to_vec));
    Prelude { header: record.announcement(), protocol: protocol.flatten() }
}

/// A position in the queue until it is dropped.
struct Position<'a> {
    upstream: &'a Rc<Upstream>,
    ticket: Ticket,
}

impl<'a> Position<'a> {
    fn new(upstream: &'a Rc<Upstream>, ticket: Ticket) -> Self {
        upstream.waiters.insert(ticket.number);
        Self { upstream, ticket }
    }
}

impl Drop for Position<'_> {
    fn drop(&mut self) {
        let upstream = self.upstream.newest();
        let granted = upstream.waiters.remove(self.ticket.number);
        // If it is too late to leave, the shard that takes the grant finds no client and gives the permit
        // back.
        let _ = upstream.table.leave(self.ticket);
        granted.into_iter().for_each(|backend| upstream.table.refuse(backend));
    }
}
