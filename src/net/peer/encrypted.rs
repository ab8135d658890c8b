//! The TLS of a peer: what lies between its plaintext and its socket.
//!
//! Nothing is decrypted beyond [`PLAINTEXT_MOST`] bytes that were not taken, so a peer whose other side is slow holds no more
//! than one without TLS, and these.

use std::cell::{RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::Error;

use super::paced::poll_paced;
use crate::tls::{Pace, Stream};
use crate::uring::{End, Errno, Place, Receive, Sent, Socket, errno_of};

/// Plaintext up to which records are decrypted ahead.
const PLAINTEXT_MOST: usize = 64 << 10;
/// Bytes of a plain peer that are encrypted at once.
pub(super) const ENCRYPT_MOST: usize = 64 << 10;
/// For the last records of a stream, whose end in TCP follows at once and takes them along.
const WITH_FIN: libc::c_int = libc::MSG_MORE;

/// Whose TLS it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A client's. A TCP end without the end of TLS counts as an end: many clients leave so.
    Client,
    /// A backend's. A TCP end without the end of TLS may be an attacker's, who cuts an answer off; so it counts as a
    /// reset.
    Backend,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS says why: the peer's alert, or what is wrong with what it sent.
    #[error("{0}")]
    Tls(Error),
    /// The connection ended.
    #[error("the connection ended")]
    Ended,
}

/// See the module documentation.
pub(super) struct Encrypted {
    role: Role,
    pace: Rc<Pace>,
    /// Where the handshake waits for time.
    place: Place,
    state: RefCell<State>,
}

struct State {
    stream: Stream,
    sending: Option<Sending>,
    /// Whether the peer has got a byte of plaintext in this session.
    has_sent: bool,
    /// Whether what comes from the peer is discarded, undecrypted.
    discards: bool,
    /// Whether the end of our stream was told, or may not be told any more.
    is_over: bool,
    /// Whether the peer's stream has ended in TCP and not in TLS.
    is_unended: bool,
    /// Whether bytes have come, decrypted or not, since this flag was last read.
    has_moved: bool,
}

impl State {
    /// Sends what TLS answers by itself, as far as there is room at once; the rest goes with the next bytes.
    fn flush_answers(&mut self, socket: &Socket) {
        if self.sending.is_none() && !self.is_over && self.stream.has_outgoing() {
            // A failure shows in the next receive.
            let _ = flush(&mut self.stream, socket, 0);
        }
    }
}

/// Plaintext that is on its way out in records.
struct Sending {
    plain: u32,
    sealed: u32,
    /// How much of both was reported.
    sealed_sent: u32,
    reported: u32,
    /// The plaintext, as long as it could still go to another peer.
    kept: Vec<u8>,
}

impl Sending {
    /// Notes that bytes of the records went out. Returns for how many bytes of plaintext they stand: a part of a record is
    /// at least one byte, because it cannot be taken back.
    fn report(&mut self, sealed: u32) -> u32 {
        self.sealed_sent += sealed;
        let share = u64::from(self.plain) * u64::from(self.sealed_sent);
        let all = share.div_ceil(u64::from(self.sealed.max(1))) as u32;
        std::mem::replace(&mut self.reported, all).abs_diff(all)
    }
}

fn failure() -> Errno {
    errno_of(&io::Error::from_raw_os_error(libc::EPROTO))
}

impl Encrypted {
    pub(super) fn new(role: Role, stream: Stream, pace: Rc<Pace>) -> Self {
        let state = State {
            stream,
            sending: None,
            has_sent: false,
            discards: false,
            is_over: false,
            is_unended: false,
            has_moved: false,
        };
        Self { role, pace, place: Place::default(), state: RefCell::new(state) }
    }

    /// Decrypts what has come, as far as it may be held.
    fn pump(&self, socket: &Socket) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        self.decrypt(&mut state, socket);
        // What TLS answers by itself, as to a renegotiation, may not wait for the next bytes.
        state.flush_answers(socket);
        state
    }

    fn decrypt(&self, state: &mut State, socket: &Socket) {
        loop {
            let discards = state.discards;
            let stream = &mut state.stream;
            if discards || stream.is_closed() || stream.error().is_some() {
                // What comes after the end of TLS is no part of the stream.
                return socket.discard_received();
            }
            let before = stream.plaintext().len();
            let comes = socket.received();
            if before >= PLAINTEXT_MOST || (comes == 0 && !stream.waits()) {
                return;
            }
            state.has_moved |= comes > 0;
            let stream = &mut state.stream;
            let spares = socket.ring().spares();
            if !stream.waits() {
                stream.feed(comes, spares, |bytes| socket.take_received_into(bytes));
            }
            let taken = stream.process(PLAINTEXT_MOST, spares);
            self.pace.note_taken(socket.ring().turn(), taken);
        }
    }

    pub(super) fn received(&self, socket: &Socket) -> usize {
        self.pump(socket).stream.plaintext().len()
    }

    pub(super) fn take_received(&self, socket: &Socket) -> Vec<u8> {
        self.pump(socket).stream.take_plaintext()
    }

    pub(super) fn peek_received(&self, socket: &Socket, most: usize) -> Vec<u8> {
        let state = self.pump(socket);
        let plaintext = state.stream.plaintext();
        plaintext[..most.min(plaintext.len())].to_vec()
    }

    pub(super) fn consume(&self, bytes: usize) {
        self.state.borrow_mut().stream.consume_plaintext(bytes);
    }

    pub(super) fn put_back(&self, bytes: Vec<u8>) {
        self.state.borrow_mut().stream.put_plaintext_back(bytes);
    }

    /// Discards what has come and what is going to.
    pub(super) fn discard_received(&self, socket: &Socket) {
        let mut state = self.state.borrow_mut();
        state.discards = true;
        state.stream.consume_plaintext(usize::MAX);
        socket.discard_received();
    }

    pub(super) fn ended(&self, socket: &Socket) -> Option<End> {
        let mut state = self.pump(socket);
        if state.discards {
            return socket.ended();
        }
        if state.stream.error().is_some() {
            return Some(End::Failed(failure()));
        }
        if state.stream.is_closed() {
            return Some(End::Clean);
        }
        match socket.ended() {
            // What has come before the end is not decrypted yet.
            Some(End::Clean) if socket.received() > 0 || state.stream.waits() => None,
            Some(End::Clean) => {
                state.is_unended = true;
                // Not even a client ends within a record.
                let is_cut = self.role == Role::Backend || state.stream.has_part();
                let reset = || errno_of(&io::Error::from_raw_os_error(libc::ECONNRESET));
                Some(if is_cut { End::Failed(reset()) } else { End::Clean })
            }
            end => end,
        }
    }

    /// Returns whether nothing more can be sent, without a look at what has come.
    pub(super) fn has_failed(&self, socket: &Socket) -> bool {
        let state = self.state.borrow();
        state.stream.error().is_some()
            || state.is_unended && self.role == Role::Backend
            || socket.has_failed()
    }

    /// Returns whether bytes have come since the last call, which may be a part of a record.
    pub(super) fn take_moved(&self) -> bool {
        std::mem::take(&mut self.state.borrow_mut().has_moved)
    }

    /// Returns whether a part of a record has come.
    pub(super) fn holds_part(&self) -> bool {
        self.state.borrow().stream.has_part()
    }

    /// Returns why TLS failed, if it did.
    pub(super) fn error(&self) -> Option<Error> {
        self.state.borrow().stream.error().cloned()
    }

    /// The next bytes are the first ones of a session: they may have to be taken back.
    pub(super) fn begin_session(&self) {
        self.state.borrow_mut().has_sent = false;
    }

    /// Returns whether the peer's stream has ended in TCP and not in TLS.
    pub(super) fn is_unended(&self) -> bool {
        self.state.borrow().is_unended
    }

    pub(super) fn may_move(&self, socket: &Socket) -> bool {
        self.pace.may_move(socket.ring().turn())
    }

    pub(super) fn send(&self, socket: &Socket, bytes: Vec<u8>) {
        let spares = socket.ring().spares();
        let mut state = self.state.borrow_mut();
        let sealed = state.stream.encrypt(&bytes, spares);
        let plain = bytes.len();
        let kept = if state.has_sent {
            spares.give(bytes);
            Vec::new()
        } else {
            bytes
        };
        self.send_records(socket, &mut state, (plain, kept), sealed.is_ok());
    }

    /// Sends what `from` has received, or a part of it, without a copy of the plaintext. Returns the number of bytes; `None`
    /// if it has to be copied after all, because it came in many small pieces, or may have to be taken back.
    pub(super) fn send_pieces(&self, socket: &Socket, from: &Socket) -> Option<u32> {
        let mut state = self.state.borrow_mut();
        if !state.has_sent || !from.has_long_pieces() {
            return None;
        }
        let (stream, spares) = (&mut state.stream, socket.ring().spares());
        let mut sealed = Ok(());
        let plain = from.take_pieces(ENCRYPT_MOST, |piece| {
            if sealed.is_ok() {
                sealed = stream.encrypt(piece, spares);
            }
        });
        if plain > 0 {
            self.send_records(socket, &mut state, (plain, Vec::new()), sealed.is_ok());
        }
        Some(u32::try_from(plain).unwrap_or(u32::MAX))
    }

    /// Sends the records of so many bytes, some of which are kept. If they could not be made, [`Self::sent`] reports a failure.
    fn send_records(
        &self,
        socket: &Socket,
        state: &mut State,
        (plain, kept): (usize, Vec<u8>),
        are_made: bool,
    ) {
        self.pace.note_bytes(socket.ring().turn(), plain);
        let records = if are_made { state.stream.take_outgoing() } else { Vec::new() };
        state.sending = Some(Sending {
            plain: u32::try_from(plain).unwrap_or(u32::MAX),
            sealed: u32::try_from(records.len()).unwrap_or(u32::MAX),
            sealed_sent: 0,
            reported: 0,
            kept,
        });
        if are_made {
            socket.send(records);
        }
    }

    pub(super) fn sent(&self, socket: &Socket) -> Sent {
        let mut state = self.state.borrow_mut();
        let sent = socket.sent();
        let Some(sending) = &mut state.sending else { return sent };
        let (sent, is_done) = match sent {
            Sent::Nothing if sending.sealed == 0 => (Sent::Failed { bytes: 0, error: failure() }, false),
            Sent::Nothing => (Sent::Nothing, false),
            Sent::Busy { bytes, blocked } => (Sent::Busy { bytes: sending.report(bytes), blocked }, false),
            Sent::Done { bytes, blocked } => (Sent::Done { bytes: sending.report(bytes), blocked }, true),
            Sent::Failed { bytes, error } => (Sent::Failed { bytes: sending.report(bytes), error }, false),
        };
        let has_sent = sending.reported > 0;
        state.has_sent |= has_sent;
        if is_done {
            state.sending = None;
            state.flush_answers(socket);
        }
        sent
    }

    /// Takes back the plaintext of a send that failed before the first byte.
    pub(super) fn take_unsent(&self) -> Vec<u8> {
        self.state.borrow_mut().sending.take().map_or_else(Vec::new, |sending| sending.kept)
    }

    pub(super) fn drop_unsent(&self) {
        let mut state = self.state.borrow_mut();
        state.sending = None;
        // A record that did not go out as a whole is no place to go on from.
        state.is_over = true;
    }

    /// Tells the peer that our stream ends here, in TLS and then in TCP. Returns whether both went out: if not, the task is
    /// woken when there is room.
    pub(super) fn shutdown_write(&self, socket: &Socket) -> io::Result<bool> {
        let mut state = self.state.borrow_mut();
        if !std::mem::replace(&mut state.is_over, true) {
            state.stream.close();
        }
        if !flush(&mut state.stream, socket, WITH_FIN)? {
            socket.wait_writable();
            return Ok(false);
        }
        socket.shutdown_write().map(|()| true)
    }

    /// Tells the peer of the end, as far as there is room for that at once.
    pub(super) fn say_end(&self, socket: &Socket) {
        let mut state = self.state.borrow_mut();
        if state.sending.is_some() {
            return;
        }
        if !std::mem::replace(&mut state.is_over, true) {
            state.stream.close();
        }
        // The peer may be gone.
        let _ = flush(&mut state.stream, socket, WITH_FIN);
    }

    /// From now on the peer is told of no end: it is going to be reset.
    pub(super) fn forbid_end(&self) {
        self.state.borrow_mut().is_over = true;
    }

    /// Goes on with the handshake. Ready at its end; after a failure, the peer was told.
    pub(super) fn poll_handshake(
        &self,
        socket: &Socket,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        socket.register(context.waker());
        let mut state = self.state.borrow_mut();
        match socket.sent() {
            Sent::Busy { .. } => return Poll::Pending,
            Sent::Failed { .. } => return Poll::Ready(Err(HandshakeError::Ended)),
            Sent::Nothing | Sent::Done { .. } => {}
        }
        if state.stream.has_outgoing() {
            socket.send(state.stream.take_outgoing());
            return Poll::Pending;
        }
        if !state.stream.is_handshaking() {
            return Poll::Ready(Ok(()));
        }
        if socket.received() > 0 {
            let (ring, stream) = (socket.ring(), &mut state.stream);
            let step = poll_paced(ring, (&self.pace, &self.place), context, || {
                stream.feed(socket.received(), ring.spares(), |bytes| socket.take_received_into(bytes));
                stream.process(1, ring.spares());
            });
            if step.is_pending() {
                // Those in line must not keep buffers from open sessions.
                socket.spill_received();
                return Poll::Pending;
            }
            if let Some(error) = state.stream.error().cloned() {
                let _ = flush(&mut state.stream, socket, 0);
                state.is_over = true;
                return Poll::Ready(Err(HandshakeError::Tls(error)));
            }
            drop(state);
            return self.poll_handshake(socket, context);
        }
        if socket.ended().is_some() || socket.is_dead() {
            return Poll::Ready(Err(HandshakeError::Ended));
        }
        socket.receive(Receive::One);
        Poll::Pending
    }

    /// Calls `see` with what both sides have agreed on.
    pub(super) fn with_agreed<T>(&self, see: impl FnOnce(&rustls::CommonState) -> T) -> T {
        see(self.state.borrow().stream.common())
    }
}

/// Sends records that wait, as far as there is room at once. Returns whether all went out.
fn flush(stream: &mut Stream, socket: &Socket, flags: libc::c_int) -> io::Result<bool> {
    let mut records = stream.take_outgoing();
    if records.is_empty() {
        return Ok(true);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | flags;
    match socket.with(|socket| socket.send_with_flags(&records, flags)) {
        Ok(sent) if sent == records.len() => return Ok(true),
        Ok(sent) => drop(records.drain(..sent)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    stream.put_outgoing_back(records);
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread::JoinHandle;
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConnection, ServerConnection, StreamOwned};

    use super::super::Peer;
    use super::*;
    use crate::net::testing::pair;
    use crate::tls::testing::configs;
    use crate::uring::Ring;
    use crate::uring::testing::{on_ring, reset};

    type Client = StreamOwned<ClientConnection, TcpStream>;
    type Server = StreamOwned<ServerConnection, TcpStream>;

    /// A client of TLS whose other end is on the ring, after its handshake; the client runs on a thread.
    async fn client<T: Send + 'static>(
        ring: &Ring,
        talk: impl FnOnce(Client) -> T + Send + 'static,
    ) -> (Peer, JoinHandle<T>) {
        let (mut peer, other) = pair(ring);
        let (server, client) = configs(&TLS13);
        let talk = std::thread::spawn(move || {
            let name = ServerName::try_from("a.example").expect("a name");
            let client = ClientConnection::new(client, name).expect("settings");
            talk(StreamOwned::new(client, other))
        });
        peer.encrypt_client(Stream::server(&server).expect("settings"), Rc::default());
        std::future::poll_fn(|context| peer.poll_handshake(context)).await.expect("it is a client");
        (peer, talk)
    }

    /// A backend with TLS, like [`client`].
    async fn backend<T: Send + 'static>(
        ring: &Ring,
        talk: impl FnOnce(Server) -> T + Send + 'static,
    ) -> (Peer, JoinHandle<T>) {
        let (mut peer, other) = pair(ring);
        let (server, client) = configs(&TLS12);
        let talk = std::thread::spawn(move || {
            talk(StreamOwned::new(ServerConnection::new(server).expect("settings"), other))
        });
        let name = ServerName::try_from("a.example").expect("a name");
        peer.encrypt_backend(Stream::client(&client, name, Vec::new()).expect("settings"), Rc::default());
        std::future::poll_fn(|context| peer.poll_handshake(context)).await.expect("it is a server");
        (peer, talk)
    }

    /// Receives until the end, which it returns with all bytes.
    async fn receive_all(peer: &Peer) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = std::future::poll_fn(|context| {
            peer.register(context.waker());
            bytes.extend(peer.take_received());
            if peer.received() > 0 {
                peer.put_off();
                return Poll::Pending;
            }
            match peer.ended() {
                Some(end) => Poll::Ready(end),
                None => {
                    peer.receive(Receive::Many);
                    Poll::Pending
                }
            }
        })
        .await;
        (bytes, end)
    }

    /// Sends, and returns how many bytes went out, by all reports.
    async fn send(peer: &Peer, bytes: Vec<u8>) -> Result<u32, u32> {
        peer.send(bytes);
        let mut all = 0;
        std::future::poll_fn(|context| {
            peer.register(context.waker());
            match peer.sent() {
                Sent::Busy { bytes, .. } => {
                    all += bytes;
                    Poll::Pending
                }
                Sent::Done { bytes, .. } => Poll::Ready(Ok(all + bytes)),
                Sent::Failed { bytes, .. } => Poll::Ready(Err(all + bytes)),
                Sent::Nothing => panic!("a send was started"),
            }
        })
        .await
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 + index / 255) as u8).collect()
    }

    #[test]
    fn plaintext_goes_both_ways_and_ends_are_told() {
        on_ring(|ring| async move {
            let (peer, talk) = client(&ring, |mut client| {
                client.write_all(&bytes(300_000)).expect("connected");
                client.conn.send_close_notify();
                client.flush().expect("connected");
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).expect("it ends in TLS, too");
                answer
            })
            .await;
            assert_eq!(receive_all(&peer).await, (bytes(300_000), End::Clean));
            assert!(!peer.is_unended());
            assert_eq!(send(&peer, bytes(200_000)).await, Ok(200_000));
            assert!(peer.shutdown_write().expect("connected"));
            assert!(talk.join().expect("it has no error") == bytes(200_000));
        });
    }

    /// The peer is told of the end, too, if it is dropped.
    #[test]
    fn drop_is_an_end_in_tls() {
        on_ring(|ring| async move {
            let (peer, talk) = backend(&ring, |mut server| {
                let mut question = Vec::new();
                server.read_to_end(&mut question).expect("it ends in TLS, too");
                question
            })
            .await;
            assert_eq!(send(&peer, b"question".to_vec()).await, Ok(8));
            drop(peer);
            // The ring has to go on for the close.
            ring.next_turn().await;
            assert_eq!(talk.join().expect("it has no error"), b"question");
        });
    }

    #[test]
    fn end_without_the_end_of_tls_is_one_of_a_client_and_a_reset_of_a_backend() {
        on_ring(|ring| async move {
            let (peer, talk) = client(&ring, |mut client| {
                client.write_all(b"all").expect("connected");
            })
            .await;
            assert_eq!(receive_all(&peer).await, (b"all".to_vec(), End::Clean));
            assert!(peer.is_unended());
            talk.join().expect("it has no error");
            let (peer, talk) = backend(&ring, |mut server| {
                server.write_all(b"some").expect("connected");
            })
            .await;
            let (bytes, end) = receive_all(&peer).await;
            assert!(bytes == b"some" && matches!(end, End::Failed(_)), "{end:?}");
            assert!(peer.is_unended());
            talk.join().expect("it has no error");
        });
    }

    /// The first bytes go to another backend then.
    #[test]
    fn bytes_that_never_left_come_back() {
        on_ring(|ring| async move {
            let (from, mut sender) = pair(&ring);
            let (to, talk) = backend(&ring, |mut server| {
                server.conn.complete_io(&mut server.sock).expect("a handshake");
                reset(server.sock);
            })
            .await;
            talk.join().expect("it has no error");
            while to.peek() != crate::uring::Peeked::End {
                ring.next_turn().await;
            }
            sender.write_all(b"first").expect("connected");
            from.receive(Receive::One);
            while from.received() == 0 {
                ring.next_turn().await;
            }
            assert_eq!(from.forward(&to, true), 5);
            let sent = std::future::poll_fn(|context| {
                to.register(context.waker());
                match to.sent() {
                    Sent::Failed { bytes, .. } => Poll::Ready(bytes),
                    other => {
                        assert!(matches!(other, Sent::Busy { .. }), "{other:?}");
                        Poll::Pending
                    }
                }
            });
            assert_eq!((sent.await, from.received()), (0, 0));
            from.reclaim(&to, 0);
            assert_eq!(from.take_received(), b"first");
        });
    }

    #[test]
    fn handshake_waits_for_a_turn_with_time_and_what_is_no_tls_is_told_so() {
        on_ring(|ring| async move {
            let (mut peer, mut other) = pair(&ring);
            other.set_read_timeout(Some(Duration::from_secs(5))).expect("an open socket");
            other.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("connected");
            peer.receive(Receive::One);
            while peer.received() == 0 {
                ring.next_turn().await;
            }
            let (server, _) = configs(&TLS13);
            let pace = Rc::new(Pace::default());
            peer.encrypt_client(Stream::server(&server).expect("settings"), Rc::clone(&pace));
            let spent_in = ring.turn();
            pace.note_handshake(spent_in, Duration::from_secs(1));
            let error = std::future::poll_fn(|context| peer.poll_handshake(context)).await;
            assert!(ring.turn() > spent_in);
            assert!(matches!(error, Err(HandshakeError::Tls(Error::InvalidMessage(_)))), "{error:?}");
            let mut alert = [0; 7];
            other.read_exact(&mut alert).expect("the alert");
            assert_eq!(alert[0], 21, "the type of alerts, RFC 8446 section 5.1");
        });
    }
}
