//! Rules 3 and 5: back-pressure, and what becomes of buffers.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::task::Poll;

use ringway::base::Tick;
use ringway::net::Peer;
use ringway::uring::{BufferSettings, End, Receive, Sent};

use crate::support::{SMALL, on_ring, tcp_pair};

/// Waits until the stream has ended and returns all of it.
async fn read_to_end(socket: &ringway::uring::Socket) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    loop {
        let end = socket.readable().await;
        bytes.extend(socket.take_received());
        if let Some(end) = end {
            return (bytes, end);
        }
    }
}

#[test]
fn bytes_arrive_whole_and_in_order_and_all_buffers_come_back() {
    let (ours, mut peer) = tcp_pair();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|index| (index ^ (index >> 8)) as u8).collect();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || {
        peer.write_all(&sent).expect("the ring reads");
        peer.shutdown(Shutdown::Write).expect("connected");
        peer
    });
    on_ring(SMALL, |ring| async move {
        let socket = ring.socket(ours);
        let (bytes, end) = read_to_end(&socket).await;
        assert_eq!(end, End::Clean);
        assert!(bytes == expected, "{} of {} bytes, or not the same", bytes.len(), expected.len());
        assert_eq!(ring.buffers_held(), 0);
    });
    writer.join().expect("no assertion failed");
}

/// Receives until so many bytes have come.
async fn receive(socket: &ringway::uring::Socket, bytes: usize) {
    std::future::poll_fn(|context| {
        socket.register(context.waker());
        socket.receive(Receive::Many);
        if socket.received() >= bytes { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn first_bytes_are_looked_at_and_dropped_wherever_they_lie() {
    let all: Vec<u8> = (0..20_000_u32).map(|index| (index ^ (index >> 8)) as u8).collect();
    // How many of them are received, and moved out of the provided buffers, before the others come.
    for spilled in [0, 1, 9_000, all.len()] {
        let ((ours, mut peer), (onward, mut end)) = (tcp_pair(), tcp_pair());
        let sent = all.clone();
        on_ring(SMALL, move |ring| async move {
            let (socket, onward) = (ring.socket(ours), ring.socket(onward));
            peer.write_all(&sent[..spilled]).expect("fits into the socket buffer");
            receive(&socket, spilled).await;
            socket.spill_received();
            assert_eq!(ring.buffers_held(), 0, "with {spilled} spilled");
            peer.write_all(&sent[spilled..]).expect("fits into the socket buffer");
            receive(&socket, sent.len()).await;
            assert!(spilled == sent.len() || ring.buffers_held() > 1, "they lie over several buffers");
            let mut gone = 0_usize;
            // Within a buffer, up to its end, over several, and none at all.
            for dropped in [0, 5, 4091, 9_000, 1, 0] {
                for most in [0, 1, 4096, 10_000, usize::MAX] {
                    let first = socket.peek_received(most);
                    let expected = &sent[gone..gone.saturating_add(most).min(sent.len())];
                    assert!(first == expected, "{most} bytes behind {gone} with {spilled} spilled");
                }
                socket.consume(dropped);
                gone += dropped;
                assert_eq!(socket.received(), sent.len() - gone);
            }
            // What is left goes on as if nothing else had been received.
            let mut left = sent.len() - gone;
            while left > 0 {
                left -= socket.forward(&onward, false) as usize;
                while !matches!(onward.sent(), Sent::Done { .. }) {
                    ring.next_turn().await;
                }
            }
            let mut rest = vec![0; sent.len() - gone];
            end.read_exact(&mut rest).expect("all of it was sent");
            assert!(rest == sent[gone..], "the rest with {spilled} spilled");
            assert_eq!(ring.buffers_held(), 0);
        });
    }
}

#[test]
fn dropping_all_received_bytes_gives_their_buffers_back() {
    let (ours, mut peer) = tcp_pair();
    on_ring(SMALL, |ring| async move {
        let socket = ring.socket(ours);
        for round in 0..3 {
            peer.write_all(&[round; 10_000]).expect("fits into the socket buffer");
            receive(&socket, 10_000).await;
            let held = ring.buffers_held();
            socket.consume(10);
            assert_eq!(ring.buffers_held(), held, "the rest stays where it is");
            socket.consume(9_990);
            assert_eq!((socket.received(), ring.buffers_held()), (0, 0));
            assert!(socket.peek_received(1).is_empty());
        }
    });
}

#[test]
fn receive_that_finds_no_buffer_goes_on_when_one_comes_back() {
    // Two buffers, four connections that all have bytes at once: one of them finds none.
    let tiny = BufferSettings { bytes: 4096, count: 2 };
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (one, mut peer) = tcp_pair();
        peer.write_all(&[7; 9_000]).expect("fits into the socket buffer");
        peer.shutdown(Shutdown::Write).expect("connected");
        ours.push(one);
        peers.push(peer);
    }
    on_ring(tiny, |ring| async move {
        let (done, all) = (Rc::new(Cell::new(0)), ours.len());
        for one in ours {
            let (socket, done) = (ring.socket(one), done.clone());
            ring.spawn(async move {
                let (bytes, end) = read_to_end(&socket).await;
                assert_eq!((bytes.len(), end), (9_000, End::Clean));
                done.set(done.get() + 1);
            });
        }
        while done.get() < all {
            ring.next_turn().await;
        }
        assert_eq!((ring.buffers_held(), ring.panics()), (0, 0));
    });
}

#[test]
fn sockets_that_are_gone_keep_no_buffer_from_one_that_waits() {
    const GONE: usize = 50;
    let tiny = BufferSettings { bytes: 4096, count: 2 };
    let (ours, mut peers): (Vec<_>, Vec<_>) = (0..2 + GONE + 1).map(|_| tcp_pair()).unzip();
    peers.iter_mut().for_each(|peer| peer.write_all(&[7; 4096]).expect("room in the socket buffer"));
    on_ring(tiny, |ring| async move {
        let mut holding: Vec<_> = ours.into_iter().map(|ours| ring.socket(ours)).collect();
        let mut starved = holding.split_off(2);
        for socket in &holding {
            assert_eq!(socket.readable().await, None);
        }
        starved.iter().for_each(|socket| socket.receive(Receive::One));
        ring.next_turn().await;
        assert!(starved.iter().all(|socket| socket.is_receiving() && socket.received() == 0));
        let waiting = starved.pop().expect("the last one");
        drop(starved);
        assert_eq!(holding[0].take_received().len(), 4096);
        // Nothing else happens on this ring, so a turn that hands the buffer to no socket would be the last
        // one.
        assert_eq!(waiting.readable().await, None);
    });
}

#[test]
fn multishot_receive_brings_no_more_than_its_bound() {
    let (ours, mut peer) = tcp_pair();
    let settings = BufferSettings { bytes: 4096, count: 256 };
    let writer = std::thread::spawn(move || {
        // Fails when the ring goes away without reading it all, as it should.
        let _ = peer.write_all(&vec![1; 8 << 20]);
    });
    on_ring(settings, |ring| async move {
        let socket = ring.socket(ours);
        socket.receive(Receive::Many);
        // Until the receive has ended by itself; then nothing more comes, though the peer has more.
        std::future::poll_fn(|context| {
            socket.register(context.waker());
            if socket.is_receiving() { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        for _ in 0..50 {
            ring.next_turn().await;
        }
        let received = socket.received();
        // The kernel compares after each piece, so the last one may go beyond by a buffer.
        assert!((1..=64 * 1024 + 4096).contains(&received), "{received} bytes received in one go");
        assert!(ring.buffers_held() <= 34, "{} buffers held", ring.buffers_held());
    });
    writer.join().expect("no assertion failed");
}

#[test]
fn single_bytes_do_not_hold_a_buffer_each() {
    let (ours, mut peer) = tcp_pair();
    peer.set_nodelay(true).expect("a TCP socket");
    let (go_on, told) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        for byte in 0..500_u32 {
            peer.write_all(&[byte as u8]).expect("the ring reads");
            told.recv().expect("the ring lives");
        }
        peer
    });
    on_ring(SMALL, |ring| async move {
        let socket = ring.socket(ours);
        for expected in 1..=500 {
            std::future::poll_fn(|context| {
                socket.register(context.waker());
                socket.receive(Receive::Many);
                if socket.received() == expected {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
            go_on.send(()).expect("the writer lives");
        }
        assert_eq!(ring.buffers_held(), 1);
        let bytes = socket.take_received();
        assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == index as u8));
    });
    writer.join().expect("no assertion failed");
}

#[test]
fn buffers_of_a_dropped_socket_come_back() {
    on_ring(SMALL, |ring| async move {
        for _ in 0..200 {
            let (ours, mut peer) = tcp_pair();
            peer.write_all(&[3; 20_000]).expect("fits into the socket buffer");
            let socket = ring.socket(ours);
            socket.receive(Receive::Many);
            // Dropped with the receive queued, with it in flight, and with bytes received.
            for _ in 0..ring.turn() % 3 {
                ring.next_turn().await;
            }
            drop(socket);
        }
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
        assert_eq!(ring.buffers_held(), 0);
    });
}

#[test]
fn blocked_send_keeps_its_bytes_until_the_peer_takes_them() {
    let (source, mut writer) = tcp_pair();
    let (sink, mut reader) = tcp_pair();
    let settings = BufferSettings { bytes: 16 << 10, count: 64 };
    let bytes: Vec<u8> =
        (0..24_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = bytes.clone();
    let feeder = std::thread::spawn(move || {
        writer.write_all(&bytes).expect("the ring reads");
        writer.shutdown(Shutdown::Write).expect("connected");
    });
    let (start_reading, told) = std::sync::mpsc::channel::<()>();
    let eater = std::thread::spawn(move || {
        told.recv().expect("the ring lives");
        let mut got = Vec::new();
        reader.read_to_end(&mut got).expect("the ring sends");
        assert!(got == expected, "{} of {} bytes, or not the same", got.len(), expected.len());
    });
    on_ring(settings, |ring| async move {
        use ringway::relay::{Outcome, Relay, RelayRules, Sides};
        let (source, sink) = (Peer::plain(ring.socket(source)), Peer::plain(ring.socket(sink)));
        let rules = RelayRules {
            client_idle: None,
            equal_idle: ringway::config::EqualIdle::Client,
            backend_idle: None,
            half_close: std::time::Duration::from_secs(60),
            client_keepalive: None,
            backend_keepalive: None,
            bandwidth: ringway::config::Bandwidth::default(),
            pipes: None,
        };
        let reuse = ringway::config::Reuse::Off;
        let sides = Sides { client: &source, backend: &sink, rules: &rules, reuse };
        let mut relay = Relay::new(sides, Tick::NEVER);
        // Goes on until both socket buffers are full and nothing moves any more.
        let mut still = 0;
        let mut last = 0;
        while still < 200 {
            std::future::poll_fn(|context| {
                let _ = relay.poll(sides, context);
                std::task::Poll::Ready(())
            })
            .await;
            still = if relay.bytes_to_backend() == last { still + 1 } else { 0 };
            last = relay.bytes_to_backend();
            ring.next_turn().await;
        }
        assert!(ring.buffers_held() <= 24, "{} buffers held by a blocked direction", ring.buffers_held());
        start_reading.send(()).expect("the reader lives");
        let outcome = std::future::poll_fn(|context| relay.poll(sides, context)).await;
        assert_eq!(outcome, Outcome::Normal);
        assert_eq!(ring.buffers_held(), 0);
    });
    feeder.join().expect("no assertion failed");
    eater.join().expect("no assertion failed");
}
