//! Sockets for backend connections.

use std::io;
use std::os::fd::OwnedFd;

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

/// Whether a connection failed for want of something of our own (descriptors, ports, memory): no fault of the backend.
#[must_use]
pub fn is_local_failure(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EADDRINUSE)
    )
}
