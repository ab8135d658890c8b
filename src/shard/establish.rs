//! From a pick to a connected backend: tries one backend after the other, within the limits on time and number.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{Shard, queue};
use crate::net;
use crate::relay::{Relay, Sides};
use crate::rules::balance::{self, Tried};
use crate::rules::config::{HashKey, TcpOptions};
use crate::rules::upstream::{Address, InFlight, Pick};
use crate::uring::{End, Socket, Tick, Timer};
use crate::words::{BackendId, CloseReason, UpstreamId};

/// How long an attempt may still take once the client has sent FIN without a byte before it: mostly it has left, but
/// a client that only reads (`nc -N` to a daytime server) looks the same, and a backend that is well answers sooner.
const LEFT_GRACE: Duration = Duration::from_secs(1);

/// Nothing more is received from a client that has said so much, bytes, before it has a backend.
const SAID_BEFORE: usize = 16 << 10;

/// A time-out that is noticed this much later is not the backend's: the process was stopped, or is starved.
const LATE: Duration = Duration::from_millis(250);

/// A backend connection before its first byte.
pub(super) struct Established {
    pub(super) backend: Socket,
    pub(super) in_flight: InFlight,
}

/// The tries of one session.
pub(super) struct Tries {
    upstream: UpstreamId,
    tried: Tried,
    /// Hash of the client, where the algorithm wants it.
    key: u64,
    /// Whose first byte is awaited, where the algorithm wants latencies.
    awaited: Option<Awaited>,
    /// End of all tries together.
    deadline: Tick,
    /// What to report when no other backend is left.
    failure: CloseReason,
}

/// A backend whose first byte is awaited.
struct Awaited {
    backend: BackendId,
    since: Instant,
    /// It was sent a byte.
    asked: bool,
}

/// How one attempt failed.
enum Failure {
    /// Another backend may do. `blamed` unless this one may be well all the same.
    Backend { reason: CloseReason, error: io::Error, blamed: bool },
    /// For want of something of our own; no backend will do.
    Local(io::Error),
    /// No backend will do.
    Session(CloseReason),
}

impl Tries {
    /// No try, and no time for one after `session_deadline`.
    pub(super) fn new(shard: &Shard, upstream: UpstreamId, client: &Socket, session_deadline: Tick) -> Self {
        let establish = shard.config.upstreams[upstream.index()].timeouts.establish;
        let establish = establish.map_or(Tick::NEVER, |limit| shard.ring.now().after(limit));
        Self {
            upstream,
            tried: Tried::default(),
            key: if shard.upstreams[upstream.index()].wants().key { key(shard, upstream, client) } else { 0 },
            awaited: None,
            deadline: establish.min(session_deadline),
            failure: CloseReason::NoBackend,
        }
    }

    /// Notes that the connection which was established failed before its first byte.
    pub(super) fn failed(&mut self, reason: CloseReason) {
        self.failure = reason;
    }

    /// Whether one more backend may be tried.
    pub(super) fn may_retry(&self, shard: &Shard) -> bool {
        self.tried.len() <= shard.config.upstreams[self.upstream.index()].retries as usize
    }

    /// Tells the algorithm, where it wants to know, how long the backend took for its first byte: from the connect, or
    /// from the first byte to it where that came later. Whether there is nothing more to try or to tell.
    pub(super) fn note_progress(&mut self, shard: &Shard, relay: &Relay, sides: Sides<'_>) -> bool {
        let Some(awaited) = &mut self.awaited else { return relay.has_begun(sides) };
        if relay.bytes_to_client() > 0 {
            let table = &shard.upstreams[self.upstream.index()];
            table.observe(awaited.backend, awaited.since.elapsed(), shard.ring.now().0);
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
        client: &Socket,
    ) -> Result<Established, CloseReason> {
        loop {
            if !self.may_retry(shard) {
                return Err(self.failure);
            }
            if shard.ring.now() >= self.deadline {
                return Err(CloseReason::ConnectTimeout);
            }
            let table = &shard.upstreams[self.upstream.index()];
            if self.tried.is_empty() {
                table.note_session(shard.ring.now().0);
            }
            let in_flight = match table.pick(shard.ring.now().0, &self.tried, self.key) {
                Pick::Backend(in_flight) => in_flight,
                Pick::Full => queue::wait(shard, self.upstream, &self.tried, client, self.deadline).await?,
                Pick::Nobody => return Err(self.failure),
            };
            if !self.tried.is_empty() {
                if !table.take_retry(shard.ring.now().0) {
                    shard.counters.retries_over_budget.add(1);
                    return Err(self.failure);
                }
                shard.counters.retries.add(1);
            }
            let id = in_flight.backend();
            self.tried.insert(id);
            let counters = shard.counters.backend(self.upstream, id);
            let begun = table.wants().latency.then(Instant::now);
            match self.connect(shard, client, &table.addresses(id)).await {
                Ok(backend) => {
                    counters.sessions.add(1);
                    if let Some(begun) = begun {
                        table.observe(id, begun.elapsed(), shard.ring.now().0);
                        self.awaited = Some(Awaited { backend: id, since: Instant::now(), asked: false });
                    }
                    return Ok(Established { backend, in_flight });
                }
                Err(Failure::Session(reason)) => return Err(reason),
                Err(Failure::Local(error)) => {
                    if shard.connect_warnings.is_due(shard.ring.now()) {
                        log::warn!(
                            "no connection to a backend can be made, for want of something of our own: {error}"
                        );
                    }
                    return Err(CloseReason::Resource);
                }
                Err(Failure::Backend { reason, error, blamed }) => {
                    if blamed {
                        in_flight.failed();
                    }
                    counters.connect_failures.add(1);
                    let name = &shard.config.upstreams[self.upstream.index()].backends[id.index()].name;
                    log::debug!("backend {name}: connection failed: {error}");
                    self.failure = reason;
                }
            }
        }
    }

    /// Connects to one backend, its addresses in their order.
    async fn connect(
        &self,
        shard: &Shard,
        client: &Socket,
        addresses: &[Address],
    ) -> Result<Socket, Failure> {
        let upstream = &shard.config.upstreams[self.upstream.index()];
        let whole = shard.ring.now().after(upstream.timeouts.connect);
        let all = self.deadline.min(whole);
        let mut failure = Failure::Local(io::ErrorKind::AddrNotAvailable.into());
        for (index, address) in addresses.iter().enumerate() {
            // One address that does not answer leaves the others their share of the time.
            let now = shard.ring.now();
            let left = (addresses.len() - index) as u32;
            let deadline = now.after(all.since(now) / left);
            for source in shard.sources[self.upstream.index()].in_turn(address) {
                let attempt = Wait::until(shard, client, deadline);
                match attempt.connect(address, &upstream.tcp, source).await {
                    Ok(backend) => return Ok(backend),
                    Err(Failure::Local(error)) if source.is_some() && net::is_source_exhausted(&error) => {
                        shard.counters.sources_exhausted.add(1);
                        failure = Failure::Local(error);
                    }
                    Err(Failure::Backend { reason, error, blamed }) => {
                        // A time-out says less where the tries before it left less than a whole `connect`.
                        let blamed = blamed && (reason != CloseReason::ConnectTimeout || all == whole);
                        failure = Failure::Backend { reason, error, blamed };
                        break;
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        Err(failure)
    }
}

/// Hash of the part of a client that decides where it goes.
fn key(shard: &Shard, upstream: UpstreamId, client: &Socket) -> u64 {
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

/// A wait of a client that has no backend yet: with an eye on the client, on the clock and on the end of the shard.
pub(super) struct Wait<'a> {
    shard: &'a Shard,
    client: &'a Socket,
    deadline: Timer,
    client_left: bool,
}

/// Why a wait is in vain.
pub(super) enum Over {
    Closing,
    ClientLeft,
    TimeUp,
}

impl<'a> Wait<'a> {
    pub(super) fn until(shard: &'a Shard, client: &'a Socket, deadline: Tick) -> Self {
        Self { shard, client, deadline: shard.ring.timer(deadline), client_left: false }
    }

    /// Ready when there is no use in waiting any longer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Over> {
        if self.shard.is_closing() {
            return Poll::Ready(Over::Closing);
        }
        // What the client says meanwhile waits for the backend.
        self.client.register(context.waker());
        match self.client.ended() {
            Some(End::Failed(_)) => return Poll::Ready(Over::ClientLeft),
            Some(End::Clean) if self.client.received() == 0 && !self.client_left => {
                self.client_left = true;
                let grace = self.shard.ring.now().after(LEFT_GRACE);
                self.deadline.set(grace.min(self.deadline.deadline()));
            }
            // Also behind its first words, or nothing would tell of a reset.
            None if self.client.received() < SAID_BEFORE => self.client.receive(false),
            _ => {}
        }
        let over = if self.client_left { Over::ClientLeft } else { Over::TimeUp };
        self.deadline.poll_due(context).map(|()| over)
    }

    /// One connect.
    async fn connect(
        mut self,
        address: &Address,
        tcp: &TcpOptions,
        source: Option<IpAddr>,
    ) -> Result<Socket, Failure> {
        let (fd, target) = net::socket_for(address, tcp, source).map_err(local_or_backend)?;
        let backend = self.shard.ring.socket(fd);
        backend.start_connect(target);
        std::future::poll_fn(|context| self.poll_connect(&backend, context)).await?;
        if backend.with(|socket| net::is_self_connected(socket, address)) {
            backend.reset_on_close();
            return Err(refused(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(backend)
    }

    fn poll_connect(&mut self, backend: &Socket, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if !self.shard.is_closing()
            && let Poll::Ready(connected) = backend.poll_connected(context)
        {
            return Poll::Ready(connected.map_err(|error| match self.client_left {
                true => {
                    log::debug!("connection failed and the client has left: {error}");
                    Failure::Session(CloseReason::ClientLeft)
                }
                false => local_or_backend(error),
            }));
        }
        self.poll(context).map(|over| {
            Err(match over {
                Over::Closing => Failure::Session(CloseReason::Shutdown),
                Over::ClientLeft => Failure::Session(CloseReason::ClientLeft),
                Over::TimeUp => {
                    // If the shard did not run when the time was over, the answer may not have been taken yet.
                    let is_late = self.shard.ring.now() > self.deadline.deadline().after(LATE);
                    let error = io::ErrorKind::TimedOut.into();
                    Failure::Backend { reason: CloseReason::ConnectTimeout, error, blamed: !is_late }
                }
            })
        })
    }
}

fn local_or_backend(error: io::Error) -> Failure {
    if net::is_local_failure(&error) { Failure::Local(error) } else { refused(error) }
}

fn refused(error: io::Error) -> Failure {
    Failure::Backend { reason: CloseReason::ConnectFailed, error, blamed: true }
}
