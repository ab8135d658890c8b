//! The turns of a direction that copies: through provided buffers, one send at a time.
//!
//! While a send is on its way, more is received. A direction counts bytes as consecutive if they came before
//! the preceding ones were gone, or at least [`BULK_PIECE`] at once. After [`BULK_BYTES`] consecutive bytes
//! no further receive is armed, what the one in flight still brings is delivered, and then splicing follows.
//!
//! A direction with a limited rate receives no more at a time than it may send, so that it holds no buffer while it
//! waits. What it holds nevertheless, because it was received before the relay began, goes out in parts.

use super::throttle::Throttle;
use super::turn::{Turn, TurnBytes};
use crate::net::Peer;
use crate::uring::{Receive, Sent};

/// Consecutive bytes after which a direction is bulk: about as many as a receive of many brings, which has to end first.
const BULK_BYTES: u32 = 64 << 10;
/// Bytes at once that count as bulk even if the source had run dry before them, as it does between messages. Splicing a message
/// of this size costs what copying it costs; of twice the size, a tenth less.
const BULK_PIECE: u32 = 16 << 10;
/// A direction that may send this many bytes receives many buffers at a time, which is bounded by about as many.
const MANY_BYTES: u32 = 64 << 10;

/// A direction that copies.
///
/// Once the destination has got a byte, sends are quiet where nobody has to be told of their end: their bytes count as delivered
/// when they are handed to the ring, and the next turn, whatever it is for, finds out if they were not.
pub(super) struct Copying {
    /// Number of consecutive bytes so far.
    consecutive: u32,
    /// The last bits of the turn of the ring in which bytes were last handed over.
    forwarded_in: u16,
    /// Bytes of a header of our own that have to go out before the source's.
    header_left: u16,
    /// Whether the source had nothing more when the last bytes were gone.
    dry: bool,
    /// Whether bytes of the source are on their way.
    sending: bool,
    /// Whether the destination has taken less than was handed over last.
    is_short: bool,
    /// Whether the destination did not take the last bytes at once; until it takes them, the source gets one
    /// buffer at a time.
    blocked: bool,
}

impl Copying {
    pub(super) fn new() -> Self {
        Self {
            consecutive: 0,
            forwarded_in: 0,
            header_left: 0,
            dry: true,
            sending: false,
            is_short: false,
            blocked: false,
        }
    }

    /// Begins with a header of our own, and in one piece with it what the source has sent so far. The header is no byte
    /// of the direction.
    pub(super) fn begin_with(
        &mut self,
        header: Vec<u8>,
        from: &Peer,
        to: &Peer,
        throttle: Option<&mut Throttle>,
    ) {
        // A header is much shorter, and what is longer could not be told from the source's bytes.
        self.header_left = u16::try_from(header.len()).unwrap_or(u16::MAX);
        if throttle.is_some() {
            // The source's bytes have to ask first, in their turn.
            return to.send(header);
        }
        let bytes = from.forward_behind(header, to);
        self.note_piece(bytes);
        self.sending = bytes > 0;
        self.receive(from, None);
    }

    /// Bytes of our own header that have not gone out.
    pub(super) fn header_left(&self) -> usize {
        self.header_left.into()
    }

    /// Counts those of the bytes that went out which are the source's and were not counted.
    fn count(&mut self, sent: u32, bytes: &mut TurnBytes) {
        let own = u32::from(self.header_left).min(sent);
        self.header_left -= own as u16;
        let counted = bytes.ahead.min(sent - own);
        bytes.ahead -= counted;
        bytes.delivered = sent - own - counted;
    }

    /// Returns whether the destination has not taken all that was counted ahead.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Returns whether bytes of the source are on their way to the destination.
    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Receives more from the source, unless it has ended, or has to wait for its budget.
    pub(super) fn receive(&self, from: &Peer, throttle: Option<&mut Throttle>) {
        let unlimited = if self.blocked { Receive::One } else { Receive::Many };
        let most = match throttle {
            Some(throttle) if !from.is_receiving() => throttle.allowance(from),
            _ => MANY_BYTES,
        };
        match most {
            0 => {}
            1..MANY_BYTES => from.receive(Receive::AtMost(most)),
            MANY_BYTES.. => from.receive(unlimited),
        }
    }

    /// Sends what the source has brought, as much as the budget allows. Returns the number of bytes; `None` if all of
    /// them have to wait for the budget.
    fn forward(from: &Peer, to: &Peer, throttle: Option<&mut Throttle>, may_be_quiet: bool) -> Option<u32> {
        let Some(throttle) = throttle.filter(|_| from.received() > 0) else {
            return Some(from.forward(to, may_be_quiet));
        };
        let most = throttle.allowance(from);
        if most == 0 {
            return None;
        }
        let bytes = if from.received() <= most as usize {
            from.forward(to, false)
        } else {
            let part = from.peek_received(most as usize);
            from.consume(part.len());
            to.send(part);
            most
        };
        throttle.spend(bytes);
        Some(bytes)
    }

    /// Moves what can be moved now, adds it to `bytes`, and returns what follows; splicing follows only if
    /// `may_splice`.
    pub(super) fn turn(
        &mut self,
        from: &Peer,
        to: &Peer,
        may_splice: bool,
        mut throttle: Option<&mut Throttle>,
        bytes: &mut TurnBytes,
    ) -> Turn {
        if let Some(turn) = self.finish_send(from, to, bytes) {
            return turn;
        }
        if to.has_failed() {
            // Checked before anything is taken from the source, because nothing more can be delivered.
            return Turn::DestinationReset;
        }
        if !from.may_move(to) {
            return Turn::Waits;
        }
        let turn = to.ring().turn() as u16;
        // A quiet send wakes nobody, so what came later than in the next turn came after it was gone.
        self.dry |= !self.blocked && turn.wrapping_sub(self.forwarded_in) > 1;
        // Splicing follows the send of the last piece, so that is told of.
        let waiting = u32::try_from(from.received()).unwrap_or(u32::MAX);
        let may_be_quiet = bytes.may_be_quiet && !(may_splice && self.would_be_bulk(waiting));
        let Some(forwarded) = Self::forward(from, to, throttle.as_deref_mut(), may_be_quiet) else {
            if to.ring().buffers_scarce() {
                from.spill_received();
            }
            return Turn::Waits;
        };
        bytes.received = forwarded;
        let is_bulk = self.note_piece(bytes.received) && may_splice;
        if bytes.received > 0 {
            (self.sending, self.is_short, self.forwarded_in) = (true, false, turn);
            if to.is_quiet() {
                bytes.ahead = forwarded;
                bytes.delivered += forwarded;
            }
            if from.received() == 0 && !is_bulk {
                // More may come while this is being sent; only one buffer of it if the destination is slow.
                self.receive(from, throttle);
            }
            return Turn::Waits;
        }
        match from.ended() {
            // Not while a receive is in flight: only one call may read the source at any moment.
            None if is_bulk && !from.is_receiving() => Turn::Splices,
            None => {
                // Also for bulk: a receive in flight goes on, and this call does nothing then.
                self.receive(from, throttle);
                Turn::Waits
            }
            Some(end) => Turn::SourceEnded(end),
        }
    }

    /// Notes how many bytes were found when the destination was ready for more. Returns whether the direction
    /// is bulk.
    fn note_piece(&mut self, bytes: u32) -> bool {
        if bytes > 0 {
            self.consecutive = self.consecutive_with(bytes);
        }
        self.dry = bytes == 0;
        self.consecutive >= BULK_BYTES
    }

    /// Returns whether the direction is bulk with a piece of so many bytes.
    fn would_be_bulk(&self, bytes: u32) -> bool {
        self.consecutive_with(bytes) >= BULK_BYTES
    }

    fn consecutive_with(&self, bytes: u32) -> u32 {
        let was_interrupted = self.dry && bytes < BULK_PIECE;
        if was_interrupted { 0 } else { self.consecutive.saturating_add(bytes) }
    }

    /// Accounts for what the last send has delivered. Returns what follows, unless the destination is ready
    /// for more.
    fn finish_send(&mut self, from: &Peer, to: &Peer, bytes: &mut TurnBytes) -> Option<Turn> {
        match to.sent() {
            Sent::Nothing => None,
            Sent::Done { bytes: delivered, blocked } => {
                (self.sending, self.blocked) = (false, blocked);
                bytes.late = blocked;
                self.count(delivered, bytes);
                None
            }
            Sent::Busy { bytes: delivered, blocked } => {
                bytes.late = delivered > 0;
                self.count(delivered, bytes);
                if blocked {
                    self.is_short = true;
                    // Back-pressure: what cannot be sent is not received either.
                    self.blocked = true;
                    from.pause_receive();
                    // A receive that waits for its bytes to be taken does not report a reset.
                    from.watch();
                    if to.ring().buffers_scarce() {
                        // Directions that can send need the buffers more.
                        from.spill_received();
                    }
                }
                Some(Turn::Waits)
            }
            Sent::Failed { bytes: delivered, .. } => {
                (self.sending, self.is_short) = (false, true);
                self.count(delivered, bytes);
                Some(Turn::DestinationFailed)
            }
        }
    }
}
