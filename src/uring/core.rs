//! The ring itself with all it owns: submission, completion, and what becomes of every result.

#![expect(unsafe_code, reason = "entries name memory and descriptors that the kernel uses later")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::{Buffers, GROUP};
use super::heap::Heap;
use super::knock::Knock;
use super::setup::Features;
use super::slot::{End, Extra, Key, Mark, NOBODY, Op, Receive, Slot, Slots, errno};

/// Entries of the submission queue; what does not fit waits in `overflow`. All of the queues is locked memory
/// (`locked`).
pub(super) const SUBMISSION_ENTRIES: u32 = 512;
/// Entries of the completion queue; beyond it the kernel keeps completions back (NODROP) and nothing is lost.
pub(super) const COMPLETION_ENTRIES: u32 = 2048;
/// Bytes one multishot receive may bring before it has to be armed again: four buffers of the default size.
const MULTISHOT_BYTES: u32 = 64 * 1024;
/// Pieces after which a multishot receive is armed anew. Having brought 33 of them the kernel queues it again
/// (MULTISHOT_MAX_RETRY in io_uring/net.c), and may then never tell of an end or a reset that stands behind
/// the bytes (seen on 6.18.44). A receive that is armed looks at the socket itself.
const MULTISHOT_PIECES: u8 = 31;
/// Most buffers gathered into one send.
pub(super) const SEND_PIECES: usize = 16;
/// `IORING_ENTER_GETEVENTS`, io_uring_enter(2): run deferred completions also when not waiting.
pub(super) const GETEVENTS: u32 = 1;
/// Position of `optlen` in an entry, linux/io_uring.h: the total a multishot receive may bring (Linux 6.18).
const OPTLEN: usize = 44;

/// Header and vector of one gathered send. The kernel copies both while it takes the entry
/// (IORING_FEAT_SUBMIT_STABLE), so they live until the queue was emptied.
struct Gather {
    header: libc::msghdr,
    pieces: [libc::iovec; SEND_PIECES],
}

pub(super) struct Core {
    // First, so that it is closed before the memory it uses.
    ring: IoUring,
    pub(super) slots: Slots,
    pub(super) buffers: Buffers,
    heap: Heap,
    features: Features,
    overflow: VecDeque<squeue::Entry>,
    #[expect(
        clippy::vec_box,
        reason = "a queued entry names the address of its gather; growing must not move it"
    )]
    gathers: Vec<Box<Gather>>,
    gathers_used: usize,
    /// Receives that found no buffer, first come first served.
    starved: VecDeque<Key>,
}

impl Core {
    pub(super) fn new(ring: IoUring, features: Features, size: u32, count: u32) -> io::Result<Self> {
        let buffers = Buffers::new(&ring, size, count)?;
        Ok(Self {
            ring,
            slots: Slots::new(),
            buffers,
            heap: Heap::default(),
            features,
            overflow: VecDeque::new(),
            gathers: Vec::new(),
            gathers_used: 0,
            starved: VecDeque::new(),
        })
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.overflow.is_empty() || !self.try_push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whatever the entry names belongs to its slot (descriptor, address, bytes, chain) or to
        // `gathers`, and both outlive the operation; see the module `slot`.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    fn start(&mut self, key: Key, op: Op, entry: squeue::Entry) {
        let slot = self.slots.of(key);
        debug_assert!(!slot.is_in_flight(op), "{op:?} twice on one descriptor");
        slot.in_flight |= op.bit();
        self.push(entry.user_data(key.user_data(op)));
    }

    // Operations. Each does nothing when its kind is in flight already.

    /// Receives into provided buffers: as a multishot with a bound for many where the kernel can, else
    /// once.
    pub(super) fn arm_receive(&mut self, key: Key, receive: Receive) {
        let slot = self.slots.of(key);
        if slot.is_in_flight(Op::Recv) && slot.is(Mark::More) {
            // A receive of many goes on as long as there is more. This one did not: before an urgent byte
            // that is at the end it stops, and what comes behind that may not wake it (seen once in 50,000
            // ends, and as many resets).
            return self.pause_receive(key);
        }
        if slot.is_in_flight(Op::Recv) || slot.is(Mark::Starved) || slot.end.is_some() {
            return;
        }
        let fd = Fd(slot.fd);
        slot.set(Mark::Multi, receive == Receive::Many && self.features.bounded_multishot);
        slot.set(Mark::Cancelled, false);
        slot.set(Mark::More, false);
        slot.pieces = 0;
        let entry = if slot.is(Mark::Multi) {
            let most = MULTISHOT_BYTES.min(self.buffers.size().saturating_mul(MULTISHOT_PIECES.into()));
            with_total(opcode::RecvMulti::new(fd, GROUP).build(), most)
        } else {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.start(key, Op::Recv, entry);
    }

    /// Ends a multishot receive; what it brings until then is kept.
    pub(super) fn pause_receive(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if slot.is(Mark::Multi) {
            self.renew_receive(key);
        }
    }

    /// Ends the receive in flight, for its owner to arm another one, which looks at the socket itself.
    pub(super) fn renew_receive(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if !slot.is(Mark::Cancelled) {
            slot.set(Mark::Cancelled, true);
            self.cancel(key, Op::Recv);
        }
    }

    /// Moves received bytes of `from`, at most [`SEND_PIECES`] buffers, into a send on `to`. How many.
    pub(super) fn forward(&mut self, from: Key, to: Key) -> u32 {
        let source = self.slots.of(from);
        let spilled = source.take_spilled();
        if !spilled.is_empty() {
            let count = u32::try_from(spilled.len()).unwrap_or(u32::MAX);
            self.start_bytes(to, spilled);
            return count;
        }
        let chain = self.buffers.split(&mut source.received, SEND_PIECES);
        if chain.is_empty() {
            return 0;
        }
        let bytes = chain.bytes;
        self.begin_send(to).unsent = chain;
        self.queue_send(to);
        bytes
    }

    fn begin_send(&mut self, to: Key) -> &mut Slot {
        let slot = self.slots.of(to);
        debug_assert!(!slot.is(Mark::Sending), "a send before the last one was reported");
        slot.set(Mark::Sending, true);
        slot.set(Mark::Blocked, false);
        slot
    }

    /// Sends bytes of our own.
    pub(super) fn start_bytes(&mut self, to: Key, bytes: Vec<u8>) {
        self.begin_send(to).put_extra(Extra::Bytes(bytes, 0));
        self.queue_send(to);
    }

    /// Gives bytes of a failed send that never left back to where they were received.
    pub(super) fn reclaim(&mut self, from: Key, to: Key) {
        let slot = self.slots.of(to);
        let mut chain = slot.unsent.take();
        slot.error = None;
        let mut bytes = match slot.take_extra() {
            Some(Extra::Bytes(bytes, sent)) => {
                debug_assert_eq!(sent, 0, "bytes that left were taken back");
                bytes
            }
            _ => self.buffers.copy(&chain),
        };
        self.buffers.release(&mut chain);
        // What is spilled comes before the queue, and what was received since may have been spilled.
        let source = self.slots.of(from);
        bytes.extend(source.take_spilled());
        source.spill(&bytes);
    }

    /// Throws away what was to be sent and is not with the kernel now, so that others can use its buffers.
    pub(super) fn drop_unsent(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if slot.is_in_flight(Op::Send) {
            return;
        }
        slot.set(Mark::Sending, false);
        slot.set(Mark::Full, false);
        if matches!(slot.extra(), Some(Extra::Bytes(..))) {
            slot.take_extra();
        }
        self.buffers.release(&mut slot.unsent);
    }

    /// Moves received bytes out of the provided buffers, so that others can use those.
    pub(super) fn spill_received(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if !slot.received.is_empty() {
            self.heap.note_moved(slot.received.bytes as usize);
            slot.spill(&self.buffers.copy(&slot.received));
            self.buffers.release(&mut slot.received);
        }
    }

    /// Returns a copy of the first received bytes, at most `most` of them.
    pub(super) fn peek_received(&mut self, key: Key, most: usize) -> Vec<u8> {
        let slot = self.slots.of(key);
        let spilled = slot.spilled();
        let mut bytes = spilled[..most.min(spilled.len())].to_vec();
        self.buffers.copy_first(&slot.received, most - bytes.len(), &mut bytes);
        bytes
    }

    /// Drops the first `bytes` of what was received.
    pub(super) fn consume_received(&mut self, key: Key, bytes: usize) {
        let slot = self.slots.of(key);
        let rest = bytes - slot.consume_spilled(bytes);
        debug_assert!(rest <= slot.received.bytes as usize, "{rest} of {} bytes", slot.received.bytes);
        let rest = u32::try_from(rest).unwrap_or(u32::MAX).min(slot.received.bytes);
        self.buffers.consume(&mut slot.received, rest);
    }

    /// Throws away what was received.
    pub(super) fn discard_received(&mut self, key: Key) {
        let slot = self.slots.of(key);
        self.buffers.release(&mut slot.received);
        slot.take_spilled();
    }

    /// Sends what the slot holds, as much as the peer takes at once.
    fn queue_send(&mut self, key: Key) {
        let slot = self.slots.of(key);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
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
                if self.gathers_used == self.gathers.len() {
                    // SAFETY: zeroes are a valid `msghdr` and valid `iovec`s: null pointers and lengths of 0.
                    self.gathers.push(Box::new(unsafe { std::mem::zeroed() }));
                }
                let gather = &mut self.gathers[self.gathers_used];
                self.gathers_used += 1;
                let mut count = 0;
                for (piece, (start, length)) in
                    gather.pieces.iter_mut().zip(self.buffers.pieces(&slot.unsent))
                {
                    *piece = libc::iovec { iov_base: start.cast(), iov_len: length as usize };
                    count += 1;
                }
                gather.header.msg_iov = gather.pieces.as_mut_ptr();
                gather.header.msg_iovlen = count;
                opcode::SendMsg::new(fd, &raw const gather.header).flags(flags as u32).build()
            }
        };
        self.start(key, Op::Send, entry);
    }

    pub(super) fn start_connect(&mut self, key: Key, address: socket2::SockAddr) {
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
        self.start(key, Op::Connect, entry);
    }

    /// Notices a reset on a side that has ended its stream, where no receive is there to tell.
    pub(super) fn arm_watch(&mut self, key: Key) {
        let slot = self.slots.of(key);
        if !slot.is_in_flight(Op::Watch) && !slot.is(Mark::Dead) {
            // The ring always reports error, hang-up and, beyond poll(2), the peer's FIN. The last is true
            // already and would end a single poll at once; a multishot goes on to the next event.
            let entry = opcode::PollAdd::new(Fd(slot.fd), 0).multi(true).build();
            self.start(key, Op::Watch, entry);
        }
    }

    /// Polls once for something to read; what is there already counts. Of several rings that poll one socket
    /// `exclusive`, one is woken.
    pub(super) fn arm_readable(&mut self, key: Key, exclusive: bool) {
        let slot = self.slots.of(key);
        if !slot.is_in_flight(Op::Readable) {
            let events = libc::POLLIN as u32 | if exclusive { libc::EPOLLEXCLUSIVE as u32 } else { 0 };
            let entry = opcode::PollAdd::new(Fd(slot.fd), events).build();
            self.start(key, Op::Readable, entry);
        }
    }

    /// Notes that the peer takes no more, and polls for room to write.
    ///
    /// A single poll would not do: the ring adds `POLLRDHUP` to every poll, which is true from the peer's FIN
    /// on, and a single poll ends at once then. A multishot goes on to the next event, and one comes after
    /// each call that found no room, as with edge-triggered epoll(7). So it is armed once and left.
    pub(super) fn wait_writable(&mut self, key: Key) {
        let slot = self.slots.of(key);
        slot.set(Mark::Full, true);
        if !slot.is_in_flight(Op::Writable) {
            let entry = opcode::PollAdd::new(Fd(slot.fd), libc::POLLOUT as u32).multi(true).build();
            self.start(key, Op::Writable, entry);
        }
    }

    pub(super) fn arm_count(&mut self, key: Key) {
        let slot = self.slots.of(key);
        let fd = Fd(slot.fd);
        let Extra::Count(counter) = slot.put_extra(Extra::Count(0)) else {
            unreachable!("put there just now")
        };
        let entry = opcode::Read::new(fd, (&raw mut *counter).cast(), 8).build();
        self.start(key, Op::Count, entry);
    }

    pub(super) fn cancel(&mut self, key: Key, op: Op) {
        if self.slots.of(key).is_in_flight(op) {
            self.push(opcode::AsyncCancel::new(key.user_data(op)).build().user_data(NOBODY));
        }
    }

    /// The handle of a slot is gone: cancel what is in flight, close after the last completion.
    pub(super) fn release(&mut self, key: Key) {
        let slot = self.slots.of(key);
        slot.set(Mark::Orphan, true);
        slot.waker = None;
        self.buffers.release(&mut slot.received);
        if slot.in_flight == 0 {
            self.close(key);
        } else {
            // One by one: a cancel of all that names a descriptor looks at every request of the ring.
            Op::ALL.into_iter().for_each(|op| self.cancel(key, op));
        }
    }

    fn close(&mut self, key: Key) {
        let mut slot = self.slots.remove(key);
        debug_assert_eq!(slot.in_flight, 0, "closed while the kernel uses it");
        self.buffers.release(&mut slot.unsent);
        self.buffers.release(&mut slot.received);
        // SAFETY: the slot owned the descriptor, is gone now, and no operation names it any more.
        let socket = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(slot.fd) });
        if slot.is(Mark::Reset) {
            // Zero lingering makes close(2) send RST, socket(7). It cannot fail on a TCP socket; on another
            // kind there is no reset to send.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    pub(super) fn insert(&mut self, fd: OwnedFd) -> Key {
        let key = self.slots.insert(fd.into_raw_fd());
        self.heap.note_descriptors(self.slots.len());
        key
    }

    pub(super) fn fd(&mut self, key: Key) -> RawFd {
        self.slots.of(key).fd
    }

    // One turn of the driver.

    /// Hands everything over to the kernel and, where `wait`, sleeps until something completes or `timeout`.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        self.buffers.refill();
        self.feed_starved();
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                break;
            }
        }
        let wait = wait && self.overflow.is_empty();
        let submitted = if !wait {
            let queued = self.ring.submission().len() as u32;
            // SAFETY: no argument is passed, and the queued entries are sound, see `try_push`.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) }
        } else if let Some(timeout) = timeout {
            let timeout = Timespec::from(timeout);
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
        } else {
            self.ring.submit_and_wait(1)
        };
        match submitted.map_err(|error| (error.raw_os_error(), error)) {
            // Time is up; a signal; completions to take first; no memory for a request just now: the next
            // turn goes on from what the queues say.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        if self.overflow.is_empty() && self.ring.submission().is_empty() {
            self.gathers_used = 0;
        }
        Ok(())
    }

    /// Arms receives again that found no buffer, as many as buffers are posted. Those whose socket is gone
    /// need none.
    fn feed_starved(&mut self) {
        let mut left = self.buffers.posted();
        while left > 0
            && let Some(key) = self.starved.pop_front()
        {
            if let Some(slot) = self.slots.find(key)
                && slot.unset(Mark::Starved)
                && !slot.is(Mark::Orphan)
            {
                let receive = if slot.is(Mark::Multi) { Receive::Many } else { Receive::One };
                self.arm_receive(key, receive);
                left -= 1;
            }
        }
    }

    /// Whether [`Self::shrink`] could give memory back some time.
    pub(super) fn can_shrink(&self) -> bool {
        self.buffers.can_shrink() || self.heap.can_shrink(self.slots.len())
    }

    /// Gives memory back that was not used since the last call; for every few seconds, and only behind a
    /// [reap](Self::reap): a buffer whose completion was not taken yet counts as posted, and is full.
    pub(super) fn shrink(&mut self) {
        let is_reaped = self.ring.completion().is_empty() && !self.ring.submission().cq_overflow();
        debug_assert!(is_reaped, "completions that nobody has taken");
        if !is_reaped {
            return;
        }
        self.buffers.shrink();
        self.heap.shrink(self.slots.len());
    }

    /// Whether a receive waits for a buffer.
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// Takes all completions. The number of them.
    pub(super) fn reap(&mut self) -> usize {
        let mut count = 0;
        loop {
            let Some(entry) = self.ring.completion().next() else { return count };
            count += 1;
            self.complete(&entry);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) {
        let Some((key, op)) = Key::from_user_data(entry.user_data()) else { return };
        let last = !cqueue::more(entry.flags());
        let Some(slot) = self.slots.find(key) else {
            debug_assert!(false, "{op:?} completed on a closed descriptor");
            return;
        };
        if last {
            slot.in_flight &= !op.bit();
        }
        match op {
            Op::Recv => {
                slot.set(Mark::More, !last && cqueue::sock_nonempty(entry.flags()));
                self.received(key, entry.result(), cqueue::buffer_select(entry.flags()), last);
            }
            Op::Send => self.sent(key, entry.result()),
            Op::Connect => {
                slot.take_extra();
                slot.error = (entry.result() < 0).then(|| errno(entry.result()));
            }
            // A hang-up alone is no death: a socket file tells of one when its peer has closed after its last
            // byte.
            Op::Watch if entry.result() > 0 && entry.result() & i32::from(libc::POLLERR) != 0 => {
                slot.set(Mark::Dead, true);
            }
            Op::Writable if !slot.is(Mark::Orphan) => {
                // A FIN is no room; and where the poll itself has ended, trying again arms it again.
                let room = i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP);
                let waited = (last || entry.result() & room != 0) && slot.unset(Mark::Full);
                return match waited {
                    true if slot.is(Mark::Sending) => self.queue_send(key),
                    true => slot.wake(),
                    false => {}
                };
            }
            Op::Watch | Op::Count | Op::Readable | Op::Writable => {}
        }
        let slot = self.slots.of(key);
        if !slot.is(Mark::Orphan) {
            slot.wake();
        } else if slot.in_flight == 0 {
            self.close(key);
        }
    }

    fn received(&mut self, key: Key, result: i32, buffer: Option<u16>, last: bool) {
        let slot = self.slots.of(key);
        match (result, buffer) {
            (1.., Some(id)) if !slot.is(Mark::Orphan) => {
                self.buffers.append(&mut slot.received, id, result as u32);
                // Pieces may be smaller than a buffer, so the bound on their bytes is none on their number.
                slot.pieces = slot.pieces.saturating_add(1);
                if !last && slot.pieces >= MULTISHOT_PIECES {
                    self.pause_receive(key);
                }
            }
            (0.., Some(id)) => {
                self.buffers.recycle(id);
                if result == 0 {
                    slot.end = Some(End::Clean);
                }
            }
            (0, None) => slot.end = Some(End::Clean),
            (result, buffer) => match -result {
                libc::ENOBUFS => {
                    self.buffers.ran_out();
                    slot.set(Mark::Starved, true);
                    self.starved.push_back(key);
                }
                // Paused, or interrupted: whoever wants more arms it again.
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => {
                    slot.die(errno(result));
                    slot.end = Some(End::Failed(errno(result)));
                    // None is known that selects one for a failure.
                    buffer.into_iter().for_each(|id| self.buffers.recycle(id));
                }
            },
        }
        debug_assert!(last || result > 0, "a multishot receive went on after {result}");
    }

    fn sent(&mut self, key: Key, result: i32) {
        let slot = self.slots.of(key);
        let left = if result >= 0 {
            let bytes = result as u32;
            slot.sent += bytes;
            match slot.extra() {
                Some(Extra::Bytes(owned, sent)) => {
                    *sent += bytes as usize;
                    let left = *sent < owned.len();
                    if !left {
                        slot.take_extra();
                    }
                    left
                }
                _ => {
                    self.buffers.consume(&mut slot.unsent, bytes);
                    !slot.unsent.is_empty()
                }
            }
        } else if -result == libc::EINTR {
            return self.queue_send(key);
        } else if -result == libc::EAGAIN {
            true
        } else {
            // At once, and not when the task hears of it: the receive may report a clean end in this very
            // turn.
            slot.die(errno(result));
            slot.error = Some(errno(result));
            false
        };
        if !left || slot.is(Mark::Orphan) {
            return;
        }
        // The peer does not take more now: wait for it, without provided buffers where those are scarce. Not
        // in a send that waits: to a peer that has sent FIN its poll is always ready, see `wait_writable`,
        // and it ends on a kernel thread.
        slot.set(Mark::Blocked, true);
        if self.buffers.scarce() && !slot.unsent.is_empty() {
            let bytes = self.buffers.copy(&slot.unsent);
            self.heap.note_moved(bytes.len());
            self.buffers.release(&mut slot.unsent);
            slot.put_extra(Extra::Bytes(bytes, 0));
        }
        self.wait_writable(key);
    }
}

/// Sets the bound on the bytes of a multishot receive, for which the crate has no setter.
pub(super) fn with_total(mut entry: squeue::Entry, bytes: u32) -> squeue::Entry {
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: the entry is the kernel's 64-byte struct (repr(transparent)), and `optlen` a u32 of it.
    unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN).cast::<u32>().write(bytes) };
    entry
}

impl AsRawFd for Core {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
