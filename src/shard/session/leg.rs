//! The backend's side of a session: a connection, the relay over it, and what happens to both at the end.

use std::task::{Context, Poll};

use super::delivery;
use super::open::{Opening, Origin};
use super::record::Record;
use super::reset::{self, ResetAnswer};
use crate::balance::Sample;
use crate::base::{Activity, CloseReason, ConnectFailure, SessionPhase};
use crate::config::Reuse;
use crate::net::{self, Peer};
use crate::relay::{Outcome, Relay, Side, Sides};
use crate::upstream::{Fault, InFlight};

/// A connection to a backend in a session.
///
/// Dropping a leg ends the connection, and then gives the permit back: fields are dropped in their order.
pub(super) struct Leg {
    relay: Relay,
    socket: Peer,
    in_flight: InFlight,
    /// Present until a byte was relayed.
    opening: Option<Box<Opening>>,
}

/// How a leg ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The relay has ended.
    Relay(Outcome),
    /// The session has to end for this reason, whatever the relay does.
    Ordered(CloseReason),
    /// The connection came from the pool and is stale: no byte of this session went over it.
    Stale,
}

/// What follows the end of a leg.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A new connection to the same backend takes the place of a pooled one that was stale.
    Replace,
    /// Another backend takes the place of this one, which is possible as long as no peer can tell.
    Retry,
    /// The connection may serve another client.
    GiveBack,
    /// Both connections end.
    Close,
}

impl Leg {
    pub(super) fn new(record: &Record, socket: Peer, in_flight: InFlight, opening: Box<Opening>) -> Self {
        socket.begin_session();
        // The backend has to learn of the end before another session can have the permit.
        socket.end_at_drop(in_flight.is_limited());
        let mut relay = Relay::new(sides(record, &socket, Reuse::Off), record.deadline());
        // With TLS, the header went before the handshake.
        if opening.origin == Origin::New
            && !socket.is_encrypted()
            && let Some(header) = record.announcement()
        {
            relay.begin_with(sides(record, &socket, Reuse::Off), header);
        }
        let sent = opening.sent;
        relay.has_sent(sent);
        let leg = Self { relay, socket, in_flight, opening: Some(opening) };
        if sent > 0 {
            leg.account(record, sent as u64, 0);
        }
        leg
    }

    /// Returns why the session is ordered to end now, if it is.
    fn order_to_end(&self, record: &Record) -> Option<CloseReason> {
        if let Some(reason) = record.must_end() {
            return Some(reason);
        }
        self.in_flight.forced_close(|| self.socket.with(net::peer_address))
    }

    /// Relays, and counts what was delivered.
    pub(super) fn poll(&mut self, record: &Record, context: &mut Context<'_>) -> Poll<Ending> {
        record.shard().ring.set_activity(Activity::Relay(record.session.id));
        if let Some(reason) = self.order_to_end(record) {
            return Poll::Ready(Ending::Ordered(reason));
        }
        if self.is_stale() {
            return Poll::Ready(Ending::Stale);
        }
        let reuse = record.upstream().reuse(self.in_flight.backend());
        let before = (self.relay.bytes_to_backend(), self.relay.bytes_to_client());
        let polled = self.relay.poll(sides(record, &self.socket, reuse), context);
        let to_backend = self.relay.bytes_to_backend() - before.0;
        let to_client = self.relay.bytes_to_client() - before.1;
        if before.1 == 0 && to_client > 0 {
            self.in_flight.succeeded();
        }
        self.account(record, to_backend, to_client);
        self.note_progress(record);
        if self.opening.is_some() && self.gives_way(record, reuse, polled.is_ready(), context) {
            return Poll::Ready(Ending::Relay(Outcome::ClientDone));
        }
        polled.map(Ending::Relay)
    }

    fn account(&self, record: &Record, to_backend: u64, to_client: u64) {
        let delivered = self.relay.delivered();
        record.session.to_backend.set(delivered.0);
        record.session.to_client.set(delivered.1);
        record.account(self.in_flight.backend(), to_backend, to_client);
    }

    /// Returns whether a pooled connection is stale. Either it has ended, which on a new connection would be
    /// the backend's answer; or it has served another client, and the backend's bytes, sent before it was
    /// asked anything, can only be meant for that client.
    fn is_stale(&self) -> bool {
        let Some(opening) = self.opening.as_ref().filter(|opening| opening.origin != Origin::New) else {
            return false;
        };
        let has_spoken = self.socket.received() > 0;
        let is_late_answer = opening.origin == Origin::Used && has_spoken;
        self.relay.has_sent_nothing() && (is_late_answer || !has_spoken && self.socket.ended().is_some())
    }

    /// Tells the algorithm, if it wants to know, how long the backend took for its first byte; and frees what
    /// a session no longer needs once it has begun.
    fn note_progress(&mut self, record: &Record) {
        let Some(opening) = &mut self.opening else { return };
        let has_begun = self.relay.has_begun(sides(record, &self.socket, Reuse::Off));
        if has_begun {
            (opening.lease, opening.lingering) = (None, None);
            self.in_flight.set_lingering(false);
        }
        let is_over = match &mut opening.awaited {
            None => has_begun,
            Some(awaited) if self.relay.bytes_to_client() > 0 => {
                let (backend, sample) = (self.in_flight.backend(), awaited.answered());
                record.upstream().table.observe(backend, sample, record.shard().now());
                true
            }
            Some(awaited) => {
                if self.relay.bytes_to_backend() > 0 {
                    awaited.ask();
                }
                false
            }
        };
        if is_over {
            self.opening = None;
        }
    }

    /// Returns whether a session that only waits for further bytes of its backend, because its client has
    /// ended its stream without a byte, ends because another client waits for its permit. The session's task
    /// is woken when another client begins to wait.
    fn gives_way(&mut self, record: &Record, reuse: Reuse, is_over: bool, context: &Context<'_>) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        let sides = sides(record, &self.socket, reuse);
        let lingers = reuse == Reuse::Untouched
            && !is_over
            && self.in_flight.is_limited()
            && self.relay.keeps_end(sides);
        let Some(pool) = record.upstream().pool.as_ref().filter(|_| lingers) else {
            opening.lingering = None;
            self.in_flight.set_lingering(false);
            return false;
        };
        let backend = self.in_flight.backend();
        // Noted first: either the shard that looks for waiting clients then, or the client that begins to
        // wait and looks for permits, sees the other.
        self.in_flight.set_lingering(true);
        opening.lingering.get_or_insert_with(|| pool.note_lingering(backend)).wake(context.waker());
        record.upstream().table.is_waited_for(backend)
    }

    /// Notes what the end of the relay says about the backend, and decides what follows.
    pub(super) fn judge(&self, record: &Record, ending: Ending) -> Next {
        record.shard().ring.set_activity(Activity::End(record.session.id));
        if ending == Ending::Stale {
            return Next::Replace;
        }
        let is_reset = ending == Ending::Relay(Outcome::Reset(Side::Backend));
        self.blame(record, is_reset);
        if is_reset {
            self.note_tls_failure(record);
            if let Some(opening) = &self.opening {
                if opening.origin != Origin::New && self.relay.has_sent_nothing() {
                    return Next::Replace;
                }
                if self.relay.is_untouched(sides(record, &self.socket, Reuse::Off))
                    && opening.attempts.may_retry()
                {
                    return Next::Retry;
                }
            }
            if !self.relay.has_delivered() {
                record.note_unserved();
            }
        }
        let may_return = match ending {
            Ending::Relay(Outcome::ClientDone) => true,
            // The backend knows nothing of a client that has reset before a byte.
            Ending::Relay(Outcome::Reset(Side::Client)) => {
                record.upstream().reuse(self.in_flight.backend()) != Reuse::Off
                    && self.relay.has_sent_nothing()
                    && !self.socket.is_dead()
            }
            _ => false,
        };
        if may_return { Next::GiveBack } else { Next::Close }
    }

    /// Tells of a backend whose TLS has failed after the handshake, as when it refuses our certificate.
    fn note_tls_failure(&self, record: &Record) {
        if let Some(error) = self.socket.tls_error() {
            let (upstream, backend) = (record.upstream(), self.in_flight.backend());
            upstream.counters(backend).connect_failures[ConnectFailure::Tls.index()].add(1);
            upstream.warn_of_tls(backend, &error);
        }
    }

    /// Feeds the outcome to outlier detection; the first byte from the backend has already proved that it
    /// works.
    ///
    /// A reset counts as a failure only on a new connection, before any byte and before the client's FIN;
    /// otherwise a client could get a backend ejected. A client can also provoke an end without an answer, so
    /// that counts only if the operator wants it.
    fn blame(&self, record: &Record, is_reset: bool) {
        let is_pooled = self.opening.as_ref().is_some_and(|opening| opening.origin != Origin::New);
        let fault = if !is_reset {
            self.relay.is_empty_answer().then_some(Fault::EmptyAnswer)
        } else if self.relay.is_untouched(sides(record, &self.socket, Reuse::Off))
            && record.client.ended().is_none()
            && !is_pooled
        {
            Some(Fault::Failure)
        } else {
            None
        };
        if let Some(fault) = fault {
            self.in_flight.failed(fault);
        }
        // A fault that ejects no backend may still mean that other backends do better.
        if fault.is_some() || is_reset && self.relay.bytes_to_client() == 0 {
            let now = record.shard().now();
            self.in_flight.unanswered(now);
            // A backend that was not asked anything has not shown its speed.
            let awaited = self.opening.as_ref().and_then(|opening| opening.awaited.as_ref());
            if let Some(waited) = awaited.and_then(|awaited| awaited.unanswered()) {
                record.upstream().table.observe(self.in_flight.backend(), Sample::InVain(waited), now);
            }
        }
    }

    /// Ends the leg and returns what the attempts go on with: with a new connection to the same backend, which gets
    /// its full time, or with another backend.
    pub(super) fn into_opening(self, record: &Record, is_replaced: bool) -> Box<Opening> {
        let Self { socket, in_flight, opening, .. } = self;
        let mut opening = opening.expect("a leg without a byte has its opening");
        drop(socket);
        if is_replaced {
            record.upstream().pool.iter().for_each(|pool| pool.counters().replaced.add(1));
            opening.attempts.restart(record.shard().now());
            in_flight.set_lingering(false);
            opening.stale = Some(in_flight);
        } else {
            opening.attempts.reset_before_a_byte();
        }
        opening
    }

    /// Stops relaying. Returns whether bytes were received that were not delivered.
    pub(super) fn stop(&mut self, record: &Record) -> bool {
        let sides = sides(record, &self.socket, Reuse::Off);
        let holds_bytes = self.relay.holds_bytes(sides);
        self.relay.stop(sides);
        holds_bytes
    }

    /// After a reset of one side, waits until the other side has everything that was sent to it.
    pub(super) async fn await_delivery(&self, record: &Record, reset: Side) {
        let both = [&record.client, &self.socket];
        // Nothing is relayed any more, and this may take long.
        both.into_iter().for_each(Peer::drop_unsent);
        both.into_iter().for_each(Peer::discard_received);
        let other = if reset == Side::Client { &self.socket } else { &record.client };
        let silence = record.rules().half_close;
        record.session.phase.set(SessionPhase::Ending);
        delivery::await_delivery(record, other, silence).await;
    }

    /// Closes both sides with FIN or both with RST, and ends the record. A truncated stream must not look complete.
    pub(super) fn close(&self, record: &mut Record, ending: Ending, is_truncated: bool) {
        use Outcome::{ClientDone, HalfClose, Idle, Normal, Reset, TooLong};
        let (resets, reason) = match ending {
            Ending::Relay(Normal | ClientDone) => (false, CloseReason::Normal),
            Ending::Relay(Reset(side)) => (true, record.reset_by(side, &self.socket)),
            Ending::Relay(Idle(Side::Client)) => (is_truncated, CloseReason::ClientIdle),
            Ending::Relay(Idle(Side::Backend)) => (is_truncated, CloseReason::BackendIdle),
            Ending::Relay(HalfClose(Side::Client)) => (is_truncated, CloseReason::HalfCloseClient),
            Ending::Relay(HalfClose(Side::Backend)) => (is_truncated, CloseReason::HalfCloseBackend),
            Ending::Relay(TooLong) => (true, CloseReason::SessionTimeout),
            Ending::Ordered(reason) => (true, reason),
            Ending::Stale => unreachable!("a stale connection is replaced"),
        };
        if resets {
            record.client.reset_on_close();
            self.socket.reset_on_close();
        }
        record.end(reason);
        record.log_with_backend(self.in_flight.backend(), &self.socket, false);
    }

    /// Ends the client's side, and puts the backend connection into the pool if it is clean.
    pub(super) async fn give_back(mut self, record: &mut Record, ending: Ending) {
        self.stop(record);
        let (is_clean, reason) = self.clean(record, ending).await;
        record.end(reason);
        record.log_with_backend(self.in_flight.backend(), &self.socket, is_clean);
        let Self { socket, in_flight, opening, .. } = self;
        let is_fresh = opening.as_ref().is_none_or(|opening| opening.origin != Origin::Used);
        let is_fresh = is_fresh && self.relay.has_sent_nothing();
        // It holds the note that the connection is leased from the pool.
        drop(opening);
        if is_clean {
            return record.upstream().give_back(in_flight.into_permit(), socket, is_fresh);
        }
        // Dropped before its permit.
        drop(socket);
    }

    /// Has the backend forget the client, if the backend has heard of one. Returns whether the connection is
    /// clean, and why the session ends.
    async fn clean(&self, record: &Record, ending: Ending) -> (bool, CloseReason) {
        if self.relay.has_sent_nothing() {
            if ending == Ending::Relay(Outcome::ClientDone) {
                return (true, CloseReason::Normal);
            }
            record.client.reset_on_close();
            return (true, record.reset_by(Side::Client, &self.socket));
        }
        let Some(rules) = &record.upstream().config().pool.reset else { return (false, CloseReason::Normal) };
        let answer = reset::ask(record, &self.socket, rules).await;
        if answer == ResetAnswer::Clean {
            return (true, CloseReason::Normal);
        }
        record.upstream().pool.iter().for_each(|pool| pool.counters().reset_failed.add(1));
        if record.session.killed.get() {
            return (false, CloseReason::Killed);
        }
        if answer == ResetAnswer::None {
            return (false, CloseReason::Normal);
        }
        // These bytes were meant for the client. A truncated stream must not look complete.
        record.client.reset_on_close();
        (false, CloseReason::AnswerCut)
    }
}

fn sides<'a>(record: &'a Record, backend: &'a Peer, reuse: Reuse) -> Sides<'a> {
    Sides { client: &record.client, backend, rules: record.rules(), reuse }
}
