//! What a ring owns: its queues, slots and buffers. Operations on them begin in `submit` and end in
//! `complete`.

#![expect(unsafe_code, reason = "entries name memory and descriptors that the kernel uses later")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue};

use super::buffers::Buffers;
use super::heap::Heap;
use super::parking::Parking;
use super::queues::Queues;
use super::quiet::QuietSends;
use super::setup::{Features, quiet};
use super::slot::{Extra, Key, Mark, NOBODY, Op, Slots};
use crate::base::Spares;

/// Shorter pieces are joined before they are encrypted.
const LONG_PIECE: usize = 4 << 10;

/// A ring with all the memory that the kernel may touch on its behalf.
pub(super) struct Core {
    // First, so that the ring is closed before the memory it uses.
    pub(super) queues: Queues,
    pub(super) slots: Slots,
    pub(super) buffers: Buffers,
    pub(super) heap: Heap,
    pub(super) features: Features,
    /// Receives that found no buffer, in order of arrival.
    pub(super) starved: VecDeque<Key>,
    pub(super) spares: Rc<Spares>,
    pub(super) quiet: QuietSends,
    pub(super) parking: Parking,
    /// Whether a receive that was parked was armed again since the last enter.
    pub(super) has_unparked: bool,
}

impl Core {
    pub(super) fn new(ring: IoUring, features: Features, size: u32, count: u32) -> io::Result<Self> {
        let buffers = Buffers::new(&ring, size, count)?;
        Ok(Self {
            queues: Queues::new(ring, features),
            slots: Slots::new(),
            buffers,
            heap: Heap::default(),
            features,
            starved: VecDeque::new(),
            spares: Rc::default(),
            quiet: QuietSends::default(),
            parking: Parking::default(),
            has_unparked: false,
        })
    }

    /// Puts an operation on a descriptor in flight.
    pub(super) fn arm(&mut self, key: Key, op: Op, entry: squeue::Entry) {
        let slot = self.slots.of(key);
        debug_assert!(!slot.is_in_flight(op), "{op:?} twice on one descriptor");
        slot.in_flight |= op.bit();
        // SAFETY: whatever the entry names belongs to its slot (descriptor, address, bytes, chain) or to the
        // gathers of the queue, and both outlive the operation; see the module `slot`.
        unsafe { self.queues.push(entry.user_data(key.user_data(op))) };
    }

    /// Cancels an operation that is in flight; its completion still comes.
    pub(super) fn cancel(&mut self, key: Key, op: Op) {
        if self.slots.of(key).is_in_flight(op) {
            let entry = quiet(opcode::AsyncCancel::new(key.user_data(op)).build().user_data(NOBODY));
            // SAFETY: a cancel names an operation by number, and no memory.
            unsafe { self.queues.push(entry) };
        }
    }
}

/// Descriptors.
impl Core {
    pub(super) fn insert(&mut self, fd: OwnedFd) -> Key {
        let key = self.slots.insert(fd.into_raw_fd());
        self.heap.note_descriptors(self.slots.len());
        key
    }

    pub(super) fn fd(&mut self, key: Key) -> RawFd {
        self.slots.of(key).fd
    }

    /// Releases a slot whose handle is gone: cancels what is in flight, and closes the descriptor after the
    /// last completion.
    pub(super) fn release(&mut self, key: Key) {
        let slot = self.slots.of(key);
        slot.set(Mark::Orphan, true);
        slot.set(Mark::Parked, false);
        slot.waker = None;
        self.buffers.release(&mut slot.received);
        if slot.in_flight == 0 {
            self.close(key);
        } else {
            // One by one: a cancel of everything on a descriptor would look at every request of the ring.
            Op::ALL.into_iter().for_each(|op| self.cancel(key, op));
        }
    }

    pub(super) fn close(&mut self, key: Key) {
        let mut slot = self.slots.remove(key);
        debug_assert_eq!(slot.in_flight, 0, "closed while the kernel uses it");
        self.buffers.release(&mut slot.unsent);
        self.buffers.release(&mut slot.received);
        // SAFETY: the slot owned the descriptor, is gone now, and no operation names it any more.
        let socket = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(slot.fd) });
        if slot.is(Mark::Reset) {
            // Zero lingering makes close(2) send RST, socket(7). This cannot fail on a TCP socket, and on
            // another kind of socket there is no reset to send.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// Bytes that were received, and bytes that were not sent.
impl Core {
    /// Moves received bytes out of the provided buffers, so that other sessions can use those.
    pub(super) fn spill_received(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if !slot.received.is_empty() {
            self.heap.note_moved(slot.received.bytes as usize);
            slot.spill(&self.buffers.copy(&slot.received));
            self.buffers.release(&mut slot.received);
        }
    }

    /// Takes what was received, behind what `bytes` has.
    pub(super) fn take_received_into(&mut self, key: Key, bytes: &mut Vec<u8>) {
        let slot = self.slots.of(key);
        bytes.append(&mut slot.take_spilled());
        let chain = &mut slot.received;
        self.buffers.copy_first(chain, chain.bytes as usize, bytes);
        self.buffers.release(chain);
    }

    /// Calls `see` with the received bytes, piece by piece and at most `most` of them, and drops these. Returns how many
    /// they are.
    pub(super) fn take_pieces(&mut self, key: Key, most: usize, mut see: impl FnMut(&[u8])) -> usize {
        let slot = self.slots.of(key);
        let spilled = slot.spilled();
        let mut taken = most.min(spilled.len());
        if taken > 0 {
            see(&spilled[..taken]);
        }
        self.buffers.each(&slot.received, most - taken, |piece| {
            taken += piece.len();
            see(piece);
        });
        self.consume_received(key, taken);
        taken
    }

    /// Returns whether what was received came in pieces so long that each is worth a record of TLS.
    pub(super) fn has_long_pieces(&mut self, key: Key) -> bool {
        let slot = self.slots.of(key);
        let pieces = self.buffers.pieces(&slot.received).count() + usize::from(!slot.spilled().is_empty());
        pieces <= 1 || slot.received.bytes as usize >= pieces * LONG_PIECE
    }

    /// Returns a copy of the first received bytes, at most `most` of them.
    pub(super) fn peek_received(&mut self, key: Key, most: usize) -> Vec<u8> {
        let slot = self.slots.of(key);
        let spilled = slot.spilled();
        let mut bytes = spilled[..most.min(spilled.len())].to_vec();
        self.buffers.copy_first(&slot.received, most - bytes.len(), &mut bytes);
        bytes
    }

    /// Drops the first `bytes` received bytes.
    pub(super) fn consume_received(&mut self, key: Key, bytes: usize) {
        let slot = self.slots.of(key);
        let rest = bytes - slot.consume_spilled(bytes);
        debug_assert!(rest <= slot.received.bytes as usize, "{rest} of {} bytes", slot.received.bytes);
        let rest = u32::try_from(rest).unwrap_or(u32::MAX).min(slot.received.bytes);
        self.buffers.consume(&mut slot.received, rest);
    }

    /// Discards received bytes.
    pub(super) fn discard_received(&mut self, key: Key) {
        let slot = self.slots.of(key);
        self.buffers.release(&mut slot.received);
        slot.take_spilled();
    }

    /// Takes back the bytes of a failed send that never left, without the first `own` of them.
    pub(super) fn take_unsent(&mut self, key: Key, own: usize) -> Vec<u8> {
        let slot = self.slots.of(key);
        let mut chain = slot.unsent.take();
        slot.error = None;
        let bytes = match slot.take_extra() {
            Some(Extra::Bytes(mut bytes, sent)) => {
                bytes.drain(..bytes.len().min(sent + own));
                bytes
            }
            _ => self.buffers.copy(&chain),
        };
        self.buffers.release(&mut chain);
        bytes
    }

    /// Puts bytes back before those that were received since then.
    pub(super) fn put_back(&mut self, key: Key, mut bytes: Vec<u8>) {
        // Spilled bytes come before the queue, and bytes received since then may have been spilled.
        let source = self.slots.of(key);
        bytes.extend(source.take_spilled());
        source.spill(&bytes);
    }

    /// Discards what was to be sent and is not with the kernel now, so that other sessions can use its
    /// buffers.
    pub(super) fn drop_unsent(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if slot.is_in_flight(Op::Send) {
            return;
        }
        slot.set(Mark::Sending, false);
        slot.set(Mark::AwaitsRoom, false);
        if matches!(slot.extra(), Some(Extra::Bytes(..))) {
            slot.take_extra();
        }
        self.buffers.release(&mut slot.unsent);
    }
}

/// Memory.
impl Core {
    /// Returns whether [`Self::shrink`] could give memory back at some point.
    pub(super) fn can_shrink(&self) -> bool {
        !self.spares.is_empty()
            || self.buffers.can_shrink()
            || self.slots.can_shrink()
            || self.heap.can_shrink(self.slots.len())
    }

    /// Gives back memory that was not used since the last call; meant to be called every few seconds, and
    /// only right after a [reap](Self::reap): a buffer whose completion was not taken yet counts as posted,
    /// although it is full.
    pub(super) fn shrink(&mut self) {
        let is_reaped = self.queues.is_reaped();
        debug_assert!(is_reaped, "completions that were not taken");
        if !is_reaped {
            return;
        }
        self.spares.clear();
        self.buffers.shrink();
        self.heap.note_table(self.slots.shrink());
        self.heap.shrink(self.slots.len());
    }

    /// Returns whether no completion is left to take.
    pub(super) fn is_reaped(&mut self) -> bool {
        self.queues.is_reaped()
    }

    /// Returns whether a receive waits for a buffer.
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }
}
