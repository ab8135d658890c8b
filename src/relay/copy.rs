//! The turns of a direction that copies: through provided buffers, one send at a time.
//!
//! While a send is on its way, more is received. A direction counts bytes as consecutive if they came before
//! the preceding ones were gone, or at least [`BULK_PIECE`] at once. After [`BULK_BYTES`] consecutive bytes
//! no further receive is armed, what the one in flight still brings is delivered, and then splicing follows.

use super::turn::{Turn, TurnBytes};
use crate::net::Peer;
use crate::uring::{Receive, Sent};

/// Consecutive bytes after which a direction is bulk.
const BULK_BYTES: u32 = 256 << 10;
/// Bytes at once that count as bulk even if the source had run dry before them.
const BULK_PIECE: u32 = 32 << 10;

/// A direction that copies.
pub(super) struct Copying {
    /// Number of consecutive bytes so far.
    consecutive: u32,
    /// Bytes of a header of our own that have to go out before the source's.
    header_left: u16,
    /// Whether the source had nothing more when the last bytes were gone.
    dry: bool,
    /// Whether bytes of the source are on their way.
    sending: bool,
    /// Whether the destination did not take the last bytes at once; until it takes them, the source gets one
    /// buffer at a time.
    blocked: bool,
}

impl Copying {
    pub(super) fn new() -> Self {
        Self { consecutive: 0, header_left: 0, dry: true, sending: false, blocked: false }
    }

    /// Begins with a header of our own, and in one piece with it what the source has sent so far. The header is no byte
    /// of the direction.
    pub(super) fn begin_with(&mut self, header: Vec<u8>, from: &Peer, to: &Peer) {
        // A header is much shorter, and what is longer could not be told from the source's bytes.
        self.header_left = u16::try_from(header.len()).unwrap_or(u16::MAX);
        let bytes = from.forward_behind(header, to);
        self.note_piece(bytes);
        self.sending = bytes > 0;
        self.receive(from);
    }

    /// Bytes of our own header that have not gone out.
    pub(super) fn header_left(&self) -> usize {
        self.header_left.into()
    }

    /// Returns how many of these bytes that went out were the source's.
    fn without_header(&mut self, bytes: u32) -> u32 {
        let own = u32::from(self.header_left).min(bytes);
        self.header_left -= own as u16;
        bytes - own
    }

    /// Returns whether bytes of the source are on their way to the destination.
    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Receives more from the source, unless it has ended.
    pub(super) fn receive(&self, from: &Peer) {
        from.receive(if self.blocked { Receive::One } else { Receive::Many });
    }

    /// Moves what can be moved now, adds it to `bytes`, and returns what follows; splicing follows only if
    /// `may_splice`.
    pub(super) fn turn(&mut self, from: &Peer, to: &Peer, may_splice: bool, bytes: &mut TurnBytes) -> Turn {
        if let Some(turn) = self.finish_send(from, to, bytes) {
            return turn;
        }
        if to.has_failed() {
            // Checked before anything is taken from the source, because nothing more can be delivered.
            return Turn::DestinationReset;
        }
        bytes.received = from.forward(to);
        let is_bulk = self.note_piece(bytes.received) && may_splice;
        if bytes.received > 0 {
            self.sending = true;
            if from.received() == 0 && !is_bulk {
                // More may come while this is being sent; only one buffer of it if the destination is slow.
                self.receive(from);
            }
            return Turn::Waits;
        }
        match from.ended() {
            // Not while a receive is in flight: only one call may read the source at any moment.
            None if is_bulk && !from.is_receiving() => Turn::Splices,
            None => {
                // Also for bulk: a receive in flight goes on, and this call does nothing then.
                self.receive(from);
                Turn::Waits
            }
            Some(end) => Turn::SourceEnded(end),
        }
    }

    /// Notes how many bytes were found when the destination was ready for more. Returns whether the direction
    /// is bulk.
    fn note_piece(&mut self, bytes: u32) -> bool {
        if bytes > 0 {
            let was_interrupted = self.dry && bytes < BULK_PIECE;
            self.consecutive = if was_interrupted { 0 } else { self.consecutive.saturating_add(bytes) };
        }
        self.dry = bytes == 0;
        self.consecutive >= BULK_BYTES
    }

    /// Accounts for what the last send has delivered. Returns what follows, unless the destination is ready
    /// for more.
    fn finish_send(&mut self, from: &Peer, to: &Peer, bytes: &mut TurnBytes) -> Option<Turn> {
        match to.sent() {
            Sent::Nothing => None,
            Sent::Done { bytes: delivered, blocked } => {
                (self.sending, self.blocked) = (false, blocked);
                bytes.delivered = self.without_header(delivered);
                None
            }
            Sent::Busy { bytes: delivered, blocked } => {
                bytes.delivered = self.without_header(delivered);
                if blocked {
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
                self.sending = false;
                bytes.delivered = self.without_header(delivered);
                Some(Turn::DestinationFailed)
            }
        }
    }
}
