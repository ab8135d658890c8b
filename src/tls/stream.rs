//! One TLS connection without I/O: bytes of the network in, plaintext out, and the other way round.
//!
//! The caller hands over what it has received, takes the plaintext, and sends what [`Stream::take_outgoing`] and
//! [`Stream::encrypt`] give it, in this order. A connection that rests
//! holds no buffer.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use crate::base::Spares;

/// What a record has at most besides its plaintext: header, type, and the tag of the cipher; TLS 1.2 adds a nonce.
const RECORD_OVERHEAD: usize = 5 + 1 + 16 + 8;
/// The longest plaintext of a record.
const FRAGMENT: usize = 16 << 10;
/// Bytes of a record with an alert, and some.
const ALERT: usize = 64;

/// Records that were decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Their bytes, heads, padding and tags included.
    pub bytes: usize,
    /// How many they are.
    pub records: usize,
}

/// See the module documentation.
pub struct Stream {
    connection: Connection,
    /// What was received and not decrypted.
    incoming: Vec<u8>,
    outgoing: Outgoing,
    plaintext: Vec<u8>,
    /// Whether `incoming` may hold records that wait until plaintext was taken.
    waits: bool,
    /// Whether the peer has said that its stream ends here.
    closed: bool,
    error: Option<Error>,
}

/// Records that have to be sent.
#[derive(Default)]
struct Outgoing {
    /// Behind `end`, anything.
    bytes: Vec<u8>,
    end: usize,
}

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is wanted of a connection besides taking in what has come.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Close,
}

/// What follows a step.
enum Step {
    /// There is more to do.
    Again,
    /// What was wanted is done.
    Done,
    /// The peer has ended its stream.
    Closed,
    /// Nothing can be done before more has come.
    Waits,
}

impl Stream {
    /// Begins the server's side of a connection.
    ///
    /// # Errors
    ///
    /// The settings do not fit together.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(Arc::clone(config)).map(|it| Self::new(Connection::Server(it)))
    }

    /// Begins the client's side of a connection, with the server that has this name, offering these protocols (ALPN).
    ///
    /// # Errors
    ///
    /// The settings do not fit together.
    pub fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new_with_alpn(Arc::clone(config), name, protocols)?;
        let mut stream = Self::new(Connection::Client(connection));
        // The hello.
        stream.process(1, &Spares::default());
        Ok(stream)
    }

    fn new(connection: Connection) -> Self {
        let (incoming, outgoing, plaintext) = (Vec::new(), Outgoing::default(), Vec::new());
        Self { connection, incoming, outgoing, plaintext, waits: false, closed: false, error: None }
    }

    /// Takes so many bytes that were received, which `take` appends to a buffer.
    pub fn feed(&mut self, bytes: usize, spares: &Spares, take: impl FnOnce(&mut Vec<u8>)) {
        let needed = self.incoming.len() + bytes;
        if self.incoming.capacity() < needed {
            let mut buffer = spares.take_empty(needed);
            buffer.extend_from_slice(&self.incoming);
            spares.give(std::mem::replace(&mut self.incoming, buffer));
        }
        take(&mut self.incoming);
    }

    /// Decrypts what has come, until the plaintext has at least `most` bytes; with the handshake, goes on with that. Returns
    /// what it has taken.
    pub fn process(&mut self, most: usize, spares: &Spares) -> Taken {
        if self.plaintext.capacity() == 0 {
            self.plaintext = spares.take_empty(self.incoming.len());
        }
        let mut start = 0;
        while self.error.is_none() && self.plaintext.len() < most {
            match self.step(&mut start, Wanted::Nothing) {
                Step::Again | Step::Closed => {}
                Step::Done | Step::Waits => break,
            }
        }
        let taken = Taken::of(self.incoming.get(..start).unwrap_or(&self.incoming));
        self.drop_processed(start, spares);
        if self.plaintext.is_empty() {
            spares.give(std::mem::take(&mut self.plaintext));
        }
        self.waits = self.plaintext.len() >= most && !self.incoming.is_empty();
        taken
    }

    /// Encrypts bytes; the records are [outgoing](Self::take_outgoing).
    ///
    /// # Errors
    ///
    /// The handshake is not over, or the connection has failed.
    pub fn encrypt(&mut self, plaintext: &[u8], spares: &Spares) -> Result<(), Error> {
        if self.outgoing.bytes.capacity() == 0 {
            self.outgoing.bytes = spares.take(plaintext.len());
        }
        self.write(Wanted::Encrypt(plaintext), spares)
    }

    /// Says that our stream ends here; the bytes to send are [outgoing](Self::take_outgoing).
    pub fn close(&mut self) {
        // A connection that has failed, or whose handshake has not ended, has no end to tell.
        let _ = self.write(Wanted::Close, &Spares::default());
    }

    fn write(&mut self, wanted: Wanted<'_>, spares: &Spares) -> Result<(), Error> {
        let mut start = 0;
        let written = loop {
            if let Some(error) = &self.error {
                break Err(error.clone());
            }
            match self.step(&mut start, wanted) {
                Step::Again | Step::Closed => {}
                Step::Done => break Ok(()),
                Step::Waits => break Err(Error::HandshakeNotComplete),
            }
        };
        self.drop_processed(start, spares);
        // Everything that was complete had to be decrypted first.
        self.waits = false;
        if matches!(written, Err(Error::EncryptError)) {
            // The keys are used up, which TLS 1.2 cannot change. The end that waits to be told would make what is cut off here
            // look complete.
            self.error = Some(Error::EncryptError);
            self.outgoing = Outgoing::default();
        }
        written
    }

    /// Makes one step with what was received from `start` on, which moves behind what is no longer needed.
    fn step(&mut self, start: &mut usize, wanted: Wanted<'_>) -> Step {
        let Self { connection, incoming, outgoing, plaintext, .. } = self;
        let bytes = incoming.get_mut(*start..).unwrap_or_default();
        let (discard, step) = match connection {
            Connection::Server(server) => {
                take(server.process_tls_records(bytes), wanted, outgoing, plaintext)
            }
            Connection::Client(client) => {
                take(client.process_tls_records(bytes), wanted, outgoing, plaintext)
            }
        };
        *start += discard;
        match step {
            Ok(Step::Closed) => {
                self.closed = true;
                Step::Closed
            }
            Ok(step) => step,
            Err(error) if self.error.is_none() => {
                let is_told_by_peer = matches!(error, Error::AlertReceived(_));
                self.error = Some(error);
                // Takes what goes out before its end, the alert included, which tells the peer. The connection has failed, so
                // what has come behind the error is not taken in.
                while !is_told_by_peer && let Step::Again = self.step(start, Wanted::Nothing) {}
                Step::Waits
            }
            Err(_) => Step::Waits,
        }
    }

    fn drop_processed(&mut self, bytes: usize, spares: &Spares) {
        if bytes >= self.incoming.len() || self.closed || self.error.is_some() {
            spares.give(std::mem::take(&mut self.incoming));
        } else {
            self.incoming.drain(..bytes);
            // The rest of the record may take its time.
            spares.trim(&mut self.incoming);
        }
    }

    /// Takes the records that have to be sent: those of the handshake, alerts, and what was encrypted, in their order.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        let Outgoing { mut bytes, end } = std::mem::take(&mut self.outgoing);
        bytes.truncate(end);
        bytes
    }

    /// Puts bytes before the records that have to be sent.
    pub fn put_outgoing_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.take_outgoing());
        self.outgoing = Outgoing { end: bytes.len(), bytes };
    }

    /// Returns whether records have to be sent.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        self.outgoing.end > 0
    }

    /// Plaintext that was not taken.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }

    /// Takes all plaintext.
    pub fn take_plaintext(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plaintext)
    }

    /// Drops the first `bytes` of the plaintext.
    pub fn consume_plaintext(&mut self, bytes: usize) {
        if bytes >= self.plaintext.len() {
            self.plaintext = Vec::new();
        } else {
            self.plaintext.drain(..bytes);
        }
    }

    /// Puts bytes back before the plaintext.
    pub fn put_plaintext_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.plaintext);
        self.plaintext = bytes;
    }

    /// Returns whether records may wait until plaintext was taken.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Returns whether a part of a record has come, as far as was fed.
    #[must_use]
    pub fn has_part(&self) -> bool {
        !self.incoming.is_empty() && !self.waits
    }

    /// Returns whether the peer has said that its stream ends here; there may be plaintext before it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether the handshake goes on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Why the connection failed.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// What the two sides have agreed on.
    #[must_use]
    pub fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(server) => server,
            Connection::Client(client) => client,
        }
    }
}

impl Taken {
    /// Counts the records in these bytes by their heads (RFC 8446 section 5.1), which decryption in place leaves as they are.
    fn of(mut bytes: &[u8]) -> Self {
        let mut taken = Self { bytes: bytes.len(), records: 0 };
        while let [_, _, _, high, low, rest @ ..] = bytes {
            taken.records += 1;
            bytes = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
        }
        taken
    }
}

/// Handles the state that a connection is in. Returns the number of received bytes that are no longer needed, and what
/// follows.
fn take<D>(
    status: UnbufferedStatus<'_, '_, D>,
    wanted: Wanted<'_>,
    outgoing: &mut Outgoing,
    plaintext: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plaintext.extend_from_slice(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let encoded = outgoing.append(0, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(size) => Some(size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
            encoded.map(|()| Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It goes out before everything else, so it counts as sent.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic, wanted, outgoing),
        Ok(ConnectionState::PeerClosed) => Ok(Step::Closed),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(Step::Waits),
        // Early data is never accepted.
        Ok(state) => Err(Error::General(format!("unexpected state {state:?}"))),
    };
    (discard, step)
}

fn write<D>(
    mut traffic: WriteTraffic<'_, D>,
    wanted: Wanted<'_>,
    outgoing: &mut Outgoing,
) -> Result<Step, Error> {
    let needed = |error| match error {
        EncryptError::InsufficientSize(size) => Some(size),
        EncryptError::EncryptExhausted => None,
    };
    match wanted {
        Wanted::Nothing => return Ok(Step::Waits),
        Wanted::Encrypt(bytes) => {
            let guess = bytes.len() + (bytes.len() / FRAGMENT + 1) * RECORD_OVERHEAD;
            outgoing.append(guess, |room| traffic.encrypt(bytes, room).map_err(needed))?;
        }
        Wanted::Close => outgoing.append(ALERT, |room| traffic.queue_close_notify(room).map_err(needed))?,
    }
    Ok(Step::Done)
}

impl Outgoing {
    /// Appends what `call` writes into the room that it gets: `guess` bytes, or as many as it says that it needs.
    fn append(
        &mut self,
        guess: usize,
        mut call: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
    ) -> Result<(), Error> {
        let mut room = guess;
        loop {
            let until = self.end + room;
            if self.bytes.len() < until {
                self.bytes.resize(until, 0);
            }
            match call(&mut self.bytes[self.end..until]) {
                Ok(written) => {
                    self.end += written;
                    return Ok(());
                }
                Err(Some(needed)) if needed.required_size > room => room = needed.required_size,
                Err(_) => return Err(Error::EncryptError),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::SupportedProtocolVersion;
    use rustls::version::{TLS12, TLS13};

    use super::super::testing;
    use super::*;

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

    fn both(version: &'static SupportedProtocolVersion) -> (Stream, Stream) {
        let (server, client) = testing::configs(version);
        let name = ServerName::try_from("a.example").expect("a name");
        let server = Stream::server(&server).expect("settings");
        (server, Stream::client(&client, name, Vec::new()).expect("settings"))
    }

    /// Brings what one side has to send to the other one, in pieces of at most `piece` bytes.
    fn carry(from: &mut Stream, to: &mut Stream, piece: usize) -> bool {
        let records = from.take_outgoing();
        for part in records.chunks(piece) {
            to.feed(part.len(), &Spares::default(), |bytes| bytes.extend(part));
            to.process(usize::MAX, &Spares::default());
        }
        !records.is_empty()
    }

    fn shake_hands(server: &mut Stream, client: &mut Stream, piece: usize) {
        while carry(client, server, piece) | carry(server, client, piece) {}
        assert!(!server.is_handshaking() && !client.is_handshaking());
        assert!(server.error().is_none() && client.error().is_none());
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_arrive_however_the_records_are_cut(
            tls13: bool, piece in 1..5_000_usize, lengths in prop::collection::vec(0..50_000_usize, 1..5), most in 1..70_000_usize,
        ) {
            let (mut server, mut client) = both(VERSIONS[usize::from(tls13)]);
            shake_hands(&mut server, &mut client, piece);
            for (turn, length) in lengths.into_iter().enumerate() {
                let (from, to) = if turn % 2 == 0 { (&mut server, &mut client) } else { (&mut client, &mut server) };
                let sent = bytes(length);
                from.encrypt(&sent, &Spares::default()).expect("open");
                let records = from.take_outgoing();
                let mut got = Vec::new();
                for part in records.chunks(piece) {
                    to.feed(part.len(), &Spares::default(), |bytes| bytes.extend(part));
                    loop {
                        to.process(most, &Spares::default());
                        let plaintext = to.take_plaintext();
                        prop_assert!(plaintext.len() < most + FRAGMENT);
                        got.extend(plaintext);
                        if !to.waits() {
                            break;
                        }
                    }
                }
                prop_assert!(got == sent);
            }
            prop_assert!(server.incoming.capacity() + server.outgoing.bytes.capacity() + server.plaintext.capacity() == 0);
        }

        #[test]
        fn garbage_ends_in_an_alert(garbage in prop::collection::vec(any::<u8>(), 5..2_000)) {
            let (mut server, _) = both(&TLS13);
            server.feed(garbage.len(), &Spares::default(), |bytes| bytes.extend(garbage));
            server.process(usize::MAX, &Spares::default());
            // Some garbage is the begin of a record.
            prop_assert_eq!(server.error().is_some(), server.has_outgoing());
        }
    }

    #[test]
    fn end_is_told_and_the_other_direction_goes_on() {
        for version in VERSIONS {
            let (mut server, mut client) = both(version);
            shake_hands(&mut server, &mut client, usize::MAX);
            client.close();
            carry(&mut client, &mut server, usize::MAX);
            assert!(server.is_closed() && server.error().is_none());
            server.encrypt(b"late", &Spares::default()).expect("our own direction is open");
            carry(&mut server, &mut client, usize::MAX);
            assert_eq!(client.take_plaintext(), b"late");
            assert!(!client.is_closed());
        }
    }

    #[test]
    fn record_that_was_changed_ends_in_an_alert() {
        for version in VERSIONS {
            let (mut server, mut client) = both(version);
            shake_hands(&mut server, &mut client, usize::MAX);
            client.encrypt(b"money", &Spares::default()).expect("open");
            let mut records = client.take_outgoing();
            *records.last_mut().expect("a record") ^= 1;
            server.feed(records.len(), &Spares::default(), |bytes| bytes.extend(records));
            server.process(usize::MAX, &Spares::default());
            assert_eq!(server.error(), Some(&Error::DecryptError));
            assert!(server.plaintext().is_empty() && server.encrypt(b"x", &Spares::default()).is_err());
            carry(&mut server, &mut client, usize::MAX);
            assert!(matches!(client.error(), Some(Error::AlertReceived(_))), "{:?}", client.error());
        }
    }

    /// The alert goes out behind the hello that both have agreed in.
    #[test]
    fn client_without_a_common_protocol_is_told_so() {
        let (server, client) = testing::configs(&TLS13);
        let mut server = ServerConfig::clone(&server);
        server.alpn_protocols = vec![b"one".to_vec()];
        let mut server = Stream::server(&Arc::new(server)).expect("settings");
        let name = ServerName::try_from("a.example").expect("a name");
        let mut client = Stream::client(&client, name, vec![b"two".to_vec()]).expect("settings");
        carry(&mut client, &mut server, usize::MAX);
        assert_eq!(server.error(), Some(&Error::NoApplicationProtocol));
        carry(&mut server, &mut client, usize::MAX);
        let told = Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
        assert_eq!(client.error(), Some(&told));
    }

    #[test]
    fn nothing_is_encrypted_before_the_handshake_is_over() {
        let (mut server, mut client) = both(&TLS13);
        assert!(
            [&mut client, &mut server]
                .into_iter()
                .all(|it| it.encrypt(b"early", &Spares::default()).is_err())
        );
        client.close();
        shake_hands(&mut server, &mut client, 7);
    }
}
