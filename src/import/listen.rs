//! Addresses of listeners. The other programs accept IPv4 and IPv6 on sockets of their own; ours may have both
//! on one.

/// Where a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// Every IPv4 address.
    AnyV4(u16),
    /// Every IPv6 address, and no IPv4 one.
    AnyV6(u16),
    /// Every address.
    Any(u16),
    /// One address, IPv6 without its brackets.
    At(String, u16),
    /// A Unix socket.
    Unix(String),
}

impl Accept {
    /// Returns what a host and a port stand for; an empty host and `*` are every IPv4 address.
    pub(super) fn new(host: &str, port: u16, both: bool) -> Self {
        match host.trim_start_matches('[').trim_end_matches(']') {
            "::" if both => Self::Any(port),
            "::" => Self::AnyV6(port),
            "" | "*" => Self::AnyV4(port),
            host => Self::At(host.to_owned(), port),
        }
    }

    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::AnyV4(port) | Self::AnyV6(port) | Self::Any(port) | Self::At(_, port) => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// Returns the address as the configuration has it, and what differs. Every IPv4 address becomes every
    /// address if no listener of `all` has IPv6 on that port.
    pub(super) fn written(&self, all: &[Self]) -> (String, Option<String>) {
        let in_the_way = |other: &&Self| match other {
            Self::AnyV6(_) => other.port() == self.port(),
            Self::At(host, _) => host.contains(':') && other.port() == self.port(),
            Self::AnyV4(_) | Self::Any(_) | Self::Unix(_) => false,
        };
        match self {
            Self::AnyV4(port) if all.iter().any(|other| in_the_way(&other)) => {
                (format!("0.0.0.0:{port}"), None)
            }
            Self::AnyV4(port) => {
                let differs = format!("accepts IPv6 too; `0.0.0.0:{port}` is IPv4 alone");
                (format!(":{port}"), Some(differs))
            }
            Self::AnyV6(port) => (format!("[::]:{port}"), None),
            Self::Any(port) => (format!(":{port}"), None),
            Self::At(host, port) if host.contains(':') => (format!("[{host}]:{port}"), None),
            Self::At(host, port) => (format!("{host}:{port}"), None),
            Self::Unix(path) => (format!("unix:{path}"), None),
        }
    }
}
