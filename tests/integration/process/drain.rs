//! Set-up: open sessions, and a server that is told to drain or to close. Claim: a drain accepts no more
//! sessions and serves the open ones to their end; a close resets all at once and counts them as `shutdown`.

use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{Client, Stream, backend, balancer, eventually, is_reset};

#[test]
fn drain_serves_open_sessions_to_their_end() {
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    let clients: Vec<_> = (0..20).map(|_| balancer.echoing_client()).collect();
    balancer.server().drain();
    eventually("no client is accepted any more", || Client::connect(balancer.address()).is_err());
    for client in clients {
        client.echo(&Stream::new(1).head(50_000)).unwrap();
        client.finish().unwrap();
    }
    assert!(balancer.server().wait_ended(Duration::from_secs(20)), "the last session ends the shards");
    let totals = balancer.totals();
    assert!(totals.closed_with(CloseReason::Normal) >= 20, "{totals:?}");
}

#[test]
fn what_the_kernel_accepted_before_the_drain_is_served() {
    let only = backend().echo().start();
    for _ in 0..20 {
        let balancer = balancer().backends([&only]).start();
        // Their handshakes are over; the shards may not have seen them yet.
        let clients: Vec<_> = (0..30).map(|_| balancer.client()).collect();
        balancer.server().drain();
        for client in clients {
            client.echo(b"in time").unwrap();
            client.finish().unwrap();
        }
        let totals = balancer.finish();
        assert_eq!((totals.accepted, totals.closed_with(CloseReason::Normal)), (30, 30));
    }
}

#[test]
fn close_resets_every_session_at_once() {
    let mut deaf = backend().never_reads().start();
    let well = backend().echo().start();
    let balancer = balancer().backends([&deaf, &well]).start();
    let clients: Vec<_> = (0..20).map(|_| balancer.client()).collect();
    eventually("all sessions stand", || balancer.in_flight() == [10, 10]);
    balancer.server().close();
    for client in clients {
        let (_, end) = client.receive_all();
        assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    }
    assert!(balancer.server().wait_ended(Duration::from_secs(20)));
    let totals = balancer.finish();
    assert_eq!(totals.closed_with(CloseReason::Shutdown), 20);
    deaf.stop();
}

#[test]
fn close_ends_sessions_that_are_still_connecting() {
    // A name that takes long to connect to: the backlog of a listener that accepts no client is full.
    let port = crate::support::Reserved::at(crate::support::V4);
    let _listener = port.listen(0);
    let _fill: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&port.address().into());
            socket
        })
        .collect();
    let entry = format!("address: 127.0.0.1, port: {}", port.address().port());
    let balancer = balancer().entry(&entry).upstream("timeouts: {connect: 15s}").start();
    let clients: Vec<_> = (0..5).map(|_| balancer.client()).collect();
    eventually("all are in flight", || balancer.in_flight() == [5]);
    balancer.server().close();
    for client in clients {
        assert!(client.receive_all().1.is_err());
    }
    let totals = balancer.finish();
    assert_eq!(totals.closed_with(CloseReason::Shutdown), 5);
}

/// A successor starts on the same file while the predecessor still serves its last session.
#[test]
fn end_of_a_drained_server_leaves_the_unix_socket_of_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front");
    let only = backend().echo().name("b").start();
    let old = balancer().on_unix(front.clone()).backends([&only]).start();
    let last = Client::connect_unix(&front).unwrap();
    last.echo(b"hello").unwrap();
    old.server().drain();
    eventually("no client is accepted any more", || Client::connect_unix(&front).is_err());

    let new = balancer().on_unix(front.clone()).backends([&only]).start();
    last.finish().unwrap();
    drop(old);
    let client = Client::connect_unix(&front).expect("the file of the successor is there");
    client.echo(b"hello").unwrap();
    client.finish().unwrap();
    drop(new);
    assert!(!front.exists(), "its own file goes with it");
}
