//! The end of every operation: what is done with the result of each [`Op`], in the order of [`Op`]. `submit`
//! starts the operations.

use io_uring::cqueue;

use super::core::Core;
use super::errno::errno;
use super::slot::{End, Extra, Key, Mark, Op};
use super::submit::MULTISHOT_PIECES;

impl Core {
    /// Takes all completions. Returns the number of them, and how many of these were an alarm.
    pub(super) fn reap(&mut self) -> (usize, usize) {
        let (mut count, mut alarms) = (0, 0);
        while let Some(entry) = self.queues.next_completion() {
            count += 1;
            match self.queues.take_alarm(&entry) {
                true => alarms += 1,
                false => self.complete(&entry),
            }
        }
        if self.queues.is_reaped() {
            self.end_quiet_sends();
        }
        (count, alarms)
    }

    fn end_quiet_sends(&mut self) {
        while let Some(key) = self.quiet.take_ended() {
            let Some(slot) = self.slots.find(key) else { continue };
            slot.in_flight &= !Op::Send.bit();
            let (bytes, is_awaited) = (slot.unsent.bytes, slot.unset(Mark::Awaited));
            slot.set(Mark::Quiet, false);
            self.on_sent(key, i32::try_from(bytes).unwrap_or(i32::MAX));
            self.settle(key, is_awaited);
        }
    }

    /// After the end of an operation: wakes the task if told to, or closes a descriptor whose handle is gone and that nothing
    /// uses any more.
    fn settle(&mut self, key: Key, wakes: bool) {
        let slot = self.slots.of(key);
        if !slot.is(Mark::Orphan) {
            if wakes {
                slot.wake();
            }
        } else if slot.in_flight == 0 {
            self.close(key);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) {
        let Some((key, op)) = Key::from_user_data(entry.user_data()) else { return };
        let (result, last) = (entry.result(), !cqueue::more(entry.flags()));
        let Some(slot) = self.slots.find(key) else {
            debug_assert!(false, "{op:?} completed on a closed descriptor");
            return;
        };
        if last {
            slot.in_flight &= !op.bit();
        }
        let mut wakes = true;
        match op {
            Op::Recv => wakes = self.on_received(key, entry, last),
            Op::Send => {
                if slot.unset(Mark::Quiet) {
                    self.quiet.remove(key);
                }
                self.on_sent(key, result);
            }
            Op::Connect => self.on_connected(key, result),
            Op::Watch => self.on_watched(key, result),
            // The task looks for itself: the memory of the slot holds the count, and the socket holds what
            // there is to read.
            Op::Count => {}
            Op::Readable => wakes = !self.unpark(key),
            Op::Writable => wakes = self.on_writable(key, result, last),
        }
        self.settle(key, wakes);
    }

    /// Returns whether to wake the task.
    fn on_received(&mut self, key: Key, entry: &cqueue::Entry, last: bool) -> bool {
        let (result, buffer) = (entry.result(), cqueue::buffer_select(entry.flags()));
        let slot = self.slots.of(key);
        slot.set(Mark::More, !last && cqueue::sock_nonempty(entry.flags()));
        if -result == libc::ECANCELED {
            return !self.wait_parked(key);
        }
        slot.set(Mark::Parked, false);
        slot.set(Mark::Fresh, true);
        match (result, buffer) {
            (1.., Some(id)) if !slot.is(Mark::Orphan) => {
                self.buffers.append(&mut slot.received, id, result as u32);
                // Pieces may be smaller than a buffer, so a bound on their bytes does not bound their number.
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
                // Interrupted; a caller that wants more arms the receive again.
                libc::EINTR | libc::EAGAIN => {}
                _ => {
                    slot.die(errno(result));
                    slot.end = Some(End::Failed(errno(result)));
                    // No kernel is known to select a buffer for a failed receive.
                    buffer.into_iter().for_each(|id| self.buffers.recycle(id));
                }
            },
        }
        debug_assert!(last || result > 0, "a multishot receive went on after {result}");
        true
    }

    fn on_sent(&mut self, key: Key, result: i32) {
        let slot = self.slots.of(key);
        let left = if result >= 0 {
            let bytes = result as u32;
            slot.sent += bytes;
            match slot.extra() {
                Some(Extra::Bytes(owned, sent)) => {
                    *sent += bytes as usize;
                    let left = *sent < owned.len();
                    if !left && let Some(Extra::Bytes(owned, _)) = slot.take_extra() {
                        self.spares.give(owned);
                    }
                    left
                }
                _ => {
                    self.buffers.consume(&mut slot.unsent, bytes);
                    !slot.unsent.is_empty()
                }
            }
        } else if -result == libc::EINTR {
            return self.arm_send(key);
        } else if -result == libc::EAGAIN {
            true
        } else {
            // Noted at once, and not when the task hears of it: the receive may report a clean end in this
            // very turn.
            slot.die(errno(result));
            slot.error = Some(errno(result));
            false
        };
        if !left || slot.is(Mark::Orphan) {
            return;
        }
        // The peer takes no more now: wait for it, without provided buffers if those are scarce. The wait
        // cannot be a send that waits: once the peer has sent FIN, the send's poll is always ready (see
        // `arm_writable`), and the send ends up on a kernel thread.
        slot.set(Mark::Blocked, true);
        if self.buffers.scarce() && !slot.unsent.is_empty() {
            let bytes = self.buffers.copy(&slot.unsent);
            self.heap.note_moved(bytes.len());
            self.buffers.release(&mut slot.unsent);
            slot.put_extra(Extra::Bytes(bytes, 0));
        }
        self.arm_writable(key);
    }

    fn on_connected(&mut self, key: Key, result: i32) {
        let slot = self.slots.of(key);
        slot.take_extra();
        slot.error = (result < 0).then(|| errno(result));
    }

    fn on_watched(&mut self, key: Key, result: i32) {
        // A hang-up alone does not mean death: a Unix socket reports one when its peer has closed after its
        // last byte.
        if result > 0 && result & i32::from(libc::POLLERR) != 0 {
            self.slots.of(key).set(Mark::Dead, true);
        }
    }

    /// Continues a send that waits for room. Returns whether to wake the task instead.
    fn on_writable(&mut self, key: Key, result: i32, last: bool) -> bool {
        let slot = self.slots.of(key);
        // A FIN is no room; and if the poll itself has ended, trying again arms it again.
        let has_room = last || result & i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0;
        if slot.is(Mark::Orphan) || !has_room || !slot.unset(Mark::AwaitsRoom) {
            return false;
        }
        if slot.is(Mark::Sending) {
            self.arm_send(key);
            return false;
        }
        true
    }
}
