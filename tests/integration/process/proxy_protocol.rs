//! Set-up: a balancer that takes PROXY headers, or sends them, or both. Claim: the client is whom a trusted proxy announces,
//! for hashing, rules, logs and backends; a header is no byte of the session; and whoever comes without a valid one in
//! time is reset and counted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ringway::base::{CloseReason, DenyReason};
use ringway::protocol::proxy::{Endpoints, Progress, Tlv, Version, read, write};
use serde_json::Value;

use crate::support::{
    Asked, Backend, Balancer, BalancerBuilder, Client, Connection, NO_ADMIN, Process, Reserved, V4, V6,
    backend, balancer, eventually, is_reset, process, timed,
};

const REQUIRED: &str = "proxy_protocol: {accept: required, trusted: [127.0.0.0/8, '::1', 'unix:']}";

/// What a backend was told.
#[derive(Debug, PartialEq)]
struct Told {
    version: Version,
    endpoints: Option<Endpoints>,
    /// Whether there is a checksum, which was right.
    has_checksum: bool,
    local: bool,
}

/// Reads a header, byte by byte, so that what follows it is left.
fn take_header(connection: &Connection) -> io::Result<Told> {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes) {
            Progress::Complete { length, header } => {
                assert_eq!(length, bytes.len());
                let has_checksum = header.tlvs.known().any(|tlv| matches!(tlv, Tlv::Crc32c(_)));
                let local = bytes.get(12) == Some(&0x20) || bytes.starts_with(b"PROXY UNKNOWN");
                return Ok(Told {
                    version: header.version,
                    endpoints: header.endpoints,
                    has_checksum,
                    local,
                });
            }
            Progress::Incomplete { .. } => bytes.extend(connection.receive_exact(1)?),
            Progress::Invalid(why) => panic!("{why}: {}", bytes.escape_ascii()),
        }
    }
}

/// A backend that reads a header on each connection, says what it was told, and goes on with `serve`.
fn told_backend(
    serve: impl Fn(&Connection) -> io::Result<()> + Send + Sync + 'static,
) -> (Backend, Receiver<Told>) {
    let (sender, told): (Sender<Told>, _) = channel();
    let sender = Mutex::new(sender);
    let backend = backend().serve(move |connection| {
        let told = take_header(connection)?;
        // The test may be over.
        let _ = sender.lock().unwrap().send(told);
        serve(connection)
    });
    (backend.start(), told)
}

fn endpoints(client: &str, destination: &str) -> Endpoints {
    Endpoints::new(client.parse().unwrap(), destination.parse().unwrap())
}

/// A header that announces 192.0.2.7:40112 to 203.0.113.1:443.
fn header(version: Version) -> Vec<u8> {
    write(version, Some(announced()), &[Tlv::Authority("www.example")])
}

fn announced() -> Endpoints {
    endpoints("192.0.2.7:40112", "203.0.113.1:443")
}

fn accepting() -> BalancerBuilder {
    balancer().one_shard().listener(REQUIRED)
}

/// The bytes that the listener has counted.
fn counted(balancer: &Balancer) -> (u64, u64) {
    let totals = balancer.totals();
    (totals.bytes_to_backend, totals.bytes_to_client)
}

/// Whenever the reset comes, it is one, and no byte before it.
#[track_caller]
fn expect_denied(connected: io::Result<Client>) {
    let (received, end) = match connected {
        Ok(client) => client.receive_all(),
        Err(error) => (Vec::new(), Err(error)),
    };
    assert!(received.is_empty() && end.as_ref().is_err_and(is_reset), "{received:?}, {end:?}");
}

#[test]
fn backend_is_told_of_the_client_before_its_first_byte() {
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let (only, told) = told_backend(Connection::echo);
        let balancer = balancer().upstream(&format!("send_proxy: {name}")).backends([&only]).start();
        let client = balancer.echoing_client();
        let expected = Endpoints::new(client.address(), balancer.address());
        let has_checksum = version == Version::V2;
        let expected = Told { version, endpoints: Some(expected), has_checksum, local: false };
        assert_eq!(told.recv().unwrap(), expected);
        client.finish().unwrap();
        balancer.await_closed(CloseReason::Normal, 1);
        assert_eq!(counted(&balancer), (5, 5), "the header is no byte of the session");
    }
}

#[test]
fn mapped_client_is_announced_as_ipv4_and_a_real_one_as_ipv6() {
    for (name, ip) in [("v1", V4), ("v2", V4), ("v1", V6), ("v2", V6)] {
        let (only, told) = told_backend(Connection::echo);
        let balancer = balancer().on_any().upstream(&format!("send_proxy: {name}")).backends([&only]).start();
        let address = SocketAddr::new(ip, balancer.address().port());
        let client = Client::connect(address).unwrap();
        client.echo(b"hello").unwrap();
        let endpoints = told.recv().unwrap().endpoints;
        assert_eq!(endpoints, Some(Endpoints::new(client.address(), address)));
        client.finish().unwrap();
    }
}

#[test]
fn client_of_a_unix_socket_is_announced_as_unknown() {
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let (only, told) = told_backend(Connection::echo);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front");
        let builder = balancer().one_shard().on_unix(path.clone()).upstream(&format!("send_proxy: {name}"));
        let balancer = builder.backends([&only]).start();
        let client = Client::connect_unix(&path).unwrap();
        client.echo(b"hello").unwrap();
        let expected = Told { version, endpoints: None, has_checksum: false, local: true };
        assert_eq!(told.recv().unwrap(), expected);
        client.finish().unwrap();
        drop(balancer);
    }
}

#[test]
fn backend_that_speaks_first_has_the_header_at_once() {
    let (only, told) = told_backend(|connection| {
        connection.send(b"220 welcome")?;
        connection.echo()
    });
    let balancer = balancer().upstream("send_proxy: v2").backends([&only]).start();
    let client = balancer.client();
    assert_eq!(client.receive_exact(11).unwrap(), b"220 welcome");
    assert!(told.recv().unwrap().endpoints.is_some());
    client.echo(b"EHLO").unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
    assert_eq!(counted(&balancer), (4, 15));
}

/// It may even have read the header.
#[test]
fn reset_behind_the_header_is_retried_on_another_backend_which_is_told_the_same() {
    for reads in [false, true] {
        let resetting = backend().serve(move |connection| {
            if reads {
                take_header(connection)?;
            }
            connection.reset();
            Ok(())
        });
        let resetting = resetting.start();
        let (greeting, told) = told_backend(|connection| {
            connection.send(b"hello")?;
            connection.echo()
        });
        let balancer =
            balancer().one_shard().upstream("send_proxy: v2").backends([&resetting, &greeting]).start();
        for _ in 0..20 {
            let client = balancer.client();
            assert_eq!(client.receive_exact(5).unwrap(), b"hello");
            client.echo(b"now").unwrap();
            let expected = Endpoints::new(client.address(), balancer.address());
            assert_eq!(told.recv().unwrap().endpoints, Some(expected));
            client.finish().unwrap();
        }
        balancer.await_closed(CloseReason::Normal, 20);
        assert!(resetting.connections() > 0 && balancer.retries() == resetting.connections());
        assert_eq!(counted(&balancer), (60, 160));
    }
}

#[test]
fn backend_that_resets_behind_the_header_is_blamed() {
    let resetting = backend().serve(|connection| {
        take_header(connection)?;
        connection.reset();
        Ok(())
    });
    let resetting = resetting.start();
    let (greeting, _told) = told_backend(|connection| {
        connection.send(b"hello")?;
        connection.echo()
    });
    let balancer = balancer()
        .one_shard()
        .upstream("send_proxy: v2")
        .upstream("outlier: {consecutive_failures: 3, ejection_time: 1h, max_ejected: 50%}")
        .backends([&resetting, &greeting])
        .start();
    for _ in 0..6 {
        let client = balancer.client();
        client.receive_exact(5).unwrap();
        client.finish().unwrap();
    }
    balancer.await_ejected(0, true);
}

#[test]
fn header_in_any_pieces_announces_the_client_and_leaves_its_bytes() {
    for version in [Version::V1, Version::V2] {
        let (only, told) = told_backend(Connection::echo);
        let balancer = accepting().upstream("send_proxy: v1").backends([&only]).start();
        let header = header(version);
        let payload = b"PROXY is what the client says, too\r\n";
        for split in 0..=header.len() + 1 {
            let whole = [&header[..], payload].concat();
            let client = balancer.client();
            client.send(&whole[..split]).unwrap();
            client.send(&whole[split..]).unwrap();
            assert_eq!(client.receive_exact(payload.len()).unwrap(), payload, "split at {split}");
            assert_eq!(told.recv().unwrap().endpoints, Some(announced()));
            client.finish().unwrap();
        }
        let count = header.len() as u64 + 2;
        balancer.await_closed(CloseReason::Normal, count);
        let bytes = count * payload.len() as u64;
        assert_eq!(counted(&balancer), (bytes, bytes));
    }
}

#[test]
fn header_in_single_bytes_and_a_client_that_only_listens() {
    let (only, told) = told_backend(|connection| {
        connection.send(b"hello")?;
        connection.echo()
    });
    let balancer = accepting().upstream("send_proxy: v2").backends([&only]).start();
    let client = balancer.client();
    for byte in header(Version::V2) {
        client.send(&[byte]).unwrap();
    }
    assert_eq!(client.receive_exact(5).unwrap(), b"hello");
    assert_eq!(told.recv().unwrap().endpoints, Some(announced()));
    client.finish().unwrap();
}

/// The end of the client's stream comes with the header.
#[test]
fn end_right_behind_the_header_is_passed_on() {
    let (only, _told) = told_backend(|connection| {
        let (mut all, mut buffer) = (0, [0; 64]);
        loop {
            match connection.receive(&mut buffer)? {
                0 => break,
                count => all += count,
            }
        }
        connection.send(format!("{all} bytes").as_bytes())?;
        connection.end()
    });
    let balancer = accepting().upstream("send_proxy: v2").backends([&only]).start();
    let client = balancer.client();
    client.send(&[&header(Version::V1)[..], b"1234"].concat()).unwrap();
    client.end().unwrap();
    let (answer, end) = client.receive_all();
    assert_eq!((&*answer, end.is_ok()), (&b"4 bytes"[..], true));
}

#[test]
fn header_without_addresses_leaves_the_client_who_it_is() {
    for header in [write(Version::V2, None, &[]), write(Version::V1, None, &[])] {
        let (only, told) = told_backend(Connection::echo);
        let balancer = accepting().upstream("send_proxy: v2").backends([&only]).start();
        let client = balancer.client();
        client.send(&header).unwrap();
        client.echo(b"hello").unwrap();
        let expected = Endpoints::new(client.address(), balancer.address());
        assert_eq!(told.recv().unwrap().endpoints, Some(expected));
        client.finish().unwrap();
    }
}

#[test]
fn untrusted_peer_is_denied_before_it_says_anything() {
    let only = backend().echo().start();
    let trusted = "proxy_protocol: {accept: required, trusted: [127.0.0.1]}";
    let balancer = balancer().listener(trusted).backends([&only]).start();
    expect_denied(Client::connect_from(IpAddr::from([127, 0, 0, 2]), balancer.address()));
    let client = balancer.client();
    client.send(&header(Version::V2)).unwrap();
    client.echo(b"hello").unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
    let totals = balancer.totals();
    assert_eq!((totals.accepted, totals.denied[DenyReason::Untrusted.index()]), (2, 1));
}

#[test]
fn mapped_peer_is_trusted_as_ipv4() {
    let (only, told) = told_backend(Connection::echo);
    let trusted = "proxy_protocol: {accept: required, trusted: [127.0.0.0/8]}";
    let balancer = balancer().on_any().listener(trusted).upstream("send_proxy: v1").backends([&only]).start();
    let client = balancer.client();
    client.send(&header(Version::V1)).unwrap();
    client.echo(b"hello").unwrap();
    assert_eq!(told.recv().unwrap().endpoints, Some(announced()));
    client.finish().unwrap();
    expect_denied(Client::connect(SocketAddr::new(V6, balancer.address().port())));
}

#[test]
fn peer_of_a_unix_socket_announces_a_client_of_tcp() {
    let (only, told) = told_backend(Connection::echo);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front");
    let builder = accepting().on_unix(path.clone()).upstream("send_proxy: v2").backends([&only]);
    let _balancer = builder.start();
    let client = Client::connect_unix(&path).unwrap();
    client.send(&header(Version::V2)).unwrap();
    client.echo(b"hello").unwrap();
    assert_eq!(told.recv().unwrap().endpoints, Some(announced()));
    client.finish().unwrap();
}

#[test]
fn what_is_no_header_is_reset_at_once() {
    let only = backend().echo().start();
    let balancer = accepting().backends([&only]).start();
    let mut wrong_checksum = header(Version::V2);
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let requests: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.1 40112 443\n",
        b"PROXY TCP9 ",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &endless,
        &wrong_checksum,
    ];
    for request in requests {
        let client = balancer.client();
        client.send(request).unwrap();
        let (received, end) = client.receive_all();
        let is_reset = end.is_err_and(|error| is_reset(&error));
        assert!(received.is_empty() && is_reset, "{}", request.escape_ascii());
    }
    balancer.await_closed(CloseReason::HandshakeFailed, 6);
    assert_eq!(only.connections(), 0);
}

#[test]
fn client_that_leaves_within_the_header_has_left() {
    let only = backend().echo().start();
    let balancer = accepting().backends([&only]).start();
    for sent in [0, 1, 20] {
        let client = balancer.client();
        client.send(&header(Version::V1)[..sent]).unwrap();
        client.end().unwrap();
        assert!(client.receive_all().0.is_empty());
        let client = balancer.client();
        client.send(&header(Version::V2)[..sent]).unwrap();
        client.reset();
    }
    balancer.await_closed(CloseReason::ClientLeft, 6);
    assert_eq!(only.connections(), 0);
}

#[test]
fn slow_header_and_a_missing_one_have_one_deadline_together() {
    let only = backend().echo().start();
    let balancer = accepting().listener("timeouts: {handshake: 3s}").backends([&only]).start();
    let (silent, slow) = (balancer.client(), balancer.client());
    let took = timed(|| {
        let header = header(Version::V2);
        slow.set_patience(Duration::from_millis(400));
        for byte in header.chunks(2) {
            // No piece postpones the deadline.
            if slow.send(byte).is_err() || slow.receive(&mut [0]).is_err_and(|error| is_reset(&error)) {
                break;
            }
        }
        assert!(silent.receive_all().1.is_err_and(|error| is_reset(&error)));
    });
    assert!(took >= Duration::from_millis(2_900) && took < Duration::from_secs(9), "{took:?}");
    balancer.await_closed(CloseReason::HandshakeTimeout, 2);
    assert_eq!(only.connections(), 0);
}

#[test]
fn rules_on_clients_ask_whom_the_proxy_announces() {
    let only = backend().echo().start();
    let rules = "deny: [192.0.2.0/24]";
    let sources = "per_source: {max_connections: 1}";
    let balancer = accepting().listener(rules).listener(sources).backends([&only]).start();
    let denied = balancer.client();
    denied.send(&header(Version::V1)).unwrap();
    assert!(denied.receive_all().1.is_err_and(|error| is_reset(&error)));
    let visit = |client: &str| {
        let visitor = balancer.client();
        let endpoints = endpoints(client, "203.0.113.1:443");
        visitor.send(&write(Version::V2, Some(endpoints), &[])).unwrap();
        visitor
    };
    // All of them come from one proxy.
    let (one, two) = (visit("198.51.100.1:1"), visit("198.51.100.2:1"));
    one.echo(b"hello").unwrap();
    two.echo(b"hello").unwrap();
    let third = visit("198.51.100.1:2");
    assert!(third.receive_all().1.is_err_and(|error| is_reset(&error)));
    one.finish().unwrap();
    two.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 2);
    let totals = balancer.totals();
    let denied = |reason: DenyReason| totals.denied[reason.index()];
    assert_eq!((denied(DenyReason::Acl), denied(DenyReason::SourceLimit)), (1, 1));
    assert_eq!(totals.accepted, 4);
}

#[test]
fn hash_goes_by_the_announced_client() {
    let backends = [b"a", b"b", b"c", b"d"]
        .map(|name| backend().name(str::from_utf8(name).unwrap()).greet(name).start());
    let balancer = accepting().upstream("algorithm: maglev").backends(&backends).start();
    let of = |client: u8| {
        let visitor = balancer.client();
        let endpoints = endpoints(&format!("192.0.2.{client}:1"), "203.0.113.1:443");
        visitor.send(&write(Version::V2, Some(endpoints), &[])).unwrap();
        let name = visitor.receive_exact(1).unwrap()[0];
        visitor.finish().unwrap();
        name
    };
    let names: Vec<u8> = (0..32).map(of).collect();
    let again: Vec<u8> = (0..32).map(of).collect();
    assert_eq!(names, again);
    assert!((b'a'..=b'd').all(|name| names.contains(&name)), "one proxy is not one client: {names:?}");
}

/// A backend that reads a header on each connection, says what it was told, and answers a check.
fn checked_backend(answer: &'static [u8]) -> (Backend, Receiver<Told>) {
    told_backend(move |connection| {
        if !answer.is_empty() {
            connection.receive(&mut [0; 1_024])?;
            connection.send(answer)?;
        }
        connection.echo()
    })
}

#[test]
fn checks_of_all_types_announce_themselves() {
    for (settings, answer) in [
        ("type: tcp", &b""[..]),
        ("type: http", b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        ("type: send_expect, steps: [{send: PING, expect: PONG}]", b"PONG"),
    ] {
        for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
            let (only, told) = checked_backend(answer);
            let balancer = balancer()
                .check(&format!("interval: 1h, {settings}"))
                .upstream(&format!("send_proxy: {name}"))
                .backends([&only])
                .start();
            let told = told.recv().unwrap();
            assert_eq!(told.version, version);
            match version {
                // The addresses of the check itself: version 1 knows no other way to say so.
                Version::V1 => assert_eq!(told.endpoints.map(|own| own.destination), Some(only.address())),
                Version::V2 => assert!(told.local && told.endpoints.is_none(), "{told:?}"),
            }
            assert_eq!(balancer.health(), [ringway::upstream::Health::Up], "{settings}");
        }
    }
}

#[test]
fn check_of_a_unix_socket_announces_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, told) = channel();
    let sender = Mutex::new(sender);
    let only = backend().name("only").on_unix(folder.path().join("b")).serve(move |connection| {
        let _ = sender.lock().unwrap().send(take_header(connection)?);
        connection.echo()
    });
    let only = only.start();
    let _balancer = balancer().check("interval: 1h").upstream("send_proxy: v1").backends([&only]).start();
    let told = told.recv().unwrap();
    assert!(told.local && told.version == Version::V1, "{told:?}");
}

/// A file with these keys of listener and upstream.
fn file(port: &Reserved, of_listener: &str, of_upstream: &str, backend: &Backend) -> String {
    format!(
        "{NO_ADMIN}runtime: {{cores: 1}}\nlisteners:\n  - {{name: l, address: \"{}\", upstream: u{of_listener}}}\n\
         upstreams:\n  - {{name: u, healthcheck: off, outlier: off{of_upstream}, backends: [{{{}}}]}}\n",
        port.address(),
        backend.entry(),
    )
}

#[test]
fn reload_switches_headers_on_and_off_for_new_sessions() {
    let (port, only) = (Reserved::at(V4), backend().echo().start());
    let plain = file(&port, "", "", &only);
    let mut balancer = Balancer::of(&plain, None, true);
    let before = Client::connect(port.address()).unwrap();
    before.echo(b"hello").unwrap();
    // The echo has the header that is sent, too.
    let both = file(&port, &format!(", {REQUIRED}"), ", send_proxy: v1", &only);
    let applied = balancer.reloads(&both);
    let changes: Vec<_> = applied.changes.iter().map(|change| change.what.as_str()).collect();
    assert!(changes.iter().any(|what| what.starts_with("listeners.l.proxy_protocol")), "{changes:?}");
    assert!(changes.contains(&"upstreams.u.send_proxy"), "{changes:?}");
    before.echo(b"still without").unwrap();
    let client = Client::connect(port.address()).unwrap();
    client.send(&[&header(Version::V2)[..], b"hello"].concat()).unwrap();
    let expected = [&header(Version::V1)[..], b"hello"].concat();
    assert_eq!(client.receive_exact(expected.len()).unwrap(), expected);
    balancer.reloads(&plain);
    client.echo(b"still here").unwrap();
    let after = Client::connect(port.address()).unwrap();
    after.echo(b"hello").unwrap();
    [before, client, after].into_iter().for_each(|client| client.finish().unwrap());
}

/// With a pool before the reload and a header after it, no connection is handed on without its header.
#[test]
fn reload_from_a_pool_to_headers_leaves_no_connection_without_one() {
    let (port, only) = (Reserved::at(V4), backend().echo().start());
    let pooled = file(&port, "", ", pool: {size: 2, reuse: untouched}", &only);
    let mut balancer = Balancer::of(&pooled, None, true);
    eventually("the pool is full", || only.connections() >= 2);
    balancer.reloads(&file(&port, "", ", send_proxy: v1", &only));
    for _ in 0..5 {
        let client = Client::connect(port.address()).unwrap();
        client.send(b"hello").unwrap();
        let expected =
            [&write(Version::V1, Some(Endpoints::new(client.address(), port.address())), &[])[..], b"hello"]
                .concat();
        assert_eq!(client.receive_exact(expected.len()).unwrap(), expected);
        client.finish().unwrap();
    }
}

/// Has the listener of a process take headers from now on. It has started without, so that the test sees that it serves.
#[track_caller]
fn require_headers(process: &Process) {
    let listener = format!("    upstream: u\n    {REQUIRED}\n");
    process.configure(&process.yaml().replace("    upstream: u\n", &listener));
    process.signal(libc::SIGHUP);
    eventually("it is reloaded", || process.log().contains("generation 2"));
}

#[test]
fn operators_see_the_announced_client_and_whoever_says_nothing_yet() {
    let only = backend().echo().name("only").start();
    let asked = Asked::start(process().backends([&only]));
    require_headers(&asked.process);
    let client = asked.process.client();
    client.send(&header(Version::V2)).unwrap();
    client.echo(b"hello").unwrap();
    let silent = asked.process.client();
    let state = |client: &str| {
        let page = asked.socket.get("/v1/sessions").json();
        let sessions = page["sessions"].as_array().unwrap();
        sessions
            .iter()
            .find(|session| session["client"] == *client)
            .map(|session| (session["state"].as_str().unwrap().to_owned(), session["id"].clone()))
    };
    let peer = silent.address().to_string();
    eventually("the silent one is listed", || state(&peer).is_some());
    assert_eq!(state("192.0.2.7:40112").map(|(state, _)| state), Some("relaying".to_owned()));
    let (waits, id) = state(&peer).unwrap();
    assert_eq!(waits, "handshake");
    assert_eq!(asked.socket.ask("DELETE", &format!("/v1/sessions/{id}"), &[], "").status, 200);
    assert!(silent.receive_all().1.is_err_and(|error| is_reset(&error)));
    let explanation = asked.socket.get("/v1/explain?client=192.0.2.7").json();
    let rules = explanation["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["rule"] == "proxy_protocol"), "{explanation:#}");
    client.finish().unwrap();
}

#[test]
fn records_name_the_client_and_the_peer() {
    let (folder, only) = (tempfile::tempdir().unwrap(), backend().echo().name("only").start());
    let target = folder.path().join("access.log");
    let logging = format!("logging: {{access_log: {}, access_format: json}}", target.display());
    let process = process().backends([&only]).section(&logging).start();
    require_headers(&process);
    let client = process.client();
    client.send(&header(Version::V2)).unwrap();
    client.echo(b"hello").unwrap();
    let peer = client.address().to_string();
    client.finish().unwrap();
    let failing = process.client();
    failing.send(b"GET").unwrap();
    let failing_peer = failing.address().to_string();
    assert!(failing.receive_all().1.is_err());
    let leaving = process.client();
    leaving.end().unwrap();
    let leaving_peer = leaving.address().to_string();
    assert!(leaving.receive_all().0.is_empty());
    let record = |peer: &str| {
        let text = std::fs::read_to_string(&target).unwrap_or_default();
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.find(|record| record["peer"] == peer)
    };
    eventually("three records", || {
        [&peer, &failing_peer, &leaving_peer].iter().all(|peer| record(peer).is_some())
    });
    let (of_client, of_failing, of_leaving) =
        (record(&peer).unwrap(), record(&failing_peer).unwrap(), record(&leaving_peer).unwrap());
    assert_eq!(of_client["client"], "192.0.2.7:40112", "{of_client:#}");
    assert_eq!(of_client["to_backend_bytes"], 5, "{of_client:#}");
    assert_eq!((&of_failing["client"], &of_failing["state"]), (&Value::from(failing_peer), &"PR".into()));
    assert_eq!(of_failing["reason"], "handshake_failed");
    assert_eq!((&of_leaving["state"], &of_leaving["reason"]), (&"CR".into(), &"client_left".into()));
}
