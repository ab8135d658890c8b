//! The addresses that connections are made to.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address that a connection can be made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns whether a connection to this address has `peer` at its other end.
    #[must_use]
    pub fn leads_to(&self, peer: &Self) -> bool {
        match (self, peer) {
            // On Linux, connecting to the unspecified address reaches this machine, connect(2).
            (Self::Tcp(address), Self::Tcp(peer)) => {
                address == peer || address.ip().is_unspecified() && address.port() == peer.port()
            }
            // The socket may be bound under another name of the same file.
            (Self::Unix(_), Self::Unix(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}
