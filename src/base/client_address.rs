//! The address of a client, as all records show it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An IP address with a port, or a Unix socket, in 20 bytes: each open session keeps one. An IPv4 client of a
/// dual-stack listener is the IPv4 client that it is elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// `None` for a client of a Unix socket.
    ip: Option<IpAddr>,
    port: u16,
}

impl ClientAddress {
    /// A client of a Unix socket, which has no address.
    pub const UNIX: Self = Self { ip: None, port: 0 };

    /// Returns the IP address; `None` for a client of a Unix socket.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.ip
    }

    /// Returns address and port; `None` for a client of a Unix socket.
    #[must_use]
    pub fn socket_address(self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Returns the port, 0 for a client of a Unix socket.
    #[must_use]
    pub fn port(self) -> u16 {
        self.port
    }
}

impl From<Option<SocketAddr>> for ClientAddress {
    fn from(peer: Option<SocketAddr>) -> Self {
        peer.map_or(Self::UNIX, |peer| Self { ip: Some(peer.ip().to_canonical()), port: peer.port() })
    }
}

impl fmt::Display for ClientAddress {
    /// Writes `192.0.2.7:40112`, `[2001:db8::7]:40112` or `unix:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => f.write_str("unix:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_client_is_an_ipv4_client() {
        let of = |text: &str| ClientAddress::from(Some(text.parse::<SocketAddr>().unwrap())).to_string();
        assert_eq!(of("[::ffff:192.0.2.7]:80"), "192.0.2.7:80");
        assert_eq!(of("[2001:db8::7]:80"), "[2001:db8::7]:80");
        assert_eq!(ClientAddress::from(None).to_string(), "unix:");
        assert_eq!(size_of::<ClientAddress>(), 20);
    }
}
