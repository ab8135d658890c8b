//! Set-up: one shard, a healthy session, and beside it many that misuse it: clients that do not read, backends that do
//! not read, a bulk stream, thousands of connects. Claim: the healthy one goes on, in bounded time, with few buffers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringway::words::CloseReason;

use crate::support::{Balancer, Client, Stream, backend, balancer, eventually};

/// A round trip of the healthy session, at worst. A test machine shares its CPUs with the other tests, so this is a
/// bound on starvation, not a measurement.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// Round trips of a healthy session: all exact, and none too late.
#[track_caller]
fn assert_healthy(client: &Client, rounds: usize) {
    let stream = Stream::new(99);
    for round in 0..rounds {
        let begin = Instant::now();
        client.echo(&stream.head(1 + round * 97 % 20_000)).unwrap();
        assert!(begin.elapsed() < ROUND_TRIP, "round {round} took {:?}", begin.elapsed());
    }
}

/// One shard with 256 buffers of 16 KiB: far fewer than a thousand sessions could hold.
///
/// `half_close` bounds the delivery of what a client sent before it reset. On loopback that can hang for half a minute:
/// a full receive queue drops segments (TcpExtTCPRcvQDrop), and their retransmission backs off.
fn narrow(backends: [&crate::support::Backend; 1]) -> Balancer {
    let builder = balancer().one_shard().runtime("relay: {buffers_per_core: 256}");
    builder.listener("timeouts: {half_close: 2s}").backends(backends).start()
}

/// Clients that send much and never read what comes back: the echo fills every buffer on the way.
fn deaf_clients(balancer: &Balancer, count: usize) -> Vec<Client> {
    let deaf: Vec<_> = (0..count).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
    // Each gets far before everything on its way is full; the last ones find what the first ones left.
    let silence = Duration::from_millis(if count > 100 { 1 } else { 30 });
    for client in &deaf {
        client.send_until_full(silence);
    }
    deaf
}

#[test]
fn sixty_clients_that_do_not_read_leave_a_healthy_session_alone() {
    let only = backend().echo().start();
    let balancer = narrow([&only]);
    let healthy = balancer.echoing_client();
    let deaf = deaf_clients(&balancer, 60);
    assert_healthy(&healthy, 200);
    // And a session that begins now.
    let late = balancer.echoing_client();
    assert_healthy(&late, 50);
    late.finish().unwrap();
    deaf.into_iter().for_each(Client::reset);
    assert_healthy(&healthy, 50);
    healthy.finish().unwrap();
    eventually("the backends of the others end", || only.open() == 0);
}

#[test]
fn thousand_clients_that_do_not_read_leave_a_healthy_session_alone() {
    let only = backend().echo().start();
    let balancer = narrow([&only]);
    let healthy = balancer.echoing_client();
    let deaf = deaf_clients(&balancer, 1_000);
    assert_healthy(&healthy, 200);
    let late = balancer.echoing_client();
    assert_healthy(&late, 50);
    late.finish().unwrap();
    deaf.into_iter().for_each(Client::reset);
    assert_healthy(&healthy, 50);
    healthy.finish().unwrap();
}

/// Mirrored: here the clients send to backends that do not read.
#[test]
fn sixty_backends_that_do_not_read_leave_a_healthy_session_alone() {
    let mut deaf = backend().never_reads().start();
    let well = backend().echo().start();
    let balancer =
        balancer().one_shard().runtime("relay: {buffers_per_core: 256}").backends([&deaf, &well]).start();
    let clients: Vec<_> = (0..120).map(|_| balancer.client()).collect();
    eventually("all sessions stand", || balancer.in_flight() == [60, 60]);
    let before = balancer.totals().bytes_to_client;
    for client in &clients {
        client.send_until_full(Duration::from_millis(5));
    }
    // The kernel's buffers are full, and so is what the shard may hold of it.
    let mut healthy = None;
    while healthy.is_none() {
        let client = balancer.client();
        client.set_patience(Duration::from_millis(500));
        healthy = client.echo(b"hello").is_ok().then_some(client);
    }
    assert_healthy(&healthy.unwrap(), 200);
    assert!(balancer.totals().bytes_to_client > before);
    clients.into_iter().for_each(Client::reset);
    deaf.stop();
}

/// What a deaf client did not read is not lost: once it reads, everything comes, in order.
#[test]
fn slow_reader_gets_everything_once_it_reads() {
    const LENGTH: usize = 8 << 20;
    let only = backend().source(Stream::new(1).head(LENGTH)).start();
    let balancer = balancer().one_shard().runtime("relay: {buffers_per_core: 64}").backends([&only]).start();
    let clients: Vec<_> = (0..40).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
    eventually("all sessions stand", || only.connections() == 40);
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(move || {
                let (received, end) = client.receive_all();
                end.unwrap();
                assert!(received.len() == LENGTH && Stream::new(1).matches(0, &received));
                client.finish().unwrap();
            });
        }
    });
    balancer.await_closed(CloseReason::Normal, 40);
}

#[test]
fn bulk_stream_leaves_small_sessions_their_turn() {
    let bulk = backend().serve(|connection| {
        let piece = vec![b'x'; 1 << 20];
        loop {
            connection.send(&piece)?;
        }
    });
    let (mut bulk, small) = (bulk.start(), backend().echo().start());
    let balancer = balancer().one_shard().backends([&bulk, &small]).start();
    // Turn and turn about: the first, third, ... session is a bulk one.
    let sessions: Vec<_> = (0..40).map(|_| balancer.client()).collect();
    eventually("all sessions stand", || balancer.in_flight() == [20, 20]);
    let (mut readers, mut pings) = (Vec::new(), Vec::new());
    for client in sessions {
        client.set_patience(Duration::from_millis(300));
        client.send(b"ping").unwrap();
        let mut first = [0; 4];
        client.receive(&mut first).unwrap();
        if &first == b"ping" { pings.push(client) } else { readers.push(client) }
    }
    assert_eq!((readers.len(), pings.len()), (20, 20));
    let reading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One of them is read as fast as it comes, the others stay full.
            let mut buffer = vec![0; 1 << 20];
            while reading.load(Ordering::Relaxed) {
                readers[0].receive(&mut buffer).unwrap();
            }
        });
        for client in &pings {
            client.set_patience(Duration::from_secs(20));
            assert_healthy(client, 20);
        }
        reading.store(false, Ordering::Relaxed);
    });
    readers.into_iter().for_each(Client::reset);
    bulk.stop();
}

/// A crowd that connects at once: it is served, and an open session goes on meanwhile.
#[test]
fn crowd_of_connects_leaves_an_open_session_its_turn() {
    const CROWD: usize = 2_000;
    let only = backend().echo().start();
    let balancer = balancer().one_shard().backends([&only]).start();
    let healthy = balancer.echoing_client();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let crowd: Vec<_> = (0..CROWD).map(|_| Client::connect(balancer.address()).unwrap()).collect();
            crowd.iter().for_each(|client| client.send(b"x").unwrap());
            for client in crowd {
                assert_eq!(client.receive_exact(1).unwrap(), b"x");
                client.finish().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            assert_healthy(&healthy, 1);
        }
    });
    healthy.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, CROWD as u64 + 1);
}
