//! Set-up: one backend, one client, one of which resets its connection. Claim: the other side sees a reset at
//! once, never a clean end; what was sent before the reset is delivered first; the reason says which side it
//! was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{Balancer, Client, Stream, backend, balancer, eventually, is_reset, process};

#[test]
fn reset_of_the_client_resets_the_backend() {
    let saw_reset = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&saw_reset);
    let backend = backend()
        .serve(move |connection| {
            let greeting = connection.receive_exact(5)?;
            connection.send(&greeting)?;
            let ended = connection.receive(&mut [0; 1]);
            seen.store(ended.as_ref().is_err_and(is_reset), Ordering::SeqCst);
            ended.map(drop)
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.echoing_client();
    client.reset();
    eventually("the backend's connection ends", || backend.connections() == 1 && backend.open() == 0);
    assert!(saw_reset.load(Ordering::SeqCst), "the backend sees a reset, not a clean end");
    balancer.await_closed(CloseReason::ClientReset, 1);
}

#[test]
fn reset_of_the_client_in_mid_stream_ends_the_session() {
    let backend = backend().source(Stream::new(1).head(64 << 20)).start();
    let balancer = balancer().backends([&backend]).start();
    for _ in 0..10 {
        let client = balancer.client();
        client.receive_exact(100_000).unwrap();
        client.reset();
    }
    balancer.await_closed(CloseReason::ClientReset, 10);
    eventually("the backend's connections end", || backend.open() == 0);
    let totals = balancer.finish();
    assert!(totals.bytes_to_client >= 1_000_000, "what was delivered is counted: {totals:?}");
}

#[test]
fn reset_of_the_backend_in_mid_stream_resets_the_client() {
    let backend = backend()
        .serve(|connection| {
            connection.receive_exact(100_000)?;
            connection.reset();
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    for _ in 0..10 {
        let client = balancer.client();
        client.set_patience(Duration::from_secs(5));
        // The end may come while this is sent.
        let sent = client.send(&Stream::new(1).head(4 << 20));
        let error = sent.err().unwrap_or_else(|| client.receive_all().1.unwrap_err());
        assert!(is_reset(&error), "{error}");
    }
    balancer.await_closed(CloseReason::BackendReset, 10);
}

#[test]
fn last_bytes_of_a_resetting_backend_come_before_the_reset() {
    let answer = Stream::new(2).head(20_000);
    let reply = answer.clone();
    let backend = backend()
        .serve(move |connection| {
            connection.receive_exact(7)?;
            // Loopback hands them over within the call, so they are before the reset.
            connection.send(&reply)?;
            connection.reset();
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    for _ in 0..100 {
        let client = balancer.client();
        client.send(b"request").unwrap();
        let (received, end) = client.receive_all();
        assert!(received == answer, "{} bytes of {}", received.len(), answer.len());
        assert!(end.as_ref().is_err_and(is_reset), "a reset, not a clean end: {end:?}");
    }
    balancer.await_closed(CloseReason::BackendReset, 100);
}

/// All of it went out of the shard, and lies in the kernel's queue for a client that reads slowly: closing
/// with a reset would throw it away.
#[test]
fn last_bytes_of_a_resetting_backend_reach_a_late_reader() {
    const LENGTH: usize = 400_000;
    let told = Arc::new(AtomicBool::new(false));
    let may_reset = Arc::clone(&told);
    let backend = backend()
        .serve(move |connection| {
            connection.receive_exact(1)?;
            connection.send(&Stream::new(5).head(LENGTH))?;
            eventually("the test lets it", || may_reset.load(Ordering::SeqCst));
            connection.reset();
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let clients: Vec<_> = (0..10).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
    clients.iter().for_each(|client| client.send(b"x").unwrap());
    eventually("the shards sent all of it", || {
        balancer.totals().bytes_to_client == (clients.len() * LENGTH) as u64
    });
    told.store(true, Ordering::SeqCst);
    eventually("the backend's connections end", || backend.open() == 0);
    for client in clients {
        let (received, end) = client.receive_all();
        assert!(received.len() == LENGTH && Stream::new(5).matches(0, &received), "{} bytes", received.len());
        assert!(end.as_ref().is_err_and(is_reset), "a reset, not a clean end: {end:?}");
    }
    balancer.await_closed(CloseReason::BackendReset, 10);
}

/// Has a backend reset behind bytes that its client has not read and does not read; `then` gets that client.
#[track_caller]
fn with_unread_last_bytes(half_close: &str, then: impl FnOnce(&Balancer, Client)) {
    const LENGTH: usize = 400_000;
    let backend = backend()
        .serve(|connection| {
            connection.receive_exact(1)?;
            connection.send(&Stream::new(6).head(LENGTH))?;
            connection.receive_exact(1)?;
            connection.reset();
            Ok(())
        })
        .start();
    let timeouts = format!("timeouts: {{half_close: {half_close}}}");
    let balancer = balancer().one_shard().backends([&backend]).listener(&timeouts).start();
    let client = Client::connect_small(balancer.address()).unwrap();
    client.send(b"x").unwrap();
    eventually("the shard sent all of it", || balancer.totals().bytes_to_client == LENGTH as u64);
    client.send(b"x").unwrap();
    eventually("the backend's connection ends", || backend.open() == 0);
    then(&balancer, client);
}

#[test]
fn unread_last_bytes_hold_the_session_until_half_close() {
    with_unread_last_bytes("300ms", |balancer, client| {
        balancer.await_closed(CloseReason::BackendReset, 1);
        drop(client);
    });
}

#[test]
fn client_that_leaves_its_last_bytes_unread_ends_the_session() {
    with_unread_last_bytes("1h", |balancer, client| {
        // What came before this word, the shard has seen.
        let next = balancer.client();
        next.send(b"x").unwrap();
        next.receive_exact(1).unwrap();
        client.reset();
        next.reset();
        balancer.await_closed(CloseReason::BackendReset, 1);
    });
}

/// The client goes on sending, so that here a send to the dead backend sees the error first.
#[test]
fn last_bytes_of_a_resetting_backend_come_after_a_failed_send() {
    let answer = Stream::new(3).head(20_000);
    let reply = answer.clone();
    let backend = backend()
        .serve(move |connection| {
            connection.receive_exact(1)?;
            connection.send(&reply)?;
            connection.reset();
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    for round in 0..100 {
        let client = balancer.client();
        client.send(b"x").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| while client.send(&[b'x'; 200]).is_ok() {});
            let mut received = Vec::new();
            let mut buffer = [0; 4_096];
            let end = loop {
                match client.receive(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(count) => received.extend_from_slice(&buffer[..count]),
                    Err(error) => break Err(error),
                }
            };
            // The client's own kernel may throw away what it has not read when the reset comes while it is
            // sending: its send then takes the error, and a clean 0 is all that is left. So only its bytes
            // are judged here.
            let _ = end;
            assert!(
                received.len() <= answer.len() && answer.starts_with(&received) && !received.is_empty(),
                "round {round}: {} bytes of {}",
                received.len(),
                answer.len()
            );
            assert_eq!(received.len(), answer.len(), "round {round}");
        });
    }
    balancer.await_closed(CloseReason::BackendReset, 100);
}

/// Mirrored: the last bytes of a client that resets reach the backend before the reset does.
#[test]
fn last_bytes_of_a_resetting_client_come_before_the_reset() {
    let request = Arc::new(Stream::new(4).head(20_000));
    let expected = Arc::clone(&request);
    let exact = Arc::new(AtomicBool::new(true));
    let is_exact = Arc::clone(&exact);
    let backend = backend()
        .serve(move |connection| {
            connection.send(b"go")?;
            let mut received = Vec::new();
            let mut buffer = [0; 4_096];
            let reset = loop {
                match connection.receive(&mut buffer) {
                    Ok(0) => break false,
                    Ok(count) => received.extend_from_slice(&buffer[..count]),
                    Err(error) => break is_reset(&error),
                }
            };
            if !reset || received != *expected {
                is_exact.store(false, Ordering::SeqCst);
            }
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    for _ in 0..50 {
        let client = balancer.client();
        client.receive_exact(2).unwrap();
        client.send(&request).unwrap();
        client.reset();
    }
    balancer.await_closed(CloseReason::ClientReset, 50);
    eventually("the backend's connections end", || backend.connections() == 50 && backend.open() == 0);
    assert!(exact.load(Ordering::SeqCst), "every connection got all bytes and then a reset");
}

#[test]
fn reset_after_half_close_ends_the_session_at_once() {
    let backend = backend()
        .serve(|connection| {
            // The client's FIN, then a while, then a reset.
            while connection.receive(&mut [0; 64])? > 0 {}
            connection.reset();
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    client.send(b"request").unwrap();
    client.end().unwrap();
    let (_, end) = client.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    balancer.await_closed(CloseReason::BackendReset, 1);
}

/// The backend has ended its stream; the client's reset reaches it all the same, long before `half_close`.
#[test]
fn reset_behind_the_end_of_the_backend_ends_the_session_at_once() {
    let backend = backend().close_on_accept().start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    assert_eq!(client.receive(&mut [0; 1]).unwrap(), 0);
    client.reset();
    balancer.await_closed(CloseReason::ClientReset, 1);
    eventually("the backend's connection ends", || backend.open() == 0);
    assert_eq!(backend.failed(), 1, "it saw a reset");
}

/// The close of a Unix socket ends both streams at once, as the kernel tells it; the backend's answer ends
/// cleanly all the same, and a client that says more is reset, as on a port.
#[test]
fn close_of_a_unix_backend_behind_its_answer_is_no_reset() {
    let folder = tempfile::tempdir().unwrap();
    let backend = backend()
        .name("b")
        .on_unix(folder.path().join("backend"))
        .serve(|connection| {
            connection.receive_exact(7)?;
            connection.send(b"answer")
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    for says_more in [false, true] {
        for _ in 0..20 {
            let client = balancer.client();
            client.send(b"request").unwrap();
            let (received, end) = client.receive_all();
            end.unwrap();
            assert_eq!(received, b"answer");
            eventually("the backend has closed", || backend.open() == 0);
            if says_more { client.send(b"more").unwrap() } else { client.end().unwrap() }
        }
    }
    balancer.await_closed(CloseReason::Normal, 20);
    balancer.await_closed(CloseReason::BackendReset, 20);
}

/// Mirrored: such a client gets no answer, but its request reaches the backend, and no reset does.
#[test]
fn close_of_a_unix_client_behind_its_request_is_no_reset() {
    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front");
    let backend = backend().sink().start();
    let balancer = balancer().on_unix(front.clone()).backends([&backend]).start();
    for _ in 0..20 {
        Client::connect_unix(&front).unwrap().send(b"request").unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 20);
    eventually("the backend has read everything", || backend.connections() == 20 && backend.open() == 0);
    assert_eq!((backend.failed(), backend.received()), (0, 140));
}

#[test]
fn clients_that_connect_and_go_at_once_leave_nothing() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).start();
    for round in 0..1_000 {
        let client = balancer.client();
        if round % 2 == 0 {
            client.reset();
        }
    }
    balancer.echoing_client().finish().unwrap();
    eventually("every connection was accepted", || balancer.totals().accepted >= 501);
    eventually("no session is left", || balancer.status().open_sessions() == 0 && backend.open() == 0);
    let totals = balancer.finish();
    // The kernel may drop a connection that was reset in its backlog, or hand it out: both are right.
    assert!((501..=1_001).contains(&totals.accepted), "{totals:?}");
}

/// Both resets are found in one turn; neither direction may leave the end of the session to the other one.
#[test]
fn resets_of_both_sides_at_once_end_the_session() {
    let go = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&go);
    let backend = backend()
        .serve(move |connection| {
            let mut buffer = [0; 64];
            let count = connection.receive(&mut buffer)?;
            connection.send(&buffer[..count])?;
            if &buffer[..count] == b"hello" {
                while !gone.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                connection.reset();
            }
            Ok(())
        })
        .start();
    let process = process().backends([&backend]).start();
    process.await_rest();
    let before = process.descriptors().len();
    let clients: Vec<_> = (0..10).map(|_| process.echoing_client()).collect();
    process.signal(libc::SIGSTOP);
    go.store(true, Ordering::SeqCst);
    eventually("the backend has reset all", || backend.open() == 0);
    clients.into_iter().for_each(Client::reset);
    process.signal(libc::SIGCONT);
    eventually("every session has ended", || process.descriptors().len() == before);
}
