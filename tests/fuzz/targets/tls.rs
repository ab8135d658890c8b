//! Bytes on a connection with TLS: none of them panics, and what comes out of a server is always the begin of what its client
//! has sent, all of it if nobody has meddled with the records.
//!
//! The first byte says how the connection begins, each one behind it what happens next to the client's records: they are cut,
//! changed, repeated, swapped, left out, and mixed with bytes of the input. Keys are new each time, so a finding that depends
//! on them comes back only with luck.

#![no_main]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use ringway::base::Spares;
use ringway::config::{Files, parse_with};
use ringway::tls::{ServerSettings, Stream, Tickets, provider};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Bytes in each direction; more tell nothing new.
const BYTES_MAX: usize = 200_000;
/// New keys of a client; servers end connections that ask for too many.
const KEYS_MAX: u32 = 16;

struct Settings {
    server: ServerSettings,
    /// Of TLS 1.2 and 1.3.
    clients: [Arc<ClientConfig>; 2],
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let yaml = "loadbalancer: {listen_address: ':1', tls: {certificates: [{certificate: /c.pem, key: /k.pem}]}}\n\
                    backends: [{name: a, address: 127.0.0.1, port: 2}]\n";
        let mut files = Files::default();
        files.insert(Path::new("/c.pem").into(), Ok(own.cert.pem().into_bytes()));
        files.insert(Path::new("/k.pem").into(), Ok(own.signing_key.serialize_pem().into_bytes()));
        let config = parse_with("fuzz.yaml", yaml.as_bytes(), &files).expect("a valid configuration").config;
        let tls = config.listeners[0].tls.as_ref().expect("it is written");
        let server = ServerSettings::new("l", tls, &Arc::new(Tickets::default())).expect("settings");
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).expect("a root");
        let client = |version| {
            let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
            let builder = builder.expect("ciphers").with_root_certificates(roots.clone());
            Arc::new(builder.with_no_client_auth())
        };
        Settings { server, clients: [client(&TLS12), client(&TLS13)] }
    })
}

thread_local! {
    /// With what the connections before have left in them.
    static SPARES: Spares = Spares::default();
}

/// A client, its server, and the records between.
struct Wire<'a> {
    client: ClientConnection,
    server: Stream,
    spares: &'a Spares,
    /// From the client to the server.
    records: VecDeque<Vec<u8>>,
    /// What the client has sent, and what the server got.
    sent: Vec<u8>,
    got: Vec<u8>,
    /// What the server has sent, and what the client got.
    answered: Vec<u8>,
    heard: Vec<u8>,
    /// Whether the server gets something else than the client's records in their order.
    tampered: bool,
    /// Whether the client has ended its stream.
    has_ended: bool,
    server_has_ended: bool,
    new_keys: u32,
}

impl Wire<'_> {
    /// Takes what the client has to send.
    fn collect(&mut self) {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            let (record, behind) = rest.split_at(length);
            self.records.push_back(record.to_vec());
            rest = behind;
        }
    }

    fn say(&mut self, length: usize) {
        let begin = self.sent.len();
        if self.client.is_handshaking() || self.has_ended || begin + length > BYTES_MAX {
            return;
        }
        self.sent.extend((begin..begin + length).map(|index| (index * 7 + index / 251) as u8));
        // A client that has failed takes nothing.
        if self.client.writer().write_all(&self.sent[begin..]).is_err() {
            self.sent.truncate(begin);
        }
        self.collect();
    }

    fn deliver(&mut self, bytes: &[u8], most: usize) {
        self.server.feed(bytes.len(), self.spares, |incoming| incoming.extend(bytes));
        loop {
            let had_failed = self.server.error().is_some();
            self.server.process(most, self.spares);
            let plaintext = self.server.take_plaintext();
            assert!(plaintext.is_empty() || !had_failed, "plaintext after the end");
            self.got.extend(&plaintext);
            self.spares.give(plaintext);
            if !self.server.waits() {
                break;
            }
        }
        assert!(self.sent.starts_with(&self.got), "what nobody has sent");
    }

    fn deliver_next(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.deliver(&record, usize::MAX);
        }
    }

    fn answer(&mut self, length: usize) {
        let begin = self.answered.len();
        if self.server_has_ended || begin + length > BYTES_MAX {
            return;
        }
        let bytes: Vec<u8> = (begin..begin + length).map(|index| (index * 5 + index / 241) as u8).collect();
        if self.server.encrypt(&bytes, self.spares).is_ok() {
            self.answered.extend(bytes);
        }
    }

    /// Brings the client what the server has to send.
    fn carry_back(&mut self) {
        let bytes = self.server.take_outgoing();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // An error of the client ends it.
            let taken = self.client.read_tls(&mut rest).unwrap_or_default();
            if taken == 0 || self.client.process_new_packets().is_err() {
                break;
            }
            // Whatever the end.
            let _ = self.client.reader().read_to_end(&mut self.heard);
        }
        self.spares.give(bytes);
        assert!(self.answered.starts_with(&self.heard), "what the server has not sent");
        self.collect();
    }

    fn shake_hands(&mut self) {
        while !self.records.is_empty() {
            self.deliver_next();
            if self.records.is_empty() {
                self.carry_back();
            }
        }
        assert!(!self.server.is_handshaking() && !self.client.is_handshaking());
    }

    /// Does what a byte of the input asks for; more of the input says with what.
    fn act(&mut self, act: u8, input: &mut &[u8]) {
        let mut number = || take(input, 2).iter().fold(0, |number, byte| number * 256 + usize::from(*byte));
        match act % 14 {
            0 => self.say(number() % 40_000),
            1 => self.deliver_next(),
            2 => {
                let Some(record) = self.records.pop_front() else { return };
                let length = number() % record.len();
                self.tampered = true;
                self.deliver(&record[..length], usize::MAX);
            }
            3 => {
                let (at, change) = (number(), take(input, 1).first().copied().unwrap_or(1).max(1));
                let Some(record) = self.records.front_mut() else { return };
                let at = at % record.len();
                record[at] ^= change;
                self.tampered = true;
            }
            4 if self.records.len() > 1 => {
                self.records.swap(0, 1);
                self.tampered = true;
            }
            5 => {
                let Some(record) = self.records.front().cloned() else { return };
                self.records.push_front(record);
                self.tampered = true;
            }
            6 => {
                let length = number() % 600;
                let bytes = take(input, length).to_vec();
                self.tampered |= !bytes.is_empty();
                self.deliver(&bytes, usize::MAX);
            }
            7 => {
                self.client.send_close_notify();
                self.has_ended = true;
                // An end within the handshake is an error.
                self.tampered |= self.client.is_handshaking();
                self.collect();
            }
            8 => self.carry_back(),
            9 => self.answer(number() % 40_000),
            10 => self.tampered |= self.records.pop_front().is_some(),
            // In pieces, and no more plaintext at a time than is wanted.
            11 => {
                let (piece, most) = (1 + number() % 300, 1 + number() % 5_000);
                let Some(record) = self.records.pop_front() else { return };
                record.chunks(piece).for_each(|part| self.deliver(part, most));
            }
            12 => {
                self.server_has_ended = true;
                self.tampered |= self.client.is_handshaking();
                self.server.close();
            }
            13 if self.new_keys < KEYS_MAX => {
                self.new_keys += 1;
                // TLS 1.2 has none.
                let _ = self.client.refresh_traffic_keys();
                self.collect();
            }
            _ => {}
        }
    }

    fn finish(mut self) {
        while !self.records.is_empty() {
            self.deliver_next();
        }
        self.carry_back();
        if !self.tampered {
            assert!(self.server.error().is_none(), "{:?}", self.server.error());
            assert_eq!((self.got.len(), self.heard.len()), (self.sent.len(), self.answered.len()));
        }
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (first, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    first
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a.example").expect("a name")
}

/// Feeds bytes as they are, in pieces.
fn feed(mut stream: Stream, input: &[u8], spares: &Spares) {
    let (piece, bytes) =
        input.split_first().map_or((1, input), |(first, rest)| (1 + usize::from(*first), rest));
    for part in bytes.chunks(piece) {
        stream.feed(part.len(), spares, |incoming| incoming.extend(part));
        stream.process(usize::MAX, spares);
        assert!(stream.plaintext().is_empty(), "without a handshake there is none");
        spares.give(stream.take_outgoing());
    }
    stream.close();
}

fuzz_target!(|input: &[u8]| {
    let Some((begin, mut input)) = input.split_first() else { return };
    let Settings { server, clients } = settings();
    let client = &clients[usize::from(begin & 1)];
    let stream = Stream::server(server.config()).expect("settings");
    SPARES.with(|spares| match begin >> 1 & 3 {
        0 => feed(stream, input, spares),
        1 => feed(Stream::client(client, name(), Vec::new()).expect("settings"), input, spares),
        after_handshake => {
            let client = ClientConnection::new(Arc::clone(client), name()).expect("settings");
            let mut wire = Wire {
                client,
                server: stream,
                spares,
                records: VecDeque::new(),
                sent: Vec::new(),
                got: Vec::new(),
                answered: Vec::new(),
                heard: Vec::new(),
                tampered: false,
                has_ended: false,
                server_has_ended: false,
                new_keys: 0,
            };
            wire.collect();
            if after_handshake == 3 {
                wire.shake_hands();
            }
            while let [act, ..] = *take(&mut input, 1) {
                wire.act(act, &mut input);
            }
            wire.finish();
        }
    });
});
