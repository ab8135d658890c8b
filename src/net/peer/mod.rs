//! One byte stream of a session: a client, or a backend.
//!
//! The relay, the pool and sessions know only peers. Each verb here has the meaning that it has for a
//! [`Socket`], and a peer without TLS leaves it to its socket. With TLS the verbs on bytes are about plaintext:
//! what comes is decrypted when it is asked for, and what goes is encrypted on the way ([`encrypted`]).

mod encrypted;
mod paced;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::base::Tick;
use crate::tls::{Pace, Stream};
use crate::uring::{End, Errno, Peeked, Receive, Ring, Sent, Socket};
pub use encrypted::HandshakeError;
use encrypted::{ENCRYPT_MOST, Encrypted, Role};
pub use paced::poll_paced;

/// A client or a backend, as the bytes that come from it and go to it.
pub struct Peer {
    socket: Socket,
    tls: Option<Box<Encrypted>>,
}

impl Peer {
    /// Creates a peer that speaks no TLS.
    #[must_use]
    pub fn plain(socket: Socket) -> Self {
        Self { socket, tls: None }
    }

    /// Speaks TLS from now on, as the server of a client. What was received so far is the client's first record.
    pub fn encrypt_client(&mut self, stream: Stream, pace: Rc<Pace>) {
        self.tls = Some(Box::new(Encrypted::new(Role::Client, stream, pace)));
    }

    /// Speaks TLS from now on, as the client of a backend.
    pub fn encrypt_backend(&mut self, stream: Stream, pace: Rc<Pace>) {
        self.tls = Some(Box::new(Encrypted::new(Role::Backend, stream, pace)));
    }

    /// Goes on with the handshake of TLS. Ready at its end; after a failure, the peer was told why.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub fn poll_handshake(&self, context: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        self.tls.as_ref().map_or(Poll::Ready(Ok(())), |tls| tls.poll_handshake(&self.socket, context))
    }

    /// Returns what `see` finds in what both sides of TLS have agreed on; `None` without TLS.
    pub fn with_agreed<T>(&self, see: impl FnOnce(&rustls::CommonState) -> T) -> Option<T> {
        self.tls.as_ref().map(|tls| tls.with_agreed(see))
    }

    /// Returns whether the peer speaks TLS: its bytes are copied, never spliced.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether the stream of the peer has ended in TCP and not in TLS: something may be missing.
    #[must_use]
    pub fn is_unended(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_unended())
    }

    /// Returns whether a part of a record of TLS has come since the last call: bytes that moved, and are not received yet.
    #[must_use]
    pub fn take_moved(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.take_moved())
    }

    /// Returns whether there are bytes that were not taken, be it a part of a record.
    #[must_use]
    pub fn holds_bytes(&self) -> bool {
        self.received() > 0 || self.tls.as_ref().is_some_and(|tls| tls.holds_part())
    }

    /// Returns why TLS failed, if it did.
    #[must_use]
    pub fn tls_error(&self) -> Option<rustls::Error> {
        self.tls.as_ref().and_then(|tls| tls.error())
    }

    /// Notes that the next bytes to the peer are the first ones of a session: [`Self::reclaim`] may want them back.
    pub fn begin_session(&self) {
        self.tls.iter().for_each(|tls| tls.begin_session());
    }

    /// Returns whether bytes may move between the two in this turn: those of a connection with TLS have a budget for each
    /// turn of the shard. If not, the task is woken in the next one.
    #[must_use]
    pub fn may_move(&self, to: &Self) -> bool {
        let Some(tls) = self.tls.as_ref().or(to.tls.as_ref()) else { return true };
        let may = tls.may_move(&self.socket);
        if !may {
            self.socket.put_off();
        }
        may
    }

    /// Returns the ring that the peer is on.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        self.socket.ring()
    }

    /// Uses the descriptor for calls that do not block: options, addresses, and splice(2) between peers
    /// without TLS.
    pub fn with<T>(&self, call: impl FnOnce(socket2::SockRef<'_>) -> T) -> T {
        self.socket.with(call)
    }
}

/// Connecting.
impl Peer {
    /// Starts a connect; [`Self::poll_connected`] tells its end.
    pub fn start_connect(&self, address: socket2::SockAddr) {
        self.socket.start_connect(address);
    }

    /// Polls for the end of the connect.
    ///
    /// # Errors
    ///
    /// connect(2).
    pub fn poll_connected(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_connected(context)
    }
}

/// Bytes from the peer.
impl Peer {
    /// Starts to receive, unless it goes on already or the stream has ended; see [`Socket::receive`].
    pub fn receive(&self, receive: Receive) {
        self.socket.receive(receive);
    }

    /// Renews a receive that has missed something; see [`Socket::check_receive`].
    pub fn check_receive(&self) {
        self.socket.check_receive();
    }

    /// Ends a receive of many; what it brings until then is kept.
    pub fn pause_receive(&self) {
        self.socket.pause_receive();
    }

    /// Returns whether a receive is in flight or waits for a buffer.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.socket.is_receiving()
    }

    /// Bytes received and not taken yet.
    #[must_use]
    pub fn received(&self) -> usize {
        match &self.tls {
            None => self.socket.received(),
            Some(tls) => tls.received(&self.socket),
        }
    }

    /// Takes what was received, copied out of the buffers.
    #[must_use]
    pub fn take_received(&self) -> Vec<u8> {
        match &self.tls {
            None => self.socket.take_received(),
            Some(tls) => tls.take_received(&self.socket),
        }
    }

    /// Returns a copy of the first received bytes, at most `most` of them; they stay received.
    #[must_use]
    pub fn peek_received(&self, most: usize) -> Vec<u8> {
        match &self.tls {
            None => self.socket.peek_received(most),
            Some(tls) => tls.peek_received(&self.socket, most),
        }
    }

    /// Drops the first `bytes` received bytes; at least that many must have been received.
    pub fn consume(&self, bytes: usize) {
        match &self.tls {
            None => self.socket.consume(bytes),
            Some(tls) => tls.consume(bytes),
        }
    }

    /// Moves received bytes out of the provided buffers; they stay received.
    pub fn spill_received(&self) {
        self.socket.spill_received();
    }

    /// Discards received bytes.
    pub fn discard_received(&self) {
        match &self.tls {
            None => self.socket.discard_received(),
            Some(tls) => tls.discard_received(&self.socket),
        }
    }

    /// Returns what the kernel holds of the stream that was not received. A system call.
    #[must_use]
    pub fn peek(&self) -> Peeked {
        self.socket.peek()
    }

    /// Returns how the stream of the peer ended, once it has, even if some of its bytes were not taken yet.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        match &self.tls {
            None => self.socket.ended(),
            Some(tls) => tls.ended(&self.socket),
        }
    }

    /// Returns whether a receive found the connection failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match &self.tls {
            None => self.socket.has_failed(),
            Some(tls) => tls.has_failed(&self.socket),
        }
    }
}

/// Bytes to the peer.
impl Peer {
    /// Sends what this peer has received, or a part of it, on `to`; see [`Socket::forward`]. Returns the number of bytes.
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward(&self, to: &Self, may_be_quiet: bool) -> u32 {
        if self.tls.is_none() && to.tls.is_none() {
            return self.socket.forward(&to.socket, may_be_quiet);
        }
        if let (None, Some(tls)) = (&self.tls, &to.tls)
            && let Some(count) = tls.send_pieces(&to.socket, &self.socket)
        {
            return count;
        }
        let bytes = self.take_some();
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if count > 0 {
            to.send(bytes);
        }
        count
    }

    /// Returns whether the send under way wakes nobody at its end, if everything goes out.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.socket.is_quiet()
    }

    /// Sends bytes of our own on `to`, and behind them in the same piece what this peer has received. Returns the
    /// number of the latter.
    ///
    /// The last send on `to` must have been reported as done.
    pub fn forward_behind(&self, mut own: Vec<u8>, to: &Self) -> u32 {
        if self.tls.is_none() && to.tls.is_none() {
            return self.socket.forward_behind(own, &to.socket);
        }
        let mut bytes = self.take_some();
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        own.append(&mut bytes);
        to.send(own);
        count
    }

    /// Takes back what [`Self::forward`] could not send on `to` because it failed before the first byte. After
    /// [`Self::forward_behind`], the first `own` bytes that were not sent are our own.
    pub fn reclaim(&self, to: &Self, own: usize) {
        let bytes = match &to.tls {
            None => to.socket.take_unsent(own),
            Some(tls) => tls.take_unsent(),
        };
        match &self.tls {
            None => self.socket.put_back(bytes),
            Some(tls) => tls.put_back(bytes),
        }
    }

    /// Discards what a send has left that failed or waits for room.
    pub fn drop_unsent(&self) {
        self.tls.iter().for_each(|tls| tls.drop_unsent());
        self.socket.drop_unsent();
    }

    /// Starts to send bytes of our own. The last send must have been reported as done.
    pub fn send(&self, bytes: Vec<u8>) {
        match &self.tls {
            None => self.socket.send(bytes),
            Some(tls) => tls.send(&self.socket, bytes),
        }
    }

    /// Returns the state of the last send; each byte is reported once.
    #[must_use]
    pub fn sent(&self) -> Sent {
        match &self.tls {
            None => self.socket.sent(),
            Some(tls) => tls.sent(&self.socket),
        }
    }

    /// Ends our stream: the peer receives its end after everything sent so far. Returns whether it went out; if not, the
    /// task is woken when it is to be tried again.
    ///
    /// # Errors
    ///
    /// shutdown(2): ENOTCONN when the peer has reset the connection.
    pub fn shutdown_write(&self) -> io::Result<bool> {
        match &self.tls {
            None => self.socket.shutdown_write().map(|()| true),
            Some(tls) => tls.shutdown_write(&self.socket),
        }
    }

    /// Takes the first received bytes, as many as are moved at once.
    fn take_some(&self) -> Vec<u8> {
        if self.tls.is_some() {
            return self.take_received();
        }
        let bytes = self.socket.peek_received(ENCRYPT_MOST);
        self.socket.consume(bytes.len());
        bytes
    }
}

/// Waking the task that serves the peer.
impl Peer {
    /// Wakes this task from now on when something completes.
    pub fn register(&self, waker: &Waker) {
        self.socket.register(waker);
    }

    /// Wakes the task when there is something to read; see [`Socket::wait_readable`].
    pub fn wait_readable(&self) {
        self.socket.wait_readable();
    }

    /// Returns whether the event of [`Self::wait_readable`] has not come yet.
    #[must_use]
    pub fn is_waiting_readable(&self) -> bool {
        self.socket.is_waiting_readable()
    }

    /// Wakes the task when the peer takes more bytes or never will; call this after a call that found no
    /// room.
    pub fn wait_writable(&self) {
        self.socket.wait_writable();
    }

    /// Returns whether the event of [`Self::wait_writable`] has not come yet.
    #[must_use]
    pub fn is_waiting_writable(&self) -> bool {
        self.socket.is_waiting_writable()
    }

    /// Wakes the task when the connection dies; for a side that is not received from.
    pub fn watch(&self) {
        self.socket.watch();
    }

    /// Wakes the task once at a given moment, whatever else happens.
    pub fn wake_at(&self, deadline: Tick) {
        self.socket.wake_at(deadline);
    }

    /// Wakes the task in the next turn, ahead of everything that completes in it.
    pub fn put_off(&self) {
        self.socket.put_off();
    }

    /// Ends [`Self::watch`], as a full queue of completions does.
    #[cfg(test)]
    pub(crate) async fn end_watch(&self) {
        self.socket.end_watch().await;
    }
}

/// The death and the end of the connection.
impl Peer {
    /// Notes that the connection died of this error; a later call may still report a clean end.
    pub fn mark_dead(&self, error: Errno) {
        self.socket.mark_dead(error);
    }

    /// Returns whether a call, or [`Self::watch`], saw the connection die.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.socket.is_dead()
    }

    /// Returns whether the connection died because the peer stopped answering; see [`Socket::died_silent`].
    #[must_use]
    pub fn died_silent(&self) -> bool {
        self.socket.died_silent()
    }

    /// Makes the close of this peer send RST instead of FIN.
    pub fn reset_on_close(&self) {
        self.tls.iter().for_each(|tls| tls.forbid_end());
        self.socket.reset_on_close();
    }

    /// If `ends`, dropping this peer [ends the connection](Self::end_now), before anything that is dropped
    /// later.
    pub fn end_at_drop(&self, ends: bool) {
        self.socket.end_at_drop(ends);
    }

    /// Ends the connection now instead of at the close; see [`Socket::end_now`].
    pub fn end_now(&self) {
        self.tls.iter().for_each(|tls| tls.say_end(&self.socket));
        self.socket.end_now();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Before the socket, whose close ends the stream in TCP.
        self.tls.iter().for_each(|tls| tls.say_end(&self.socket));
    }
}
