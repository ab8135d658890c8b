//! Rule 6: resets.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use ringway::uring::{End, Errno, Peeked, Sent};

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
fn send_that_sees_the_reset_first_leaves_the_data_and_a_clean_end_to_the_receive() {
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
        socket.receive(true);
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
fn watch_sees_a_reset_after_the_peer_has_ended_its_stream_and_nothing_before() {
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

/// connect(2) to nobody, which resets a TCP connection, is refused by a unix socket.
#[test]
fn connection_that_is_ended_now_ends_before_its_close_whatever_it_is_made_of() {
    on_ring(SMALL, |ring| async move {
        for resets in [false, true] {
            let (ours, mut peer) = UnixStream::pair().expect("descriptors");
            peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let socket = ring.socket(ours.into());
            socket.receive(false);
            if resets {
                socket.reset_on_close();
            }
            socket.end_now();
            assert_eq!(peer.read(&mut [0]).expect("the end"), 0, "resets: {resets}");
        }
    });
}
