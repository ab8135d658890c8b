//! One session, from accept to close.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::establish::{Attempts, Established};
use super::{Busy, Shard};
use crate::admission::Permit;
use crate::balance::Sample;
use crate::base::Tick;
use crate::base::{CloseReason, ListenerId, UpstreamId};
use crate::config::Reuse;
use crate::net::{self, Peer};
use crate::relay::{Outcome, Relay, Side, Sides};
use crate::upstream::{Fault, InFlight};
use crate::uring::Receive;

/// Shortest and longest pause between two looks at what a peer has taken.
const DELIVERY_LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Admits a new connection and serves it in a task of its own.
pub(super) fn start(shard: &Rc<Shard>, listener: ListenerId, connection: OwnedFd) {
    let client = Peer::plain(shard.ring.socket(connection));
    match admit(shard, listener, client) {
        Ok(session) => shard.ring.spawn(serve(session)),
        Err(client) => client.reset_on_close(),
    }
}

/// Notes where a client comes from, for the record of its session, while its socket can still tell.
fn note_address(shard: &Shard, client: &Peer) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let Some(peer) = client.with(|socket| socket.peer_addr().ok()) else { return };
    // An IPv4 client of a dual-stack listener is the IPv4 client it is elsewhere.
    let canonical = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let text = peer.as_socket().map_or_else(|| "unix:".to_owned(), |peer| canonical(peer).to_string());
    shard.clients.borrow_mut().insert(client.with(|socket| socket.as_raw_fd()), text);
}

/// Counts a connection, and makes it a session if there is a place for one more.
fn admit(shard: &Rc<Shard>, listener: ListenerId, client: Peer) -> Result<Session, Peer> {
    let counters = shard.counters.listener(listener);
    counters.accepted.add(1);
    let Some(permit) = shard.limit.admit() else {
        counters.denied.add(1);
        return Err(client);
    };
    counters.active.add(1);
    note_address(shard, &client);
    shard.cores.begin_session(shard.id());
    let mut session = Session {
        busy: shard.busy(),
        _permit: permit,
        client,
        tries: None,
        leg: None,
        begun: shard.ring.now(),
        listener,
        reason: CloseReason::Internal,
        returns: None,
    };
    let tries = Attempts::new(shard, session.upstream(), &session.client, session.deadline());
    session.tries = Some(Box::new(tries));
    Ok(session)
}

/// The way of a session, top to bottom.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in each idle session")]
fn serve(mut session: Session) -> impl Future<Output = ()> {
    async move {
        session.reason = loop {
            // Boxed, so that an idle session does not carry the state of its beginning.
            if let Err(reason) = Box::pin(session.establish()).await {
                if reason == CloseReason::BackendReset {
                    session.note_unserved();
                }
                session.client.reset_on_close();
                break reason;
            }
            let outcome = std::future::poll_fn(|context| session.poll(context)).await;
            session.judge(outcome);
            if outcome == Outcome::Reset(Side::Backend) {
                if session.starts_again() {
                    continue;
                }
                session.note_unserved();
            }
            if session.may_return(outcome) {
                break Box::pin(session.return_backend(outcome)).await;
            }
            let cut = session.stop();
            if let Outcome::Reset(side) = outcome {
                // Boxed, as an idle session does not carry the state of its end either.
                Box::pin(session.await_delivery(side)).await;
            }
            session.close(outcome, cut);
            break match outcome {
                Outcome::Stopped => session.order_to_end().unwrap_or(CloseReason::Shutdown),
                Outcome::Reset(side) => session.reset_by(side),
                outcome => close_reason(outcome),
            };
        };
        drop(session);
    }
}

/// Waits until a peer has everything that was sent to it, before its connection is reset: the reset would throw away
/// what the kernel still holds. Ends when the peer takes nothing for `silence`, has gone itself, or at `deadline`.
async fn await_delivery(shard: &Shard, peer: &Peer, silence: Duration, deadline: Tick) {
    let now = || shard.ring.now();
    let mut left = peer.with(net::unacknowledged);
    if left == 0 || peer.is_dead() {
        return;
    }
    let mut limit = now().after(silence).min(deadline);
    let mut pause = DELIVERY_LOOK.0;
    let mut look = shard.ring.timer(now().after(pause));
    std::future::poll_fn(|context| {
        peer.register(context.waker());
        // Nobody will get what it says. A peer that writes before it reads comes to read so, and the receive, or
        // after its FIN the watch, tells when it has gone.
        peer.discard_received();
        peer.receive(Receive::One);
        peer.watch();
        if peer.is_dead() || shard.is_closing() {
            return Poll::Ready(());
        }
        while look.poll_due(context).is_ready() {
            let now_left = peer.with(net::unacknowledged);
            if now_left < left {
                limit = now().after(silence).min(deadline);
            }
            if now_left == 0 || now() >= limit {
                return Poll::Ready(());
            }
            left = now_left;
            pause = (pause * 2).min(DELIVERY_LOOK.1);
            look.set(now().after(pause).min(limit));
        }
        Poll::Pending
    })
    .await;
}

fn close_reason(outcome: Outcome) -> CloseReason {
    match outcome {
        Outcome::Normal | Outcome::ClientDone => CloseReason::Normal,
        Outcome::Reset(Side::Client) => CloseReason::ClientReset,
        Outcome::Reset(Side::Backend) => CloseReason::BackendReset,
        Outcome::Idle(Side::Client) => CloseReason::ClientIdle,
        Outcome::Idle(Side::Backend) => CloseReason::BackendIdle,
        Outcome::HalfClose(Side::Client) => CloseReason::HalfCloseClient,
        Outcome::HalfClose(Side::Backend) => CloseReason::HalfCloseBackend,
        Outcome::TooLong => CloseReason::SessionTimeout,
        Outcome::Stopped => CloseReason::Shutdown,
    }
}

/// A session and its account. Dropping it, whatever ends the task, is the one place that counts its close.
pub(super) struct Session {
    busy: Busy,
    _permit: Permit,
    pub(super) client: Peer,
    /// There until a byte was relayed: from then on no other backend can take the place of this one.
    pub(super) tries: Option<Box<Attempts>>,
    /// There once a backend has taken the connection.
    pub(super) leg: Option<Leg>,
    begun: Tick,
    pub(super) listener: ListenerId,
    /// Internal until the session says otherwise: so a panic is counted as what it is.
    reason: CloseReason,
    /// The backend's connection goes to the pool; whether it has carried no byte.
    pub(super) returns: Option<bool>,
}

/// The backend's part of a session.
pub(super) struct Leg {
    pub(super) backend: Peer,
    pub(super) in_flight: InFlight,
    pub(super) relay: Relay,
}

impl Session {
    pub(super) fn shard(&self) -> &Rc<Shard> {
        &self.busy.0
    }

    pub(super) fn upstream(&self) -> UpstreamId {
        self.shard().config.listeners[self.listener.index()].upstream
    }

    /// When the session has to end.
    fn deadline(&self) -> Tick {
        let limit = self.shard().config.listeners[self.listener.index()].timeouts.session;
        limit.map_or(Tick::NEVER, |limit| self.begun.after(limit))
    }

    /// Why it has to end now, if someone says so.
    fn order_to_end(&self) -> Option<CloseReason> {
        if self.shard().is_closing() {
            return Some(CloseReason::Shutdown);
        }
        self.leg.as_ref().and_then(|leg| leg.in_flight.cut(|| leg.backend.with(net::peer_address)))
    }

    /// Finds a backend that takes a connection.
    async fn establish(&mut self) -> Result<(), CloseReason> {
        let (shard, deadline) = (Rc::clone(self.shard()), self.deadline());
        let tries = self.tries.as_mut().ok_or(CloseReason::Internal)?;
        let Established { backend, in_flight } = tries.establish(&shard, &self.client).await?;
        let rules = &shard.relay_rules[self.listener.index()];
        let sides = Sides { client: &self.client, backend: &backend, rules, reuse: Reuse::Off };
        let relay = Relay::new(sides, deadline);
        self.leg = Some(Leg { backend, in_flight, relay });
        Ok(())
    }

    /// Relays, and counts what was delivered.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        if self.order_to_end().is_some() {
            return Poll::Ready(Outcome::Stopped);
        }
        let Self { busy: Busy(shard), client, tries, leg: Some(leg), listener, .. } = self else {
            return Poll::Ready(Outcome::Stopped);
        };
        let relay = &mut leg.relay;
        let rules = &shard.relay_rules[listener.index()];
        let upstream = shard.config.listeners[listener.index()].upstream;
        let reuse = shard.reuse(upstream, leg.in_flight.backend());
        let sides = Sides { client, backend: &leg.backend, rules, reuse };
        if tries.as_ref().is_some_and(|tries| tries.is_stale(relay, sides.backend)) {
            return Poll::Ready(Outcome::Reset(Side::Backend));
        }
        let before = (relay.bytes_to_backend(), relay.bytes_to_client());
        let polled = relay.poll(sides, context);
        let to_backend = relay.bytes_to_backend() - before.0;
        let to_client = relay.bytes_to_client() - before.1;
        if before.1 == 0 && to_client > 0 {
            leg.in_flight.succeeded();
        }
        shard.account(*listener, leg.in_flight.backend(), to_backend, to_client);
        tries.take_if(|tries| tries.note_progress(shard, relay, sides));
        if let Some(tries) = tries {
            if reuse != Reuse::Untouched || polled.is_ready() || !relay.keeps_end(sides) {
                tries.does_not_linger();
            } else if tries.gives_way(shard, &leg.in_flight, context) {
                return Poll::Ready(Outcome::ClientDone);
            }
        }
        polled
    }

    /// Notes what the end of a relay says of the backend; its first byte said that it is well. An end without an answer is
    /// none of a backend that is well, but a client may have asked for it: so it ejects only where the operator wants that. A
    /// reset after bytes went to it says nothing: it may be what they deserved, and no client shall be able to have a backend
    /// ejected. Nor does anything that comes after the client's own end, if that came before a byte, nor the end of a
    /// connection that was in the pool.
    fn judge(&self, outcome: Outcome) {
        let Some(Leg { backend, in_flight, relay }) = &self.leg else { return };
        let rules = &self.shard().relay_rules[self.listener.index()];
        let sides = Sides { client: &self.client, backend, rules, reuse: Reuse::Off };
        let fault = if outcome != Outcome::Reset(Side::Backend) {
            relay.is_empty_answer().then_some(Fault::EmptyAnswer)
        } else if relay.is_untouched(sides)
            && self.client.ended().is_none()
            && !self.tries.as_ref().is_some_and(|tries| tries.is_pooled())
        {
            Some(Fault::Failure)
        } else {
            None
        };
        if let Some(fault) = fault {
            in_flight.failed(fault);
        }
        // What ejects nobody may still say where others do better.
        let is_unanswered = outcome == Outcome::Reset(Side::Backend) && relay.bytes_to_client() == 0;
        if fault.is_some() || is_unanswered {
            let (shard, table) = (self.shard(), &self.shard().upstreams[self.upstream().index()]);
            let now = shard.ring.now();
            in_flight.was_in_vain(now.0);
            // What it was not asked tells nothing of its speed.
            if let Some(waited) = self.tries.as_ref().and_then(|tries| tries.waited()) {
                table.observe(in_flight.backend(), Sample::InVain(waited), now.0);
            }
        }
    }

    /// Counts a client that a backend reset before a byte, which is turned away for want of another one.
    fn note_unserved(&self) {
        let unserved = self.leg.as_ref().is_none_or(|leg| !leg.relay.has_delivered());
        self.shard().counters.listener(self.listener).reset_unserved.add(u64::from(unserved));
    }

    /// Whether another backend is to be tried, which is so as long as none can tell that there was one before it.
    fn starts_again(&mut self) -> bool {
        let Self { busy: Busy(shard), client, tries: Some(tries), leg: Some(leg), listener, .. } = self
        else {
            return false;
        };
        if tries.is_pooled() && leg.relay.has_sent_nothing() {
            if let Some(Leg { backend, in_flight, .. }) = self.leg.take() {
                if in_flight.is_limited() {
                    // The backend learns of the end before another connection can have its place.
                    backend.end_now();
                }
                tries.replace(shard, in_flight);
            }
            return true;
        }
        let rules = &shard.relay_rules[listener.index()];
        let sides = Sides { client, backend: &leg.backend, rules, reuse: Reuse::Off };
        let again = leg.relay.is_untouched(sides) && tries.may_retry(shard);
        if again {
            tries.failed(CloseReason::BackendReset);
            self.leg = None;
        }
        again
    }

    /// Relays no more. Whether bytes were received that were not delivered.
    pub(super) fn stop(&mut self) -> bool {
        let Self { busy: Busy(shard), client, leg: Some(leg), listener, .. } = self else { return false };
        let rules = &shard.relay_rules[listener.index()];
        let sides = Sides { client, backend: &leg.backend, rules, reuse: Reuse::Off };
        let cut = leg.relay.holds_bytes(sides);
        leg.relay.stop(sides);
        cut
    }

    /// What the end of a side's connection counts as: a peer that has vanished has not reset it.
    pub(super) fn reset_by(&self, side: Side) -> CloseReason {
        let socket = match (side, &self.leg) {
            (Side::Backend, Some(leg)) => &leg.backend,
            _ => &self.client,
        };
        match side {
            Side::Client if socket.died_silent() => CloseReason::ClientDead,
            Side::Backend if socket.died_silent() => CloseReason::BackendDead,
            side => close_reason(Outcome::Reset(side)),
        }
    }

    /// After a reset of one side, waits until the other one has everything that was sent to it.
    async fn await_delivery(&self, reset: Side) {
        let Some(leg) = &self.leg else { return };
        let both = [&self.client, &leg.backend];
        // Nothing is relayed any more, and this may take long.
        both.into_iter().for_each(Peer::drop_unsent);
        both.into_iter().for_each(Peer::discard_received);
        let other = if reset == Side::Client { &leg.backend } else { &self.client };
        let silence = self.shard().relay_rules[self.listener.index()].half_close;
        await_delivery(self.shard(), other, silence, self.deadline()).await;
    }

    /// Chooses FIN or RST for each side. A stream that is cut must not look like one that has ended.
    fn close(&self, outcome: Outcome, cut: bool) {
        let reset = match outcome {
            Outcome::Normal | Outcome::ClientDone => false,
            Outcome::Reset(_) | Outcome::TooLong | Outcome::Stopped => true,
            Outcome::Idle(_) | Outcome::HalfClose(_) => cut,
        };
        if reset {
            self.client.reset_on_close();
            self.leg.iter().for_each(|leg| leg.backend.reset_on_close());
        }
    }

    fn log_close(&self) {
        let shard = self.shard();
        let listener = &shard.config.listeners[self.listener.index()];
        let upstream = &shard.config.upstreams[listener.upstream.index()];
        let client = shard.clients.borrow_mut().remove(&self.client.with(|socket| socket.as_raw_fd()));
        let (backend, to_backend, to_client) = match &self.leg {
            Some(Leg { in_flight, relay, .. }) => {
                let name = upstream.backends[in_flight.backend().index()].name.as_str();
                (name, relay.bytes_to_backend(), relay.bytes_to_client())
            }
            None => ("-", 0, 0),
        };
        let (reason, letters, listener) = (self.reason.name(), self.reason.letters(), &*listener.name);
        let client = client.as_deref().unwrap_or("-");
        let seconds = shard.ring.now().since(self.begun).as_secs_f64();
        log::debug!(event = "session_closed", reason, letters, client, listener, upstream = &*upstream.name, backend,
            seconds, to_backend, to_client;
            "session closed: {reason} ({letters}) client={client} listener={listener} backend={backend} \
             seconds={seconds:.3} to_backend={to_backend} to_client={to_client}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if log::log_enabled!(log::Level::Debug) {
            self.log_close();
        }
        // Before the session counts as closed, so that what is in flight is never more than what is active.
        if let Some(Leg { backend: socket, in_flight, .. }) = self.leg.take() {
            // They note what the pool has leased.
            self.tries = None;
            self.shard().end_of_leg(self.upstream(), in_flight, socket, self.returns);
        }
        let counters = self.shard().counters.listener(self.listener);
        counters.active.subtract(1);
        self.shard().cores.end_session(self.shard().id());
        counters.closed[self.reason.index()].add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::testing;
    use super::*;
    use crate::telemetry::counters::ListenerTotals;
    use crate::uring::{BufferSettings, Ring};

    fn future_bytes<F: Future>(_: impl FnOnce(Session) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn session_that_panics_is_counted_as_internal_and_gives_everything_back() {
        let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
            .io_memory(64 << 10)
            .ring_depth(8)
            .make()
            .expect("glommio runs here");
        executor.run(async {
            let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
            let shard = Rc::new(Shard::new(&ring, &testing::parts(1, Vec::new()).0));
            for first_poll in [true, false] {
                let client = UnixStream::pair().expect("descriptors").0.into();
                let client = Peer::plain(ring.socket(client));
                let session = admit(&shard, ListenerId(0), client).ok().expect("below the limit");
                let timer = ring.clone();
                ring.spawn(async move {
                    let _session = session;
                    if !first_poll {
                        timer.next_turn().await;
                    }
                    panic!("wanted by the test");
                });
            }
            ring.drive().await;
            let mut totals = ListenerTotals::default();
            totals.add(shard.counters.listener(ListenerId(0)));
            assert_eq!((totals.closed_with(CloseReason::Internal), ring.panics()), (2, 2));
            assert_eq!((totals.active, shard.limit.taken(), shard.busy.get()), (0, 0, 0));
        });
    }

    #[test]
    fn idle_session_is_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 232, "the future of a session takes {bytes} bytes");
    }
}
