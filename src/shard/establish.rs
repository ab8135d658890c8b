//! From a pick to a connected backend: tries one backend after the other, within the limits on time and number.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::task::Context;
use std::time::Instant;

use super::connect::{Failure, WaitingClient, connect_any};
use super::{Shard, waiters};
use crate::balance::{self, Sample, Tried};
use crate::base::Tick;
use crate::base::{BackendId, CloseReason, Plain, UpstreamId};
use crate::config::HashKey;
use crate::net::{LocalFailure, Peer};
use crate::pool::{Lease, NotedLingering, Pooled};
use crate::relay::{Relay, Sides};
use crate::upstream::{Fault, InFlight, Lingering, Pick};

/// A backend connection before its first byte.
pub(super) struct Established {
    pub(super) backend: Peer,
    pub(super) in_flight: InFlight,
}

/// The tries of one session.
pub(super) struct Attempts {
    upstream: UpstreamId,
    tried: Tried,
    /// Hash of the client, where the algorithm wants it.
    key: u64,
    /// Whose first byte is awaited, where the algorithm wants latencies.
    awaited: Option<Awaited>,
    /// End of all tries together.
    deadline: Tick,
    session_deadline: Tick,
    /// End of all waits in the queue together, once there was one.
    queue_deadline: Option<Tick>,
    /// See [`WaitingClient`].
    left: Cell<Tick>,
    /// What to report when no other backend is left.
    failure: CloseReason,
    /// The last try was refused, or came to nothing here: nobody had work with it, and the next one is no load.
    was_refused: bool,
    /// The connection in use was in the pool; whether it has served no client before.
    pooled: Option<bool>,
    /// It may go back there.
    leased: Option<Lease>,
    /// Its place is for whoever waits.
    lingering: Option<(NotedLingering, Lingering)>,
    /// The place at a backend whose pooled connection proved dead; a new connection to it is free.
    stale: Option<InFlight>,
}

/// A backend whose first byte is awaited.
struct Awaited {
    backend: BackendId,
    since: Instant,
    /// It was sent a byte.
    asked: bool,
}

impl Attempts {
    /// No try, and no time for one after `session_deadline`.
    pub(super) fn new(shard: &Shard, upstream: UpstreamId, client: &Peer, session_deadline: Tick) -> Self {
        Self {
            upstream,
            tried: Tried::default(),
            key: if shard.upstreams[upstream.index()].wants().key { key(shard, upstream, client) } else { 0 },
            awaited: None,
            deadline: establish_deadline(shard, upstream, session_deadline),
            session_deadline,
            queue_deadline: None,
            left: Cell::new(Tick::NEVER),
            failure: CloseReason::NoBackend,
            was_refused: false,
            pooled: None,
            leased: None,
            lingering: None,
            stale: None,
        }
    }

    /// Whether the connection in use was in the pool.
    pub(super) fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// Whether the connection in use, from the pool, is of no use: it has ended, which on a new one would be the backend's
    /// answer; or it has served another client, for whom alone can be what the backend says before it is asked.
    pub(super) fn is_stale(&self, relay: &Relay, backend: &Peer) -> bool {
        let Some(fresh) = self.pooled else { return false };
        let said = backend.received() > 0;
        relay.has_sent_nothing() && (!fresh && said || !said && backend.ended().is_some())
    }

    /// Whether the connection in use has served no client before.
    pub(super) fn is_fresh(&self) -> bool {
        self.pooled.unwrap_or(true)
    }

    /// Whether a session that only waits whether its backend still speaks, its client having ended without a byte, is to end
    /// because another client waits for its place. Its task is woken when one begins to.
    pub(super) fn gives_way(&mut self, shard: &Shard, in_flight: &InFlight, context: &Context<'_>) -> bool {
        let Some(pool) = &shard.pools[self.upstream.index()] else { return false };
        if self.lingering.is_none() {
            let noted = |lingering| (pool.note_lingering(in_flight.backend()), lingering);
            self.lingering = in_flight.linger().map(noted);
        }
        // Noted first: of one who looks for waiters then, and one who begins to wait and looks for places, one sees the other.
        let Some((noted, lingering)) = &self.lingering else { return false };
        noted.wake(context.waker());
        lingering.is_wanted()
    }

    /// Notes that the session does not wait so, or not any more.
    pub(super) fn does_not_linger(&mut self) {
        self.lingering = None;
    }

    /// Takes back the place at a backend whose pooled connection proved of no use. A new one has all its time.
    pub(super) fn replace(&mut self, shard: &Shard, in_flight: InFlight) {
        shard.counters.pool(self.upstream).replaced.add(1);
        self.deadline = establish_deadline(shard, self.upstream, self.session_deadline);
        self.stale = Some(in_flight);
    }

    /// How long the backend in use has been asked without an answer, where the algorithm wants to know.
    pub(super) fn waited(&self) -> Option<std::time::Duration> {
        self.awaited.as_ref().filter(|awaited| awaited.asked).map(|awaited| awaited.since.elapsed())
    }

    /// Notes that the connection which was established failed before its first byte.
    pub(super) fn failed(&mut self, reason: CloseReason) {
        self.failure = reason;
        self.was_refused = false;
    }

    /// Whether one more backend may be tried.
    pub(super) fn may_retry(&self, shard: &Shard) -> bool {
        self.tried.len() <= shard.config.upstreams[self.upstream.index()].retries as usize
    }

    /// Tells the algorithm, where it wants to know, how long the backend took for its first byte: from the connect, or
    /// from the first byte to it where that came later. Whether there is nothing more to try or to tell.
    pub(super) fn note_progress(&mut self, shard: &Shard, relay: &Relay, sides: Sides<'_>) -> bool {
        if relay.has_begun(sides) {
            (self.leased, self.lingering) = (None, None);
        }
        let Some(awaited) = &mut self.awaited else { return relay.has_begun(sides) };
        if relay.bytes_to_client() > 0 {
            let table = &shard.upstreams[self.upstream.index()];
            table.observe(awaited.backend, Sample::Took(awaited.since.elapsed()), shard.ring.now().0);
            return true;
        }
        if relay.bytes_to_backend() > 0 && !std::mem::replace(&mut awaited.asked, true) {
            awaited.since = Instant::now();
        }
        false
    }

    /// The next backend that takes a connection.
    pub(super) async fn establish(
        &mut self,
        shard: &Shard,
        client: &Peer,
    ) -> Result<Established, CloseReason> {
        loop {
            (self.pooled, self.awaited, self.leased, self.lingering) = (None, None, None, None);
            let is_replacement = self.stale.is_some();
            let in_flight = match self.stale.take() {
                Some(in_flight) => in_flight,
                None => self.next_place(shard, client).await?,
            };
            let id = in_flight.backend();
            let counters = shard.counters.backend(self.upstream, id);
            self.leased = shard.lease(self.upstream, id);
            let table = &shard.upstreams[self.upstream.index()];
            if !is_replacement
                && let Some(Pooled { socket, fresh, .. }) = shard.take_pooled(self.upstream, id)
            {
                self.pooled = Some(fresh);
                self.awaited = table.wants().latency.then(|| Awaited::since_now(id));
                counters.sessions.add(1);
                return Ok(Established { backend: socket, in_flight });
            }
            let begun = table.wants().latency.then(Instant::now);
            match self.connect(shard, client, id).await {
                Ok(backend) => {
                    // Whoever has waited for this one has a second for each that follows.
                    self.left.set(Tick::NEVER);
                    // One that replaces another was counted with it.
                    counters.sessions.add(u64::from(!is_replacement));
                    if let Some(begun) = begun {
                        table.observe(id, Sample::Took(begun.elapsed()), shard.ring.now().0);
                        self.awaited = Some(Awaited::since_now(id));
                    }
                    return Ok(Established { backend, in_flight });
                }
                Err(Failure::Session(reason)) => return Err(reason),
                // As within one backend: what one has answered is reported rather than that an address was wanting.
                Err(Failure::Local(LocalFailure::Addresses, _)) => {
                    if self.failure == CloseReason::NoBackend {
                        self.failure = CloseReason::Resource;
                    }
                    self.was_refused = true;
                }
                Err(Failure::Local(..)) => return Err(CloseReason::Resource),
                Err(Failure::Backend { reason, error, blamed }) => {
                    if blamed {
                        in_flight.failed(Fault::Failure);
                        in_flight.was_in_vain(shard.ring.now().0);
                        if let Some(begun) = begun {
                            table.observe(id, Sample::InVain(begun.elapsed()), shard.ring.now().0);
                        }
                    }
                    counters.connect_failures.add(1);
                    self.was_refused = reason == CloseReason::ConnectFailed && is_refusal(&error);
                    let name = &shard.config.upstreams[self.upstream.index()].backends[id.index()].name;
                    log::debug!("backend {name}: connection failed: {}", Plain(&error));
                    self.failure = reason;
                }
            }
        }
    }

    /// A place at a backend that was not tried, as far as tries, time and budget allow.
    async fn next_place(&mut self, shard: &Shard, client: &Peer) -> Result<InFlight, CloseReason> {
        if !self.may_retry(shard) {
            return Err(self.failure);
        }
        let now = shard.ring.now();
        if now >= self.deadline {
            return Err(if self.tried.is_empty() { CloseReason::ConnectTimeout } else { self.failure });
        }
        let table = &shard.upstreams[self.upstream.index()];
        let is_retry = !self.tried.is_empty();
        if !is_retry {
            table.note_session(now.0);
        } else if !table.has_untried(&self.tried) {
            return Err(self.failure);
        } else if !self.was_refused && !table.take_retry(now.0) {
            // Before the queue, in which it would hold a place to no purpose.
            shard.counters.retries_over_budget.add(1);
            return Err(self.failure);
        }
        let in_flight = match table.pick(now.0, &self.tried, self.key, false) {
            Pick::Backend(in_flight) => in_flight,
            Pick::Full => self.wait(shard, client).await?,
            Pick::Nobody => return Err(self.failure),
        };
        shard.counters.retries.add(u64::from(is_retry));
        self.tried.insert(in_flight.backend());
        Ok(in_flight)
    }

    /// Waits for a place. Whoever waits in vain takes one of those that are next in the order of resort.
    async fn wait(&mut self, shard: &Shard, client: &Peer) -> Result<InFlight, CloseReason> {
        let timeout = shard.config.upstreams[self.upstream.index()].queue.timeout;
        let until = *self.queue_deadline.get_or_insert(shard.ring.now().after(timeout));
        let waiting = WaitingClient { client, left: &self.left };
        let waited =
            waiters::wait(shard, self.upstream, &self.tried, waiting, until.min(self.deadline)).await;
        waited.or_else(|reason| {
            if matches!(reason, CloseReason::QueueFull | CloseReason::QueueTimeout) {
                let (table, now) = (&shard.upstreams[self.upstream.index()], shard.ring.now());
                if let Pick::Backend(in_flight) = table.pick(now.0, &self.tried, self.key, true) {
                    return Ok(in_flight);
                }
            }
            Err(reason)
        })
    }

    /// Connects to a backend, its addresses in their order.
    async fn connect(&self, shard: &Shard, client: &Peer, backend: BackendId) -> Result<Peer, Failure> {
        let whole = shard.ring.now().after(shard.config.upstreams[self.upstream.index()].timeouts.connect);
        let all = self.deadline.min(whole);
        let waiting = WaitingClient { client, left: &self.left };
        let connected = connect_any(shard, Some(waiting), self.upstream, backend, all).await;
        connected.map(|(backend, _)| backend).map_err(|failure| match failure {
            // A time-out says less where the tries before it left less than a whole `connect`.
            Failure::Backend { reason: reason @ CloseReason::ConnectTimeout, error, blamed } => {
                Failure::Backend { reason, error, blamed: blamed && all == whole }
            }
            other => other,
        })
    }
}

impl Awaited {
    fn since_now(backend: BackendId) -> Self {
        Self { backend, since: Instant::now(), asked: false }
    }
}

/// Whether the backend's host said at once that nobody listens there.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// End of the tries that begin now.
fn establish_deadline(shard: &Shard, upstream: UpstreamId, session_deadline: Tick) -> Tick {
    let establish = shard.config.upstreams[upstream.index()].timeouts.establish;
    establish.map_or(Tick::NEVER, |limit| shard.ring.now().after(limit)).min(session_deadline)
}

/// Hash of the part of a client that decides where it goes.
fn key(shard: &Shard, upstream: UpstreamId, client: &Peer) -> u64 {
    let Some(peer) = client.with(|socket| socket.peer_addr().ok().and_then(|peer| peer.as_socket())) else {
        return 0;
    };
    // An IPv4 client of a dual-stack listener is the IPv4 client it is elsewhere.
    let mut bytes = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    if shard.config.upstreams[upstream.index()].hash_key == HashKey::SourcePort {
        bytes.extend(peer.port().to_be_bytes());
    }
    balance::hash(&bytes)
}
