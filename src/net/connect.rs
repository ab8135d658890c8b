//! Sockets for backend connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::options;
use crate::base::{Address, LocalEnd, PortRange};
use crate::config::TcpOptions;

/// Returns a new socket for a connection to a backend, and the address to connect it to. With a local address, the
/// connection comes from there, and connect(2) chooses the port: if bind(2) chose it, each port of the address would
/// serve one connection, whatever its destination (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
///
/// The socket is in non-blocking mode.
///
/// # Errors
///
/// socket(2), setsockopt(2), bind(2): `EADDRNOTAVAIL` for an address that does not belong to this machine. A
/// path that does not fit into `sun_path` (107 bytes, unix(7)).
pub fn socket_for(address: &Address, tcp: &TcpOptions, local: LocalEnd) -> io::Result<(OwnedFd, SockAddr)> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking(), None)?;
            options::apply(SockRef::from(&socket), tcp)?;
            if let Some(ports) = local.ports {
                options::set_local_ports(SockRef::from(&socket), ports)?;
            }
            if let Some(ip) = local.ip {
                options::bind_without_port(SockRef::from(&socket))?;
                socket.bind(&SocketAddr::new(ip, 0).into())?;
            }
            Ok((socket.into(), SockAddr::from(*address)))
        }
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            Ok((socket.into(), SockAddr::unix(path)?))
        }
    }
}

/// Begins to connect, and has the first bytes go out with the SYN if the backend has allowed that before
/// (`MSG_FASTOPEN`, tcp(7)). Returns how many of them are on their way; they are delivered once the connection is there.
/// It is, or has failed, when the socket is writable: see [`is_connected`]. Returns `None` if nothing has begun because the
/// system has it switched off.
///
/// # Errors
///
/// connect(2).
pub fn connect_with_first_bytes(
    socket: SockRef<'_>,
    target: &SockAddr,
    bytes: &[u8],
) -> io::Result<Option<usize>> {
    let flags = libc::MSG_FASTOPEN | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    match socket.send_to_with_flags(bytes, target, flags) {
        // The backend has not allowed it yet, and is asked to.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Some(0)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        sent => sent.map(Some),
    }
}

/// Returns whether a socket that was writable is connected; it may have been so for another reason.
///
/// # Errors
///
/// Why the connect has failed.
pub fn is_connected(socket: SockRef<'_>) -> io::Result<bool> {
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.peer_addr().is_ok()),
    }
}

/// Returns whether a new connection leads back to itself. A connect to a local port of the ephemeral range on
/// which no process listens can be given that very port as its source, and TCP then connects the socket to
/// itself (RFC 9293, 3.5: simultaneous open). Such a backend is down, not an echo server.
#[must_use]
pub fn is_self_connected(socket: SockRef<'_>, peer: &Address) -> bool {
    let Address::Tcp(peer) = peer else { return false };
    EPHEMERAL_PORTS.contains(peer.port())
        && socket.local_addr().is_ok_and(|local| local.as_socket() == Some(*peer))
}

/// Returns the address of our end of a connection, if it has an IP address.
#[must_use]
pub fn local_address(socket: SockRef<'_>) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

/// Returns the address that a connection leads to.
#[must_use]
pub fn peer_address(socket: SockRef<'_>) -> Option<Address> {
    let peer = socket.peer_addr().ok()?;
    let path = || peer.as_pathname().map(|path| Address::Unix(path.to_owned()));
    peer.as_socket().map(Address::Tcp).or_else(path)
}

/// Ports that the kernel gives to outgoing connections. For backends on any other port the local address need
/// not be looked up.
static EPHEMERAL_PORTS: LazyLock<PortRange> =
    LazyLock::new(|| local_ports().unwrap_or(PortRange { first: 1, last: u16::MAX }));

/// Reads which ports the kernel gives to outgoing connections (`ip_local_port_range`, ip(7)); `None` where it does not say
/// so.
#[must_use]
pub fn local_ports() -> Option<PortRange> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let ports: Vec<u16> = text.split_whitespace().map_while(|port| port.parse().ok()).collect();
    let [first, last] = ports[..] else { return None };
    (first <= last).then_some(PortRange { first, last })
}

/// Reads what connecting needs to know about the system, so that no shard reads a file.
pub fn prepare() {
    LazyLock::force(&EPHEMERAL_PORTS);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// A port chosen by bind(2) would serve one connection, whatever its destination.
    #[test]
    fn port_of_a_source_is_chosen_by_the_connect() {
        let tcp = TcpOptions::BARE;
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().expect("an address");
            let listener = std::net::TcpListener::bind((ip, 0)).expect("loopback");
            let address = Address::Tcp(listener.local_addr().expect("bound"));
            let local = LocalEnd { ip: Some(ip), ports: None };
            let (socket, target) = socket_for(&address, &tcp, local).expect("a local address");
            let local = || SockRef::from(&socket).local_addr().expect("bound").as_socket().expect("TCP");
            assert_eq!(local(), SocketAddr::new(ip, 0));
            let begun = SockRef::from(&socket).connect(&target);
            let goes_on = |error: io::Error| error.raw_os_error() == Some(libc::EINPROGRESS);
            assert!(begun.map_or_else(goes_on, |()| true), "it listens");
            assert!(local().ip() == ip && local().port() > 0);
        }
    }
}
