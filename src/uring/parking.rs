//! Parking: a receive that has brought nothing for a while waits as a poll, for which the kernel keeps 256 bytes
//! instead of 864 (`io_kiocb`; beside it `io_async_msghdr` in 512 and `async_poll` in 96). What there is to read
//! starts the receive again, and its task hears nothing of that.
//!
//! The ring passes over all slots from time to time. A receive that was armed or brought something since the pass
//! before is left, any other one is parked.
//!
//! Invariant: while a receive is in flight that is not parked, a pass is under way or due.

use std::time::Duration;

use super::slot::{Key, Mark, Op, Slot, Slots};
use crate::base::Tick;

/// From one pass to the next: how long a receive waits at least before it is parked, and at most twice as long.
const PASSES: Duration = Duration::from_secs(1);
/// Maximum number of slots that a turn looks at: 64 KiB of memory.
const LOOKS_A_TURN: usize = 1_024;
/// Maximum number of receives that a turn parks. To park one and to receive on it again were measured at 2 to 4.5 us of CPU
/// together, so parking takes a turn less than 150 us.
const PARKED_A_TURN: usize = 32;

/// Where the passes are.
#[derive(Default)]
pub(super) struct Parking {
    /// When the next pass begins.
    due: Tick,
    /// The next slot of the pass that is under way; 0 if none is.
    next: u32,
    /// Whether receives were left or armed since the last pass began.
    is_wanted: bool,
}

impl Parking {
    /// Returns when the next turn has receives to look at, if there are any.
    pub(super) fn due(&self) -> Option<Tick> {
        (self.is_wanted || self.next > 0).then_some(self.due)
    }

    /// Notes that a receive was armed.
    pub(super) fn note_armed(&mut self) {
        self.is_wanted = true;
    }

    /// Goes on with the pass that is under way or due, if one is. Returns the receives to park.
    pub(super) fn pass(&mut self, slots: &mut Slots, now: Tick) -> Vec<Key> {
        let mut idle = Vec::new();
        if self.due().is_none_or(|due| now < due) {
            return idle;
        }
        if self.next == 0 {
            self.is_wanted = false;
        }
        for _ in 0..LOOKS_A_TURN {
            if idle.len() == PARKED_A_TURN {
                break;
            }
            if self.next as usize >= slots.places() {
                self.next = 0;
                self.due = now.after(PASSES);
                break;
            }
            if let Some((key, slot)) = slots.at(self.next).filter(|(_, slot)| may_park(slot)) {
                if slot.unset(Mark::Fresh) {
                    self.is_wanted = true;
                } else {
                    idle.push(key);
                }
            }
            self.next += 1;
        }
        idle
    }
}

/// Returns whether a receive is in flight that nobody is about to end. A cancelled one of a socket that is there has an owner who
/// arms another one.
fn may_park(slot: &Slot) -> bool {
    slot.is_in_flight(Op::Recv) && !slot.is(Mark::Cancelled) && !slot.is(Mark::Orphan)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::testing::{on_ring, pair, reset};
    use super::super::{End, Receive, Ring, Socket};
    use super::*;

    /// Makes a whole pass, whatever the time.
    fn pass(ring: &Ring) {
        let mut core = ring.0.core.borrow_mut();
        let now = ring.now().max(core.parking.due);
        core.park(now);
        while core.parking.next > 0 {
            core.park(now);
        }
    }

    /// Turns until what was started now has ended.
    async fn turns(ring: &Ring) {
        for _ in 0..4 {
            ring.next_turn().await;
        }
    }

    /// Two passes park what brings nothing.
    async fn passes(ring: &Ring) {
        for _ in 0..2 {
            pass(ring);
            turns(ring).await;
        }
    }

    fn parked(ring: &Ring) -> usize {
        let core = ring.0.core.borrow();
        let waits_as_poll = core.slots.iter().filter(|slot| slot.is(Mark::Parked));
        waits_as_poll.filter(|slot| slot.is_in_flight(Op::Readable) && !slot.is_in_flight(Op::Recv)).count()
    }

    /// Waits for bytes and takes them; the receive goes on if it is one of many.
    async fn take(socket: &Socket) -> Vec<u8> {
        assert_eq!(socket.readable().await, None);
        socket.take_received()
    }

    #[test]
    fn receive_that_brings_nothing_is_parked_and_goes_on_with_the_next_byte() {
        for receive in [Receive::One, Receive::Many] {
            on_ring(move |ring| async move {
                let (socket, mut peer) = pair(&ring);
                socket.receive(receive);
                for round in 0..3 {
                    passes(&ring).await;
                    assert_eq!((parked(&ring), socket.is_receiving()), (1, true), "{receive:?} {round}");
                    assert_eq!(ring.0.core.borrow().parking.due(), None, "nothing is left to look at");
                    peer.write_all(b"byte").expect("connected");
                    assert_eq!(take(&socket).await, b"byte");
                    assert_eq!(parked(&ring), 0);
                    socket.receive(receive);
                }
            });
        }
    }

    #[test]
    fn receive_that_brings_something_between_passes_is_not_parked() {
        on_ring(|ring| async move {
            let (socket, mut peer) = pair(&ring);
            socket.receive(Receive::Many);
            // The first pass is the driver's.
            turns(&ring).await;
            for _ in 0..3 {
                peer.write_all(b"byte").expect("connected");
                assert_eq!(take(&socket).await, b"byte");
                pass(&ring);
                turns(&ring).await;
                assert_eq!(parked(&ring), 0);
            }
            assert!(ring.0.core.borrow().parking.due().is_some(), "the next pass may park it");
        });
    }

    #[test]
    fn parked_receive_sees_the_end_and_the_reset() {
        on_ring(|ring| async move {
            for resets in [false, true] {
                let (socket, peer) = pair(&ring);
                socket.receive(Receive::Many);
                passes(&ring).await;
                assert_eq!(parked(&ring), 1);
                if resets {
                    reset(peer)
                } else {
                    drop(peer)
                };
                let end = socket.readable().await.expect("nothing was sent");
                assert_eq!(matches!(end, End::Failed(_)), resets);
                assert_eq!((end == End::Clean, socket.is_dead()), (!resets, resets));
            }
        });
    }

    /// Bytes that come before the cancel reaches the kernel end the receive, or leave it in flight.
    #[test]
    fn bytes_that_meet_the_cancel_are_kept() {
        on_ring(|ring| async move {
            let (socket, mut peer) = pair(&ring);
            socket.receive(Receive::Many);
            turns(&ring).await;
            pass(&ring);
            pass(&ring);
            peer.write_all(b"byte").expect("connected");
            assert_eq!(take(&socket).await, b"byte");
            passes(&ring).await;
            peer.write_all(b"more").expect("connected");
            assert_eq!(take(&socket).await, b"more");
        });
    }

    /// The owner of a parked receive that is paused is woken, and the next receive is a new one.
    #[test]
    fn parked_receive_can_be_paused() {
        on_ring(|ring| async move {
            let (socket, mut peer) = pair(&ring);
            socket.receive(Receive::Many);
            passes(&ring).await;
            socket.pause_receive();
            assert!(!socket.is_receiving());
            peer.write_all(b"byte").expect("connected");
            turns(&ring).await;
            assert_eq!(socket.received(), 0);
            assert_eq!(take(&socket).await, b"byte");
        });
    }

    #[test]
    fn turn_looks_at_a_bounded_number_of_slots_and_parks_a_bounded_number() {
        on_ring(|ring| async move {
            let pairs: Vec<_> = (0..2 * PARKED_A_TURN).map(|_| pair(&ring)).collect();
            pairs.iter().for_each(|(socket, _)| socket.receive(Receive::Many));
            pass(&ring);
            turns(&ring).await;
            ring.0.core.borrow_mut().park(Tick(u64::MAX - 1));
            let marked =
                |ring: &Ring| ring.0.core.borrow().slots.iter().filter(|slot| slot.is(Mark::Parked)).count();
            assert_eq!(marked(&ring), PARKED_A_TURN);
            pass(&ring);
            turns(&ring).await;
            assert_eq!(parked(&ring), pairs.len());
        });
    }

    /// Whatever happens in whatever order, the stream is whole, and nothing waits for ever.
    #[test]
    fn every_short_sequence_of_events_leaves_the_stream_whole() {
        const EVENTS: usize = 5;
        const LENGTH: u32 = 5;
        on_ring(|ring| async move {
            for sequence in 0..EVENTS.pow(LENGTH) {
                let (socket, mut peer) = pair(&ring);
                let (mut sent, mut received) = (Vec::new(), Vec::new());
                socket.receive(Receive::Many);
                for step in 0..LENGTH {
                    match sequence / EVENTS.pow(step) % EVENTS {
                        0 => pass(&ring),
                        1 => turns(&ring).await,
                        2 => {
                            let piece = [b'a' + step as u8; 3];
                            peer.write_all(&piece).expect("connected");
                            sent.extend(piece);
                        }
                        3 => socket.pause_receive(),
                        _ => {
                            received.extend(socket.take_received());
                            socket.receive(Receive::Many);
                        }
                    }
                }
                drop(peer);
                while socket.readable().await.is_none() {
                    received.extend(socket.take_received());
                }
                assert_eq!(received, sent, "sequence {sequence}");
            }
        });
    }
}
