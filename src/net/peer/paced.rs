//! Steps of handshakes, which have a budget in each turn.

use std::task::{Context, Poll};
use std::time::Instant;

use crate::tls::Pace;
use crate::uring::{Place, Ring};

/// Makes a step of a handshake once the turn has time for it.
pub fn poll_paced<T>(
    ring: &Ring,
    (pace, place): (&Pace, &Place),
    context: &mut Context<'_>,
    step: impl FnOnce() -> T,
) -> Poll<T> {
    let turn = ring.turn();
    if !pace.may_shake_hands(turn) {
        ring.wait_in_line(place, context.waker());
        return Poll::Pending;
    }
    let begun = Instant::now();
    let done = step();
    pace.note_handshake(turn, begun.elapsed());
    Poll::Ready(done)
}
