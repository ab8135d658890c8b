//! Set-up: sessions that become bulk and cease to be bulk, on shards with many, few or no pipes. Claim: bulk
//! is spliced and small messages are not; whichever way bytes go, and across each change of it, they come
//! whole, in order, to their own session, and a session ends as it would without splicing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{
    Client, Process, Stream, backend, balancer, both_ways, eventually, exchange, holds_within, is_reset,
    process, receive_at_once,
};

/// Enough for a direction to become bulk many times over.
const BULK: usize = 8 << 20;

/// Sends the stream and gets it back, both at once.
fn echo_bulk(client: &Client, stream: &Stream, length: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| client.send(&stream.head(length)).unwrap());
        let received = client.receive_exact(length).unwrap();
        assert!(stream.matches(0, &received));
    });
}

#[test]
fn bulk_is_spliced_unless_switched_off() {
    for (builder, splices) in both_ways("") {
        let backend = backend()
            .serve(|connection| {
                let length = 64 << 20;
                exchange(connection, (&Stream::new(2), length), (&Stream::new(1), length))
            })
            .start();
        let balancer = builder.backends([&backend]).start();
        let client = balancer.client();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.send(&Stream::new(1).head(64 << 20)).unwrap();
                client.end().unwrap();
            });
            let (received, end) = client.receive_all();
            end.unwrap();
            assert!(received.len() == 64 << 20 && Stream::new(2).matches(0, &received));
        });
        balancer.await_closed(CloseReason::Normal, 1);
        eventually("the backend has read to the end", || backend.open() == 0);
        assert_eq!((backend.failed(), backend.received()), (0, 64 << 20));
        let (to_backend, to_client) = balancer.spliced();
        if splices {
            assert!(to_backend > 16 << 20 && to_client > 16 << 20, "{to_backend} and {to_client} bytes");
        } else {
            assert_eq!((to_backend, to_client), (0, 0));
        }
    }
}

#[test]
fn small_messages_are_copied_and_medium_ones_spliced() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).start();
    let client = balancer.client();
    let stream = Stream::new(3);
    for length in [1, 64, 4 << 10, 8 << 10] {
        (0..200).for_each(|_| client.echo(&stream.head(length)).unwrap());
    }
    assert_eq!(balancer.spliced(), (0, 0));
    // Whole, they would be spliced from the fourth on; a loaded machine may show them in pieces.
    for length in [16 << 10, 64 << 10, 256 << 10] {
        let before = balancer.spliced();
        (0..200).for_each(|_| client.echo(&stream.head(length)).unwrap());
        let (now, half) = (balancer.spliced(), 100 * length as u64);
        assert!(now.0 > before.0 + half && now.1 > before.1 + half, "{before:?} and {now:?} of {length}");
    }
    client.finish().unwrap();
}

#[test]
fn session_that_changes_between_bulk_and_messages_is_exact() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).start();
    let client = balancer.client();
    let stream = Stream::new(4);
    let mut before = (0, 0);
    let mut changes = 0;
    for round in 0..60 {
        echo_bulk(&client, &stream, (1 << 20) + round * 997);
        let now = balancer.spliced();
        changes += usize::from(now.0 > before.0) + usize::from(now.1 > before.1);
        // More than the small turns after which a direction copies again.
        for length in 1..40 {
            client.echo(&stream.head(length * 13)).unwrap();
        }
        let calm = balancer.spliced();
        client.echo(&stream.head(100)).unwrap();
        assert_eq!(balancer.spliced(), calm, "round {round}: messages are copied again");
        before = calm;
    }
    assert!(changes > 20, "bulk was spliced {changes} times");
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn end_behind_bulk_comes_behind_the_last_byte() {
    let stream = Stream::new(5);
    for (builder, _) in both_ways("") {
        let backend = backend().source(stream.head(BULK)).start();
        let balancer = builder.backends([&backend]).start();
        for extra in [0, 1, 4_096, 100_000] {
            let client = balancer.client();
            client.send(&stream.head(BULK + extra)).unwrap();
            client.end().unwrap();
            let (received, end) = client.receive_all();
            end.unwrap();
            assert!(received.len() == BULK && stream.matches(0, &received), "{} bytes", received.len());
        }
        balancer.await_closed(CloseReason::Normal, 4);
    }
}

#[test]
fn reset_in_mid_bulk_reaches_the_other_side() {
    for (builder, _) in both_ways("") {
        let saw = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&saw);
        let backend = backend()
            .serve(move |connection| {
                let mut buffer = vec![0; 64 << 10];
                let end = loop {
                    match connection.receive(&mut buffer) {
                        Ok(0) => break false,
                        Ok(_) => {}
                        Err(error) => break is_reset(&error),
                    }
                };
                seen.fetch_and(end, Ordering::SeqCst);
                Ok(())
            })
            .start();
        let balancer = builder.backends([&backend]).start();
        for _ in 0..20 {
            let client = balancer.client();
            client.send(&Stream::new(6).head(BULK)).unwrap();
            client.reset();
        }
        balancer.await_closed(CloseReason::ClientReset, 20);
        eventually("the backend's connections end", || backend.connections() == 20 && backend.open() == 0);
        assert!(saw.load(Ordering::SeqCst), "every connection ended with a reset");
    }
}

#[test]
fn last_bytes_of_bulk_come_before_the_reset() {
    for (builder, _) in both_ways("") {
        let stream = Arc::new(Stream::new(7));
        let theirs = Arc::clone(&stream);
        // Its client has read all but the end when the reset comes: that is in the client's receive queue by
        // then.
        let backend = backend()
            .serve(move |connection| {
                connection.send(&theirs.head(BULK))?;
                connection.receive_exact(1)?;
                connection.send(&theirs.head(20_000))?;
                connection.reset();
                Ok(())
            })
            .start();
        let balancer = builder.backends([&backend]).start();
        for _ in 0..20 {
            let client = balancer.client();
            let received = client.receive_exact(BULK).unwrap();
            assert!(stream.matches(0, &received));
            client.send(b"x").unwrap();
            let (received, end) = client.receive_all();
            assert!(received.len() == 20_000 && stream.matches(0, &received), "{} bytes", received.len());
            assert!(end.as_ref().is_err_and(is_reset), "a reset, not a clean end: {end:?}");
        }
        balancer.await_closed(CloseReason::BackendReset, 20);
    }
}

/// Row 14: pipes for two of forty, and readers that stall first.
#[test]
fn without_a_free_pipe_copying_goes_on() {
    let backend = backend().source(Stream::new(8).head(BULK)).start();
    let balancer = balancer().one_shard().runtime("relay: {pipes_per_core: 2}").backends([&backend]).start();
    let clients: Vec<_> = (0..40).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
    eventually("every session has stalled", || {
        let before = balancer.totals().bytes_to_client;
        before > 0 && !holds_within(Duration::from_millis(50), || balancer.totals().bytes_to_client > before)
    });
    receive_at_once(clients, &Stream::new(8), BULK);
    balancer.await_closed(CloseReason::Normal, 40);
    let (_, to_client) = balancer.spliced();
    assert!(to_client > 0 && to_client < 40 * BULK as u64, "{to_client} bytes were spliced");
}

/// Row 14 again: there are no descriptors for a pipe.
#[test]
fn where_no_pipe_can_be_made_copying_goes_on() {
    let backend = backend().echo().start();
    let process = process().backends([&backend]).start();
    let client = process.echoing_client();
    process.await_rest();
    process.limit_descriptors(Some(1));
    let stream = Stream::new(9);
    echo_bulk(&client, &stream, BULK);
    process.limit_descriptors(None);
    client.finish().unwrap();
    let log = process.log();
    assert_eq!(log.matches("for splicing").count(), 1, "said once: {log}");
}

/// Row 13: a pipe of sixteen pages, in each of which a single byte may sit, and a reader that stalls.
#[test]
fn small_segments_that_fill_a_pipe_are_no_deadlock() {
    let stream = Arc::new(Stream::new(10));
    let expected = Arc::clone(&stream);
    let go = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&go);
    let length = (4 << 20) + 3_000;
    let backend = backend()
        .serve(move |connection| {
            let mut received = connection.receive_exact(1 << 20)?;
            while !gone.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            received.extend(connection.receive_exact(length - (1 << 20))?);
            assert!(expected.matches(0, &received));
            connection.send(b"all")
        })
        .start();
    let balancer = balancer().one_shard().runtime("relay: {pipe_size: 64KiB}").backends([&backend]).start();
    let client = balancer.client();
    let bytes = stream.head(length);
    client.send(&bytes[..4 << 20]).unwrap();
    eventually("bulk is spliced", || balancer.spliced().0 > 0);
    bytes[4 << 20..].iter().for_each(|byte| client.send(&[*byte]).unwrap());
    go.store(true, Ordering::SeqCst);
    assert_eq!(client.receive_exact(3).unwrap(), b"all");
    assert_eq!(backend.failed(), 0);
}

/// Row 29: sessions die with bytes in their pipes; none of those bytes may reach the next session.
#[test]
fn bytes_of_a_dead_session_reach_no_other() {
    let backend = backend()
        .serve(|connection| {
            let seed = u64::from(connection.receive_exact(1)?[0]);
            connection.send(&Stream::new(seed).head(BULK))
        })
        .start();
    let balancer = balancer().one_shard().runtime("relay: {pipes_per_core: 4}").backends([&backend]).start();
    for round in 0..40_u8 {
        let deaf: Vec<_> = (0..3_u8)
            .map(|number| {
                let client = Client::connect_small(balancer.address()).unwrap();
                client.send(&[100 + number]).unwrap();
                client.receive_exact(1 << 20).unwrap();
                client
            })
            .collect();
        deaf.into_iter().for_each(Client::reset);
        let client = balancer.client();
        client.send(&[round]).unwrap();
        let received = client.receive_exact(BULK).unwrap();
        assert!(Stream::new(round.into()).matches(0, &received), "round {round}");
    }
    assert!(balancer.spliced().1 > 0);
}

/// Row 15, both ways: the client's window is closed, and stays so.
#[test]
fn peer_that_takes_nothing_more_ends_by_the_idle_timeout() {
    for (builder, _) in both_ways("") {
        let backend = backend().source(Stream::new(11).head(64 << 20)).start();
        let timeouts = "timeouts: {client_idle: 300ms, half_close: 300ms}";
        let balancer = builder.listener(timeouts).backends([&backend]).start();
        let client = Client::connect_small(balancer.address()).unwrap();
        // On a loaded machine it may take nothing for so long before it has them: then that is what ends the
        // session.
        let _ = client.receive_exact(2 << 20);
        balancer.await_closed(CloseReason::ClientIdle, 1);
        eventually("the backend's connection ends", || backend.open() == 0);
    }
}

/// The source is not read while its destination takes nothing, so only the watch can tell of its reset.
#[test]
fn reset_of_a_client_whose_backend_takes_nothing_ends_the_session() {
    for (builder, _) in both_ways("") {
        let mut backend = backend().never_reads().start();
        let balancer = builder.listener("timeouts: {half_close: 300ms}").backends([&backend]).start();
        let client = balancer.client();
        client.send_until_full(Duration::from_millis(50));
        client.reset();
        balancer.await_closed(CloseReason::ClientReset, 1);
        backend.stop();
    }
}

/// A side has reset its connection, and what it had sent waits for the other one; then that one resets its
/// own. The first bytes that find the first connection dead change who notices the second reset.
#[test]
fn reset_of_the_side_that_is_still_owed_bytes_ends_the_session() {
    for (builder, _) in both_ways("") {
        let (turn, turns) = channel();
        let turns = Mutex::new(turns);
        let backend = backend()
            .serve(move |connection| {
                connection.send_until_full();
                turns.lock().unwrap().recv().unwrap();
                connection.reset();
                Ok(())
            })
            .start();
        let balancer = builder.backends([&backend]).start();
        let client = balancer.client();
        turn.send(()).unwrap();
        eventually("the backend has reset its connection", || {
            backend.connections() == 1 && backend.open() == 0
        });
        client.send(b"x").unwrap();
        client.reset();
        balancer.await_closed(CloseReason::BackendReset, 1);
    }
    for (builder, _) in both_ways("") {
        let (turn, turns) = channel();
        let turns = Mutex::new(turns);
        let backend = backend()
            .serve(move |connection| {
                turns.lock().unwrap().recv().unwrap();
                connection.send(b"x")?;
                connection.reset();
                Ok(())
            })
            .start();
        let balancer = builder.backends([&backend]).start();
        let client = balancer.client();
        client.send_until_full(Duration::from_millis(50));
        client.reset();
        turn.send(()).unwrap();
        balancer.await_closed(CloseReason::ClientReset, 1);
    }
}

#[test]
fn pipes_stay_within_their_limit() {
    let backend = backend().echo().start();
    let process = process().runtime("relay: {pipes_per_core: 3}").backends([&backend]).start();
    process.await_rest();
    let before = process.descriptors().len();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let client = process.client();
                    echo_bulk(&client, &Stream::new(12), BULK);
                    client.finish().unwrap();
                });
            }
        });
    }
    eventually("every session has ended", || backend.open() == 0);
    process.await_rest();
    let left = process.descriptors().len() - before;
    assert!((2..=6).contains(&left), "{left} descriptors are left, of at most three pipes");
}

/// Has `test` look at a reader that stalls behind the first MiB of 64, in both ways of relaying. It has sent
/// FIN, which makes every poll of the ring ready.
fn with_stalled_half_closed_reader(test: impl Fn(&Process, &Client)) {
    for splice in ["auto", "off"] {
        let backend = backend()
            .serve(|connection| {
                let request = connection.receive_exact(6)?;
                if request == b"ready?" {
                    return connection.send(&request);
                }
                connection.send(&Stream::new(13).head(64 << 20))
            })
            .start();
        let process = process().runtime(&format!("relay: {{splice: {splice}}}")).backends([&backend]).start();
        let client = Client::connect_small(process.address()).unwrap();
        client.send(b"please").unwrap();
        client.end().unwrap();
        client.receive_exact(1 << 20).unwrap();
        process.await_rest();
        test(&process, &client);
    }
}

#[test]
fn stalled_half_closed_reader_costs_no_processor_time() {
    with_stalled_half_closed_reader(|process, _| {
        let (before, begin) = (process.processor_time(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(600));
        let used = process.processor_time() - before;
        assert!(used < begin.elapsed() / 4, "{used:?} in {:?}", begin.elapsed());
        assert!(!process.threads().iter().any(|name| name.starts_with("iou-wrk")), "{:?}", process.threads());
    });
}

#[test]
fn stalled_half_closed_reader_gets_everything_once_it_reads() {
    with_stalled_half_closed_reader(|_, client| {
        let (received, end) = client.receive_all();
        end.unwrap();
        assert!(received.len() == 63 << 20 && Stream::new(13).matches(1 << 20, &received));
    });
}

/// The last part of a burst is less than a patient direction waits for, and comes while the reader stalls.
#[test]
fn tail_of_a_burst_comes_though_nothing_follows() {
    let (first, second) = (16 << 20, (9 << 20) + 300_000);
    let backend = backend()
        .serve(move |connection| {
            connection.send(&Stream::new(14).head(first))?;
            connection.receive_exact(1)?;
            connection.send(&Stream::new(15).head(second))?;
            connection.receive_exact(1).map(drop)
        })
        .start();
    let balancer = balancer().one_shard().backends([&backend]).start();
    let client = Client::connect_small(balancer.address()).unwrap();
    assert!(Stream::new(14).matches(0, &client.receive_exact(first).unwrap()));
    client.send(b"x").unwrap();
    eventually("the session has stalled", || {
        let before = balancer.totals().bytes_to_client;
        before > first as u64
            && !holds_within(Duration::from_millis(50), || balancer.totals().bytes_to_client > before)
    });
    assert!(Stream::new(15).matches(0, &client.receive_exact(second).unwrap()));
    client.send(b"x").unwrap();
    client.finish().unwrap();
}

/// splice(2) stops at an urgent mark as it does at the end. The urgent byte itself is not relayed, tcp(7).
#[test]
fn bytes_behind_an_urgent_mark_arrive() {
    let backend = backend().serve(|connection| {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match connection.receive(&mut buffer)? {
                0 => return Ok(()),
                6 if &buffer[..6] == b"ready?" => return connection.send(b"ready?"),
                _ => {}
            }
        }
    });
    let backend = backend.start();
    let process = process().backends([&backend]).start();
    let before = backend.received();
    let client = process.client();
    client.send(&Stream::new(16).head(BULK)).unwrap();
    eventually("bulk has arrived", || backend.received() - before == BULK as u64);
    process.signal(libc::SIGSTOP);
    client.send(&[b'a'; 1_000]).unwrap();
    client.send_urgent(b'!').unwrap();
    client.send(&[b'b'; 1_000]).unwrap();
    client.end().unwrap();
    process.signal(libc::SIGCONT);
    let (_, end) = client.receive_all();
    end.unwrap();
    assert_eq!(backend.received() - before, BULK as u64 + 2_000);
}

#[test]
fn bulk_over_unix_sockets_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let backend = backend().echo().name("b").on_unix(folder.path().join("backend")).start();
    let front = folder.path().join("front");
    let balancer = balancer().one_shard().on_unix(front.clone()).backends([&backend]).start();
    for _ in 0..3 {
        let client = Client::connect_unix(&front).unwrap();
        echo_bulk(&client, &Stream::new(17), BULK);
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 3);
}

/// After a long burst the socket must be readable again for a single byte.
#[test]
fn messages_behind_a_long_burst_come_at_once() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).start();
    let client = balancer.client();
    echo_bulk(&client, &Stream::new(18), 64 << 20);
    let begin = std::time::Instant::now();
    (1..200).for_each(|length| client.echo(&Stream::new(19).head(length)).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?} for 199 messages", begin.elapsed());
    client.finish().unwrap();
}
