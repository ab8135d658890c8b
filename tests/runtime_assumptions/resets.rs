//! Rule 6: resets.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use ringway::uring::{BufferSettings, End, Errno, Peeked, Receive, Sent, Socket};

use crate::support::{SMALL, on_ring, reset, tcp_pair};

fn errno(number: i32) -> Errno {
    u16::try_from(number).ok().and_then(Errno::new).expect("a positive number")
}

#[test]
fn reset_is_seen_by_a_receive_and_never_as_a_clean_end() {
    on_ring(SMALL, |ring| async move {
        for _ in 0..50 {
            let (ours, mut peer) = tcp_pair();
            let socket = ring.socket(ours);
            peer.write_all(b"last words").expect("connected");
            reset(peer);
            let mut got = Vec::new();
            let end = loop {
                let end = socket.readable().await;
                got.extend(socket.take_received());
                if let Some(end) = end {
                    break end;
                }
            };
            assert_eq!(
                (got.as_slice(), end),
                (b"last words".as_slice(), End::Failed(errno(libc::ECONNRESET)))
            );
        }
    });
}

#[test]
fn send_that_meets_the_reset_leaves_data_and_end_to_the_receive() {
    // The assumption behind the sticky "dead" of a socket.
    on_ring(SMALL, |ring| async move {
        let (ours, mut peer) = tcp_pair();
        let socket = ring.socket(ours);
        peer.write_all(b"last words").expect("connected");
        reset(peer);
        socket.send(b"too late".to_vec());
        let sent = loop {
            match socket.sent() {
                Sent::Busy { .. } => ring.next_turn().await,
                sent => break sent,
            }
        };
        let lost = [libc::ECONNRESET, libc::EPIPE].map(errno);
        assert!(matches!(sent, Sent::Failed { bytes: 0, error } if lost.contains(&error)), "{sent:?}");
        let mut got = Vec::new();
        let end = loop {
            let end = socket.readable().await;
            got.extend(socket.take_received());
            if let Some(end) = end {
                break end;
            }
        };
        assert_eq!((got.as_slice(), end), (b"last words".as_slice(), End::Clean));
    });
}

#[test]
fn peek_that_sees_the_reset_first_remembers_it() {
    on_ring(SMALL, |ring| async move {
        let (ours, peer) = tcp_pair();
        let socket = ring.socket(ours);
        reset(peer);
        assert_eq!((socket.peek(), socket.is_dead()), (Peeked::End, true));
        assert_eq!(socket.readable().await, Some(End::Clean), "what is left for the next call");
    });
}

#[test]
fn reset_on_close_sends_a_reset_also_with_a_receive_in_flight() {
    on_ring(SMALL, |ring| async move {
        let (ours, mut peer) = tcp_pair();
        let socket = ring.socket(ours);
        socket.receive(Receive::Many);
        ring.next_turn().await;
        socket.reset_on_close();
        drop(socket);
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
        let error = peer.read(&mut [0; 8]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn watch_sees_nothing_before_the_reset_behind_an_end() {
    on_ring(SMALL, |ring| async move {
        let (ours, peer) = tcp_pair();
        let socket = ring.socket(ours);
        peer.shutdown(std::net::Shutdown::Write).expect("connected");
        assert_eq!(socket.readable().await, Some(End::Clean));
        socket.watch();
        // The FIN itself is reported at once by the ring's poll, and is no death.
        for _ in 0..20 {
            ring.next_turn().await;
        }
        assert!(!socket.is_dead());
        reset(peer);
        std::future::poll_fn(|context| {
            socket.register(context.waker());
            if socket.is_dead() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    });
}

/// connect(2) to no address, which resets a TCP connection, is refused by a Unix socket.
#[test]
fn connection_that_is_ended_now_ends_before_its_close() {
    on_ring(SMALL, |ring| async move {
        for resets in [false, true] {
            let (ours, mut peer) = UnixStream::pair().expect("descriptors");
            peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let socket = ring.socket(ours.into());
            socket.receive(Receive::One);
            if resets {
                socket.reset_on_close();
            }
            socket.end_now();
            assert_eq!(peer.read(&mut [0]).expect("the end"), 0, "resets: {resets}");
        }
    });
}

/// Bytes from a thread of its own, and then the end: a reset on TCP, a close on a Unix socket.
fn send_and_end(on_unix: bool, bytes: usize) -> (OwnedFd, std::thread::JoinHandle<()>) {
    let bytes = vec![b'x'; bytes];
    if on_unix {
        let (ours, mut peer) = UnixStream::pair().expect("descriptors");
        let sending = move || peer.write_all(&bytes).expect("the ring reads");
        return (ours.into(), std::thread::spawn(sending));
    }
    let (ours, mut peer) = tcp_pair();
    let sending = move || {
        peer.write_all(&bytes).expect("the ring reads");
        reset(peer);
    };
    (ours, std::thread::spawn(sending))
}

/// Receives as a relay does: many pieces at a time, armed again when a receive has ended.
async fn end_of(socket: &Socket, turns: Option<u32>) -> Option<End> {
    let mut left = turns;
    loop {
        let _ = socket.take_received();
        if let Some(end) = socket.ended() {
            return Some(end);
        }
        socket.receive(Receive::Many);
        if left == Some(0) {
            return None;
        }
        left = left.map(|left| left - 1);
        match turns {
            Some(_) => socket.ring().next_turn().await,
            None => wait(socket).await,
        }
    }
}

/// Until something completes.
async fn wait(socket: &Socket) {
    let mut waited = false;
    std::future::poll_fn(|context| {
        socket.register(context.waker());
        if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Of small buffers a receive of many brings so many pieces that the kernel queues it anew, and may lose what
/// is behind.
#[test]
fn end_behind_bytes_is_seen_with_buffers_of_all_sizes() {
    for bytes in [1_u32, 2, 4, 16, 128, 1024].map(|kib| kib << 10) {
        for on_unix in [false, true] {
            on_ring(BufferSettings { bytes, count: 64 }, move |ring| async move {
                for round in 0..40 {
                    let (ours, sending) = send_and_end(on_unix, 1_000 + round * 7_001);
                    let socket = ring.socket(ours);
                    let end = end_of(&socket, None).await;
                    let reset = End::Failed(errno(libc::ECONNRESET));
                    assert_eq!(end, Some(if on_unix { End::Clean } else { reset }), "{bytes} bytes each");
                    sending.join().expect("no assertion failed");
                }
            });
        }
    }
}

/// Both come while the shard is elsewhere, so that it hears of them at once: the first kernels with a bounded
/// multishot receive tell of the bytes alone then.
#[test]
fn end_that_comes_together_with_bytes_is_seen() {
    on_ring(SMALL, |ring| async move {
        for round in 0..200 {
            let (ours, peer) = match round % 2 {
                0 => {
                    let (ours, peer) = UnixStream::pair().expect("descriptors");
                    (ours.into(), OwnedFd::from(peer))
                }
                _ => {
                    let (ours, peer) = tcp_pair();
                    (ours, OwnedFd::from(peer))
                }
            };
            let socket = ring.socket(ours);
            socket.receive(Receive::Many);
            ring.next_turn().await;
            let mut peer = std::fs::File::from(peer);
            peer.write_all(&[b'x'; 100]).expect("connected");
            drop(peer);
            assert_eq!(end_of(&socket, Some(50)).await, Some(End::Clean), "round {round}");
        }
    });
}
