//! Listening sockets.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::options;
use crate::rules::config::{ListenAddress, TcpOptions};

/// The ring of a killed process closes its sockets 5-10 ms after the end of the process; so much longer is waited
/// before an address counts as taken.
const STALE_PATIENCE: Duration = Duration::from_secs(2);
const STALE_STEP: Duration = Duration::from_millis(10);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error(
        "{address} is in use; stop the process that listens there (`ss -ltnp` or `ss -lxp` names it), or choose another address"
    )]
    InUse {
        /// The address.
        address: String,
    },
    /// No right to.
    #[error(
        "no permission to listen on {address}; use a port from 1024 up, give the binary CAP_NET_BIND_SERVICE, or for a socket file a directory that this user can write to"
    )]
    Forbidden {
        /// The address.
        address: String,
    },
    /// Not an address of this machine.
    #[error("{address} is not an address of this machine; `ip address` lists those")]
    NotLocal {
        /// The address.
        address: String,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// The address.
        address: String,
        /// What the kernel said.
        error: io::Error,
    },
}

impl ListenError {
    fn new(address: &ListenAddress, error: io::Error) -> Self {
        let address = address.to_string();
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse { address },
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden { address },
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal { address },
            _ => Self::Other { address, error },
        }
    }
}

/// Makes sure that nobody listens on an address: with SO_REUSEPORT the kernel would share the connections
/// between a stale process and this one, and say nothing.
///
/// # Errors
///
/// The address is in use, forbidden or not of this machine.
pub fn check_unused(address: &ListenAddress) -> Result<(), ListenError> {
    let deadline = Instant::now() + STALE_PATIENCE;
    loop {
        let tried = match address {
            ListenAddress::Unix(path) => remove_stale_file(path),
            // Without SO_REUSEPORT, bind(2) refuses an address that somebody listens on.
            _ => tcp_socket(address).map(drop),
        };
        match tried {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && Instant::now() < deadline => {
                std::thread::sleep(STALE_STEP);
            }
            result => return result.map_err(|error| ListenError::new(address, error)),
        }
    }
}

/// Binds and listens; sockets for several shards share a TCP address.
///
/// The socket is in blocking mode, as the ring needs it.
///
/// # Errors
///
/// The address is in use, forbidden or not of this machine.
pub fn bind(address: &ListenAddress, backlog: u32, tcp: &TcpOptions) -> Result<OwnedFd, ListenError> {
    let bind = || {
        let socket = match address {
            ListenAddress::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.bind(&SockAddr::unix(path)?)?;
                socket
            }
            _ => {
                let socket = new_tcp_socket(address)?;
                socket.set_reuse_port(true)?;
                options::apply(SockRef::from(&socket), tcp)?;
                socket.bind(&SockAddr::from(socket_address(address)))?;
                socket
            }
        };
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    bind().map_err(|error| ListenError::new(address, error))
}

fn tcp_socket(address: &ListenAddress) -> io::Result<Socket> {
    let socket = new_tcp_socket(address)?;
    socket.bind(&SockAddr::from(socket_address(address)))?;
    Ok(socket)
}

fn new_tcp_socket(address: &ListenAddress) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(socket_address(address)), Type::STREAM, None)?;
    // Or a restart waits for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if let ListenAddress::Any { .. } = address {
        // One socket for both families; IPv4 clients appear as ::ffff:a.b.c.d, ipv6(7).
        socket.set_only_v6(false)?;
    } else if socket_address(address).is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn socket_address(address: &ListenAddress) -> SocketAddr {
    match address {
        ListenAddress::Any { port } if has_ipv6() => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
        ListenAddress::Any { port } => SocketAddr::from(([0, 0, 0, 0], *port)),
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Unix(path) => unreachable!("{} is no TCP address", path.display()),
    }
}

/// `ipv6.disable=1` takes the family away, and `":PORT"` then means IPv4 alone.
fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale_file(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("the path exists and is no socket; remove it or choose another"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}
