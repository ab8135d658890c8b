//! From a pick to a connected backend: tries one backend after the other, within the limits on time and number.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Shard;
use crate::net;
use crate::relay::{Relay, Sides};
use crate::rules::balance::{self, Tried};
use crate::rules::config::HashKey;
use crate::rules::upstream::{Address, InFlight};
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
            let Some(in_flight) = table.pick(shard.ring.now().0, &self.tried, self.key) else {
                return Err(self.failure);
            };
            let id = in_flight.backend();
            if !self.tried.is_empty() {
                shard.counters.retries.add(1);
            }
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
        let mut failure = Failure::Session(CloseReason::Internal);
        for (index, address) in addresses.iter().enumerate() {
            // One address that does not answer leaves the others their share of the time.
            let now = shard.ring.now();
            let left = (addresses.len() - index) as u32;
            let mut attempt = Attempt {
                shard,
                client,
                deadline: shard.ring.timer(now.after(all.since(now) / left)),
                is_whole: all == whole,
                client_left: false,
            };
            let (fd, target) =
                net::socket_for(address, &upstream.tcp).map_err(|error| local_or_backend(shard, error))?;
            let backend = shard.ring.socket(fd);
            backend.start_connect(target);
            match std::future::poll_fn(|context| attempt.poll(&backend, context)).await {
                Ok(()) if backend.with(|socket| net::is_self_connected(socket, address)) => {
                    backend.reset_on_close();
                    failure = refused(io::ErrorKind::ConnectionRefused.into());
                }
                Ok(()) => return Ok(backend),
                Err(session @ Failure::Session(_)) => return Err(session),
                Err(backend @ Failure::Backend { .. }) => failure = backend,
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

fn local_or_backend(shard: &Shard, error: io::Error) -> Failure {
    if net::is_local_failure(&error) {
        if shard.connect_warnings.is_due(shard.ring.now()) {
            log::warn!("no connection to a backend can be made, for want of something of our own: {error}");
        }
        Failure::Session(CloseReason::Resource)
    } else {
        refused(error)
    }
}

fn refused(error: io::Error) -> Failure {
    Failure::Backend { reason: CloseReason::ConnectFailed, error, blamed: true }
}

/// One connect in progress, with an eye on the client.
struct Attempt<'a> {
    shard: &'a Shard,
    client: &'a Socket,
    deadline: Timer,
    /// It has all its time, not only what the tries before it left.
    is_whole: bool,
    client_left: bool,
}

impl Attempt<'_> {
    fn poll(&mut self, backend: &Socket, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.shard.is_closing() {
            return Poll::Ready(Err(Failure::Session(CloseReason::Shutdown)));
        }
        match backend.poll_connected(context) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) if self.client_left => {
                log::debug!("connection failed and the client has left: {error}");
                return Poll::Ready(Err(Failure::Session(CloseReason::ClientLeft)));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(local_or_backend(self.shard, error))),
            Poll::Pending => {}
        }
        // What the client says meanwhile waits for the backend.
        self.client.register(context.waker());
        match self.client.ended() {
            Some(End::Failed(_)) => return Poll::Ready(Err(Failure::Session(CloseReason::ClientLeft))),
            Some(End::Clean) if self.client.received() == 0 && !self.client_left => {
                self.client_left = true;
                let grace = self.shard.ring.now().after(LEFT_GRACE);
                self.deadline.set(grace.min(self.deadline.deadline()));
            }
            // Also behind its first words, or nothing would tell of a reset.
            None if self.client.received() < SAID_BEFORE => self.client.receive(false),
            _ => {}
        }
        if self.deadline.poll_due(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(if self.client_left {
            Failure::Session(CloseReason::ClientLeft)
        } else {
            // If the shard did not run when the time was over, the answer may not have been taken yet.
            let is_late = self.shard.ring.now() > self.deadline.deadline().after(LATE);
            Failure::Backend {
                reason: CloseReason::ConnectTimeout,
                error: io::ErrorKind::TimedOut.into(),
                blamed: self.is_whole && !is_late,
            }
        }))
    }
}
