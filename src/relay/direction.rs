//! One direction of a relay, by copying through provided buffers.

use crate::uring::{End, Sent, Socket, Tick};

/// Where a direction stands; the module `relay` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    Finished,
    Aborted,
    Broken,
}

/// Bytes from one socket to the other.
pub(super) struct Direction {
    /// Delivered.
    pub(super) bytes: u64,
    /// When a byte last moved.
    pub(super) moved: Tick,
    pub(super) flow: Flow,
    sending: bool,
    /// Another destination could take this one's place before the first byte.
    replaceable: bool,
    /// The destination did not take the last bytes at once; until it does, the source gets one buffer at a time.
    blocked: bool,
}

impl Direction {
    pub(super) fn new(now: Tick, replaceable: bool) -> Self {
        Self { bytes: 0, moved: now, flow: Flow::Open, sending: false, replaceable, blocked: false }
    }

    /// Whether bytes are on their way out.
    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Moves what can be moved now. The caller's task is woken when there may be more.
    pub(super) fn advance(&mut self, from: &Socket, to: &Socket) {
        if self.flow == Flow::Broken {
            self.discard(from);
        }
        if self.flow != Flow::Open || !self.finish_send(from, to) {
            return;
        }
        if matches!(to.ended(), Some(End::Failed(_))) {
            // The destination was reset: what it sent before is the other direction's business, and what is
            // received here may still go to another backend.
            return;
        }
        if from.forward(to) {
            self.sending = true;
            self.moved = from.ring().now();
            if from.received() == 0 {
                // More may come while this is sent; one buffer of it where the destination is slow.
                from.receive(!self.blocked);
            }
            return;
        }
        match from.ended() {
            None => from.receive(!self.blocked),
            Some(End::Failed(_)) => {
                from.mark_dead();
                self.flow = Flow::Aborted;
            }
            // A send to the source has failed before: what looks like a clean end is the rest of a reset.
            Some(End::Clean) if from.is_dead() => self.flow = Flow::Aborted,
            Some(End::Clean) => self.finish(from, to),
        }
    }

    /// Accounts what went out. Whether the destination is ready for more.
    fn finish_send(&mut self, from: &Socket, to: &Socket) -> bool {
        match to.sent() {
            Sent::Nothing => true,
            Sent::Done { bytes, blocked } => {
                self.sending = false;
                self.blocked = blocked;
                self.account(bytes, from);
                true
            }
            Sent::Busy { bytes, blocked } => {
                self.account(bytes, from);
                if blocked {
                    self.blocked = true;
                    from.pause_receive();
                    if to.ring().buffers_scarce() {
                        from.spill_received();
                    }
                }
                false
            }
            Sent::Failed { bytes, .. } => {
                self.sending = false;
                self.account(bytes, from);
                to.mark_dead();
                self.flow = Flow::Broken;
                if self.bytes == 0 {
                    // Nothing reached the destination: another one may get it.
                    from.reclaim(to);
                }
                self.discard(from);
                false
            }
        }
    }

    /// Takes what nobody will get, so that a source which writes before it reads comes to read what it is still
    /// owed. What another destination may get is kept.
    fn discard(&self, from: &Socket) {
        if self.bytes > 0 || !self.replaceable {
            from.discard_received();
            from.receive(false);
        } else {
            from.pause_receive();
        }
    }

    fn account(&mut self, bytes: u32, from: &Socket) {
        if bytes > 0 {
            self.bytes += u64::from(bytes);
            self.moved = from.ring().now();
        }
    }

    /// The source has sent FIN and everything before it was delivered.
    fn finish(&mut self, from: &Socket, to: &Socket) {
        self.flow = match to.shutdown_write() {
            Ok(()) => Flow::Finished,
            // ENOTCONN: the destination was reset, which its own direction will report.
            Err(_) => Flow::Broken,
        };
        // The receive that would notice a reset of this side has ended with its stream.
        from.watch();
    }
}
