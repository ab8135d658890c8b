//! One byte stream of a session: a client, or a backend.
//!
//! The relay, the pool and sessions know only peers. Each verb here has the meaning that it has for a
//! [`Socket`], and a peer without TLS leaves it to its socket. A peer with TLS will differ in the verbs on
//! bytes alone, in this file: its received bytes are plaintext, and what it sends is encrypted on the way.

use std::io;
use std::task::{Context, Poll, Waker};

use crate::base::Tick;
use crate::uring::{End, Errno, Peeked, Receive, Ring, Sent, Socket};

/// A client or a backend, as the bytes that come from it and go to it.
pub struct Peer(Socket);

impl Peer {
    /// Creates a peer that speaks no TLS.
    #[must_use]
    pub fn plain(socket: Socket) -> Self {
        Self(socket)
    }

    /// Returns the ring that the peer is on.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        self.0.ring()
    }

    /// Uses the descriptor for calls that do not block: options, addresses, and splice(2) between peers
    /// without TLS.
    pub fn with<T>(&self, call: impl FnOnce(socket2::SockRef<'_>) -> T) -> T {
        self.0.with(call)
    }
}

/// Connecting.
impl Peer {
    /// Starts a connect; [`Self::poll_connected`] tells its end.
    pub fn start_connect(&self, address: socket2::SockAddr) {
        self.0.start_connect(address);
    }

    /// Polls for the end of the connect.
    ///
    /// # Errors
    ///
    /// connect(2).
    pub fn poll_connected(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_connected(context)
    }
}

/// Bytes from the peer.
impl Peer {
    /// Starts to receive, unless it goes on already or the stream has ended; see [`Socket::receive`].
    pub fn receive(&self, receive: Receive) {
        self.0.receive(receive);
    }

    /// Renews a receive that has missed something; see [`Socket::check_receive`].
    pub fn check_receive(&self) {
        self.0.check_receive();
    }

    /// Ends a receive of many; what it brings until then is kept.
    pub fn pause_receive(&self) {
        self.0.pause_receive();
    }

    /// Returns whether a receive is in flight or waits for a buffer.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.0.is_receiving()
    }

    /// Bytes received and not taken yet.
    #[must_use]
    pub fn received(&self) -> usize {
        self.0.received()
    }

    /// Takes what was received, copied out of the buffers.
    #[must_use]
    pub fn take_received(&self) -> Vec<u8> {
        self.0.take_received()
    }

    /// Returns a copy of the first received bytes, at most `most` of them; they stay received.
    #[must_use]
    pub fn peek_received(&self, most: usize) -> Vec<u8> {
        self.0.peek_received(most)
    }

    /// Drops the first `bytes` received bytes; at least that many must have been received.
    pub fn consume(&self, bytes: usize) {
        self.0.consume(bytes);
    }

    /// Moves received bytes out of the provided buffers; they stay received.
    pub fn spill_received(&self) {
        self.0.spill_received();
    }

    /// Discards received bytes.
    pub fn discard_received(&self) {
        self.0.discard_received();
    }

    /// Returns what the kernel holds of the stream that was not received. A system call.
    #[must_use]
    pub fn peek(&self) -> Peeked {
        self.0.peek()
    }

    /// Returns how the stream of the peer ended, once it has, even if some of its bytes were not taken yet.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.0.ended()
    }

    /// Returns whether a receive found the connection failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.has_failed()
    }
}

/// Bytes to the peer.
impl Peer {
    /// Sends what this peer has received, or a part of it, on `to`. Returns the number of bytes.
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward(&self, to: &Self) -> u32 {
        self.0.forward(&to.0)
    }

    /// Sends bytes of our own on `to`, and behind them in the same piece what this peer has received. Returns the
    /// number of the latter.
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward_behind(&self, own: Vec<u8>, to: &Self) -> u32 {
        self.0.forward_behind(own, &to.0)
    }

    /// Takes back what [`Self::forward`] could not send on `to` because it failed before the first byte. After
    /// [`Self::forward_behind`], the first `own` bytes that were not sent are our own.
    pub fn reclaim(&self, to: &Self, own: usize) {
        self.0.reclaim(&to.0, own);
    }

    /// Discards what a send has left that failed or waits for room.
    pub fn drop_unsent(&self) {
        self.0.drop_unsent();
    }

    /// Starts to send bytes of our own. The last send must have been reported as done.
    pub fn send(&self, bytes: Vec<u8>) {
        self.0.send(bytes);
    }

    /// Returns the state of the last send; each byte is reported once.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.0.sent()
    }

    /// Ends our stream: the peer receives its end after everything sent so far.
    ///
    /// # Errors
    ///
    /// shutdown(2): ENOTCONN when the peer has reset the connection.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown_write()
    }
}

/// Waking the task that serves the peer.
impl Peer {
    /// Wakes this task from now on when something completes.
    pub fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    /// Wakes the task when there is something to read; see [`Socket::wait_readable`].
    pub fn wait_readable(&self) {
        self.0.wait_readable();
    }

    /// Returns whether the event of [`Self::wait_readable`] has not come yet.
    #[must_use]
    pub fn is_waiting_readable(&self) -> bool {
        self.0.is_waiting_readable()
    }

    /// Wakes the task when the peer takes more bytes or never will; call this after a call that found no
    /// room.
    pub fn wait_writable(&self) {
        self.0.wait_writable();
    }

    /// Returns whether the event of [`Self::wait_writable`] has not come yet.
    #[must_use]
    pub fn is_waiting_writable(&self) -> bool {
        self.0.is_waiting_writable()
    }

    /// Wakes the task when the connection dies; for a side that is not received from.
    pub fn watch(&self) {
        self.0.watch();
    }

    /// Wakes the task once at a given moment, whatever else happens.
    pub fn wake_at(&self, deadline: Tick) {
        self.0.wake_at(deadline);
    }

    /// Wakes the task in the next turn, ahead of everything that completes in it.
    pub fn put_off(&self) {
        self.0.put_off();
    }

    /// Ends [`Self::watch`], as a full queue of completions does.
    #[cfg(test)]
    pub(crate) async fn end_watch(&self) {
        self.0.end_watch().await;
    }
}

/// The death and the end of the connection.
impl Peer {
    /// Notes that the connection died of this error; a later call may still report a clean end.
    pub fn mark_dead(&self, error: Errno) {
        self.0.mark_dead(error);
    }

    /// Returns whether a call, or [`Self::watch`], saw the connection die.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.is_dead()
    }

    /// Returns whether the connection died because the peer stopped answering; see [`Socket::died_silent`].
    #[must_use]
    pub fn died_silent(&self) -> bool {
        self.0.died_silent()
    }

    /// Makes the close of this peer send RST instead of FIN.
    pub fn reset_on_close(&self) {
        self.0.reset_on_close();
    }

    /// If `ends`, dropping this peer [ends the connection](Self::end_now), before anything that is dropped
    /// later.
    pub fn end_at_drop(&self, ends: bool) {
        self.0.end_at_drop(ends);
    }

    /// Ends the connection now instead of at the close; see [`Socket::end_now`].
    pub fn end_now(&self) {
        self.0.end_now();
    }
}
