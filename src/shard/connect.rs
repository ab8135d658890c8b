//! One connection to a backend: tries its addresses in order, from the local addresses in turn.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::sessions::Session;
use super::state::Shard;
use super::upstream::Upstream;
use crate::base::limits::LATE;
use crate::base::{Activity, Address, BackendId, CloseReason, ConnectFailure, LocalEnd, Plain, Tick};
use crate::net::{self, HandshakeError, LocalFailure, Peer};
use crate::tls;
use crate::upstream::{ClientEnd, ClientState, Failure, WaitEnd};
use crate::uring::{End, Place, Receive, Timer};

/// Once a client that has no backend yet has sent this many bytes, nothing more is received from it.
const SAID_BEFORE: usize = 16 << 10;

/// A connect that failed, with the error for the log.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) error: io::Error,
    /// The resource that this process lacks.
    lacking: Option<LocalFailure>,
    /// The backend has accepted the connection, and the handshake failed.
    is_tls: bool,
}

impl Failed {
    /// Keeps the more telling of two failures: a backend's answer outranks a missing local address.
    fn then(self, later: Self) -> Self {
        let is_answer = !matches!(self.failure, Failure::NoLocalAddress);
        if is_answer && matches!(later.failure, Failure::NoLocalAddress) { self } else { later }
    }

    fn tls(error: HandshakeError) -> Self {
        let words = match &error {
            HandshakeError::Tls(error) => tls::words(error),
            HandshakeError::Ended => error.to_string(),
        };
        let error = io::Error::other(words);
        Self { failure: Failure::Refused { at_once: false }, error, lacking: None, is_tls: true }
    }

    /// Returns why the backend was not reached; `None` if that says nothing about the backend.
    pub(super) fn reason(&self) -> Option<ConnectFailure> {
        if self.is_tls {
            return Some(ConnectFailure::Tls);
        }
        match self.failure {
            Failure::Refused { at_once: true } => Some(ConnectFailure::Refused),
            Failure::Refused { at_once: false } => Some(ConnectFailure::Unreachable),
            Failure::TimedOut { .. } => Some(ConnectFailure::Timeout),
            Failure::NoLocalAddress | Failure::Shortage | Failure::Session(_) => None,
        }
    }

    fn refused(error: io::Error) -> Self {
        // The backend's host reported at once that nothing listens there.
        let at_once = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        Self { failure: Failure::Refused { at_once }, error, lacking: None, is_tls: false }
    }

    fn lacking(kind: LocalFailure, error: io::Error) -> Self {
        let failure = match kind {
            LocalFailure::Addresses => Failure::NoLocalAddress,
            LocalFailure::Descriptors | LocalFailure::Memory => Failure::Shortage,
        };
        Self { failure, error, lacking: Some(kind), is_tls: false }
    }
}

/// What goes before the client's bytes to a backend that speaks TLS, and into its handshake.
#[derive(Default)]
pub(super) struct Prelude {
    /// A PROXY header, sent before TLS begins.
    pub(super) header: Option<Vec<u8>>,
    /// What the client has agreed on with us (ALPN).
    pub(super) protocol: Option<Vec<u8>>,
}

/// A new connection.
pub(super) struct Connected {
    pub(super) socket: Peer,
    pub(super) address: Address,
    /// How many of the client's bytes went out with it.
    pub(super) sent: usize,
}

/// Polls for the end of a connect that has begun with the first bytes.
fn poll_writable(socket: &Peer, context: &Context<'_>) -> Poll<io::Result<()>> {
    socket.register(context.waker());
    if socket.is_waiting_writable() {
        return Poll::Pending;
    }
    match socket.with(net::is_connected) {
        Ok(true) => Poll::Ready(Ok(())),
        Ok(false) => {
            socket.wait_writable();
            Poll::Pending
        }
        Err(error) => Poll::Ready(Err(error)),
    }
}

/// Connects to the first address of a backend that accepts, until `all` at the latest, for a client or for
/// the pool. The connection ends when the socket is dropped, so that the backend learns of the end before its
/// permit is given to another session.
///
/// If a local address or port is unavailable, the next one is tried, and any port once those of the shard are used
/// up. So where IPv6 is switched off, a backend `localhost` that resolves to `::1` first is reached on 127.0.0.1.
/// An address that does not answer leaves the others an equal share of the time.
pub(super) async fn connect_any(
    upstream: &Upstream,
    waiting: Option<WaitingClient<'_>>,
    prelude: &Prelude,
    backend: BackendId,
    all: Tick,
) -> Result<Connected, Failed> {
    let shard = &*upstream.shard;
    let addresses = upstream.unresponsive.order(backend, upstream.table.addresses(backend), shard.now());
    let mut failed = Failed::lacking(LocalFailure::Addresses, io::ErrorKind::AddrNotAvailable.into());
    let mut has_timed_out = false;
    'all: for (index, address) in addresses.iter().enumerate() {
        let now = shard.now();
        let left = (addresses.len() - index) as u32;
        let deadline = now.after(all.since(now) / left);
        for local in upstream.local_addresses.in_turn(address) {
            let wait = Wait::until(shard, waiting, deadline);
            let error = match wait.connect(address, upstream, (local, backend), prelude).await {
                Ok((socket, sent)) => return Ok(Connected { socket, address: address.clone(), sent }),
                Err(error) => error,
            };
            // Ports of this shard that are used up are no lack: any port is tried next.
            let is_lack = local.ports.is_none() || !matches!(error.failure, Failure::NoLocalAddress);
            if let Some(kind) = error.lacking.filter(|_| is_lack) {
                shard.counters.work.local_failures[kind as usize].add(1);
            }
            match error.failure {
                Failure::Session(_) => return Err(error),
                Failure::Shortage => {
                    failed = error;
                    break 'all;
                }
                Failure::NoLocalAddress => failed = failed.then(error),
                Failure::TimedOut { is_late } => {
                    if !is_late && addresses.len() > 1 {
                        upstream.unresponsive.note(backend, address, shard.now());
                    }
                    has_timed_out = true;
                    failed = error;
                    break;
                }
                Failure::Refused { .. } => {
                    // A refusal after an address that timed out has cost as much as the time-out, and blames
                    // the backend.
                    failed = match has_timed_out {
                        true => Failed { failure: Failure::TimedOut { is_late: false }, ..error },
                        false => error,
                    };
                    break;
                }
            }
        }
    }
    if failed.is_tls {
        upstream.warn_of_tls(backend, &failed.error);
    }
    if let Some(kind) = failed.lacking
        && shard.connect_warnings[kind as usize].is_due(shard.now())
    {
        let (lacking, remedy) = (kind.words(), kind.remedy());
        log::warn!("cannot connect to backends: out of {lacking} ({remedy}): {}", Plain(&failed.error));
    }
    Err(failed)
}

/// A client that waits for a backend.
#[derive(Clone, Copy)]
pub(super) struct WaitingClient<'a> {
    pub(super) socket: &'a Peer,
    pub(super) end: &'a ClientEnd,
    pub(super) session: &'a Session,
}

impl WaitingClient<'_> {
    /// Looks at the client. Bytes that it sends in the meantime are kept for the backend.
    fn look(self, context: &Context<'_>) -> ClientState {
        let socket = self.socket;
        socket.register(context.waker());
        if socket.ring().buffers_scarce() {
            // Open sessions need the buffers more than clients that wait.
            socket.spill_received();
        }
        match socket.ended() {
            Some(End::Failed(_)) => ClientState::Gone,
            _ if socket.is_dead() => ClientState::Gone,
            Some(End::Clean) if socket.received() == 0 => {
                // At each look, because a full queue of completions ends a watch.
                socket.watch();
                ClientState::Finished
            }
            None if socket.received() < SAID_BEFORE => {
                // Receives even after the client's first bytes, or nothing would report a reset.
                socket.receive(Receive::One);
                ClientState::Here
            }
            _ => {
                socket.watch();
                ClientState::Here
            }
        }
    }
}

/// A wait for a backend. It ends when the waiting client, if there is one, leaves, when its time is up, or
/// when the shard closes.
pub(super) struct Wait<'a> {
    shard: &'a Shard,
    client: Option<WaitingClient<'a>>,
    deadline: Tick,
    /// For the deadline, or for the moment at which the client counts as left.
    timer: Timer,
}

impl<'a> Wait<'a> {
    pub(super) fn until(shard: &'a Shard, client: Option<WaitingClient<'a>>, deadline: Tick) -> Self {
        Self { shard, client, deadline, timer: shard.ring.timer(deadline) }
    }

    /// Ready when the wait is over.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<WaitEnd> {
        if self.shard.is_closing() {
            return Poll::Ready(WaitEnd::Ordered(CloseReason::Shutdown));
        }
        let mut end = WaitEnd::TimeUp;
        if let Some(client) = self.client {
            if client.session.killed.get() {
                return Poll::Ready(WaitEnd::Ordered(CloseReason::Killed));
            }
            let state = client.look(context);
            if state == ClientState::Gone {
                return Poll::Ready(WaitEnd::ClientLeft);
            }
            client.end.note(state, self.shard.now());
            let (first, reason) = client.end.first(self.deadline);
            if reason == WaitEnd::ClientLeft {
                self.timer.set(first);
            }
            end = reason;
        }
        self.timer.poll_due(context).map(|()| end)
    }

    /// Makes one connect. Returns how many of the client's bytes the backend has with it.
    async fn connect(
        mut self,
        address: &Address,
        upstream: &Upstream,
        (local, backend): (LocalEnd, BackendId),
        prelude: &Prelude,
    ) -> Result<(Peer, usize), Failed> {
        let socket = net::socket_for(address, &upstream.config().tcp, local);
        let (fd, target) = socket.map_err(|error| self.failed(error, address))?;
        let mut socket = Peer::plain(self.shard.ring.socket(fd));
        socket.end_at_drop(true);
        let tcp = matches!(address, Address::Tcp(_)).then_some(&upstream.config().tcp);
        if tcp.is_some_and(|tcp| !tcp.quick_ack) && self.has_first_bytes(upstream, prelude) {
            socket.with(net::acknowledge_with_first_bytes).map_err(|error| self.failed(error, address))?;
        }
        let sent = match self.first_bytes(upstream, address) {
            None => None,
            Some(bytes) => socket
                .with(|socket| net::connect_with_first_bytes(socket, &target, &bytes))
                .map_err(|error| self.failed(error, address))?,
        };
        match sent {
            None => socket.start_connect(target),
            Some(_) => socket.wait_writable(),
        }
        std::future::poll_fn(|context| self.poll_connect(&socket, sent, address, context)).await?;
        if socket.with(|socket| net::is_self_connected(socket, address)) {
            socket.reset_on_close();
            return Err(Failed::refused(io::ErrorKind::ConnectionRefused.into()));
        }
        let sent = sent.unwrap_or_default();
        if let Some(client) = self.client.filter(|_| sent > 0) {
            client.socket.consume(sent);
        }
        if let Some(settings) = upstream.tls(backend) {
            let (ring, pace) = (&self.shard.ring, (&*self.shard.tls_pace, &Place::default()));
            // It makes the keys of the handshake.
            let begin = || settings.begin(prelude.protocol.as_deref());
            let begin = |context: &mut Context<'_>| net::poll_paced(ring, pace, context, begin);
            let stream = std::future::poll_fn(|context| self.poll_step(context, begin)).await?;
            let stream = stream.map_err(|error| Failed::tls(HandshakeError::Tls(error)))?;
            prelude.header.iter().for_each(|header| socket.send(header.clone()));
            socket.encrypt_backend(stream, Rc::clone(&self.shard.tls_pace));
            let shake_hands =
                |context: &mut Context<'_>| self.poll_step(context, |context| socket.poll_handshake(context));
            std::future::poll_fn(shake_hands).await?.map_err(Failed::tls)?;
        }
        Ok((socket, sent))
    }

    /// Returns whether something goes to the backend as soon as it is connected.
    fn has_first_bytes(&self, upstream: &Upstream, prelude: &Prelude) -> bool {
        let is_encrypted = upstream.config().tls.is_some();
        is_encrypted
            || prelude.header.is_some()
            || self.client.is_some_and(|client| client.socket.received() > 0)
    }

    /// Returns the client's first bytes, if they are in hand and may go out with the first segment. A PROXY header, or TLS,
    /// goes before them.
    fn first_bytes(&self, upstream: &Upstream, address: &Address) -> Option<Vec<u8>> {
        /// More does not fit into a segment.
        const MOST: usize = 1_400;
        let config = upstream.config();
        let is_first = config.send_proxy.is_none() && config.tls.is_none();
        let may = config.tcp.fast_open && is_first && matches!(address, Address::Tcp(_));
        let bytes = self.client.filter(|_| may)?.socket.peek_received(MOST);
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }

    fn poll_connect(
        &mut self,
        socket: &Peer,
        sent: Option<usize>,
        address: &Address,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let connected = |context: &mut Context<'_>| match sent {
            None => socket.poll_connected(context),
            Some(_) => poll_writable(socket, context),
        };
        self.poll_step(context, connected).map(|ended| match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(error, address)),
            Err(failed) => Err(failed),
        })
    }

    /// Polls one step on the way to the backend. Ready also when the wait is over.
    fn poll_step<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Failed>> {
        self.shard
            .ring
            .set_activity(self.client.map_or(Activity::Pool, |client| Activity::Open(client.session.id)));
        if !self.shard.is_closing()
            && let Poll::Ready(done) = step(context)
        {
            return Poll::Ready(Ok(done));
        }
        self.poll(context).map(|end| {
            let failure = match end {
                WaitEnd::Ordered(reason) => Failure::Session(reason),
                WaitEnd::ClientLeft => Failure::Session(CloseReason::ClientLeft),
                WaitEnd::TimeUp => {
                    Failure::TimedOut { is_late: self.shard.now() > self.deadline.after(LATE) }
                }
            };
            Err(Failed { failure, error: io::ErrorKind::TimedOut.into(), lacking: None, is_tls: false })
        })
    }

    /// Decides whose fault an error of socket(2) or connect(2) is.
    fn failed(&self, error: io::Error, address: &Address) -> Failed {
        if let Some(kind) = LocalFailure::of(&error, address) {
            return Failed::lacking(kind, error);
        }
        if self.client.is_some_and(|client| client.end.has_begun()) {
            log::debug!("connection failed and the client has left: {}", Plain(&error));
            return Failed {
                failure: Failure::Session(CloseReason::ClientLeft),
                error,
                lacking: None,
                is_tls: false,
            };
        }
        Failed::refused(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_the_backend_outranks_a_missing_local_address() {
        let refused = || Failed::refused(io::ErrorKind::ConnectionRefused.into());
        let missing = || Failed::lacking(LocalFailure::Addresses, io::ErrorKind::Other.into());
        assert!(matches!(refused().then(missing()).failure, Failure::Refused { at_once: true }));
        assert!(matches!(missing().then(refused()).failure, Failure::Refused { .. }));
        assert!(matches!(missing().then(missing()).failure, Failure::NoLocalAddress));
    }
}
