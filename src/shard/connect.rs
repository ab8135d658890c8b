//! One connection to a backend: its addresses in their order, from the local addresses in turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Shard;
use crate::base::Address;
use crate::base::Tick;
use crate::base::{BackendId, CloseReason, Plain, UpstreamId};
use crate::config::TcpOptions;
use crate::net::{self, LocalFailure, Peer};
use crate::uring::{End, Receive, Timer};

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
    /// For want of something of our own; no backend is to blame, and another one will do only where it is about addresses.
    Local(LocalFailure, io::Error),
    /// No backend will do.
    Session(CloseReason),
}

impl Failure {
    /// What to report after a later one: what the backend answered rather than that an address of our own was wanting.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (backend @ Self::Backend { .. }, Self::Local(LocalFailure::Addresses, _)) => backend,
            (_, later) => later,
        }
    }
}

/// Connects to the first of these addresses that takes a connection, until `all` at the latest, for a client or for the
/// pool.
///
/// A local address that is wanting, or has no port left, says nothing of the next one: where IPv6 is switched off, a backend
/// `localhost` that has `::1` first is reached on 127.0.0.1.
///
/// An address that was silent comes behind the others for a while, for all sessions of the shard: its next check may be
/// half a minute away, or there may be none.
pub(super) async fn connect_any(
    shard: &Shard,
    waiting: Option<WaitingClient<'_>>,
    upstream: UpstreamId,
    backend: BackendId,
    all: Tick,
) -> Result<(Peer, Address), Failure> {
    let (tcp, table) = (&shard.config.upstreams[upstream.index()].tcp, &shard.upstreams[upstream.index()]);
    let addresses = shard.silent.behind(upstream, backend, table.addresses(backend), shard.ring.now());
    let mut failure = Failure::Local(LocalFailure::Addresses, io::ErrorKind::AddrNotAvailable.into());
    let mut was_silent = false;
    'all: for (index, address) in addresses.iter().enumerate() {
        // One address that does not answer leaves the others their share of the time.
        let now = shard.ring.now();
        let left = (addresses.len() - index) as u32;
        let deadline = now.after(all.since(now) / left);
        for source in shard.sources[upstream.index()].in_turn(address) {
            match Wait::until(shard, waiting, deadline).connect(address, tcp, source).await {
                Ok(socket) => return Ok((socket, address.clone())),
                Err(Failure::Local(kind, error)) => {
                    shard.counters.local_failures[kind as usize].add(1);
                    failure = failure.then(Failure::Local(kind, error));
                    if kind != LocalFailure::Addresses {
                        break 'all;
                    }
                }
                Err(Failure::Backend { reason, error, blamed }) => {
                    if blamed && reason == CloseReason::ConnectTimeout && addresses.len() > 1 {
                        shard.silent.note(upstream, backend, address, shard.ring.now());
                    }
                    was_silent |= reason == CloseReason::ConnectTimeout;
                    // A refusal behind a silent address has cost as much as that.
                    let reason = if was_silent { CloseReason::ConnectTimeout } else { reason };
                    failure = Failure::Backend { reason, error, blamed };
                    break;
                }
                Err(session @ Failure::Session(_)) => return Err(session),
            }
        }
    }
    if let Failure::Local(kind, error) = &failure
        && shard.connect_warnings[*kind as usize].is_due(shard.ring.now())
    {
        log::warn!("no connection to a backend can be made, for want of {}: {}", kind.name(), Plain(error));
    }
    Err(failure)
}

/// How long an address that was silent comes behind the others of its backend.
const SILENT: Duration = Duration::from_secs(30);

/// So many silent addresses are remembered.
const SILENT_KEPT: usize = 64;

/// Addresses of backends with several that did not answer lately.
#[derive(Default)]
pub(super) struct Silent(RefCell<VecDeque<(UpstreamId, BackendId, Address, Tick)>>);

impl Silent {
    fn note(&self, upstream: UpstreamId, backend: BackendId, address: &Address, now: Tick) {
        let mut notes = self.0.borrow_mut();
        notes.retain(|note| (note.0, note.1, &note.2) != (upstream, backend, address));
        if notes.len() == SILENT_KEPT {
            notes.pop_front();
        }
        notes.push_back((upstream, backend, address.clone(), now.after(SILENT)));
    }

    /// The addresses of a backend in the order to try.
    fn behind(
        &self,
        upstream: UpstreamId,
        backend: BackendId,
        addresses: Arc<[Address]>,
        now: Tick,
    ) -> Arc<[Address]> {
        let mut notes = self.0.borrow_mut();
        while notes.pop_front_if(|note| note.3 <= now).is_some() {}
        if notes.is_empty() || addresses.len() < 2 {
            return addresses;
        }
        let is_silent = |address: &Address| {
            let mut notes = notes.iter();
            notes.any(|note| (note.0, note.1, &note.2) == (upstream, backend, address))
        };
        if !addresses.iter().any(is_silent) {
            return addresses;
        }
        let (silent, others): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_silent);
        others.into_iter().chain(silent).collect()
    }
}

/// A client that wants a backend.
#[derive(Clone, Copy)]
pub(super) struct WaitingClient<'a> {
    pub(super) client: &'a Peer,
    /// When it counts as left because it has sent FIN without a byte before it: [`LEFT_GRACE`] later, through all tries.
    pub(super) left: &'a Cell<Tick>,
}

impl WaitingClient<'_> {
    fn has_ended(self) -> bool {
        self.left.get() != Tick::NEVER
    }
}

/// A wait for a backend: with an eye on the client that wants it, if one does, on the clock and on the end of the shard.
pub(super) struct Wait<'a> {
    shard: &'a Shard,
    waiting: Option<WaitingClient<'a>>,
    deadline: Tick,
    /// For the deadline, or the moment at which the client counts as left.
    timer: Timer,
}

/// Why a wait is in vain.
pub(super) enum WaitEnd {
    Closing,
    ClientLeft,
    TimeUp,
}

impl<'a> Wait<'a> {
    pub(super) fn until(shard: &'a Shard, waiting: Option<WaitingClient<'a>>, deadline: Tick) -> Self {
        Self { shard, waiting, deadline, timer: shard.ring.timer(deadline) }
    }

    /// Ready when there is no use in waiting any longer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<WaitEnd> {
        if self.shard.is_closing() {
            return Poll::Ready(WaitEnd::Closing);
        }
        let mut over = WaitEnd::TimeUp;
        if let Some(waiting) = self.waiting {
            if self.has_left(waiting, context) {
                return Poll::Ready(WaitEnd::ClientLeft);
            }
            let left = waiting.left.get();
            if left < self.deadline {
                self.timer.set(left);
                over = WaitEnd::ClientLeft;
            }
        }
        self.timer.poll_due(context).map(|()| over)
    }

    /// Whether the client has left for sure. What it says meanwhile waits for the backend.
    fn has_left(&self, WaitingClient { client, left }: WaitingClient<'_>, context: &Context<'_>) -> bool {
        client.register(context.waker());
        if client.ring().buffers_scarce() {
            // Open sessions need them more than those who wait.
            client.spill_received();
        }
        match client.ended() {
            Some(End::Failed(_)) => return true,
            _ if client.is_dead() => return true,
            Some(End::Clean) if client.received() == 0 && left.get() == Tick::NEVER => {
                left.set(self.shard.ring.now().after(LEFT_GRACE));
                client.watch();
            }
            // Also behind its first words, or nothing would tell of a reset.
            None if client.received() < SAID_BEFORE => client.receive(Receive::One),
            _ => client.watch(),
        }
        false
    }

    /// One connect.
    async fn connect(
        mut self,
        address: &Address,
        tcp: &TcpOptions,
        source: Option<IpAddr>,
    ) -> Result<Peer, Failure> {
        let socket = net::socket_for(address, tcp, source);
        let (fd, target) = socket.map_err(|error| local_or_backend(error, address))?;
        let backend = Peer::plain(self.shard.ring.socket(fd));
        let unfinished = Unfinished(&backend);
        backend.start_connect(target);
        std::future::poll_fn(|context| self.poll_connect(&backend, address, context)).await?;
        std::mem::forget(unfinished);
        if backend.with(|socket| net::is_self_connected(socket, address)) {
            backend.reset_on_close();
            return Err(refused(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(backend)
    }

    fn poll_connect(
        &mut self,
        backend: &Peer,
        address: &Address,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        if !self.shard.is_closing()
            && let Poll::Ready(connected) = backend.poll_connected(context)
        {
            return Poll::Ready(connected.map_err(|error| match local_or_backend(error, address) {
                Failure::Backend { error, .. } if self.waiting.is_some_and(WaitingClient::has_ended) => {
                    log::debug!("connection failed and the client has left: {}", Plain(&error));
                    Failure::Session(CloseReason::ClientLeft)
                }
                failure => failure,
            }));
        }
        self.poll(context).map(|over| {
            Err(match over {
                WaitEnd::Closing => Failure::Session(CloseReason::Shutdown),
                WaitEnd::ClientLeft => Failure::Session(CloseReason::ClientLeft),
                WaitEnd::TimeUp => {
                    // If the shard did not run when the time was over, the answer may not have been taken yet.
                    let is_late = self.shard.ring.now() > self.deadline.after(LATE);
                    let error = io::ErrorKind::TimedOut.into();
                    Failure::Backend { reason: CloseReason::ConnectTimeout, error, blamed: !is_late }
                }
            })
        })
    }
}

/// A connection that is being made. If nothing comes of it, the backend learns so before its place is given to somebody
/// else, and not with the close, which waits for the last completion.
struct Unfinished<'a>(&'a Peer);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.end_now();
    }
}

fn local_or_backend(error: io::Error, address: &Address) -> Failure {
    match LocalFailure::of(&error, address) {
        Some(kind) => Failure::Local(kind, error),
        None => refused(error),
    }
}

fn refused(error: io::Error) -> Failure {
    Failure::Backend { reason: CloseReason::ConnectFailed, error, blamed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_the_backend_is_reported_rather_than_a_local_address_that_is_wanting() {
        let refused = || refused(io::ErrorKind::ConnectionRefused.into());
        let local = |kind| Failure::Local(kind, io::ErrorKind::Other.into());
        let (addresses, memory) = (LocalFailure::Addresses, LocalFailure::Memory);
        assert!(matches!(refused().then(local(addresses)), Failure::Backend { .. }));
        assert!(matches!(local(addresses).then(refused()), Failure::Backend { .. }));
        assert!(matches!(refused().then(local(memory)), Failure::Local(LocalFailure::Memory, _)));
    }
}
