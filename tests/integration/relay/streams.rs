//! Set-up: one backend, one client, no checks. Claim: each side gets all that the other one sends, in order,
//! byte for byte, in both directions at once, whichever ends first; the session ends once, as `normal`.

use std::io;
use std::sync::Arc;

use ringway::base::CloseReason;

use crate::support::{Backend, Client, Stream, backend, balancer, eventually, exchange};

/// Bytes of a bulk stream, each way.
const BULK: u64 = 300 << 20;

#[test]
fn echo_session_ends_as_normal() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.echoing_client();
    client.echo(b"more").unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
    let totals = balancer.finish();
    assert_eq!((totals.accepted, totals.closed_sum()), (1, 1));
    assert_eq!((totals.bytes_to_backend, totals.bytes_to_client), (9, 9));
}

#[test]
fn half_close_from_client_leaves_the_answer_whole() {
    let stream = Stream::new(1);
    let answer = stream.head(8 << 20);
    let reply = answer.clone();
    let backend = backend()
        .serve(move |connection| {
            // Only the client's end lets this one speak.
            let request = connection.receive_exact(7)?;
            assert_eq!(request, b"request");
            assert_eq!(connection.receive(&mut [0; 1])?, 0, "FIN comes through while the other way is open");
            connection.send(&reply)?;
            connection.end()
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    client.send(b"request").unwrap();
    client.end().unwrap();
    let (received, end) = client.receive_all();
    end.unwrap();
    assert!(received == answer, "{} bytes of {}", received.len(), answer.len());
    balancer.await_closed(CloseReason::Normal, 1);
    await_end(&backend);
    assert_eq!(backend.failed(), 0);
}

#[test]
fn half_close_from_backend_leaves_the_request_whole() {
    let stream = Arc::new(Stream::new(2));
    let expected = Arc::clone(&stream);
    let length = 8 << 20;
    let backend = backend()
        .serve(move |connection| {
            connection.send(b"only this")?;
            connection.end()?;
            let bytes = connection.receive_exact(length)?;
            assert!(expected.matches(0, &bytes));
            assert_eq!(connection.receive(&mut [0; 1])?, 0);
            Ok(())
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    let (received, end) = client.receive_all();
    end.unwrap();
    assert_eq!(received, b"only this");
    client.send(&stream.head(length)).unwrap();
    client.end().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
    await_end(&backend);
    assert_eq!((backend.failed(), backend.received()), (0, length as u64));
}

#[test]
fn both_ends_at_once_are_one_normal_session() {
    let backend = backend().close_on_accept().start();
    let balancer = balancer().backends([&backend]).start();
    for _ in 0..200 {
        let client = balancer.client();
        client.end().unwrap();
        assert!(client.receive_all().0.is_empty());
    }
    // A client whose FIN comes before the backend connection stands has left, says the log; either way it is
    // one.
    let totals = balancer.finish();
    let ended = totals.closed_with(CloseReason::Normal) + totals.closed_with(CloseReason::ClientLeft);
    assert_eq!((totals.accepted, ended), (200, 200), "{totals:?}");
}

#[test]
fn data_and_fin_together_arrive_as_data_then_fin() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).start();
    let stream = Stream::new(3);
    for length in [1, 100, 16 << 10, (16 << 10) + 1, 100_000] {
        let client = balancer.client();
        client.send(&stream.head(length)).unwrap();
        client.end().unwrap();
        let (received, end) = client.receive_all();
        end.unwrap();
        assert!(received.len() == length && stream.matches(0, &received), "{} of {length}", received.len());
    }
    balancer.await_closed(CloseReason::Normal, 5);
}

#[test]
fn backend_may_speak_first() {
    let backend = backend().greet(b"220 ready\r\n").start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    assert_eq!(client.receive_exact(11).unwrap(), b"220 ready\r\n");
    client.echo(b"HELO").unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn one_byte_at_a_time_is_exact_both_ways() {
    let backend = backend()
        .serve(|connection| {
            let mut byte = [0];
            while connection.receive(&mut byte)? == 1 {
                connection.send(&byte)?;
            }
            connection.end()
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    let bytes = Stream::new(4).head(3_000);
    std::thread::scope(|scope| {
        // The client waits for no answer before the next byte: both directions are busy.
        scope.spawn(|| bytes.iter().for_each(|byte| client.send(&[*byte]).unwrap()));
        assert!(client.receive_exact(bytes.len()).unwrap() == bytes);
    });
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

#[test]
fn bulk_both_ways_at_once_is_byte_exact() {
    let streams = Arc::new((Stream::new(5), Stream::new(6)));
    let theirs = Arc::clone(&streams);
    let backend =
        backend().serve(move |connection| exchange(connection, (&theirs.1, BULK), (&theirs.0, BULK))).start();
    let balancer = balancer().backends([&backend]).start();
    let client = balancer.client();
    std::thread::scope(|scope| {
        scope.spawn(|| send_stream(&client, &streams.0, BULK).unwrap());
        assert_eq!(receive_stream(&client, &streams.1).unwrap(), BULK);
    });
    balancer.await_closed(CloseReason::Normal, 1);
    let totals = balancer.finish();
    assert_eq!((totals.bytes_to_backend, totals.bytes_to_client), (BULK, BULK));
    await_end(&backend);
    assert_eq!((backend.failed(), backend.received()), (0, BULK));
}

#[test]
fn many_streams_at_once_do_not_mix() {
    const LENGTH: u64 = 2 << 20;
    // The first byte says which stream is meant; the other way comes another one.
    let backend = backend()
        .serve(|connection| {
            let seed = u64::from(connection.receive_exact(1)?[0]);
            exchange(connection, (&Stream::new(seed + 1_000), LENGTH), (&Stream::new(seed), LENGTH))
        })
        .start();
    let balancer = balancer().backends([&backend]).start();
    std::thread::scope(|scope| {
        for seed in 0..20_u8 {
            let client = balancer.client();
            scope.spawn(move || {
                client.send(&[seed]).unwrap();
                let (out, back) = (Stream::new(seed.into()), Stream::new(u64::from(seed) + 1_000));
                std::thread::scope(|scope| {
                    scope.spawn(|| send_stream(&client, &out, LENGTH).unwrap());
                    assert_eq!(receive_stream(&client, &back).unwrap(), LENGTH);
                });
            });
        }
    });
    balancer.await_closed(CloseReason::Normal, 20);
    await_end(&backend);
    assert_eq!(backend.failed(), 0);
}

#[test]
fn unix_sockets_are_served_like_ports() {
    let folder = tempfile::tempdir().unwrap();
    let backend = backend().echo().name("b").on_unix(folder.path().join("backend")).start();
    let front = folder.path().join("front");
    let balancer = balancer().on_unix(front.clone()).backends([&backend]).start();
    let stream = Stream::new(7);
    for _ in 0..20 {
        let client = Client::connect_unix(&front).unwrap();
        client.echo(&stream.head(50_000)).unwrap();
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 20);
    drop(balancer);
    assert!(!front.exists(), "the file of the socket goes with its listener");
}

/// The session has ended once the kernel has the last bytes; the backend may still be reading them.
fn await_end(backend: &Backend) {
    eventually("the backend has read everything", || backend.open() == 0);
}

fn send_stream(client: &Client, stream: &Stream, length: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < length {
        let piece = stream.piece(offset, (256 << 10).min((length - offset) as usize));
        client.send(piece)?;
        offset += piece.len() as u64;
    }
    client.end()
}

/// Reads to the end and returns how many bytes of the stream came.
fn receive_stream(client: &Client, stream: &Stream) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        let count = client.receive(&mut buffer)?;
        if count == 0 {
            return Ok(offset);
        }
        assert!(stream.matches(offset, &buffer[..count]), "other bytes from {offset} on");
        offset += count as u64;
    }
}
