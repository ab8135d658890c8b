//! A connected stream socket on the ring.

#![expect(unsafe_code, reason = "the descriptor is borrowed from its slot")]

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker};

use super::errno::{Errno, errno_of};
use super::knock::Knocked;
use super::slot::{End, Key, Mark, Op, Receive};
use super::submit::Wakes;
use super::{Ring, core};
use crate::base::Tick;

/// A stream socket. Dropping it cancels what is in flight, and closes the descriptor after the last
/// completion.
///
/// It is in non-blocking mode, for the calls that are made beside the ring. The ring's own operations wait in either mode: of a
/// receive, a send and a connect it asks the socket without waiting in any case, and then polls.
pub struct Socket {
    ring: Ring,
    key: Key,
}

/// The state of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No send was started since the last one was reported.
    Nothing,
    /// The send goes on.
    Busy {
        /// Bytes that went out since the last report.
        bytes: u32,
        /// The peer did not take everything at once.
        blocked: bool,
    },
    /// Everything went out.
    Done {
        /// Bytes that went out since the last report.
        bytes: u32,
        /// The peer had not taken everything at once.
        blocked: bool,
    },
    /// The connection failed after this many bytes, with this error number.
    Failed {
        /// Bytes that went out since the last report.
        bytes: u32,
        /// errno(3).
        error: Errno,
    },
}

/// What the kernel holds of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Nothing so far.
    Nothing,
    /// Bytes.
    Bytes,
    /// Its end, or the failure of the connection.
    End,
}

impl Ring {
    /// Takes over a connected or new stream socket in non-blocking mode.
    #[must_use]
    pub fn socket(&self, fd: OwnedFd) -> Socket {
        let key = self.0.core.borrow_mut().insert(fd);
        Socket { ring: self.clone(), key }
    }
}

impl Socket {
    fn core(&self) -> std::cell::RefMut<'_, core::Core> {
        self.ring.0.core.borrow_mut()
    }

    /// Wakes this task from now on when something completes.
    pub fn register(&self, waker: &Waker) {
        let slot_waker = &mut self.core();
        let registered = &mut slot_waker.slots.of(self.key).waker;
        if !registered.as_ref().is_some_and(|registered| registered.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }

    /// Starts a connect; [`Self::poll_connected`] tells its end.
    pub fn start_connect(&self, address: socket2::SockAddr) {
        self.core().arm_connect(self.key, address);
    }

    /// Polls for the end of the connect.
    ///
    /// # Errors
    ///
    /// connect(2).
    pub fn poll_connected(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.register(context.waker());
        let mut core = self.core();
        match core.knock(self.key, self.ring.now()) {
            Knocked::Ended(_) => {}
            Knocked::Waiting => return Poll::Pending,
            Knocked::Again(next) => {
                drop(core);
                self.wake_at(next);
                return Poll::Pending;
            }
        }
        let slot = core.slots.of(self.key);
        if slot.is_in_flight(Op::Connect) {
            return Poll::Pending;
        }
        Poll::Ready(match slot.error {
            None => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error.get().into())),
        })
    }

    /// Starts to receive, unless it goes on already or the stream has ended.
    pub fn receive(&self, receive: Receive) {
        self.core().arm_receive(self.key, receive);
    }

    /// Ends a receive that has missed something, so that its owner, which is woken, arms another one. A
    /// system call. No kernel is known to miss anything that this module receives, but some have.
    pub fn check_receive(&self) {
        let waits = {
            let mut core = self.core();
            let slot = core.slots.of(self.key);
            slot.is_in_flight(Op::Recv) || slot.is(Mark::Parked)
        };
        if waits && self.received() == 0 && self.peek() != Peeked::Nothing {
            self.core().renew_receive(self.key);
        }
    }

    /// Ends a receive of many; what it brings until then is kept.
    pub fn pause_receive(&self) {
        self.core().pause_receive(self.key);
    }

    /// Returns whether a receive is in flight or waits for a buffer.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        let mut core = self.core();
        let slot = core.slots.of(self.key);
        slot.is_in_flight(Op::Recv) || slot.is(Mark::Starved) || slot.is(Mark::Parked)
    }

    /// Returns how the stream of the peer ended, once it has, even if some of its bytes were not taken yet.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.core().slots.of(self.key).end
    }

    /// Returns whether a receive found the connection failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.ended(), Some(End::Failed(_)))
    }

    /// Returns the number of bytes received and not taken yet.
    #[must_use]
    pub fn received(&self) -> usize {
        let mut core = self.core();
        let slot = core.slots.of(self.key);
        slot.received.bytes as usize + slot.spilled().len()
    }

    /// Takes what was received, copied out of the buffers.
    #[must_use]
    pub fn take_received(&self) -> Vec<u8> {
        let mut core = self.core();
        core.spill_received(self.key);
        core.slots.of(self.key).take_spilled()
    }

    /// Takes what was received, behind what `bytes` has.
    pub fn take_received_into(&self, bytes: &mut Vec<u8>) {
        self.core().take_received_into(self.key, bytes);
    }

    /// Calls `see` with the received bytes, piece by piece and at most `most` of them, and drops these. Returns how many they
    /// are. `see` must not use the ring.
    pub fn take_pieces(&self, most: usize, see: impl FnMut(&[u8])) -> usize {
        self.core().take_pieces(self.key, most, see)
    }

    /// Returns whether what was received came in pieces so long that each is worth a record of TLS.
    #[must_use]
    pub fn has_long_pieces(&self) -> bool {
        self.core().has_long_pieces(self.key)
    }

    /// Returns a copy of the first received bytes, at most `most` of them; they stay received.
    #[must_use]
    pub fn peek_received(&self, most: usize) -> Vec<u8> {
        self.core().peek_received(self.key, most)
    }

    /// Drops the first `bytes` received bytes; at least that many must have been received. Bytes behind them
    /// in provided buffers stay where they are; only spilled bytes move up.
    pub fn consume(&self, bytes: usize) {
        self.core().consume_received(self.key, bytes);
    }

    /// Moves received bytes out of the provided buffers; they stay received.
    pub fn spill_received(&self) {
        self.core().spill_received(self.key);
    }

    /// Discards received bytes.
    pub fn discard_received(&self) {
        self.core().discard_received(self.key);
    }

    /// Sends what this socket has received, or a part of it, on `to`. Returns the number of bytes.
    ///
    /// If it `may_be_quiet` and nothing is left to forward, the kernel tells nothing of a send that goes out as a whole, which
    /// saves an enter and a wake-up: the task is woken only by what goes wrong, or if it has asked since
    /// ([`Self::sent`]).
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward(&self, to: &Self, may_be_quiet: bool) -> u32 {
        self.core().forward(self.key, to.key, may_be_quiet)
    }

    /// Returns whether the send under way wakes nobody at its end, if everything goes out.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.core().slots.of(self.key).is(Mark::Quiet)
    }

    /// Sends bytes of our own on `to`, and behind them in the same piece what this socket has received. Returns the
    /// number of the latter.
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward_behind(&self, own: Vec<u8>, to: &Self) -> u32 {
        self.core().forward_behind(own, self.key, to.key)
    }

    /// Takes back the bytes of a send that failed before the first byte, without the first `own` of them.
    pub fn take_unsent(&self, own: usize) -> Vec<u8> {
        self.core().take_unsent(self.key, own)
    }

    /// Puts bytes back before those that are received and not taken.
    pub fn put_back(&self, bytes: Vec<u8>) {
        self.core().put_back(self.key, bytes);
    }

    /// Discards what a send has left that failed or waits for room; other sessions can use its buffers.
    pub fn drop_unsent(&self) {
        self.core().drop_unsent(self.key);
    }

    /// Starts to send bytes of our own. The last send must have been reported as done.
    pub fn send(&self, bytes: Vec<u8>) {
        self.core().send_bytes(self.key, bytes);
    }

    /// Returns the state of the last send; each byte is reported once.
    #[must_use]
    pub fn sent(&self) -> Sent {
        let mut core = self.core();
        let slot = core.slots.of(self.key);
        if !slot.is(Mark::Sending) {
            return Sent::Nothing;
        }
        let bytes = std::mem::take(&mut slot.sent);
        if slot.is_in_flight(Op::Send) || slot.is(Mark::AwaitsRoom) {
            let (blocked, is_quiet) = (slot.is(Mark::Blocked), slot.is(Mark::Quiet));
            slot.set(Mark::Awaited, is_quiet);
            core.quiet.is_awaited |= is_quiet;
            return Sent::Busy { bytes, blocked };
        }
        slot.set(Mark::Sending, false);
        match slot.error {
            None => Sent::Done { bytes, blocked: slot.is(Mark::Blocked) },
            Some(error) => Sent::Failed { bytes, error },
        }
    }

    /// Wakes the task when there is something to read, including the end of the stream; at once if there
    /// already is.
    pub fn wait_readable(&self) {
        self.core().arm_readable(self.key, Wakes::All);
    }

    /// Returns whether the event of [`Self::wait_readable`] has not come yet.
    #[must_use]
    pub fn is_waiting_readable(&self) -> bool {
        self.core().slots.of(self.key).is_in_flight(Op::Readable)
    }

    /// Ends the wait of [`Self::wait_readable`].
    pub(super) fn cancel_wait(&self) {
        self.core().cancel(self.key, Op::Readable);
    }

    /// Like [`Self::wait_readable`], if several rings wait for one socket: one of them is woken.
    pub(super) fn wait_readable_alone(&self) {
        self.core().arm_readable(self.key, Wakes::One);
    }

    /// Wakes the task when the peer takes more bytes or never will; call this after a call that found no
    /// room.
    pub fn wait_writable(&self) {
        self.core().arm_writable(self.key);
    }

    /// Returns whether the event of [`Self::wait_writable`] has not come yet.
    #[must_use]
    pub fn is_waiting_writable(&self) -> bool {
        self.core().slots.of(self.key).is(Mark::AwaitsRoom)
    }

    /// Wakes the task once at a given moment, whatever else happens.
    pub fn wake_at(&self, deadline: Tick) {
        if let Some(waker) = self.core().slots.of(self.key).waker.clone() {
            self.ring.0.wheel.borrow_mut().arm(deadline, waker);
        }
    }

    /// Wakes the task in the next turn, ahead of everything that completes in it, because the task gave way
    /// to others in this turn.
    pub fn put_off(&self) {
        if let Some(waker) = self.core().slots.of(self.key).waker.clone() {
            self.ring.0.put_off.borrow_mut().push(waker);
        }
    }

    /// Wakes the task when the connection dies; for a side that is not received from.
    pub fn watch(&self) {
        self.core().arm_watch(self.key);
    }

    /// Ends [`Self::watch`], as a full queue of completions does.
    #[cfg(test)]
    pub(crate) async fn end_watch(&self) {
        self.core().cancel(self.key, Op::Watch);
        while self.core().slots.of(self.key).is_in_flight(Op::Watch) {
            self.ring.next_turn().await;
        }
    }

    /// Notes that the connection died of this error; a later call may still report a clean end.
    pub fn mark_dead(&self, error: Errno) {
        self.core().slots.of(self.key).die(error);
    }

    /// Returns whether a call, or [`Self::watch`], saw the connection die.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.core().slots.of(self.key).is(Mark::Dead)
    }

    /// Returns whether the connection died because the peer stopped answering. Asks the kernel if only a poll
    /// has reported the death.
    #[must_use]
    pub fn died_silent(&self) -> bool {
        if let Ok(Some(error)) = self.with(|socket| socket.take_error()) {
            self.mark_dead(errno_of(&error));
        }
        self.core().slots.of(self.key).is(Mark::Silent)
    }

    /// Makes the close of this socket send RST instead of FIN.
    pub fn reset_on_close(&self) {
        self.core().slots.of(self.key).set(Mark::Reset, true);
    }

    /// Ends our stream: the peer receives FIN after everything sent so far.
    ///
    /// # Errors
    ///
    /// shutdown(2): ENOTCONN when the peer has reset the connection.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.with(|socket| socket.shutdown(Shutdown::Write))
    }

    /// Returns what the kernel holds of the stream that was not received. A system call.
    #[must_use]
    pub fn peek(&self) -> Peeked {
        let mut byte = [MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match self.with(|socket| socket.recv_with_flags(&mut byte, flags)) {
            Ok(0) => Peeked::End,
            Ok(_) => Peeked::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peeked::Nothing,
            Err(error) => {
                // The error is reported once, even to a peek, tcp(7).
                self.mark_dead(errno_of(&error));
                Peeked::End
            }
        }
    }

    /// If `ends`, dropping this socket [ends the connection](Self::end_now), so that the peer learns of the
    /// end before anything is dropped later.
    pub fn end_at_drop(&self, ends: bool) {
        self.core().slots.of(self.key).set(Mark::EndsAtDrop, ends);
    }

    /// Ends the connection now, with FIN or, after [`Self::reset_on_close`], with RST, instead of at the
    /// close, which waits for the last completion. The socket cannot be used afterwards.
    pub fn end_now(&self) {
        let reset = self.core().slots.of(self.key).is(Mark::Reset);
        // The connection may have ended already. A Unix socket knows no reset, and no connect(2) to
        // `AF_UNSPEC` either.
        let _ = self.with(|socket| match reset {
            true => disconnect(&socket).or_else(|_| socket.shutdown(Shutdown::Both)),
            false => socket.shutdown(Shutdown::Write),
        });
    }

    /// Uses the descriptor for calls that do not block.
    pub fn with<T>(&self, call: impl FnOnce(socket2::SockRef<'_>) -> T) -> T {
        let fd = self.core().fd(self.key);
        // SAFETY: the slot keeps the descriptor open for as long as `self` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        call(socket2::SockRef::from(&fd))
    }

    /// Returns the ring that the socket is on.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// Resets a TCP connection without closing it: connect(2) to `AF_UNSPEC` dissolves it.
fn disconnect(socket: &socket2::SockRef<'_>) -> io::Result<()> {
    let unspecified = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads the address, which outlives the call, and the descriptor is open.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const unspecified,
            size_of_val(&unspecified) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.core().slots.of(self.key).is(Mark::EndsAtDrop) {
            self.end_now();
        }
        self.core().release(self.key);
    }
}

/// The state of the stream, for a caller that only reads.
impl Socket {
    /// Waits for received bytes or the end of the stream; received bytes can then be taken.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped: the receive goes on.
    #[doc(hidden)]
    pub async fn readable(&self) -> Option<End> {
        std::future::poll_fn(|context| {
            self.register(context.waker());
            if self.received() > 0 {
                return Poll::Ready(None);
            }
            if let Some(end) = self.ended() {
                return Poll::Ready(Some(end));
            }
            self.receive(Receive::One);
            Poll::Pending
        })
        .await
    }
}
