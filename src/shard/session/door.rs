//! Before a backend is chosen: what a proxy in front says of the client, the client's first byte, and the name that a client
//! of TLS asks for.

use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::Duration;

use super::record::Record;
use crate::base::{Activity, CloseReason, Moment, SessionPhase, Tick};
use crate::protocol::client_hello::{self, RECORDS_MAX};
use crate::protocol::proxy::{self, Progress, V2_REST_MAX};
use crate::uring::Receive;

/// The longest header.
const HEADER_MAX: usize = 16 + V2_REST_MAX;

/// Takes the PROXY header, which has to be complete in time, and notes who the client is. What follows the header is the
/// client's and stays received.
pub(super) async fn take_header(record: &Record) -> Result<(), CloseReason> {
    let (session, client) = (&record.session, &record.client);
    let handshake = record.listener.config().timeouts.handshake;
    // Nothing is looked at again before so many bytes have come.
    let mut least = 1;
    receive_until(record, session.begun.tick().after(handshake), || {
        if client.received() < least {
            return None;
        }
        match proxy::read(&client.peek_received(HEADER_MAX)) {
            Progress::Complete { length, header } => {
                client.consume(length);
                session.announce(header.endpoints, Moment::read_clock());
                Some(Ok(()))
            }
            Progress::Incomplete { least: more } => {
                least = more;
                None
            }
            Progress::Invalid(why) => {
                let (listener, peer) = (&*record.listener.config().name, session.peer);
                log::debug!("listener {listener}: {peer} sent no valid PROXY header: {why}");
                Some(Err(CloseReason::HandshakeFailed))
            }
        }
    })
    .await
}

/// Waits for the first byte of the client, for at most `silence`.
pub(super) async fn await_first_byte(record: &Record, silence: Duration) -> Result<(), CloseReason> {
    let client = &record.client;
    let deadline = record.shard().now().after(silence);
    receive_until(record, deadline, || (client.received() > 0).then_some(Ok(()))).await
}

/// Reads what a client of TLS asks for, which has to be complete in time, and goes by it. The bytes stay received: they are
/// the backend's.
pub(super) async fn take_hello(record: &mut Record) -> Result<(), CloseReason> {
    let handshake = record.listener.config().timeouts.handshake;
    let deadline = record.session.begun.tick().after(handshake);
    let found = RefCell::new(None);
    // Nothing is looked at again before so many bytes have come.
    let mut least = 1;
    receive_until(record, deadline, || {
        let client = &record.client;
        if client.received() < least {
            return None;
        }
        match client_hello::read(&client.peek_received(RECORDS_MAX)) {
            client_hello::Progress::Complete(hello) => {
                found.replace(Some(Box::new(hello)));
                Some(Ok(()))
            }
            client_hello::Progress::Incomplete { least: more } => {
                least = more;
                None
            }
            client_hello::Progress::Invalid(why) => {
                let (listener, client) = (&*record.listener.config().name, record.session.client());
                log::debug!("listener {listener}: {client} sent no ClientHello, so no route takes it: {why}");
                Some(Ok(()))
            }
        }
    })
    .await?;
    if let Some(hello) = found.into_inner() {
        record.set_hello(hello);
    }
    record.follow().map(|_| ())
}

/// Receives from the client until `look`, which is asked whenever something may have come, has what it wants.
async fn receive_until(
    record: &Record,
    deadline: Tick,
    mut look: impl FnMut() -> Option<Result<(), CloseReason>>,
) -> Result<(), CloseReason> {
    let client = &record.client;
    until(record, deadline, |_| {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        if client.ended().is_some() || client.is_dead() {
            return Poll::Ready(Err(CloseReason::ClientLeft));
        }
        // The few bytes of a slow client must not keep a whole buffer from open sessions.
        client.spill_received();
        client.receive(Receive::One);
        Poll::Pending
    })
    .await
}

/// Waits until `step`, which is asked whenever something may have come, is ready, at most until the deadline.
pub(super) async fn until<T>(
    record: &Record,
    deadline: Tick,
    mut step: impl FnMut(&mut Context<'_>) -> Poll<Result<T, CloseReason>>,
) -> Result<T, CloseReason> {
    let (shard, session) = (record.shard(), &record.session);
    session.phase.set(SessionPhase::Handshake);
    let mut timer = shard.ring.timer(deadline.min(record.deadline()));
    std::future::poll_fn(|context| {
        shard.ring.set_activity(Activity::Open(session.id));
        record.client.register(context.waker());
        if let Some(reason) = record.must_end() {
            return Poll::Ready(Err(reason));
        }
        if let Poll::Ready(found) = step(context) {
            return Poll::Ready(found);
        }
        timer.poll_due(context).map(|()| {
            let is_over = shard.now() >= record.deadline();
            Err(if is_over { CloseReason::SessionTimeout } else { CloseReason::HandshakeTimeout })
        })
    })
    .await
}
