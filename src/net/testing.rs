//! Peers for tests.

use std::net::{TcpListener, TcpStream};

use super::Peer;
use crate::uring::Ring;

/// Returns both ends of a connection over loopback: ours, and the other one.
pub(crate) fn pair(ring: &Ring) -> (Peer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let other = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    other.set_nodelay(true).expect("a TCP socket");
    let (ours, _) = listener.accept().expect("connected above");
    ours.set_nonblocking(true).expect("an open socket");
    (Peer::plain(ring.socket(ours.into())), other)
}
