//! One connection to a backend: its addresses in their order, from the local addresses in turn.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Shard;
use crate::net;
use crate::rules::config::TcpOptions;
use crate::rules::upstream::Address;
use crate::uring::{End, Socket, Tick, Timer};
use crate::words::{CloseReason, UpstreamId};

/// How long an attempt may still take once the client has sent FIN without a byte before it: mostly it has left, but
/// a client that only reads (`nc -N` to a daytime server) looks the same, and a backend that is well answers sooner.
const LEFT_GRACE: Duration = Duration::from_secs(1);

/// Nothing more is received from a client that has said so much, bytes, before it has a backend.
const SAID_BEFORE: usize = 16 << 10;

/// A time-out that is noticed this much later is not the backend's: the process was stopped, or is starved.
const LATE: Duration = Duration::from_millis(250);

/// How one attempt failed.
pub(super) enum Failure {
    /// Another backend may do. `blamed` unless this one may be well all the same.
    Backend { reason: CloseReason, error: io::Error, blamed: bool },
    /// For want of something of our own; no backend will do.
    Local(io::Error),
    /// No backend will do.
    Session(CloseReason),
}

/// Connects to the first of these addresses that takes a connection, until `all` at the latest, for a client or for the
/// pool.
pub(super) async fn connect_any<'a>(
    shard: &Shard,
    client: Option<&Socket>,
    upstream: UpstreamId,
    addresses: &'a [Address],
    all: Tick,
) -> Result<(Socket, &'a Address), Failure> {
    let tcp = &shard.config.upstreams[upstream.index()].tcp;
    let mut failure = Failure::Local(io::ErrorKind::AddrNotAvailable.into());
    for (index, address) in addresses.iter().enumerate() {
        // One address that does not answer leaves the others their share of the time.
        let now = shard.ring.now();
        let left = (addresses.len() - index) as u32;
        let deadline = now.after(all.since(now) / left);
        for source in shard.sources[upstream.index()].in_turn(address) {
            match Wait::until(shard, client, deadline).connect(address, tcp, source).await {
                Ok(backend) => return Ok((backend, address)),
                Err(Failure::Local(error)) if source.is_some() && net::is_source_exhausted(&error) => {
                    shard.counters.sources_exhausted.add(1);
                    failure = Failure::Local(error);
                }
                Err(backend @ Failure::Backend { .. }) => {
                    failure = backend;
                    break;
                }
                Err(other) => return Err(other),
            }
        }
    }
    Err(failure)
}

/// A wait for a backend: with an eye on the client that wants it, if one does, on the clock and on the end of the shard.
pub(super) struct Wait<'a> {
    shard: &'a Shard,
    client: Option<&'a Socket>,
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
    pub(super) fn until(shard: &'a Shard, client: Option<&'a Socket>, deadline: Tick) -> Self {
        Self { shard, client, deadline: shard.ring.timer(deadline), client_left: false }
    }

    /// Ready when there is no use in waiting any longer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Over> {
        if self.shard.is_closing() {
            return Poll::Ready(Over::Closing);
        }
        if let Some(client) = self.client
            && self.has_left(client, context)
        {
            return Poll::Ready(Over::ClientLeft);
        }
        let over = if self.client_left { Over::ClientLeft } else { Over::TimeUp };
        self.deadline.poll_due(context).map(|()| over)
    }

    /// Whether the client has left. What it says meanwhile waits for the backend.
    fn has_left(&mut self, client: &Socket, context: &Context<'_>) -> bool {
        client.register(context.waker());
        match client.ended() {
            Some(End::Failed(_)) => return true,
            Some(End::Clean) if client.received() == 0 && !self.client_left => {
                self.client_left = true;
                let grace = self.shard.ring.now().after(LEFT_GRACE);
                self.deadline.set(grace.min(self.deadline.deadline()));
            }
            // Also behind its first words, or nothing would tell of a reset.
            None if client.received() < SAID_BEFORE => client.receive(false),
            _ => {}
        }
        false
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
