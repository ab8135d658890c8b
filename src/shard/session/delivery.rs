//! The last delivery before a reset.

use std::task::Poll;
use std::time::Duration;

use super::record::Record;
use crate::base::Activity;
use crate::net::{self, Peer};
use crate::uring::Receive;

/// Pause before the first look at what a peer has taken; each further look doubles it.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// Longest pause.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Waits until a peer has everything that was sent to it, before its connection is reset: the reset would
/// discard what the kernel still holds. Ends if the peer takes nothing for `silence`, if the peer has gone,
/// or when the session has to end.
pub(super) async fn await_delivery(record: &Record, peer: &Peer, silence: Duration) {
    let (shard, deadline) = (record.shard(), record.deadline());
    let now = || shard.now();
    let mut left = peer.with(net::unacknowledged);
    if left == 0 || peer.is_dead() {
        return;
    }
    let mut limit = now().after(silence).min(deadline);
    let mut pause = FIRST_LOOK;
    let mut look = shard.ring.timer(now().after(pause));
    std::future::poll_fn(|context| {
        shard.ring.set_activity(Activity::End(record.session.id));
        peer.register(context.waker());
        // The peer's bytes have no recipient any more, but reading them lets a peer that writes before it
        // reads go on to read. The receive, or after its FIN the watch, reports when the peer has gone.
        peer.discard_received();
        peer.receive(Receive::One);
        peer.watch();
        if peer.is_dead() || record.must_end().is_some() {
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
            pause = (pause * 2).min(LAST_LOOK);
            look.set(now().after(pause).min(limit));
        }
        Poll::Pending
    })
    .await;
}
