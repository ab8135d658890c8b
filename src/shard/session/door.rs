//! What a proxy in front says of the client, before a backend is chosen.

use std::task::Poll;

use super::record::Record;
use crate::base::{Activity, CloseReason, Moment, SessionPhase};
use crate::protocol::proxy::{self, Progress, V2_REST_MAX};
use crate::uring::Receive;

/// The longest header.
const HEADER_MAX: usize = 16 + V2_REST_MAX;

/// Takes the PROXY header, which has to be complete in time, and notes who the client is. What follows the header is the
/// client's and stays received.
pub(super) async fn take_header(record: &Record) -> Result<(), CloseReason> {
    let (shard, session, client) = (record.shard(), &record.session, &record.client);
    session.phase.set(SessionPhase::Handshake);
    let handshake = record.listener.config().timeouts.handshake;
    let deadline = session.begun.tick().after(handshake).min(record.deadline());
    let mut timer = shard.ring.timer(deadline);
    // Nothing is looked at again before so many bytes have come.
    let mut least = 1;
    std::future::poll_fn(|context| {
        shard.ring.set_activity(Activity::Open(session.id));
        client.register(context.waker());
        if let Some(reason) = record.must_end() {
            return Poll::Ready(Err(reason));
        }
        if client.received() >= least {
            match proxy::read(&client.peek_received(HEADER_MAX)) {
                Progress::Complete { length, header } => {
                    client.consume(length);
                    session.announce(header.endpoints, Moment::read_clock());
                    return Poll::Ready(Ok(()));
                }
                Progress::Incomplete { least: more } => {
                    least = more;
                    // A few bytes of a slow header must not keep a whole buffer from open sessions.
                    client.spill_received();
                }
                Progress::Invalid(why) => {
                    let (listener, peer) = (&*record.listener.config().name, session.peer);
                    log::debug!("listener {listener}: {peer} sent no valid PROXY header: {why}");
                    return Poll::Ready(Err(CloseReason::HandshakeFailed));
                }
            }
        }
        if client.ended().is_some() || client.is_dead() {
            return Poll::Ready(Err(CloseReason::ClientLeft));
        }
        client.receive(Receive::One);
        timer.poll_due(context).map(|()| {
            let is_over = shard.now() >= record.deadline();
            Err(if is_over { CloseReason::SessionTimeout } else { CloseReason::HandshakeTimeout })
        })
    })
    .await
}
