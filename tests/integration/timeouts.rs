//! Set-up: a peer that falls silent, does not read, or does not answer, and one short limit. Claim: that limit ends the
//! session, not before its time, with its own reason; a session in use lives on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ringway::words::CloseReason;

use crate::support::{Reserved, Stream, V4, backend, balancer, eventually, is_reset, timed};

const LIMIT: Duration = Duration::from_millis(300);

#[test]
fn client_idle_ends_a_silent_session() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {client_idle: 300ms}").start();
    let client = balancer.echoing_client();
    let took = timed(|| drop(client.receive_all()));
    assert!(took >= LIMIT - Duration::from_millis(20), "{took:?}");
    balancer.await_closed(CloseReason::ClientIdle, 1);
}

#[test]
fn backend_idle_ends_a_silent_session() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).upstream("timeouts: {backend_idle: 300ms}").start();
    let client = balancer.echoing_client();
    let took = timed(|| drop(client.receive_all()));
    assert!(took >= LIMIT - Duration::from_millis(20), "{took:?}");
    balancer.await_closed(CloseReason::BackendIdle, 1);
}

#[test]
fn idle_timeouts_spare_a_session_in_use() {
    let backend = backend().echo().start();
    let balancer = balancer()
        .backends([&backend])
        .listener("timeouts: {client_idle: 500ms}")
        .upstream("timeouts: {backend_idle: 500ms}")
        .start();
    let client = balancer.echoing_client();
    let end = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < end {
        client.echo(b"still here").unwrap();
        // Not to wait for something: this is the pace of the client.
        std::thread::sleep(Duration::from_millis(50));
    }
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

/// One direction alone is use enough: a long download with no byte from the client.
#[test]
fn idle_timeouts_spare_a_one_way_session() {
    let backend = backend()
        .serve(|connection| {
            for _ in 0..15 {
                connection.send(b"tick")?;
                std::thread::sleep(Duration::from_millis(100));
            }
            connection.end()
        })
        .start();
    let balancer = balancer()
        .backends([&backend])
        .listener("timeouts: {client_idle: 500ms}")
        .upstream("timeouts: {backend_idle: 500ms}")
        .start();
    let client = balancer.client();
    assert_eq!(client.receive_exact(60).unwrap().len(), 60);
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn half_close_ends_a_backend_that_is_silent_after_the_clients_end() {
    let backend = backend().never_reads().start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {half_close: 300ms}").start();
    let client = balancer.client();
    client.send(b"request").unwrap();
    client.end().unwrap();
    let took = timed(|| drop(client.receive_all()));
    assert!(took >= LIMIT - Duration::from_millis(20), "{took:?}");
    balancer.await_closed(CloseReason::HalfCloseBackend, 1);
}

#[test]
fn half_close_ends_a_client_that_is_silent_after_the_backends_end() {
    let backend = backend().close_on_accept().start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {half_close: 300ms}").start();
    let client = balancer.client();
    assert_eq!(client.receive(&mut [0; 1]).unwrap(), 0);
    balancer.await_closed(CloseReason::HalfCloseClient, 1);
    drop(client);
}

/// The limit is on silence: a long answer after the client's end takes as long as it takes.
#[test]
fn half_close_spares_an_answer_that_still_flows() {
    let backend = backend()
        .serve(|connection| {
            while connection.receive(&mut [0; 64])? > 0 {}
            for _ in 0..12 {
                connection.send(b"tick")?;
                std::thread::sleep(Duration::from_millis(100));
            }
            connection.end()
        })
        .start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {half_close: 500ms}").start();
    let client = balancer.client();
    client.end().unwrap();
    let (received, end) = client.receive_all();
    end.unwrap();
    assert_eq!(received.len(), 48);
    // Without a byte before its FIN the client may count as leaving until the backend connection stands; it was served.
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn session_timeout_ends_a_busy_session() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {session: 500ms}").start();
    let begin = Instant::now();
    let client = balancer.client();
    let error = loop {
        if let Err(error) = client.echo(b"busy") {
            break error;
        }
    };
    assert!(is_reset(&error), "a stream that is cut must not look like one that ended: {error}");
    assert!(begin.elapsed() >= Duration::from_millis(480), "{:?}", begin.elapsed());
    balancer.await_closed(CloseReason::SessionTimeout, 1);
}

/// The client's window is shut, as of a peer that is powered off: no byte moves, and the idle timeout ends it.
#[test]
fn idle_timeout_ends_a_session_whose_client_does_not_read() {
    let backend = backend().source(Stream::new(1).head(32 << 20)).start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {client_idle: 500ms}").start();
    let client = balancer.client();
    balancer.await_closed(CloseReason::ClientIdle, 1);
    eventually("the backend's connection ends", || backend.open() == 0);
    assert!(client.receive_all().1.is_err(), "a cut stream does not end cleanly");
}

#[test]
fn idle_timeout_ends_a_session_whose_backend_does_not_read() {
    let backend = backend().never_reads().start();
    let balancer = balancer().backends([&backend]).upstream("timeouts: {backend_idle: 500ms}").start();
    let client = balancer.client();
    assert!(client.send_until_full(Duration::from_millis(200)) > 0);
    balancer.await_closed(CloseReason::BackendIdle, 1);
}

/// A listener with a full backlog does not answer a SYN: to a client it is a black hole, without leaving loopback.
struct BlackHole {
    address: std::net::SocketAddr,
    _listener: socket2::Socket,
    _fill: Vec<socket2::Socket>,
}

impl BlackHole {
    fn new() -> Self {
        let port = Reserved::at(V4);
        let listener = port.listen(0);
        let address = port.address();
        let connect = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        };
        let fill: Vec<_> = (0..4).map(|_| connect()).collect();
        Self { address, _listener: listener, _fill: fill }
    }

    fn entry(&self) -> String {
        format!("address: {}, port: {}", IpAddr::V4(Ipv4Addr::LOCALHOST), self.address.port())
    }
}

#[test]
fn black_hole_costs_one_connect_timeout_and_then_another_backend_serves() {
    let hole = BlackHole::new();
    let live = backend().echo().start();
    let balancer = balancer()
        .one_shard()
        .entry(&hole.entry())
        .backends([&live])
        .upstream("timeouts: {connect: 300ms}")
        .start();
    let durations: Vec<_> = (0..4).map(|_| timed(|| balancer.echoing_client().finish().unwrap())).collect();
    let slow = durations.iter().filter(|took| **took >= LIMIT - Duration::from_millis(20)).count() as u64;
    assert!(slow > 0 && slow == balancer.retries(), "{durations:?}");
    assert!(durations.iter().all(|took| *took < 2 * LIMIT), "one connect timeout each: {durations:?}");
    balancer.await_closed(CloseReason::Normal, 4);
}

#[test]
fn nothing_but_black_holes_ends_as_connect_timeout() {
    let hole = BlackHole::new();
    let balancer = balancer().entry(&hole.entry()).upstream("timeouts: {connect: 300ms}").start();
    let took = timed(|| assert!(balancer.client().receive_all().1.is_err_and(|error| is_reset(&error))));
    assert!(took >= LIMIT - Duration::from_millis(20), "{took:?}");
    balancer.await_closed(CloseReason::ConnectTimeout, 1);
}

#[test]
fn establish_bounds_all_tries_together() {
    let holes: Vec<_> = (0..4).map(|_| BlackHole::new()).collect();
    let mut builder =
        balancer().upstream("retries: 10").upstream("timeouts: {connect: 400ms, establish: 600ms}");
    for hole in &holes {
        builder = builder.entry(&hole.entry());
    }
    let balancer = builder.start();
    let took = timed(|| assert!(balancer.client().receive_all().1.is_err()));
    assert!((Duration::from_millis(580)..Duration::from_millis(1_500)).contains(&took), "{took:?}");
    balancer.await_closed(CloseReason::ConnectTimeout, 1);
}

#[test]
fn client_that_resets_while_connecting_ends_its_attempt_at_once() {
    let hole = BlackHole::new();
    let balancer = balancer().entry(&hole.entry()).upstream("timeouts: {connect: 15s}").start();
    let client = balancer.client();
    eventually("the session is in flight", || balancer.in_flight() == [1]);
    client.reset();
    balancer.await_closed(CloseReason::ClientLeft, 1);
    assert_eq!(balancer.in_flight(), [0]);
}

/// What it said waits for the backend, which must not hide the reset.
#[test]
fn client_that_spoke_before_it_resets_while_connecting_ends_its_attempt_at_once() {
    let hole = BlackHole::new();
    let balancer = balancer().entry(&hole.entry()).upstream("timeouts: {connect: 15s}").start();
    let client = balancer.client();
    client.send(b"request").unwrap();
    eventually("the session is in flight", || balancer.in_flight() == [1]);
    client.reset();
    let took = timed(|| balancer.await_closed(CloseReason::ClientLeft, 1));
    assert!(took < Duration::from_secs(5), "long before the connect timeout: {took:?}");
}

#[test]
fn client_that_ends_while_connecting_ends_its_attempt_soon() {
    let hole = BlackHole::new();
    let balancer = balancer().entry(&hole.entry()).upstream("timeouts: {connect: 15s}").start();
    let client = balancer.client();
    eventually("the session is in flight", || balancer.in_flight() == [1]);
    drop(client);
    let took = timed(|| balancer.await_closed(CloseReason::ClientLeft, 1));
    assert!(took < Duration::from_secs(5), "long before the connect timeout: {took:?}");
}

/// The backend has had all its time then, and another one gets its own.
#[test]
fn client_that_ends_gives_no_attempt_less_than_its_time_before_it_counts_as_left() {
    let holes: Vec<_> = (0..3).map(|_| BlackHole::new()).collect();
    for (tried, reason) in [(1, CloseReason::ConnectTimeout), (3, CloseReason::ClientLeft)] {
        let entries = holes[..tried].iter().map(BlackHole::entry);
        let builder = balancer().one_shard().upstream("timeouts: {connect: 600ms}");
        let balancer = entries.fold(builder, |builder, entry| builder.entry(&entry)).start();
        let client = balancer.client();
        client.end().unwrap();
        // Of three attempts the second is cut short: one second counts from its end, and not from the begin of each.
        balancer.await_closed(reason, 1);
        assert_eq!(balancer.connect_failures(0), 1);
    }
}
