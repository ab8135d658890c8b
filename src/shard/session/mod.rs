//! One session, from accept to close.

mod announcement;
mod delivery;
mod door;
mod handshake;
mod leg;
mod open;
mod record;
mod reset;

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::admitted::Admitted;
use super::listener::Listener;
use crate::base::DenyReason;
use crate::net::Peer;
use crate::relay::Outcome;
use leg::{Ending, Leg, Next};
use open::Opening;
use record::Record;

/// Serves a new connection in a task of its own.
pub(super) fn start(listener: &Rc<Listener>, Admitted { accepted, admission }: Admitted) {
    let ring = &listener.shard.ring;
    let client = Peer::plain(ring.socket(accepted.connection));
    let record = Record::begin(listener, client, (accepted.client, admission));
    ring.spawn(serve(record));
}

/// The course of a session, top to bottom. Its legs end before its record is dropped, so that there are never
/// more sessions in flight than active ones.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in each idle session")]
fn serve(mut record: Record) -> impl Future<Output = ()> {
    async move {
        std::future::poll_fn(|context| {
            record.session.note_waker(context.waker());
            Poll::Ready(())
        })
        .await;
        // Its listener may have been changed since the accept, and while a header was awaited.
        record.follow_listener();
        if record.listener.shared.awaits_header() {
            // Again, because the peer may have been accepted before its listener was changed.
            if !record.listener.shared.trusts(record.session.peer) {
                return record.deny(DenyReason::Untrusted);
            }
            if let Err(reason) = Box::pin(door::take_header(&record)).await {
                return record.turn_away(reason);
            }
            record.follow_listener();
        }
        // The client is known here.
        if let Err(reason) = record.admit() {
            return record.deny(reason);
        }
        let has_tls = record.listener.shared.tls().is_some();
        if let Some(silence) = record.listener.config().client_first.filter(|_| !has_tls)
            && let Err(reason) = Box::pin(door::await_first_byte(&record, silence)).await
        {
            return record.turn_away(reason);
        }
        if record.listener.reads_hello() {
            let is_led = Box::pin(door::take_hello(&mut record)).await;
            if let Err(reason) = is_led {
                handshake::note_early_end(&record, reason);
                return record.turn_away(reason);
            }
        }
        if let Some(settings) = record.listener.shared.tls() {
            let settings = Arc::clone(settings);
            let shaken = Box::pin(handshake::shake_hands(&mut record, settings));
            if let Err(reason) = shaken.await {
                return record.end_handshake(reason);
            }
            // The client's first byte is one of plaintext.
            if let Some(silence) = record.listener.config().client_first
                && let Err(reason) = Box::pin(door::await_first_byte(&record, silence)).await
            {
                return record.turn_away(reason);
            }
        }
        let mut opening = Box::new(Opening::new(&record));
        loop {
            // Boxed, so that an idle session does not carry the state of its beginning.
            let mut leg = match Box::pin(opening.open(&mut record)).await {
                Ok((socket, in_flight)) => Leg::new(&record, socket, in_flight, opening),
                Err(reason) => {
                    record.turn_away(reason);
                    break;
                }
            };
            let ending = std::future::poll_fn(|context| leg.poll(&record, context)).await;
            match leg.judge(&record, ending) {
                next @ (Next::Replace | Next::Retry) => {
                    opening = leg.into_opening(&record, next == Next::Replace);
                    continue;
                }
                // Boxed, because an idle session should not carry the state of its end either.
                Next::GiveBack => Box::pin(leg.give_back(&mut record, ending)).await,
                Next::Close => {
                    let is_truncated = leg.stop(&record);
                    if let Ending::Relay(Outcome::Reset(side)) = ending {
                        Box::pin(leg.await_delivery(&record, side)).await;
                    }
                    leg.close(&mut record, ending, is_truncated);
                }
            }
            break;
        }
        drop(record);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::{ClientAddress, CloseReason, ListenerId};
    use crate::shard::testing;
    use crate::telemetry::counters::ListenerTotals;
    use crate::uring::{BufferSettings, Ring};

    fn future_bytes<F: Future>(_: impl FnOnce(Record) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn session_that_panics_is_counted_as_internal_and_gives_everything_back() {
        crate::shard::executor().expect("this kernel has what an executor needs").run(async {
            let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
            let listener = testing::listener(&ring);
            let shard = Rc::clone(&listener.shard);
            for first_poll in [true, false] {
                let client = UnixStream::pair().expect("descriptors").0.into();
                let client = Peer::plain(ring.socket(client));
                let admission = listener.reserve().expect("below the limit");
                let session = Record::begin(&listener, client, (ClientAddress::UNIX, admission));
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
            totals.add(&shard.counters.listener(ListenerId(0)));
            assert_eq!((totals.closed_with(CloseReason::Internal), ring.panics()), (2, 2));
            assert_eq!((totals.active, shard.gate.sessions.taken(), shard.busy.get()), (0, 0, 0));
        });
    }

    #[test]
    fn idle_session_is_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 248, "the future of a session takes {bytes} bytes");
    }
}
