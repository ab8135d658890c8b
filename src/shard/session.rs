//! One session, from accept to close.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::establish::{Established, Tries};
use super::{Busy, Shard};
use crate::net;
use crate::relay::{Outcome, Relay, Side};
use crate::rules::admission::Permit;
use crate::rules::upstream::InFlight;
use crate::uring::{Socket, Tick};
use crate::words::{CloseReason, ListenerId, UpstreamId};

/// Shortest and longest pause between two looks at what a peer has taken.
const DELIVERY_LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Admits a new connection and serves it in a task of its own.
pub(super) fn start(shard: &Rc<Shard>, listener: ListenerId, connection: OwnedFd) {
    let client = shard.ring.socket(connection);
    match admit(shard, listener) {
        Some(record) => shard.ring.spawn(serve(record, client)),
        None => client.reset_on_close(),
    }
}

/// Counts a connection, and admits it if there is a place for one more session.
fn admit(shard: &Rc<Shard>, listener: ListenerId) -> Option<Record> {
    let counters = shard.counters.listener(listener);
    counters.accepted.add(1);
    let Some(permit) = shard.limit.admit() else {
        counters.denied.add(1);
        return None;
    };
    counters.active.add(1);
    Some(Record {
        busy: shard.busy(),
        _permit: permit,
        listener,
        in_flight: None,
        begun: shard.ring.now(),
        bytes_to_backend: 0,
        bytes_to_client: 0,
        reason: CloseReason::Internal,
    })
}

/// The way of a session, top to bottom.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in each idle session")]
fn serve(mut record: Record, client: Socket) -> impl Future<Output = ()> {
    async move {
        // There until a byte was relayed: from then on no other backend can take the place of this one.
        let mut tries =
            Some(Box::new(Tries::new(record.shard(), record.upstream(), &client, record.deadline())));
        record.reason = loop {
            let Some(trying) = &mut tries else { break CloseReason::Internal };
            // Boxed, so that an idle session does not carry the state of its beginning.
            let established = Box::pin(trying.establish(record.shard(), &client)).await;
            let Established { backend, in_flight } = match established {
                Ok(established) => established,
                Err(reason) => {
                    client.reset_on_close();
                    break reason;
                }
            };
            record.in_flight = Some(in_flight);
            let shard = Rc::clone(record.shard());
            let rules = &shard.relay_rules[record.listener.index()];
            let mut relay = Relay::new(&client, &backend, rules, record.deadline());
            let outcome = std::future::poll_fn(|context| {
                if record.order_to_end().is_some() {
                    return Poll::Ready(Outcome::Stopped);
                }
                let polled = relay.poll(context);
                record.account(&relay);
                tries.take_if(|tries| tries.note_progress(record.shard(), &relay));
                polled
            })
            .await;
            record.judge(outcome, &relay, &client);
            if outcome == Outcome::Reset(Side::Backend)
                && relay.is_untouched()
                && let Some(tries) = &mut tries
                && tries.may_retry(&shard)
            {
                tries.failed(CloseReason::BackendReset);
                record.in_flight = None;
                continue;
            }
            let cut = relay.holds_bytes();
            drop(relay);
            if let Outcome::Reset(side) = outcome {
                let other = if side == Side::Client { &backend } else { &client };
                // Boxed, as an idle session does not carry the state of its end either.
                Box::pin(await_delivery(&shard, other, rules.half_close, record.deadline())).await;
            }
            close(outcome, cut, &client, &backend);
            break record
                .order_to_end()
                .filter(|_| outcome == Outcome::Stopped)
                .unwrap_or(close_reason(outcome));
        };
        drop(record);
    }
}

/// Waits until a peer has everything that was sent to it, before its connection is reset: the reset would throw away
/// what the kernel still holds. Ends when the peer takes nothing for `silence`, has gone itself, or at `deadline`.
async fn await_delivery(shard: &Shard, peer: &Socket, silence: Duration, deadline: Tick) {
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
        peer.receive(false);
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

/// Chooses FIN or RST for each side. A stream that is cut must not look like one that has ended.
fn close(outcome: Outcome, cut: bool, client: &Socket, backend: &Socket) {
    let (reset_client, reset_backend) = match outcome {
        Outcome::Normal => (false, false),
        Outcome::Reset(_) | Outcome::TooLong | Outcome::Stopped => (true, true),
        Outcome::Idle(_) | Outcome::HalfClose(_) => (cut, cut),
    };
    if reset_client {
        client.reset_on_close();
    }
    if reset_backend {
        backend.reset_on_close();
    }
}

fn close_reason(outcome: Outcome) -> CloseReason {
    match outcome {
        Outcome::Normal => CloseReason::Normal,
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

/// The account of one session. Dropping it, whatever ends the task, is the one place that counts its close.
struct Record {
    busy: Busy,
    _permit: Permit,
    listener: ListenerId,
    /// The backend it is on.
    in_flight: Option<InFlight>,
    begun: Tick,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    /// Internal until the session says otherwise: so a panic is counted as what it is.
    reason: CloseReason,
}

impl Record {
    fn shard(&self) -> &Rc<Shard> {
        &self.busy.0
    }

    fn upstream(&self) -> UpstreamId {
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
        self.in_flight.as_ref().and_then(InFlight::cut)
    }

    /// Notes what the end of a relay says of the backend; its first byte said that it is well. A reset after bytes went to
    /// it says nothing: it may be what they deserved, and no client shall be able to have a backend ejected. Nor does
    /// anything that comes after the client's own end, if that came before a byte.
    fn judge(&self, outcome: Outcome, relay: &Relay<'_>, client: &Socket) {
        let Some(in_flight) = &self.in_flight else { return };
        if outcome != Outcome::Reset(Side::Backend) {
            if relay.bytes_to_backend() > 0 && relay.bytes_to_client() == 0 {
                in_flight.succeeded();
            }
        } else if relay.is_untouched() && client.ended().is_none() {
            in_flight.failed();
        }
    }

    /// Counts the bytes that a relay has delivered since the last call.
    fn account(&mut self, relay: &Relay<'_>) {
        let Some(in_flight) = &self.in_flight else { return };
        let shard = &self.busy.0;
        let (listener, backend) = (
            shard.counters.listener(self.listener),
            shard.counters.backend(self.upstream(), in_flight.backend()),
        );
        let to_backend = relay.bytes_to_backend() - self.bytes_to_backend;
        if to_backend > 0 {
            self.bytes_to_backend += to_backend;
            listener.bytes_to_backend.add(to_backend);
            backend.bytes_to_backend.add(to_backend);
        }
        let to_client = relay.bytes_to_client() - self.bytes_to_client;
        if to_client > 0 {
            if self.bytes_to_client == 0 {
                in_flight.succeeded();
            }
            self.bytes_to_client += to_client;
            listener.bytes_to_client.add(to_client);
            backend.bytes_to_client.add(to_client);
        }
        if let Some(spliced) = shard.pipes.as_ref().and_then(|pipes| pipes.take_moved()) {
            shard.counters.spliced_to_backend.add(spliced.to_backend);
            shard.counters.spliced_to_client.add(spliced.to_client);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Whoever sees the session closed sees it in flight no more.
        let backend = self.in_flight.take().map(|in_flight| in_flight.backend());
        let shard = self.shard();
        let counters = shard.counters.listener(self.listener);
        counters.active.subtract(1);
        counters.closed[self.reason.index()].add(1);
        if log::log_enabled!(log::Level::Debug) {
            let listener = &shard.config.listeners[self.listener.index()];
            let upstream = &shard.config.upstreams[listener.upstream.index()];
            let backend = backend.map_or("-", |id| upstream.backends[id.index()].name.as_str());
            log::debug!(
                "session closed: {reason} ({letters}) listener={listener} backend={backend} seconds={seconds:.3} \
                 to_backend={up} to_client={down}",
                reason = self.reason.name(),
                letters = self.reason.letters(),
                listener = listener.name,
                seconds = shard.ring.now().since(self.begun).as_secs_f64(),
                up = self.bytes_to_backend,
                down = self.bytes_to_client,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::super::{Phase, WarningLimit, mailbox};
    use super::*;
    use crate::relay::RelayRules;
    use crate::rules::admission::SessionLimit;
    use crate::rules::config;
    use crate::telemetry::counters::{ListenerTotals, ShardCounters};
    use crate::uring::{BufferSettings, Doorbell, Ring};

    fn future_bytes<F: Future>(_: impl FnOnce(Record, Socket) -> F) -> usize {
        size_of::<F>()
    }

    /// A shard with one listener that nobody listens on.
    fn shard(ring: &Ring) -> Rc<Shard> {
        let yaml = b"loadbalancer: {listen_address: ':1'}\nbackends: [{address: 127.0.0.1, port: 2}]\n";
        let config = config::parse("test.yaml", yaml).expect("a valid configuration").config;
        let half_close = config.listeners[0].timeouts.half_close;
        let rules = RelayRules {
            client_idle: None,
            backend_idle: None,
            half_close,
            client_keepalive: None,
            backend_keepalive: None,
            pipes: None,
        };
        Rc::new(Shard {
            ring: ring.clone(),
            relay_rules: vec![rules],
            pipes: None,
            upstreams: Vec::new(),
            counters: ShardCounters::new(1, [1]),
            limit: SessionLimit::new(1),
            letterbox: mailbox(Doorbell::new().expect("an eventfd").0).0,
            phase: Cell::new(Phase::Running),
            busy: Cell::new(0),
            accept_warnings: WarningLimit::default(),
            connect_warnings: WarningLimit::default(),
            config: Arc::new(config),
        })
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
            let shard = shard(&ring);
            for first_poll in [true, false] {
                let record = admit(&shard, ListenerId(0)).expect("below the limit");
                let timer = ring.clone();
                ring.spawn(async move {
                    let _record = record;
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
        assert!(bytes <= 328, "the future of a session takes {bytes} bytes");
    }
}
