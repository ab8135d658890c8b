//! Peers for tests.

use std::net::TcpStream;

use super::Peer;
use crate::uring::{Ring, testing};

/// Returns both ends of a connection over loopback: ours, and the other one.
pub(crate) fn pair(ring: &Ring) -> (Peer, TcpStream) {
    let (ours, other) = testing::pair(ring);
    (Peer::plain(ours), other)
}
