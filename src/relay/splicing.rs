//! The turns of a direction that splices: when it moves bytes, how patiently it waits for more, and when it
//! gives up.
//!
//! A turn moves what the destination left in the pipe last time, then what the source has, about one pipe
//! full. After [`SMALL_TURNS`] consecutive turns that brought less than [`SMALL_PIECE`], the direction copies
//! again, which it begins only with an empty pipe.
//!
//! After [`LONG_TURNS`] large turns the direction is patient: it is woken for [`PATIENT_BYTES`]
//! (`SO_RCVLOWAT`), or looks after [`PATIENCE`] at what has come, because fewer and larger pieces cost less
//! on both sides. Finding less ends its patience. A direction with a limited rate moves what its budget allows.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use super::pipe::{self, Left, Pipe, Pipes};
use super::throttle::Throttle;
use super::turn::{Turn, TurnBytes};
use crate::base::Tick;
use crate::net::Peer;

/// Fewer bytes in a turn than this are not worth the two calls of splicing.
const SMALL_PIECE: u32 = 8 << 10;
/// Consecutive turns with a small piece after which a direction copies again.
const SMALL_TURNS: u8 = 8;
/// A turn with this many bytes counts as a large one.
const LARGE_PIECE: u32 = 64 << 10;
/// Large turns after which a direction is patient: at least 4 MiB, so that one wait for the rest is
/// negligible.
const LONG_TURNS: u8 = 64;
/// Bytes worth a turn of a patient direction, unless it has waited for [`PATIENCE`].
pub(super) const PATIENT_BYTES: u32 = 1 << 20;
/// Longest wait for [`PATIENT_BYTES`].
const PATIENCE: Duration = Duration::from_millis(1);

/// Pause before bytes for which the kernel had no memory are sent again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// A direction that splices. It is small, because idle sessions contain it, too.
pub(super) struct Splicing {
    /// What the destination did not take at once; boxed, so that idle sessions stay small.
    pipe: Option<Box<Pipe>>,
    /// When the direction looks at what has come, although the source has not reported enough.
    look_at: Option<ShortTick>,
    /// Number of consecutive turns that brought little.
    small_turns: u8,
    pace: Pace,
}

/// What a direction wants to be woken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// For any byte.
    Eager {
        /// Number of large turns since patience last did not pay; below [`LONG_TURNS`].
        large_turns: u8,
    },
    /// For [`PATIENT_BYTES`], or after [`PATIENCE`].
    Patient,
    /// For any byte: its rests make the pieces large.
    Steady,
}

impl Splicing {
    pub(super) fn new(is_throttled: bool) -> Self {
        let pace = if is_throttled { Pace::Steady } else { Pace::Eager { large_turns: 0 } };
        Self { pipe: None, look_at: None, small_turns: 0, pace }
    }

    /// Returns whether bytes are on their way to the destination.
    pub(super) fn holds_bytes(&self) -> bool {
        self.pipe.is_some()
    }

    /// Ends splicing: drops a pipe with its content, and leaves the source as it was.
    pub(super) fn end(self, from: &Peer) {
        if self.pace == Pace::Patient {
            pipe::set_least(from, 1);
        }
    }

    /// Moves what can be moved now, adds it to `bytes`, and returns what follows.
    ///
    /// The poll for something to read also reports what is already there, so nothing is missed between two
    /// turns. The end of the source is not judged here but by the receive of copying: splice(2) returns 0 at
    /// an urgent mark, too, tcp(7), and an error that it reports is not reported again.
    pub(super) fn turn(
        &mut self,
        from: &Peer,
        to: &Peer,
        pipes: Option<&Rc<Pipes>>,
        mut throttle: Option<&mut Throttle>,
        bytes: &mut TurnBytes,
    ) -> Turn {
        let now = from.ring().now();
        let looks = self.look_at.is_some_and(|moment| moment.has_come(now));
        if self.pipe.is_some() && to.is_waiting_writable() {
            // Nothing is received from the source in the meantime, so only the watch reports its reset; and a
            // full queue of completions ends a watch.
            from.watch();
            return Turn::Waits;
        }
        if self.pipe.is_none() && from.is_waiting_readable() && !looks {
            // The source has nothing, or less than a patient direction wants.
            return Turn::Waits;
        }
        if to.has_failed() {
            // Checked before anything is taken from the source, because nothing more can be delivered.
            return Turn::DestinationReset;
        }
        if looks {
            self.look_at = None;
        }
        if let Some(pipe) = self.pipe.take()
            && let Some(turn) = self.drain(*pipe, from, to, bytes)
        {
            // The bytes left last time go first, because they were received first.
            return turn;
        }
        let Some(pipes) = pipes else {
            // The listener no longer splices.
            return Turn::Copies;
        };
        if !pipes.has_budget(from.ring().turn()) {
            // Other directions have their turn first. If the poll in flight waits for much, the source may
            // hold less than that, and no other event would report it: a look was put off, or bytes came
            // while the pipe was full. So a look follows.
            if from.is_waiting_readable() {
                self.look_at = Some(ShortTick::from(now));
            }
            from.put_off();
            return Turn::Waits;
        }
        let most = throttle.as_deref_mut().map_or(u32::MAX, |throttle| throttle.allowance(from));
        if most == 0 {
            return Turn::Waits;
        }
        let Some(pipe) = pipes.take(now) else {
            // All pipes hold bytes of other directions, or the kernel makes no more; copying needs none.
            return Turn::Copies;
        };
        let turn = self.move_piece((pipe, most), looks, from, to, bytes);
        if let Some(throttle) = throttle {
            throttle.spend(bytes.received);
        }
        turn
    }

    /// Moves what the source has, about one pipe full and at most `most` bytes, through an empty pipe. In this turn the
    /// direction either `looks`, or the source has reported something to read.
    fn move_piece(
        &mut self,
        (mut pipe, most): (Pipe, u32),
        looks: bool,
        from: &Peer,
        to: &Peer,
        bytes: &mut TurnBytes,
    ) -> Turn {
        let filled = pipe.fill(from, most);
        bytes.received = filled.bytes;
        self.note_piece(filled.bytes, looks, from);
        if let Some(error) = filled.failed {
            from.mark_dead(error);
        }
        let is_last = filled.ended || self.small_turns >= SMALL_TURNS;
        if let Some(turn) = self.drain(pipe, from, to, bytes) {
            // Also after the last piece: copying begins only with an empty pipe, and the next turn finds the
            // end again.
            return turn;
        }
        if is_last {
            return Turn::Copies;
        }
        from.wait_readable();
        // A look leaves a poll in flight that waits for much, and the bytes that did not fit into the pipe do
        // not trigger the poll again. So looks go on until one finds nothing.
        let looks_again = looks && filled.bytes > 0;
        if self.look_at.is_none() && (self.pace == Pace::Patient || looks_again) {
            let then = from.ring().now().after(PATIENCE);
            self.look_at = Some(ShortTick::from(then));
            from.wake_at(then);
        }
        Turn::Waits
    }

    /// Learns from the size of a piece how patient to be, and whether splicing pays.
    fn note_piece(&mut self, bytes: u32, looked: bool, from: &Peer) {
        self.small_turns = if bytes < SMALL_PIECE { self.small_turns.saturating_add(1) } else { 0 };
        match &mut self.pace {
            Pace::Patient if looked && bytes < PATIENT_BYTES => {
                // The wait did not pay: the sender waits for an answer, or is too slow.
                self.pace = Pace::Eager { large_turns: 0 };
                pipe::set_least(from, 1);
            }
            Pace::Eager { large_turns } if bytes >= LARGE_PIECE => {
                *large_turns += 1;
                if *large_turns == LONG_TURNS {
                    self.pace = Pace::Patient;
                    pipe::set_least(from, PATIENT_BYTES);
                }
            }
            Pace::Patient | Pace::Eager { .. } | Pace::Steady => {}
        }
    }

    /// Sends what is in the pipe. Returns what follows if some of it stays. If everything goes out, the turn
    /// goes on.
    fn drain(&mut self, mut pipe: Pipe, from: &Peer, to: &Peer, bytes: &mut TurnBytes) -> Option<Turn> {
        let (delivered, left) = pipe.drain(to);
        bytes.delivered += delivered;
        match left {
            None => return None,
            Some(Left::Full) => to.wait_writable(),
            // No event reports when the kernel has memory again.
            Some(Left::Shortage) => from.wake_at(from.ring().now().after(SHORTAGE_PAUSE)),
            Some(Left::Failed(error)) => {
                to.mark_dead(error);
                return Some(Turn::DestinationFailed);
            }
        }
        self.pipe = Some(Box::new(pipe));
        // Until the pipe is empty, nothing is received from the source, so nothing else would report its
        // reset.
        from.watch();
        Some(Turn::Waits)
    }
}

/// A moment within the next days, in four bytes, because idle sessions must be small.
#[derive(Clone, Copy)]
struct ShortTick(NonZeroU32);

impl From<Tick> for ShortTick {
    fn from(tick: Tick) -> Self {
        // Once in 49 days a millisecond early, never late: the moment has come when the task is woken for it.
        Self(NonZeroU32::new(tick.0 as u32).unwrap_or(NonZeroU32::MAX))
    }
}

impl ShortTick {
    /// Returns whether the moment is now or past, by at most 24 days.
    fn has_come(self, now: Tick) -> bool {
        (now.0 as u32).wrapping_sub(self.0.get()) < 1 << 31
    }
}

#[cfg(test)]
impl Splicing {
    /// In the middle of bulk: with bytes in a pipe, patient or not, and with a look to come.
    pub(super) fn under_way(pipe: Option<Pipe>, patient: bool, look_at: Option<Tick>) -> Self {
        let pace = if patient { Pace::Patient } else { Pace::Eager { large_turns: 0 } };
        Self { pipe: pipe.map(Box::new), look_at: look_at.map(ShortTick::from), small_turns: 0, pace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_in_four_bytes_has_come_when_it_comes() {
        for moment in [1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1].map(Tick) {
            let short = ShortTick::from(moment);
            assert!(short.has_come(moment) && short.has_come(Tick(moment.0 + 1)), "{moment:?}");
            assert!(!short.has_come(Tick(moment.0.wrapping_sub(2))), "{moment:?}");
        }
    }
}
