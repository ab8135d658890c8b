//! Set-up: TLS with clients, with backends, or with both. Claim: the streams are those without TLS, ends and resets
//! included; whoever does not get through the handshake is told, and counted by its reason.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::{CloseReason, ConnectFailure, TlsFailure, TlsHandshake};
use ringway::protocol::proxy::{Progress, Tlv, read};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::support::{
    AUTHORITY, Backend, Balancer, BalancerBuilder, TlsClient, backend, balancer, echo_tls, eventually,
    is_reset, talk_tls,
};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// Enough for many records, receives and turns.
const MUCH: usize = 3 << 20;

fn settings(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(AUTHORITY.client(version, None))
}

fn client(balancer: &Balancer) -> TlsClient {
    TlsClient::connect(&settings(&TLS13), balancer.address(), "a.example").unwrap()
}

/// A backend that speaks TLS as `a.example`, and serves with this.
fn secure(talk: impl Fn(&mut dyn crate::support::Talk) -> io::Result<()> + Send + Sync + 'static) -> Backend {
    let config = Arc::new(AUTHORITY.server("a.example", false));
    backend().serve(move |connection| talk_tls(&config, connection, |it| talk(it))).start()
}

/// A balancer that terminates TLS.
fn terminating(backend: &Backend) -> BalancerBuilder {
    balancer().backends([backend]).listener(&AUTHORITY.listener(""))
}

fn failures(balancer: &Balancer, reason: TlsFailure) -> u64 {
    balancer.totals().tls_failures[reason.index()]
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 13 + index / 509) as u8).collect()
}

#[test]
fn bytes_go_both_ways_with_tls_on_either_side_or_both() {
    let (plain, encrypted) = (backend().echo().start(), secure(echo_tls));
    for version in VERSIONS {
        for backend in [&plain, &encrypted] {
            let builder = terminating(backend);
            let is_plain = std::ptr::eq(backend, &plain);
            let balancer = if is_plain { builder } else { builder.upstream(&AUTHORITY.upstream("")) }.start();
            std::thread::scope(|scope| {
                for length in [1, 100, 16 << 10, 100_000, MUCH] {
                    let (settings, address) = (settings(version), balancer.address());
                    scope.spawn(move || {
                        let mut client = TlsClient::connect(&settings, address, "a.example").unwrap();
                        let sent = bytes(length);
                        // The echo fits into the buffers on the way only in parts.
                        for part in sent.chunks(64 << 10) {
                            client.echo(part).unwrap();
                        }
                        client.end().unwrap();
                        let (rest, end) = client.receive_all();
                        assert!(rest.is_empty() && end.is_ok(), "{end:?}");
                    });
                }
            });
            balancer.await_closed(CloseReason::Normal, 5);
            let totals = balancer.totals();
            assert_eq!(totals.tls_handshakes[TlsHandshake::Full.index()], 5);
            assert_eq!((totals.tls_unended, totals.tls_failures.iter().sum::<u64>()), (0, 0));
            let sent = (1 + 100 + (16 << 10) + 100_000 + MUCH) as u64;
            assert_eq!((totals.bytes_to_backend, totals.bytes_to_client), (sent, sent));
        }
    }
}

#[test]
fn plain_clients_reach_backends_with_tls() {
    let backend = secure(echo_tls);
    let balancer = balancer().backends([&backend]).upstream(&AUTHORITY.upstream("")).start();
    let client = balancer.echoing_client();
    client.echo(&bytes(100_000)).unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn one_stream_goes_on_after_the_end_of_the_other() {
    let ends_first = backend().serve(|connection| {
        connection.send(b"greeting")?;
        connection.end()?;
        assert_eq!(connection.receive_exact(MUCH)?, bytes(MUCH));
        Ok(())
    });
    let (ends_first, collects) = (
        ends_first.start(),
        secure(|talk| {
            let mut all = Vec::new();
            io::Read::read_to_end(talk, &mut all)?;
            talk.write_all(&all)?;
            talk.flush()?;
            talk.end()
        }),
    );
    let balancer = terminating(&ends_first).start();
    let mut one = client(&balancer);
    assert_eq!(one.receive_all().0, b"greeting");
    one.send(&bytes(MUCH)).unwrap();
    one.end().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
    assert_eq!(ends_first.failed(), 0);
    let balancer = terminating(&collects).upstream(&AUTHORITY.upstream("")).start();
    let mut two = client(&balancer);
    two.send(&bytes(MUCH)).unwrap();
    two.end().unwrap();
    let (all, end) = two.receive_all();
    assert!(all == bytes(MUCH) && end.is_ok(), "{end:?}");
    balancer.await_closed(CloseReason::Normal, 1);
}

/// Whoever can cut a connection must not make an answer look complete.
#[test]
fn backend_that_ends_without_the_end_of_tls_resets_its_client() {
    let backend = secure(|talk| {
        talk.read_exact(&mut [0; 1])?;
        talk.write_all(b"some of it")?;
        talk.flush()
    });
    for has_tls in [false, true] {
        let builder = balancer().backends([&backend]).upstream(&AUTHORITY.upstream(""));
        let balancer = if has_tls { builder.listener(&AUTHORITY.listener("")) } else { builder }.start();
        let (got, end) = if has_tls {
            let mut client = client(&balancer);
            client.send(b"?").unwrap();
            client.receive_all()
        } else {
            let client = balancer.client();
            client.send(b"?").unwrap();
            client.receive_all()
        };
        assert_eq!(got, b"some of it");
        assert!(end.is_err(), "a reset, or an end without that of TLS");
        balancer.await_closed(CloseReason::Truncated, 1);
    }
}

#[test]
fn client_that_ends_without_the_end_of_tls_ends_and_is_counted() {
    let backend = backend().echo().start();
    let balancer = terminating(&backend).start();
    let mut client = client(&balancer);
    client.echo(b"all").unwrap();
    client.0.sock.shutdown(std::net::Shutdown::Write).unwrap();
    let (rest, end) = client.receive_all();
    assert!(rest.is_empty() && end.is_ok(), "{end:?}");
    balancer.await_closed(CloseReason::Normal, 1);
    assert_eq!(balancer.totals().tls_unended, 1);
}

#[test]
fn resets_pass_through() {
    let backend = backend().serve(|connection| {
        let byte = connection.receive_exact(1)?;
        if byte == b"r" {
            connection.reset();
            return Ok(());
        }
        connection.send(b"!")?;
        connection.receive_exact(1).map(drop)
    });
    let backend = backend.start();
    let balancer = terminating(&backend).start();
    let mut one = client(&balancer);
    one.send(b"r").unwrap();
    assert!(one.receive_all().1.is_err());
    balancer.await_closed(CloseReason::BackendReset, 1);
    let mut two = client(&balancer);
    two.send(b"c").unwrap();
    two.receive_exact(1).unwrap();
    socket2::SockRef::from(&two.0.sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(two);
    balancer.await_closed(CloseReason::ClientReset, 1);
    eventually("the backend is reset", || backend.failed() == 1);
}

/// What is no TLS is told so by an alert, and by the end of the connection; not by a reset, which might overtake it.
#[test]
fn handshakes_that_fail_are_told_and_counted() {
    let backend = backend().echo().start();
    let balancer = terminating(&backend).listener("timeouts: {handshake: 3s}").start();
    let garbage = balancer.client();
    garbage.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let (alert, end) = garbage.receive_all();
    assert!(alert.first() == Some(&21) && end.is_ok(), "{alert:?}, {end:?}");
    balancer.await_closed(CloseReason::HandshakeFailed, 1);
    assert_eq!(failures(&balancer, TlsFailure::Invalid), 1);

    let closed = balancer.client();
    closed.finish().unwrap_or_default();
    balancer.await_closed(CloseReason::ClientLeft, 1);
    assert_eq!(failures(&balancer, TlsFailure::Closed), 1);

    let distrusts =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let distrusts = distrusts.with_safe_default_protocol_versions().unwrap();
    let distrusts = distrusts.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    assert!(TlsClient::connect(&Arc::new(distrusts), balancer.address(), "a.example").is_err());
    balancer.await_closed(CloseReason::HandshakeFailed, 2);
    assert_eq!(failures(&balancer, TlsFailure::Alert), 1);

    let silent = balancer.client();
    silent.send(&[22, 3, 1]).unwrap();
    assert!(silent.receive_all().1.is_err_and(|error| is_reset(&error)));
    balancer.await_closed(CloseReason::HandshakeTimeout, 1);
    assert_eq!(failures(&balancer, TlsFailure::Timeout), 1);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn handshakes_beyond_their_limit_are_refused_and_open_sessions_do_not_count() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).listener(&AUTHORITY.listener("handshakes_max: 1")).start();
    let mut open = client(&balancer);
    open.echo(b"open").unwrap();
    // A hello that is complete waits for nothing but the client's next message.
    let slow = Hello::send(&balancer);
    eventually("its handshake goes on", || balancer.totals().active == 2);
    slow.receive_some();
    let refused = TlsClient::connect(&settings(&TLS13), balancer.address(), "a.example");
    assert!(refused.is_err_and(|error| is_reset(&error)));
    balancer.await_closed(CloseReason::HandshakeFailed, 1);
    assert_eq!(failures(&balancer, TlsFailure::Limit), 1);
    drop(slow);
    balancer.await_closed(CloseReason::ClientLeft, 1);
    assert_eq!(failures(&balancer, TlsFailure::Closed), 1);
    client(&balancer).echo(b"free again").unwrap();
    open.echo(b"still open").unwrap();
}

/// A client that has sent its hello and nothing more.
struct Hello(TcpStream);

impl Hello {
    fn send(balancer: &Balancer) -> Self {
        let name = "a.example".try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(settings(&TLS13), name).unwrap();
        let mut socket = TcpStream::connect(balancer.address()).unwrap();
        connection.write_tls(&mut socket).unwrap();
        Self(socket)
    }

    fn receive_some(&self) {
        assert!(io::Read::read(&mut &self.0, &mut [0; 1]).unwrap() == 1);
    }
}

#[test]
fn client_certificates_are_asked_for() {
    let backend = backend().echo().start();
    let keys = format!("client_ca: {}", AUTHORITY.path("ca.pem").display());
    let balancer = balancer().backends([&backend]).listener(&AUTHORITY.listener(&keys)).start();
    let connect = |version, certificate| {
        let settings = Arc::new(AUTHORITY.client(version, certificate));
        let mut client = TlsClient::connect(&settings, balancer.address(), "a.example")?;
        client.echo(b"hello")
    };
    for (refused, version) in (1..).zip(VERSIONS) {
        connect(version, Some("client")).unwrap();
        assert!(connect(version, None).is_err());
        balancer.await_closed(CloseReason::HandshakeFailed, refused);
        assert_eq!(failures(&balancer, TlsFailure::Certificate), refused);
    }
}

#[test]
fn certificates_go_by_name_and_sessions_are_resumed_on_both_shards() {
    let backend = backend().echo().start();
    let both = format!(
        "tls: {{certificates: [{}, {}]}}",
        AUTHORITY.entry("a.example"),
        AUTHORITY.entry("b.example")
    );
    let balancer = balancer().backends([&backend]).listener(&both).start();
    for version in VERSIONS {
        for name in ["a.example", "b.example"] {
            let settings = settings(version);
            // The certificate is checked against the name.
            let connect = || {
                let mut client = TlsClient::connect(&settings, balancer.address(), name).unwrap();
                // The tickets come with the echo.
                client.echo(b"hello").unwrap();
                client
            };
            assert!(!connect().is_resumed());
            assert!((0..20).all(|_| connect().is_resumed()));
        }
        assert!(TlsClient::connect(&settings(version), balancer.address(), "c.example").is_err());
    }
    let totals = balancer.totals();
    assert_eq!(totals.tls_handshakes[TlsHandshake::Resumed.index()], 80);
}

#[test]
fn protocol_is_the_one_of_both_and_the_backend_gets_it() {
    let mut config = AUTHORITY.server("a.example", true);
    config.alpn_protocols = vec![b"two".to_vec(), b"one".to_vec()];
    let config = Arc::new(config);
    let backend = backend().serve(move |connection| talk_tls(&config, connection, echo_tls)).start();
    let own = format!(
        "alpn: same, certificate: {}, key: {}",
        AUTHORITY.path("client.pem").display(),
        AUTHORITY.path("client.key").display()
    );
    let balancer = balancer()
        .backends([&backend])
        .listener(&AUTHORITY.listener("alpn: [one, two]"))
        .upstream(&AUTHORITY.upstream(&own))
        .start();
    let connect = |offers: &[&str]| {
        let mut settings = AUTHORITY.client(&TLS13, None);
        settings.alpn_protocols = offers.iter().map(|offer| offer.as_bytes().to_vec()).collect();
        let mut client = TlsClient::connect(&Arc::new(settings), balancer.address(), "a.example")?;
        client.echo(b"hello")?;
        io::Result::Ok(client.0.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(connect(&["two", "one"]).unwrap(), Some(b"one".to_vec()));
    assert_eq!(connect(&["two"]).unwrap(), Some(b"two".to_vec()));
    assert_eq!(connect(&[]).unwrap(), None);
    assert!(connect(&["three"]).is_err());
    balancer.await_closed(CloseReason::HandshakeFailed, 1);
    assert_eq!(failures(&balancer, TlsFailure::Incompatible), 1);
}

/// It was sent before the handshake, and no byte of the client.
#[test]
fn header_of_the_proxy_protocol_goes_before_tls_and_tells_of_it() {
    let config = Arc::new(AUTHORITY.server("a.example", false));
    let backend = backend().serve(move |connection| {
        let mut header = Vec::new();
        loop {
            match read(&header) {
                Progress::Complete { header, .. } => {
                    let tlvs: Vec<_> = header.tlvs.known().collect();
                    assert!(tlvs.contains(&Tlv::Authority("a.example")), "{tlvs:?}");
                    let ssl =
                        tlvs.iter().find_map(|tlv| if let Tlv::Ssl(ssl) = tlv { Some(*ssl) } else { None });
                    let ssl = ssl.expect("the client speaks TLS");
                    assert_eq!((ssl.client, ssl.verify), (1, 1), "without a certificate");
                    let details: Vec<_> = ssl.details.iter().collect();
                    assert!(details.contains(&(0x21, &b"TLSv1.3"[..])), "{details:?}");
                    break;
                }
                Progress::Incomplete { .. } => header.extend(connection.receive_exact(1)?),
                Progress::Invalid(why) => panic!("{why}"),
            }
        }
        talk_tls(&config, connection, echo_tls)
    });
    let backend = backend.start();
    let balancer = terminating(&backend).upstream(&AUTHORITY.upstream("")).upstream("send_proxy: v2").start();
    let mut client = client(&balancer);
    client.echo(b"hello").unwrap();
    assert_eq!(balancer.totals().bytes_to_backend, 5);
}

#[test]
fn backend_whose_handshake_fails_is_given_up_for_another() {
    let unknown = crate::support::Authority::new();
    let config = Arc::new(unknown.server("a.example", false));
    let other = backend().serve(move |connection| talk_tls(&config, connection, echo_tls)).start();
    let wrong_name = Arc::new(AUTHORITY.server("b.example", false));
    let wrong_name = backend().serve(move |connection| talk_tls(&wrong_name, connection, echo_tls)).start();
    let (no_tls, good) = (backend().greet(b"220 hello\r\n").start(), secure(echo_tls));
    for bad in [&other, &wrong_name, &no_tls] {
        let balancer = balancer()
            .backends([bad, &good])
            .upstream(&AUTHORITY.upstream(""))
            .upstream("algorithm: first")
            .start();
        balancer.echoing_client();
        let failures = balancer.status().upstreams[0].backends[0].totals.connect_failures;
        assert_eq!(failures[ConnectFailure::Tls.index()], 1);
        assert_eq!((balancer.retries(), balancer.shares()), (1, vec![0, 1]));
    }
}

#[test]
fn backend_that_is_silent_in_the_handshake_runs_into_connect() {
    let silent = backend().never_reads().start();
    let balancer = balancer()
        .backends([&silent])
        .upstream(&AUTHORITY.upstream(""))
        .upstream("timeouts: {connect: 200ms}")
        .upstream("retries: 0")
        .start();
    assert!(balancer.client().receive_all().1.is_err());
    balancer.await_closed(CloseReason::ConnectTimeout, 1);
}

#[test]
fn pooled_connections_have_shaken_hands() {
    let backend = secure(echo_tls);
    let balancer = terminating(&backend)
        .upstream(&AUTHORITY.upstream(""))
        .upstream("pool: {size: 4, reuse: untouched, clients: trusted}")
        .start();
    eventually("the pool is full", || backend.open() >= 4);
    for _ in 0..20 {
        client(&balancer).echo(b"hello").unwrap();
    }
    assert!(balancer.status().upstreams[0].pool.hits > 0);
}

#[test]
fn bandwidth_counts_plaintext() {
    let backend = backend().echo().start();
    let balancer =
        terminating(&backend).listener("bandwidth: {to_backend: 400KiB/s, to_client: off}").start();
    let mut client = client(&balancer);
    let begun = std::time::Instant::now();
    for part in bytes(300 << 10).chunks(30 << 10) {
        client.echo(part).unwrap();
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(600), "{took:?}");
}

/// What the client does not take stays with the backend, but for what buffers on the way hold.
#[test]
fn slow_reader_holds_back_its_backend() {
    const ALL: usize = 64 << 20;
    let (sender, sent) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let backend = backend().serve(move |connection| {
        sender.lock().unwrap().send(connection.send_until_full()).unwrap();
        Ok(())
    });
    let backend = backend.start();
    let balancer = terminating(&backend).start();
    let mut client = client(&balancer);
    client.receive_exact(1).unwrap();
    let sent = sent.recv().unwrap();
    assert!(sent < ALL, "{sent} bytes are on their way");
    let (rest, end) = client.receive_all();
    assert!(rest.len() == sent - 1 && end.is_ok(), "{} of {sent}, {end:?}", rest.len());
}

/// A client that waits in the queue may say a little, which is kept for its backend, and no more.
#[test]
fn waiting_client_is_held_back_after_a_short_record() {
    let backend = backend().echo().start();
    let entry = format!("{}, max_connections: 1", backend.entry());
    let balancer = balancer()
        .entry(&entry)
        .listener(&AUTHORITY.listener(""))
        .upstream("queue: {max: 5, timeout: 10s}")
        .start();
    let mut first = client(&balancer);
    first.echo(b"it has the backend").unwrap();
    let mut waiting = client(&balancer);
    waiting.send(b"!").unwrap();
    waiting.0.sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = bytes(64 << 10);
    let taken = (0..512).take_while(|_| waiting.send(&piece).is_ok()).count();
    assert!(taken < 512, "32 MiB were taken from a client that waits");
    first.end().unwrap();
    waiting.0.sock.set_write_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert_eq!(waiting.receive_exact(1).unwrap(), b"!");
}

/// The bytes of the second session, which the backend never got, go over another connection.
#[test]
fn first_bytes_on_a_used_connection_are_not_lost() {
    let connections = std::sync::atomic::AtomicU64::new(0);
    let config = Arc::new(AUTHORITY.server("a.example", false));
    let backend = backend().serve(move |connection| {
        let is_first = connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        talk_tls(&config, connection, |talk| {
            if !is_first {
                return echo_tls(talk);
            }
            talk.read_exact(&mut [0; 5])?;
            talk.write_all(b"hello")?;
            talk.flush()?;
            talk.read_exact(&mut [0; 5])?;
            talk.write_all(b"clean")?;
            talk.flush()
        })?;
        if is_first {
            connection.reset();
        }
        Ok(())
    });
    let backend = backend.start();
    let balancer = terminating(&backend)
        .one_shard()
        .upstream(&AUTHORITY.upstream(""))
        .upstream("pool: {size: 1, reuse: reset, reset: {send: RESET, expect: clean}, clients: trusted}")
        .start();
    for _ in 0..3 {
        let mut client = client(&balancer);
        client.echo(b"hello").unwrap();
        client.end().unwrap();
        assert!(client.receive_all().0.is_empty());
    }
}

/// The backend's answer fills every buffer on the way before the client, which has ended already, takes a byte; and then
/// both streams have ended.
#[test]
fn end_in_tls_is_told_however_slowly_the_client_takes_the_rest() {
    let backend = backend().serve(|connection| {
        connection.receive_exact(1)?;
        connection.send(&bytes(MUCH))
    });
    let backend = backend.start();
    let balancer = terminating(&backend).start();
    for _ in 0..10 {
        let mut client = client(&balancer);
        client.send(b"?").unwrap();
        client.end().unwrap();
        let (all, end) = client.receive_all();
        assert!(all == bytes(MUCH) && end.is_ok(), "{end:?}");
    }
}

/// Our handshake is over when the backend looks at our certificate, and finds none.
#[test]
fn backend_that_refuses_us_after_the_handshake_is_counted() {
    let config = Arc::new(AUTHORITY.server("a.example", true));
    let backend = backend().serve(move |connection| talk_tls(&config, connection, echo_tls)).start();
    let balancer =
        balancer().backends([&backend]).upstream(&AUTHORITY.upstream("")).upstream("retries: 0").start();
    let client = balancer.client();
    client.send(b"hello").unwrap();
    assert!(client.receive_all().1.is_err());
    let failures = || balancer.status().upstreams[0].backends[0].totals.connect_failures;
    eventually("it is counted", || failures()[ConnectFailure::Tls.index()] == 1);
}

/// The records of these bytes, which the caller sends.
fn records(client: &mut TlsClient, bytes: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    client.0.conn.writer().write_all(bytes).unwrap();
    client.0.conn.write_tls(&mut records).unwrap();
    records
}

/// An upload that was cut off must not look complete, and half a record is certainly cut off.
#[test]
fn client_that_ends_within_a_record_resets_its_backend() {
    let backend = backend().serve(|connection| connection.receive_exact(6).map(drop)).start();
    let balancer = terminating(&backend).start();
    let mut client = client(&balancer);
    client.send(b"whole").unwrap();
    let part = records(&mut client, b"half");
    client.0.sock.write_all(&part[..part.len() - 1]).unwrap();
    client.0.sock.shutdown(std::net::Shutdown::Write).unwrap();
    balancer.await_closed(CloseReason::ClientReset, 1);
    eventually("the backend is reset", || backend.failed() == 1);
}

#[test]
fn parts_of_a_record_are_no_silence() {
    let backend = backend().echo().start();
    let balancer = terminating(&backend).listener("timeouts: {client_idle: 1s}").start();
    let mut client = client(&balancer);
    client.echo(b"hello").unwrap();
    let all = records(&mut client, &bytes(10_000));
    for part in all.chunks(1_300) {
        client.0.sock.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(client.receive_exact(10_000).unwrap(), bytes(10_000));
}

#[test]
fn backend_hears_of_no_client_that_says_nothing_behind_its_handshake() {
    let backend = backend().echo().start();
    let balancer = terminating(&backend).listener("client_first: 1s").start();
    let mut silent = client(&balancer);
    assert!(silent.receive_all().1.is_err());
    balancer.await_closed(CloseReason::HandshakeTimeout, 1);
    assert_eq!(backend.connections(), 0);
    client(&balancer).echo(b"hello").unwrap();
}
