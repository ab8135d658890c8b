//! Sends that tell nothing when everything went out, and the rest when not.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Wake, Waker};

use ringway::uring::{Receive, Ring, Sent, Socket};

use crate::support::{SMALL, on_ring, reset, tcp_pair};

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A socket whose task is a count, and its peer.
fn counted(ring: &Ring) -> (Socket, TcpStream, Arc<Count>) {
    let (ours, peer) = tcp_pair();
    let (socket, count) = (ring.socket(ours), Arc::new(Count::default()));
    socket.register(&Waker::from(Arc::clone(&count)));
    (socket, peer, count)
}

/// A socket that has received `bytes`, and its peer.
async fn with_received(ring: &Ring, bytes: &[u8]) -> (Socket, TcpStream) {
    let (ours, mut peer) = tcp_pair();
    let socket = ring.socket(ours);
    peer.write_all(bytes).expect("connected");
    std::future::poll_fn(|context| {
        socket.register(context.waker());
        socket.receive(Receive::One);
        if socket.received() == bytes.len() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (socket, peer)
}

/// Waits for the end of a send, as a relay does; adds up what was reported.
async fn finish(socket: &Socket, reported: &Cell<u32>) -> Sent {
    std::future::poll_fn(|context| {
        socket.register(context.waker());
        match socket.sent() {
            Sent::Busy { bytes, .. } => {
                reported.set(reported.get() + bytes);
                Poll::Pending
            }
            sent => Poll::Ready(sent),
        }
    })
    .await
}

#[test]
fn whole_send_wakes_nobody_and_gives_its_buffer_back() {
    on_ring(SMALL, |ring| async move {
        assert!(ring.features().quiet_sends, "since Linux 6.1");
        let (from, _source) = with_received(&ring, b"question").await;
        let (to, mut peer, count) = counted(&ring);
        assert_eq!((from.forward(&to, true), to.is_quiet()), (8, true));
        ring.next_turn().await;
        assert_eq!((count.take(), ring.buffers_held(), to.is_quiet()), (0, 0, false));
        assert_eq!(to.sent(), Sent::Done { bytes: 8, blocked: false });
        let mut got = [0; 8];
        peer.read_exact(&mut got).expect("it was sent");
        assert_eq!(&got, b"question");
    });
}

/// Whoever has asked in between is woken, and so is everybody where more is left to send.
#[test]
fn send_that_somebody_waits_for_is_told_of() {
    on_ring(SMALL, |ring| async move {
        let (from, _source) = with_received(&ring, b"question").await;
        let (to, _peer, count) = counted(&ring);
        assert_eq!(from.forward(&to, true), 8);
        assert_eq!(to.sent(), Sent::Busy { bytes: 0, blocked: false });
        ring.next_turn().await;
        assert_eq!((count.take(), to.sent()), (1, Sent::Done { bytes: 8, blocked: false }));

        // A send gathers 16 buffers of 4 KiB: ten are all of it, and of twenty some are left.
        for (kib, is_whole) in [(40, true), (80, false)] {
            let received = vec![7; kib << 10];
            let (from, _source) = with_received(&ring, &received).await;
            let (to, _peer, count) = counted(&ring);
            let bytes = from.forward(&to, true);
            assert_eq!((from.received() == 0, to.is_quiet()), (is_whole, is_whole), "{bytes} bytes");
            ring.next_turn().await;
            let is_told = u32::from(!is_whole);
            assert_eq!((count.take(), to.sent()), (is_told, Sent::Done { bytes, blocked: false }));
        }
    });
}

/// The shard does not sleep then, although no completion comes.
#[test]
fn send_that_somebody_waits_for_ends_the_sleep() {
    on_ring(SMALL, |ring| async move {
        let (from, _source) = with_received(&ring, b"question").await;
        let (ours, _peer) = tcp_pair();
        let to = ring.socket(ours);
        assert_eq!(from.forward(&to, true), 8);
        // Asks before the kernel has the send, and then nothing else happens.
        assert_eq!(finish(&to, &Cell::new(0)).await, Sent::Done { bytes: 8, blocked: false });
    });
}

/// The peer takes a part of it, and the rest when it reads.
fn assert_goes_on_when_there_is_room<const PIECE: usize>() {
    on_ring(SMALL, |ring| async move {
        let (ours, mut peer) = tcp_pair();
        socket2::SockRef::from(&ours).set_send_buffer_size(4 << 10).expect("an open socket");
        let to = ring.socket(ours);
        let reported = Rc::new(Cell::new(0));
        let (mut pieces, mut has_blocked) = (0, false);
        while !has_blocked {
            let piece = [pieces as u8; PIECE];
            let (from, _source) = with_received(&ring, &piece).await;
            assert_eq!(from.forward(&to, true) as usize, PIECE);
            pieces += 1;
            ring.next_turn().await;
            match to.sent() {
                Sent::Done { bytes, blocked: false } => assert_eq!(bytes as usize, PIECE),
                Sent::Busy { bytes, blocked: true } => {
                    assert!((bytes as usize) < PIECE, "{bytes} of {PIECE} bytes");
                    reported.set(bytes);
                    has_blocked = true;
                }
                other => panic!("{other:?} after {pieces} pieces"),
            }
        }
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; pieces * PIECE];
            peer.read_exact(&mut got).expect("all of it comes");
            got
        });
        let Sent::Done { bytes, blocked: true } = finish(&to, &reported).await else {
            panic!("it was blocked")
        };
        assert_eq!((reported.get() + bytes) as usize, PIECE, "each byte is reported once");
        let expected: Vec<u8> = (0..pieces).flat_map(|piece| [piece as u8; PIECE]).collect();
        assert!(reader.join().expect("no assertion failed") == expected);
        assert_eq!(ring.buffers_held(), 0);
    });
}

#[test]
fn send_that_does_not_fit_goes_on_when_there_is_room() {
    assert_goes_on_when_there_is_room::<4096>();
    // Gathered from ten buffers.
    assert_goes_on_when_there_is_room::<40_960>();
}

#[test]
fn send_to_a_reset_peer_fails_aloud() {
    on_ring(SMALL, |ring| async move {
        let (from, _source) = with_received(&ring, b"question").await;
        let (to, peer, count) = counted(&ring);
        reset(peer);
        assert_eq!(from.forward(&to, true), 8);
        ring.next_turn().await;
        assert_eq!(count.take(), 1);
        assert!(matches!(to.sent(), Sent::Failed { bytes: 0, .. }));
        assert_eq!(to.take_unsent(0), b"question");
    });
}

#[test]
fn peer_that_has_ended_its_stream_still_gets_bytes_quietly() {
    on_ring(SMALL, |ring| async move {
        let (from, _source) = with_received(&ring, b"answer").await;
        let (ours, mut peer) = tcp_pair();
        let to = ring.socket(ours);
        peer.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(from.forward(&to, true), 6);
        ring.next_turn().await;
        assert_eq!(to.sent(), Sent::Done { bytes: 6, blocked: false });
        let mut got = [0; 6];
        peer.read_exact(&mut got).expect("it was sent");
    });
}

/// The handle goes before the kernel has the send.
#[test]
fn dropped_socket_sends_what_it_was_given_and_is_closed() {
    on_ring(SMALL, |ring| async move {
        for _ in 0..50 {
            let (from, _source) = with_received(&ring, b"last words").await;
            let (ours, mut peer) = tcp_pair();
            let to = ring.socket(ours);
            assert_eq!(from.forward(&to, true), 10);
            drop(from);
            drop(to);
            while ring.descriptors() > 0 {
                ring.next_turn().await;
            }
            let mut got = Vec::new();
            peer.read_to_end(&mut got).expect("it ends cleanly");
            assert_eq!((&*got, ring.buffers_held()), (&b"last words"[..], 0));
        }
    });
}
