//! Moves the bytes of one session both ways until it ends.
//!
//! A direction goes from one side to the other. The two directions run independently (full duplex) and share
//! only what is known of a side: a reset that any call has seen stays known, because a later call on the same
//! socket reports a clean end (the first call consumes the error, tcp(7)).
//!
//! ## How a session ends
//!
//! `open`: bytes may still come. `finished`: the source sent FIN, everything was delivered, and FIN was
//! passed on. `aborted`: the source was reset, and everything it sent before was delivered. `broken`: the
//! destination takes no more bytes.
//!
//! | to backend | to client | outcome |
//! |------------|-----------|---------|
//! | open       | open      | goes on |
//! | finished   | open      | goes on, `half_close` is measured on the backend |
//! | open       | finished  | goes on, `half_close` is measured on the client |
//! | finished   | finished  | normal, once both sides with TLS were told; `half_close` limits that |
//! | aborted    | any       | client reset: the backend is reset |
//! | any        | aborted   | backend reset: the client is reset |
//! | broken     | open      | goes on: the backend's last bytes come first, unless the client is dead |
//! | broken     | finished  | backend reset |
//! | open       | broken    | goes on: the client's last bytes come first, unless the backend is dead |
//! | finished   | broken    | client reset |
//! | broken     | broken    | reset by the side that was seen first |
//!
//! With a broken direction, a clean end of the other direction counts as aborted. What still comes from the
//! source of the broken direction is discarded. If that source dies, which only the receive for this may
//! notice, the session ends. What remains to be delivered after a reset has `half_close` to move on. A side
//! that has ended its stream and then dies, which only a watch can notice, counts as having reset the
//! session.
//!
//! Bytes received = bytes sent + bytes held, for each direction; the two `Peer`s hold them.

mod budget;
mod copy;
mod direction;
mod pipe;
mod side;
mod splicing;
mod throttle;
mod turn;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::Tick;
use crate::config::{Bandwidth, EqualIdle, Keepalive, Reuse};
use crate::net::{self, Peer};
use crate::uring::{Peeked, Timer};
use direction::{Direction, Flow};
pub use pipe::{Moved, Pipes};
pub use side::Side;

/// Sessions that end sooner get no keepalive. Not longer than the shortest keepalive, which is one second.
const YOUTH: Duration = Duration::from_millis(500);

/// Number of looks within the limit on silence: a silent relay checks whether a peer still takes what the
/// kernel holds.
const LOOKS: u32 = 4;

/// How long a backend may still speak to a client that has ended its stream without a byte, before the
/// session's backend connection counts as unused.
const READER_GRACE: Duration = Duration::from_secs(1);

/// The rules shared by the relays of a listener.
#[derive(Clone)]
pub struct RelayRules {
    /// Longest time in which no byte moves on the client's socket.
    pub client_idle: Option<Duration>,
    /// Longest time in which no byte moves on the backend's socket.
    pub backend_idle: Option<Duration>,
    /// Which of the two counts if both limits are equal.
    pub equal_idle: EqualIdle,
    /// Longest silence once one side has ended its stream.
    pub half_close: Duration,
    /// When the kernel probes the client.
    pub client_keepalive: Option<Keepalive>,
    /// When the kernel probes the backend.
    pub backend_keepalive: Option<Keepalive>,
    /// How many bytes each direction may move.
    pub bandwidth: Bandwidth,
    /// Pipes for splicing; none if splicing is off.
    pub pipes: Option<Rc<Pipes>>,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides ended their streams, and everything was delivered.
    Normal,
    /// A side reset its connection.
    Reset(Side),
    /// No byte moved on the socket of a side for too long.
    Idle(Side),
    /// The other side had ended its stream, and this one was silent for too long.
    HalfClose(Side),
    /// The session reached its maximum duration.
    TooLong,
    /// The client ended its stream, everything was delivered, and the backend's connection, which knows
    /// nothing of the end, may serve other clients.
    ClientDone,
}

/// The sockets and rules that a relay works on, lent by the session for each call; storing them in the relay
/// would give every idle session a second copy.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// The peer that connected to us.
    pub client: &'a Peer,
    /// The peer that we connected to.
    pub backend: &'a Peer,
    /// The rules of the listener.
    pub rules: &'a RelayRules,
    /// When the backend's connection outlives the session, if the session ended now.
    pub reuse: Reuse,
}

/// A running relay between two sockets, which never change.
pub struct Relay {
    to_backend: Direction,
    to_client: Direction,
    /// When a byte last moved.
    moved: Tick,
    /// How much the kernel held for both sides at the last look since then.
    queued: u32,
    /// Whether keepalive still has to be set on both sockets.
    young: bool,
    /// The side whose reset was seen first.
    reset: Option<Side>,
    /// The side whose stream ended first, if one has.
    first_end: Option<Side>,
    /// The time at which the session ends at the latest.
    session_deadline: Tick,
    /// One timer for every reason to act without an event, set for the earliest of them:
    ///
    /// * youth: the session has become old enough for keepalive ([`Relay::end_youth`]);
    /// * the deadline of the session ([`Relay::is_too_long`]);
    /// * a look at what the kernel still holds for a slow reader ([`Relay::look`]);
    /// * silence: no byte has moved for too long ([`Relay::is_silent`]).
    timer: Timer,
}

/// How long no byte may move, and the outcome if none does.
struct Silence {
    limit: Duration,
    outcome: Outcome,
}

impl Relay {
    /// Creates a relay that begins now and ends at `session_deadline` at the latest.
    #[must_use]
    pub fn new(sides: Sides<'_>, session_deadline: Tick) -> Self {
        let (now, bandwidth) = (sides.now(), sides.rules.bandwidth);
        let mut relay = Self {
            to_backend: Direction::new(Side::Backend, bandwidth.to_backend),
            to_client: Direction::new(Side::Client, bandwidth.to_client),
            moved: now,
            queued: 0,
            young: true,
            reset: None,
            first_end: None,
            session_deadline,
            timer: sides.client.ring().timer(now),
        };
        relay.set_timer(sides, now.after(YOUTH));
        relay
    }

    /// Sends the backend a header of our own before the client's bytes, and in one piece with those that have come. It
    /// counts as no byte of the session: the relay looks past it.
    pub fn begin_with(&mut self, sides: Sides<'_>, header: Vec<u8>) {
        self.to_backend.begin_with(header, sides.client, sides.backend);
    }

    /// Notes that the backend has got so many of the client's bytes with the connect.
    pub fn has_sent(&mut self, bytes: usize) {
        self.to_backend.has_sent(bytes);
    }

    /// Returns the number of bytes that were handed to the kernel for the backend so far; it never falls.
    #[must_use]
    pub fn bytes_to_backend(&self) -> u64 {
        self.to_backend.bytes
    }

    /// Returns the number of bytes that were handed to the kernel for the client so far; it never falls.
    #[must_use]
    pub fn bytes_to_client(&self) -> u64 {
        self.to_client.bytes
    }

    /// Returns the numbers of bytes that backend and client have taken, as far as is known.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        (self.to_backend.delivered(), self.to_client.delivered())
    }

    /// Returns whether another backend could still replace this one: no byte was written to the backend, and
    /// neither a byte nor its end came from it.
    #[must_use]
    pub fn is_untouched(&self, sides: Sides<'_>) -> bool {
        !self.has_begun(sides) && !self.to_backend.is_sending()
    }

    /// Returns whether a byte was delivered, a byte came from the backend, or its end was passed on to the
    /// client: then no other backend can replace this one.
    #[must_use]
    pub fn has_begun(&self, sides: Sides<'_>) -> bool {
        self.to_backend.bytes > 0
            || self.to_client.bytes > 0
            || sides.backend.received() > 0
            || self.to_client.is_sending()
            || self.to_client.flow == Flow::Finished
    }

    /// Returns whether a byte was delivered, to either side.
    #[must_use]
    pub fn has_delivered(&self) -> bool {
        self.to_backend.bytes > 0 || self.to_client.bytes > 0
    }

    /// Returns whether the backend took bytes of the client and ended its stream before the client did,
    /// without sending a byte.
    #[must_use]
    pub fn is_empty_answer(&self) -> bool {
        self.to_backend.bytes > 0 && self.to_client.bytes == 0 && self.first_end == Some(Side::Backend)
    }

    /// Returns whether no byte was sent to either side, and no end to the client.
    #[must_use]
    pub fn has_sent_nothing(&self) -> bool {
        let sends = |direction: &Direction| direction.bytes > 0 || direction.is_sending();
        !sends(&self.to_backend) && !sends(&self.to_client) && self.to_client.flow != Flow::Finished
    }

    /// Returns whether bytes were received that were not delivered.
    #[must_use]
    pub fn holds_bytes(&self, sides: Sides<'_>) -> bool {
        sides.client.holds_bytes()
            || sides.backend.holds_bytes()
            || self.to_backend.is_sending()
            || self.to_client.is_sending()
    }

    /// Discards what is still on its way through the relay. Nothing is relayed any more.
    pub fn stop(&mut self, sides: Sides<'_>) {
        self.to_backend.leave_splicing(sides.client);
        self.to_client.leave_splicing(sides.backend);
        self.timer.set(Tick::NEVER);
    }

    /// Moves what can be moved. Ready when the session has ended.
    pub fn poll(&mut self, sides: Sides<'_>, context: &mut Context<'_>) -> Poll<Outcome> {
        sides.client.register(context.waker());
        sides.backend.register(context.waker());
        let before = self.stage();
        self.advance(sides);
        if let Some(outcome) = self.outcome(sides) {
            return Poll::Ready(outcome);
        }
        if sides.reuse == Reuse::Reset && self.keeps_end(sides) && self.has_delivered_all_to_client(sides) {
            return Poll::Ready(Outcome::ClientDone);
        }
        if self.stage() != before {
            // The silence that counts from now on is a different one, and mostly shorter. A timer that may be
            // set for the end of youth must not be postponed.
            let youth = if self.young { self.timer.deadline() } else { Tick::NEVER };
            self.set_timer(sides, youth);
        }
        self.poll_timer(sides, context)
    }

    fn advance(&mut self, sides: Sides<'_>) {
        let Sides { client, backend, rules, .. } = sides;
        let pipes = rules.pipes.as_ref();
        self.to_backend.advance(client, backend, pipes, true);
        // Once the client has ended its stream, the session may end when the last answer has gone out.
        self.to_client.advance(backend, client, pipes, self.to_backend.flow == Flow::Open);
        if self.to_backend.flow == Flow::Finished && self.to_client.flow == Flow::Finished {
            // Closing both sockets passes the ends on, but for those of TLS.
            self.to_backend.tell_end(backend);
            self.to_client.tell_end(client);
        } else {
            if !self.keeps_end(sides) {
                self.to_backend.pass_on_end(client, backend);
            }
            self.to_client.pass_on_end(backend, client);
        }
        let in_part = client.take_moved() | backend.take_moved();
        if std::mem::take(&mut self.to_backend.moved) | std::mem::take(&mut self.to_client.moved) | in_part {
            self.moved = sides.now();
            self.queued = 0;
        }
        if self.first_end.is_none() {
            self.first_end = match (self.to_backend.flow, self.to_client.flow) {
                // If both ended since the last look, nothing is held against the backend.
                (Flow::Finished, _) => Some(Side::Client),
                (_, Flow::Finished) => Some(Side::Backend),
                _ => None,
            };
        }
        // Noticed by a receive, by a send, or by the watch that replaces the receive after FIN.
        if self.to_backend.flow == Flow::Aborted || self.to_client.flow == Flow::Broken || client.is_dead() {
            self.reset.get_or_insert(Side::Client);
        }
        if self.to_client.flow == Flow::Aborted || self.to_backend.flow == Flow::Broken || backend.is_dead() {
            self.reset.get_or_insert(Side::Backend);
        }
    }

    /// Returns whether the end of the client's stream is kept from the backend, so that the backend's
    /// connection may serve another client.
    #[must_use]
    pub fn keeps_end(&self, sides: Sides<'_>) -> bool {
        let reusable = match sides.reuse {
            Reuse::Off => false,
            Reuse::Untouched => self.is_untouched(sides),
            Reuse::Reset => true,
        };
        reusable
            && self.to_backend.is_end_due()
            && self.to_client.flow == Flow::Open
            && !sides.backend.is_dead()
    }

    /// Returns whether the client has everything that the backend has sent so far.
    fn has_delivered_all_to_client(&self, Sides { backend, .. }: Sides<'_>) -> bool {
        // While the direction splices, or waits for its budget, only the kernel knows.
        let kernel_holds = || self.to_client.leaves_bytes_to_kernel() && backend.peek() != Peeked::Nothing;
        !self.to_client.is_sending() && backend.received() == 0 && !kernel_holds()
    }

    /// Implements the table of the module documentation.
    fn outcome(&self, Sides { client, backend, .. }: Sides<'_>) -> Option<Outcome> {
        use Flow::{Aborted, Broken, Finished, Open};
        match (self.to_backend.flow, self.to_client.flow) {
            (Finished, Finished) if self.owes_end(client, backend).is_some() => None,
            (Finished, Finished) => Some(Outcome::Normal),
            (Aborted, _) => Some(Outcome::Reset(Side::Client)),
            (_, Aborted) | (Broken, Finished) => Some(Outcome::Reset(Side::Backend)),
            (Finished, Broken) => Some(Outcome::Reset(Side::Client)),
            (Broken, Broken) => self.reset.map(Outcome::Reset),
            // Nothing reaches either side.
            (Broken, Open) if client.is_dead() => self.reset.map(Outcome::Reset),
            (Open, Broken) if backend.is_dead() => self.reset.map(Outcome::Reset),
            // A side that has sent FIN sends nothing more, and nothing reaches it once it is dead: its death
            // is final.
            (Finished, Open) if client.is_dead() => Some(Outcome::Reset(Side::Client)),
            (Open, Finished) if backend.is_dead() => Some(Outcome::Reset(Side::Backend)),
            (Open | Finished | Broken, Open) | (Open, Finished | Broken) => None,
        }
    }

    /// Returns the side that has to be told of the end in TLS, and has no room for it.
    fn owes_end(&self, client: &Peer, backend: &Peer) -> Option<Side> {
        if self.to_client.owes_end(client) {
            return Some(Side::Client);
        }
        self.to_backend.owes_end(backend).then_some(Side::Backend)
    }

    fn is_half_closed(&self) -> bool {
        (self.to_backend.flow == Flow::Finished) != (self.to_client.flow == Flow::Finished)
    }

    /// Returns what decides which silence counts.
    fn stage(&self) -> ([bool; 2], Option<Side>) {
        let ended = [&self.to_backend, &self.to_client].map(|direction| direction.flow == Flow::Finished);
        (ended, self.reset)
    }

    /// Returns the silence that is limited now.
    ///
    /// A byte that moves on one socket of a relay moves on the other one too, or is held until it can, here
    /// or by the kernel; so one moment of last movement serves both sides.
    fn silence(&self, sides: Sides<'_>) -> Option<Silence> {
        let rules = sides.rules;
        if let Some(side) = self.reset {
            // Only the last bytes from that side still have to be delivered.
            return Some(Silence { limit: rules.half_close, outcome: Outcome::Reset(side) });
        }
        if sides.reuse == Reuse::Untouched && self.keeps_end(sides) {
            // A client that only reads ends its stream first, too: the backend may be about to speak.
            let limit = READER_GRACE.min(rules.half_close);
            return Some(Silence { limit, outcome: Outcome::ClientDone });
        }
        if self.to_backend.flow == Flow::Finished
            && self.to_client.flow == Flow::Finished
            && let Some(side) = self.owes_end(sides.client, sides.backend)
        {
            return Some(Silence { limit: rules.half_close, outcome: Outcome::HalfClose(side) });
        }
        if self.is_half_closed() {
            let silent = if self.to_backend.flow == Flow::Finished { Side::Backend } else { Side::Client };
            return Some(Silence { limit: rules.half_close, outcome: Outcome::HalfClose(silent) });
        }
        let idle =
            |limit: Option<Duration>, side| Some(Silence { limit: limit?, outcome: Outcome::Idle(side) });
        let client = idle(rules.client_idle, Side::Client);
        let backend = idle(rules.backend_idle, Side::Backend);
        // If the limits are equal, the first one counts.
        let both = if rules.equal_idle == EqualIdle::Client { [client, backend] } else { [backend, client] };
        both.into_iter().flatten().min_by_key(|silence| silence.limit)
    }

    /// Sets the timer for the earliest reason to act; `youth` is the end of youth.
    fn set_timer(&mut self, sides: Sides<'_>, youth: Tick) {
        let mut next = self.session_deadline.min(youth);
        if let Some(Silence { limit, .. }) = self.silence(sides) {
            next = next.min(self.next_look(limit, sides.now())).min(self.moved.after(limit));
        }
        self.timer.set(next);
    }

    /// Acts for every reason that is due. If bytes moved since the timer was set, only the silence is
    /// postponed, and only here.
    fn poll_timer(&mut self, sides: Sides<'_>, context: &mut Context<'_>) -> Poll<Outcome> {
        while self.timer.deadline() != Tick::NEVER && self.timer.poll_due(context).is_ready() {
            let now = sides.now();
            self.end_youth(sides);
            if self.is_too_long(now) {
                return Poll::Ready(Outcome::TooLong);
            }
            if let Some(Silence { limit, outcome }) = self.silence(sides) {
                // First, because it may find that a byte has moved after all.
                self.look(sides, limit, now);
                if self.is_silent(limit, now) {
                    return Poll::Ready(outcome);
                }
            }
            self.set_timer(sides, Tick::NEVER);
        }
        Poll::Pending
    }

    /// Youth: sets keepalive, once, whatever the timer fired for first. Most sessions end earlier and are
    /// spared the calls.
    fn end_youth(&mut self, sides: Sides<'_>) {
        if std::mem::take(&mut self.young) {
            sides.keep_alive();
        }
    }

    /// Session deadline: returns whether the session has reached it.
    fn is_too_long(&self, now: Tick) -> bool {
        now >= self.session_deadline
    }

    /// Silence: returns whether no byte has moved for `limit`.
    fn is_silent(&self, limit: Duration, now: Tick) -> bool {
        now >= self.moved.after(limit)
    }

    /// Look: returns when the next look is due, within the limit on silence.
    fn next_look(&self, limit: Duration, now: Tick) -> Tick {
        let first = self.moved.after(limit / LOOKS);
        match (now < first, self.queued > 0) {
            (true, _) => first,
            (false, true) => now.after(limit / LOOKS),
            // What the kernel does not hold cannot move unless the relay sends it.
            (false, false) => Tick::NEVER,
        }
    }

    /// Look: asks the kernel for what the shard may not have been told, and notes whether a peer has taken
    /// some of what the kernel holds for it: a slow reader can go on reading that for a long time before
    /// there is room for more.
    ///
    /// At the first look the last byte may just have moved, so a peer that takes nothing gets up to one look
    /// interval more than the limit.
    fn look(&mut self, sides: Sides<'_>, limit: Duration, now: Tick) {
        if now < self.moved.after(limit / LOOKS) {
            return;
        }
        [sides.client, sides.backend].into_iter().for_each(Peer::check_receive);
        let queued = sides.client.with(net::queued).saturating_add(sides.backend.with(net::queued));
        if queued != std::mem::replace(&mut self.queued, queued) {
            self.moved = now;
        }
    }
}

impl Sides<'_> {
    fn now(&self) -> Tick {
        self.client.ring().now()
    }

    fn keep_alive(&self) {
        let both = [(self.client, self.rules.client_keepalive), (self.backend, self.rules.backend_keepalive)];
        for (socket, keepalive) in both {
            if let Some(keepalive) = keepalive {
                socket.with(|socket| net::keep_alive(socket, keepalive));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use super::*;
    use crate::config::ByteRate;
    use crate::net::testing::pair;
    use crate::uring::testing::{on_ring, reset};

    fn rules() -> RelayRules {
        RelayRules {
            client_idle: None,
            equal_idle: EqualIdle::Client,
            backend_idle: None,
            half_close: Duration::from_secs(5),
            client_keepalive: None,
            backend_keepalive: None,
            bandwidth: Bandwidth::default(),
            pipes: None,
        }
    }

    /// The send consumes the error, and the receive reports a clean end in the same turn.
    #[test]
    fn reset_that_a_send_takes_is_no_end_of_the_client() {
        on_ring(|ring| async move {
            let ((client, client_peer), (backend, mut backend_peer)) = (pair(&ring), pair(&ring));
            let rules = rules();
            let sides = Sides { client: &client, backend: &backend, rules: &rules, reuse: Reuse::Off };
            let mut relay = Relay::new(sides, Tick::NEVER);
            backend_peer.write_all(b"answer").expect("connected");
            let mut client_peer = Some(client_peer);
            let outcome = std::future::poll_fn(|context| {
                let polled = relay.poll(sides, context);
                if relay.to_client.is_sending() && polled.is_pending() {
                    // Reset before the send reaches the kernel.
                    client_peer.take().into_iter().for_each(reset);
                }
                polled
            })
            .await;
            assert_eq!((outcome, relay.to_backend.flow), (Outcome::Reset(Side::Client), Flow::Aborted));
        });
    }

    /// Only the watch can report the reset, and the kernel ends the watch when the queue of completions is
    /// full.
    #[test]
    fn half_closed_session_renews_its_watch() {
        on_ring(|ring| async move {
            let ((client, client_peer), (backend, _backend_peer)) = (pair(&ring), pair(&ring));
            let rules = rules();
            let sides = Sides { client: &client, backend: &backend, rules: &rules, reuse: Reuse::Off };
            let mut relay = Relay::new(sides, Tick::NEVER);
            client_peer.shutdown(Shutdown::Write).expect("connected");
            std::future::poll_fn(|context| {
                assert!(relay.poll(sides, context).is_pending());
                if relay.is_half_closed() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            client.end_watch().await;
            reset(client_peer);
            let outcome = std::future::poll_fn(|context| relay.poll(sides, context)).await;
            assert_eq!(outcome, Outcome::Reset(Side::Client));
        });
    }

    /// The direction has sent so much already that it has to wait for longer than the limit on silence.
    #[test]
    fn bytes_that_wait_for_their_budget_are_not_silence() {
        on_ring(|ring| async move {
            let ((client, mut client_peer), (backend, _backend_peer)) = (pair(&ring), pair(&ring));
            let limit = Duration::from_millis(100);
            let to_backend = ByteRate::new(10_000);
            let bandwidth = Bandwidth { to_backend, to_client: None };
            let rules = RelayRules { client_idle: Some(limit), bandwidth, ..rules() };
            let sides = Sides { client: &client, backend: &backend, rules: &rules, reuse: Reuse::Off };
            let begin = ring.now();
            let mut relay = Relay::new(sides, Tick::NEVER);
            relay.has_sent(6_000);
            client_peer.write_all(&[b'x'; 1_000]).expect("connected");
            let outcome = std::future::poll_fn(|context| relay.poll(sides, context)).await;
            let took = ring.now().since(begin);
            assert_eq!((outcome, relay.bytes_to_backend()), (Outcome::Idle(Side::Client), 7_000));
            // 7,000 bytes at the rate, less the first burst of 400 and the bytes of the last piece.
            assert!(took >= Duration::from_millis(600) + limit, "{took:?}");
        });
    }

    /// The client reset the connection behind bytes that wait; the death is seen at once, the bytes are delivered.
    #[test]
    fn reset_is_seen_while_bytes_wait_for_their_budget() {
        on_ring(|ring| async move {
            let ((client, mut client_peer), (backend, mut backend_peer)) = (pair(&ring), pair(&ring));
            let bandwidth = Bandwidth { to_backend: ByteRate::new(10_000), to_client: None };
            let rules = RelayRules { bandwidth, ..rules() };
            let sides = Sides { client: &client, backend: &backend, rules: &rules, reuse: Reuse::Off };
            let begin = ring.now();
            let mut relay = Relay::new(sides, Tick::NEVER);
            relay.has_sent(6_000);
            client_peer.write_all(&[b'x'; 1_000]).expect("connected");
            let mut client_peer = Some(client_peer);
            let mut seen = None;
            let outcome = std::future::poll_fn(|context| {
                let polled = relay.poll(sides, context);
                client_peer.take().into_iter().for_each(reset);
                if client.is_dead() {
                    seen.get_or_insert_with(|| ring.now());
                }
                polled
            })
            .await;
            assert_eq!((outcome, relay.bytes_to_backend()), (Outcome::Reset(Side::Client), 7_000));
            let seen = seen.expect("it was").since(begin);
            assert!(seen < Duration::from_millis(300) && ring.now().since(begin) >= 2 * seen, "{seen:?}");
            std::io::Read::read_exact(&mut backend_peer, &mut [0; 1_000]).expect("it was delivered");
        });
    }
}
