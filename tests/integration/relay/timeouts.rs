//! Set-up: a peer that falls silent, does not read, or does not answer, and one short limit. Claim: that
//! limit ends the session, not before its time, with its own reason; a session in use lives on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ringway::base::CloseReason;

use crate::support::{Client, Reserved, Stream, V4, backend, balancer, eventually, is_reset, timed};

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
    // Without a byte before its FIN the client may count as leaving until the backend connection stands; it
    // was served.
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
    assert!(is_reset(&error), "a truncated stream must not look like one that ended: {error}");
    assert!(begin.elapsed() >= Duration::from_millis(480), "{:?}", begin.elapsed());
    balancer.await_closed(CloseReason::SessionTimeout, 1);
}

/// The client's window is shut, as of a peer that is powered off: no byte moves, and the idle timeout ends
/// it.
#[test]
fn idle_timeout_ends_a_session_whose_client_does_not_read() {
    let backend = backend().source(Stream::new(1).head(32 << 20)).start();
    let balancer = balancer().backends([&backend]).listener("timeouts: {client_idle: 500ms}").start();
    let client = balancer.client();
    balancer.await_closed(CloseReason::ClientIdle, 1);
    eventually("the backend's connection ends", || backend.open() == 0);
    assert!(client.receive_all().1.is_err(), "a truncated stream does not end cleanly");
}

/// Takes 100 KB/s out of a stream, for as long as that takes: much less than the kernel wants to have room
/// for before it says so.
fn read_slowly(mut receive: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> std::io::Result<()> {
    let (end, stream) = (Instant::now() + 4 * LONG_LIMIT, Stream::new(3));
    let mut offset = 0;
    while Instant::now() < end {
        let mut buffer = [0; 2_000];
        let count = receive(&mut buffer)?;
        assert!(count > 0 && stream.matches(offset, &buffer[..count]), "{count} bytes at {offset}");
        offset += count as u64;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const LONG_LIMIT: Duration = Duration::from_secs(1);
const LONG_LIMITS: &str = "timeouts: {client_idle: 1s, half_close: 1s}";

/// What it takes, it takes from the kernel: the shard itself moves no byte for longer than the limit.
#[test]
fn limits_on_silence_spare_a_client_that_reads_slowly() {
    let directory = tempfile::tempdir().unwrap();
    let slow = |on_unix: bool, ends: bool| {
        let only = backend().source(Stream::new(3).head(8 << 20)).start();
        let path = directory.path().join(format!("{ends}"));
        let builder = balancer().backends([&only]).listener(LONG_LIMITS);
        let balancer = if on_unix { builder.on_unix(path.clone()) } else { builder }.start();
        let client = match on_unix {
            true => Client::connect_unix(&path).unwrap(),
            false => Client::connect_small(balancer.address()).unwrap(),
        };
        client.send(b"request").unwrap();
        if ends {
            client.end().unwrap();
        }
        read_slowly(|buffer| client.receive(buffer)).unwrap();
        client.reset();
    };
    std::thread::scope(|scope| {
        for (on_unix, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            scope.spawn(move || slow(on_unix, ends));
        }
    });
}

/// Mirrored.
#[test]
fn limits_on_silence_spare_a_backend_that_reads_slowly() {
    let directory = tempfile::tempdir().unwrap();
    let slow = |on_unix: bool| {
        let only = backend().name("slow").serve(|connection| {
            connection.shrink();
            read_slowly(|buffer| connection.receive(buffer))?;
            connection.reset();
            Ok(())
        });
        let only = if on_unix { only.on_unix(directory.path().join("slow")) } else { only }.start();
        let balancer = balancer().backends([&only]).upstream("timeouts: {backend_idle: 1s}").start();
        let client = balancer.client();
        // Until the backend has read for long enough, and goes.
        assert!(client.send(&Stream::new(3).head(32 << 20)).is_err());
        eventually("its end", || only.open() == 0);
        assert_eq!(only.failed(), 0, "it was never reset, on_unix: {on_unix}");
    };
    std::thread::scope(|scope| {
        for on_unix in [false, true] {
            scope.spawn(move || slow(on_unix));
        }
    });
}

#[test]
fn idle_timeout_ends_a_session_whose_backend_does_not_read() {
    let backend = backend().never_reads().start();
    let balancer = balancer().backends([&backend]).upstream("timeouts: {backend_idle: 500ms}").start();
    let client = balancer.client();
    assert!(client.send_until_full(Duration::from_millis(200)) > 0);
    balancer.await_closed(CloseReason::BackendIdle, 1);
}

/// A listener with a full backlog does not answer a SYN: to a client it is a black hole, without leaving
/// loopback.
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
fn black_hole_costs_one_connect_timeout() {
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
    assert!(durations.iter().all(|took| *took < 3 * LIMIT), "one connect timeout each: {durations:?}");
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
fn reset_while_connecting_ends_the_attempt_at_once() {
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
fn reset_behind_bytes_while_connecting_ends_the_attempt_at_once() {
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
fn end_while_connecting_ends_the_attempt_soon() {
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
fn end_of_the_client_leaves_an_attempt_its_time() {
    let holes: Vec<_> = (0..3).map(|_| BlackHole::new()).collect();
    for (tried, reason) in [(1, CloseReason::ConnectTimeout), (3, CloseReason::ClientLeft)] {
        let entries = holes[..tried].iter().map(BlackHole::entry);
        let builder = balancer().one_shard().upstream("timeouts: {connect: 600ms}");
        let balancer = entries.fold(builder, |builder, entry| builder.entry(&entry)).start();
        let client = balancer.client();
        client.end().unwrap();
        // Of three attempts the second is cut short: one second counts from its end, and not from the begin
        // of each.
        balancer.await_closed(reason, 1);
        assert_eq!(balancer.connect_failures(0), 1);
    }
}
