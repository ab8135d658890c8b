//! Rules 4 and 5: a descriptor outlives every operation that names it, and no socket meets a stranger's
//! bytes.

use std::io::{Read, Write};
use std::net::Shutdown;

use ringway::uring::{Receive, Sent};

use crate::support::{SMALL, has_descriptors, on_ring, tcp_pair};

#[test]
fn queued_send_of_a_dropped_socket_reaches_no_other() {
    on_ring(SMALL, |ring| async move {
        for round in 0..300_u32 {
            let (old, mut old_peer) = tcp_pair();
            let socket = ring.socket(old);
            // Queued, not yet submitted, when the handle goes and the number could be given out again.
            socket.send(vec![0xEE; 64]);
            drop(socket);
            let (new, mut new_peer) = tcp_pair();
            let socket = ring.socket(new);
            socket.send(format!("{round:08}").into_bytes());
            while matches!(socket.sent(), Sent::Busy { .. }) {
                ring.next_turn().await;
            }
            socket.shutdown_write().expect("connected");
            let mut got = String::new();
            new_peer.read_to_string(&mut got).expect("text of ours alone");
            assert_eq!(got, format!("{round:08}"));
            drop((socket, new_peer));
            let mut rest = Vec::new();
            let _ = old_peer.read_to_end(&mut rest);
            assert!(rest.iter().all(|byte| *byte == 0xEE), "the old peer got {rest:?}");
        }
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
    });
}

#[test]
fn number_of_a_dropped_socket_is_kept_while_an_operation_names_it() {
    use std::os::fd::AsRawFd;
    on_ring(SMALL, |ring| async move {
        let (ours, _peer) = tcp_pair();
        let number = ours.as_raw_fd();
        let socket = ring.socket(ours);
        socket.receive(Receive::One);
        ring.next_turn().await;
        drop(socket);
        // The cancel is queued: the descriptor is still open.
        assert!(std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
    });
}

#[test]
fn peer_of_a_dropped_socket_gets_its_end_at_once() {
    on_ring(SMALL, |ring| async move {
        let (ours, mut peer) = tcp_pair();
        let socket = ring.socket(ours);
        // A receive in flight holds a reference to the connection: without a cancel the FIN would wait for
        // it.
        socket.receive(Receive::Many);
        ring.next_turn().await;
        drop(socket);
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
        let mut rest = Vec::new();
        assert_eq!(peer.read_to_end(&mut rest).expect("FIN, no reset"), 0);
    });
}

#[test]
fn late_completions_of_a_closed_socket_do_not_reach_its_successor() {
    on_ring(SMALL, |ring| async move {
        for _ in 0..300 {
            let (ours, mut peer) = tcp_pair();
            let socket = ring.socket(ours);
            socket.receive(Receive::Many);
            ring.next_turn().await;
            peer.write_all(b"for the old one").expect("connected");
            drop(socket);
            // Takes the slot of the old one as soon as that is free.
            let (ours, mut peer) = tcp_pair();
            let socket = ring.socket(ours);
            peer.write_all(b"new").expect("connected");
            peer.shutdown(Shutdown::Write).expect("connected");
            let mut got = Vec::new();
            while socket.readable().await.is_none() {
                got.extend(socket.take_received());
            }
            assert_eq!(got, b"new");
        }
    });
}

#[test]
fn more_operations_than_the_submission_queue_holds_all_complete() {
    if !has_descriptors(4_000) {
        return;
    }
    on_ring(SMALL, |ring| async move {
        let pairs: Vec<_> = (0..1_500).map(|_| tcp_pair()).collect();
        let (sockets, mut peers): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|(ours, peer)| (ring.socket(ours), peer)).unzip();
        // 3,000 entries in one turn, for a queue of 512.
        for (index, socket) in sockets.iter().enumerate() {
            socket.receive(Receive::Many);
            socket.send((index as u32).to_ne_bytes().to_vec());
        }
        for socket in &sockets {
            while matches!(socket.sent(), Sent::Busy { .. }) {
                ring.next_turn().await;
            }
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            let mut got = [0; 4];
            peer.read_exact(&mut got).expect("four bytes");
            assert_eq!(u32::from_ne_bytes(got), index as u32);
        }
    });
}
