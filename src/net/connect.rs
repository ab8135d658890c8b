//! Sockets for backend connections.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::options;
use crate::rules::config::TcpOptions;
use crate::rules::upstream::Address;

/// A new socket for a connection to a backend, and the address to connect it to.
///
/// It is in blocking mode, as the ring needs it.
///
/// # Errors
///
/// socket(2), setsockopt(2); a path that does not fit into `sun_path` (107 bytes, unix(7)).
pub fn socket_for(address: &Address, tcp: &TcpOptions) -> io::Result<(OwnedFd, SockAddr)> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            options::apply(SockRef::from(&socket), tcp)?;
            Ok((socket.into(), SockAddr::from(*address)))
        }
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            Ok((socket.into(), SockAddr::unix(path)?))
        }
    }
}

/// Whether a new connection leads back to itself: a connect to a local port of the ephemeral range on which nobody
/// listens can be given that very port as its source, and TCP then connects the socket to itself (RFC 9293, 3.5:
/// simultaneous open). Such a backend is down, not an echo server.
#[must_use]
pub fn is_self_connected(socket: SockRef<'_>, peer: &Address) -> bool {
    let Address::Tcp(peer) = peer else { return false };
    EPHEMERAL_PORTS.contains(&peer.port())
        && socket.local_addr().is_ok_and(|local| local.as_socket() == Some(*peer))
}

/// Ports the kernel gives to outgoing connections; spares all other backends the look at the local address.
static EPHEMERAL_PORTS: LazyLock<RangeInclusive<u16>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
    ports.next().unwrap_or(1)..=ports.next().unwrap_or(u16::MAX)
});

/// Reads what connecting needs to know of the system, so that no shard reads a file.
pub fn prepare() {
    LazyLock::force(&EPHEMERAL_PORTS);
}

/// Whether a connection failed for want of something of our own (descriptors, ports, memory): no fault of the backend.
#[must_use]
pub fn is_local_failure(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EADDRINUSE)
    )
}
