//! The start of every operation: what arms each [`Op`], in the order of [`Op`]. Arming a receive or a poll
//! that is in flight already does nothing. `complete` ends the operations.

#![expect(unsafe_code, reason = "a connect to a Unix socket borrows the descriptor from its slot")]

use std::io;
use std::os::fd::BorrowedFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use socket2::SockRef;

use super::buffers::GROUP;
use super::core::Core;
use super::knock::{Knock, Knocked};
use super::queues::{SEND_PIECES, Wait};
use super::setup::{SEND_FLAGS, quiet, with_total};
use super::slot::{Extra, Key, Mark, Op, Receive, Slot};
use crate::base::Tick;

/// Bytes that one multishot receive may bring before it has to be armed again: four buffers of the default
/// size.
const MULTISHOT_BYTES: u32 = 64 * 1024;
/// Pieces after which a multishot receive is armed anew. After 33 of them the kernel queues the receive again
/// (MULTISHOT_MAX_RETRY in io_uring/net.c), and may then never report an end or a reset that follows the
/// bytes (seen on 6.18.44). A newly armed receive looks at the socket itself.
pub(super) const MULTISHOT_PIECES: u8 = 31;

/// How many rings an event wakes, if several of them poll one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wakes {
    /// Every ring.
    All,
    /// One of the rings that wait with this value.
    One,
}

impl Core {
    /// Hands everything over to the kernel, and waits as told.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.buffers.refill();
        self.feed_starved();
        self.queues.enter(wait)?;
        if self.queues.is_submitted() {
            self.quiet.note_taken();
        }
        Ok(())
    }

    /// Arms receives again that found no buffer, as many as there are posted buffers. Receives whose socket
    /// is gone are skipped.
    fn feed_starved(&mut self) {
        let mut left = self.buffers.posted();
        while left > 0
            && let Some(key) = self.starved.pop_front()
        {
            if let Some(slot) = self.slots.find(key)
                && slot.unset(Mark::Starved)
                && !slot.is(Mark::Orphan)
            {
                self.receive_again(key);
                left -= 1;
            }
        }
    }
}

/// [`Op::Recv`].
impl Core {
    /// Receives into provided buffers: many, by a bounded multishot if the kernel supports it; otherwise
    /// once.
    pub(super) fn arm_receive(&mut self, key: Key, receive: Receive) {
        let slot = self.slots.of(key);
        if slot.is_in_flight(Op::Recv) && slot.is(Mark::More) {
            // A receive of many goes on as long as there is more. This one did not: it stops before an urgent
            // byte at the end, and what follows that byte may not wake it (seen once in 50,000 ends, and as
            // many resets).
            return self.pause_receive(key);
        }
        let waits = slot.is_in_flight(Op::Recv) || slot.is(Mark::Starved) || slot.is(Mark::Parked);
        if waits || slot.end.is_some() {
            return;
        }
        let fd = Fd(slot.fd);
        slot.set(Mark::Multi, receive == Receive::Many && self.features.bounded_multishot);
        slot.set(Mark::Cancelled, false);
        slot.set(Mark::More, false);
        slot.set(Mark::Fresh, true);
        slot.pieces = 0;
        let entry = if slot.is(Mark::Multi) {
            let most = MULTISHOT_BYTES.min(self.buffers.size().saturating_mul(MULTISHOT_PIECES.into()));
            with_total(opcode::RecvMulti::new(fd, GROUP).build(), most)
        } else {
            // The kernel takes 0 for the size of the buffer.
            let most = if let Receive::AtMost(bytes) = receive { bytes } else { 0 };
            opcode::Recv::new(fd, std::ptr::null_mut(), most)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.arm(key, Op::Recv, entry);
        self.parking.note_armed();
    }

    /// Arms the receive that a slot had before, as one of many or of one buffer.
    pub(super) fn receive_again(&mut self, key: Key) {
        let is_multi = self.slots.of(key).is(Mark::Multi);
        self.arm_receive(key, if is_multi { Receive::Many } else { Receive::One });
    }

    /// Parks receives that have brought nothing for a while.
    pub(super) fn park(&mut self, now: Tick) {
        for key in self.parking.pass(&mut self.slots, now) {
            self.renew_receive(key);
            self.slots.of(key).set(Mark::Parked, true);
        }
    }

    /// Polls in the place of the receive that was cancelled for it. Returns whether it was.
    pub(super) fn wait_parked(&mut self, key: Key) -> bool {
        let is_parked = self.slots.of(key).is(Mark::Parked);
        if is_parked {
            self.arm_readable(key, Wakes::All);
        }
        is_parked
    }

    /// Receives again, if the poll that has ended was there for it. Returns whether it was.
    pub(super) fn unpark(&mut self, key: Key) -> bool {
        let was_parked = self.slots.of(key).unset(Mark::Parked);
        if was_parked {
            self.receive_again(key);
            self.has_unparked = true;
        }
        was_parked
    }

    /// Ends a multishot receive; what it brings until then is kept.
    pub(super) fn pause_receive(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if slot.is(Mark::Multi) {
            self.renew_receive(key);
        }
    }

    /// Ends the receive in flight, so that its owner arms another one, which looks at the socket itself.
    pub(super) fn renew_receive(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if slot.unset(Mark::Parked) {
            self.cancel(key, Op::Readable);
        } else if !slot.is(Mark::Cancelled) {
            slot.set(Mark::Cancelled, true);
            self.cancel(key, Op::Recv);
        }
    }
}

/// [`Op::Send`].
impl Core {
    /// Moves received bytes of `from`, at most [`SEND_PIECES`] buffers, into a send on `to`. Returns the
    /// number of bytes.
    pub(super) fn forward(&mut self, from: Key, to: Key, may_be_quiet: bool) -> u32 {
        let source = self.slots.of(from);
        let spilled = source.take_spilled();
        if !spilled.is_empty() {
            let count = u32::try_from(spilled.len()).unwrap_or(u32::MAX);
            self.send_bytes(to, spilled);
            return count;
        }
        let chain = self.buffers.split(&mut source.received, SEND_PIECES);
        if chain.is_empty() {
            return 0;
        }
        let bytes = chain.bytes;
        // If more follows, somebody has to be told.
        let is_last = source.received.is_empty() && source.end.is_none();
        // Buffers that are scarce must not wait for the end of a sleep.
        let may_be_quiet = may_be_quiet && self.features.quiet_sends && !self.buffers.scarce();
        let slot = self.new_send(to);
        slot.unsent = chain;
        slot.set(Mark::Quiet, may_be_quiet && is_last);
        self.arm_send(to);
        bytes
    }

    /// Sends bytes of our own, and behind them in the same piece all received bytes of `from`. Returns the number of
    /// the latter.
    pub(super) fn forward_behind(&mut self, mut own: Vec<u8>, from: Key, to: Key) -> u32 {
        let source = self.slots.of(from);
        let before = own.len();
        own.extend_from_slice(source.spilled());
        self.buffers.copy_first(&source.received, source.received.bytes as usize, &mut own);
        self.discard_received(from);
        let count = u32::try_from(own.len() - before).unwrap_or(u32::MAX);
        self.send_bytes(to, own);
        count
    }

    /// Sends bytes of our own.
    pub(super) fn send_bytes(&mut self, to: Key, bytes: Vec<u8>) {
        self.new_send(to).put_extra(Extra::Bytes(bytes, 0));
        self.arm_send(to);
    }

    fn new_send(&mut self, to: Key) -> &mut Slot {
        let slot = self.slots.of(to);
        debug_assert!(!slot.is(Mark::Sending), "a send before the last one was reported");
        slot.set(Mark::Sending, true);
        slot.set(Mark::Blocked, false);
        slot.set(Mark::Quiet, false);
        slot.set(Mark::Awaited, false);
        slot
    }

    /// Sends what the slot holds, as much as the peer takes at once.
    pub(super) fn arm_send(&mut self, key: Key) {
        let slot = self.slots.of(key);
        let is_quiet = slot.is(Mark::Quiet);
        let whole = if is_quiet { libc::MSG_WAITALL } else { 0 };
        let flags = SEND_FLAGS | whole;
        let fd = Fd(slot.fd);
        let mut one = None;
        if let Some(Extra::Bytes(bytes, sent)) = slot.extra() {
            let rest = &bytes[*sent..];
            one = Some((rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX)));
        } else if slot.unsent.is_single() {
            let piece = self.buffers.pieces(&slot.unsent).next();
            one = piece.map(|(start, length)| (start.cast_const(), length));
        }
        let entry = match one {
            Some((start, length)) => opcode::Send::new(fd, start, length).flags(flags).build(),
            None => {
                let header = self.queues.gather(self.buffers.pieces(&slot.unsent));
                opcode::SendMsg::new(fd, header).flags(flags as u32).build()
            }
        };
        let entry = if is_quiet {
            self.quiet.push(key);
            quiet(entry)
        } else {
            entry
        };
        self.arm(key, Op::Send, entry);
    }
}

/// [`Op::Connect`].
impl Core {
    /// Starts a connect; for a Unix socket that is left to [`Self::knock`].
    pub(super) fn arm_connect(&mut self, key: Key, address: socket2::SockAddr) {
        let slot = self.slots.of(key);
        slot.error = None;
        if address.is_unix() {
            slot.put_extra(Extra::Knock(Knock::new(address)));
            return;
        }
        let fd = Fd(slot.fd);
        let Extra::Address(address) = slot.put_extra(Extra::Address(address)) else {
            unreachable!("put there just now")
        };
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        self.arm(key, Op::Connect, entry);
    }

    /// Connects to a Unix socket, if the slot is for one and it is time to. No operation of the ring is in
    /// flight.
    pub(super) fn knock(&mut self, key: Key, now: Tick) -> Knocked {
        let slot = self.slots.of(key);
        let fd = slot.fd;
        let Some(Extra::Knock(knock)) = slot.extra() else { return Knocked::Ended(None) };
        // SAFETY: the slot owns the descriptor, which is open for as long as it is there.
        let knocked = knock.attempt(SockRef::from(&unsafe { BorrowedFd::borrow_raw(fd) }), now);
        if let Knocked::Ended(error) = knocked {
            slot.take_extra();
            slot.error = error;
        }
        knocked
    }
}

/// The polls, and the read of a doorbell.
impl Core {
    /// Notices a reset on a side that has ended its stream, where no receive could report it.
    pub(super) fn arm_watch(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if !slot.is_in_flight(Op::Watch) && !slot.is(Mark::Dead) {
            // The ring always reports errors, hang-ups and, beyond poll(2), the peer's FIN. The FIN is
            // already there and would end a single poll at once; a multishot goes on to the next event.
            let entry = opcode::PollAdd::new(Fd(slot.fd), 0).multi(true).build();
            self.arm(key, Op::Watch, entry);
        }
    }

    /// Reads the count of a doorbell, which waits until it is not 0.
    pub(super) fn arm_count(&mut self, key: Key) {
        let slot = self.slots.of(key);
        let fd = Fd(slot.fd);
        let Extra::Count(counter) = slot.put_extra(Extra::Count(0)) else {
            unreachable!("put there just now")
        };
        let entry = opcode::Read::new(fd, (&raw mut *counter).cast(), 8).build();
        self.arm(key, Op::Count, entry);
    }

    /// Polls once for something to read; data that is already there counts.
    pub(super) fn arm_readable(&mut self, key: Key, wakes: Wakes) {
        let slot = self.slots.of(key);
        if !slot.is_in_flight(Op::Readable) {
            let events =
                libc::POLLIN as u32 | if wakes == Wakes::One { libc::EPOLLEXCLUSIVE as u32 } else { 0 };
            let entry = opcode::PollAdd::new(Fd(slot.fd), events).build();
            self.arm(key, Op::Readable, entry);
        }
    }

    /// Notes that the peer takes no more, and polls for room to write.
    ///
    /// A single poll would not do: the ring adds `POLLRDHUP` to every poll, which is true from the peer's FIN
    /// on, and would end a single poll at once. A multishot goes on to the next event, and one comes after
    /// each call that found no room, as with edge-triggered epoll(7). So the poll is armed once and left.
    pub(super) fn arm_writable(&mut self, key: Key) {
        let slot = self.slots.of(key);
        slot.set(Mark::AwaitsRoom, true);
        if !slot.is_in_flight(Op::Writable) {
            let entry = opcode::PollAdd::new(Fd(slot.fd), libc::POLLOUT as u32).multi(true).build();
            self.arm(key, Op::Writable, entry);
        }
    }
}
